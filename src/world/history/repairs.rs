//! Looks up repairs. A repair excludes the invalid events of an object from replay, which makes the
//! object intact again.
//!
//! A repair is itself an event of the object, and names the events that it excludes. Nothing is
//! removed from the log. Writing repairs is left to the commands.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::StoreError,
    event::{AggregateId, Position, RecordedEvent, SequenceNumber},
    store::{EventStore, Filter, LoadRequest, OrderStart, Tip},
    world::{
        error::WorldError,
        model::{aggregate::Kind, event::WorldEvent},
    },
};

/// The size of the events read at a time.
const READ_BYTES: usize = 256 * 1024;

/// Returns the events of one object that repairs exclude.
///
/// # Errors
/// Returns an error if the log cannot be read.
pub fn of(store: &EventStore, id: &AggregateId) -> Result<BTreeSet<SequenceNumber>, WorldError> {
    let mut reader = store.load(LoadRequest::all_of(id.clone()))?;
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
    // A repair can only exclude events before it.
    let own = repair.sequence;
    named.into_iter().map(SequenceNumber).filter(move |named| *named < own)
}

/// The events of all objects that a range of repairs excludes.
#[derive(Debug, Default)]
pub struct ExcludedEvents(BTreeMap<AggregateId, BTreeSet<SequenceNumber>>);

impl ExcludedEvents {
    /// Collects the events excluded by the repairs from `start` up to a position.
    ///
    /// # Errors
    /// Returns an error if the log cannot be read, or if it does not continue the history of
    /// `start`.
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

    /// Returns whether an event is a repair that excludes at least one event.
    pub fn is_repair(event: &RecordedEvent) -> bool {
        &*event.event.event_type == WorldEvent::REPAIRED
            && Kind::of(&event.event.aggregate_type).is_some()
            && named_by(event).next().is_some()
    }

    /// Returns whether no event is excluded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether an event is excluded.
    pub fn names(&self, event: &RecordedEvent) -> bool {
        self.0.get(&event.event.aggregate_id).is_some_and(|its| its.contains(&event.sequence))
    }
}
