//! Gives every event its sequence number and position, on one thread at a time.
//!
//! The sequencer thread takes the waiting calls as one group and checks each append against
//! everything before it: event ids first, then expectations. It writes the group to the local log
//! with one sync, makes it findable in the index, and only then answers. No answer, not even a
//! rejection, is sent before the sync of the group on which it is based. An append that arrives
//! while nothing else is under way is a group of its own, on the thread of its caller. The
//! sequencer owns the write end of the log. Commits in ImmuDB happen later and are left to the
//! forwarder.
//!
//! A call passes through these files: `worker_lock` decides whether it is handled on its caller's
//! thread. Otherwise, `queue` limits what waits, and `queue_loop` is the loop of the sequencer
//! thread. The `worker` makes a `step`, which takes the calls of one `group`. For an append,
//! `existing` finds out whether it is a retry, `expectations` checks it, and `numbering` gives it
//! its numbers. At the end, the worker writes the group, and `reply` sends the answers. Only the
//! worker writes: a step and the checks read what is stored through a `lookup`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot, watch};
use tracing::error;

use crate::{
    clock::EventClock,
    error::{FailedPrecondition, Limit, StoreError, Unavailable},
    event::{AggregateId, Snapshot, record::ReplicationMark},
    index::{AbsentUpTo, Head, Index, Presence, Upkeep},
    log::{Log, Tip},
    stats::Counters,
};

mod append;
mod call;
mod existing;
mod expectations;
mod group;
mod group_error;
mod lookup;
mod marks;
mod numbering;
mod poisoned;
mod queue;
mod queue_loop;
mod reply;
mod restore;
mod restored;
mod settings;
mod snapshot;
mod step;
mod thresholds;
mod under_way;
mod worker;
mod worker_lock;

pub use append::{Append, StoredAggregate, StoredAppend, StoredSnapshot};
use call::SequencerCall;
pub use existing::EarlierAttempt;
use existing::SentEvent;
pub use group_error::GroupError;
use lookup::Lookup;
use marks::WaitingMarks;
pub use poisoned::{Poisoned, PoisonedBy};
pub use queue::Origin;
use queue::QueueLimits;
use queue_loop::QueueLoop;
pub use restored::{Discontinuity, RestoreError, RestoredTransaction};
pub use settings::Settings;
pub use step::AdmissionCheck;
pub use thresholds::SnapshotThresholds;
use under_way::AppendsUnderWay;
pub use under_way::UnderWay;

use worker::Worker;
use worker_lock::{GroupPanicked, WorkerLock};

/// The maximum number of concurrent lookups of stored events.
const LOOKING_UP_MAX: usize = 8;

/// A handle to the sequencer thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sequencer {
    calls: SyncSender<SequencerCall>,
    queue_limits: QueueLimits,
    marks: WaitingMarks,
    lingers: Arc<AtomicBool>,
    worker_lock: Arc<WorkerLock>,
    thread: std::thread::Thread,
    lookup: Lookup,
    tip: watch::Receiver<Tip>,
    /// Permits for lookups of stored events.
    looking_up: Arc<Semaphore>,
    poisoned: watch::Receiver<Option<Arc<Poisoned>>>,
    under_way: AppendsUnderWay,
}

/// The running thread. It is joined at shutdown.
#[derive(Debug)]
pub struct SequencerThread {
    thread: std::thread::JoinHandle<Result<(), GroupPanicked>>,
}

impl SequencerThread {
    /// Waits for the thread to end after [`Sequencer::stop`]. Returns false if it panicked, or if a
    /// group panicked on the thread of its caller.
    pub fn join(self) -> bool {
        match self.thread.join() {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                error!(%error, "the sequencer ended");
                false
            }
            Err(_) => {
                error!("the sequencer panicked");
                false
            }
        }
    }
}

impl Sequencer {
    /// Starts the thread. The tip it publishes covers only what is durable and findable.
    ///
    /// # Errors
    /// Returns an error if a thread cannot be started.
    pub fn start(
        log: Log,
        index: Arc<Index>,
        settings: Settings,
        admission: Arc<AdmissionCheck>,
        counters: Arc<Counters>,
    ) -> std::io::Result<(Self, SequencerThread)> {
        let (calls, waiting) = sync_channel(settings.calls_waiting_max);
        let upkeep = Upkeep::start(index.clone())?;
        let segments = log.segments().clone();
        let lookup = Lookup { index, segments, settings: Arc::new(settings) };
        let worker = Worker::new(log, lookup.clone(), admission, counters);
        let (marks, lingers) = (worker.marks.clone(), worker.lingers.clone());
        let (tip, poisoned) = (worker.published.subscribe(), worker.poisoned.subscribe());
        let worker_lock = Arc::new(WorkerLock::new(worker));
        let queue_loop = QueueLoop::new(worker_lock.clone(), waiting, marks.clone(), lingers.clone());
        let thread = std::thread::Builder::new().name("sequencer".into()).spawn(move || {
            // Dropped when the worker has ended. That writes the whole index to files.
            let _upkeep = upkeep;
            queue_loop.run()
        })?;
        let sequencer = Self {
            calls,
            queue_limits: QueueLimits::new(&lookup.settings),
            marks,
            lingers,
            worker_lock,
            thread: thread.thread().clone(),
            lookup,
            tip,
            looking_up: Arc::new(Semaphore::new(LOOKING_UP_MAX)),
            poisoned,
            under_way: AppendsUnderWay::default(),
        };
        Ok((sequencer, SequencerThread { thread }))
    }

    /// Returns the tip: the log is durable and findable up to here.
    pub fn tip(&self) -> Tip {
        *self.tip.borrow()
    }

    /// Returns a receiver that is notified of every change of the tip.
    pub fn watch_tip(&self) -> watch::Receiver<Tip> {
        self.tip.clone()
    }

    /// Checks that the log accepts writes and that its disk has room for them.
    ///
    /// # Errors
    /// Returns an error if the log is poisoned, if the disk has less free space than configured, or
    /// if the time is not known.
    pub fn admit_log(&self) -> Result<(), StoreError> {
        if self.poisoned().is_some() {
            return Err(FailedPrecondition::LocalLogFailed.into());
        }
        let settings = &self.lookup.settings;
        settings.clock.time()?;
        if settings.disk_is_full() { Err(settings.disk_full()) } else { Ok(()) }
    }

    /// Returns the clock that determines when events are recorded.
    pub fn clock(&self) -> &EventClock {
        &self.lookup.settings.clock
    }

    /// Returns whether an aggregate is due for a snapshot.
    pub fn snapshot_due(&self, id: &AggregateId, head: &Head) -> bool {
        self.lookup.settings.thresholds.is_due(id, head)
    }

    /// Resolves when the thread has ended. Nothing is stored after that.
    pub async fn ended(&self) {
        // Not the tip, which changes with every append.
        let mut poisoned = self.poisoned.clone();
        while poisoned.changed().await.is_ok() {}
    }

    /// Returns why the log is poisoned, or `None` if it is not.
    pub fn poisoned(&self) -> Option<Arc<Poisoned>> {
        self.poisoned.borrow().clone()
    }

    /// Resolves when the log is poisoned.
    pub async fn until_poisoned(&self) -> Arc<Poisoned> {
        let mut poisoned = self.poisoned.clone();
        if let Ok(found) = poisoned.wait_for(Option::is_some).await
            && let Some(found) = found.clone()
        {
            return found;
        }
        std::future::pending().await
    }

    /// Looks up the answer to an earlier attempt at this append, whatever the state of the service.
    /// An append that is not found may still be under way.
    ///
    /// # Errors
    /// Returns an error if its ids were used for a different append, if its outcome cannot be known
    /// before a restart, or if the stored events cannot be read.
    pub async fn stored_before(&self, append: &Append) -> Result<EarlierAttempt, StoreError> {
        if self.poisoned.borrow().as_ref().is_some_and(|poisoned| poisoned.leaves_in_doubt(append)) {
            return Err(StoreError::OutcomeUnknown);
        }
        let sent = SentEvent::all_of(append);
        let suspected = match self.lookup.presence(&sent) {
            Presence::Absent(up_to) => return Ok(EarlierAttempt::NotFound { absent_up_to: Some(up_to) }),
            Presence::Suspected(ids, up_to) => Some((ids, up_to)),
            Presence::Present => None,
        };
        const NOT_FOUND: EarlierAttempt = EarlierAttempt::NotFound { absent_up_to: None };
        let Ok(place) = self.looking_up.clone().acquire_owned().await else { return Ok(NOT_FOUND) };
        let (lookup, tip) = (self.lookup.clone(), self.tip());
        let looked_up = tokio::task::spawn_blocking(move || {
            // The permit is held until the lookup ends, even if the caller is gone.
            let _place = place;
            // Most suspects are false positives of a filter. The other events need no second look.
            if let Some((_, up_to)) = suspected.filter(|(ids, _)| lookup.are_absent(ids)) {
                return Ok(EarlierAttempt::NotFound { absent_up_to: Some(up_to) });
            }
            let found = lookup.find(&sent)?.filter(|found| found.bounds.last <= tip.position);
            Ok(found.map_or(NOT_FOUND, |found| {
                let thresholds = &lookup.settings.thresholds;
                EarlierAttempt::Stored(found.into_stored(&sent, thresholds, |id| lookup.head(id)))
            }))
        });
        looked_up.await.unwrap_or(Ok(NOT_FOUND))
    }

    /// Stores the events durably in the local log, all or none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn append(&self, append: Append, origin: Origin) -> Result<StoredAppend, StoreError> {
        let under_way = self.under_way(&append, &origin);
        let absent_up_to = self.lookup.absent_up_to(&SentEvent::all_of(&append));
        self.append_under_way(append, absent_up_to, origin, under_way).await
    }

    /// Registers an append as under way until it is decided or discarded.
    pub fn under_way(&self, append: &Append, origin: &Origin) -> UnderWay {
        self.under_way.begin(append, origin.kept.clone())
    }

    /// Resolves when the attempts at this append that are under way now are over.
    pub async fn until_decided(&self, append: &Append) {
        self.under_way.until_over(append).await;
    }

    /// Stores an append that is already registered as under way and was not found in the log. See
    /// [`Sequencer::append`].
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn append_under_way(
        &self,
        append: Append,
        absent_up_to: Option<AbsentUpTo>,
        origin: Origin,
        under_way: UnderWay,
    ) -> Result<StoredAppend, StoreError> {
        let recorded_by = origin.recorded_by.clone();
        let bytes = append.byte_count();
        let permit = self.queue_limits.acquire(origin, bytes)?;
        let (reply, answer) = oneshot::channel();
        let call = SequencerCall::Append { append, absent_up_to, recorded_by, permit, reply, under_way };
        if let Some(call) = self.worker_lock.try_on_caller(call, bytes) {
            self.send(call)?;
        }
        answer.await.unwrap_or(Err(StoreError::OutcomeUnknown))
    }

    /// Stores a snapshot durably in the local log. The sequencer sets its hash and its time.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn snapshot(&self, snapshot: Snapshot, origin: Origin) -> Result<StoredSnapshot, StoreError> {
        let bytes = append::byte_count(&snapshot.content, &snapshot.metadata);
        let permit = self.queue_limits.acquire(origin, bytes)?;
        let (reply, answer) = oneshot::channel();
        self.send(SequencerCall::Snapshot { snapshot, permit, reply })?;
        answer.await.unwrap_or(Err(StoreError::OutcomeUnknown))
    }

    /// Stores whole appends unchanged, as restored from ImmuDB or from event files. They must
    /// continue the log.
    ///
    /// # Errors
    /// Returns an error if they do not continue the log, or if the log cannot be written.
    pub async fn restore(&self, transactions: Vec<RestoredTransaction>) -> Result<Tip, RestoreError> {
        let (reply, answer) = oneshot::channel();
        self.send_patiently(SequencerCall::Restore { transactions, reply }).await?;
        answer.await.unwrap_or(Err(RestoreError::Stopped))
    }

    /// Stores a restored snapshot record unchanged.
    ///
    /// # Errors
    /// Returns an error if the log cannot be written.
    pub async fn restore_snapshot(&self, record: Bytes) -> Result<(), RestoreError> {
        let (reply, answer) = oneshot::channel();
        self.send_patiently(SequencerCall::RestoreSnapshot { record, reply }).await?;
        answer.await.unwrap_or(Err(RestoreError::Stopped))
    }

    /// Queues a replication mark for the next group. A crash may lose the mark, which does no harm:
    /// ImmuDB's own head holds the same information.
    pub fn mark(&self, mark: ReplicationMark) {
        self.marks.push(mark);
        // A full queue means that a group is about to be assembled, and it will include the mark.
        let _ = self.try_send(SequencerCall::MarksWaiting);
    }

    /// Sets whether the thread lingers. While clients have to wait for something else after the
    /// sync, there is time to gather many calls into one group.
    pub fn lingers(&self, lingers: bool) {
        self.lingers.store(lingers, Ordering::Release);
        if !lingers {
            self.thread.unpark();
        }
    }

    /// Resolves when all calls made earlier have been answered.
    pub async fn drain(&self) {
        let _ = self.restore(Vec::new()).await;
    }

    /// Makes the thread end once it has answered all waiting calls.
    pub async fn stop(&self) {
        let _ = self.send_patiently(SequencerCall::Stop).await;
    }

    fn send(&self, call: SequencerCall) -> Result<(), StoreError> {
        self.try_send(call).map_err(|error| match error {
            TrySendError::Full(_) => self.queue_full(),
            TrySendError::Disconnected(_) => StoreError::Unavailable(Unavailable::ShuttingDown),
        })
    }

    async fn send_patiently(&self, mut call: SequencerCall) -> Result<(), RestoreError> {
        const PAUSE: Duration = Duration::from_millis(1);
        loop {
            match self.try_send(call) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(RestoreError::Stopped),
                Err(TrySendError::Full(back)) => call = back,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    #[expect(clippy::result_large_err, reason = "the call comes back, as from the channel")]
    fn try_send(&self, call: SequencerCall) -> Result<(), TrySendError<SequencerCall>> {
        self.worker_lock.enter();
        self.calls.try_send(call).inspect_err(|_| self.worker_lock.leave())
    }

    fn queue_full(&self) -> StoreError {
        StoreError::Full {
            limit: Limit::CallsWaiting,
            max: self.lookup.settings.calls_waiting_max as u64,
            share: None,
            retry_after: Duration::from_millis(100),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
