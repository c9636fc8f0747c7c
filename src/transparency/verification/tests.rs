//! What the tests of the parts share: a log, and a tree over given chain hashes.

use std::{ops::Range, path::Path};

use uuid::Uuid;

use crate::{
    event::{ChainHash, Position},
    history::HistoryError,
    merkle::Hash,
    sequencer::{
        Append, Origin,
        tests::{Running, one_event},
    },
    tree::{EventTree, Leaves, TreeView},
};

/// Stores this number of events, 100 in an append.
pub(super) async fn store(running: &Running, count: usize) {
    for left in (0..count).step_by(100) {
        let events = (0..100.min(count - left)).map(|_| one_event("room-1").events.remove(0));
        let append = Append { events: events.collect(), expected: Vec::new() };
        running.sequencer.append(append, Origin::default()).await.unwrap();
    }
}

/// Stores an event of each of these aggregates, each in an append of its own.
pub(super) async fn store_each(running: &Running, aggregates: &[&str]) {
    for aggregate in aggregates {
        running.sequencer.append(one_event(aggregate), Origin::default()).await.unwrap();
    }
}

/// Returns the chain hashes of all events.
pub(crate) fn hashes_of(running: &Running) -> Vec<ChainHash> {
    let tip = running.sequencer.tip();
    let hash = |position| running.history.record_at(Position(position), tip).unwrap().hash;
    (1..=tip.position.0).map(hash).collect()
}

/// A log that nothing is read from.
struct Unread;

impl Leaves for Unread {
    type Error = HistoryError;

    fn leaves(&self, _: Range<u64>) -> Result<Vec<Hash>, HistoryError> {
        Ok(Vec::new())
    }
}

/// Returns the tree over these chain hashes. Its file is in the folder.
pub(crate) fn tree_over(folder: &Path, hashes: &[ChainHash]) -> TreeView {
    let mut tree = EventTree::open(&folder.join("test.tree"), Uuid::nil(), 0, &Unread).unwrap();
    hashes.iter().for_each(|hash| tree.push(*hash));
    tree.view()
}
