//! What changed in the world between two moments.
//!
//! The events between them say which objects changed, and from which of its events to which; then each is looked at,
//! one after the other, as fast as the answer is read. Until then the names are held as closely packed bytes
//! ([`touched`]), which all differences together may have only so many of.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    aggregate::Kind,
    changes::{self, Change},
    error::WorldError,
    replay::{self, Moment, Source},
};
use crate::{
    event::{AggregateId, Position, SequenceNumber, Timestamp},
    log::Tip,
    shared_limit::{Caller, SharedLimit},
    store::{EventStore, Filter, OrderReader, OrderStart, StoreError},
};

mod touched;

use touched::{Touched, TouchedObject};

/// What all differences that are under way may hold of the names of objects.
pub const HELD_BYTES_MAX: u64 = 64 * 1024 * 1024;

const READ_BYTES: usize = 256 * 1024;

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
    /// Its history is damaged, and what changed is not known.
    pub problem: Option<String>,
}

/// The objects that had events between two positions, and how far they were looked at.
#[derive(Debug)]
pub struct DifferenceReader {
    to: Position,
    /// While it is not known which they are.
    collecting: Option<OrderReader>,
    tip: Tip,
    touched: Touched,
}

impl DifferenceReader {
    /// Between what is after `from` and what is after `to`. `limit` is that of the bytes of all.
    ///
    /// # Errors
    /// They are the wrong way round, or nothing can be read.
    pub fn open(
        store: &EventStore,
        from: WorldMoment,
        to: WorldMoment,
        (limit, caller): (&Arc<SharedLimit>, &Caller),
    ) -> Result<Self, WorldError> {
        // One moment is now for all of it.
        let tip = store.sequencer().tip();
        let (from, to) = (position(store, from, tip)?, position(store, to, tip)?);
        if from > to {
            return Err(StoreError::invalid("from", "is later than to").into());
        }
        let types = Kind::ALL.iter().map(|kind| kind.name().as_bytes().to_vec()).collect();
        let filter = Filter { aggregate_types: types, ..Filter::default() };
        let collecting = Some(store.read(OrderStart::At(from.next()), filter)?);
        Ok(Self { to, collecting, tip, touched: Touched::new(limit, caller) })
    }

    /// It is known which objects had events.
    pub fn is_ready(&self) -> bool {
        self.collecting.is_none()
    }

    /// Looks at some more events for the objects that had some.
    ///
    /// # Errors
    /// Too many objects changed, too much is held already, or the log is damaged.
    pub fn collect(&mut self) -> Result<(), WorldError> {
        let Some(reader) = &mut self.collecting else { return Ok(()) };
        let chunk = reader.next(self.tip, READ_BYTES)?;
        for event in chunk.events.iter().filter(|event| event.position <= self.to) {
            let Some(kind) = std::str::from_utf8(event.aggregate_type()).ok().and_then(Kind::of) else {
                continue;
            };
            self.touched.add(event.aggregate_id(), kind, event.sequence)?;
        }
        if chunk.at_end || chunk.reached >= self.to {
            self.collecting = None;
            self.touched.count()?;
        }
        Ok(())
    }

    /// All objects that had events were looked at.
    pub fn is_at_end(&self) -> bool {
        self.is_ready() && self.touched.is_empty()
    }

    /// Looks at the next object that had events; nothing where it is as it was, or there is none.
    ///
    /// # Errors
    /// Something can't be read.
    pub fn look(
        &mut self,
        source: &Source,
        given_up: &CancellationToken,
    ) -> Result<Option<ObjectDiff>, WorldError> {
        let Some(TouchedObject { id, kind, first, last }) = self.touched.next() else { return Ok(None) };
        let id = AggregateId::new(&id).map_err(|error| StoreError::Damaged(error.to_string()))?;
        let problem = match differs(source, &id, kind, (first, last), given_up) {
            Err(WorldError::Damaged(damage)) => damage.to_string(),
            Err(WorldError::Store(error @ StoreError::Damaged(_))) => error.to_string(),
            Err(WorldError::Refused { refusal, .. }) => refusal.to_string(),
            looked => return looked,
        };
        Ok(Some(ObjectDiff {
            id,
            kind,
            created: false,
            deleted: false,
            changes: Vec::new(),
            from: SequenceNumber(0),
            to: SequenceNumber(0),
            problem: Some(problem),
        }))
    }
}

/// What the events from one number to another changed. They alone are replayed, behind the state before them.
fn differs(
    source: &Source,
    id: &AggregateId,
    kind: Kind,
    (first, last): (SequenceNumber, SequenceNumber),
    given_up: &CancellationToken,
) -> Result<Option<ObjectDiff>, WorldError> {
    let from = SequenceNumber(first.0.saturating_sub(1));
    let before = replay::load_unless(source, id, Moment::Sequence(from), given_up)?;
    let after = replay::go_on(&source.store, id, kind, before.clone(), last, given_up)?;
    let was = before.as_ref().map(|before| &before.aggregate);
    // Nothing may be left of it, after a repair.
    let is = after.as_ref().map(|after| &after.aggregate);
    let changes = changes::between(was, is);
    let was_there = was.is_some_and(|was| !was.object().deleted);
    let is_there = is.is_some_and(|is| !is.object().deleted);
    if changes.is_empty() || (was.is_none() && !is_there) {
        return Ok(None);
    }
    Ok(Some(ObjectDiff {
        id: id.clone(),
        kind,
        created: !was_there && is_there,
        deleted: was_there && !is_there,
        changes,
        from,
        to: last,
        problem: None,
    }))
}

/// The last position that belongs to the moment.
fn position(store: &EventStore, moment: WorldMoment, tip: Tip) -> Result<Position, WorldError> {
    match moment {
        WorldMoment::Now => Ok(tip.position),
        WorldMoment::Position(position) => Ok(position.min(tip.position)),
        WorldMoment::Time(time) => recorded_until(store, time, tip),
    }
}

/// The last event that was recorded until then. Times never run backwards, so it is found by halving.
fn recorded_until(store: &EventStore, time: Timestamp, tip: Tip) -> Result<Position, WorldError> {
    let (mut known, mut beyond) = (0u64, tip.position.0.saturating_add(1));
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
