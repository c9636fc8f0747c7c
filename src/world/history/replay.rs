//! Replays events into states: an aggregate as it is, or as it was at some moment.
//!
//! Every load checks what it reads: sequence numbers without a gap, known event types, data that
//! matches them, and the rules of the aggregates. A stored state only shortens a load. If it is
//! missing or belongs to another history, all events are replayed.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use super::states::State;
use super::{
    life::{Life, Taken},
    repairs,
    states::{Kept, REPLAYED, States},
};
use crate::{
    event::{AggregateId, Hash, Position, RecordedEvent, SequenceNumber, Timestamp, record::StoredEvent},
    index::Direction,
    store::{EventStore, LoadRequest},
    world::{
        error::{Damage, Problem, WorldError},
        model::{aggregate::Kind, event::EventError},
        rules::refusal::Refusal,
    },
};

/// The size of the events read at a time.
const READ_BYTES: usize = 256 * 1024;

/// What aggregates are loaded from: the log and the stored states. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Source {
    pub store: Arc<EventStore>,
    pub states: States,
}

/// A moment in the life of an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Now,
    Sequence(SequenceNumber),
    Position(Position),
    Time(Timestamp),
}

/// Applies all events of an aggregate, or those up to the event where [`Life::begins_anew`]
/// requires a new start.
///
/// # Errors
/// See [`Life::take`].
pub fn live(store: &EventStore, id: &AggregateId, life: &mut Life) -> Result<(), WorldError> {
    live_until(store, id, life, SequenceNumber(0), &CancellationToken::new())
}

fn live_until(
    store: &EventStore,
    id: &AggregateId,
    life: &mut Life,
    to: SequenceNumber,
    given_up: &CancellationToken,
) -> Result<(), WorldError> {
    let mut reader = store.load(LoadRequest {
        aggregate_id: id.clone(),
        from: life.last().next(),
        to,
        recorded_until: None,
        snapshot_schema: None,
        direction: Direction::Forwards,
        limit: 0,
    })?;
    loop {
        let events = reader.next(READ_BYTES)?;
        if events.is_empty() {
            return Ok(());
        }
        for event in &events {
            if given_up.is_cancelled() {
                return Err(WorldError::GivenUp);
            }
            life.take(&decoded(id, event)?, |id| repairs::of(store, id))?;
            if life.begins_anew() {
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
    Ok(store.load(nothing(id))?.aggregate_type().map(Kind::of))
}

/// Returns the sequence number of the last event, or 0 if the aggregate does not exist.
///
/// # Errors
/// Returns an error if the index cannot be read.
pub fn last_sequence(store: &EventStore, id: &AggregateId) -> Result<SequenceNumber, WorldError> {
    Ok(store.load(nothing(id))?.last_sequence())
}

/// Returns a request for the head of an aggregate, without any events.
fn nothing(id: &AggregateId) -> LoadRequest {
    LoadRequest {
        aggregate_id: id.clone(),
        from: SequenceNumber(u64::MAX),
        to: SequenceNumber(0),
        recorded_until: None,
        snapshot_schema: None,
        direction: Direction::Forwards,
        limit: 0,
    }
}

/// Returns the aggregate at a moment, or `None` if it did not exist then. May block on disk I/O.
///
/// # Errors
/// Returns an error if the aggregate is not part of the world, if its history is damaged, or if the
/// moment is a sequence number beyond its last event.
pub fn load(source: &Source, id: &AggregateId, moment: Moment) -> Result<Option<State>, WorldError> {
    Ok(load_from(source, id, moment, Beginning::Kept, &mut |_, _| Ok(()))?.state)
}

/// An aggregate as it is now.
#[derive(Debug, Default)]
pub struct Loaded {
    /// `None` if there are no events, or if all of them are excluded.
    pub state: Option<State>,
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
pub fn load_now(source: &Source, id: &AggregateId) -> Result<Loaded, WorldError> {
    load_from(source, id, Moment::Now, Beginning::Kept, &mut |_, _| Ok(()))
}

/// Like [`load`], but ends early when `given_up` is cancelled.
///
/// # Errors
/// See [`load`]. Also returns an error if `given_up` is cancelled.
pub fn load_unless(
    source: &Source,
    id: &AggregateId,
    moment: Moment,
    given_up: &CancellationToken,
) -> Result<Option<State>, WorldError> {
    let loaded = load_from(source, id, moment, Beginning::Kept, &mut |_, _| {
        if given_up.is_cancelled() { Err(WorldError::GivenUp) } else { Ok(()) }
    });
    Ok(loaded?.state)
}

/// Returns the aggregate after some more of its events, up to the sequence number `to`.
///
/// # Errors
/// See [`load_unless`].
pub fn go_on(
    store: &EventStore,
    id: &AggregateId,
    kind: Kind,
    before: Option<State>,
    to: SequenceNumber,
    given_up: &CancellationToken,
) -> Result<Option<State>, WorldError> {
    let last = SequenceNumber(before.as_ref().map_or(0, |before| before.sequence));
    let mut life = Life::behind(kind, before, last);
    live_until(store, id, &mut life, to, given_up)?;
    if life.begins_anew() {
        life = Life::knowing(kind, repairs::of(store, id)?);
        live_until(store, id, &mut life, to, given_up)?;
    }
    Ok(life.into_state())
}

fn decoded(id: &AggregateId, event: &StoredEvent) -> Result<RecordedEvent, Damage> {
    event.decode().map_err(|_| Damage {
        id: id.clone(),
        sequence: event.sequence,
        problem: Problem::Event(EventError::NotJson),
    })
}

/// Where a load starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
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
pub fn check(source: &Source, id: &AggregateId) -> Result<(Loaded, Option<SequenceNumber>), WorldError> {
    let kept = source.states.find(id);
    let mut wrong = None;
    let mut compare = |state: &State, hash: Hash| {
        if let Some(kept) = &kept
            && kept.hash == hash
            && kept.state != *state
        {
            wrong = Some(kept.sequence());
        }
        Ok(())
    };
    let loaded = load_from(source, id, Moment::Now, Beginning::FirstEvent, &mut compare)?;
    Ok((loaded, wrong))
}

/// Receives each state with the chain hash of its event, and may end the load with an error.
type Seen<'s> = dyn FnMut(&State, Hash) -> Result<(), WorldError> + 's;

/// Implements [`load`]. `seen` receives the state after each event with the chain hash of the
/// event, and may end the load with an error.
fn load_from(
    source: &Source,
    id: &AggregateId,
    moment: Moment,
    beginning: Beginning,
    seen: &mut Seen<'_>,
) -> Result<Loaded, WorldError> {
    if moment == Moment::Sequence(SequenceNumber(0)) {
        return Ok(Loaded::default());
    }
    let events = |from| LoadRequest {
        aggregate_id: id.clone(),
        from,
        to: match moment {
            Moment::Sequence(sequence) => sequence,
            Moment::Now | Moment::Position(_) | Moment::Time(_) => SequenceNumber(0),
        },
        recorded_until: match moment {
            Moment::Time(time) => Some(time),
            Moment::Now | Moment::Position(_) | Moment::Sequence(_) => None,
        },
        snapshot_schema: None,
        direction: Direction::Forwards,
        limit: 0,
    };
    let mut reader = source.store.load(events(SequenceNumber(0)))?;
    let Some(aggregate_type) = reader.aggregate_type() else { return Ok(Loaded::default()) };
    let Some(kind) = Kind::of(aggregate_type) else { return Err(Refusal::Foreign(id.clone()).into()) };
    let last = reader.last_sequence();
    if matches!(moment, Moment::Sequence(sequence) if sequence > last) {
        return Err(Refusal::NoSuchEvent { id: id.clone(), last }.into());
    }
    let mut kept = match beginning {
        Beginning::Kept => source.states.find(id).filter(|kept| is_before(kept, moment)),
        Beginning::FirstEvent | Beginning::Repaired => None,
    };
    if let Some(kept) = &kept {
        // Start at the event of the state: its chain hash tells whether the state belongs to this
        // history.
        reader = source.store.load(events(kept.sequence()))?;
    }
    let mut life = match beginning {
        Beginning::Kept | Beginning::FirstEvent => Life::behind(kind, None, SequenceNumber(0)),
        Beginning::Repaired => Life::knowing(kind, repairs::of(&source.store, id)?),
    };
    let (mut newest, mut replayed, mut passed_over) = (None, 0u64, 0u64);
    'all: loop {
        let events = reader.next(READ_BYTES)?;
        if kept.is_some() && events.is_empty() {
            return load_from(source, id, moment, Beginning::FirstEvent, seen);
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
                    return load_from(source, id, moment, Beginning::FirstEvent, seen);
                }
                life = Life::behind(kind, Some(kept.state), event.sequence);
                continue;
            }
            if life.take(&event, |id| repairs::of(&source.store, id))? == Taken::PassedOver {
                passed_over = passed_over.saturating_add(1);
            }
            if life.begins_anew() && beginning != Beginning::Repaired {
                return load_from(source, id, moment, Beginning::Repaired, seen);
            }
            if let Some(state) = life.state() {
                seen(state, event.hash)?;
            }
            newest = Some((event.position, event.hash));
            replayed = replayed.saturating_add(1);
        }
    }
    let last = life.last();
    let state = life.into_state();
    if let (Some(state), Some((position, hash))) = (&state, newest)
        && replayed >= REPLAYED
        && moment == Moment::Now
    {
        source.states.keep(&Kept { state: state.clone(), position, hash });
    }
    Ok(Loaded { state, kind: Some(kind), last, passed_over })
}

/// Returns whether a stored state is not later than the moment.
fn is_before(kept: &Kept, moment: Moment) -> bool {
    match moment {
        Moment::Now => true,
        Moment::Sequence(sequence) => kept.sequence() <= sequence,
        Moment::Position(position) => kept.position <= position,
        Moment::Time(time) => kept.state.updated_at <= time,
    }
}
