//! When the local log takes nothing any more, and what is said of writes that fail.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use tracing::error;

use super::{Append, GroupError};
use crate::event::EventId;

/// No write is taken before a restart: what a failed sync left on the disk can't be known, or the index lacks what
/// the log has.
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
    Index,
}

impl Poisoned {
    /// Whether the append may be stored: a restart tells.
    pub(super) fn leaves_in_doubt(&self, append: &Append) -> bool {
        append.events.iter().any(|(event, _)| self.in_doubt.contains(&event.id))
    }
}

/// Groups that the disk refused: one line a minute, with their number.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    groups: u64,
    said_at: Option<Instant>,
}

impl Unwritten {
    const PAUSE: Duration = Duration::from_secs(60);

    pub fn note(&mut self, error: &GroupError) {
        self.groups = self.groups.saturating_add(1);
        if self.said_at.is_none_or(|at| at.elapsed() >= Self::PAUSE) {
            error!(%error, groups = self.groups, "writes to the local log fail");
            (self.said_at, self.groups) = (Some(Instant::now()), 0);
        }
    }
}
