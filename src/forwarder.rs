//! Carries the local log into ImmuDB, in order, one transaction after the other.
//!
//! One task owns the session with ImmuDB, the claim on its database and the state. It follows the log, so
//! fallback is only an answer that waits for less, and migration is only this task catching up. After
//! every failed write, whatever the error, `log:head` is read and decides what ImmuDB has: no outcome is
//! ever guessed.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::{
    event::{Hash, Position, Timestamp},
    history::{History, HistoryError},
    immudb::{self, ErrorKind, KeyValue, Precondition, Session, TxId},
    retry::RetryDelays,
    sequencer::Sequencer,
};

mod batch;
mod batch_size;
mod claim;
pub mod comparison;
pub mod copy;
pub mod decision;
mod failures;
mod following;
pub mod head;
mod in_flight;
mod notice;
mod outage;
mod probe;
mod release;
pub mod standing;
pub mod state;

pub use batch::BatchLimits;
use batch::Reached;
use batch_size::BatchSize;
use claim::{ClaimError, Claimed};
use notice::Notice;
use outage::Outage;
use probe::Probes;
use standing::Learned;
pub use standing::{PendingLimits, Settled, Standing, View};
pub use state::State;
use state::{Happening, Limits, Machine};

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
    /// The transaction in which the head was last as we wrote or claimed it.
    own_tx: Option<TxId>,
    /// With ImmuDB's, once.
    clock_compared: bool,
    /// When the transaction was sent that is answered next.
    sent: Option<Instant>,
    /// So many transactions still go alone.
    alone: u32,
    /// The last transaction was committed quickly.
    last_was_quick: bool,
    batch_size: BatchSize,
    probes: Probes,
    /// Since callers are answered from the local log.
    outage: Option<Outage>,
    /// Transactions in ImmuDB that are none of ours.
    foreign: Notice,
    /// Attempts with what ImmuDB does not take.
    too_large: Notice,
    /// Attempts with an append that goes alone and whose connection breaks each time.
    cut_off: Notice,
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
        let limits = Limits { failures_max: settings.retry_count, fallback_after: settings.fallback_after };
        let machine = Machine::new(standing.state(), limits);
        let batch_size = BatchSize::new(settings.batch.bytes_max);
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
            own_tx: None,
            clock_compared: false,
            sent: None,
            alone: 0,
            last_was_quick: false,
            batch_size,
            probes: Probes::default(),
            outage: None,
            foreign: Notice::default(),
            too_large: Notice::default(),
            cut_off: Notice::default(),
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
                Err(ClaimError::Immudb(error)) => {
                    if matches!(error.kind, ErrorKind::Refused | ErrorKind::Unreachable) {
                        self.batch_size.out_of_reach();
                    }
                    error
                }
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
        // What the head says now is the first that is known of this session.
        self.alone = self.alone.max(1);
        Ok(Some(Link { session, head_tx, reached, last_event }))
    }

    fn happened(&mut self, happening: Happening) {
        let before = self.machine.state();
        let gives_up = matches!(happening, Happening::Failed(_) | Happening::Overdue | Happening::Dragging);
        let decided = self.writer.is_some_and(|writer| writer.confirmed);
        if self.settings.take_over && before == State::Starting && gives_up && !decided {
            // Events that are taken before ImmuDB has decided may fit nowhere.
            return;
        }
        let state = self.machine.on(happening, self.began.elapsed());
        if state != State::Connected {
            self.sequencer.unhurried(false);
        }
        self.standing.set_state(state);
        if state != before {
            self.probes.reset();
            self.log_change(before, happening);
        }
    }

    /// Does something that may take long; callers who have waited for `fallback_after` meanwhile are
    /// answered from the local log.
    async fn unless_overdue<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        // Where giving up changes nothing (a take-over waits for as long as it takes), it is not tried at once again.
        let mut not_before: Option<Instant> = None;
        loop {
            // Nobody may be waiting yet: look again in time for whoever comes next.
            let overdue = self.waiting_since().unwrap_or_else(Instant::now) + self.settings.fallback_after;
            let dragging = self.sent.zip(self.machine.commit_max()).map(|(sent, max)| sent + max);
            let next = dragging.map_or(overdue, |dragging| dragging.min(overdue));
            let next = not_before.map_or(next, |at| next.max(at));
            tokio::select! {
                done = &mut work => return done,
                () = sleep_until(next) => {
                    let before = self.machine.state();
                    let waited = self.waiting_since().is_some_and(|since| since.elapsed() >= self.settings.fallback_after);
                    if waited {
                        self.happened(Happening::Overdue);
                    } else if dragging.is_some_and(|dragging| dragging <= Instant::now()) {
                        self.happened(Happening::Dragging);
                    }
                    let unchanged = before == State::Starting && self.machine.state() == before;
                    not_before = unchanged.then(|| Instant::now() + self.settings.fallback_after);
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

impl Reached {
    /// Where nothing was forwarded yet.
    const START: Self =
        Self { place: crate::log::Place::START, position: Position(0), hash: Hash::START, snapshots: 0 };
}
