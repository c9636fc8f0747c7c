//! Compares events of the local log with the tree over all events.
//!
//! To prove each event on its own would read 256 leaves and half of the tree's levels for each of
//! them. Instead, the leaves of a group of 256 are verified once, by the node above them. An event
//! is then compared with its leaf in memory.

use std::ops::Range;

use crate::{
    event::{ChainHash, Position},
    history::{History, HistoryError},
    merkle::{self, Hash, ProofError, inclusion, leaf_hash},
    tree::{Leaves, TreeError, TreeView},
};

/// The number of leaves that are verified together: those below one kept node of the tree.
const GROUP: u64 = 256;

/// The tree at one size, with the group of leaves that was used last.
#[derive(Debug)]
pub(crate) struct HeldTree {
    history: History,
    view: TreeView,
    /// The index of the first leaf of the group, and its leaves.
    group: Option<(u64, Vec<Hash>)>,
}

impl HeldTree {
    pub(crate) fn new(history: History, view: TreeView) -> Self {
        Self { history, view, group: None }
    }

    pub(crate) fn view(&self) -> &TreeView {
        &self.view
    }

    /// Returns the root of the tree of the first `size` events. It was verified that the tree
    /// continues that tree.
    ///
    /// # Errors
    /// Returns an error if the tree is smaller, or if something cannot be read.
    pub(crate) fn root_at(&self, size: u64) -> Result<Hash, TreeError<HistoryError>> {
        self.view.root_at(size, &self.history)
    }

    /// Returns whether the tree has this chain hash at this position. The chain hash has to follow
    /// from the record.
    ///
    /// # Errors
    /// Returns an error if the tree does not have the position, or if something cannot be read.
    pub(crate) fn has(
        &mut self,
        position: Position,
        hash: ChainHash,
    ) -> Result<bool, TreeError<HistoryError>> {
        Ok(self.leaf(position)? == leaf_hash(&hash.0))
    }

    /// Returns the leaf of the event at this position. It was verified against the root.
    ///
    /// # Errors
    /// Returns an error if the tree does not have the position, or if something cannot be read.
    pub(crate) fn leaf(&mut self, position: Position) -> Result<Hash, TreeError<HistoryError>> {
        let size = self.view.size();
        let no_leaf = || ProofError::NoLeaf { index: position.0.saturating_sub(1), size };
        let index = position.0.checked_sub(1).filter(|index| *index < size).ok_or_else(no_leaf)?;
        let within = index % GROUP;
        let start = index.saturating_sub(within);
        let leaves = match self.group.take() {
            Some((first, leaves)) if first == start => leaves,
            Some(_) | None => self.verified_leaves(start)?,
        };
        let leaf = usize::try_from(within).ok().and_then(|within| leaves.get(within)).copied();
        self.group = Some((start, leaves));
        Ok(leaf.ok_or_else(no_leaf)?)
    }

    /// Reads the group that starts with this leaf, and verifies its node against the root.
    fn verified_leaves(&self, start: u64) -> Result<Vec<Hash>, TreeError<HistoryError>> {
        let size = self.view.size();
        let range = start..start.saturating_add(GROUP).min(size);
        let leaves = self.history.leaves(range.clone()).map_err(TreeError::Leaves)?;
        let count = range.end.saturating_sub(start);
        if leaves.len() as u64 != count {
            return Err(TreeError::LeafCount { range, found: leaves.len() });
        }
        let known = KnownLeaves { history: &self.history, range, leaves: &leaves };
        let proof = self.view.inclusion(start, size, &known)?;
        // The hashes below the node of the group are those of its own leaves. The tree above the
        // nodes of the groups has the same shape as one whose leaves they are.
        let below = count.saturating_sub(1).checked_ilog2().map_or(0, |level| level.saturating_add(1));
        let above = usize::try_from(below).ok().and_then(|below| proof.get(below..)).unwrap_or_default();
        let groups = size.div_ceil(GROUP);
        inclusion::verify(&merkle::root(&leaves), start / GROUP, groups, above, &self.view.root())?;
        Ok(leaves)
    }
}

/// The leaves of the log, some of which were read already.
struct KnownLeaves<'l> {
    history: &'l History,
    range: Range<u64>,
    leaves: &'l [Hash],
}

impl Leaves for KnownLeaves<'_> {
    type Error = HistoryError;

    fn leaves(&self, range: Range<u64>) -> Result<Vec<Hash>, HistoryError> {
        if range == self.range { Ok(self.leaves.to_vec()) } else { self.history.leaves(range) }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;
    use crate::{
        sequencer::tests::{in_folder, start},
        transparency::verification::tests::{hashes_of, store, tree_over},
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn each_event_of_the_log_is_in_its_tree_and_no_other_one() {
        let folder = tempdir().unwrap();
        let running = start(&in_folder(&folder));
        store(&running, 700).await;
        let hashes = hashes_of(&running);
        // Sizes with a complete, a partial and no last group.
        for size in [1, 2, 255, 256, 257, 511, 512, 513, 700] {
            let view = tree_over(folder.path(), &hashes[..size]);
            let mut tree = HeldTree::new(running.history.clone(), view);
            for (position, hash) in (1..).zip(&hashes[..size]) {
                assert!(tree.has(Position(position), *hash).unwrap(), "{position} of {size}");
            }
            let mut other = hashes[size - 1];
            other.0[7] ^= 1;
            assert!(!tree.has(Position(size as u64), other).unwrap());
            for missing in [0, size as u64 + 1] {
                let refused = tree.has(Position(missing), other).unwrap_err();
                assert!(matches!(refused, TreeError::Proof(ProofError::NoLeaf { .. })), "{refused}");
            }
            assert_eq!(tree.root_at(size as u64).unwrap(), tree.view().root());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_that_differs_from_the_tree_in_one_event_proves_none_of_its_group() {
        let folder = tempdir().unwrap();
        let running = start(&in_folder(&folder));
        store(&running, 600).await;
        let mut hashes = hashes_of(&running);
        hashes[300].0[0] ^= 1;
        let view = tree_over(folder.path(), &hashes);
        let mut tree = HeldTree::new(running.history.clone(), view);
        for position in [1, 256, 513, 600] {
            assert!(tree.has(Position(position), hashes[position as usize - 1]).unwrap(), "{position}");
        }
        for position in [257, 300, 301, 512] {
            let hash = running.history.record_at(Position(position), running.sequencer.tip()).unwrap().hash;
            assert!(tree.has(Position(position), hash).is_err(), "{position}");
        }
    }
}
