//! Settings of the sequencer, fixed when it starts.
//!
//! It also checks the free space on the disk of the log against its limit.

use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Duration};

use super::thresholds::SnapshotThresholds;
use crate::{
    clock::EventClock,
    error::{Limit, StoreError},
    event::EventId,
};

/// The settings of a sequencer. They do not change while it runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of the log. Its disk must not become full.
    pub folder: PathBuf,
    /// When an aggregate is due for a new snapshot.
    pub thresholds: SnapshotThresholds,
    /// The maximum number of calls that wait for the thread.
    pub calls_waiting_max: usize,
    /// The maximum of the estimated memory of these calls, in bytes.
    pub calls_waiting_bytes_max: u64,
    /// Below this number of free bytes on the disk, writes are refused.
    pub disk_free_min: u64,
    /// The source of recorded times.
    pub clock: Arc<EventClock>,
    /// For a log opened read-only: the events of its last group, which may or may not be durable.
    pub in_doubt: HashSet<EventId>,
}

impl Settings {
    pub(super) fn disk_is_full(&self) -> bool {
        let stat = rustix::fs::statvfs(&self.folder);
        let free = stat.map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        free < self.disk_free_min
    }

    /// Returns the error of a write while the disk is full.
    pub(super) fn disk_full(&self) -> StoreError {
        let max = self.disk_free_min;
        StoreError::Full { limit: Limit::DiskFull, max, share: None, retry_after: Duration::from_secs(5) }
    }
}
