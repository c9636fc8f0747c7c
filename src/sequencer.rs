//! One thread that gives every event its numbers.
//!
//! It takes what is waiting as one group, judges each append against everything before it (event ids,
//! then expectations), writes the group into the local log with one sync, makes it findable, and only
//! then answers: no answer, a refusal included, leaves before the sync that it was judged on. It owns the
//! writing end of the log; what ImmuDB has to say comes later, and from the forwarder.

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
    event::{
        AggregateId, AppendBounds, Content, ContentDigest, EventId, NewEvent, SequenceNumber, Snapshot,
        record::ForwardedMark,
    },
    index::{AbsentUpTo, Head, Index, Patience, Upkeep},
    log::{Log, Place, Tip},
    stats::Counters,
    store::{Limit, Precondition, StoreError, Unavailable},
};

mod adopt;
mod existing;
mod group;
mod judge;
mod poisoned;
mod settings;
mod under_way;
mod waiting;
mod worker;

pub use adopt::{AdoptError, AdoptedTransaction};
pub use existing::Earlier;
use existing::{SentEvent, StoredEvents};
pub use poisoned::{Poisoned, PoisonedBy};
pub use settings::Settings;
use under_way::AppendsUnderWay;
pub use under_way::UnderWay;
pub use waiting::Origin;
use waiting::{Waiting, Weight};
use worker::Worker;

/// What an append asks for, checked as far as that goes without knowing what is stored.
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

/// About as much memory as an event or a snapshot takes.
fn byte_count(content: &Content, metadata: &BTreeMap<String, String>) -> u64 {
    const OVERHEAD: usize = 1024;
    const ENTRY_OVERHEAD: usize = 64;
    let entries = metadata.iter().map(|(key, value)| key.len() + value.len() + ENTRY_OVERHEAD);
    (content.byte_count() + entries.sum::<usize>() + OVERHEAD) as u64
}

/// An append that is durable here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub aggregates: Vec<StoredAggregate>,
    pub event_ids: Vec<EventId>,
    pub bounds: AppendBounds,
    /// Whoever has the log up to here has these events.
    pub end: Place,
    /// They were stored by an earlier call.
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

/// A snapshot that is durable here: whoever has the log up to `end` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotStored {
    pub end: Place,
    /// A newer one was there, and this one was dropped.
    pub dropped: bool,
}

type Reply<T, E = StoreError> = oneshot::Sender<Result<T, E>>;

enum Call {
    Append {
        append: Append,
        /// As in [`Earlier::NotFound`].
        absent_up_to: Option<AbsentUpTo>,
        weight: Weight,
        reply: Reply<Stored>,
        under_way: UnderWay,
    },
    Snapshot {
        snapshot: Snapshot,
        weight: Weight,
        reply: Reply<SnapshotStored>,
    },
    Adopt {
        transactions: Vec<AdoptedTransaction>,
        reply: Reply<Tip, AdoptError>,
    },
    AdoptSnapshot {
        record: Bytes,
        reply: Reply<(), AdoptError>,
    },
    /// Nothing wakes the thread but a call: there are notes in `Marks`.
    MarksWaiting,
    Stop,
}

/// Notes of how far ImmuDB has the log, for the next group. None is ever dropped: the index finds
/// transactions by them.
type Marks = Arc<Mutex<Vec<ForwardedMark>>>;

/// When an aggregate is due for a snapshot, in events since the last.
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

/// Stored events are looked up by so many callers at once.
const LOOKING_UP_MAX: usize = 8;

/// Says whether writes are taken at this moment; asked again just before an append is judged.
pub type Admission = dyn Fn(Tip) -> Result<(), StoreError> + Send + Sync;

/// The way to the sequencer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sequencer {
    calls: SyncSender<Call>,
    waiting: Waiting,
    marks: Marks,
    unhurried: Arc<AtomicBool>,
    thread: thread::Thread,
    settings: Arc<Settings>,
    tip: watch::Receiver<Tip>,
    stored_events: StoredEvents,
    /// Places of those who look stored events up.
    looking_up: Arc<Semaphore>,
    poisoned: watch::Receiver<Option<Arc<Poisoned>>>,
    under_way: AppendsUnderWay,
}

/// The running thread; joined at shutdown.
#[derive(Debug)]
pub struct Running {
    thread: thread::JoinHandle<()>,
}

impl Running {
    /// Waits for the thread's end, after [`Sequencer::stop`]. False if it panicked.
    pub fn join(self) -> bool {
        self.thread.join().inspect_err(|_| error!("the sequencer panicked")).is_ok()
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Call")
    }
}

impl Sequencer {
    /// Starts the thread. `tip` hears how far the log goes, once that is durable and can be found.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(
        log: Log,
        index: Arc<Index>,
        settings: Settings,
        admission: Arc<Admission>,
        counters: Arc<Counters>,
    ) -> std::io::Result<(Self, Running)> {
        let (calls, waiting) = sync_channel(settings.calls_waiting_max);
        let marks = Marks::default();
        let unhurried = Arc::new(AtomicBool::new(false));
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
            unhurried: unhurried.clone(),
            stored_events: stored_events.clone(),
            poisoned: poisoning,
        };
        let thread = thread::Builder::new().name("sequencer".into()).spawn(move || worker.run(&waiting))?;
        let sequencer = Self {
            calls,
            waiting: Waiting::new(&settings),
            marks,
            unhurried,
            thread: thread.thread().clone(),
            settings,
            tip,
            stored_events,
            looking_up: Arc::new(Semaphore::new(LOOKING_UP_MAX)),
            poisoned,
            under_way: AppendsUnderWay::default(),
        };
        Ok((sequencer, Running { thread }))
    }

    /// How far the log goes: durable and findable up to here.
    pub fn tip(&self) -> Tip {
        *self.tip.borrow()
    }

    /// The same, to be told of every change.
    pub fn watch_tip(&self) -> watch::Receiver<Tip> {
        self.tip.clone()
    }

    /// Whether the log takes a write, and its disk has room for one.
    ///
    /// # Errors
    /// It is poisoned, the disk as full as it may be, or the time not known.
    pub fn admit_log(&self) -> Result<(), StoreError> {
        if self.poisoned().is_some() {
            return Err(Precondition::LocalLogFailed.into());
        }
        self.settings.clock.time()?;
        match self.settings.disk_is_full() {
            true => Err(disk_full(self.settings.disk_free_min)),
            false => Ok(()),
        }
    }

    pub fn clock(&self) -> &EventClock {
        &self.settings.clock
    }

    /// Resolves when the thread is gone: nothing is stored any more.
    pub async fn ended(&self) {
        let mut tip = self.tip.clone();
        while tip.changed().await.is_ok() {}
    }

    /// Why nothing is written any more, if that is so.
    pub fn poisoned(&self) -> Option<Arc<Poisoned>> {
        self.poisoned.borrow().clone()
    }

    /// Resolves when nothing is written any more.
    pub async fn until_poisoned(&self) -> Arc<Poisoned> {
        let mut poisoned = self.poisoned.clone();
        if let Ok(found) = poisoned.wait_for(Option::is_some).await
            && let Some(found) = found.clone()
        {
            return found;
        }
        std::future::pending().await
    }

    /// The answer to an append that was stored before, whatever the state of the service. One that is not found may be
    /// under way.
    ///
    /// # Errors
    /// Its ids were used for something else, or its outcome can't be known before a restart.
    pub async fn stored_before(&self, append: &Append) -> Result<Earlier, StoreError> {
        if self.poisoned.borrow().as_ref().is_some_and(|poisoned| poisoned.leaves_in_doubt(append)) {
            return Err(StoreError::OutcomeUnknown);
        }
        let sent = SentEvent::all_of(append);
        if let Some(up_to) = self.stored_events.absent_up_to(&sent) {
            return Ok(Earlier::NotFound { absent_up_to: Some(up_to) });
        }
        const NOT_FOUND: Earlier = Earlier::NotFound { absent_up_to: None };
        let Ok(place) = self.looking_up.clone().acquire_owned().await else { return Ok(NOT_FOUND) };
        let (stored_events, settings, tip) = (self.stored_events.clone(), self.settings.clone(), self.tip());
        let looked_up = tokio::task::spawn_blocking(move || {
            // Held to the end, also where the caller has gone.
            let _place = place;
            let found = stored_events.find(&sent)?.filter(|found| found.bounds.last <= tip.position);
            let index = &stored_events.index;
            Ok(found.map_or(NOT_FOUND, |found| {
                let head = |id: &AggregateId| index.head_with(id, Patience::AtOnce);
                Earlier::Stored(found.into_stored(&sent, &settings.thresholds, head))
            }))
        });
        looked_up.await.unwrap_or(Ok(NOT_FOUND))
    }

    /// Stores the events durably here, all or none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn append(&self, append: Append, origin: Origin) -> Result<Stored, StoreError> {
        let under_way = self.under_way(&append, &origin);
        let absent_up_to = self.stored_events.absent_up_to(&SentEvent::all_of(&append));
        self.append_under_way(append, absent_up_to, origin, under_way).await
    }

    /// Notes that an append is under way, until it is decided or given up.
    pub fn under_way(&self, append: &Append, origin: &Origin) -> UnderWay {
        self.under_way.begin(append, origin.kept.clone())
    }

    /// Resolves when no attempt at this append is under way.
    pub async fn until_decided(&self, append: &Append) {
        self.under_way.until_over(append).await;
    }

    /// As [`Sequencer::append`], of one that was noted and looked for before.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn append_under_way(
        &self,
        append: Append,
        absent_up_to: Option<AbsentUpTo>,
        origin: Origin,
        under_way: UnderWay,
    ) -> Result<Stored, StoreError> {
        let weight = self.waiting.weigh(origin, append.byte_count())?;
        let (reply, answer) = oneshot::channel();
        self.send(Call::Append { append, absent_up_to, weight, reply, under_way })?;
        answer.await.unwrap_or(Err(StoreError::OutcomeUnknown))
    }

    /// Stores a snapshot durably here; its hash and time are set by the sequencer.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn snapshot(&self, snapshot: Snapshot, origin: Origin) -> Result<SnapshotStored, StoreError> {
        let bytes = byte_count(&snapshot.content, &snapshot.metadata);
        let weight = self.waiting.weigh(origin, bytes)?;
        let (reply, answer) = oneshot::channel();
        self.send(Call::Snapshot { snapshot, weight, reply })?;
        answer.await.unwrap_or(Err(StoreError::OutcomeUnknown))
    }

    /// Takes whole appends over as they are, from ImmuDB or from event files. They must continue the log.
    ///
    /// # Errors
    /// They don't, or the log can't be written.
    pub async fn adopt(&self, transactions: Vec<AdoptedTransaction>) -> Result<Tip, AdoptError> {
        let (reply, answer) = oneshot::channel();
        self.send_patiently(Call::Adopt { transactions, reply }).await?;
        answer.await.unwrap_or(Err(AdoptError::Stopped))
    }

    /// Takes a snapshot over as it is.
    ///
    /// # Errors
    /// The log can't be written.
    pub async fn adopt_snapshot(&self, record: Bytes) -> Result<(), AdoptError> {
        let (reply, answer) = oneshot::channel();
        self.send_patiently(Call::AdoptSnapshot { record, reply }).await?;
        answer.await.unwrap_or(Err(AdoptError::Stopped))
    }

    /// Has a note written, with the next group, of how far ImmuDB has the log. It may be lost in a crash:
    /// ImmuDB's own head says the same.
    pub fn mark(&self, mark: ForwardedMark) {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).push(mark);
        // A full queue means that a group is about to be made, which takes the note along.
        let _ = self.calls.try_send(Call::MarksWaiting);
    }

    /// Callers wait for something else after their sync. While that is under way there is time to gather many
    /// of them into one group.
    pub fn unhurried(&self, unhurried: bool) {
        self.unhurried.store(unhurried, Ordering::Release);
        if !unhurried {
            self.thread.unpark();
        }
    }

    /// Resolves when all calls are answered that were made before.
    pub async fn drain(&self) {
        let _ = self.adopt(Vec::new()).await;
    }

    /// Has the thread end once it has answered everything that is waiting.
    pub async fn stop(&self) {
        let _ = self.send_patiently(Call::Stop).await;
    }

    fn send(&self, call: Call) -> Result<(), StoreError> {
        self.calls.try_send(call).map_err(|error| match error {
            TrySendError::Full(_) => self.queue_full(),
            TrySendError::Disconnected(_) => StoreError::Unavailable(Unavailable::ShuttingDown),
        })
    }

    async fn send_patiently(&self, mut call: Call) -> Result<(), AdoptError> {
        const PAUSE: Duration = Duration::from_millis(1);
        loop {
            match self.calls.try_send(call) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(AdoptError::Stopped),
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

/// Why a whole group came to nothing.
#[derive(Debug, thiserror::Error)]
enum GroupError {
    #[error(transparent)]
    Write(#[from] crate::log::WriteError),
    #[error("the index could not be read while the group was put together; nothing of it was written")]
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
            Self::Write(WriteError::Failed) => Precondition::LocalLogFailed.into(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
