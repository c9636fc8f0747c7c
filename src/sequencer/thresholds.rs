//! Determines when an aggregate is due for a new snapshot.

use std::collections::BTreeMap;

use crate::{event::AggregateId, index::Head};

/// The number of events since its last snapshot at which an aggregate is due for a new one.
#[derive(Debug, Clone, Default)]
pub struct SnapshotThresholds {
    /// Applies to aggregates without a threshold of their own.
    pub default: u64,
    /// Thresholds by the type of the aggregate.
    pub by_type: BTreeMap<String, u64>,
    /// Thresholds by the id of the aggregate. They take precedence over those by type.
    pub by_id: BTreeMap<String, u64>,
}

impl SnapshotThresholds {
    fn of(&self, id: &AggregateId, aggregate_type: &str) -> u64 {
        let own = self.by_id.get(id.as_str()).or_else(|| self.by_type.get(aggregate_type));
        own.copied().unwrap_or(self.default)
    }

    pub(super) fn is_due(&self, id: &AggregateId, head: &Head) -> bool {
        let since = head.snapshot.map_or(0, |snapshot| snapshot.sequence.0);
        head.last.0.saturating_sub(since) >= self.of(id, &head.aggregate_type)
    }
}
