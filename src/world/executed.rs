//! The answer to a call of commands.

use std::sync::Arc;

use crate::{
    event::{AggregateId, EventId, Position, SequenceNumber},
    store::StoredIn,
};

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    pub results: Vec<CommandResult>,
    /// Where the events lie; `None`: there are none.
    pub stored_in: Option<StoredIn>,
}

/// What one command led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandResult {
    pub command_id: String,
    pub events: Vec<CommandEvent>,
    pub already_executed: bool,
}

impl CommandResult {
    /// As much as it takes up in an answer, at most.
    pub fn bytes_max(&self) -> usize {
        /// Of the result, and of each event: the id's text, numbers, and what stands before each field.
        const OWN_BYTES: usize = 128;
        let events = self.events.iter().map(|event| {
            let texts = event.aggregate_id.as_str().len().saturating_add(event.event_type.len());
            texts.saturating_add(OWN_BYTES)
        });
        self.command_id.len().saturating_add(OWN_BYTES).saturating_add(events.sum())
    }
}

/// An event that a command led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandEvent {
    pub id: EventId,
    pub aggregate_id: AggregateId,
    pub event_type: Arc<str>,
    pub sequence: SequenceNumber,
    pub position: Position,
}
