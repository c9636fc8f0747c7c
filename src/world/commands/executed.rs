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
    /// One result for each command, in the order of the commands.
    pub results: Vec<CommandResult>,
    /// Where the events are stored. `None` if there are none.
    pub stored_in: Option<StoredIn>,
}

/// The result of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandResult {
    /// The id of the command.
    pub command_id: String,
    /// The events in the order of their positions. Empty if the command changed nothing.
    pub events: Vec<CommandEvent>,
    /// Whether an earlier call executed the command. The events are those of that call then.
    pub already_executed: bool,
    /// What a room leaves behind if the command deleted it. Otherwise empty.
    pub dangling_references: DanglingReferences,
}

/// An event that a command led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandEvent {
    /// The id of the event, which is derived from the id of the command.
    pub id: EventId,
    /// The aggregate that the event belongs to.
    pub aggregate_id: AggregateId,
    /// The type of the aggregate.
    pub aggregate_type: Arc<str>,
    /// The type of the event.
    pub event_type: Arc<str>,
    /// The sequence number within the aggregate.
    pub sequence: SequenceNumber,
    /// The position in the total order.
    pub position: Position,
}
