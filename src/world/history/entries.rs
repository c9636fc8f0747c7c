//! The history of one aggregate: each event with what it changed, who caused it, which identity
//! appended it, and why.
//!
//! Events that a repair excludes are listed too, but marked, and they change nothing.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    changes::{self, Change, ComparedFields},
    rehydration::{EventOutcome, Rehydration},
    repairs,
    replay::{self, AggregateSource, AggregateState, Moment},
};
use crate::{
    event::{AggregateId, EventId, Position, SequenceNumber, Timestamp},
    store::{AggregateReader, LoadRequest},
    world::{
        error::{AggregateDamage, Problem, WorldError},
        model::{
            aggregate::Kind,
            event::{EventError, WorldEvent},
            size,
        },
        rules::{command::ACTOR, refusal::Refusal},
    },
};

/// One event, with its changes.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryEntry {
    /// The id of the event.
    pub id: EventId,
    /// The type of the event.
    pub event_type: String,
    /// The sequence number within the aggregate.
    pub sequence: SequenceNumber,
    /// The position in the total order.
    pub position: Position,
    /// The time at which the event was recorded.
    pub recorded_at: Timestamp,
    /// Who caused the event, as the client says. Empty if not specified.
    pub actor: String,
    /// The name of the identity that appended the event. Empty if access control was off.
    pub recorded_by: Arc<str>,
    /// The id of the command that led to the event, or what the client of a raw append set.
    pub causation_id: String,
    /// The correlation id. Empty if not specified.
    pub correlation_id: String,
    /// What the event changed, in the order of the field names.
    pub changes: Vec<Change>,
    /// Whether the event is invalid and excluded by a repair.
    pub passed_over: bool,
}

/// Reads the history on demand. May block on disk I/O.
#[derive(Debug)]
pub struct HistoryReader {
    id: AggregateId,
    kind: Kind,
    source: AggregateSource,
    rehydration: Rehydration,
    reader: AggregateReader,
}

impl HistoryReader {
    /// Opens the history from one sequence number to another, inclusive. Without the second, it
    /// ends with the last event.
    ///
    /// # Errors
    /// Returns an error if there is no such aggregate, or if its history is damaged before `from`.
    pub fn open(
        source: &AggregateSource,
        id: AggregateId,
        from: SequenceNumber,
        to: Option<SequenceNumber>,
        given_up: &CancellationToken,
    ) -> Result<Self, WorldError> {
        let before = SequenceNumber(from.0.saturating_sub(1));
        let state = replay::load_unless(source, &id, Moment::Sequence(before), given_up)?;
        let reader = source.store.load(LoadRequest { from, to, ..LoadRequest::all_of(id.clone()) })?;
        match reader.aggregate_type() {
            None => Err(Refusal::NoSuchObject(id).into()),
            Some(aggregate_type) => match Kind::of(aggregate_type) {
                None => Err(Refusal::Foreign(id).into()),
                Some(kind) => {
                    let (source, rehydration) = (source.clone(), Rehydration::after(kind, state, before));
                    Ok(Self { id, kind, source, rehydration, reader })
                }
            },
        }
    }

    /// Starts over from the repaired state, because a repair excludes events that were shown as
    /// valid. Returns the difference between the two states, which is what the repair changes.
    fn start_over(&mut self, sequence: SequenceNumber) -> Result<Vec<Change>, WorldError> {
        let after = replay::load(&self.source, &self.id, Moment::Sequence(sequence))?;
        let aggregate = |state: &AggregateState| state.aggregate.clone();
        let before = self.rehydration.state().map(aggregate);
        let changes = changes::between(before.as_ref(), after.as_ref().map(aggregate).as_ref());
        self.rehydration = Rehydration::after(self.kind, after, sequence);
        Ok(changes)
    }

    /// Returns the memory that the reader holds between two reads.
    pub fn kept_bytes(&self) -> usize {
        self.rehydration.state().map_or(0, |state| size::of(&state.aggregate))
    }

    /// Returns some more entries, or none at the end.
    ///
    /// # Errors
    /// Returns an error if the history is damaged at this point.
    pub fn next(&mut self, bytes_max: usize) -> Result<Vec<HistoryEntry>, WorldError> {
        let mut entries = Vec::new();
        for event in self.reader.next(bytes_max)? {
            let recorded = event.decode().map_err(|_| AggregateDamage {
                id: self.id.clone(),
                sequence: event.sequence,
                problem: Problem::Event(EventError::NotJson),
            })?;
            let happened = WorldEvent::read(&recorded);
            let before = self.rehydration.state().map(|state| &state.aggregate);
            let watched = happened.as_ref().ok().map(|happened| ComparedFields::before(before, happened));
            let taken = self
                .rehydration
                .apply_decoded(&recorded, &happened, |id| repairs::of(&self.source.store, id))?;
            let restart = self.rehydration.must_restart();
            let changes = match (taken, watched, self.rehydration.state()) {
                _ if restart => self.start_over(recorded.sequence)?,
                (EventOutcome::Happened, Some(watched), Some(after)) => watched.changes(&after.aggregate),
                _ => Vec::new(),
            };
            let event = recorded.event;
            entries.push(HistoryEntry {
                id: event.id,
                event_type: event.event_type.to_string(),
                sequence: recorded.sequence,
                position: recorded.position,
                recorded_at: recorded.recorded_at,
                recorded_by: recorded.recorded_by,
                actor: event.metadata.get(ACTOR).cloned().unwrap_or_default(),
                causation_id: event.causation_id,
                correlation_id: event.correlation_id,
                changes,
                passed_over: taken == EventOutcome::PassedOver && !restart,
            });
        }
        Ok(entries)
    }
}
