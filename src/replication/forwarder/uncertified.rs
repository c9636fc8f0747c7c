//! The checkpoints that ImmuDB has, and whose proofs could not be fetched yet.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::{immudb::TxId, replication::checkpoint_queue::Offer};

/// The newest of these checkpoints, with their transactions, in the order in which they were
/// stored.
#[derive(Debug, Default)]
pub(super) struct Uncertified {
    left: VecDeque<(Offer, TxId)>,
    /// When a proof is fetched again after a failure.
    retry_at: Option<Instant>,
    /// The failed attempts since the last proof.
    failures: u32,
}

impl Uncertified {
    /// Older ones are given up: their events have newer checkpoints.
    const MAX: usize = 16;
    const RETRY_AFTER: Duration = Duration::from_secs(10);
    const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

    /// Adds a checkpoint that ImmuDB has. Its proof is due at once, whatever became of others.
    pub(super) fn add(&mut self, offer: Offer, tx: TxId) {
        self.remove(offer.size);
        (self.retry_at, self.failures) = (None, 0);
        self.left.push_back((offer, tx));
        if self.left.len() > Self::MAX {
            self.left.pop_front();
        }
    }

    /// Returns the checkpoint whose proof is to be fetched now: the newest one.
    pub(super) fn due(&self) -> Option<(Offer, TxId)> {
        let is_due = self.retry_at.is_none_or(|at| at <= Instant::now());
        self.left.back().filter(|_| is_due).cloned()
    }

    /// Records that a proof was fetched.
    pub(super) fn certified(&mut self, size: u64) {
        self.remove(size);
        (self.retry_at, self.failures) = (None, 0);
    }

    /// Records that a proof could not be fetched.
    pub(super) fn failed(&mut self) {
        let delay = Self::RETRY_AFTER.saturating_mul(2u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(Instant::now() + delay.min(Self::RETRY_AFTER_MAX));
    }

    fn remove(&mut self, size: u64) {
        self.left.retain(|(offer, _)| offer.size != size);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn offer(size: u64) -> Offer {
        Offer { size, note: Bytes::from(format!("note {size}")) }
    }

    fn due(uncertified: &Uncertified) -> Option<(u64, u64)> {
        uncertified.due().map(|(offer, tx)| (offer.size, tx.0))
    }

    #[tokio::test(start_paused = true)]
    async fn a_proof_that_could_not_be_fetched_is_fetched_later_and_the_newest_one_first() {
        let mut uncertified = Uncertified::default();
        assert_eq!(due(&uncertified), None);
        uncertified.add(offer(7), TxId(12));
        uncertified.failed();
        assert_eq!(due(&uncertified), None, "not at once");
        uncertified.add(offer(9), TxId(15));
        assert_eq!(due(&uncertified), Some((9, 15)), "a new one does not wait for the failure of another");
        uncertified.failed();
        assert_eq!(due(&uncertified), None);
        tokio::time::advance(Uncertified::RETRY_AFTER).await;
        assert_eq!(due(&uncertified), Some((9, 15)));
        uncertified.certified(9);
        assert_eq!(due(&uncertified), Some((7, 12)), "the earlier one is not forgotten");
        // It is read again after a restart, and has one entry.
        uncertified.add(offer(7), TxId(12));
        uncertified.certified(7);
        assert_eq!(due(&uncertified), None);
    }

    #[tokio::test(start_paused = true)]
    async fn further_attempts_are_rarer_until_one_succeeds() {
        let mut uncertified = Uncertified::default();
        uncertified.add(offer(7), TxId(12));
        for delay in [10, 20, 40, 80, 160, 320, 600, 600] {
            uncertified.failed();
            tokio::time::advance(Duration::from_secs(delay - 1)).await;
            assert_eq!(due(&uncertified), None, "{delay} seconds");
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(due(&uncertified), Some((7, 12)));
        }
        uncertified.certified(8);
        uncertified.failed();
        tokio::time::advance(Uncertified::RETRY_AFTER).await;
        assert_eq!(due(&uncertified), Some((7, 12)));
    }

    #[test]
    fn only_the_newest_ones_are_kept() {
        let mut uncertified = Uncertified::default();
        (1..=20).for_each(|size| uncertified.add(offer(size), TxId(size)));
        let mut found = Vec::new();
        while let Some((size, _)) = due(&uncertified) {
            found.push(size);
            uncertified.certified(size);
        }
        assert_eq!(found, (5..=20).rev().collect::<Vec<_>>());
    }
}
