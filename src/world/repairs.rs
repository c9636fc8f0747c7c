//! Repairs: what can't have happened to an object is passed over from then on, and the object is whole again.
//!
//! A repair is an event of the object, which names the others. Nothing is taken out of the log. Here they are looked up.

use std::collections::{BTreeMap, BTreeSet};

use super::{aggregate::Kind, error::WorldError, event::WorldEvent};
use crate::{
    event::{AggregateId, Position, RecordedEvent, SequenceNumber},
    index::Direction,
    log::Tip,
    store::{EventStore, Filter, LoadRequest, OrderStart, StoreError},
};

/// Events that are read at a time.
const READ_BYTES: usize = 256 * 1024;

/// The events of one object that repairs pass over.
///
/// # Errors
/// The log can't be read.
pub fn of(store: &EventStore, id: &AggregateId) -> Result<BTreeSet<SequenceNumber>, WorldError> {
    let mut reader = store.load(LoadRequest {
        aggregate_id: id.clone(),
        from: SequenceNumber(1),
        to: SequenceNumber(0),
        recorded_until: None,
        snapshot_schema: None,
        direction: Direction::Forwards,
        limit: 0,
    })?;
    let mut passed_over = BTreeSet::new();
    loop {
        let events = reader.next(READ_BYTES)?;
        if events.is_empty() {
            return Ok(passed_over);
        }
        let repairs = events.iter().filter(|event| event.event_type() == WorldEvent::REPAIRED.as_bytes());
        for repair in repairs.filter_map(|event| event.decode().ok()) {
            passed_over.extend(named_by(&repair));
        }
    }
}

fn named_by(repair: &RecordedEvent) -> impl Iterator<Item = SequenceNumber> + use<> {
    let named = match WorldEvent::read(repair) {
        Ok(WorldEvent::ObjectRepaired { passed_over, .. }) => passed_over,
        _ => Vec::new(),
    };
    // Only what came before it.
    let own = repair.sequence;
    named.into_iter().map(SequenceNumber).filter(move |named| *named < own)
}

/// The events of all objects that some repairs pass over.
#[derive(Debug, Default)]
pub struct PassedOver(BTreeMap<AggregateId, BTreeSet<SequenceNumber>>);

impl PassedOver {
    /// By the repairs behind a start, up to a position.
    ///
    /// # Errors
    /// The log can't be read, or goes on otherwise.
    pub fn by_repairs(
        store: &EventStore,
        start: OrderStart,
        (until, tip): (Position, Tip),
    ) -> Result<Self, StoreError> {
        let filter = Filter {
            aggregate_types: Kind::ALL.iter().map(|kind| kind.name().as_bytes().to_vec()).collect(),
            event_types: [WorldEvent::REPAIRED.as_bytes().to_vec()].into(),
            ..Filter::default()
        };
        let mut reader = store.read(start, filter)?;
        let mut all = Self::default();
        loop {
            let chunk = reader.next(tip, READ_BYTES)?;
            let repairs = chunk.events.iter().filter(|event| event.position <= until);
            for repair in repairs.filter_map(|event| event.decode().ok()) {
                let its = all.0.entry(repair.event.aggregate_id.clone()).or_default();
                its.extend(named_by(&repair));
            }
            if chunk.at_end || chunk.reached >= until {
                return Ok(all);
            }
        }
    }

    /// Whether an event is a repair, and names something.
    pub fn is_repair(event: &RecordedEvent) -> bool {
        &*event.event.event_type == WorldEvent::REPAIRED
            && Kind::of(&event.event.aggregate_type).is_some()
            && named_by(event).next().is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn names(&self, event: &RecordedEvent) -> bool {
        self.0.get(&event.event.aggregate_id).is_some_and(|its| its.contains(&event.sequence))
    }
}
