//! Where the tree is, as the other threads see it.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

use super::TreeView;

/// Where the tree is, for other threads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TreeWatch(watch::Receiver<TreeState>);

/// Where the tree is.
#[derive(Debug, Clone)]
pub enum TreeState {
    /// The tree is being brought up to the end of the log.
    Building {
        /// The number of leaves so far.
        size: u64,
        /// The number of leaves that it is brought up to.
        of: u64,
    },
    /// The tree. It has all events that were durable shortly before.
    Ready(TreeView),
    /// There are no proofs until the reason is gone, or until a restart.
    Failed {
        /// Why the tree cannot be opened or continued.
        reason: String,
    },
}

impl TreeWatch {
    /// Creates a watch of a tree that is not open yet, and the sender of its states.
    pub fn channel() -> (watch::Sender<TreeState>, Self) {
        let (sender, receiver) = watch::channel(TreeState::Building { size: 0, of: 0 });
        (sender, Self(receiver))
    }

    /// Returns the newest state.
    pub fn state(&self) -> TreeState {
        self.0.borrow().clone()
    }

    /// Returns the tree, or `None` if it is not ready.
    pub fn view(&self) -> Option<TreeView> {
        match &*self.0.borrow() {
            TreeState::Ready(view) => Some(view.clone()),
            TreeState::Building { .. } | TreeState::Failed { .. } => None,
        }
    }

    /// Waits until the tree has this number of leaves. Returns `None` if it has failed, if nothing
    /// appends to it any longer, or if `limit` has passed.
    pub async fn wait_for(&self, size: u64, limit: Duration) -> Option<TreeView> {
        let mut states = self.0.clone();
        let decided = states.wait_for(|state| match state {
            TreeState::Building { .. } => false,
            TreeState::Ready(view) => view.size() >= size,
            TreeState::Failed { .. } => true,
        });
        let decided = timeout(limit, decided).await.ok()?.ok()?.clone();
        match decided {
            TreeState::Ready(view) => Some(view),
            TreeState::Building { .. } | TreeState::Failed { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, ops::Range, task::Poll};

    use futures_util::poll;
    use tempfile::TempDir;
    use uuid::Uuid;

    use super::*;
    use crate::{
        event::ChainHash,
        merkle::Hash,
        tree::{EventTree, Leaves},
    };

    /// Longer than any of the tests takes.
    const LONG: Duration = Duration::from_secs(3600);

    /// A log without events.
    struct Empty;

    impl Leaves for Empty {
        type Error = Infallible;

        fn leaves(&self, _: Range<u64>) -> Result<Vec<Hash>, Infallible> {
            Ok(Vec::new())
        }
    }

    fn empty_tree(folder: &TempDir) -> EventTree {
        EventTree::open(&folder.path().join("log.tree"), Uuid::from_u128(7), 0, &Empty).unwrap()
    }

    fn push(tree: &mut EventTree, count: u8) {
        (0..count).for_each(|number| tree.push(ChainHash([number; 32])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_waits_until_the_tree_is_large_enough() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = empty_tree(&folder);
        let (states, watch) = TreeWatch::channel();
        assert!(matches!(watch.state(), TreeState::Building { size: 0, of: 0 }));
        let mut waiting = Box::pin(watch.wait_for(5, LONG));
        assert!(poll!(&mut waiting).is_pending());
        states.send_replace(TreeState::Building { size: 6, of: 7 });
        assert!(poll!(&mut waiting).is_pending(), "it is not ready");
        assert!(watch.view().is_none());
        push(&mut tree, 4);
        states.send_replace(TreeState::Ready(tree.view()));
        assert!(poll!(&mut waiting).is_pending(), "it is too small");
        push(&mut tree, 3);
        states.send_replace(TreeState::Ready(tree.view()));
        let found = waiting.await.unwrap();
        assert_eq!((found.size(), found.root()), (7, tree.root()));
        assert_eq!(watch.view().unwrap().size(), 7);
        assert_eq!(watch.wait_for(7, Duration::ZERO).await.unwrap().size(), 7, "it does not wait");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_a_failure_with_its_limit_and_with_the_thread_of_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = empty_tree(&folder);
        push(&mut tree, 4);
        let (states, watch) = TreeWatch::channel();
        states.send_replace(TreeState::Ready(tree.view()));
        assert!(watch.wait_for(5, LONG).await.is_none(), "the limit has passed");
        let mut waiting = Box::pin(watch.wait_for(5, LONG));
        assert!(poll!(&mut waiting).is_pending());
        states.send_replace(TreeState::Failed { reason: "it is damaged".to_owned() });
        assert!(matches!(poll!(&mut waiting), Poll::Ready(None)));
        assert!(watch.wait_for(1, LONG).await.is_none());
        assert!(matches!(watch.state(), TreeState::Failed { reason } if reason == "it is damaged"));
        states.send_replace(TreeState::Ready(tree.view()));
        let mut waiting = Box::pin(watch.wait_for(5, LONG));
        assert!(poll!(&mut waiting).is_pending());
        drop(states);
        assert!(matches!(poll!(&mut waiting), Poll::Ready(None)));
        assert_eq!(watch.wait_for(4, LONG).await.unwrap().size(), 4, "the last view stays");
    }
}
