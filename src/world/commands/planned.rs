//! The results of a call before its events are stored.
//!
//! A new event has no sequence number and no position until its append is stored. Both then
//! complete the result. Bounds the size of the response, so that its memory can be reserved before
//! anything is stored.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::executed::{CommandEvent, CommandResult};
use crate::{
    error::StoreError,
    event::{AggregateId, EventId, NewEvent, Position, SequenceNumber},
    store::StoredAppend,
    world::read_models::dangling_references::DanglingReferences,
};

/// The result of one command, as far as it is known before the events of the call are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedResult {
    /// The id of the command.
    pub command_id: String,
    /// The events of the command. Empty if it changes nothing.
    pub events: PlannedEvents,
    /// What a room leaves behind if the command deletes it. Otherwise empty.
    pub dangling_references: DanglingReferences,
}

/// The events of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlannedEvents {
    /// The command was executed before, and led to these events.
    Stored(Vec<CommandEvent>),
    /// The call appends these events.
    New(Vec<EventDraft>),
}

/// An event that is not stored yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventDraft {
    id: EventId,
    aggregate_id: AggregateId,
    aggregate_type: Arc<str>,
    event_type: Arc<str>,
}

impl EventDraft {
    /// Returns the draft of an event that is to be appended.
    pub fn of(event: &NewEvent) -> Self {
        Self {
            id: event.id,
            aggregate_id: event.aggregate_id.clone(),
            aggregate_type: event.aggregate_type.clone(),
            event_type: event.event_type.clone(),
        }
    }

    /// Completes the event with the numbers under which it is stored.
    fn stored(self, sequence: SequenceNumber, position: Position) -> CommandEvent {
        let Self { id, aggregate_id, aggregate_type, event_type } = self;
        CommandEvent { id, aggregate_id, aggregate_type, event_type, sequence, position }
    }
}

impl PlannedResult {
    /// Returns the maximum size of the result in a response.
    pub fn bytes_max(&self) -> usize {
        let events = match &self.events {
            PlannedEvents::Stored(events) => {
                let bytes = events.iter().map(|event| event_bytes(&event.aggregate_id, &event.event_type));
                bytes.fold(0, usize::saturating_add)
            }
            PlannedEvents::New(drafts) => {
                let bytes = drafts.iter().map(|draft| event_bytes(&draft.aggregate_id, &draft.event_type));
                bytes.fold(0, usize::saturating_add)
            }
        };
        let exits = self.dangling_references.exits.iter();
        let exits = exits.map(|(room, direction)| room.len() + direction.len() + OWN_BYTES);
        let players = self.dangling_references.players.iter().map(|player| player.len() + OWN_BYTES);
        let texts = exits.chain(players).fold(self.command_id.len(), usize::saturating_add);
        texts.saturating_add(events).saturating_add(OWN_BYTES)
    }
}

/// The size of the other fields of the result and of each entry: an event id as text, numbers, and
/// field tags.
const OWN_BYTES: usize = 128;

fn event_bytes(aggregate_id: &AggregateId, event_type: &str) -> usize {
    aggregate_id.as_str().len().saturating_add(event_type.len()).saturating_add(OWN_BYTES)
}

/// The numbers of the events of an append that have not been assigned to a result yet.
#[derive(Debug)]
pub struct StoredNumbers<'s> {
    /// The next sequence number of each aggregate.
    sequences: BTreeMap<&'s AggregateId, SequenceNumber>,
    positions: Range<u64>,
}

impl<'s> StoredNumbers<'s> {
    /// Returns the numbers of all events of an append.
    pub fn of(stored: &'s StoredAppend) -> Self {
        let first = stored.bounds.first.0;
        Self {
            sequences: stored.aggregates.iter().map(|aggregate| (&aggregate.id, aggregate.first)).collect(),
            positions: first..first.saturating_add(stored.bounds.event_count()),
        }
    }

    /// Returns the numbers for a call that appends nothing.
    pub fn none() -> Self {
        Self { sequences: BTreeMap::new(), positions: 0..0 }
    }

    /// Completes the results of the call. Their new events are in the order of the append.
    ///
    /// # Errors
    /// Returns an error if the append does not have a number for each of them.
    pub fn complete(mut self, results: Vec<PlannedResult>) -> Result<Vec<CommandResult>, StoreError> {
        results.into_iter().map(|result| self.result(result)).collect()
    }

    fn result(&mut self, result: PlannedResult) -> Result<CommandResult, StoreError> {
        let PlannedResult { command_id, events, dangling_references } = result;
        let (events, already_executed) = match events {
            PlannedEvents::Stored(events) => (events, true),
            PlannedEvents::New(drafts) => (self.events(drafts)?, false),
        };
        Ok(CommandResult { command_id, events, already_executed, dangling_references })
    }

    fn events(&mut self, drafts: Vec<EventDraft>) -> Result<Vec<CommandEvent>, StoreError> {
        let mut events = Vec::with_capacity(drafts.len());
        for draft in drafts {
            // The store's answer does not match the append. A retry finds the stored events.
            let (sequence, position) = self.next(&draft.aggregate_id).ok_or(StoreError::OutcomeUnknown)?;
            events.push(draft.stored(sequence, position));
        }
        Ok(events)
    }

    fn next(&mut self, id: &AggregateId) -> Option<(SequenceNumber, Position)> {
        let position = self.positions.next().map(Position)?;
        let next = self.sequences.get_mut(id)?;
        let sequence = *next;
        *next = sequence.next();
        Some((sequence, position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::AppendBounds, log::LogOffset, store::StoredAggregate};

    fn id(name: &str) -> AggregateId {
        AggregateId::new(name).unwrap()
    }

    fn draft(aggregate: &str) -> EventDraft {
        EventDraft {
            id: EventId::random(),
            aggregate_id: id(aggregate),
            aggregate_type: "GameObject".into(),
            event_type: "Moved".into(),
        }
    }

    fn planned(events: PlannedEvents) -> PlannedResult {
        let dangling_references = DanglingReferences::default();
        PlannedResult { command_id: "c".into(), events, dangling_references }
    }

    fn stored(aggregates: &[(&str, u64, u64)], first: u64, last: u64) -> StoredAppend {
        let aggregates = aggregates.iter().map(|(name, first, last)| StoredAggregate {
            id: id(name),
            first: SequenceNumber(*first),
            last: SequenceNumber(*last),
            snapshot_due: false,
        });
        StoredAppend {
            aggregates: aggregates.collect(),
            event_ids: Vec::new(),
            bounds: AppendBounds { first: Position(first), last: Position(last) },
            end: LogOffset::START,
            already: false,
        }
    }

    #[test]
    fn new_events_get_their_numbers_in_the_order_of_the_append() {
        let old = draft("bag").stored(SequenceNumber(2), Position(3));
        let results = vec![
            planned(PlannedEvents::New(vec![draft("bag"), draft("gem")])),
            planned(PlannedEvents::Stored(vec![old.clone()])),
            planned(PlannedEvents::New(vec![draft("bag")])),
        ];
        let stored = stored(&[("bag", 5, 6), ("gem", 1, 1)], 10, 12);
        let results = StoredNumbers::of(&stored).complete(results).unwrap();
        let numbers = |result: &CommandResult| -> Vec<(u64, u64)> {
            result.events.iter().map(|event| (event.sequence.0, event.position.0)).collect()
        };
        assert_eq!(
            results.iter().map(numbers).collect::<Vec<_>>(),
            [vec![(5, 10), (1, 11)], vec![(2, 3)], vec![(6, 12)]]
        );
        let already = results.iter().map(|result| result.already_executed).collect::<Vec<_>>();
        assert_eq!(already, [false, true, false]);
        assert_eq!(results[1].events, [old]);
    }

    #[test]
    fn an_event_without_a_number_is_not_reported_as_stored() {
        let results = || vec![planned(PlannedEvents::New(vec![draft("bag")]))];
        for stored in [stored(&[("gem", 1, 1)], 1, 1), stored(&[], 1, 1)] {
            let completed = StoredNumbers::of(&stored).complete(results());
            assert!(matches!(completed, Err(StoreError::OutcomeUnknown)));
        }
        assert!(matches!(StoredNumbers::none().complete(results()), Err(StoreError::OutcomeUnknown)));
        assert!(StoredNumbers::none().complete(vec![planned(PlannedEvents::New(Vec::new()))]).is_ok());
    }
}
