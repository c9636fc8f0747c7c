//! When the local log takes nothing any more.

use std::collections::HashSet;

use super::Append;
use crate::event::EventId;

/// No write is taken before a restart: what a failed sync left on the disk can't be known.
#[derive(Debug)]
pub struct Poisoned {
    pub by: PoisonedBy,
    pub reason: String,
    /// Events of the group whose outcome is not known.
    pub(super) in_doubt: HashSet<EventId>,
}

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoisonedBy {
    Log,
    /// The log was opened for reading only. A start is tried again by the service itself.
    ReadOnly,
}

impl Poisoned {
    pub(super) fn read_only(in_doubt: HashSet<EventId>) -> Self {
        Self { by: PoisonedBy::ReadOnly, reason: "it can only be read".to_owned(), in_doubt }
    }

    /// Whether the append may be stored: a restart tells.
    pub(super) fn leaves_in_doubt(&self, append: &Append) -> bool {
        append.events.iter().any(|(event, _)| self.in_doubt.contains(&event.id))
    }
}
