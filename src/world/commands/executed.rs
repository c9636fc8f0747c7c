//! The result of a call of commands.
//!
//! Bounds the size of the response, so that its memory can be reserved before anything is stored.
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

impl CommandResult {
    /// Returns the maximum size of the result in a response.
    pub fn bytes_max(&self) -> usize {
        /// The size of the other fields of the result and of each entry: an event id as text,
        /// numbers, and field tags.
        const OWN_BYTES: usize = 128;
        let events = self.events.iter().map(|event| {
            let texts = event.aggregate_id.as_str().len().saturating_add(event.event_type.len());
            texts.saturating_add(OWN_BYTES)
        });
        let exits = self.dangling_references.exits.iter();
        let exits = exits.map(|(room, direction)| room.len() + direction.len() + OWN_BYTES);
        let players = self.dangling_references.players.iter().map(|player| player.len() + OWN_BYTES);
        let texts: usize =
            events.chain(exits).chain(players).fold(self.command_id.len(), usize::saturating_add);
        texts.saturating_add(OWN_BYTES)
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
