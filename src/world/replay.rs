//! From events to states: an aggregate as it is, or as it was at some moment.
//!
//! Every load checks what it reads: numbers without a gap, types that are known, data that fits them, the rules
//! of the aggregates.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use super::states::State;
use super::{
    aggregate::{Aggregate, Kind},
    error::{Damage, Problem, WorldError},
    event::{EventError, WorldEvent},
    refusal::Refusal,
    states::{Kept, REPLAYED, States},
};
use crate::{
    event::{
        AggregateId, Content, Hash, NewEvent, Position, RecordedEvent, SequenceNumber, Timestamp,
        record::StoredEvent,
    },
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

/// The world's event in a stored one.
///
/// # Errors
/// It is none.
pub fn read(event: &RecordedEvent) -> Result<WorldEvent, EventError> {
    of_new(&event.event)
}

/// The world's event in one that is to be stored.
///
/// # Errors
/// It is none.
pub fn of_new(event: &NewEvent) -> Result<WorldEvent, EventError> {
    match &event.content {
        Content::Json(data) => WorldEvent::decode(&event.event_type, data),
        Content::Absent | Content::Binary(_) => match WorldEvent::TYPES.contains(&&*event.event_type) {
            true => Err(EventError::NotJson),
            false => Err(EventError::UnknownType(event.event_type.to_string())),
        },
    }
}

/// The same, where everything has to be one.
///
/// # Errors
/// It is none.
pub fn happened(recorded: &RecordedEvent) -> Result<WorldEvent, Damage> {
    read(recorded).map_err(|error| damage(recorded, error.into()))
}

fn damage(recorded: &RecordedEvent, problem: Problem) -> Damage {
    Damage { id: recorded.event.aggregate_id.clone(), sequence: recorded.sequence, problem }
}

impl State {
    /// The state after one more event.
    ///
    /// # Errors
    /// The event can't have happened to it, or can't be read.
    pub fn after(before: Option<Self>, kind: Kind, recorded: &RecordedEvent) -> Result<Self, Damage> {
        let happened = happened(recorded)?;
        Self::after_what_happened(before, kind, recorded, &happened)
    }

    /// The same, where it is known already what happened.
    ///
    /// # Errors
    /// It can't have happened to it.
    pub fn after_what_happened(
        before: Option<Self>,
        kind: Kind,
        recorded: &RecordedEvent,
        happened: &WorldEvent,
    ) -> Result<Self, Damage> {
        let damage = |problem| damage(recorded, problem);
        let last = before.as_ref().map_or(0, |before| before.sequence);
        if recorded.sequence.0 != last.saturating_add(1) {
            return Err(damage(Problem::Gap));
        }
        let created_at = before.as_ref().map_or(recorded.recorded_at, |before| before.created_at);
        let before = before.map(|before| before.aggregate);
        let aggregate = Aggregate::apply(before, kind, &recorded.event.aggregate_id, happened)
            .map_err(|rule| damage(rule.into()))?;
        Ok(Self { aggregate, sequence: recorded.sequence.0, created_at, updated_at: recorded.recorded_at })
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
    load_from(source, id, moment, Beginning::Kept, &mut |_, _| Ok(()))
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
    load_from(source, id, moment, Beginning::Kept, &mut |_, _| match given_up.is_cancelled() {
        true => Err(WorldError::GivenUp),
        false => Ok(()),
    })
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
    let first = before.as_ref().map_or(0, |before| before.sequence).saturating_add(1);
    let mut reader = store.load(LoadRequest {
        aggregate_id: id.clone(),
        from: SequenceNumber(first),
        to,
        recorded_until: None,
        snapshot_schema: None,
        direction: Direction::Forwards,
        limit: 0,
    })?;
    let mut state = before;
    loop {
        let events = reader.next(READ_BYTES)?;
        if events.is_empty() {
            return Ok(state);
        }
        for event in &events {
            if given_up.is_cancelled() {
                return Err(WorldError::GivenUp);
            }
            state = Some(State::after(state, kind, &decoded(id, event)?)?);
        }
    }
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
}

/// The aggregate by all of its events. If the state that is kept of it is not what they lead to, also its number.
///
/// # Errors
/// As [`load`].
pub fn check(
    source: &Source,
    id: &AggregateId,
) -> Result<(Option<State>, Option<SequenceNumber>), WorldError> {
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
    let state = load_from(source, id, Moment::Now, Beginning::FirstEvent, &mut compare)?;
    Ok((state, wrong))
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
) -> Result<Option<State>, WorldError> {
    if moment == Moment::Sequence(SequenceNumber(0)) {
        return Ok(None);
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
    let Some(aggregate_type) = reader.aggregate_type() else { return Ok(None) };
    let Some(kind) = Kind::of(aggregate_type) else { return Err(Refusal::Foreign(id.clone()).into()) };
    let last = reader.last_sequence();
    if matches!(moment, Moment::Sequence(sequence) if sequence > last) {
        return Err(Refusal::NoSuchEvent { id: id.clone(), last }.into());
    }
    let mut kept = match beginning {
        Beginning::Kept => source.states.find(id).filter(|kept| is_before(kept, moment)),
        Beginning::FirstEvent => None,
    };
    if let Some(kept) = &kept {
        // From its event on, whose hash says whether it is of this history.
        reader = source.store.load(events(kept.sequence()))?;
    }
    let (mut newest, mut replayed) = (None::<Kept>, 0u64);
    loop {
        let events = reader.next(READ_BYTES)?;
        if kept.is_some() && events.is_empty() {
            return load_from(source, id, moment, Beginning::FirstEvent, seen);
        }
        if events.is_empty() {
            break;
        }
        for event in &events {
            if matches!(moment, Moment::Position(last) if event.position > last) {
                return Ok(newest.map(|newest| newest.state));
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
                newest = Some(kept);
                continue;
            }
            let state = State::after(newest.map(|newest| newest.state), kind, &event)?;
            seen(&state, event.hash)?;
            newest = Some(Kept { state, position: event.position, hash: event.hash });
            replayed = replayed.saturating_add(1);
        }
    }
    if let Some(newest) = newest.as_ref().filter(|_| replayed >= REPLAYED && moment == Moment::Now) {
        source.states.keep(newest);
    }
    Ok(newest.map(|newest| newest.state))
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
