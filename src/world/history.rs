//! The history of one aggregate: each event with what it changed, by whom, and why.

use tokio_util::sync::CancellationToken;

use super::{
    aggregate::Kind,
    changes::{self, Change, Watched},
    command::ACTOR,
    error::{Damage, Problem, WorldError},
    event::{EventError, WorldEvent},
    life::{Life, Taken},
    refusal::Refusal,
    repairs,
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
    /// It can't have happened, and a repair passes it over.
    pub passed_over: bool,
}

/// Reads on when asked. May wait for the disk.
#[derive(Debug)]
pub struct HistoryReader {
    id: AggregateId,
    kind: Kind,
    source: Source,
    life: Life,
    reader: AggregateReader,
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
                Some(kind) => {
                    let (source, life) = (source.clone(), Life::behind(kind, state, before));
                    Ok(Self { id, kind, source, life, reader })
                }
            },
        }
    }

    /// A repair says that events do not count which were shown as if they did: that is what it changes.
    fn begin_anew(&mut self, sequence: SequenceNumber) -> Result<Vec<Change>, WorldError> {
        let after = replay::load(&self.source, &self.id, Moment::Sequence(sequence))?;
        let aggregate = |state: &State| state.aggregate.clone();
        let before = self.life.state().map(aggregate);
        let changes = changes::between(before.as_ref(), after.as_ref().map(aggregate).as_ref());
        self.life = Life::behind(self.kind, after, sequence);
        Ok(changes)
    }

    /// What it has in memory between two reads.
    pub fn kept_bytes(&self) -> usize {
        self.life.state().map_or(0, |state| weight::of(&state.aggregate))
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
            let happened = WorldEvent::read(&recorded);
            let before = self.life.state().map(|state| &state.aggregate);
            let watched = happened.as_ref().ok().map(|happened| Watched::before(before, happened));
            let taken = self
                .life
                .take_what_happened(&recorded, &happened, |id| repairs::of(&self.source.store, id))?;
            let anew = self.life.begins_anew();
            let changes = match (taken, watched, self.life.state()) {
                _ if anew => self.begin_anew(recorded.sequence)?,
                (Taken::Happened, Some(watched), Some(after)) => watched.changes(&after.aggregate),
                _ => Vec::new(),
            };
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
                passed_over: taken == Taken::PassedOver && !anew,
            });
        }
        Ok(entries)
    }
}
