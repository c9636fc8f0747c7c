//! Verifies an aggregate or the whole history on request.
//!
//! The local log is compared with the tree over its events, with the newest checkpoint and with the
//! tree that ImmuDB has confirmed, and what ImmuDB has with the local log. Nothing is changed, and
//! nothing is recorded: what does not match is returned to the caller. The auditor does the same in
//! the background, and records what it finds.
//!
//! The work is divided into steps, so that its caller can report the progress and stop. A step
//! either blocks on the disk, or waits for ImmuDB.

use std::{fmt, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Transparency, proofs};
use crate::{
    error::{Limit, StoreError},
    event::{AggregateId, Position, SequenceNumber},
    history::{History, HistoryError},
    immudb::{SessionSettings, TxId, verify::TrustedState},
    merkle::{EMPTY_ROOT, Hash},
    replication::status::ReplicationStatus,
    tree::TreeError,
};

mod aggregate;
mod entries;
pub(crate) mod held_tree;
#[cfg(test)]
pub(crate) mod tests;
mod transactions;
mod whole;

use aggregate::AggregateWork;
use entries::ImmudbEntries;
use held_tree::HeldTree;
use transactions::ImmudbTransactions;
use whole::WholeWork;

/// How much of the log one step reads, about.
const STEP_BYTES: u64 = 8 * 1024 * 1024;

/// The parts of the program that verifications use.
#[derive(Debug)]
pub(crate) struct VerifierParts {
    pub history: History,
    pub replication: Arc<ReplicationStatus>,
    pub transparency: Transparency,
    /// `None` if no ImmuDB is configured.
    pub immudb: Option<SessionSettings>,
}

/// Starts verifications, one at a time. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Verifier {
    parts: Arc<VerifierParts>,
    running: Arc<Semaphore>,
}

impl Verifier {
    pub(crate) fn new(parts: VerifierParts) -> Self {
        Self { parts: Arc::new(parts), running: Arc::new(Semaphore::new(1)) }
    }

    /// Starts the verification of an aggregate.
    ///
    /// # Errors
    /// Returns an error if another verification is in progress, or if there is no tree.
    pub(crate) async fn aggregate(&self, id: AggregateId) -> Result<Verification, StoreError> {
        let running = self.begin()?;
        let VerifierParts { history, transparency, .. } = &*self.parts;
        // The trees are read first, so that the log has at least what they have.
        let known = known_trees(&self.parts);
        let tip = history.index.complete().tip;
        let view = proofs::tree_of(transparency.tree(), tip.position.0).await?;
        let tree = HeldTree::new(history.clone(), view);
        let work = Box::new(AggregateWork::new(id, tree, known, tip));
        Ok(Verification::new(&self.parts, Work::Aggregate(work), running))
    }

    /// Starts the verification of the whole history.
    ///
    /// # Errors
    /// Returns an error if another verification is in progress.
    pub(crate) fn whole(&self) -> Result<Verification, StoreError> {
        let running = self.begin()?;
        let known = known_trees(&self.parts);
        let tip = self.parts.history.index.complete().tip;
        let work = Box::new(WholeWork::new(known, tip));
        Ok(Verification::new(&self.parts, Work::Whole(work), running))
    }

    fn begin(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        const RETRY_AFTER: std::time::Duration = std::time::Duration::from_secs(1);
        self.running.clone().try_acquire_owned().map_err(|_| StoreError::Full {
            limit: Limit::Verifications,
            max: 1,
            share: None,
            retry_after: RETRY_AFTER,
        })
    }
}

/// A tree that the local log has to continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KnownTree {
    place: Place,
    size: u64,
    root: Hash,
}

impl KnownTree {
    /// Returns the contradiction of a log whose tree of this size has another root.
    fn contradicts(self, found: Hash) -> Contradiction {
        Contradiction::at(self.place, Position(self.size), hex::encode(self.root), hex::encode(found))
    }

    /// Returns the contradiction of a log with fewer events.
    fn is_missing(self, events: u64) -> Contradiction {
        let count = |events: u64| format!("{events} events");
        Contradiction::at(self.place, Position(self.size), count(self.size), count(events))
    }
}

/// Returns the trees that are known, the smallest first.
fn known_trees(parts: &VerifierParts) -> Vec<KnownTree> {
    let newest = parts.transparency.newest().map(|kept| {
        let (size, root) = (kept.checkpoint.size(), *kept.checkpoint.root());
        KnownTree { place: Place::Checkpoint, size, root }
    });
    let verified = parts.replication.verified_tree().map(|verified| KnownTree {
        place: Place::Head,
        size: verified.head.size,
        root: verified.head.root,
    });
    let mut known: Vec<_> = newest.into_iter().chain(verified).filter(|known| known.size > 0).collect();
    known.sort_by_key(|known| known.size);
    known
}

/// Where a contradiction was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The record in the local log.
    LocalLog,
    /// The index of the log.
    Index,
    /// The tree over the events.
    Tree,
    /// The newest checkpoint.
    Checkpoint,
    /// The head that ImmuDB has confirmed.
    Head,
    /// The contents of ImmuDB.
    Immudb,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LocalLog => "local log",
            Self::Index => "index",
            Self::Tree => "tree",
            Self::Checkpoint => "checkpoint",
            Self::Head => "log:head",
            Self::Immudb => "ImmuDB",
        })
    }
}

/// Something that is not as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contradiction {
    /// 0 if it is not known, or if it does not concern one event.
    pub position: Position,
    pub aggregate: Option<AggregateId>,
    /// 0 if it is not known.
    pub sequence: SequenceNumber,
    pub place: Place,
    pub expected: String,
    pub found: String,
}

impl Contradiction {
    fn at(place: Place, position: Position, expected: impl Into<String>, found: impl Into<String>) -> Self {
        let (expected, found) = (expected.into(), found.into());
        Self { position, aggregate: None, sequence: SequenceNumber(0), place, expected, found }
    }

    /// Names the event of an aggregate.
    fn of(self, aggregate: &AggregateId, sequence: SequenceNumber) -> Self {
        Self { aggregate: Some(aggregate.clone()), sequence, ..self }
    }
}

/// What was verified, and what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The events that match in the local log.
    pub events: u64,
    /// The events that match in ImmuDB.
    pub immudb_events: u64,
    /// The aggregate's last event; 0 if it does not exist.
    pub last: SequenceNumber,
    pub tree_size: u64,
    pub tree_root: Hash,
    /// The transaction that ImmuDB was compared with; 0 if it was not.
    pub immudb_transaction: u64,
    /// Why ImmuDB was not compared, or not to the end.
    pub immudb_problem: Option<String>,
    /// The first contradictions.
    pub contradictions: Vec<Contradiction>,
    /// The number of all contradictions.
    pub contradiction_count: u64,
}

impl Outcome {
    /// The maximum number of contradictions that are kept.
    const CONTRADICTIONS_MAX: usize = 100;

    fn new() -> Self {
        Self {
            events: 0,
            immudb_events: 0,
            last: SequenceNumber(0),
            tree_size: 0,
            tree_root: EMPTY_ROOT,
            immudb_transaction: 0,
            immudb_problem: None,
            contradictions: Vec::new(),
            contradiction_count: 0,
        }
    }

    fn add(&mut self, contradiction: Contradiction) {
        self.contradiction_count = self.contradiction_count.saturating_add(1);
        if self.contradictions.len() < Self::CONTRADICTIONS_MAX {
            self.contradictions.push(contradiction);
        }
    }
}

/// How far a verification is, in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub events: u64,
    pub total: u64,
}

/// What the next step of a verification does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It reads the local log.
    Local,
    /// It waits for ImmuDB.
    Immudb,
    /// Nothing is left.
    Ended,
}

#[derive(Debug)]
enum Work {
    Aggregate(Box<AggregateWork>),
    Whole(Box<WholeWork>),
}

/// ImmuDB's side of a verification.
#[derive(Debug)]
enum Immudb {
    /// There is nothing to compare with, or nothing left.
    Off,
    Entries(Box<ImmudbEntries>),
    Transactions(Box<ImmudbTransactions>),
}

/// A verification in progress. No other one can begin while it exists.
#[derive(Debug)]
pub(crate) struct Verification {
    parts: Arc<VerifierParts>,
    work: Work,
    immudb: Immudb,
    outcome: Outcome,
    /// The number of events that ImmuDB had when the verification began.
    forwarded: Position,
    _running: OwnedSemaphorePermit,
}

impl Verification {
    fn new(parts: &Arc<VerifierParts>, work: Work, running: OwnedSemaphorePermit) -> Self {
        let view = parts.replication.view();
        let mut outcome = Outcome::new();
        let immudb = match (&parts.immudb, view.trusted.filter(|trusted| trusted.tx > 0)) {
            (None, _) => Immudb::Off,
            (Some(_), None) => {
                outcome.immudb_problem = Some("no transaction of ImmuDB was verified yet".to_owned());
                Immudb::Off
            }
            (Some(settings), Some(trusted)) => {
                let (settings, tx) = (settings.clone(), TxId(trusted.tx));
                let trusted = TrustedState { tx, alh: trusted.hash };
                match work {
                    Work::Aggregate(_) => Immudb::Entries(ImmudbEntries::new(settings, trusted).into()),
                    Work::Whole(_) => Immudb::Transactions(ImmudbTransactions::new(settings, trusted).into()),
                }
            }
        };
        let forwarded = view.forwarded.position;
        Self { parts: parts.clone(), work, immudb, outcome, forwarded, _running: running }
    }

    /// Returns what the next step does.
    pub(crate) fn turn(&self) -> Turn {
        match (&self.work, &self.immudb) {
            (Work::Aggregate(work), Immudb::Entries(_)) if work.has_entries() => Turn::Immudb,
            (Work::Aggregate(work), _) if !work.is_done() => Turn::Local,
            (Work::Whole(work), _) if !work.is_done() => Turn::Local,
            (Work::Whole(_), Immudb::Transactions(_)) => Turn::Immudb,
            (Work::Aggregate(_) | Work::Whole(_), _) => Turn::Ended,
        }
    }

    /// Reads a part of the local log. Blocks on the disk.
    ///
    /// # Errors
    /// Returns an error if the verification cannot continue. Damage is a contradiction and not an
    /// error.
    pub(crate) fn local(&mut self) -> Result<(), StoreError> {
        let Self { parts, work, immudb, outcome, forwarded, .. } = self;
        match work {
            Work::Aggregate(work) => {
                let until = if matches!(immudb, Immudb::Off) { Position(0) } else { *forwarded };
                work.step(&parts.history, until, outcome)
            }
            Work::Whole(work) => work.step(&parts.history, outcome),
        }
    }

    /// Compares a part of what ImmuDB has. If ImmuDB cannot be reached, the verification goes on
    /// without it.
    pub(crate) async fn immudb(&mut self) {
        let Self { parts, work, immudb, outcome, .. } = self;
        let compared = match (work, &mut *immudb) {
            (Work::Aggregate(work), Immudb::Entries(entries)) => {
                let read = work.take_entries();
                entries.compare(work.id(), read, outcome).await
            }
            (Work::Whole(_), Immudb::Transactions(transactions)) => transactions.step(parts, outcome).await,
            (_, Immudb::Off | Immudb::Entries(_) | Immudb::Transactions(_)) => Ok(entries::Next::Ended),
        };
        match compared {
            Ok(entries::Next::More) => {}
            Ok(entries::Next::Ended) => *immudb = Immudb::Off,
            Err(problem) => {
                outcome.immudb_problem = Some(problem);
                *immudb = Immudb::Off;
            }
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        let (read, of) = match &self.work {
            Work::Aggregate(work) => work.progress(),
            Work::Whole(work) => work.progress(),
        };
        let in_immudb = match (&self.work, &self.immudb) {
            (Work::Whole(_), Immudb::Transactions(_)) => self.forwarded.0,
            (Work::Aggregate(_) | Work::Whole(_), _) => self.outcome.immudb_events,
        };
        let events = read.saturating_add(self.outcome.immudb_events);
        Progress { events, total: of.saturating_add(in_immudb).max(events) }
    }

    pub(crate) fn outcome(&self) -> &Outcome {
        &self.outcome
    }
}

/// Returns what is wrong with the log as text.
///
/// # Errors
/// Returns the error itself if it says nothing about the contents of the log.
fn damage(error: HistoryError) -> Result<String, StoreError> {
    match error {
        HistoryError::Index(error) => Err(error.into()),
        other => Ok(other.to_string()),
    }
}

/// Same as [`damage`], for an error of the tree.
fn tree_damage(error: TreeError<HistoryError>) -> Result<String, StoreError> {
    match error {
        TreeError::Leaves(error) => damage(error),
        TreeError::File(_) | TreeError::TooSmall { .. } => Err(error.into()),
        other => Ok(other.to_string()),
    }
}
