//! Turns calls into groups, on the thread that has the lock.
//!
//! The worker owns the log and is its only writer. It poisons the log when the outcome of a write
//! is unknown.

use std::{
    collections::HashSet,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{debug, error};

use super::{
    call::SequencerCall,
    existing::SentEvent,
    group::OpenGroup,
    group_error::GroupError,
    lookup::Lookup,
    marks::WaitingMarks,
    poisoned::{Poisoned, PoisonedBy},
    reply::GroupOutcome,
    step::{AdmissionCheck, Step},
};
use crate::{
    crash_point::CrashPoint,
    error::StoreError,
    event::EventId,
    index::{Index, IndexBatch},
    log::{Log, Tip, WriteError},
    refusals,
    stats::Counters,
};

/// The write end of the log, and what a group needs beside it.
pub(super) struct Worker {
    log: Log,
    index: Arc<Index>,
    lookup: Lookup,
    admission: Arc<AdmissionCheck>,
    counters: Arc<Counters>,
    pub published: watch::Sender<Tip>,
    pub marks: WaitingMarks,
    pub lingers: Arc<AtomicBool>,
    pub poisoned: watch::Sender<Option<Arc<Poisoned>>>,
    last_groups: LastGroups,
}

/// What the last groups tell about the next one.
#[derive(Debug, Default)]
struct LastGroups {
    /// The number of groups in a row that had at most one call.
    single: u32,
    /// How long the last write took, with its sync. Not every group writes.
    write: Duration,
}

impl LastGroups {
    /// With several callers, there are groups of one call, too, but not so many in a row.
    const SINGLE_MIN: u32 = 16;
    /// If a write takes longer, two handovers to another thread do not matter beside it, and no
    /// worker of the async runtime should be blocked for so long. The disks of machines that run
    /// tests may be slow at times.
    const WRITE_MAX: Duration = Duration::from_millis(if cfg!(test) { 1000 } else { 1 });

    fn add(&mut self, calls: usize) {
        self.single = if calls <= 1 { self.single.saturating_add(1) } else { 0 };
    }

    fn lets_callers_write(&self) -> bool {
        self.single >= Self::SINGLE_MIN && self.write <= Self::WRITE_MAX
    }
}

impl Worker {
    pub(super) fn new(
        log: Log,
        lookup: Lookup,
        admission: Arc<AdmissionCheck>,
        counters: Arc<Counters>,
    ) -> Self {
        let in_doubt = &lookup.settings.in_doubt;
        let read_only = log.has_failed().then(|| Arc::new(Poisoned::read_only(in_doubt.clone())));
        Self {
            published: watch::Sender::new(log.tip()),
            log,
            index: lookup.index.clone(),
            lookup,
            admission,
            counters,
            marks: WaitingMarks::default(),
            lingers: Arc::new(AtomicBool::new(false)),
            poisoned: watch::Sender::new(read_only),
            last_groups: LastGroups::default(),
        }
    }

    /// Returns whether the next call probably comes alone, too, and the disk is fast enough for its
    /// caller to write.
    pub(super) fn lets_callers_write(&self) -> bool {
        self.last_groups.lets_callers_write()
    }

    pub(super) fn lingers(&self) -> bool {
        self.lingers.load(Ordering::Acquire)
    }

    /// Writes what waits, and closes the log.
    pub(super) fn close(mut self) {
        self.write_marks();
        if let Err(error) = self.log.close() {
            error!(%error, "cannot close the local log");
        }
    }

    /// Makes one group of the first call and of those that come after it until the group is full:
    /// writes it, publishes it, and sends the answers. Returns a call that must come after the
    /// group.
    pub(super) fn step(&mut self, mut calls: impl Iterator<Item = SequencerCall>) -> Option<SequencerCall> {
        let group = match self.begin() {
            Ok(group) => group,
            Err(error) => {
                if let Some(first) = calls.next() {
                    self.refuse(first, &error);
                }
                return None;
            }
        };
        let mut step = Step::new(group, &self.lookup, self.admission.clone());
        let mut left = None;
        for call in calls {
            left = step.take(&self.lookup, call);
            if left.is_some() || step.is_full() {
                break;
            }
        }
        self.finish(step);
        left
    }

    /// Begins a new group, which includes the waiting replication marks.
    fn begin(&mut self) -> Result<OpenGroup, GroupError> {
        let frames = self.log.begin().map_err(|error| match error {
            // Creating a new segment failed. Nothing was written for the calls of this group.
            WriteError::Unknown(source) => {
                self.poison(PoisonedBy::NewSegment(source), HashSet::new());
                WriteError::Failed
            }
            other @ (WriteError::NotWritten(_) | WriteError::Failed) => other,
        })?;
        Ok(OpenGroup::new(frames, &self.lookup, self.marks.take()))
    }

    /// Writes the group, makes it findable, publishes the tip, and sends the answers.
    fn finish(&mut self, step: Step) {
        let Step { group, answers, .. } = step;
        let OpenGroup { frames, mut entries, events, broken, marks, .. } = group;
        let tip = frames.tip();
        entries.reach(tip);
        self.last_groups.add(answers.len());
        let written = if broken {
            Err(GroupError::Broken)
        } else if frames.is_empty() {
            Ok(())
        } else {
            let began = Instant::now();
            let written = self.log.write(frames).map_err(GroupError::from);
            self.last_groups.write = began.elapsed();
            written
        };
        CrashPoint::AfterLocalSync.reached();
        if written.is_ok() {
            self.publish(entries, tip);
        }
        if !answers.is_empty() {
            CrashPoint::BeforeAnswer.reached();
        }
        if let Err(error) = &written {
            self.marks.put_back(marks);
            // Before the answers: a client that retries with the same ids must get the same result.
            self.not_stored(error, events.into_keys().collect());
        }
        let outcome = GroupOutcome {
            failed: written.as_ref().err(),
            published: self.published.borrow().position,
            settings: &self.lookup.settings,
            counters: &self.counters,
        };
        answers.into_iter().for_each(|answer| answer.send(&outcome));
    }

    /// Writes the waiting replication marks. A crash may lose them.
    pub(super) fn write_marks(&mut self) {
        if self.marks.is_empty() {
            return;
        }
        let Ok(group) = self.begin() else { return };
        let OpenGroup { frames, mut entries, marks, .. } = group;
        let tip = frames.tip();
        entries.reach(tip);
        match self.log.write(frames).map_err(GroupError::from) {
            Ok(()) => self.publish(entries, tip),
            Err(error) => {
                debug!(%error, "cannot write a replication mark");
                self.marks.put_back(marks);
                self.not_stored(&error, HashSet::new());
            }
        }
    }

    /// Makes a written group findable and advances the tip, in one step.
    fn publish(&self, entries: IndexBatch, tip: Tip) {
        let published = || {
            _ = self.published.send_if_modified(|published| mem::replace(published, tip) != tip);
        };
        self.index.add(entries, published);
    }

    /// Handles a group that was not written, or whose outcome is unknown.
    fn not_stored(&mut self, error: &GroupError, events: HashSet<EventId>) {
        match error {
            GroupError::Write(WriteError::Unknown(source)) => {
                self.poison(PoisonedBy::Group(source.clone()), events);
            }
            // Nothing of the group was written.
            GroupError::Broken => refusals::failed("appends fail because the index cannot be read", error),
            GroupError::Write(WriteError::NotWritten(_) | WriteError::Failed) => {
                refusals::failed("writes to the local log fail", error);
            }
        }
    }

    /// Poisons the log: nothing is written before a restart. The first reason is kept.
    fn poison(&mut self, by: PoisonedBy, in_doubt: HashSet<EventId>) {
        self.log.fail();
        let poisoned = Poisoned { by, in_doubt };
        self.poisoned.send_if_modified(|known| match known {
            Some(_) => false,
            None => {
                error!(
                    reason = poisoned.by.to_string(),
                    events_in_doubt = poisoned.in_doubt.len(),
                    "the local log is poisoned: writes are refused until the service has been restarted"
                );
                *known = Some(Arc::new(poisoned));
                true
            }
        });
    }

    /// Answers a call for which no group could begin.
    fn refuse(&self, call: SequencerCall, error: &GroupError) {
        let settings = &self.lookup.settings;
        match call {
            SequencerCall::Append { append, reply, .. } => {
                let poisoned = self.poisoned.borrow().clone();
                let in_doubt = poisoned.is_some_and(|poisoned| poisoned.leaves_in_doubt(&append));
                let sent = SentEvent::all_of(&append);
                let answer = match self.lookup.find(&sent) {
                    _ if in_doubt => Err(StoreError::OutcomeUnknown),
                    Ok(Some(existing)) => {
                        Ok(existing.into_stored(&sent, &settings.thresholds, |id| self.lookup.head(id)))
                    }
                    Err(unknown @ (StoreError::Conflict(_) | StoreError::OutcomeUnknown)) => Err(unknown),
                    Ok(None) | Err(_) => Err(error.for_caller(settings)),
                };
                _ = reply.send(answer);
            }
            SequencerCall::Snapshot { reply, .. } => _ = reply.send(Err(error.for_caller(settings))),
            SequencerCall::Restore { reply, .. } => _ = reply.send(Err(error.clone().into())),
            SequencerCall::RestoreSnapshot { reply, .. } => _ = reply.send(Err(error.clone().into())),
            SequencerCall::MarksWaiting | SequencerCall::Stop => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use tempfile::{TempDir, tempdir};
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        error::Conflict,
        event::{AggregateId, AppendBounds, Position, SequenceNumber},
        log::Lock,
        sequencer::{
            append::{Append, StoredAppend},
            queue::{Origin, QueueLimits},
            tests::{in_folder, one_event, open},
            under_way::AppendsUnderWay,
        },
        storage::Storage,
    };

    type Answer = oneshot::Receiver<Result<StoredAppend, StoreError>>;

    fn worker(folder: &TempDir) -> (Worker, Lock) {
        let (Storage { lock, log, index, .. }, settings) = open(&in_folder(folder));
        let lookup = Lookup { index, segments: log.segments().clone(), settings: Arc::new(settings) };
        (Worker::new(log, lookup, Arc::new(|_| Ok(())), Arc::default()), lock)
    }

    fn call(append: Append, limits: &QueueLimits) -> (SequencerCall, Answer) {
        let (reply, answer) = oneshot::channel();
        let permit = limits.acquire(Origin::default(), 0).unwrap();
        let under_way = AppendsUnderWay::default().begin(&append, None);
        let recorded_by = "".into();
        (SequencerCall::Append { append, absent_up_to: None, recorded_by, permit, reply, under_way }, answer)
    }

    #[test]
    fn only_after_groups_of_one_call_and_a_fast_write_may_callers_write() {
        let mut last = LastGroups { single: 15, write: Duration::from_millis(1) };
        assert!(!last.lets_callers_write());
        last.add(1);
        assert!(last.lets_callers_write());
        last.write = Duration::from_secs(2);
        assert!(!last.lets_callers_write());
        last.write = Duration::ZERO;
        last.add(2);
        assert!(!last.lets_callers_write());
        // A group that writes nothing says nothing about the disk.
        let folder = tempdir().unwrap();
        let (mut worker, _lock) = worker(&folder);
        worker.last_groups = LastGroups { single: 100, write: Duration::from_secs(2) };
        let limits = QueueLimits::new(&worker.lookup.settings);
        let expected = vec![(AggregateId::new("room-1").unwrap(), SequenceNumber(7))];
        let (refused, mut answer) = call(Append { expected, ..one_event("room-1") }, &limits);
        worker.step(iter::once(refused));
        answer.try_recv().unwrap().unwrap_err();
        assert!(!worker.lets_callers_write());
    }

    #[test]
    fn a_step_stores_its_calls_and_answers_each_without_a_thread() {
        let folder = tempdir().unwrap();
        let (mut worker, _lock) = worker(&folder);
        let limits = QueueLimits::new(&worker.lookup.settings);
        let room = AggregateId::new("room-1").unwrap();
        // The last call expects what the second one changes.
        let expecting = |last| {
            let expected = vec![(room.clone(), SequenceNumber(last))];
            call(Append { expected, ..one_event("room-1") }, &limits)
        };
        let (calls, mut answers): (Vec<_>, Vec<_>) = [0, 1, 1].map(expecting).into_iter().unzip();
        assert!(worker.step(calls.into_iter()).is_none());
        let mut answered = answers.iter_mut().map(|answer| answer.try_recv().unwrap());
        for number in [1, 2] {
            let stored = answered.next().unwrap().unwrap();
            assert_eq!(stored.bounds, AppendBounds { first: Position(number), last: Position(number) });
            assert_eq!(stored.aggregates[0].last, SequenceNumber(number));
            assert!(!stored.already);
        }
        let refused = answered.next().unwrap().unwrap_err();
        let StoreError::Conflict(Conflict::WrongExpectedSequence { actual, .. }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(actual, SequenceNumber(2));
        // What was acknowledged is published, counted, findable, and can be read from the log.
        assert_eq!(worker.published.borrow().position, Position(2));
        assert_eq!(worker.counters.events_stored.get(), 2);
        assert_eq!(worker.lookup.head(&room).unwrap().unwrap().last, SequenceNumber(2));
        let hash = worker.lookup.event_hash(&room, SequenceNumber(2)).unwrap();
        assert_eq!(hash, worker.log.tip().hash);
    }
}
