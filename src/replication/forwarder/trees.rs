//! The tree over the events of the log, whose head every transaction writes with `log:head`.
//!
//! The packer keeps the right edge of the tree up to date with what it packs. Where it starts, the
//! edge comes from the thread that follows the log. If that is a little behind, the rest is read
//! from the log. As long as there is no tree, heads have none, and nothing waits for it.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::Forwarder;
use crate::{
    event::Position,
    history::HistoryError,
    immudb::TxId,
    merkle::RightEdge,
    replication::{
        head::{TreeHead, VerifiedTree},
        notice::Notice,
        transaction::Packer,
    },
    tree::{Leaves, TreeError, TreeView, TreeWatch},
};

/// Where the edge comes from.
#[derive(Debug)]
pub(super) struct Trees {
    watch: TreeWatch,
    /// When it is tried again after a failure.
    retry_at: Option<Instant>,
    failed: Notice,
}

impl Trees {
    const RETRY_AFTER: Duration = Duration::from_secs(10);
    /// A tree that is further behind is waited for.
    const BEHIND_MAX: u64 = 16 * 1024;

    pub(super) fn new(watch: TreeWatch) -> Self {
        Self { watch, retry_at: None, failed: Notice::default() }
    }

    /// Returns the tree, if the edge at a position can be read now.
    fn view(&self, position: Position) -> Option<TreeView> {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return None;
        }
        let view = self.watch.view()?;
        (position.0.saturating_sub(view.size()) <= Self::BEHIND_MAX).then_some(view)
    }

    fn note_failure(&mut self, error: &TreeError<HistoryError>) {
        self.retry_at = Some(Instant::now() + Self::RETRY_AFTER);
        if let Some(failures) = self.failed.add(1) {
            warn!(%error, failures, "log:head is written without the tree over the events");
        }
    }
}

impl Forwarder {
    /// Gives the packer the right edge of the tree, if it lacks it.
    pub(super) async fn give_edge(&mut self, packer: &mut Packer) {
        if !packer.knows_edge()
            && let Some(edge) = self.edge_at(packer.position()).await
        {
            packer.set_edge(edge);
        }
    }

    /// Returns the tree over the events up to a position, if it is known.
    pub(super) async fn tree_at(&mut self, position: Position) -> Option<TreeHead> {
        self.edge_at(position).await.as_ref().map(TreeHead::of)
    }

    /// Returns the right edge of the tree over the events up to a position, if the local log has
    /// them and the tree has come far enough.
    async fn edge_at(&mut self, position: Position) -> Option<RightEdge> {
        if position == Position(0) {
            return Some(RightEdge::new());
        }
        if position > self.sequencer.tip().position {
            return None;
        }
        let view = self.trees.view(position)?;
        if view.size() == position.0 {
            return Some(view.edge().clone());
        }
        let history = self.history.clone();
        let reading = tokio::task::spawn_blocking(move || edge_of(&view, &history, position.0));
        match self.unless_overdue(reading).await {
            Ok(Ok(edge)) => Some(edge),
            Ok(Err(error)) => {
                self.trees.note_failure(&error);
                None
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down.
                Err(_) => None,
            },
        }
    }
}

/// The newest tree whose head is in a verified transaction, and the one before it: the last receipt
/// may be taken back.
#[derive(Debug, Default)]
pub(super) struct VerifiedTrees([Option<VerifiedTree>; 2]);

impl VerifiedTrees {
    pub(super) fn new(newest: Option<VerifiedTree>) -> Self {
        Self([newest, None])
    }

    /// Records that a verified transaction has this tree in its `log:head`.
    pub(super) fn add(&mut self, tx: TxId, head: Option<TreeHead>) {
        let [newest, before] = self.0;
        let Some(head) = head.filter(|_| newest.is_none_or(|newest| newest.tx <= tx)) else { return };
        let before = newest.filter(|newest| newest.tx < tx).or(before);
        self.0 = [Some(VerifiedTree { head, tx }), before];
    }

    /// Returns the newest tree whose head is in one of the transactions up to this one.
    pub(super) fn up_to(&self, tx: TxId) -> Option<VerifiedTree> {
        self.0.into_iter().flatten().find(|tree| tree.tx <= tx)
    }
}

/// Returns the right edge of the tree of the first `size` leaves. The tree may have fewer: the rest
/// is read from the log.
fn edge_of<L: Leaves>(view: &TreeView, leaves: &L, size: u64) -> Result<RightEdge, TreeError<L::Error>> {
    const AT_ONCE: u64 = 256;
    let mut edge = view.edge_at(view.size().min(size), leaves)?;
    while edge.size() < size {
        let range = edge.size()..size.min(edge.size().saturating_add(AT_ONCE));
        let wanted = range.end.saturating_sub(range.start);
        let found = leaves.leaves(range.clone()).map_err(TreeError::Leaves)?;
        if found.len() as u64 != wanted {
            return Err(TreeError::LeafCount { range, found: found.len() });
        }
        found.into_iter().for_each(|leaf| edge.push(leaf));
    }
    Ok(edge)
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, ops::Range};

    use uuid::Uuid;

    use super::*;
    use crate::{
        event::ChainHash,
        merkle::{self, Hash, leaf_hash},
        tree::{EventTree, TreeState},
    };

    /// The leaves of a log, of which it may have lost the last ones.
    struct Log(Vec<ChainHash>);

    impl Log {
        fn of(count: u64) -> Self {
            Self((0..count).map(|number| ChainHash::START.chain(&number.to_be_bytes())).collect())
        }

        fn hashes(&self, count: u64) -> Vec<Hash> {
            self.0.iter().take(count as usize).map(|hash| leaf_hash(&hash.0)).collect()
        }
    }

    impl Leaves for Log {
        type Error = Infallible;

        fn leaves(&self, range: Range<u64>) -> Result<Vec<Hash>, Infallible> {
            assert!(range.end - range.start <= 256);
            let hashes = self.hashes(range.end);
            Ok(hashes.get(range.start as usize..).unwrap_or_default().to_vec())
        }
    }

    /// Returns a tree of the first `size` events.
    fn tree(folder: &tempfile::TempDir, log: &Log, size: u64) -> EventTree {
        let mut tree = EventTree::open(&folder.path().join("log.tree"), Uuid::nil(), 0, log).unwrap();
        log.0.iter().take(size as usize).for_each(|hash| tree.push(*hash));
        tree
    }

    #[test]
    fn the_edge_is_that_of_all_leaves_before_and_behind_the_end_of_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::of(1500);
        let view = tree(&folder, &log, 700).view();
        for size in [0, 1, 255, 256, 257, 511, 699, 700, 701, 956, 957, 1212, 1500] {
            let edge = edge_of(&view, &log, size).unwrap();
            assert_eq!((edge.size(), edge.root()), (size, merkle::root(&log.hashes(size))), "{size} leaves");
        }
        // Leaves that the log does not have.
        let error = edge_of(&view, &log, 1501).unwrap_err();
        assert!(matches!(error, TreeError::LeafCount { found: 32, .. }), "{error}");
    }

    #[test]
    fn the_newest_verified_tree_is_known_and_the_one_before_a_receipt_that_is_taken_back() {
        let tree = |size| TreeHead { size, root: [1; 32] };
        let mut trees = VerifiedTrees::new(Some(VerifiedTree { head: tree(5), tx: TxId(3) }));
        let up_to =
            |trees: &VerifiedTrees, tx| trees.up_to(TxId(tx)).map(|found| (found.tx.0, found.head.size));
        assert_eq!([2, 3, 9].map(|tx| up_to(&trees, tx)), [None, Some((3, 5)), Some((3, 5))]);
        trees.add(TxId(4), None);
        trees.add(TxId(6), Some(tree(8)));
        assert_eq!([5, 6].map(|tx| up_to(&trees, tx)), [Some((3, 5)), Some((6, 8))]);
        // The same transaction is read again, or another one has got its number.
        trees.add(TxId(6), Some(tree(7)));
        assert_eq!([5, 6].map(|tx| up_to(&trees, tx)), [Some((3, 5)), Some((6, 7))]);
        trees.add(TxId(7), Some(tree(9)));
        trees.add(TxId(4), Some(tree(6)));
        assert_eq!([5, 6, 7].map(|tx| up_to(&trees, tx)), [None, Some((6, 7)), Some((7, 9))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tree_that_is_not_ready_or_far_behind_is_not_read_and_a_failure_rests() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::of(10);
        let (sender, watch) = TreeWatch::channel();
        let mut trees = Trees::new(watch);
        let sees = |trees: &Trees, position| trees.view(Position(position)).is_some();
        assert!(!sees(&trees, 5));
        sender.send_replace(TreeState::Ready(tree(&folder, &log, 10).view()));
        let far = 10 + Trees::BEHIND_MAX;
        assert_eq!([1, 10, far, far + 1].map(|position| sees(&trees, position)), [true, true, true, false]);
        trees.note_failure(&TreeError::TooSmall { expected: 11, found: 10 });
        assert!(!sees(&trees, 5));
        tokio::time::advance(Trees::RETRY_AFTER).await;
        assert!(sees(&trees, 5));
        sender.send_replace(TreeState::Failed { reason: "damaged".to_owned() });
        assert!(!sees(&trees, 5));
    }
}
