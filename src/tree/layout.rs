//! Where the nodes are in the file, and which of them make a proof. Pure arithmetic.
//!
//! The nodes of 32 leaves and above are in post-order: a node is behind its children, and is
//! written as soon as its last leaf is there. Nothing is ever moved, each first part of the file is
//! the file of a smaller tree, and the place of a node follows from its level and its index. So a
//! proof reads just the hashes that it consists of, and 32 leaves from the log.
//!
//! To keep the nodes of 32 leaves alone would halve the file. But a proof would have to read and to
//! hash all of them (100 MB with 100 000 000 events).

use std::ops::Range;

/// The level of the lowest nodes in the file. Leaves have the level 0.
pub(super) const LEVEL: u32 = 5;

/// The number of leaves of such a node.
pub(super) const SUBTREE_LEAVES: u64 = 1 << LEVEL;

/// The root of a complete subtree of `2^level` leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) level: u32,
    /// The number of nodes left of this one, on its level.
    pub(super) index: u64,
}

impl Node {
    /// Returns the range of its leaves.
    pub(super) fn leaves(self) -> Range<u64> {
        self.index << self.level..(self.index + 1) << self.level
    }

    /// Returns the number of its record. Its level has to be [`LEVEL`] or above.
    pub(super) fn record(self) -> u64 {
        let height = self.level - LEVEL;
        // It follows the lowest node that completes it, and those between the two.
        let last = ((self.index + 1) << height) - 1;
        records(last) + u64::from(height)
    }

    /// Returns the children, if they are in the file, too.
    pub(super) fn children(self) -> Option<[Self; 2]> {
        let level = self.level.checked_sub(1).filter(|level| *level >= LEVEL)?;
        Some([self.index * 2, self.index * 2 + 1].map(|index| Self { level, index }))
    }
}

/// Returns the number of records for this number of complete subtrees of 32 leaves.
pub(super) fn records(subtrees: u64) -> u64 {
    subtrees * 2 - u64::from(subtrees.count_ones())
}

/// Returns the number of complete subtrees of 32 leaves that have all their records in a file with
/// this number of records.
pub(super) fn subtrees(record_count: u64) -> u64 {
    // As there are at most 64 ones, it cannot be larger than this.
    let max = record_count / 2 + 32;
    (0..=max).rev().find(|subtrees| records(*subtrees) <= record_count).unwrap_or(0)
}

/// Returns the complete subtrees that a range of leaves consists of, from left to right. As a part
/// of a tree, the range starts at a multiple of a power of two that is not smaller than its length.
pub(super) fn complete_nodes(range: Range<u64>) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut start = range.start;
    while let Some(level) = range.end.saturating_sub(start).checked_ilog2() {
        nodes.push(Node { level, index: start >> level });
        start += 1 << level;
    }
    nodes
}

/// Returns the ranges of leaves whose roots are the proof of inclusion, by section 2.1.3.1 of
/// RFC 9162.
pub(super) fn inclusion(index: u64, size: u64) -> Vec<Range<u64>> {
    let mut proof = Vec::new();
    let mut subtree = 0..size;
    while let Some(middle) = middle(&subtree) {
        if index < middle {
            proof.push(middle..subtree.end);
            subtree.end = middle;
        } else {
            proof.push(subtree.start..middle);
            subtree.start = middle;
        }
    }
    proof.reverse();
    proof
}

/// Returns the ranges of leaves whose roots are the proof of consistency, by section 2.1.4.1 of
/// RFC 9162.
pub(super) fn consistency(old: u64, new: u64) -> Vec<Range<u64>> {
    let mut proof = Vec::new();
    let mut subtree = 0..new;
    if old == 0 {
        return proof;
    }
    while let Some(middle) = middle(&subtree).filter(|_| old < subtree.end) {
        if old <= middle {
            proof.push(middle..subtree.end);
            subtree.end = middle;
        } else {
            proof.push(subtree.start..middle);
            subtree.start = middle;
        }
    }
    if subtree.start > 0 {
        // Otherwise it is the root of the older tree, which the verifier knows.
        proof.push(subtree);
    }
    proof.reverse();
    proof
}

/// Returns where the right child of a subtree begins, if it has more than one leaf.
fn middle(subtree: &Range<u64>) -> Option<u64> {
    let last = subtree.end.checked_sub(subtree.start)?.checked_sub(1)?;
    Some(subtree.start + (1 << last.checked_ilog2()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_in_post_order_without_gaps() {
        let mut expected = 0;
        for subtree in 0..1000u64 {
            assert_eq!(records(subtree), expected);
            for height in 0..=subtree.trailing_ones() {
                let node = Node { level: LEVEL + height, index: subtree >> height };
                assert_eq!(node.record(), expected, "{node:?}");
                assert_eq!(node.leaves().end, (subtree + 1) * SUBTREE_LEAVES);
                expected += 1;
            }
        }
    }

    #[test]
    fn a_file_of_any_length_has_the_subtrees_that_are_complete() {
        let mut complete = 0;
        for record_count in 0..3000 {
            if records(complete + 1) <= record_count {
                complete += 1;
            }
            assert_eq!(subtrees(record_count), complete, "{record_count} records");
        }
        for subtrees in [1 << 20, (1 << 20) - 1, 390_625, (1 << 55) - 1, 1 << 55] {
            assert_eq!(self::subtrees(records(subtrees)), subtrees);
            assert_eq!(self::subtrees(records(subtrees) - 1), subtrees - 1);
        }
    }

    #[test]
    fn a_range_consists_of_the_subtrees_of_its_binary_digits() {
        let node = |level, index| Node { level, index };
        assert!(complete_nodes(0..0).is_empty());
        assert_eq!(complete_nodes(0..13), [node(3, 0), node(2, 2), node(0, 12)]);
        assert_eq!(complete_nodes(512..769), [node(8, 2), node(0, 768)]);
        assert_eq!(complete_nodes(0..100_000_000).len() as u32, 100_000_000u64.count_ones());
    }

    #[test]
    fn a_proof_reads_at_most_two_nodes_for_each_level() {
        for size in [1_000_000u64, 100_000_000, (1 << 27) - 1] {
            let levels = size.ilog2() + 1 - LEVEL;
            for index in [0, size / 7, size / 2, size - 1] {
                let ranges = inclusion(index, size);
                assert!(ranges.len() as u32 <= size.ilog2() + 1, "{} hashes", ranges.len());
                let nodes: Vec<Node> = ranges.into_iter().flat_map(complete_nodes).collect();
                let kept = nodes.iter().filter(|node| node.level >= LEVEL).count();
                assert!(kept as u32 <= 2 * levels, "{index} of {size}: {kept} nodes");
            }
        }
    }
}
