//! Runs the single thread that gives every event its sequence number and position.
//!
//! The thread takes the waiting calls as one group and checks each append against everything before
//! it: event ids first, then expectations. It writes the group to the local log with one sync,
//! makes it findable in the index, and only then answers. No answer, not even a rejection, is sent
//! before the sync of the group on which it is based. The sequencer owns the write end of the log.
//! Commits in ImmuDB happen later and are left to the forwarder.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot, watch};
use tracing::error;

use crate::{
    clock::EventClock,
    error::{FailedPrecondition, Limit, StoreError, Unavailable},
    event::{
        AggregateId, AppendBounds, Content, ContentDigest, EventId, NewEvent, SequenceNumber, Snapshot,
        record::ReplicationMark,
    },
    index::{AbsentUpTo, Head, Index, Presence, Upkeep, WaitMode},
    log::{Log, LogOffset, Tip},
    stats::Counters,
};

mod existing;
mod group;
mod numbering;
mod poisoned;
mod queue;
mod replies;
mod restore;
mod settings;
mod under_way;
mod worker;

pub use existing::EarlierAttempt;
use existing::{SentEvent, StoredEvents};
pub use poisoned::{Poisoned, PoisonedBy};
pub use queue::Origin;
use queue::{Waiting, Weight};
use replies::Replies;
pub use restore::{RestoreError, RestoredTransaction};
pub use settings::Settings;
use under_way::AppendsUnderWay;
pub use under_way::UnderWay;
use worker::Worker;

/// The contents of an append request, validated as far as possible without looking at stored
/// events.
#[derive(Debug)]
pub struct Append {
    pub events: Vec<(NewEvent, ContentDigest)>,
    pub expected: Vec<(AggregateId, SequenceNumber)>,
}

impl Append {
    fn byte_count(&self) -> u64 {
        self.events.iter().map(|(event, _)| byte_count(&event.content, &event.metadata)).sum()
    }
}

/// Estimates the memory used by an event or a snapshot.
fn byte_count(content: &Content, metadata: &BTreeMap<String, String>) -> u64 {
    const OVERHEAD: usize = 1024;
    const ENTRY_OVERHEAD: usize = 64;
    let entries = metadata.iter().map(|(key, value)| key.len() + value.len() + ENTRY_OVERHEAD);
    (content.byte_count() + entries.sum::<usize>() + OVERHEAD) as u64
}

/// An append that is durable in the local log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAppend {
    pub aggregates: Vec<StoredAggregate>,
    pub event_ids: Vec<EventId>,
    pub bounds: AppendBounds,
    /// Any copy of the log that reaches this offset contains these events.
    pub end: LogOffset,
    /// Whether the events were stored by an earlier call.
    pub already: bool,
}

/// One aggregate's share of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAggregate {
    pub id: AggregateId,
    pub first: SequenceNumber,
    pub last: SequenceNumber,
    pub snapshot_due: bool,
}

/// A snapshot that is durable in the local log. Any copy of the log that reaches `end` contains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredSnapshot {
    pub end: LogOffset,
    /// Whether this snapshot was dropped because a newer one exists.
    pub dropped: bool,
}

type Reply<T, E = StoreError> = oneshot::Sender<Result<T, E>>;

enum SequencerCall {
    Append {
        append: Append,
        /// See [`EarlierAttempt::NotFound`].
        absent_up_to: Option<AbsentUpTo>,
        weight: Weight,
        reply: Reply<StoredAppend>,
        under_way: UnderWay,
    },
    Snapshot {
        snapshot: Snapshot,
        weight: Weight,
        reply: Reply<StoredSnapshot>,
    },
    Restore {
        transactions: Vec<RestoredTransaction>,
        reply: Reply<Tip, RestoreError>,
    },
    RestoreSnapshot {
        record: Bytes,
        reply: Reply<(), RestoreError>,
    },
    /// Wakes the thread to handle the marks in `Marks`. Only a call can wake it.
    MarksWaiting,
    Stop,
}

/// Replication marks waiting for the next group. None is dropped while the service runs: the index
/// uses them to find transactions.
type Marks = Arc<Mutex<Vec<ReplicationMark>>>;

/// The number of events since its last snapshot at which an aggregate is due for a new one.
#[derive(Debug, Clone, Default)]
pub struct SnapshotThresholds {
    pub default: u64,
    pub by_type: BTreeMap<String, u64>,
    pub by_id: BTreeMap<String, u64>,
}

impl SnapshotThresholds {
    fn of(&self, id: &AggregateId, aggregate_type: &str) -> u64 {
        let own = self.by_id.get(id.as_str()).or_else(|| self.by_type.get(aggregate_type));
        own.copied().unwrap_or(self.default)
    }

    fn is_due(&self, id: &AggregateId, head: &Head) -> bool {
        let since = head.snapshot.map_or(0, |snapshot| snapshot.sequence.0);
        head.last.0.saturating_sub(since) >= self.of(id, &head.aggregate_type)
    }
}

/// The maximum number of concurrent lookups of stored events.
const LOOKING_UP_MAX: usize = 8;

/// Checks whether writes are accepted at the moment. Called again just before an append is checked.
pub type AdmissionCheck = dyn Fn(Tip) -> Result<(), StoreError> + Send + Sync;

/// A handle to the sequencer thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sequencer {
    calls: SyncSender<SequencerCall>,
    waiting: Waiting,
    marks: Marks,
    lingers: Arc<AtomicBool>,
    thread: thread::Thread,
    settings: Arc<Settings>,
    tip: watch::Receiver<Tip>,
    stored_events: StoredEvents,
    /// Permits for lookups of stored events.
    looking_up: Arc<Semaphore>,
    poisoned: watch::Receiver<Option<Arc<Poisoned>>>,
    under_way: AppendsUnderWay,
}

/// The running thread. It is joined at shutdown.
#[derive(Debug)]
pub struct SequencerThread {
    thread: thread::JoinHandle<()>,
}

impl SequencerThread {
    /// Waits for the thread to end after [`Sequencer::stop`]. Returns false if the thread panicked.
    pub fn join(self) -> bool {
        self.thread.join().inspect_err(|_| error!("the sequencer panicked")).is_ok()
    }
}

impl std::fmt::Debug for SequencerCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Call")
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
        let marks = Marks::default();
        let lingers = Arc::new(AtomicBool::new(false));
        let settings = Arc::new(settings);
        let (published, tip) = watch::channel(log.tip());
        let read_only = log.has_failed().then(|| Arc::new(Poisoned::read_only(settings.in_doubt.clone())));
        let (poisoning, poisoned) = watch::channel(read_only);
        let (own, segments) = (index.clone(), log.segments().clone());
        let stored_events = StoredEvents { index: own, segments };
        let upkeep = Upkeep::start(index.clone())?;
        let worker = Worker {
            log,
            _upkeep: upkeep,
            index,
            settings: settings.clone(),
            admission,
            counters,
            published,
            marks: marks.clone(),
            marks_due: None,
            lingers: lingers.clone(),
            stored_events: stored_events.clone(),
            poisoned: poisoning,
            replies: Replies::start(),
        };
        let thread = thread::Builder::new().name("sequencer".into()).spawn(move || worker.run(&waiting))?;
        let sequencer = Self {
            calls,
            waiting: Waiting::new(&settings),
            marks,
            lingers,
            thread: thread.thread().clone(),
            settings,
            tip,
            stored_events,
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
        self.settings.clock.time()?;
        if self.settings.disk_is_full() { Err(disk_full(self.settings.disk_free_min)) } else { Ok(()) }
    }

    pub fn clock(&self) -> &EventClock {
        &self.settings.clock
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
        let unlikely = match self.stored_events.presence(&sent) {
            Presence::Absent(up_to) => return Ok(EarlierAttempt::NotFound { absent_up_to: Some(up_to) }),
            Presence::Unlikely(ids, up_to) => Some((ids, up_to)),
            Presence::Present => None,
        };
        const NOT_FOUND: EarlierAttempt = EarlierAttempt::NotFound { absent_up_to: None };
        let Ok(place) = self.looking_up.clone().acquire_owned().await else { return Ok(NOT_FOUND) };
        let (stored_events, settings, tip) = (self.stored_events.clone(), self.settings.clone(), self.tip());
        let looked_up = tokio::task::spawn_blocking(move || {
            // The permit is held until the lookup ends, even if the caller is gone.
            let _place = place;
            // Most suspects are false positives of a filter. The other events need no second look.
            if let Some((_, up_to)) = unlikely.filter(|(ids, _)| stored_events.are_absent(ids)) {
                return Ok(EarlierAttempt::NotFound { absent_up_to: Some(up_to) });
            }
            let found = stored_events.find(&sent)?.filter(|found| found.bounds.last <= tip.position);
            let index = &stored_events.index;
            Ok(found.map_or(NOT_FOUND, |found| {
                let head = |id: &AggregateId| index.head_with(id, WaitMode::AtOnce);
                EarlierAttempt::Stored(found.into_stored(&sent, &settings.thresholds, head))
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
        let absent_up_to = self.stored_events.absent_up_to(&SentEvent::all_of(&append));
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
        let weight = self.waiting.weigh(origin, append.byte_count())?;
        let (reply, answer) = oneshot::channel();
        self.send(SequencerCall::Append { append, absent_up_to, weight, reply, under_way })?;
        answer.await.unwrap_or(Err(StoreError::OutcomeUnknown))
    }

    /// Stores a snapshot durably in the local log. The sequencer sets its hash and its time.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn snapshot(&self, snapshot: Snapshot, origin: Origin) -> Result<StoredSnapshot, StoreError> {
        let bytes = byte_count(&snapshot.content, &snapshot.metadata);
        let weight = self.waiting.weigh(origin, bytes)?;
        let (reply, answer) = oneshot::channel();
        self.send(SequencerCall::Snapshot { snapshot, weight, reply })?;
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
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).push(mark);
        // A full queue means that a group is about to be assembled, and it will include the mark.
        let _ = self.calls.try_send(SequencerCall::MarksWaiting);
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
        self.calls.try_send(call).map_err(|error| match error {
            TrySendError::Full(_) => self.queue_full(),
            TrySendError::Disconnected(_) => StoreError::Unavailable(Unavailable::ShuttingDown),
        })
    }

    async fn send_patiently(&self, mut call: SequencerCall) -> Result<(), RestoreError> {
        const PAUSE: Duration = Duration::from_millis(1);
        loop {
            match self.calls.try_send(call) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(RestoreError::Stopped),
                Err(TrySendError::Full(back)) => call = back,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn queue_full(&self) -> StoreError {
        StoreError::Full {
            limit: Limit::CallsWaiting,
            max: self.settings.calls_waiting_max as u64,
            share: None,
            retry_after: Duration::from_millis(100),
        }
    }
}

fn disk_full(max: u64) -> StoreError {
    StoreError::Full { limit: Limit::DiskFull, max, share: None, retry_after: Duration::from_secs(5) }
}

/// Why a whole group failed.
#[derive(Debug, thiserror::Error)]
enum GroupError {
    #[error(transparent)]
    Write(#[from] crate::log::WriteError),
    #[error("cannot read the index while assembling a group; nothing of it was written")]
    Broken,
}

impl GroupError {
    fn for_caller(&self, settings: &Settings) -> StoreError {
        use crate::log::WriteError;
        use std::io::ErrorKind;
        match self {
            Self::Write(WriteError::NotWritten(error)) => match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => disk_full(settings.disk_free_min),
                _ => StoreError::Unavailable(Unavailable::NotWritten),
            },
            Self::Write(WriteError::Unknown(_)) => StoreError::OutcomeUnknown,
            Self::Broken => StoreError::Unavailable(Unavailable::NotWritten),
            Self::Write(WriteError::Failed) => FailedPrecondition::LocalLogFailed.into(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
