//! The most recent ImmuDB transactions, and which events each of them contains. In memory and
//! bounded in number; the index knows the older ones.

use std::collections::VecDeque;

use crate::event::Position;

const RECENT_MAX: usize = 4096;

/// How it is known that ImmuDB has the log up to a certain point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Learned {
    /// A transaction that contains all of it was committed.
    ByCommit,
    /// Learned from ImmuDB's head. Earlier events may belong to other transactions.
    ByHead,
}

/// A transaction with the events after `after` up to `last`.
#[derive(Debug, Clone, Copy)]
struct RecentTransaction {
    after: Position,
    last: Position,
    tx: u64,
    learned: Learned,
}

/// Ordered by the positions of their events.
#[derive(Debug, Default)]
pub(super) struct RecentTransactions(VecDeque<RecentTransaction>);

impl RecentTransactions {
    /// Records a transaction with the events after `after` up to `last`.
    pub(super) fn add(&mut self, after: Position, last: Position, tx: u64, learned: Learned) {
        self.0.push_back(RecentTransaction { after, last, tx, learned });
        if self.0.len() > RECENT_MAX {
            self.0.pop_front();
        }
    }

    /// Returns the transaction that contains the event at `position`, if its commit was answered.
    pub(super) fn committed(&self, position: Position) -> Option<u64> {
        self.of(position).filter(|known| known.learned == Learned::ByCommit).map(|known| known.tx)
    }

    /// Same as `committed`, but also if the transaction was only learned from the head.
    pub(super) fn supposed(&self, position: Position) -> Option<u64> {
        self.of(position).map(|known| known.tx)
    }

    fn of(&self, position: Position) -> Option<&RecentTransaction> {
        let index = self.0.partition_point(|known| known.last < position);
        self.0.get(index).filter(|known| known.after < position)
    }
}
