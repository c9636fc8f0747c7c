//! Makes the proofs: reads the nodes and leaves that they need, once each, and verifies what comes
//! out against the root in memory.

use std::{collections::BTreeMap, ops::Range};

use tracing::warn;

use super::{
    Leaves, TreeView,
    error::TreeError,
    file,
    layout::{self, LEVEL, Node, SUBTREE_LEAVES},
};
use crate::merkle::{self, EMPTY_ROOT, Hash, ProofError, RightEdge, consistency, inclusion, node_hash};

/// Reads a view for one answer.
pub(super) struct Reader<'a, L> {
    view: &'a TreeView,
    leaves: &'a L,
    /// The leaves that were read, by the index of their node of 32 leaves.
    read: BTreeMap<u64, Vec<Hash>>,
    /// The nodes that had to be computed because their records are damaged.
    computed: BTreeMap<u64, Hash>,
}

impl<'a, L: Leaves> Reader<'a, L> {
    pub(super) fn new(view: &'a TreeView, leaves: &'a L) -> Self {
        Self { view, leaves, read: BTreeMap::new(), computed: BTreeMap::new() }
    }

    /// Returns the right edge of the tree of the first `size` leaves. It was verified that the
    /// present tree continues that tree.
    pub(super) fn edge_at(&mut self, size: u64) -> Result<RightEdge, TreeError<L::Error>> {
        let whole = self.view.size();
        if size == whole {
            return Ok(self.view.edge().clone());
        }
        if size > whole {
            return Err(TreeError::TooSmall { expected: size, found: whole });
        }
        let peaks = layout::complete_nodes(0..size).into_iter().map(|node| self.node(node));
        let peaks = peaks.collect::<Result<Vec<_>, _>>()?;
        // There is a node for each set bit of the size.
        let older = RightEdge::from_parts(size, peaks).unwrap_or_default();
        let proof = self.hashes(layout::consistency(size, whole))?;
        consistency::verify(size, &older.root(), whole, &self.view.root(), &proof)?;
        Ok(older)
    }

    /// Returns the root of the tree of the first `size` leaves, verified as the edge is.
    pub(super) fn root_at(&mut self, size: u64) -> Result<Hash, TreeError<L::Error>> {
        Ok(self.edge_at(size)?.root())
    }

    /// Returns a verified proof of inclusion.
    pub(super) fn inclusion(&mut self, index: u64, size: u64) -> Result<Vec<Hash>, TreeError<L::Error>> {
        let root = self.root_at(size)?;
        if index >= size {
            return Err(ProofError::NoLeaf { index, size }.into());
        }
        let leaf = self.node(Node { level: 0, index })?;
        let proof = self.hashes(layout::inclusion(index, size))?;
        inclusion::verify(&leaf, index, size, &proof, &root)?;
        Ok(proof)
    }

    /// Returns the leaves below the lowest kept node that has this leaf, and the index of the first
    /// of them. Their node was verified against the root.
    pub(super) fn leaves_around(&mut self, index: u64) -> Result<(u64, Vec<Hash>), TreeError<L::Error>> {
        let size = self.view.size();
        if index >= size {
            return Err(ProofError::NoLeaf { index, size }.into());
        }
        let subtree = index / SUBTREE_LEAVES;
        let leaves = self.leaves_of(subtree)?.to_vec();
        // The tree above these nodes has the same shape as one whose leaves they are.
        let subtrees = size.div_ceil(SUBTREE_LEAVES);
        let above = layout::inclusion(subtree, subtrees);
        let of_leaves =
            |range: Range<u64>| range.start * SUBTREE_LEAVES..(range.end * SUBTREE_LEAVES).min(size);
        let proof = self.hashes(above.into_iter().map(of_leaves).collect())?;
        inclusion::verify(&merkle::root(&leaves), subtree, subtrees, &proof, &self.view.root())?;
        Ok((subtree * SUBTREE_LEAVES, leaves))
    }

    /// Returns a verified proof of consistency.
    pub(super) fn consistency(&mut self, old: u64, new: u64) -> Result<Vec<Hash>, TreeError<L::Error>> {
        let new_root = self.root_at(new)?;
        if old > new {
            return Err(ProofError::Shrunk { old, new }.into());
        }
        let old_root = self.root_at(old)?;
        let proof = self.hashes(layout::consistency(old, new))?;
        consistency::verify(old, &old_root, new, &new_root, &proof)?;
        Ok(proof)
    }

    /// Writes the damaged nodes that were computed again. To be called only after an answer,
    /// because only then they are verified.
    pub(super) fn keep_computed(self) {
        let nodes = &self.view.nodes;
        for (record, hash) in self.computed {
            let (file, offset) = (nodes.path().display(), file::offset(record));
            match nodes.write(record, &[hash]) {
                Ok(()) => warn!(%file, offset, "a node of the tree was damaged; it was computed again"),
                Err(error) => {
                    warn!(%file, offset, %error, "a node of the tree is damaged, and cannot be written again")
                }
            }
        }
    }

    fn hashes(&mut self, ranges: Vec<Range<u64>>) -> Result<Vec<Hash>, TreeError<L::Error>> {
        ranges.into_iter().map(|range| self.hash(range)).collect()
    }

    /// Returns the root of the subtree with these leaves.
    fn hash(&mut self, range: Range<u64>) -> Result<Hash, TreeError<L::Error>> {
        let mut root = None;
        for node in layout::complete_nodes(range).into_iter().rev() {
            let left = self.node(node)?;
            root = Some(root.map_or(left, |right| node_hash(&left, &right)));
        }
        Ok(root.unwrap_or(EMPTY_ROOT))
    }

    /// Returns a node, or a leaf.
    pub(super) fn node(&mut self, node: Node) -> Result<Hash, TreeError<L::Error>> {
        if node.level < LEVEL {
            let range = node.leaves();
            let (subtree, start) = (range.start / SUBTREE_LEAVES, range.start % SUBTREE_LEAVES);
            let leaves = self.leaves_of(subtree)?.iter().skip(usize::try_from(start).unwrap_or(usize::MAX));
            let leaves: Vec<Hash> = leaves.take(1 << node.level).copied().collect();
            return Ok(merkle::root(&leaves));
        }
        if let Some(hash) = self.computed.get(&node.record()) {
            return Ok(*hash);
        }
        if let Some(hash) = self.view.stored(node)? {
            return Ok(hash);
        }
        let hash = match node.children() {
            Some([left, right]) => node_hash(&self.node(left)?, &self.node(right)?),
            None => merkle::root(self.leaves_of(node.index)?),
        };
        self.computed.insert(node.record(), hash);
        Ok(hash)
    }

    /// Returns the leaves of a subtree of 32 leaves, or those behind the last complete one. What
    /// is read is compared with the kept node, unless that is damaged.
    fn leaves_of(&mut self, subtree: u64) -> Result<&[Hash], TreeError<L::Error>> {
        if subtree >= self.view.subtrees() {
            return Ok(&self.view.tail);
        }
        if !self.read.contains_key(&subtree) {
            let node = Node { level: LEVEL, index: subtree };
            let leaves = read(self.leaves, node.leaves())?;
            let found = merkle::root(&leaves);
            if let Some(expected) = self.view.stored(node)?
                && expected != found
            {
                return Err(TreeError::OtherLeaves { range: node.leaves(), expected, found });
            }
            self.read.insert(subtree, leaves);
        }
        Ok(self.read.get(&subtree).map_or(&[], Vec::as_slice))
    }
}

/// Reads leaves, and checks their number.
pub(super) fn read<L: Leaves>(leaves: &L, range: Range<u64>) -> Result<Vec<Hash>, TreeError<L::Error>> {
    let found = leaves.leaves(range.clone()).map_err(TreeError::Leaves)?;
    if found.len() as u64 == range.end - range.start {
        Ok(found)
    } else {
        Err(TreeError::LeafCount { range, found: found.len() })
    }
}
