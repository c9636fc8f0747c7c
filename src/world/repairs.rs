//! Repairs: what can't have happened to an object is passed over from then on, and the object is whole again.
//!
//! A repair is an event of the object, which names the others. Nothing is taken out of the log.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    aggregate::Kind,
    command::{ACTOR, COMMAND},
    error::WorldError,
    event::WorldEvent,
    refusal::Refusal,
    replay::{self, Life, Misfits, Source},
};
use crate::{
    event::{AggregateId, Content, ContentDigest, EventId, NewEvent, RecordedEvent, SequenceNumber},
    index::Direction,
    log::Tip,
    sequencer::Append,
    store::{Conflict, EventStore, Filter, LoadRequest, OrderStart, StoreError},
};

/// What was asked for, as the event's metadata name it.
const REBUILD: &str = "RebuildWorldState";

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
    let named = match replay::read(repair) {
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
    /// By the repairs behind a position.
    ///
    /// # Errors
    /// The log can't be read, or goes on otherwise.
    pub fn by_repairs_behind(store: &EventStore, start: OrderStart, tip: Tip) -> Result<Self, StoreError> {
        let filter = Filter {
            aggregate_types: Kind::ALL.iter().map(|kind| kind.name().as_bytes().to_vec()).collect(),
            event_types: [WorldEvent::REPAIRED.as_bytes().to_vec()].into(),
            ..Filter::default()
        };
        let mut reader = store.read(start, filter)?;
        let mut all = Self::default();
        loop {
            let chunk = reader.next(tip, READ_BYTES)?;
            for repair in chunk.events.iter().filter_map(|event| event.decode().ok()) {
                let its = all.0.entry(repair.event.aggregate_id.clone()).or_default();
                its.extend(named_by(&repair));
            }
            if chunk.at_end {
                return Ok(all);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn names(&self, event: &RecordedEvent) -> bool {
        self.0.get(&event.event.aggregate_id).is_some_and(|its| its.contains(&event.sequence))
    }
}

/// Has all events of an object passed over that can't have happened to it. Gives what they are; none: it is whole.
///
/// # Errors
/// There is no such object, or the log can't be read or written.
pub async fn repair(source: &Source, id: &AggregateId, actor: &str) -> Result<Misfits, WorldError> {
    const TRIES_MAX: usize = 10;
    for _ in 0..TRIES_MAX {
        let (reading, its) = (source.clone(), id.clone());
        let looked = tokio::task::spawn_blocking(move || misfits(&reading, &its)).await;
        let aborted = |_| Err(StoreError::Damaged("a look at an object was aborted".to_owned()).into());
        let (kind, last, misfits) = looked.unwrap_or_else(aborted)?;
        if misfits.is_empty() {
            return Ok(misfits);
        }
        let event = event(id, kind, &misfits, actor)?;
        let digest = ContentDigest::of(&event);
        let append = Append { events: vec![(event, digest)], expected: vec![(id.clone(), last)] };
        match source.store.append(append).await {
            Ok(_) => return Ok(misfits),
            // It went on meanwhile.
            Err(StoreError::Conflict(Conflict::WrongExpectedSequence { .. })) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(WorldError::Contention)
}

/// What an object is, its last event, and those that can't have happened and are not passed over yet.
fn misfits(source: &Source, id: &AggregateId) -> Result<(Kind, SequenceNumber, Misfits), WorldError> {
    let kind = match replay::kind(&source.store, id)? {
        Some(Some(kind)) => kind,
        Some(None) => return Err(Refusal::Foreign(id.clone()).into()),
        None => return Err(Refusal::NoSuchObject(id.clone()).into()),
    };
    let mut life = Life::of_all(kind);
    replay::live(&source.store, id, &mut life)?;
    let last = life.last();
    Ok((kind, last, life.into_misfits()))
}

fn event(id: &AggregateId, kind: Kind, misfits: &Misfits, actor: &str) -> Result<NewEvent, WorldError> {
    /// So many are said to be what they are.
    const BECAUSE_MAX: usize = 10;
    let said = misfits.iter().take(BECAUSE_MAX).map(|(at, problem)| format!("event {at}: {problem}"));
    let mut because: Vec<String> = said.collect();
    if let Some(more) = misfits.len().checked_sub(BECAUSE_MAX).filter(|more| *more > 0) {
        because.push(format!("and {more} more"));
    }
    let repaired = WorldEvent::ObjectRepaired {
        passed_over: misfits.iter().map(|(at, _)| at.0).collect(),
        because: because.join("; "),
        actor: actor.to_owned(),
    };
    let unwritable = |error: super::event::EventError| StoreError::invalid("repair", error.to_string());
    let (event_type, data) = repaired.encode().map_err(unwritable)?;
    let mut metadata = BTreeMap::from([(COMMAND.to_owned(), REBUILD.to_owned())]);
    if !actor.is_empty() {
        metadata.insert(ACTOR.to_owned(), actor.to_owned());
    }
    Ok(NewEvent {
        id: EventId::random(),
        aggregate_id: id.clone(),
        aggregate_type: kind.name().into(),
        event_type: event_type.into(),
        content: Content::Json(data),
        correlation_id: String::new(),
        causation_id: String::new(),
        metadata,
        occurred_at: None,
    })
}
