//! One group: the frames, what they add to the index, and the answers that wait for its sync.

use std::{
    collections::{HashMap, HashSet},
    sync::PoisonError,
    time::{Duration, Instant},
};

use tracing::debug;

use super::{
    AdoptError, Call, GroupError, Reply, SnapshotStored, Stored, Worker, disk_full, existing::ExistingEvent,
    poisoned::PoisonedBy, under_way::UnderWay,
};
use crate::{
    clock::Implausible,
    crash_point::CrashPoint,
    event::{
        EventId, Timestamp,
        record::{self, ForwardedMark},
    },
    index::Entries,
    log::{Group, Tip, WriteError},
    refusals,
    store::StoreError,
};

/// A group while it is put together.
pub(super) struct OpenGroup {
    pub frames: Group,
    pub entries: Entries,
    /// The time of everything in the group.
    pub now: Timestamp,
    /// Judged once, with `now`: the clock may be set meanwhile.
    time_is_known: Result<(), Implausible>,
    /// Events of this group, which can't be looked up in the log yet.
    pub events: HashMap<EventId, ExistingEvent>,
    /// What was laid out can't be found any more, so nothing of it may be written.
    pub broken: bool,
    /// Asked once for all of it.
    disk_is_full: bool,
    /// The notes that it takes along.
    marks: Vec<ForwardedMark>,
    answers: Vec<Answer>,
    began: Instant,
}

enum Answer {
    Append(Reply<Stored>, Result<Stored, StoreError>, UnderWay),
    Snapshot(Reply<SnapshotStored>, Result<SnapshotStored, StoreError>),
    Adopt(Reply<Tip, AdoptError>, Result<Tip, AdoptError>),
    AdoptSnapshot(Reply<(), AdoptError>, Result<(), AdoptError>),
}

impl OpenGroup {
    /// A group is closed at any of these bounds; what waits beyond it makes the next. Refusals and resends add no
    /// bytes, but those who wait for the others are to be answered.
    const BYTES_MAX: usize = 8 * 1024 * 1024;
    const CALLS_MAX: usize = 4096;
    const JUDGING_MAX: Duration = Duration::from_millis(10);

    pub fn is_full(&self) -> bool {
        Self::is_full_with(self.frames.byte_count(), self.answers.len(), self.began.elapsed())
    }

    fn is_full_with(bytes: usize, calls: usize, judging: Duration) -> bool {
        bytes >= Self::BYTES_MAX || calls >= Self::CALLS_MAX || judging >= Self::JUDGING_MAX
    }

    /// Judges a call and adds what it stores. A call that needs this group to be written first comes back. One that
    /// nobody waits for any more is dropped: it is not in the group yet, so nothing of it is stored.
    pub fn take(&mut self, worker: &mut Worker, call: Call) -> Option<Call> {
        match call {
            Call::Append { reply, .. } if reply.is_closed() => {}
            Call::Snapshot { reply, .. } if reply.is_closed() => {}
            Call::Append { append, absent_up_to, weight, reply, under_way } => {
                drop(weight);
                let result = self.append(worker, append, absent_up_to);
                self.answers.push(Answer::Append(reply, result, under_way));
            }
            Call::Snapshot { snapshot, weight, reply } => {
                if !self.events.is_empty() {
                    return Some(Call::Snapshot { snapshot, weight, reply });
                }
                let result = self.admit(worker).and_then(|()| self.snapshot(worker, snapshot));
                self.answers.push(Answer::Snapshot(reply, result));
            }
            Call::Adopt { transactions, reply } => {
                let result = match self.disk_is_full && !transactions.is_empty() {
                    true => Err(AdoptError::NotWritten("limits.disk_free_min is reached".to_owned())),
                    false => self.adopt(worker, transactions),
                };
                self.answers.push(Answer::Adopt(reply, result));
            }
            Call::AdoptSnapshot { record, reply } => {
                if !self.events.is_empty() {
                    return Some(Call::AdoptSnapshot { record, reply });
                }
                let result = self.adopt_snapshot(worker, &record);
                self.answers.push(Answer::AdoptSnapshot(reply, result));
            }
            Call::MarksWaiting => {}
            Call::Stop => return Some(Call::Stop),
        }
        None
    }

    pub(super) fn admit(&self, worker: &Worker) -> Result<(), StoreError> {
        (worker.admission)(self.frames.tip())?;
        self.time_is_known?;
        match self.disk_is_full {
            true => Err(disk_full(worker.settings.disk_free_min)),
            false => Ok(()),
        }
    }
}

impl Worker {
    /// A new group, which takes along the notes that wait.
    pub(super) fn begin(&mut self) -> Result<OpenGroup, GroupError> {
        let frames = self.log.begin().map_err(|error| match error {
            // A new segment failed: of the calls that come to this group nothing was written.
            WriteError::Unknown(source) => {
                self.poison(PoisonedBy::Log, &source.to_string(), HashSet::new());
                WriteError::Failed
            }
            other @ (WriteError::NotWritten(_) | WriteError::Failed) => other,
        })?;
        let entries = Entries::new(&self.index);
        // The clock may be set back; recorded times never run backwards.
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

    /// Of a group that was not written: the next one takes the notes along.
    fn keep_marks(&self, marks: Vec<ForwardedMark>) {
        let mut waiting = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.splice(..0, marks);
    }

    /// Writes the group, makes it findable, tells everybody, and answers.
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
            // Before the answers: a caller that sends the same ids again must not be told anything else.
            self.not_stored(error, events.into_keys().collect());
        }
        for answer in answers {
            answer.send(written.as_ref().err(), self);
        }
    }

    /// Writes the notes that wait; a crash may lose them.
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
                debug!(%error, "a note of the forwarded position was not written");
                self.keep_marks(group.marks);
                self.not_stored(&error, HashSet::new());
            }
        }
    }

    /// Makes a group that was written findable and moves the tip, in one step.
    fn publish(&self, entries: Entries, tip: Tip) {
        let published = || {
            _ = self.published.send_if_modified(|published| std::mem::replace(published, tip) != tip);
        };
        self.index.add(entries, published);
    }

    /// A group came to nothing, or it can't be known.
    fn not_stored(&mut self, error: &GroupError, events: HashSet<EventId>) {
        match error {
            GroupError::Write(WriteError::Unknown(_)) => {
                self.poison(PoisonedBy::Log, &error.to_string(), events);
            }
            // Nothing of it was written.
            GroupError::Broken => refusals::failed("appends fail over the index", error),
            GroupError::Write(WriteError::NotWritten(_) | WriteError::Failed) => {
                refusals::failed("writes to the local log fail", error);
            }
        }
    }
}

impl Answer {
    /// Sends the answer; if the group failed, nobody learns what was judged on it.
    fn send(self, failed: Option<&GroupError>, worker: &Worker) {
        let for_caller = || failed.map(|error| error.for_caller(&worker.settings));
        let for_adopter = || {
            failed.map(|error| match error {
                GroupError::Write(WriteError::NotWritten(_)) => AdoptError::NotWritten(error.to_string()),
                GroupError::Write(_) | GroupError::Broken => AdoptError::Failed(error.to_string()),
            })
        };
        // A caller that is gone needs no answer; what it sent is stored all the same.
        match self {
            Self::Append(reply, result, under_way) => {
                let published = worker.published.borrow().position;
                let result = match result {
                    // Stored by an earlier group, whatever became of this one.
                    Ok(stored) if stored.already && stored.bounds.last <= published => Ok(stored),
                    result => for_caller().map_or(result, Err),
                };
                if let Ok(stored) = result.as_ref()
                    && !stored.already
                {
                    worker.counters.events_stored.add(stored.bounds.event_count());
                }
                _ = reply.send(result);
                drop(under_way);
            }
            Self::Snapshot(reply, result) => {
                let result = for_caller().map_or(result, Err);
                if result.as_ref().is_ok_and(|stored| !stored.dropped) {
                    worker.counters.snapshots_stored.add(1);
                }
                _ = reply.send(result);
            }
            Self::Adopt(reply, result) => _ = reply.send(for_adopter().map_or(result, Err)),
            Self::AdoptSnapshot(reply, result) => _ = reply.send(for_adopter().map_or(result, Err)),
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
