//! What the sequencer is told when it starts.

use std::{collections::HashSet, path::PathBuf, sync::Arc};

use super::SnapshotThresholds;
use crate::{clock::EventClock, event::EventId};

/// What the sequencer is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of the log, whose disk must not become full.
    pub folder: PathBuf,
    pub thresholds: SnapshotThresholds,
    pub calls_waiting_max: usize,
    pub calls_waiting_bytes_max: u64,
    pub disk_free_min: u64,
    /// The time of events.
    pub clock: Arc<EventClock>,
    /// Of a log that can only be read: the events of its last group, of which nobody knows whether they are durable.
    pub in_doubt: HashSet<EventId>,
}

impl Settings {
    pub(super) fn disk_is_full(&self) -> bool {
        let stat = rustix::fs::statvfs(&self.folder);
        let free = stat.map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        free < self.disk_free_min
    }
}
