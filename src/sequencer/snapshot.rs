//! Adds a snapshot to the group, tied by a hash to the history it was made from.

use super::{append::StoredSnapshot, group::OpenGroup, lookup::Lookup};
use crate::{
    crash_point::CrashPoint,
    error::{FailedPrecondition, StoreError},
    event::{SequenceNumber, Snapshot, record},
    index::IndexedSnapshot,
};

impl OpenGroup {
    /// Adds a snapshot. The group must have no events, because the hash of the snapshot's event is
    /// read from the log. A snapshot that is older than the stored one is dropped.
    pub(super) fn snapshot(
        &mut self,
        lookup: &Lookup,
        snapshot: Snapshot,
    ) -> Result<StoredSnapshot, StoreError> {
        let aggregate = snapshot.aggregate_id.clone();
        let sequence = snapshot.sequence;
        let head = self.head(lookup, &aggregate)?;
        let last = head.as_ref().map_or(SequenceNumber(0), |head| head.last);
        let Some(head) = head.filter(|_| sequence <= last) else {
            return Err(FailedPrecondition::SnapshotAhead { aggregate, snapshot: sequence, last }.into());
        };
        if let Some(newer) = head.snapshot.filter(|newer| newer.sequence > sequence) {
            return Ok(StoredSnapshot { end: newer.place.end(), dropped: true });
        }
        let event_hash = lookup.event_hash(&aggregate, sequence)?;
        let record = record::encode_snapshot(Snapshot { event_hash, recorded_at: self.now, ..snapshot });
        let stored = self.frames.snapshot(&record);
        let stored = stored.map_err(|too_large| StoreError::invalid("snapshot", too_large.to_string()))?;
        CrashPoint::SnapshotLaidOut.reached();
        let indexed = IndexedSnapshot { aggregate_id: aggregate, sequence, place: stored.place };
        self.entries.add_snapshot(&lookup.index, indexed)?;
        Ok(StoredSnapshot { end: self.frames.tip().end, dropped: false })
    }
}
