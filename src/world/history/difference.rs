//! What changed in the world between two moments.
//!
//! The events between the two moments tell which objects changed, and which of their events to
//! compare. The objects are then compared one by one, as fast as the client reads the response.
//! Until then their ids are held in a compact encoding (`touched`), within a budget shared by all
//! differences in progress.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    changes::{self, Change},
    replay::{self, AggregateSource, Moment, PastAggregate},
};
use crate::{
    error::StoreError,
    event::{AggregateId, Position, SequenceNumber, Timestamp},
    shared_limit::{Caller, SharedLimit},
    store::{EventStore, Filter, OrderReader, OrderStart, Tip},
    world::{error::WorldError, model::aggregate::Kind},
};

mod touched;

use touched::{Touched, TouchedObject};

/// The budget for the object ids held by all differences in progress.
pub const HELD_BYTES_MAX: u64 = 64 * 1024 * 1024;

const READ_BYTES: usize = 256 * 1024;

/// A moment of the whole world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorldMoment {
    /// After the event at this position.
    Position(Position),
    /// After all events recorded up to this time.
    Time(Timestamp),
    /// After the event that is the newest one when the comparison is opened.
    Now,
}

/// What is compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The first moment.
    pub from: WorldMoment,
    /// The second moment.
    pub to: WorldMoment,
    /// Only objects whose id starts with one of these prefixes. If empty, all objects.
    pub id_prefixes: Vec<String>,
}

/// An object that changed.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectDiff {
    /// The id of the object.
    pub id: AggregateId,
    /// The kind of the object.
    pub kind: Kind,
    /// Whether the object exists only at the second moment.
    pub created: bool,
    /// Whether the object exists only at the first moment.
    pub deleted: bool,
    /// The fields that differ. Empty if `problem` is set.
    pub changes: Vec<Change>,
    /// The last event up to the first moment; 0 if there is none, or if `problem` is set.
    pub from: SequenceNumber,
    /// The last event up to the second moment; 0 if `problem` is set.
    pub to: SequenceNumber,
    /// Set if the history of the object is damaged, so that its changes are unknown.
    pub problem: Option<String>,
}

/// The objects that had events between two positions, and how far they have been compared.
#[derive(Debug)]
pub struct DifferenceReader {
    to: Position,
    /// `None` once it is known which objects had events.
    collecting: Option<OrderReader>,
    tip: Tip,
    touched: Touched,
}

impl DifferenceReader {
    /// Opens a comparison of the state after `from` with the state after `to`. `limit` is the
    /// budget shared by all differences.
    ///
    /// # Errors
    /// Returns an error if `from` is later than `to`, or if the log cannot be read.
    pub fn open(
        store: &EventStore,
        comparison: Comparison,
        (limit, caller): (&Arc<SharedLimit>, &Caller),
    ) -> Result<Self, WorldError> {
        let Comparison { from, to, id_prefixes } = comparison;
        // Read the tip once, so that `Now` means the same moment throughout.
        let tip = store.tip();
        let (from, to) = (position(store, from, tip)?, position(store, to, tip)?);
        if from > to {
            return Err(StoreError::invalid("since", "must not be later than `until`").into());
        }
        let types = Kind::ALL.iter().map(|kind| kind.name().as_bytes().to_vec()).collect();
        let filter =
            Filter { aggregate_types: types, aggregate_id_prefixes: id_prefixes, ..Filter::default() };
        let collecting = Some(store.read(OrderStart::At(from.next()), filter)?);
        Ok(Self { to, collecting, tip, touched: Touched::new(limit, caller) })
    }

    /// Returns whether it is known which objects had events.
    pub fn is_ready(&self) -> bool {
        self.collecting.is_none()
    }

    /// Reads some more events, and notes the objects that had them.
    ///
    /// # Errors
    /// Returns an error if too many objects changed, if the shared budget is exhausted, or if the
    /// log is damaged.
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

    /// Returns whether all objects that had events have been compared.
    pub fn is_at_end(&self) -> bool {
        self.is_ready() && self.touched.is_empty()
    }

    /// Compares the next object that had events. Returns `None` if it did not change, or if there
    /// is no object left.
    ///
    /// # Errors
    /// Returns an error if something cannot be read. A damaged history is no error; see
    /// [`ObjectDiff::problem`].
    pub fn look(
        &mut self,
        source: &AggregateSource,
        given_up: &CancellationToken,
    ) -> Result<Option<ObjectDiff>, WorldError> {
        let Some(TouchedObject { id, kind, first, last }) = self.touched.next() else { return Ok(None) };
        let id = AggregateId::new(&id).map_err(|error| StoreError::Damaged(error.into()))?;
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

/// Returns what the events from `first` to `last` changed. Replays only these events, on top of the
/// state before them.
fn differs(
    source: &AggregateSource,
    id: &AggregateId,
    kind: Kind,
    (first, last): (SequenceNumber, SequenceNumber),
    given_up: &CancellationToken,
) -> Result<Option<ObjectDiff>, WorldError> {
    let from = SequenceNumber(first.0.saturating_sub(1));
    let before = replay::load_unless(source, id, Moment::Sequence(from), given_up)?;
    let past = PastAggregate { id, kind, state: before.clone() };
    let after = replay::replay_further(&source.store, past, last, given_up)?;
    let was = before.as_ref().map(|before| &before.aggregate);
    // After a repair, nothing may be left of the object.
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

/// Returns the last position that belongs to the moment.
fn position(store: &EventStore, moment: WorldMoment, tip: Tip) -> Result<Position, WorldError> {
    match moment {
        WorldMoment::Now => Ok(tip.position),
        WorldMoment::Position(position) => Ok(position.min(tip.position)),
        WorldMoment::Time(time) => recorded_until(store, time, tip),
    }
}

/// Returns the position of the last event recorded up to `time`. Recording times never decrease, so
/// a binary search finds it.
fn recorded_until(store: &EventStore, time: Timestamp, tip: Tip) -> Result<Position, WorldError> {
    let (mut known, mut beyond) = (0u64, tip.position.0.saturating_add(1));
    while known.saturating_add(1) < beyond {
        let middle = known.midpoint(beyond);
        let chunk = store.read(OrderStart::At(Position(middle)), Filter::default())?.next(tip, 1)?;
        if chunk.events.first().is_some_and(|event| event.recorded_at <= time) {
            known = middle
        } else {
            beyond = middle
        }
    }
    Ok(Position(known))
}
