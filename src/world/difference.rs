//! What changed in the world between two moments.

use std::collections::BTreeSet;

use super::{
    aggregate::Kind,
    changes::{self, Change},
    error::WorldError,
    replay::{self, Moment},
};
use crate::{
    event::{AggregateId, Position, SequenceNumber, Timestamp},
    store::{EventStore, Filter, OrderStart, StoreError},
};

/// The most objects that one difference may have.
const OBJECTS_MAX: usize = 100_000;

const READ_BYTES: usize = 1024 * 1024;

/// A moment of the whole world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorldMoment {
    /// After the event at this position.
    Position(Position),
    /// After all that was recorded until then.
    Time(Timestamp),
    Now,
}

/// One object that is not as it was.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectDiff {
    pub id: AggregateId,
    pub kind: Kind,
    pub created: bool,
    pub deleted: bool,
    pub changes: Vec<Change>,
    pub from: SequenceNumber,
    pub to: SequenceNumber,
}

/// The objects that had events between two positions, and how far they were looked at.
#[derive(Debug)]
pub struct DifferenceReader {
    from: Position,
    to: Position,
    left: std::vec::IntoIter<AggregateId>,
}

impl DifferenceReader {
    /// Between what is after `from` and what is after `to`.
    ///
    /// # Errors
    /// Too many objects changed.
    pub fn open(store: &EventStore, from: WorldMoment, to: WorldMoment) -> Result<Self, WorldError> {
        let (from, to) = (position(store, from)?, position(store, to)?);
        if from > to {
            return Err(StoreError::invalid("from", "is later than to").into());
        }
        let tip = store.sequencer().tip();
        let types = Kind::ALL.iter().map(|kind| kind.name().as_bytes().to_vec()).collect();
        let filter = Filter { aggregate_types: types, ..Filter::default() };
        let mut reader = store.read(OrderStart::At(from.next()), filter)?;
        let mut changed = BTreeSet::new();
        while reader.reached() < to {
            let chunk = reader.next(tip, READ_BYTES)?;
            for event in chunk.events.iter().filter(|event| event.position <= to) {
                let id = event.aggregate().map_err(|error| StoreError::Damaged(error.to_string()))?;
                changed.insert(id);
                if changed.len() > OBJECTS_MAX {
                    return Err(WorldError::TooMany {
                        what: "objects that changed",
                        max: OBJECTS_MAX as u64,
                    });
                }
            }
            if chunk.at_end {
                break;
            }
        }
        Ok(Self { from, to, left: changed.into_iter().collect::<Vec<_>>().into_iter() })
    }

    /// The next object that differs. One that changed and changed back does not.
    ///
    /// # Errors
    /// A history is damaged.
    pub fn next(&mut self, store: &EventStore) -> Result<Option<ObjectDiff>, WorldError> {
        for id in self.left.by_ref() {
            let before = replay::load(store, &id, Moment::Position(self.from))?;
            let Some(after) = replay::load(store, &id, Moment::Position(self.to))? else { continue };
            let was = before.as_ref().map(|before| &before.aggregate);
            let changes = changes::between(was, Some(&after.aggregate));
            let was_there = was.is_some_and(|was| !was.object().deleted);
            let is_there = !after.aggregate.object().deleted;
            if changes.is_empty() || (was.is_none() && !is_there) {
                continue;
            }
            return Ok(Some(ObjectDiff {
                kind: after.aggregate.kind(),
                created: !was_there && is_there,
                deleted: was_there && !is_there,
                changes,
                from: SequenceNumber(before.map_or(0, |before| before.sequence)),
                to: SequenceNumber(after.sequence),
                id,
            }));
        }
        Ok(None)
    }
}

/// The last position that belongs to the moment.
fn position(store: &EventStore, moment: WorldMoment) -> Result<Position, WorldError> {
    let last = store.sequencer().tip().position;
    match moment {
        WorldMoment::Now => Ok(last),
        WorldMoment::Position(position) => Ok(position.min(last)),
        WorldMoment::Time(time) => recorded_until(store, time, last),
    }
}

/// The last event that was recorded until then. Times never run backwards, so it is found by halving.
fn recorded_until(store: &EventStore, time: Timestamp, last: Position) -> Result<Position, WorldError> {
    let tip = store.sequencer().tip();
    let (mut known, mut beyond) = (0u64, last.0.saturating_add(1));
    while known.saturating_add(1) < beyond {
        let middle = known.midpoint(beyond);
        let chunk = store.read(OrderStart::At(Position(middle)), Filter::default())?.next(tip, 1)?;
        match chunk.events.first().is_some_and(|event| event.recorded_at <= time) {
            true => known = middle,
            false => beyond = middle,
        }
    }
    Ok(Position(known))
}
