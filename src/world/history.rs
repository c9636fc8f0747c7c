//! The history of one aggregate: each event with what it changed, by whom, and why.

use tokio_util::sync::CancellationToken;

use super::{
    aggregate::Kind,
    changes::{Change, Watched},
    command::ACTOR,
    error::{Damage, Problem, WorldError},
    event::EventError,
    refusal::Refusal,
    replay::{self, Moment, Source, State},
    weight,
};
use crate::{
    event::{AggregateId, EventId, Position, SequenceNumber, Timestamp},
    index::Direction,
    store::{AggregateReader, LoadRequest},
};

/// One event, and what it did.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub id: EventId,
    pub event_type: String,
    pub sequence: SequenceNumber,
    pub position: Position,
    pub recorded_at: Timestamp,
    pub actor: String,
    pub causation_id: String,
    pub correlation_id: String,
    pub changes: Vec<Change>,
}

/// Reads on when asked. May wait for the disk.
#[derive(Debug)]
pub struct HistoryReader {
    id: AggregateId,
    kind: Kind,
    reader: AggregateReader,
    state: Option<State>,
}

impl HistoryReader {
    /// From one number to another, inclusive; 0 as the second is the last.
    ///
    /// # Errors
    /// There is no such aggregate, or its history is damaged before that.
    pub fn open(
        source: &Source,
        id: AggregateId,
        from: SequenceNumber,
        to: SequenceNumber,
        given_up: &CancellationToken,
    ) -> Result<Self, WorldError> {
        let before = SequenceNumber(from.0.saturating_sub(1));
        let state = replay::load_unless(source, &id, Moment::Sequence(before), given_up)?;
        let reader = source.store.load(LoadRequest {
            aggregate_id: id.clone(),
            from,
            to,
            recorded_until: None,
            snapshot_schema: None,
            direction: Direction::Forwards,
            limit: 0,
        })?;
        match reader.aggregate_type() {
            None => Err(Refusal::NoSuchObject(id).into()),
            Some(aggregate_type) => match Kind::of(aggregate_type) {
                None => Err(Refusal::Foreign(id).into()),
                Some(kind) => Ok(Self { id, kind, reader, state }),
            },
        }
    }

    /// What it has in memory between two reads.
    pub fn kept_bytes(&self) -> usize {
        self.state.as_ref().map_or(0, |state| weight::of(&state.aggregate))
    }

    /// Some more entries; none at the end.
    ///
    /// # Errors
    /// The history is damaged there.
    pub fn next(&mut self, bytes_max: usize) -> Result<Vec<Entry>, WorldError> {
        let mut entries = Vec::new();
        for event in self.reader.next(bytes_max)? {
            let recorded = event.decode().map_err(|_| Damage {
                id: self.id.clone(),
                sequence: event.sequence,
                problem: Problem::Event(EventError::NotJson),
            })?;
            let happened = replay::happened(&recorded)?;
            let before = self.state.take();
            let watched = Watched::before(before.as_ref().map(|before| &before.aggregate), &happened);
            let after = State::after_what_happened(before, self.kind, &recorded, &happened)?;
            let changes = watched.changes(&after.aggregate);
            self.state = Some(after);
            let event = recorded.event;
            entries.push(Entry {
                id: event.id,
                event_type: event.event_type.to_string(),
                sequence: recorded.sequence,
                position: recorded.position,
                recorded_at: recorded.recorded_at,
                actor: event.metadata.get(ACTOR).cloned().unwrap_or_default(),
                causation_id: event.causation_id,
                correlation_id: event.correlation_id,
                changes,
            });
        }
        Ok(entries)
    }
}
