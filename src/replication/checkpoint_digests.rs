//! The digests of the checkpoints that ImmuDB is known to have: what their keys must go on to have.

use std::collections::BTreeMap;

use crate::immudb::Sha256Hash;

/// By the number of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CheckpointDigests(BTreeMap<u64, Sha256Hash>);

impl CheckpointDigests {
    /// The maximum number of checkpoints. The smallest ones are forgotten.
    const MAX: usize = 4096;

    pub(crate) fn get(&self, size: u64) -> Option<Sha256Hash> {
        self.0.get(&size).copied()
    }

    /// Adds the digest of the entry that stored the checkpoint over the first `size` events.
    pub(crate) fn add(&mut self, size: u64, digest: Sha256Hash) {
        self.0.insert(size, digest);
        if self.0.len() > Self::MAX {
            self.0.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_ones_are_kept() {
        let mut digests = CheckpointDigests::default();
        let count = CheckpointDigests::MAX as u64 + 10;
        for size in 1..=count {
            digests.add(size, [1; 32]);
        }
        digests.add(count, [2; 32]);
        assert_eq!(digests.0.len(), CheckpointDigests::MAX);
        assert_eq!(
            [10, 11, count].map(|size| digests.get(size).map(|digest| digest[0])),
            [None, Some(1), Some(2)]
        );
    }
}
