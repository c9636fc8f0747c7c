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

/// An event that a command led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandEvent {
    pub id: EventId,
    pub aggregate_id: AggregateId,
    pub event_type: Arc<str>,
    pub sequence: SequenceNumber,
    pub position: Position,
}
