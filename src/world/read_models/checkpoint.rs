//! How far the tables are.

use crate::event::{ChainHash, Position};

/// The position up to which events are in the tables, with its chain hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// All events up to this position are included.
    pub position: Position,
    /// The chain hash of the event at the position.
    pub hash: ChainHash,
}

impl Checkpoint {
    /// Before the first event.
    pub const START: Self = Self { position: Position(0), hash: ChainHash::START };
}
