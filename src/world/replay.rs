//! From events to states: an aggregate as it is, or as it was at some moment.
//!
//! Every load checks what it reads: numbers without a gap, types that are known, data that fits them, the rules
//! of the aggregates.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use super::states::State;
use super::{
    aggregate::Kind,
    error::{Damage, Problem, WorldError},
    event::EventError,
    life::{Life, Taken},
    refusal::Refusal,
    repairs,
    states::{Kept, REPLAYED, States},
};
use crate::{
    event::{AggregateId, Hash, Position, RecordedEvent, SequenceNumber, Timestamp, record::StoredEvent},
    index::Direction,
    store::{EventStore, LoadRequest},
};

/// Events that are read at a time.
const READ_BYTES: usize = 256 * 1024;

/// What aggregates are loaded from. Cheap to clone.
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

/// Takes in all events of an aggregate, or those up to where [`Life::begins_anew`] says that it has to begin anew.
///
/// # Errors
/// As [`Life::take`].
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

/// The kind of an aggregate that exists; the inner `None`: it is none of the world's.
///
/// # Errors
/// The index can't be read.
pub fn kind(store: &EventStore, id: &AggregateId) -> Result<Option<Option<Kind>>, WorldError> {
    Ok(store.load(nothing(id))?.aggregate_type().map(Kind::of))
}

/// Number of the last event; 0: it does not exist.
///
/// # Errors
/// The index can't be read.
pub fn last_sequence(store: &EventStore, id: &AggregateId) -> Result<SequenceNumber, WorldError> {
    Ok(store.load(nothing(id))?.last_sequence())
}

/// Its head alone.
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

/// The aggregate at that moment; `None`: it did not exist. May wait for the disk.
///
/// # Errors
/// It is none of the world's, or its history is damaged.
pub fn load(source: &Source, id: &AggregateId, moment: Moment) -> Result<Option<State>, WorldError> {
    Ok(load_from(source, id, moment, Beginning::Kept, &mut |_, _| Ok(()))?.state)
}

/// An aggregate as it is now.
#[derive(Debug, Default)]
pub struct Loaded {
    /// `None`: there is nothing, or all that there is was passed over.
    pub state: Option<State>,
    /// `None`: there is no event.
    pub kind: Option<Kind>,
    /// The last event; 0: there is none.
    pub last: SequenceNumber,
    /// Some of its events do not count.
    pub passed_over: u64,
}

/// The aggregate as it is, with the number of its last event. May wait for the disk.
///
/// # Errors
/// As [`load`].
pub fn load_now(source: &Source, id: &AggregateId) -> Result<Loaded, WorldError> {
    load_from(source, id, Moment::Now, Beginning::Kept, &mut |_, _| Ok(()))
}

/// The same, until nobody waits for it any more.
///
/// # Errors
/// As [`load`], or it was given up.
pub fn load_unless(
    source: &Source,
    id: &AggregateId,
    moment: Moment,
    given_up: &CancellationToken,
) -> Result<Option<State>, WorldError> {
    let loaded = load_from(source, id, moment, Beginning::Kept, &mut |_, _| match given_up.is_cancelled() {
        true => Err(WorldError::GivenUp),
        false => Ok(()),
    });
    Ok(loaded?.state)
}

/// The aggregate after some more of its events, up to this number.
///
/// # Errors
/// As [`load_unless`].
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

/// Where a load begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// At a state that was kept.
    Kept,
    FirstEvent,
    /// At the first event, by whoever knows all repairs.
    Repaired,
}

/// The aggregate by all of its events. If the state that is kept of it is not what they lead to, also its number.
///
/// # Errors
/// As [`load`].
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

/// Is shown each state with the hash of its event, and may end the load.
type Seen<'s> = dyn FnMut(&State, Hash) -> Result<(), WorldError> + 's;

/// As [`load`]; `seen` is shown the state after each event with the event's hash, and may end it.
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
        // From its event on, whose hash says whether it is of this history.
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
                    debug!(aggregate = %id, "the state that was kept is of another history; all events are replayed");
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

/// The state is one on the way to the moment.
fn is_before(kept: &Kept, moment: Moment) -> bool {
    match moment {
        Moment::Now => true,
        Moment::Sequence(sequence) => kept.sequence() <= sequence,
        Moment::Position(position) => kept.position <= position,
        Moment::Time(time) => kept.state.updated_at <= time,
    }
}
