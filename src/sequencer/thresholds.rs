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

    /// Returns whether an aggregate is due for a new snapshot. Those of the service itself never
    /// are, because no client may save one of them.
    pub(super) fn is_due(&self, id: &AggregateId, head: &Head) -> bool {
        if id.as_str().starts_with(AggregateId::RESERVED_PREFIX) {
            return false;
        }
        let since = head.snapshot.map_or(0, |snapshot| snapshot.sequence.0);
        head.last.0.saturating_sub(since) >= self.of(id, &head.aggregate_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::SequenceNumber;

    #[test]
    fn the_aggregates_of_the_service_are_never_due_for_a_snapshot() {
        let thresholds = SnapshotThresholds { default: 3, ..Default::default() };
        let is_due = |id: &str, last| {
            let head = Head { last: SequenceNumber(last), aggregate_type: "A".into(), snapshot: None };
            thresholds.is_due(&AggregateId::new(id).unwrap(), &head)
        };
        assert!(is_due("room-1", 3) && !is_due("room-1", 2));
        for own in ["aethyr:audit", "aethyr:player-name:exact:00"] {
            assert!(!is_due(own, 1000), "{own}");
        }
    }
}
