//! How far ImmuDB has the log: published by the forwarder, and read by all other parts.
//!
//! Only the forwarder changes the state and the forwarded position. One lock protects them together
//! with the admission and the commit waiters, so that a change of state and the answers that follow
//! from it are one step.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    admission::{Admission, PendingLimits},
    commit_waiters::{CommitOutcome, CommitWaiters, PACE_MAX, Until},
    head::VerifiedTree,
    recent_transactions::{Learned, RecentTransactions},
    state::State,
};
use crate::{
    error::StoreError,
    event::{Position, record::ReplicationMark},
    log::{LogOffset, Tip},
};

/// The public part of the replication status, at one moment.
#[derive(Debug, Clone)]
pub struct View {
    pub state: State,
    pub forwarded: ReplicationMark,
    pub reachable: bool,
    /// The newest known transaction.
    pub last_tx: Option<u64>,
    pub last_error: String,
    pub retries: u64,
    pub fallbacks: u64,
    pub migrated_events: u64,
    /// The last transaction up to which the history in ImmuDB was verified. `None` before the first
    /// contact.
    pub trusted: Option<TrustedView>,
    /// The number of findings that no operator has accepted.
    pub open_findings: u64,
}

/// A verified transaction of ImmuDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedView {
    /// Its number, or 0 in an empty database.
    pub tx: u64,
    /// Its accumulated hash.
    pub hash: [u8; 32],
    /// The uuid of the server that has it.
    pub server_uuid: Arc<str>,
}

/// The replication status. See the module documentation.
#[derive(Debug)]
pub struct ReplicationStatus {
    limits: PendingLimits,
    inner: Mutex<Inner>,
    state: watch::Sender<State>,
    forwarded: watch::Sender<ReplicationMark>,
    reachable: watch::Sender<bool>,
}

#[derive(Debug)]
struct Inner {
    view: View,
    /// ImmuDB has the log up to this offset.
    offset: LogOffset,
    contacted: bool,
    admission: Admission,
    waiters: CommitWaiters,
    /// The most recent transactions, which the index may not know yet.
    recent: RecentTransactions,
    verified_tree: Option<VerifiedTree>,
    restored: Option<Position>,
}

impl ReplicationStatus {
    /// Creates the status. `offset` is where the log continues after everything that ImmuDB has.
    pub fn new(
        state: State,
        forwarded: ReplicationMark,
        offset: LogOffset,
        contact_missing: bool,
        limits: PendingLimits,
    ) -> Self {
        let view = View {
            state,
            forwarded,
            reachable: false,
            last_tx: forwarded.transaction(),
            last_error: String::new(),
            retries: 0,
            fallbacks: 0,
            migrated_events: 0,
            trusted: None,
            open_findings: 0,
        };
        Self {
            limits,
            inner: Mutex::new(Inner {
                view,
                offset,
                contacted: false,
                admission: Admission::new(limits, contact_missing),
                waiters: CommitWaiters::default(),
                recent: RecentTransactions::default(),
                verified_tree: None,
                restored: None,
            }),
            state: watch::Sender::new(state),
            forwarded: watch::Sender::new(forwarded),
            reachable: watch::Sender::new(false),
        }
    }

    pub fn view(&self) -> View {
        self.lock().view.clone()
    }

    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    pub fn watch_state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub fn watch_forwarded(&self) -> watch::Receiver<ReplicationMark> {
        self.forwarded.subscribe()
    }

    pub fn watch_reachable(&self) -> watch::Receiver<bool> {
        self.reachable.subscribe()
    }

    /// Checks whether writes are accepted now. `tip` is the end of the log.
    ///
    /// # Errors
    /// Returns the reason if they are not.
    pub fn admit_write(&self, tip: Tip) -> Result<(), StoreError> {
        let inner = self.lock();
        let (pending, offset) = (inner.pending_events(tip), inner.offset);
        inner.admission.write(inner.view.state, tip, pending, offset)
    }

    /// Checks whether a retry may be answered now with the result of an earlier attempt. `tip` is
    /// the end of the log.
    ///
    /// # Errors
    /// Returns the reason if it may not.
    pub fn admit_retry(&self, tip: Tip) -> Result<(), StoreError> {
        let inner = self.lock();
        inner.admission.retry(inner.view.state, tip)
    }

    /// Checks whether reads are served now. `tip` is the end of the log.
    ///
    /// # Errors
    /// Returns the reason if they are not.
    pub fn admit_read(&self, tip: Tip) -> Result<(), StoreError> {
        let inner = self.lock();
        inner.admission.read(inner.view.state, tip)
    }

    /// Returns whether events may have been accepted. A later contact with ImmuDB has to respect
    /// them.
    pub fn is_serving(&self) -> bool {
        let inner = self.lock();
        inner.admission.is_serving(inner.view.state)
    }

    /// Waits as long as the state requires before a write that ends at `end` is answered. For an
    /// append, the position of its last event also tells that ImmuDB has it, even before the first
    /// contact.
    pub async fn wait_for_commit(&self, end: LogOffset, last: Option<Position>, tip: Tip) -> CommitOutcome {
        let (until, answer) = {
            let mut inner = self.lock();
            let until = match inner.view.state {
                State::Fenced => return CommitOutcome::Unknown,
                // The contents of ImmuDB are in doubt.
                State::Suspect | State::Tampered | State::LocalOnly => return CommitOutcome::Local,
                _ if inner.has(end, last) => return CommitOutcome::Immudb,
                State::Connected => Until::Committed,
                State::Migrating if inner.admission.is_crowded(inner.pending_events(tip)) => {
                    Until::NextCommit
                }
                State::Starting | State::Copying | State::Fallback | State::Migrating => {
                    return CommitOutcome::Local;
                }
            };
            (until, inner.waiters.add(end, until))
        };
        match until {
            Until::Committed => answer.await.unwrap_or(CommitOutcome::Local),
            Until::NextCommit => match timeout(PACE_MAX, answer).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) | Err(_) => CommitOutcome::Local,
            },
        }
    }

    /// Returns whether ImmuDB is known to have the append that ends at `end`, with its last event
    /// at `last`.
    pub fn is_forwarded(&self, end: LogOffset, last: Position) -> bool {
        self.lock().has(end, Some(last))
    }

    /// Returns since when the oldest waiter has been waiting for ImmuDB.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.lock().waiters.since()
    }

    /// Returns the transaction that contains the event at `position`, if it is one of the most
    /// recently committed ones.
    pub fn committed_transaction(&self, position: Position) -> Option<u64> {
        self.lock().recent.committed(position)
    }

    /// Same as [`Self::committed_transaction`], but also if the transaction was only learned from
    /// the head. The index may know better.
    pub fn supposed_transaction(&self, position: Position) -> Option<u64> {
        self.lock().recent.supposed(position)
    }

    /// Returns the tree in the `log:head` of the last verified transaction that has one: ImmuDB has
    /// certified all events that it is over. It is known after a restart as well, also without
    /// ImmuDB. `None` before the first one.
    pub(crate) fn verified_tree(&self) -> Option<VerifiedTree> {
        self.lock().verified_tree
    }

    /// Returns where the log ended when it had been copied from ImmuDB, before anything was
    /// appended. `None` if it was not.
    pub(crate) fn restored(&self) -> Option<Position> {
        self.lock().restored
    }

    /// Records where the log ends after a copy from ImmuDB. A further one changes nothing: the log
    /// may have got events of its own in between.
    pub(crate) fn has_restored(&self, last: Position) {
        self.lock().restored.get_or_insert(last);
    }

    pub(super) fn set_state(&self, state: State) {
        let mut inner = self.lock();
        let before = std::mem::replace(&mut inner.view.state, state);
        if state == State::Fallback && before != State::Fallback {
            inner.view.fallbacks = inner.view.fallbacks.saturating_add(1);
        }
        let outcome = match state {
            State::Connected => None,
            State::Migrating if before == State::Migrating => None,
            State::Fenced => Some(CommitOutcome::Unknown),
            State::Starting
            | State::Copying
            | State::Fallback
            | State::Migrating
            | State::Suspect
            | State::Tampered
            | State::LocalOnly => Some(CommitOutcome::Local),
        };
        if let Some(outcome) = outcome {
            inner.waiters.answer_all(outcome);
        }
        drop(inner);
        self.state.send_if_modified(|known| std::mem::replace(known, state) != state);
    }

    /// Records that ImmuDB has the log up to `offset`, the end of it by the transaction in `mark`.
    pub(super) fn advance(&self, mark: ReplicationMark, offset: LogOffset, learned: Learned) {
        let mut inner = self.lock();
        let after = inner.view.forwarded.position;
        let moved = mark.position.0.saturating_sub(after.0);
        if moved > 0
            && let Some(tx) = mark.transaction()
        {
            if matches!(inner.view.state, State::Migrating | State::Fallback) {
                inner.view.migrated_events = inner.view.migrated_events.saturating_add(moved);
            }
            inner.recent.add(after, mark.position, tx, learned);
        }
        inner.view.forwarded = mark;
        inner.view.last_tx = inner.view.last_tx.max(mark.transaction());
        inner.offset = offset;
        inner.waiters.committed(offset, moved);
        drop(inner);
        self.forwarded.send_replace(mark);
    }

    pub(super) fn contacted(&self) {
        let mut inner = self.lock();
        inner.admission.contacted();
        inner.contacted = true;
    }

    /// Returns whether the log has been compared with ImmuDB since the process started.
    pub fn was_contacted(&self) -> bool {
        self.lock().contacted
    }

    pub(super) fn answered(&self) {
        let mut inner = self.lock();
        inner.view.reachable = true;
        drop(inner);
        self.reachable.send_if_modified(|known| !std::mem::replace(known, true));
    }

    /// Clears the last error. Only a committed write proves that the problem is over.
    pub(super) fn recovered(&self) {
        self.answered();
        self.lock().view.last_error.clear();
    }

    pub(super) fn failed(&self, reachable: bool, error: String) {
        let mut inner = self.lock();
        inner.view.reachable = reachable;
        inner.view.last_error = error;
        drop(inner);
        self.reachable.send_if_modified(|known| std::mem::replace(known, reachable) != reachable);
    }

    /// Sets the last error to a problem that ImmuDB itself does not report, although it may answer.
    pub(super) fn blamed(&self, reason: Option<String>) {
        if let Some(reason) = reason {
            self.lock().view.last_error = reason;
        }
    }

    /// Records up to where the history in ImmuDB was verified.
    pub(super) fn trusts(&self, trusted: TrustedView) {
        self.lock().view.trusted = Some(trusted);
    }

    /// Records the newest tree whose head ImmuDB has.
    pub(super) fn verifies(&self, tree: Option<VerifiedTree>) {
        self.lock().verified_tree = tree;
    }

    /// Records how many findings no operator has accepted.
    pub(super) fn has_findings(&self, open: u64) {
        self.lock().view.open_findings = open;
    }

    pub(super) fn retried(&self) {
        let mut inner = self.lock();
        inner.view.retries = inner.view.retries.saturating_add(1);
    }

    /// Stops accepting writes.
    pub fn shut_down(&self) {
        self.lock().admission.shut_down();
    }

    /// Returns the bytes of the log between two offsets, as if all segments between them were full.
    pub(super) fn distance(&self, from: LogOffset, to: LogOffset) -> u64 {
        self.limits.distance(from, to)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        #[cfg(test)]
        interleavings::switch();
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Returns whether ImmuDB has the write that ends at `end`, with its last event at `last`.
    fn has(&self, end: LogOffset, last: Option<Position>) -> bool {
        self.offset >= end || last.is_some_and(|last| last <= self.view.forwarded.position)
    }

    fn pending_events(&self, tip: Tip) -> u64 {
        tip.position.0.saturating_sub(self.view.forwarded.position.0)
    }
}

#[cfg(test)]
mod interleavings;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> LogOffset {
        LogOffset { segment: 1, offset }
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_of_a_large_backlog_is_half_of_what_immudb_takes() {
        let limits = PendingLimits { events_max: 100, bytes_max: u64::MAX, segment_bytes_max: 1 << 20 };
        let start = ReplicationMark::default();
        let status =
            Arc::new(ReplicationStatus::new(State::Migrating, start, LogOffset::START, false, limits));
        let tip = Tip { position: Position(60), end: at(9000), ..Tip::START };
        let callers: Vec<_> = (0..10)
            .map(|caller| {
                let status = status.clone();
                tokio::spawn(async move { status.wait_for_commit(at(5000 + caller), None, tip).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(callers.iter().all(|caller| !caller.is_finished()));
        assert_eq!(status.waiting_since(), None, "to keep the pace is no wait for ImmuDB");
        status.advance(
            ReplicationMark { position: Position(6), immudb_tx: 7, ..start },
            at(100),
            Learned::ByCommit,
        );
        tokio::task::yield_now().await;
        assert_eq!(callers.iter().filter(|caller| caller.is_finished()).count(), 3);
        tokio::time::advance(PACE_MAX).await;
        for caller in callers {
            assert_eq!(caller.await.unwrap(), CommitOutcome::Local);
        }
    }
}
