//! Assembles one group: its frames, its index entries, and the answers that wait for its sync.
//!
//! A group is written with one sync. Its contents become findable in one step, and its answers are
//! sent after that. If the write fails, no answer that depends on the group is sent.

use std::{
    collections::{HashMap, HashSet},
    sync::PoisonError,
    time::{Duration, Instant},
};

use tracing::debug;

use super::{
    GroupError, RestoreError, SequencerCall, Worker, disk_full, existing::ExistingEvent,
    poisoned::PoisonedBy, replies::Delivery,
};
use crate::{
    clock::Implausible,
    crash_point::CrashPoint,
    error::StoreError,
    event::{
        EventId, Timestamp,
        record::{self, ReplicationMark},
    },
    index::IndexBatch,
    log::{Group, Tip, WriteError},
    refusals,
};

/// A group that is being assembled.
pub(super) struct OpenGroup {
    pub frames: Group,
    pub entries: IndexBatch,
    /// The recorded time of everything in the group.
    pub now: Timestamp,
    /// Checked once, together with `now`: the clock may be adjusted while the group is assembled.
    time_is_known: Result<(), Implausible>,
    /// Events of this group, which cannot be looked up in the log yet.
    pub events: HashMap<EventId, ExistingEvent>,
    /// Set if frames were added but cannot be made findable. Nothing of the group may then be
    /// written.
    pub broken: bool,
    /// Checked once for the whole group.
    disk_is_full: bool,
    /// The replication marks that the group includes.
    marks: Vec<ReplicationMark>,
    answers: Vec<Delivery>,
    began: Instant,
}

impl OpenGroup {
    /// A group is closed when it reaches any of these limits; further calls wait for the next
    /// group. Rejections and retries add no bytes, but the other callers in the group wait for
    /// their answers.
    const BYTES_MAX: usize = 8 * 1024 * 1024;
    const CALLS_MAX: usize = 4096;
    const JUDGING_MAX: Duration = Duration::from_millis(10);

    pub fn is_full(&self) -> bool {
        Self::is_full_with(self.frames.byte_count(), self.answers.len(), self.began.elapsed())
    }

    fn is_full_with(bytes: usize, calls: usize, judging: Duration) -> bool {
        bytes >= Self::BYTES_MAX || calls >= Self::CALLS_MAX || judging >= Self::JUDGING_MAX
    }

    /// Processes a call and adds its records to the group. Returns the call if this group must be
    /// written first. A call whose caller no longer waits is dropped: it is not in the group yet,
    /// so nothing of it is stored.
    pub fn take(&mut self, worker: &mut Worker, call: SequencerCall) -> Option<SequencerCall> {
        match call {
            SequencerCall::Append { reply, .. } if reply.is_closed() => {}
            SequencerCall::Snapshot { reply, .. } if reply.is_closed() => {}
            SequencerCall::Append { append, absent_up_to, weight, reply, under_way } => {
                drop(weight);
                let result = self.append(worker, append, absent_up_to);
                self.answers.push(Delivery::Append(reply, result, under_way));
            }
            SequencerCall::Snapshot { snapshot, weight, reply } => {
                if !self.events.is_empty() {
                    return Some(SequencerCall::Snapshot { snapshot, weight, reply });
                }
                let result = self.admit(worker).and_then(|()| self.snapshot(worker, snapshot));
                self.answers.push(Delivery::Snapshot(reply, result));
            }
            SequencerCall::Restore { transactions, reply } => {
                let result = match self.disk_is_full && !transactions.is_empty() {
                    true => Err(RestoreError::NotWritten(
                        "the disk has less than limits.disk_free_min \
                     free"
                            .to_owned(),
                    )),
                    false => self.restore(worker, transactions),
                };
                self.answers.push(Delivery::Restore(reply, result));
            }
            SequencerCall::RestoreSnapshot { record, reply } => {
                if !self.events.is_empty() {
                    return Some(SequencerCall::RestoreSnapshot { record, reply });
                }
                let result = self.restore_snapshot(worker, &record);
                self.answers.push(Delivery::RestoreSnapshot(reply, result));
            }
            SequencerCall::MarksWaiting => {}
            SequencerCall::Stop => return Some(SequencerCall::Stop),
        }
        None
    }

    pub(super) fn admit(&self, worker: &Worker) -> Result<(), StoreError> {
        (worker.admission)(self.frames.tip())?;
        self.time_is_known?;
        if self.disk_is_full { Err(disk_full(worker.settings.disk_free_min)) } else { Ok(()) }
    }
}

impl Worker {
    /// Begins a new group, which includes the waiting replication marks.
    pub(super) fn begin(&mut self) -> Result<OpenGroup, GroupError> {
        let frames = self.log.begin().map_err(|error| match error {
            // Creating a new segment failed. Nothing was written for the calls of this group.
            WriteError::Unknown(source) => {
                self.poison(PoisonedBy::Log, &source.to_string(), HashSet::new());
                WriteError::Failed
            }
            other @ (WriteError::NotWritten(_) | WriteError::Failed) => other,
        })?;
        let entries = IndexBatch::new(&self.index);
        // The clock may be set back, but recorded times never decrease.
        let (time, newest) = (self.settings.clock.time(), entries.complete().recorded_at);
        let now = time.unwrap_or(newest).max(newest);
        let time_is_known = time.map(|_| ());
        self.marks_due = None;
        let marks = std::mem::take(&mut *self.marks.lock().unwrap_or_else(PoisonError::into_inner));
        let (events, answers) = (HashMap::new(), Vec::new());
        let disk_is_full = self.settings.disk_is_full();
        let (broken, began) = (false, Instant::now());
        let mut group = OpenGroup {
            frames,
            entries,
            now,
            time_is_known,
            events,
            broken,
            disk_is_full,
            marks,
            answers,
            began,
        };
        for mark in &group.marks {
            group.frames.mark(&record::encode_mark(*mark));
            group.entries.add_mark(*mark);
        }
        Ok(group)
    }

    /// Requeues the marks of a group that was not written, so that the next group includes them.
    fn keep_marks(&self, marks: Vec<ReplicationMark>) {
        let mut waiting = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.splice(..0, marks);
    }

    /// Writes the group, makes it findable, publishes the tip, and sends the answers.
    pub(super) fn finish(&mut self, group: OpenGroup) {
        let OpenGroup { frames, mut entries, events, answers, broken, marks, .. } = group;
        let tip = frames.tip();
        entries.reach(tip);
        let written = match frames.is_empty() {
            _ if broken => Err(GroupError::Broken),
            true => Ok(()),
            false => self.log.write(frames).map_err(GroupError::from),
        };
        CrashPoint::AfterLocalSync.reached();
        if written.is_ok() {
            self.publish(entries, tip);
        }
        if !answers.is_empty() {
            CrashPoint::BeforeAnswer.reached();
        }
        if let Err(error) = &written {
            self.keep_marks(marks);
            // Before the answers: a client that retries with the same ids must get the same result.
            self.not_stored(error, events.into_keys().collect());
        }
        self.replies.send(answers.into_iter().map(|answer| answer.decide(written.as_ref().err(), self)));
    }

    /// Writes the waiting replication marks. A crash may lose them.
    pub(super) fn write_marks(&mut self) {
        if !self.has_marks() {
            return;
        }
        let Ok(mut group) = self.begin() else { return };
        let tip = group.frames.tip();
        group.entries.reach(tip);
        let written = self.log.write(group.frames).map_err(GroupError::from);
        match written {
            Ok(()) => self.publish(group.entries, tip),
            Err(error) => {
                debug!(%error, "cannot write a replication mark");
                self.keep_marks(group.marks);
                self.not_stored(&error, HashSet::new());
            }
        }
    }

    /// Makes a written group findable and advances the tip, in one step.
    fn publish(&self, entries: IndexBatch, tip: Tip) {
        let published = || {
            _ = self.published.send_if_modified(|published| std::mem::replace(published, tip) != tip);
        };
        self.index.add(entries, published);
    }

    /// Handles a group that was not written, or whose outcome is unknown.
    fn not_stored(&mut self, error: &GroupError, events: HashSet<EventId>) {
        match error {
            GroupError::Write(WriteError::Unknown(_)) => {
                self.poison(PoisonedBy::Log, &error.to_string(), events);
            }
            // Nothing of the group was written.
            GroupError::Broken => refusals::failed("appends fail because the index cannot be read", error),
            GroupError::Write(WriteError::NotWritten(_) | WriteError::Failed) => {
                refusals::failed("writes to the local log fail", error);
            }
        }
    }
}

impl Delivery {
    /// Decides the answer. If the group failed, the caller gets the failure and not a result that
    /// was derived from the group.
    fn decide(self, failed: Option<&GroupError>, worker: &Worker) -> Self {
        let for_caller = || failed.map(|error| error.for_caller(&worker.settings));
        let for_restorer = || {
            failed.map(|error| match error {
                GroupError::Write(WriteError::NotWritten(_)) => RestoreError::NotWritten(error.to_string()),
                GroupError::Write(_) | GroupError::Broken => RestoreError::Failed(error.to_string()),
            })
        };
        match self {
            Self::Append(reply, result, under_way) => {
                let published = worker.published.borrow().position;
                let result = match result {
                    // Stored by an earlier group, so the outcome of this one does not matter.
                    Ok(stored) if stored.already && stored.bounds.last <= published => Ok(stored),
                    result => for_caller().map_or(result, Err),
                };
                if let Ok(stored) = result.as_ref()
                    && !stored.already
                {
                    worker.counters.events_stored.add(stored.bounds.event_count());
                }
                Self::Append(reply, result, under_way)
            }
            Self::Snapshot(reply, result) => {
                let result = for_caller().map_or(result, Err);
                if result.as_ref().is_ok_and(|stored| !stored.dropped) {
                    worker.counters.snapshots_stored.add(1);
                }
                Self::Snapshot(reply, result)
            }
            Self::Restore(reply, result) => Self::Restore(reply, for_restorer().map_or(result, Err)),
            Self::RestoreSnapshot(reply, result) => {
                Self::RestoreSnapshot(reply, for_restorer().map_or(result, Err))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_closed_at_each_of_its_bounds_alone() {
        const BELOW: (usize, usize, Duration) = (8 * 1024 * 1024 - 1, 4095, Duration::from_micros(9999));
        let (bytes, calls, judging) = BELOW;
        assert!(!OpenGroup::is_full_with(bytes, calls, judging));
        assert!(OpenGroup::is_full_with(bytes + 1, 0, Duration::ZERO));
        assert!(OpenGroup::is_full_with(0, calls + 1, Duration::ZERO));
        assert!(OpenGroup::is_full_with(0, 0, judging + Duration::from_micros(1)));
    }
}
