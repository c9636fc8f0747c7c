//! One step of the sequencer: a group, and the answers that wait for its sync.
//!
//! A step decides about each call and adds its records to the group. It writes nothing: the worker
//! writes the group at the end of the step, and sends the answers after that.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    append::{Append, StoredAppend},
    call::SequencerCall,
    existing::SentEvent,
    expectations::{check_expectations, check_types},
    group::OpenGroup,
    lookup::Lookup,
    reply::PendingReply,
    restored::RestoreError,
};
use crate::{error::StoreError, event::AggregateId, index::AbsentUpTo, log::Tip};

/// Checks whether writes are accepted at the moment. Called again just before an append is checked.
pub type AdmissionCheck = dyn Fn(Tip) -> Result<(), StoreError> + Send + Sync;

/// A step that takes calls.
pub(super) struct Step {
    pub group: OpenGroup,
    pub answers: Vec<PendingReply>,
    admission: Arc<AdmissionCheck>,
    /// Checked once for the whole group.
    disk_is_full: bool,
    began: Instant,
}

impl Step {
    /// A group is closed when it reaches any of these limits; further calls wait for the next
    /// group. Rejections and retries add no bytes, but the other callers in the group wait for
    /// their answers.
    const BYTES_MAX: usize = 8 * 1024 * 1024;
    const CALLS_MAX: usize = 4096;
    const JUDGING_MAX: Duration = Duration::from_millis(10);

    pub(super) fn new(group: OpenGroup, lookup: &Lookup, admission: Arc<AdmissionCheck>) -> Self {
        let disk_is_full = lookup.settings.disk_is_full();
        Self { group, answers: Vec::new(), admission, disk_is_full, began: Instant::now() }
    }

    pub(super) fn is_full(&self) -> bool {
        Self::is_full_with(self.group.frames.byte_count(), self.answers.len(), self.began.elapsed())
    }

    fn is_full_with(bytes: usize, calls: usize, judging: Duration) -> bool {
        bytes >= Self::BYTES_MAX || calls >= Self::CALLS_MAX || judging >= Self::JUDGING_MAX
    }

    /// Processes a call and adds its records to the group. Returns the call if this group must be
    /// written first. A call whose caller no longer waits is dropped: it is not in the group yet,
    /// so nothing of it is stored.
    pub(super) fn take(&mut self, lookup: &Lookup, call: SequencerCall) -> Option<SequencerCall> {
        match call {
            SequencerCall::Append { reply, .. } if reply.is_closed() => {}
            SequencerCall::Snapshot { reply, .. } if reply.is_closed() => {}
            SequencerCall::Append { append, absent_up_to, recorded_by, permit, reply, under_way } => {
                drop(permit);
                let result = self.append(lookup, append, absent_up_to, &recorded_by);
                self.answers.push(PendingReply::Append(reply, result, under_way));
            }
            SequencerCall::Snapshot { snapshot, permit, reply } => {
                if !self.group.events.is_empty() {
                    return Some(SequencerCall::Snapshot { snapshot, permit, reply });
                }
                let result = self.admit(lookup).and_then(|()| self.group.snapshot(lookup, snapshot));
                self.answers.push(PendingReply::Snapshot(reply, result));
            }
            SequencerCall::Restore { transactions, reply } => {
                let result = if self.disk_is_full && !transactions.is_empty() {
                    Err(RestoreError::DiskFull)
                } else {
                    self.group.restore(lookup, transactions)
                };
                self.answers.push(PendingReply::Restore(reply, result));
            }
            SequencerCall::RestoreSnapshot { record, reply } => {
                if !self.group.events.is_empty() {
                    return Some(SequencerCall::RestoreSnapshot { record, reply });
                }
                let result = self.group.restore_snapshot(lookup, &record);
                self.answers.push(PendingReply::RestoreSnapshot(reply, result));
            }
            SequencerCall::MarksWaiting => {}
            SequencerCall::Stop => return Some(SequencerCall::Stop),
        }
        None
    }

    /// Checks event ids first, then the state of the service, then the expectations. A retry of a
    /// stored append is not a conflict. It is answered whatever was stored after it, and whichever
    /// identity sent it first.
    fn append(
        &mut self,
        lookup: &Lookup,
        append: Append,
        absent_up_to: Option<AbsentUpTo>,
        recorded_by: &str,
    ) -> Result<StoredAppend, StoreError> {
        let sent = SentEvent::all_of(&append);
        if let Some(existing) = self.group.existing(lookup, &sent, absent_up_to)? {
            let thresholds = &lookup.settings.thresholds;
            return Ok(existing.into_stored(&sent, thresholds, |id| self.group.head(lookup, id)));
        }
        self.admit(lookup)?;
        let mut head = |id: &AggregateId| self.group.head(lookup, id);
        check_expectations(&append, &mut head)?;
        let heads = check_types(&append, head)?;
        self.group.number(lookup, append, &heads, recorded_by)
    }

    fn admit(&self, lookup: &Lookup) -> Result<(), StoreError> {
        (self.admission)(self.group.frames.tip())?;
        self.group.time_is_known?;
        if self.disk_is_full { Err(lookup.settings.disk_full()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_closed_at_each_of_its_bounds_alone() {
        const BELOW: (usize, usize, Duration) = (8 * 1024 * 1024 - 1, 4095, Duration::from_micros(9999));
        let (bytes, calls, judging) = BELOW;
        assert!(!Step::is_full_with(bytes, calls, judging));
        assert!(Step::is_full_with(bytes + 1, 0, Duration::ZERO));
        assert!(Step::is_full_with(0, calls + 1, Duration::ZERO));
        assert!(Step::is_full_with(0, 0, judging + Duration::from_micros(1)));
    }
}
