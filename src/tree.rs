//! The hash tree over the events of the log, and its proofs.
//!
//! It is the tree of RFC 6962 whose leaf *n* - 1 is the chain hash of event *n*. A chain hash
//! commits to all events before it, so one leaf that is right shows that all before it are.
//!
//! [`EventTree`] grows with the log. It keeps the nodes of 32 leaves and above in a file, the
//! leaves behind the last of these nodes in memory, and reads all other leaves from the log when a
//! proof needs them ([`Leaves`]). [`TreeView`] makes the proofs, and [`TreeWatch`] has the newest
//! one for the threads that do not append.
//!
//! The file is derived from the log, and is not synced. A torn tail, nodes of another history and
//! damaged nodes are removed or computed again. What is returned was verified against the root in
//! memory: there may be no proof, but never a wrong one.

use std::{
    ops::{Deref, Range},
    path::Path,
    sync::Arc,
};

use tracing::warn;
use uuid::Uuid;

use self::{
    file::TreeFile,
    layout::{LEVEL, Node, SUBTREE_LEAVES},
    reader::Reader,
};
use crate::{
    event::ChainHash,
    merkle::{self, Hash, RightEdge},
};

mod error;
mod file;
mod layout;
mod reader;
#[cfg(test)]
mod tests;
mod watch;

pub use error::{TreeError, TreeFileError};
pub use watch::{TreeState, TreeWatch};

/// What has the leaves of the tree: the log.
pub trait Leaves {
    /// Why leaves cannot be read.
    type Error: std::error::Error + 'static;

    /// Returns the leaf hashes in this range of indexes, from 0 on: those of the events with the
    /// positions `range.start + 1` to `range.end`. At most 32 are requested at once, and only
    /// such that the tree has.
    ///
    /// # Errors
    /// Returns an error if they cannot be read.
    fn leaves(&self, range: Range<u64>) -> Result<Vec<Hash>, Self::Error>;
}

/// The tree, for the thread that appends to it. Reading is that of [`TreeView`].
#[derive(Debug)]
pub struct EventTree {
    view: TreeView,
}

impl Deref for EventTree {
    type Target = TreeView;

    fn deref(&self) -> &TreeView {
        &self.view
    }
}

impl EventTree {
    /// Opens the file, or creates it. `log` is the id of the log, `size` the number of its durable
    /// events. The tree has a multiple of 32 leaves, at most `size`: what is missing has to be
    /// appended with [`EventTree::push`].
    ///
    /// The last kept node is compared with its 32 leaves in the log. If they differ, the log has
    /// another history than the one that the file was made from, and the nodes behind the last
    /// common one are removed. Beyond these leaves, one node for each set bit of the size is read:
    /// at most 19 with 100 000 000 events. Only a damaged file or another history takes more.
    ///
    /// Checksums are no signatures: the root of a tree with a forged file is not that of the log.
    /// Compare it with one that is known from elsewhere.
    ///
    /// # Errors
    /// Returns an error if the file belongs to another log or to a newer version, or if something
    /// cannot be read or written.
    pub fn open<L: Leaves>(
        path: &Path,
        log: Uuid,
        size: u64,
        leaves: &L,
    ) -> Result<Self, TreeError<L::Error>> {
        let nodes = TreeFile::open(path, log)?;
        let found = layout::subtrees(nodes.record_count()?);
        let mut subtrees = found.min(size / SUBTREE_LEAVES);
        while subtrees > 0 && !nodes.has_all(layout::records(subtrees - 1)..layout::records(subtrees))? {
            subtrees -= 1;
        }
        let mut view = TreeView {
            nodes: Arc::new(nodes),
            edge: RightEdge::new(),
            tail: Vec::new(),
            written: layout::records(subtrees),
            unwritten: Vec::new(),
        };
        let common = common_subtrees(&view, subtrees, leaves)?;
        if common < found {
            let file = path.display();
            warn!(%file, found, kept = common, "removing nodes of the tree that the log does not have");
        }
        view.nodes.truncate(layout::records(common))?;
        view.written = layout::records(common);
        let mut reader = Reader::new(&view, leaves);
        let size = common * SUBTREE_LEAVES;
        let peaks = layout::complete_nodes(0..size).into_iter().map(|node| reader.node(node));
        let peaks = peaks.collect::<Result<Vec<_>, _>>()?;
        reader.keep_computed();
        // There is a node for each set bit of the size.
        view.edge = RightEdge::from_parts(size, peaks).unwrap_or_default();
        Ok(Self { view })
    }

    /// Appends the event with this chain hash, in memory. Only durable events may be appended.
    pub fn push(&mut self, hash: ChainHash) {
        let TreeView { edge, tail, unwritten, .. } = &mut self.view;
        let leaf = merkle::leaf_hash(&hash.0);
        let completes_subtree = tail.len() as u64 + 1 == SUBTREE_LEAVES;
        if completes_subtree {
            // The nodes that the leaf completes. The edge keeps only the highest of them.
            let mut node = leaf;
            let left = edge.hashes().iter().rev().take(edge.size().trailing_ones() as usize);
            for (level, left) in (1..).zip(left) {
                node = merkle::node_hash(left, &node);
                if level >= LEVEL {
                    unwritten.push(node);
                }
            }
            tail.clear();
        } else {
            tail.push(leaf);
        }
        edge.push(leaf);
    }

    /// Writes the nodes that were completed since the last call to the file, without a sync. If
    /// this fails, they stay in memory for the next call: about 64 bytes for 32 events.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn write(&mut self) -> Result<(), TreeFileError> {
        let TreeView { nodes, written, unwritten, .. } = &mut self.view;
        if unwritten.is_empty() {
            return Ok(());
        }
        nodes.write(*written, unwritten)?;
        *written += unwritten.len() as u64;
        unwritten.clear();
        Ok(())
    }

    /// Returns whether the file has all nodes of the tree.
    pub fn is_written(&self) -> bool {
        self.view.unwritten.is_empty()
    }

    /// Returns the present state, for other threads. It does not grow.
    pub fn view(&self) -> TreeView {
        self.view.clone()
    }
}

/// Returns how many of the first `subtrees` nodes of 32 leaves have the leaves of the log. Usually
/// these are all, and one comparison shows it.
fn common_subtrees<L: Leaves>(
    view: &TreeView,
    subtrees: u64,
    leaves: &L,
) -> Result<u64, TreeError<L::Error>> {
    // The first `common` are the same, and the one before `different` is not.
    let (mut common, mut different) = (0, subtrees + 1);
    let mut next = subtrees;
    while common < next {
        let node = Node { level: LEVEL, index: next - 1 };
        let found = merkle::root(&reader::read(leaves, node.leaves())?);
        if view.stored(node)? == Some(found) {
            common = next;
        } else {
            different = next;
        }
        next = common + (different - common) / 2;
    }
    Ok(common)
}

/// The tree at one size, for proofs of it and of all smaller trees. Cheap to clone.
///
/// A proof reads at most two nodes of 36 bytes for each level above 32 leaves, and usually fewer:
/// about 35 of a tree of 100 000 000 events. For a smaller size than that of the view, it reads
/// three times as many, to verify the root at that size. It reads twice 32 leaves at most.
#[derive(Debug, Clone)]
pub struct TreeView {
    nodes: Arc<TreeFile>,
    edge: RightEdge,
    /// The leaves behind the last node of 32 leaves.
    tail: Vec<Hash>,
    /// The number of records in the file.
    written: u64,
    /// The nodes of the records behind them.
    unwritten: Vec<Hash>,
}

impl TreeView {
    /// Returns the number of leaves.
    pub fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Returns the root.
    pub fn root(&self) -> Hash {
        self.edge.root()
    }

    /// Returns the right edge.
    pub fn edge(&self) -> &RightEdge {
        &self.edge
    }

    /// Returns the right edge of the tree of the first `size` leaves. It was verified that the
    /// present tree continues that tree.
    ///
    /// # Errors
    /// Returns an error if the tree is smaller, or if something cannot be read.
    pub fn edge_at<L: Leaves>(&self, size: u64, leaves: &L) -> Result<RightEdge, TreeError<L::Error>> {
        self.read(leaves, |reader| reader.edge_at(size))
    }

    /// Returns the root of the tree of the first `size` leaves.
    ///
    /// # Errors
    /// Returns an error if the tree is smaller, or if something cannot be read.
    pub fn root_at<L: Leaves>(&self, size: u64, leaves: &L) -> Result<Hash, TreeError<L::Error>> {
        self.read(leaves, |reader| reader.root_at(size))
    }

    /// Returns the proof that the leaf with this index, from 0 on, is in the tree of the first
    /// `size` leaves. It is verified as in [`proof::inclusion`](crate::proof::inclusion).
    ///
    /// # Errors
    /// Returns an error if there is no such leaf, if the tree is smaller than `size`, or if
    /// something cannot be read.
    pub fn inclusion<L: Leaves>(
        &self,
        index: u64,
        size: u64,
        leaves: &L,
    ) -> Result<Vec<Hash>, TreeError<L::Error>> {
        self.read(leaves, |reader| reader.inclusion(index, size))
    }

    /// Returns the leaves around the one with this index, and the index of the first of them. All
    /// were verified against the root at once, which reads much less than a proof of each.
    ///
    /// # Errors
    /// Returns an error if there is no such leaf, or if something cannot be read.
    pub fn leaves_around<L: Leaves>(
        &self,
        index: u64,
        leaves: &L,
    ) -> Result<(u64, Vec<Hash>), TreeError<L::Error>> {
        self.read(leaves, |reader| reader.leaves_around(index))
    }

    /// Returns the proof that the tree of the first `new` leaves continues that of the first `old`
    /// ones. It is verified as in [`proof::consistency`](crate::proof::consistency).
    ///
    /// # Errors
    /// Returns an error if `old` is larger than `new`, if the tree is smaller than `new`, or if
    /// something cannot be read.
    pub fn consistency<L: Leaves>(
        &self,
        old: u64,
        new: u64,
        leaves: &L,
    ) -> Result<Vec<Hash>, TreeError<L::Error>> {
        self.read(leaves, |reader| reader.consistency(old, new))
    }

    /// Calls `read`, and then writes the damaged nodes that had to be computed again.
    fn read<'a, L: Leaves, R>(
        &'a self,
        leaves: &'a L,
        read: impl FnOnce(&mut Reader<'a, L>) -> Result<R, TreeError<L::Error>>,
    ) -> Result<R, TreeError<L::Error>> {
        let mut reader = Reader::new(self, leaves);
        let found = read(&mut reader)?;
        reader.keep_computed();
        Ok(found)
    }

    /// Returns the number of complete subtrees of 32 leaves.
    fn subtrees(&self) -> u64 {
        layout::subtrees(self.written + self.unwritten.len() as u64)
    }

    /// Returns a kept node, or `None` if its record is damaged.
    fn stored(&self, node: Node) -> Result<Option<Hash>, TreeFileError> {
        let record = node.record();
        match record.checked_sub(self.written) {
            None => self.nodes.read(record),
            Some(at) => Ok(usize::try_from(at).ok().and_then(|at| self.unwritten.get(at).copied())),
        }
    }
}
