//! Tests of the follower: the tree has the log's events, whatever happens to its file.

use std::{fs, path::Path};

use tempfile::TempDir;

use super::*;
use crate::{
    log::Frame,
    merkle::{RightEdge, inclusion, leaf_hash},
    sequencer::{
        Append, Origin,
        tests::{Running, in_folder, one_event, start},
    },
};

const LOG: Uuid = Uuid::from_u128(7);

/// Longer than any of the tests takes.
const LONG: Duration = Duration::from_secs(300);

struct World {
    running: Running,
    stopping: CancellationToken,
    /// Removed after the sequencer has written its index.
    folder: TempDir,
}

impl World {
    /// Starts a sequencer, and stores this number of events.
    async fn with(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let running = start(&in_folder(&folder));
        let world = Self { folder, running, stopping: CancellationToken::new() };
        world.append(count).await;
        world
    }

    async fn append(&self, count: usize) {
        let events: Vec<_> = (0..count).flat_map(|_| one_event("a").events).collect();
        for events in events.chunks(100) {
            let append = Append { events: events.to_vec(), expected: Vec::new() };
            self.running.sequencer.append(append, Origin::default()).await.unwrap();
        }
    }

    fn settings(&self) -> FollowerSettings {
        FollowerSettings { path: self.folder.path().join("log.tree"), log: LOG }
    }

    fn follower(&self) -> (Follower, TreeWatch) {
        let Running { sequencer, history, .. } = &self.running;
        let (tip, stopping) = (sequencer.watch_tip(), self.stopping.clone());
        let (mut follower, watch) = Follower::new(self.settings(), history.clone(), tip, stopping);
        follower.intervals.retry = Duration::from_millis(1);
        (follower, watch)
    }

    /// Returns the leaves of the log by their definition.
    fn leaves(&self) -> Vec<Hash> {
        let Running { sequencer, history, .. } = &self.running;
        let mut cursor = history.cursor_before(Position(1)).unwrap();
        let mut leaves = Vec::new();
        while let Some(read) = cursor.next(sequencer.tip().end).unwrap() {
            let Frame::Append { records, .. } = read.frame else { continue };
            leaves.extend(records.iter().map(|record| leaf_hash(&record.hash.0)));
        }
        leaves
    }

    fn root(&self) -> Hash {
        let mut edge = RightEdge::new();
        self.leaves().into_iter().for_each(|leaf| edge.push(leaf));
        edge.root()
    }

    /// Follows the log until the tree has all of it, and ends. Returns the root.
    async fn followed(&self) -> Hash {
        let Running { sequencer, history, .. } = &self.running;
        let stopping = CancellationToken::new();
        let (tree, ended) =
            follow(self.settings(), history.clone(), sequencer.watch_tip(), stopping.clone()).unwrap();
        let view = tree.wait_for(sequencer.tip().position.0, LONG).await.unwrap();
        stopping.cancel();
        ended.await;
        view.root()
    }
}

/// Returns the number of leaves whose nodes the file has.
fn kept(path: &Path, world: &World) -> u64 {
    let size = world.running.sequencer.tip().position.0;
    EventTree::open(path, LOG, size, &world.running.history).unwrap().size()
}

#[tokio::test]
async fn the_tree_is_built_from_the_log_and_follows_it() {
    let world = World::with(700).await;
    let Running { sequencer, history, .. } = &world.running;
    let settings = world.settings();
    let (tree, ended) =
        follow(settings.clone(), history.clone(), sequencer.watch_tip(), world.stopping.clone()).unwrap();
    let view = tree.wait_for(700, LONG).await.unwrap();
    assert_eq!((view.size(), view.root()), (700, world.root()));
    for count in [1, 2, 297, 500] {
        world.append(count).await;
        let size = sequencer.tip().position.0;
        let view = tree.wait_for(size, LONG).await.unwrap();
        assert_eq!((view.size(), view.root()), (size, world.root()));
    }
    let view = tree.view().unwrap();
    let leaves = world.leaves();
    for (index, leaf) in (0..).zip(&leaves).step_by(113) {
        let proof = view.inclusion(index, 1500, history).unwrap();
        assert_eq!(inclusion::verify(leaf, index, 1500, &proof, &view.root()), Ok(()));
    }
    assert!(tree.wait_for(1501, Duration::ZERO).await.is_none());
    world.stopping.cancel();
    ended.await;
    assert_eq!(kept(&settings.path, &world), 1472, "all nodes are written at the end");
    assert!(tree.wait_for(1501, LONG).await.is_none(), "nothing appends to it");
    assert_eq!(tree.wait_for(1500, LONG).await.unwrap().root(), view.root());
}

#[tokio::test]
async fn a_restart_continues_the_file_and_rebuilds_a_lost_one() {
    let world = World::with(600).await;
    let path = world.settings().path;
    assert_eq!(world.followed().await, world.root());
    world.append(500).await;
    assert_eq!(kept(&path, &world), 576);
    assert_eq!(world.followed().await, world.root());
    assert_eq!(kept(&path, &world), 1088);
    fs::remove_file(&path).unwrap();
    assert_eq!(world.followed().await, world.root());
    assert_eq!(kept(&path, &world), 1088);
}

#[tokio::test]
async fn a_log_with_another_history_gets_its_own_tree() {
    let [old, new] = [World::with(700).await, World::with(600).await];
    let (old_root, path) = (old.followed().await, old.settings().path);
    fs::copy(&path, new.settings().path).unwrap();
    let root = new.followed().await;
    assert_eq!(root, new.root());
    assert_ne!(root, old_root);
    assert_eq!(kept(&new.settings().path, &new), 576);
}

#[tokio::test]
async fn it_is_building_until_it_has_reached_the_tip() {
    let world = World::with(300).await;
    let (mut follower, watch) = world.follower();
    assert!(matches!(watch.state(), TreeState::Building { size: 0, of: 300 }));
    let tip = world.running.sequencer.tip();
    let path = world.settings().path;
    let tree = EventTree::open(&path, LOG, tip.position.0, &world.running.history).unwrap();
    follower.publish(&tree, tip);
    assert!(matches!(watch.state(), TreeState::Building { size: 0, of: 300 }));
    // Each 16 events are published.
    follower.intervals.publish = Duration::ZERO;
    follower.round().unwrap();
    assert!(matches!(watch.state(), TreeState::Ready(view) if view.size() == 300));
    // It stays ready while it is behind.
    world.append(100).await;
    follower.publish(&tree, world.running.sequencer.tip());
    assert!(matches!(watch.state(), TreeState::Ready(view) if view.size() == 0));
    follower.round().unwrap();
    assert_eq!(watch.view().unwrap().root(), world.root());
}

#[tokio::test]
async fn an_empty_log_has_a_tree() {
    let world = World::with(0).await;
    let (mut follower, watch) = world.follower();
    follower.round().unwrap();
    assert_eq!(watch.view().unwrap().root(), RightEdge::new().root());
    world.append(1).await;
    follower.round().unwrap();
    assert_eq!(watch.view().unwrap().root(), world.leaves()[0]);
}

#[tokio::test]
async fn nodes_are_written_when_their_time_has_come() {
    let world = World::with(600).await;
    let (mut follower, _watch) = world.follower();
    follower.intervals.write = LONG;
    follower.round().unwrap();
    assert!(!follower.tree.as_ref().unwrap().is_written());
    follower.intervals.write = Duration::ZERO;
    follower.round().unwrap();
    assert!(follower.tree.as_ref().unwrap().is_written());
    assert_eq!(kept(&world.settings().path, &world), 576);
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_costs_only_the_proofs() {
    let world = World::with(300).await;
    let path = world.settings().path;
    fs::create_dir(&path).unwrap();
    let (follower, watch) = world.follower();
    let mut states = follower.states.subscribe();
    let ended = follower.start().unwrap();
    let failed = states.wait_for(|state| matches!(state, TreeState::Failed { .. })).await.unwrap().clone();
    assert!(matches!(failed, TreeState::Failed { reason } if reason.contains("log.tree")));
    assert!(watch.wait_for(300, LONG).await.is_none(), "it does not wait");
    world.append(100).await;
    fs::remove_dir(&path).unwrap();
    _ = states.wait_for(|state| matches!(state, TreeState::Ready(_))).await.unwrap();
    assert_eq!(watch.wait_for(400, LONG).await.unwrap().root(), world.root());
    world.stopping.cancel();
    ended.await;
}

#[tokio::test]
async fn the_file_of_another_log_and_one_that_is_no_tree_are_set_aside() {
    let world = World::with(300).await;
    world.followed().await;
    let path = world.settings().path;
    let ours = fs::read(&path).unwrap();
    for (log, before) in [(Uuid::from_u128(8), ours.clone()), (LOG, vec![0; ours.len()])] {
        fs::write(&path, &before).unwrap();
        let (mut follower, watch) = world.follower();
        follower.settings.log = log;
        follower.round().unwrap();
        assert_eq!(watch.view().unwrap().root(), world.root());
        assert_eq!(fs::read(path.with_extension("tree.old")).unwrap(), before);
        assert_ne!(fs::read(&path).unwrap(), before);
    }
}

#[tokio::test]
async fn a_damaged_log_is_read_again_from_where_the_tree_is() {
    let world = World::with(300).await;
    let (mut follower, watch) = world.follower();
    follower.round().unwrap();
    world.append(100).await;
    let tip = world.running.sequencer.tip();
    let segment = in_folder(&world.folder).log_path.join("0000000001.segment");
    let whole = fs::read(&segment).unwrap();
    let mut damaged = whole.clone();
    let at = usize::try_from(tip.end.offset).unwrap() - 10;
    damaged[at] ^= 1;
    // In place, because the file is open.
    fs::write(&segment, &damaged).unwrap();
    let refused = follower.round().unwrap_err();
    assert!(matches!(refused, FollowError::Log(HistoryError::Log(_))), "{refused}");
    follower.fail(&refused);
    assert!(matches!(watch.state(), TreeState::Failed { .. }));
    fs::write(&segment, &whole).unwrap();
    follower.round().unwrap();
    assert_eq!(watch.view().unwrap().root(), world.root());
}

#[tokio::test]
async fn the_thread_ends_with_the_sequencer_and_at_once_when_it_is_stopped() {
    let world = World::with(10).await;
    let history = world.running.history.clone();
    let (sender, tip) = watch::channel(world.running.sequencer.tip());
    let (tree, ended) =
        follow(world.settings(), history.clone(), tip.clone(), CancellationToken::new()).unwrap();
    assert!(tree.wait_for(10, LONG).await.is_some());
    drop(sender);
    ended.await;
    let stopped = CancellationToken::new();
    stopped.cancel();
    let (tree, ended) = follow(world.settings(), history, tip, stopped).unwrap();
    ended.await;
    assert!(matches!(tree.state(), TreeState::Building { .. }), "it did nothing");
}

#[test]
fn lines_are_limited() {
    let mut lines = LineLimit::default();
    assert_eq!([LONG, LONG, LONG].map(|interval| lines.is_due(interval)), [true, false, false]);
    assert!(lines.is_due(Duration::ZERO));
}
