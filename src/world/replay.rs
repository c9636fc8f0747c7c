//! From events to states: an aggregate as it is, or as it was at some moment.
//!
//! Every load checks what it reads: numbers without a gap, types that are known, data that fits them, the rules
//! of the aggregates.

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    aggregate::{Aggregate, Kind},
    error::{Damage, Problem, WorldError},
    event::{EventError, WorldEvent},
    refusal::Refusal,
};
use crate::{
    event::{
        AggregateId, Content, NewEvent, Position, RecordedEvent, SequenceNumber, Snapshot, Timestamp,
        record::StoredEvent,
    },
    index::Direction,
    store::{EventStore, LoadRequest},
};

/// Version of the state that a snapshot holds. To be raised with every change of the aggregates' fields: older ones
/// are passed over then.
pub const SCHEMA_VERSION: u32 = 1;

/// Events that are read at a time.
const READ_BYTES: usize = 256 * 1024;

/// An aggregate after one of its events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub aggregate: Aggregate,
    pub sequence: u64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
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

    /// The state as a snapshot. `None`: JSON can't have it.
    pub fn snapshot(&self) -> Option<Snapshot> {
        Some(Snapshot {
            aggregate_id: self.aggregate.object().id.clone(),
            sequence: SequenceNumber(self.sequence),
            content: Content::Json(serde_json::to_string(self).ok()?),
            schema_version: SCHEMA_VERSION,
            metadata: Default::default(),
            // Both are the sequencer's to say.
            recorded_at: Timestamp::default(),
            event_hash: crate::event::Hash::START,
        })
    }

    /// The state in a snapshot. `None`: it is another's, or of another shape.
    pub fn of_snapshot(snapshot: &Snapshot) -> Option<Self> {
        let Content::Json(text) = &snapshot.content else { return None };
        let state: Self = serde_json::from_str(text).ok()?;
        let is_its_own = state.aggregate.object().id == snapshot.aggregate_id
            && state.sequence == snapshot.sequence.0
            && snapshot.schema_version == SCHEMA_VERSION;
        is_its_own.then_some(state)
    }
}

/// Number of the last event; 0: it does not exist.
///
/// # Errors
/// The index can't be read.
pub fn last_sequence(store: &EventStore, id: &AggregateId) -> Result<SequenceNumber, WorldError> {
    let nothing = LoadRequest {
        aggregate_id: id.clone(),
        from: SequenceNumber(u64::MAX),
        to: SequenceNumber(0),
        recorded_until: None,
        snapshot_schema: None,
        direction: Direction::Forwards,
        limit: 0,
    };
    Ok(store.load(nothing)?.last_sequence())
}

/// The aggregate at that moment; `None`: it did not exist. May wait for the disk.
///
/// # Errors
/// It is none of the world's, or its history is damaged.
pub fn load(store: &EventStore, id: &AggregateId, moment: Moment) -> Result<Option<State>, WorldError> {
    load_from(store, id, moment, Snapshots::Used, &mut |_| Ok(()))
}

/// The same, until nobody waits for it any more.
///
/// # Errors
/// As [`load`], or it was given up.
pub fn load_unless(
    store: &EventStore,
    id: &AggregateId,
    moment: Moment,
    given_up: &CancellationToken,
) -> Result<Option<State>, WorldError> {
    load_from(store, id, moment, Snapshots::Used, &mut |_| match given_up.is_cancelled() {
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

/// Whether a load may begin at a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Snapshots {
    Used,
    /// Every event is replayed.
    Ignored,
}

/// The aggregate by all of its events, and its newest snapshot if that is not what they lead to.
///
/// # Errors
/// As [`load`].
pub fn check(
    store: &EventStore,
    id: &AggregateId,
) -> Result<(Option<State>, Option<SequenceNumber>), WorldError> {
    let mut wrong = None;
    let newest = LoadRequest {
        aggregate_id: id.clone(),
        from: SequenceNumber(0),
        to: SequenceNumber(0),
        recorded_until: None,
        snapshot_schema: Some(SCHEMA_VERSION),
        direction: Direction::Forwards,
        limit: 0,
    };
    let snapshot = store.load(newest)?.take_snapshot().and_then(|snapshot| State::of_snapshot(&snapshot));
    let mut compare = |state: &State| {
        if let Some(snapshot) = &snapshot
            && snapshot.sequence == state.sequence
            && snapshot != state
        {
            wrong = Some(SequenceNumber(state.sequence));
        }
        Ok(())
    };
    let state = load_from(store, id, Moment::Now, Snapshots::Ignored, &mut compare)?;
    Ok((state, wrong))
}

/// As [`load`]; `seen` is shown the state after each event, and may end it.
fn load_from(
    store: &EventStore,
    id: &AggregateId,
    moment: Moment,
    snapshots: Snapshots,
    seen: &mut dyn FnMut(&State) -> Result<(), WorldError>,
) -> Result<Option<State>, WorldError> {
    // A snapshot does not say at which position it was made.
    let usable = snapshots == Snapshots::Used && !matches!(moment, Moment::Position(_));
    if moment == Moment::Sequence(SequenceNumber(0)) {
        return Ok(None);
    }
    let mut reader = store.load(LoadRequest {
        aggregate_id: id.clone(),
        from: SequenceNumber(0),
        to: match moment {
            Moment::Sequence(sequence) => sequence,
            Moment::Now | Moment::Position(_) | Moment::Time(_) => SequenceNumber(0),
        },
        recorded_until: match moment {
            Moment::Time(time) => Some(time),
            Moment::Now | Moment::Position(_) | Moment::Sequence(_) => None,
        },
        snapshot_schema: usable.then_some(SCHEMA_VERSION),
        direction: Direction::Forwards,
        limit: 0,
    })?;
    let Some(aggregate_type) = reader.aggregate_type() else { return Ok(None) };
    let Some(kind) = Kind::of(aggregate_type) else { return Err(Refusal::Foreign(id.clone()).into()) };
    let last = reader.last_sequence();
    if matches!(moment, Moment::Sequence(sequence) if sequence > last) {
        return Err(Refusal::NoSuchEvent { id: id.clone(), last }.into());
    }
    let mut state = None;
    if let Some(snapshot) = reader.take_snapshot() {
        state = State::of_snapshot(&snapshot).filter(|state| state.aggregate.kind() == kind);
        if state.is_none() {
            debug!(aggregate = %id, sequence = snapshot.sequence.0, "a snapshot is not of the world; its events are replayed");
            return load_from(store, id, moment, Snapshots::Ignored, seen);
        }
    }
    loop {
        let events = reader.next(READ_BYTES)?;
        if events.is_empty() {
            return Ok(state);
        }
        for event in &events {
            if matches!(moment, Moment::Position(last) if event.position > last) {
                return Ok(state);
            }
            let after = State::after(state, kind, &decoded(id, event)?)?;
            seen(&after)?;
            state = Some(after);
        }
    }
}
