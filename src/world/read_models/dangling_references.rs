//! What a deleted room leaves behind.
//!
//! Reported to the client in the result of the command, at most [`DanglingReferences::NAMED_MAX`]
//! of each kind.

/// What refers to a deleted room, or was in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DanglingReferences {
    /// Rooms, and the directions in which they still lead to the deleted room.
    pub exits: Vec<(String, String)>,
    /// Players who were in the room.
    pub players: Vec<String>,
}

impl DanglingReferences {
    /// The maximum number of each that are named.
    pub const NAMED_MAX: usize = 1000;

    /// Sorts by id, removes duplicates, and keeps at most the maximum.
    pub fn in_order(&mut self) {
        self.exits.sort_unstable();
        self.exits.dedup();
        self.exits.truncate(Self::NAMED_MAX);
        self.players.sort_unstable();
        self.players.dedup();
        self.players.truncate(Self::NAMED_MAX);
    }
}
