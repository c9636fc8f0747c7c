//! The state of a local log that accepts no more writes.
//!
//! It records why, and which events have an unknown outcome.

use std::collections::HashSet;

use super::append::Append;
use crate::event::EventId;

/// Why no write is accepted before a restart. What a failed sync left on the disk cannot be known.
#[derive(Debug)]
pub struct Poisoned {
    /// What caused it.
    pub by: PoisonedBy,
    /// The text of the error that caused it.
    pub reason: String,
    /// Events of the group whose outcome is unknown.
    pub(super) in_doubt: HashSet<EventId>,
}

/// What caused the log to be poisoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoisonedBy {
    /// A write or a sync failed, and its outcome is unknown.
    Log,
    /// The log was opened read-only. The service retries the start by itself.
    ReadOnly,
}

impl Poisoned {
    pub(super) fn read_only(in_doubt: HashSet<EventId>) -> Self {
        Self { by: PoisonedBy::ReadOnly, reason: "the storage is read-only".to_owned(), in_doubt }
    }

    /// Returns whether the outcome of the append is unknown. Only a restart resolves that.
    pub(super) fn leaves_in_doubt(&self, append: &Append) -> bool {
        append.events.iter().any(|(event, _)| self.in_doubt.contains(&event.id))
    }
}
