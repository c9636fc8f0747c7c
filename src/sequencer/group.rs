//! One group: the frames, what they add to the index, and the answers that wait for its sync.

use std::{collections::HashMap, sync::PoisonError};

use tracing::{debug, error};

use super::{AdoptError, Call, GroupError, Reply, SnapshotStored, Stored, Worker, disk_full, judge::Known};
use crate::{
    crash_point::CrashPoint,
    event::{
        EventId, Timestamp,
        record::{self, ForwardedMark},
    },
    index::Entries,
    log::{Group, Tip, WriteError},
    store::StoreError,
};

/// A group while it is put together.
pub(super) struct OpenGroup {
    pub frames: Group,
    pub entries: Entries,
    /// The time of everything in the group.
    pub now: Timestamp,
    /// Events of this group, which can't be looked up in the log yet.
    pub events: HashMap<EventId, Known>,
    /// What was laid out can't be found any more, so nothing of it may be written.
    pub broken: bool,
    /// Asked once for all of it.
    disk_is_full: bool,
    /// The notes that it takes along.
    marks: Vec<ForwardedMark>,
    answers: Vec<Answer>,
}

enum Answer {
    Append(Reply<Stored>, Result<Stored, StoreError>),
    Snapshot(Reply<SnapshotStored>, Result<SnapshotStored, StoreError>),
    Adopt(Reply<Tip, AdoptError>, Result<Tip, AdoptError>),
    AdoptSnapshot(Reply<(), AdoptError>, Result<(), AdoptError>),
}

impl OpenGroup {
    /// Judges a call and adds what it stores. A call that needs this group to be written first comes back.
    pub fn take(&mut self, worker: &mut Worker, call: Call) -> Option<Call> {
        match call {
            Call::Append { append, weight, reply } => {
                drop(weight);
                let result = self.admit(worker).and_then(|()| self.append(worker, append));
                self.answers.push(Answer::Append(reply, result));
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

    fn admit(&self, worker: &Worker) -> Result<(), StoreError> {
        (worker.admission)(self.frames.tip())?;
        match self.disk_is_full {
            true => Err(disk_full(worker.settings.disk_free_min)),
            false => Ok(()),
        }
    }
}

impl Worker {
    /// A new group, which takes along the notes that wait.
    pub(super) fn begin(&mut self) -> Result<OpenGroup, GroupError> {
        if self.index.has_failed() {
            // What is written now could not be found.
            self.log.fail();
        }
        let frames = self.log.begin()?;
        let entries = Entries::new(&self.index);
        // The clock may be set back; recorded times never run backwards.
        let now = Timestamp::now().max(entries.complete().recorded_at);
        self.marks_due = None;
        let marks = std::mem::take(&mut *self.marks.lock().unwrap_or_else(PoisonError::into_inner));
        let (events, answers) = (HashMap::new(), Vec::new());
        let disk_is_full = self.disk_is_full();
        let mut group =
            OpenGroup { frames, entries, now, events, broken: false, disk_is_full, marks, answers };
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
        let OpenGroup { frames, mut entries, answers, broken, marks, .. } = group;
        let tip = frames.tip();
        entries.reach(tip);
        let written = match frames.is_empty() {
            _ if broken => Err(GroupError::Broken),
            true => Ok(()),
            false => self.log.write(frames).map_err(GroupError::from),
        };
        CrashPoint::AfterLocalSync.reached();
        let written = written.and_then(|()| Ok(self.index.add(entries)?));
        if !answers.is_empty() {
            CrashPoint::BeforeAnswer.reached();
        }
        match &written {
            Ok(()) => {
                _ = self.published.send_if_modified(|published| std::mem::replace(published, tip) != tip)
            }
            Err(error) => {
                error!(%error, "a group could not be stored");
                self.keep_marks(marks);
                if matches!(error, GroupError::Index(_) | GroupError::Broken) {
                    // The log has what the index lacks: only a restart brings them together.
                    self.log.fail();
                }
            }
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
        match written.and_then(|()| Ok(self.index.add(group.entries)?)) {
            Ok(()) => {
                _ = self.published.send_if_modified(|published| std::mem::replace(published, tip) != tip)
            }
            Err(error) => {
                debug!(%error, "a note of the forwarded position was not written");
                self.keep_marks(group.marks);
                if matches!(error, GroupError::Index(_)) {
                    self.log.fail();
                }
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
                GroupError::Write(_) | GroupError::Index(_) | GroupError::Broken => {
                    AdoptError::Failed(error.to_string())
                }
            })
        };
        // A caller that is gone needs no answer; what it sent is stored all the same.
        match self {
            Self::Append(reply, result) => {
                let result = for_caller().map_or(result, Err);
                if let Ok(stored) = result.as_ref()
                    && !stored.already
                {
                    worker.counters.events_stored.add(stored.bounds.event_count());
                }
                _ = reply.send(result);
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
