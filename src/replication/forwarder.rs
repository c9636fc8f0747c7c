//! Sends the local log to ImmuDB, in order, transaction by transaction.
//!
//! One task owns the session with ImmuDB, the claim on its database and the state machine. It
//! always follows the log: fallback only means that answers wait for less, and migration only means
//! that this task is catching up. After every failed write, whatever the error, the task reads
//! `log:head` to learn what ImmuDB has. It never guesses an outcome. It believes ImmuDB's answers
//! only as far as they continue the history that it has verified.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use super::{
    BatchLimits,
    checkpoint_queue::CheckpointQueue,
    fencing,
    head::{self, LogHead},
    notice::Notice,
    recent_transactions::Learned,
    reports::ReportInbox,
    state::{FallbackLimits, Signal, State, StateMachine},
    status::ReplicationStatus,
    tampering::{Condition, Evidence},
    transaction::LogPoint,
    transaction_size::BatchSize,
};
use crate::{
    event::Timestamp,
    history::{History, HistoryError},
    immudb::{self, ErrorKind, KeyValue, Precondition, Session, TxId},
    log::LogId,
    retry::RetryDelays,
    sequencer::Sequencer,
    tree::TreeWatch,
};

mod answers;
mod checkpoints;
mod claim;
mod examine;
mod failures;
mod following;
mod in_flight;
mod outage;
mod probe;
mod receipts;
mod release;
mod reporting;
mod saving;
mod tampered;
mod trees;
mod trust;
mod uncertified;

use checkpoints::Checkpoints;
use claim::{ClaimError, Claimed};
use outage::Outage;
use probe::Probes;
use saving::Saves;
use trees::Trees;
use trust::Trust;

/// The settings of the forwarder, fixed for its lifetime.
#[derive(Debug, Clone)]
pub(crate) struct ForwarderSettings {
    pub immudb: immudb::SessionSettings,
    /// The directory of the local log, which also holds the writer ids. The trusted state and the
    /// findings are kept next to it.
    pub folder: PathBuf,
    /// The id of the local log, if it is known.
    pub log_id: Option<LogId>,
    /// The PEM file with the public key that ImmuDB signs its states with.
    pub public_key_file: Option<PathBuf>,
    pub take_over: bool,
    /// Restores onto an empty disk what is before the first damage in ImmuDB.
    pub copy_until_damage: bool,
    pub retry_count: u32,
    pub retry_delay: Duration,
    pub retry_delay_max: Duration,
    pub fallback_after: Duration,
    pub keep_alive: Duration,
    pub batch: BatchLimits,
}

/// What the forwarder works with.
#[derive(Debug)]
pub(crate) struct ForwarderParts {
    pub replication: Arc<ReplicationStatus>,
    pub sequencer: Sequencer,
    pub history: History,
    /// The tree over the events of the log, whose head is in every transaction.
    pub tree: TreeWatch,
    /// The checkpoints that ImmuDB should store.
    pub checkpoints: CheckpointQueue,
    /// What others find.
    pub reports: ReportInbox,
}

/// The state of the forwarder task.
#[derive(Debug)]
pub(crate) struct Forwarder {
    settings: ForwarderSettings,
    replication: Arc<ReplicationStatus>,
    sequencer: Sequencer,
    history: History,
    machine: StateMachine,
    delays: RetryDelays,
    writer: Option<WriterClaim>,
    began: Instant,
    /// ImmuDB has opened a session, and nothing has failed since.
    in_contact: bool,
    /// The lowest number of pending events so far in this migration. `None` outside of a migration.
    pending_min: Option<u64>,
    /// The last session expired, and no transaction has been committed since.
    session_expired: bool,
    /// A precondition of the last transaction failed, and no transaction has been committed since.
    conflicted: bool,
    /// What is known of ImmuDB's history.
    trust: Trust,
    trees: Trees,
    checkpoints: Checkpoints,
    reports: ReportInbox,
    /// Findings that were reported, and do not change the state.
    reported: Notice,
    /// What was reported of ImmuDB, and leads to `STATE_TAMPERED` if ImmuDB still continues the
    /// trusted history.
    alleged: Option<Evidence>,
    saves: Saves,
    /// The clock has been compared with ImmuDB's. This is done only once.
    clock_compared: bool,
    /// When the oldest transaction in flight was sent. Set only while the task waits for its
    /// answer.
    sent: Option<Instant>,
    /// The number of transactions that are still sent one at a time.
    alone: u32,
    /// The last transaction was committed quickly.
    last_was_quick: bool,
    batch_size: BatchSize,
    probes: Probes,
    /// The current outage. Clients have been answered from the local log since it began.
    outage: Option<Outage>,
    /// Attempts that failed because ImmuDB does not accept messages of this size.
    too_large: Notice,
    /// Attempts with an append or snapshot that is sent alone and breaks the connection each time.
    cut_off: Notice,
    shutdown: CancellationToken,
}

/// The id with which this process claims the database.
#[derive(Debug, Clone, Copy)]
struct WriterClaim {
    id: Uuid,
    /// ImmuDB's head has contained this id.
    confirmed: bool,
}

/// A session that holds the claim, and how far ImmuDB has the log.
struct Link {
    session: Session,
    /// The transaction that wrote the head, as this session last saw it.
    head_tx: TxId,
    reached: LogPoint,
    /// The key of the last event that ImmuDB has. An ImmuDB that was rolled back lacks it.
    last_event: Option<Bytes>,
}

/// Why the forwarder stopped following the log.
enum StopReason {
    /// A write or the session failed. The head must be read again, over the same session if it is
    /// still alive.
    Failed {
        error: immudb::Error,
        session: Option<Session>,
        pause: Pause,
    },
    /// The local log cannot be read.
    Unreadable(HistoryError),
    /// ImmuDB contradicts the verified history.
    Wrong(Box<Evidence>),
    /// A report leads to `STATE_TAMPERED`, and needs no second look.
    Tampered(Box<Evidence>),
    ShutDown(Link),
}

/// Why nothing is replicated any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    ShutDown,
    /// An operator has to act.
    Stopped,
}

/// Whether to wait before the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// Read the head at once: an earlier attempt of this process may have been in the way, or the
    /// transaction only has to be smaller.
    None,
    Delay,
}

impl Forwarder {
    pub(crate) fn new(
        settings: ForwarderSettings,
        parts: ForwarderParts,
        shutdown: CancellationToken,
    ) -> Self {
        let ForwarderParts { replication, sequencer, history, tree, checkpoints, reports } = parts;
        let limits =
            FallbackLimits { failures_max: settings.retry_count, fallback_after: settings.fallback_after };
        let machine = StateMachine::new(replication.state(), limits);
        let batch_size = BatchSize::new(settings.batch.bytes_max);
        let delays = RetryDelays::new(settings.retry_delay, settings.retry_delay_max);
        let trust = Trust::new(&settings, replication.view().forwarded);
        let forwarder = Self {
            settings,
            replication,
            sequencer,
            history,
            machine,
            delays,
            writer: None,
            began: Instant::now(),
            in_contact: false,
            pending_min: None,
            session_expired: false,
            conflicted: false,
            trust,
            trees: Trees::new(tree),
            checkpoints: Checkpoints::new(checkpoints),
            reports,
            reported: Notice::default(),
            alleged: None,
            saves: Saves::default(),
            clock_compared: false,
            sent: None,
            alone: 0,
            last_was_quick: false,
            batch_size,
            probes: Probes::default(),
            outage: None,
            too_large: Notice::default(),
            cut_off: Notice::default(),
            shutdown,
        };
        forwarder.publish_trust();
        forwarder.replication.has_findings(forwarder.trust.findings.open_count());
        forwarder
    }

    /// Runs until shutdown, then releases the head if nothing is pending.
    pub(crate) async fn run(mut self) {
        let ended = if self.replication.view().forwarded.tampered {
            self.report_tampered();
            Ended::Stopped
        } else {
            self.replicate().await
        };
        if ended == Ended::Stopped {
            self.stay_stopped().await;
        }
        self.save_trust().await;
        self.save_findings().await;
    }

    /// Replicates until shutdown, or until an operator has to act.
    async fn replicate(&mut self) -> Ended {
        let mut session = None;
        while !self.shutdown.is_cancelled() {
            // The log may still have to be restored from ImmuDB.
            let is_decided = !matches!(self.machine.state(), State::Starting | State::Copying);
            if is_decided && let Some(evidence) = self.take_reports().await {
                return self.stop_because_of(evidence).await;
            }
            let error = match self.contact(session.take()).await {
                Ok(Some(link)) => match self.follow(link).await {
                    StopReason::ShutDown(link) => {
                        self.release(link).await;
                        return Ended::ShutDown;
                    }
                    StopReason::Tampered(evidence) => return self.stop_because_of(*evidence).await,
                    StopReason::Failed { error, session: alive, pause } => {
                        session = alive;
                        if pause == Pause::None {
                            continue;
                        }
                        error
                    }
                    StopReason::Unreadable(error) => {
                        self.failed_here(&error).await;
                        continue;
                    }
                    StopReason::Wrong(evidence) => match self.doubted(*evidence).await {
                        Some(confirmed) => return self.stop_because_of(confirmed).await,
                        None => continue,
                    },
                },
                Ok(None) => break,
                Err(ClaimError::Immudb(error)) => {
                    if matches!(error.kind, ErrorKind::Refused | ErrorKind::Unreachable) {
                        self.batch_size.out_of_reach();
                    }
                    error
                }
                Err(ClaimError::Local(error)) => {
                    self.failed_here(&error).await;
                    continue;
                }
                Err(ClaimError::Wrong(evidence)) => match self.doubted(*evidence).await {
                    Some(confirmed) => return self.stop_because_of(confirmed).await,
                    None => continue,
                },
                Err(ClaimError::Tampered(evidence)) => return self.stop_because_of(*evidence).await,
                Err(error) => {
                    if self.refused_again(&error).await {
                        return self.stop_at_claim(error);
                    }
                    continue;
                }
            };
            self.failed(&error).await;
        }
        Ended::ShutDown
    }

    /// Stops because of what the database has.
    fn stop_at_claim(&mut self, error: ClaimError) -> Ended {
        match error {
            ClaimError::Fenced(fence) => self.park(fence.into(), &fence),
            ClaimError::FencedBy { head } => {
                warn!(writer = %head.writer, written_at = head.written_at, "another writer has the \
                 database");
                let reason = fencing::FenceReason::OtherWriter;
                self.park(reason.into(), &reason)
            }
            ClaimError::Suspect(doubt) => self.park(doubt.into(), &doubt),
            error @ (ClaimError::Diverged(_)
            | ClaimError::DoesNotContinue(_)
            | ClaimError::HeadUnreadable
            | ClaimError::Immudb(_)
            | ClaimError::Wrong(_)
            | ClaimError::Tampered(_)
            | ClaimError::Local(_)) => self.park(Condition::OtherHistory, &error),
        }
    }

    /// Opens a session if there is none, reads the head and claims the database. Returns `None` on
    /// shutdown.
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
        self.meet(&session);
        self.replication.answered();
        let shutdown = self.shutdown.clone();
        let claimed = tokio::select! {
            claimed = self.claim(session) => claimed?,
            () = shutdown.cancelled() => return Ok(None),
        };
        let Claimed { session, head_tx, reached, last_event } = claimed;
        self.replication.contacted();
        self.end_refusal().await;
        // Nothing but the head is known in this session yet, so the first transaction is sent
        // alone.
        self.alone = self.alone.max(1);
        Ok(Some(Link { session, head_tx, reached, last_event }))
    }

    fn apply_signal(&mut self, signal: Signal) {
        let before = self.machine.state();
        let gives_up = matches!(signal, Signal::Failed(_) | Signal::Overdue | Signal::Dragging);
        let decided = self.writer.is_some_and(|writer| writer.confirmed);
        if self.settings.take_over && before == State::Starting && gives_up && !decided {
            // Events accepted before ImmuDB has decided on the take-over might fit no history.
            return;
        }
        let state = self.machine.on(signal, self.began.elapsed());
        if state != State::Connected {
            self.sequencer.lingers(false);
        }
        if before == State::Copying && state != before {
            // Nothing can be appended before the state changes.
            self.replication.has_restored(self.sequencer.tip().position);
        }
        self.replication.set_state(state);
        if state != before {
            self.probes.reset();
            self.log_change(before, signal);
        }
    }

    /// Runs `work`, which may take long. Meanwhile, clients that have waited for `fallback_after`
    /// are answered from the local log.
    async fn unless_overdue<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        // If the signal changes nothing (a take-over waits indefinitely), it is not repeated at
        // once.
        let mut not_before: Option<Instant> = None;
        loop {
            // If no client is waiting yet, wake up in time for the next one.
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
                        self.apply_signal(Signal::Overdue);
                    } else if dragging.is_some_and(|dragging| dragging <= Instant::now()) {
                        self.apply_signal(Signal::Dragging);
                    }
                    let unchanged = before == State::Starting && self.machine.state() == before;
                    not_before = unchanged.then(|| Instant::now() + self.settings.fallback_after);
                }
            }
        }
    }

    /// Returns since when a client has been waiting for ImmuDB. At startup, all clients wait.
    fn waiting_since(&self) -> Option<Instant> {
        match self.machine.state() {
            // If ImmuDB responds, its answer decides the first state, so there is no deadline.
            State::Starting => Some(self.began).filter(|_| !self.in_contact),
            State::Connected | State::Migrating => self.replication.waiting_since(),
            State::Fallback
            | State::LocalOnly
            | State::Suspect
            | State::Fenced
            | State::Copying
            | State::Tampered => None,
        }
    }

    fn head_entry(&self, reached: LogPoint, released: Released) -> KeyValue {
        let head = LogHead {
            position: reached.position,
            hash: reached.hash,
            writer: self.writer.map(|writer| writer.id).unwrap_or_default(),
            written_at: Timestamp::now().seconds(),
            released: released == Released::Yes,
            tree: reached.tree,
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
