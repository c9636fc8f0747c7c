//! The root of a growing tree, without its leaves.

use super::{EMPTY_ROOT, Hash, node_hash};

/// The right edge of a tree (its compact range): the roots of the complete subtrees that the tree
/// consists of. There is one for each set bit of the size, and the largest is first. With a leaf at
/// a time, it takes two hashes for each on average.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RightEdge {
    size: u64,
    hashes: Vec<Hash>,
}

impl RightEdge {
    /// The maximum number of leaves of an edge that is given. A tree that starts with it cannot
    /// outgrow the type of its size.
    pub const SIZE_MAX: u64 = u64::MAX / 2;

    /// Returns the edge of a tree without leaves.
    pub const fn new() -> Self {
        Self { size: 0, hashes: Vec::new() }
    }

    /// Returns the edge of a tree with this number of leaves, from the roots of its complete
    /// subtrees. Returns `None` if their number does not fit the size, or if the size is larger
    /// than [`RightEdge::SIZE_MAX`].
    pub fn from_parts(size: u64, hashes: Vec<Hash>) -> Option<Self> {
        let fits = size <= Self::SIZE_MAX && hashes.len() == size.count_ones() as usize;
        fits.then_some(Self { size, hashes })
    }

    /// Returns the number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the roots of the complete subtrees, the largest first.
    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    /// Appends a leaf, given by its [`leaf_hash`](super::leaf_hash).
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // As in a binary counter, each trailing one bit is a subtree that becomes part of a larger
        // one.
        for _ in 0..self.size.trailing_ones() {
            let Some(left) = self.hashes.pop() else { break };
            hash = node_hash(&left, &hash);
        }
        self.hashes.push(hash);
        self.size += 1;
    }

    /// Returns the root of the tree.
    pub fn root(&self) -> Hash {
        let mut smallest_first = self.hashes.iter().rev();
        let Some(smallest) = smallest_first.next() else { return EMPTY_ROOT };
        smallest_first.fold(*smallest, |right, left| node_hash(left, &right))
    }
}
