//! Replays events into states: an aggregate as it is, or as it was at some moment.
//!
//! Every load checks what it reads: sequence numbers without a gap, known event types, data that
//! matches them, and the rules of the aggregates. A stored state only shortens a load. If it is
//! missing or belongs to another history, all events are replayed.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use super::states::AggregateState;
use super::{
    rehydration::{EventOutcome, Rehydration},
    repairs,
    states::{REPLAYED, StateStore, StoredState},
};
use crate::{
    event::{
        AggregateId, ChainHash, Position, RecordedEvent, SequenceNumber, Timestamp, record::StoredEvent,
    },
    store::{AggregateReader, EventStore, LoadRequest},
    world::{
        error::{AggregateDamage, Problem, WorldError},
        model::{aggregate::Kind, event::EventError},
        rules::refusal::Refusal,
    },
};

/// The size of the events read at a time.
const READ_BYTES: usize = 256 * 1024;

/// What aggregates are loaded from: the log and the stored states. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AggregateSource {
    /// The store that has the events.
    pub store: Arc<EventStore>,
    /// The stored states, which shorten loads.
    pub states: StateStore,
}

/// A moment in the life of an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// After the last event.
    Now,
    /// After the event with this sequence number. 0 is before the first event.
    Sequence(SequenceNumber),
    /// After the event at this position.
    Position(Position),
    /// After all events recorded up to this time.
    Time(Timestamp),
}

/// Applies all events of an aggregate, or those up to the event where [`Rehydration::must_restart`]
/// requires a new start.
///
/// # Errors
/// See [`Rehydration::apply`].
pub fn rehydrate(
    store: &EventStore,
    id: &AggregateId,
    rehydration: &mut Rehydration,
) -> Result<(), WorldError> {
    rehydrate_until(store, id, rehydration, None, &CancellationToken::new())
}

/// Like [`rehydrate`], up to the event `to`, or to the last one. Ends early when `given_up` is
/// cancelled.
fn rehydrate_until(
    store: &EventStore,
    id: &AggregateId,
    rehydration: &mut Rehydration,
    to: Option<SequenceNumber>,
    given_up: &CancellationToken,
) -> Result<(), WorldError> {
    let from = rehydration.last().next();
    let mut reader = store.load(LoadRequest { from, to, ..LoadRequest::all_of(id.clone()) })?;
    loop {
        let events = reader.next(READ_BYTES)?;
        if events.is_empty() {
            return Ok(());
        }
        for event in &events {
            if given_up.is_cancelled() {
                return Err(WorldError::GivenUp);
            }
            rehydration.apply(&decoded(id, event)?, |id| repairs::of(store, id))?;
            if rehydration.must_restart() {
                return Ok(());
            }
        }
    }
}

/// Returns the kind of an aggregate, or `None` if it does not exist. The inner `None` means that
/// the aggregate is not part of the world.
///
/// # Errors
/// Returns an error if the index cannot be read.
pub fn kind(store: &EventStore, id: &AggregateId) -> Result<Option<Option<Kind>>, WorldError> {
    Ok(store.head(id)?.map(|head| Kind::of(&head.aggregate_type)))
}

/// Returns the sequence number of the last event, or 0 if the aggregate does not exist.
///
/// # Errors
/// Returns an error if the index cannot be read.
pub fn last_sequence(store: &EventStore, id: &AggregateId) -> Result<SequenceNumber, WorldError> {
    Ok(store.head(id)?.map_or(SequenceNumber(0), |head| head.last))
}

/// Returns the aggregate at a moment, or `None` if it did not exist then. May block on disk I/O.
///
/// # Errors
/// Returns an error if the aggregate is not part of the world, if its history is damaged, or if the
/// moment is a sequence number beyond its last event.
pub fn load(
    source: &AggregateSource,
    id: &AggregateId,
    moment: Moment,
) -> Result<Option<AggregateState>, WorldError> {
    Ok(load_from(source, id, moment, ReplayStart::Kept, &mut |_, _| Ok(()))?.state)
}

/// An aggregate as it is now.
#[derive(Debug, Default)]
pub struct LoadedAggregate {
    /// `None` if there are no events, or if all of them are excluded.
    pub state: Option<AggregateState>,
    /// `None` if there are no events.
    pub kind: Option<Kind>,
    /// The last event, or 0 if there is none.
    pub last: SequenceNumber,
    /// The number of events that do not count.
    pub passed_over: u64,
}

/// Returns the aggregate as it is now, with the sequence number of its last event. May block on
/// disk I/O.
///
/// # Errors
/// See [`load`].
pub fn load_now(source: &AggregateSource, id: &AggregateId) -> Result<LoadedAggregate, WorldError> {
    load_from(source, id, Moment::Now, ReplayStart::Kept, &mut |_, _| Ok(()))
}

/// Like [`load`], but ends early when `given_up` is cancelled.
///
/// # Errors
/// See [`load`]. Also returns an error if `given_up` is cancelled.
pub fn load_unless(
    source: &AggregateSource,
    id: &AggregateId,
    moment: Moment,
    given_up: &CancellationToken,
) -> Result<Option<AggregateState>, WorldError> {
    let loaded = load_from(source, id, moment, ReplayStart::Kept, &mut |_, _| {
        if given_up.is_cancelled() { Err(WorldError::GivenUp) } else { Ok(()) }
    });
    Ok(loaded?.state)
}

/// An aggregate as it was at some moment.
#[derive(Debug, Clone, PartialEq)]
pub struct PastAggregate<'a> {
    /// The id of the aggregate.
    pub id: &'a AggregateId,
    /// The kind of the aggregate.
    pub kind: Kind,
    /// `None` if it did not exist then, or if all of its events up to then are excluded.
    pub state: Option<AggregateState>,
}

/// Returns the aggregate after some more of its events, up to the sequence number `to`.
///
/// # Errors
/// See [`load_unless`].
pub fn replay_further(
    store: &EventStore,
    before: PastAggregate<'_>,
    to: SequenceNumber,
    given_up: &CancellationToken,
) -> Result<Option<AggregateState>, WorldError> {
    let PastAggregate { id, kind, state } = before;
    let last = SequenceNumber(state.as_ref().map_or(0, |state| state.sequence));
    let mut rehydration = Rehydration::after(kind, state, last);
    rehydrate_until(store, id, &mut rehydration, Some(to), given_up)?;
    if rehydration.must_restart() {
        rehydration = Rehydration::with_repairs(kind, repairs::of(store, id)?);
        rehydrate_until(store, id, &mut rehydration, Some(to), given_up)?;
    }
    Ok(rehydration.into_state())
}

fn decoded(id: &AggregateId, event: &StoredEvent) -> Result<RecordedEvent, AggregateDamage> {
    event.decode().map_err(|_| AggregateDamage {
        id: id.clone(),
        sequence: event.sequence,
        problem: Problem::Event(EventError::NotJson),
    })
}

/// Where a load starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReplayStart {
    /// At the stored state, if there is a usable one.
    Kept,
    FirstEvent,
    /// At the first event, with all repairs known.
    Repaired,
}

/// Replays the aggregate from all of its events. Also returns the sequence number of the stored
/// state if that state differs from the result.
///
/// # Errors
/// See [`load`].
pub fn check(
    source: &AggregateSource,
    id: &AggregateId,
) -> Result<(LoadedAggregate, Option<SequenceNumber>), WorldError> {
    let kept = source.states.find(id);
    let mut wrong = None;
    let mut compare = |state: &AggregateState, hash: ChainHash| {
        if let Some(kept) = &kept
            && kept.hash == hash
            && kept.state != *state
        {
            wrong = Some(kept.sequence());
        }
        Ok(())
    };
    let loaded = load_from(source, id, Moment::Now, ReplayStart::FirstEvent, &mut compare)?;
    Ok((loaded, wrong))
}

/// Receives each state with the chain hash of its event, and may end the load with an error.
type StateObserver<'s> = dyn FnMut(&AggregateState, ChainHash) -> Result<(), WorldError> + 's;

/// Returns a request for the events from `from` to the moment.
fn events_until(id: &AggregateId, moment: Moment, from: SequenceNumber) -> LoadRequest {
    LoadRequest {
        from,
        to: match moment {
            Moment::Sequence(sequence) => Some(sequence),
            Moment::Now | Moment::Position(_) | Moment::Time(_) => None,
        },
        recorded_until: match moment {
            Moment::Time(time) => Some(time),
            Moment::Now | Moment::Position(_) | Moment::Sequence(_) => None,
        },
        ..LoadRequest::all_of(id.clone())
    }
}

/// Opens all events up to the moment. Returns `None` if the aggregate does not exist, or if the
/// moment is sequence number 0.
fn open(
    store: &EventStore,
    id: &AggregateId,
    moment: Moment,
) -> Result<Option<(AggregateReader, Kind)>, WorldError> {
    if moment == Moment::Sequence(SequenceNumber(0)) {
        return Ok(None);
    }
    let reader = store.load(events_until(id, moment, SequenceNumber(1)))?;
    let Some(aggregate_type) = reader.aggregate_type() else { return Ok(None) };
    let Some(kind) = Kind::of(aggregate_type) else { return Err(Refusal::Foreign(id.clone()).into()) };
    let last = reader.last_sequence();
    if matches!(moment, Moment::Sequence(sequence) if sequence > last) {
        return Err(Refusal::NoSuchEvent { id: id.clone(), last }.into());
    }
    Ok(Some((reader, kind)))
}

/// Implements [`load`]. `seen` receives the state after each event with the chain hash of the
/// event, and may end the load with an error.
fn load_from(
    source: &AggregateSource,
    id: &AggregateId,
    moment: Moment,
    beginning: ReplayStart,
    seen: &mut StateObserver<'_>,
) -> Result<LoadedAggregate, WorldError> {
    let Some((mut reader, kind)) = open(&source.store, id, moment)? else {
        return Ok(LoadedAggregate::default());
    };
    let mut kept = match beginning {
        ReplayStart::Kept => source.states.find(id).filter(|kept| is_before(kept, moment)),
        ReplayStart::FirstEvent | ReplayStart::Repaired => None,
    };
    if let Some(kept) = &kept {
        // Start at the event of the state: its chain hash tells whether the state belongs to this
        // history.
        reader = source.store.load(events_until(id, moment, kept.sequence()))?;
    }
    let mut rehydration = match beginning {
        ReplayStart::Kept | ReplayStart::FirstEvent => Rehydration::after(kind, None, SequenceNumber(0)),
        ReplayStart::Repaired => Rehydration::with_repairs(kind, repairs::of(&source.store, id)?),
    };
    let (mut newest, mut replayed, mut passed_over) = (None, 0u64, 0u64);
    'all: loop {
        let events = reader.next(READ_BYTES)?;
        if kept.is_some() && events.is_empty() {
            return load_from(source, id, moment, ReplayStart::FirstEvent, seen);
        }
        if events.is_empty() {
            break;
        }
        for event in &events {
            if matches!(moment, Moment::Position(last) if event.position > last) {
                break 'all;
            }
            let event = decoded(id, event)?;
            if let Some(kept) = kept.take() {
                let is_of_this_history = kept.hash == event.hash
                    && kept.sequence() == event.sequence
                    && kept.state.aggregate.kind() == kind;
                if !is_of_this_history {
                    debug!(aggregate = %id, "the stored state belongs to another history; replaying all \
                     events");
                    return load_from(source, id, moment, ReplayStart::FirstEvent, seen);
                }
                rehydration = Rehydration::after(kind, Some(kept.state), event.sequence);
                continue;
            }
            if rehydration.apply(&event, |id| repairs::of(&source.store, id))? == EventOutcome::PassedOver {
                passed_over = passed_over.saturating_add(1);
            }
            if rehydration.must_restart() && beginning != ReplayStart::Repaired {
                return load_from(source, id, moment, ReplayStart::Repaired, seen);
            }
            if let Some(state) = rehydration.state() {
                seen(state, event.hash)?;
            }
            newest = Some((event.position, event.hash));
            replayed = replayed.saturating_add(1);
        }
    }
    let last = rehydration.last();
    let state = rehydration.into_state();
    if let (Some(state), Some((position, hash))) = (&state, newest)
        && replayed >= REPLAYED
        && moment == Moment::Now
    {
        source.states.keep(&StoredState { state: state.clone(), position, hash });
    }
    Ok(LoadedAggregate { state, kind: Some(kind), last, passed_over })
}

/// Returns whether a stored state is not later than the moment.
fn is_before(kept: &StoredState, moment: Moment) -> bool {
    match moment {
        Moment::Now => true,
        Moment::Sequence(sequence) => kept.sequence() <= sequence,
        Moment::Position(position) => kept.position <= position,
        Moment::Time(time) => kept.state.updated_at <= time,
    }
}
