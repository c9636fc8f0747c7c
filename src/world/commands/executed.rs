//! The result of a call of commands.
//!
//! Building the response is left to `grpc`.

use std::sync::Arc;

use crate::{
    event::{AggregateId, EventId, Position, SequenceNumber},
    store::StoredIn,
    world::read_models::dangling_references::DanglingReferences,
};

/// The result of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    pub results: Vec<CommandResult>,
    /// Where the events are stored. `None` if there are none.
    pub stored_in: Option<StoredIn>,
}

/// The result of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandResult {
    pub command_id: String,
    pub events: Vec<CommandEvent>,
    pub already_executed: bool,
    /// What a room leaves behind if the command deleted it. Otherwise empty.
    pub dangling_references: DanglingReferences,
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
