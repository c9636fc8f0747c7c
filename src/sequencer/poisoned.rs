//! The state of a local log that accepts no more writes.
//!
//! It records why, and which events have an unknown outcome.

use std::{collections::HashSet, io, sync::Arc};

use super::append::Append;
use crate::event::EventId;

/// Why no write is accepted before a restart. What a failed sync left on the disk cannot be known.
#[derive(Debug)]
pub struct Poisoned {
    /// What caused it.
    pub by: PoisonedBy,
    /// Events of the group whose outcome is unknown.
    pub(super) in_doubt: HashSet<EventId>,
}

/// What caused the log to be poisoned.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PoisonedBy {
    /// A write or a sync of a group failed, and its outcome is unknown.
    #[error("the outcome is unknown: {0}")]
    Group(#[source] Arc<io::Error>),
    /// A full segment could not be closed, or the next one may not be durable. Nothing of the group
    /// was written.
    #[error(transparent)]
    NewSegment(Arc<io::Error>),
    /// The log was opened read-only. The service retries the start by itself.
    #[error("the storage is read-only")]
    ReadOnly,
}

impl Poisoned {
    pub(super) fn read_only(in_doubt: HashSet<EventId>) -> Self {
        Self { by: PoisonedBy::ReadOnly, in_doubt }
    }

    /// Returns whether the outcome of the append is unknown. Only a restart resolves that.
    pub(super) fn leaves_in_doubt(&self, append: &Append) -> bool {
        append.events.iter().any(|(event, _)| self.in_doubt.contains(&event.id))
    }
}
