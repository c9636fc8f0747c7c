//! Compares events of the local log with the tree over all events.
//!
//! To prove each event on its own would read the same leaves and nodes for each of them. Instead,
//! the leaves around an event are verified once, by the lowest node above them that the tree keeps.
//! An event is then compared with its leaf in memory.

use crate::{
    event::{ChainHash, Position},
    history::{History, HistoryError},
    merkle::{Hash, ProofError, leaf_hash},
    tree::{TreeError, TreeView},
};

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
        let index = position.0.checked_sub(1).ok_or_else(no_leaf)?;
        if let Some(leaf) = self.known(index) {
            return Ok(leaf);
        }
        self.group = Some(self.view.leaves_around(index, &self.history)?);
        Ok(self.known(index).ok_or_else(no_leaf)?)
    }

    /// Returns a leaf of the group that was used last.
    fn known(&self, index: u64) -> Option<Hash> {
        let (first, leaves) = self.group.as_ref()?;
        let within = usize::try_from(index.checked_sub(*first)?).ok()?;
        leaves.get(within).copied()
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
        for size in [1, 2, 31, 32, 33, 63, 64, 65, 255, 256, 257, 700] {
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
        for position in [1, 257, 288, 321, 600] {
            assert!(tree.has(Position(position), hashes[position as usize - 1]).unwrap(), "{position}");
        }
        for position in [289, 300, 301, 320] {
            let hash = running.history.record_at(Position(position), running.sequencer.tip()).unwrap().hash;
            assert!(tree.has(Position(position), hash).is_err(), "{position}");
        }
    }
}
