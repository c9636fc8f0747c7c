//! The way from a node up to the root, along which a proof has one hash for each node that is
//! passed.

/// On which side of the path the next hash of the proof is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// A node on the way to the root.
#[derive(Debug)]
pub(super) struct Path {
    /// The number of nodes left of this one, on its level.
    index: u64,
    /// The index of the last node on that level. It is 0 at the root only.
    last: u64,
}

impl Path {
    /// Starts at a leaf. The tree has `last + 1` leaves.
    pub(super) fn new(index: u64, last: u64) -> Self {
        Self { index, last }
    }

    /// Goes up past all right children, to the root of the largest complete subtree that ends with
    /// the leaf at which the path starts.
    pub(super) fn skip_right_children(&mut self) {
        while self.index & 1 == 1 {
            self.ascend();
        }
    }

    /// Goes up to the next node that has two children, and returns on which side the other child
    /// is. Returns `None` at the root.
    pub(super) fn next_side(&mut self) -> Option<Side> {
        if self.last == 0 {
            return None;
        }
        let is_last = self.index == self.last;
        let is_right_child = self.index & 1 == 1;
        if is_last {
            // A last node with an even index has no sibling, so it stands on the next level, too.
            // The loop ends, because the index is not 0.
            while self.index & 1 == 0 {
                self.ascend();
            }
        }
        self.ascend();
        Some(if is_right_child || is_last { Side::Left } else { Side::Right })
    }

    /// Returns whether the path has reached the root.
    pub(super) fn is_at_root(&self) -> bool {
        self.last == 0
    }

    fn ascend(&mut self) {
        self.index >>= 1;
        self.last >>= 1;
    }
}
