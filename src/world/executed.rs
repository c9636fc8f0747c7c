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
    /// Of a room that was deleted.
    pub left_behind: LeftBehind,
}

/// What names a room that was deleted, or was in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftBehind {
    /// Rooms, and the directions in which they still lead there.
    pub exits: Vec<(String, String)>,
    /// Players who were in it.
    pub players: Vec<String>,
}

impl LeftBehind {
    /// So many of each are named.
    pub const NAMED_MAX: usize = 1000;

    /// By their ids, each once, and no more than are named.
    pub fn in_order(&mut self) {
        self.exits.sort_unstable();
        self.exits.dedup();
        self.exits.truncate(Self::NAMED_MAX);
        self.players.sort_unstable();
        self.players.dedup();
        self.players.truncate(Self::NAMED_MAX);
    }
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
        let exits = self.left_behind.exits.iter();
        let exits = exits.map(|(room, direction)| room.len() + direction.len() + OWN_BYTES);
        let players = self.left_behind.players.iter().map(|player| player.len() + OWN_BYTES);
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
