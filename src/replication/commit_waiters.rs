//! The commit waiters: writes whose answers wait for ImmuDB. Decides which of them are released,
//! and notifies them through channels; performs no I/O.

use std::{collections::BTreeMap, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use crate::log::LogOffset;

/// The longest wait of a throttled write. An ImmuDB that is slow for a long time must not make
/// every write slow.
pub(super) const PACE_MAX: Duration = Duration::from_millis(400);

/// The outcome of a write that is durable locally.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// ImmuDB committed it.
    Immudb,
    /// It is in the local log, and the answer waits for nothing more.
    Local,
    /// The service was fenced meanwhile. It is unknown whether ImmuDB will ever have the write.
    Unknown,
}

/// What a write waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// ImmuDB has committed it.
    Committed,
    /// ImmuDB has committed anything. This throttles writes while the backlog is large.
    NextCommit,
}

#[derive(Debug)]
struct Waiter {
    since: Instant,
    until: Until,
    answer: oneshot::Sender<CommitOutcome>,
}

/// Ordered by the offsets at which the writes end.
#[derive(Debug, Default)]
pub(super) struct CommitWaiters {
    waiters: BTreeMap<(LogOffset, u64), Waiter>,
    /// Distinguishes writes that end at the same offset.
    count: u64,
}

impl CommitWaiters {
    /// Adds a write that ends at `end`.
    pub(super) fn add(&mut self, end: LogOffset, until: Until) -> oneshot::Receiver<CommitOutcome> {
        let (answer, told) = oneshot::channel();
        self.count = self.count.wrapping_add(1);
        self.waiters.insert((end, self.count), Waiter { since: Instant::now(), until, answer });
        told
    }

    /// Returns since when the oldest waiter has been waiting for its commit.
    pub(super) fn since(&self) -> Option<Instant> {
        let committed = self.waiters.values().filter(|waiter| waiter.until == Until::Committed);
        committed.map(|waiter| waiter.since).min()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    pub(super) fn answer_all(&mut self, outcome: CommitOutcome) {
        for (_, waiter) in std::mem::take(&mut self.waiters) {
            let _ = waiter.answer.send(outcome);
        }
    }

    /// Records that ImmuDB has the log up to `offset`. `events` is the number of events that it did
    /// not have before.
    pub(super) fn committed(&mut self, offset: LogOffset, events: u64) {
        // The greatest count, so that all writes that end at `offset` are included.
        let after = self.waiters.split_off(&(offset, u64::MAX));
        for (_, waiter) in std::mem::replace(&mut self.waiters, after) {
            let _ = waiter.answer.send(CommitOutcome::Immudb);
        }
        // Release fewer writes than ImmuDB committed events, so that the backlog shrinks.
        let room = usize::try_from(events / 2).unwrap_or(usize::MAX);
        let paced: Vec<_> = self
            .waiters
            .iter()
            .filter(|(_, waiter)| waiter.until == Until::NextCommit && !waiter.answer.is_closed())
            .map(|(key, _)| *key)
            .take(room)
            .collect();
        for key in paced {
            if let Some(waiter) = self.waiters.remove(&key) {
                let _ = waiter.answer.send(CommitOutcome::Local);
            }
        }
    }
}
