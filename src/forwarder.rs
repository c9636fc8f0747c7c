//! Carries the local log into ImmuDB, in order, one transaction at a time.
//!
//! One task owns the session with ImmuDB, the claim on its database and the state. It follows the log, so
//! fallback is only an answer that waits for less, and migration is only this task catching up. After
//! every failed write, whatever the error, `log:head` is read and decides what ImmuDB has: no outcome is
//! ever guessed.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    crash_point::CrashPoint,
    event::{Hash, Position, Timestamp, record::ForwardedMark},
    history::{History, HistoryError},
    immudb::{self, ErrorKind, KeyValue, Precondition, Session, SetError, TxId},
    log::Tip,
    retry::RetryDelays,
    sequencer::Sequencer,
};

mod batch;
mod claim;
pub mod comparison;
pub mod copy;
pub mod decision;
mod failures;
pub mod head;
pub mod standing;
pub mod state;

pub use batch::BatchLimits;
use batch::{Batch, Packer, Reached};
use claim::{ClaimError, Claimed};
use standing::Learned;
pub use standing::{PendingLimits, Settled, Standing, View};
pub use state::State;
use state::{Happening, Machine, Rest};

use head::Head;

/// What the forwarder is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    pub immudb: immudb::Settings,
    /// The folder of the local log, where the writer ids are kept.
    pub folder: PathBuf,
    pub take_over: bool,
    pub retry_count: u32,
    pub retry_delay: Duration,
    pub retry_delay_max: Duration,
    pub fallback_after: Duration,
    pub keep_alive: Duration,
    pub batch: BatchLimits,
}

/// The task's own.
#[derive(Debug)]
pub struct Forwarder {
    settings: Settings,
    standing: Arc<Standing>,
    sequencer: Sequencer,
    history: History,
    machine: Machine,
    delays: RetryDelays,
    writer: Option<Writer>,
    began: Instant,
    /// ImmuDB has opened a session, and nothing failed since.
    in_contact: bool,
    /// The fewest events that were pending in this migration.
    pending_min: u64,
    /// The last session ended unasked, and no transaction was committed since.
    session_expired: bool,
    /// A condition of the last transaction did not hold, and none was committed since.
    conflicted: bool,
    shutdown: CancellationToken,
}

/// The id that this process claims with.
#[derive(Debug, Clone, Copy)]
struct Writer {
    id: Uuid,
    /// ImmuDB's head has named it.
    confirmed: bool,
}

/// A session whose claim holds, and how far ImmuDB has the log.
struct Link {
    session: Session,
    /// The transaction in which this session last saw the head.
    head_tx: TxId,
    reached: Reached,
    /// The key of the last event that ImmuDB has: an ImmuDB that was put back lacks it.
    last_event: Option<Bytes>,
}

/// Why following the log ended.
enum End {
    /// The write or the session failed: the head has to be read again, by the same session if it lives.
    Failed {
        error: immudb::Error,
        session: Option<Session>,
        pause: Pause,
    },
    /// The local log can't be read.
    Unreadable(HistoryError),
    /// ImmuDB has less than it had.
    Suspect,
    ShutDown(Link),
}

/// Whether the next attempt waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// An earlier attempt of ours was in the way: the head tells at once.
    None,
    Delay,
}

impl Forwarder {
    pub fn new(
        settings: Settings,
        standing: Arc<Standing>,
        sequencer: Sequencer,
        history: History,
        shutdown: CancellationToken,
    ) -> Self {
        let machine = Machine::new(standing.state(), settings.retry_count);
        let delays = RetryDelays::new(settings.retry_delay, settings.retry_delay_max);
        Self {
            settings,
            standing,
            sequencer,
            history,
            machine,
            delays,
            writer: None,
            began: Instant::now(),
            in_contact: false,
            pending_min: u64::MAX,
            session_expired: false,
            conflicted: false,
            shutdown,
        }
    }

    /// Runs until the shutdown; then releases the head if nothing is pending.
    pub async fn run(mut self) {
        let mut session = None;
        while !self.shutdown.is_cancelled() {
            let error = match self.contact(session.take()).await {
                Ok(Some(link)) => match self.follow(link).await {
                    End::ShutDown(link) => return self.release(link).await,
                    End::Failed { error, session: alive, pause } => {
                        session = alive;
                        if pause == Pause::None {
                            continue;
                        }
                        error
                    }
                    End::Unreadable(error) => {
                        self.failed_here(&error.to_string()).await;
                        continue;
                    }
                    End::Suspect => {
                        return self.park(Happening::HistoryMissing, &decision::Doubt::RolledBack).await;
                    }
                },
                Ok(None) => break,
                Err(ClaimError::Immudb(error)) => error,
                Err(ClaimError::Fenced(fence)) => return self.park(Happening::OtherWriter, &fence).await,
                Err(ClaimError::FencedBy { head }) => {
                    let error = decision::Fence::OtherWriter;
                    warn!(writer = %head.writer, written_at = head.written_at, "the database has another writer");
                    return self.park(Happening::OtherWriter, &error).await;
                }
                Err(ClaimError::Suspect(doubt)) => return self.park(Happening::HistoryMissing, &doubt).await,
                Err(error @ (ClaimError::Diverged(_) | ClaimError::HeadUnreadable)) => {
                    return self.park(Happening::OtherWriter, &error).await;
                }
                Err(ClaimError::Local(error)) => {
                    self.failed_here(&error).await;
                    continue;
                }
            };
            self.failed(&error).await;
        }
    }

    /// Opens a session if there is none, reads the head and claims. `None`: shutting down.
    async fn contact(&mut self, session: Option<Session>) -> Result<Option<Link>, ClaimError> {
        let session = match session {
            Some(session) => session,
            None => {
                let settings = self.settings.immudb.clone();
                let opening = Session::open(&settings);
                let shutdown = self.shutdown.clone();
                tokio::select! {
                    opened = self.unless_overdue(opening) => opened?,
                    () = shutdown.cancelled() => return Ok(None),
                }
            }
        };
        self.in_contact = true;
        self.standing.answered();
        let shutdown = self.shutdown.clone();
        let claimed = tokio::select! {
            claimed = self.claim(session) => claimed?,
            () = shutdown.cancelled() => return Ok(None),
        };
        let Claimed { session, head_tx, reached, last_event } = claimed;
        self.standing.contacted();
        Ok(Some(Link { session, head_tx, reached, last_event }))
    }

    /// Carries the log over until something ends it.
    async fn follow(&mut self, mut link: Link) -> End {
        let mut packer = Packer::new(self.history.clone(), self.settings.batch, link.reached);
        let mut tip = self.sequencer.watch_tip();
        let mut keep_alive = Instant::now() + self.settings.keep_alive;
        loop {
            let now = *tip.borrow_and_update();
            let lag_bytes = self.standing.distance(link.reached.place, now.end);
            let batch = match pack(packer, now, lag_bytes).await {
                Some((back, Ok(batch))) => {
                    packer = back;
                    batch
                }
                Some((_, Err(error))) => return End::Unreadable(error),
                None => return End::ShutDown(link),
            };
            if self.shutdown.is_cancelled() {
                return End::ShutDown(link);
            }
            // Only a committed write ends the fallback, so there the head alone is written.
            if !batch.entries.is_empty() || self.machine.state() != State::Connected {
                let (began, event_count) = (Instant::now(), batch.event_count);
                link = match self.send(link, batch).await {
                    Ok(link) => link,
                    Err(end) => return end,
                };
                let pending = tip.borrow().position.0.saturating_sub(link.reached.position.0);
                self.give_way(began.elapsed(), pending).await;
                self.await_company(&mut tip, link.reached.position, event_count).await;
                keep_alive = Instant::now() + self.settings.keep_alive;
                continue;
            }
            self.reach(&link, batch.reached, Learned::ByHead);
            link.reached = batch.reached;
            tokio::select! {
                changed = tip.changed() => if changed.is_err() { return End::ShutDown(link) },
                () = self.shutdown.cancelled() => return End::ShutDown(link),
                () = sleep_until(keep_alive) => {
                    let alive = self.unless_overdue(link.session.keep_alive()).await;
                    if let Err(error) = alive {
                        return failed(error, link.session, Pause::Delay);
                    }
                    keep_alive = Instant::now() + self.settings.keep_alive;
                }
            }
        }
    }

    /// Working off a backlog takes half of the time at most: the rest of the machine, and of ImmuDB's, is for
    /// those who call meanwhile. But only while the backlog becomes smaller than it ever was: however much is
    /// appended meanwhile, it has an end.
    async fn give_way(&mut self, busy: Duration, pending: u64) {
        const PAUSE_MAX: Duration = Duration::from_millis(50);
        if self.machine.state() != State::Migrating {
            self.pending_min = u64::MAX;
        } else if pending < self.pending_min {
            self.pending_min = pending;
            self.shutdown.run_until_cancelled(tokio::time::sleep(busy.min(PAUSE_MAX))).await;
        }
    }

    /// Callers who were just answered often come again at once. One transaction with all of them costs ImmuDB less than
    /// two with half of them each, so the next waits a moment for as many events as the last had.
    async fn await_company(&self, tip: &mut watch::Receiver<Tip>, reached: Position, event_count: u64) {
        const COMPANY_MAX: Duration = Duration::from_micros(500);
        if self.machine.state() == State::Connected {
            let as_many = reached.0.saturating_add(event_count);
            let come = tip.wait_for(|tip| tip.position.0 >= as_many);
            _ = tokio::time::timeout(COMPANY_MAX, come).await;
        }
    }

    /// One transaction: the batch and the head, on the condition that the head is as we saw it.
    async fn send(&mut self, link: Link, batch: Batch) -> Result<Link, End> {
        let Link { session, head_tx, last_event, .. } = link;
        let (reached, next_event) = (batch.reached, batch.last_event.or_else(|| last_event.clone()));
        let mut entries = batch.entries;
        entries.push(self.head_entry(reached, Released::No));
        let result = {
            let mut conditions = unchanged_since(head_tx);
            // That alone would pass on an ImmuDB that was put back below this session.
            conditions.extend(last_event.map(Precondition::KeyMustExist));
            CrashPoint::BeforeSet.reached();
            self.sequencer.unhurried(self.machine.state() == State::Connected);
            let set = session.set(entries, conditions);
            self.unless_overdue(set).await
        };
        self.sequencer.unhurried(false);
        match result {
            Ok(header) if header.id <= head_tx => Err(End::Suspect),
            Ok(header) => {
                CrashPoint::AfterSet.reached();
                let link = Link { session, head_tx: header.id, reached, last_event: next_event };
                self.committed(&link, batch.event_count);
                Ok(link)
            }
            // An attempt that was given up came through, or another writer: the head tells at once.
            Err(SetError::Conflict) => {
                let (kind, operation) = (ErrorKind::Busy, "Set");
                let error = immudb::Error { kind, operation, message: "the head has changed".to_owned() };
                let pause = match std::mem::replace(&mut self.conflicted, true) {
                    false => Pause::None,
                    true => Pause::Delay,
                };
                Err(End::Failed { error, session: Some(session), pause })
            }
            Err(SetError::NotWritten(error) | SetError::Unknown(error)) => {
                Err(failed(error, session, Pause::Delay))
            }
        }
    }

    fn committed(&mut self, link: &Link, event_count: u64) {
        self.delays.reset();
        self.session_expired = false;
        self.conflicted = false;
        self.standing.recovered();
        let tip = self.sequencer.tip();
        let events = tip.position.0.saturating_sub(link.reached.position.0);
        let snapshots = tip.snapshots.saturating_sub(link.reached.snapshots);
        // A lone event is two keys.
        let keys = events.saturating_mul(2).saturating_add(snapshots);
        let bytes = self.standing.distance(link.reached.place, tip.end);
        let BatchLimits { keys_max, bytes_max } = self.settings.batch;
        let fits = keys < keys_max as u64 && bytes <= bytes_max as u64;
        let snapshots_before = self.standing.view().forwarded.snapshots;
        let mark = self.reach(link, link.reached, Learned::ByCommit);
        if event_count > 0 || mark.snapshots > snapshots_before {
            self.sequencer.mark(mark);
        }
        self.happened(Happening::Committed(if fits { Rest::FitsOne } else { Rest::Backlog }));
    }

    /// ImmuDB has the log up to here.
    fn reach(&self, link: &Link, reached: Reached, learned: Learned) -> ForwardedMark {
        let mark = ForwardedMark {
            position: reached.position,
            snapshots: reached.snapshots,
            immudb_tx: link.head_tx.0,
        };
        self.standing.advance(mark, reached.place, learned);
        mark
    }

    fn happened(&mut self, happening: Happening) {
        let before = self.machine.state();
        let gives_up = matches!(happening, Happening::Failed(_) | Happening::Overdue);
        let decided = self.writer.is_some_and(|writer| writer.confirmed);
        if self.settings.take_over && before == State::Starting && gives_up && !decided {
            // Events that are taken before ImmuDB has decided may fit nowhere.
            return;
        }
        let state = self.machine.on(happening);
        if state != State::Connected {
            self.sequencer.unhurried(false);
        }
        self.standing.set_state(state);
        if state != before {
            let view = self.standing.view();
            let pending = self.sequencer.tip().position.0.saturating_sub(view.forwarded.position.0);
            let reason = Some(view.last_error).filter(|reason| !reason.is_empty());
            info!(from = ?before, to = ?state, pending, reason, "state changed");
        }
    }

    /// Does something that may take long; callers who have waited for `fallback_after` meanwhile are
    /// answered from the local log.
    async fn unless_overdue<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            // Nobody may be waiting yet: look again in time for whoever comes next.
            let overdue = self.waiting_since().unwrap_or_else(Instant::now) + self.settings.fallback_after;
            tokio::select! {
                done = &mut work => return done,
                () = sleep_until(overdue) => {
                    if self.waiting_since().is_some_and(|since| since.elapsed() >= self.settings.fallback_after) {
                        self.happened(Happening::Overdue);
                    }
                }
            }
        }
    }

    /// Since when somebody waits for ImmuDB: at the start, everybody does.
    fn waiting_since(&self) -> Option<Instant> {
        match self.machine.state() {
            // What ImmuDB says decides how it begins, if it says anything.
            State::Starting => Some(self.began).filter(|_| !self.in_contact),
            State::Connected | State::Migrating => self.standing.waiting_since(),
            State::Fallback | State::LocalOnly | State::Suspect | State::Fenced | State::Copying => None,
        }
    }

    fn head_entry(&self, reached: Reached, released: Released) -> KeyValue {
        let head = Head {
            position: reached.position,
            hash: reached.hash,
            writer: self.writer.map(|writer| writer.id).unwrap_or_default(),
            written_at: Timestamp::now().seconds(),
            released: released == Released::Yes,
        };
        KeyValue { key: Bytes::from_static(head::KEY), value: head.encode() }
    }

    /// Another service may take the database over at once, if it lacks nothing of ours.
    async fn release(self, link: Link) {
        if !self.shutdown.is_cancelled() {
            // The sequencer is gone, and with it who knows what is pending.
            return;
        }
        let tip = self.sequencer.tip();
        let pending = tip.position > link.reached.position || tip.snapshots > link.reached.snapshots;
        if pending || self.machine.state() != State::Connected {
            info!("events are pending: the head is not released");
        } else {
            CrashPoint::BeforeRelease.reached();
            let entries = vec![self.head_entry(link.reached, Released::Yes)];
            match link.session.set(entries, unchanged_since(link.head_tx)).await {
                Ok(_) => {
                    CrashPoint::AfterRelease.reached();
                    info!("the head is released");
                }
                Err(error) => warn!(?error, "the head is not released"),
            }
        }
        link.session.close().await;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Released {
    Yes,
    No,
}

fn unchanged_since(tx: TxId) -> Vec<Precondition> {
    let key = Bytes::from_static(head::KEY);
    vec![Precondition::KeyMustExist(key.clone()), Precondition::KeyNotModifiedAfterTx { key, tx }]
}

/// A session lives on through an error that ImmuDB itself answered with.
/// The next transaction's contents. `None`: the runtime is going down.
async fn pack(mut packer: Packer, tip: Tip, lag_bytes: u64) -> Option<(Packer, Result<Batch, HistoryError>)> {
    /// What was written just now is in memory, and need not be waited for elsewhere.
    const FRESH_BYTES_MAX: u64 = 256 * 1024;
    if lag_bytes <= FRESH_BYTES_MAX {
        let batch = packer.next(tip);
        return Some((packer, batch));
    }
    let packed = tokio::task::spawn_blocking(move || {
        let batch = packer.next(tip);
        (packer, batch)
    });
    match packed.await {
        Ok(packed) => Some(packed),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}

fn failed(error: immudb::Error, session: Session, pause: Pause) -> End {
    let alive = match error.kind {
        ErrorKind::Busy | ErrorKind::Rejected | ErrorKind::TooLarge | ErrorKind::Corrupted => Some(session),
        ErrorKind::Refused
        | ErrorKind::Unreachable
        | ErrorKind::SessionExpired
        | ErrorKind::Configuration => None,
    };
    End::Failed { error, session: alive, pause }
}

impl Reached {
    /// Where nothing was forwarded yet.
    const START: Self =
        Self { place: crate::log::Place::START, position: Position(0), hash: Hash::START, snapshots: 0 };
}
