//! Verification by the recursive definitions of RFC 6962, for tests to compare with.
//!
//! It shares nothing with the algorithms of RFC 9162 that [`inclusion`](super::inclusion) and
//! [`consistency`](super::consistency) use.

use super::{Hash, node_hash};

/// Returns the root that follows from a proof of inclusion. Returns `None` if the proof has the
/// wrong length, or if there is no such leaf.
pub(super) fn root_of_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    if size == 1 {
        return proof.is_empty().then_some(*leaf);
    }
    let (other, below) = proof.split_last()?;
    let left = left_size(size);
    if index < left {
        Some(node_hash(&root_of_inclusion(leaf, index, left, below)?, other))
    } else {
        Some(node_hash(other, &root_of_inclusion(leaf, index - left, size - left, below)?))
    }
}

/// Returns the roots of the older and of the newer tree that follow from a proof of consistency,
/// with an older tree that has some leaves, and fewer than the newer one. Returns `None` if the
/// proof has the wrong length.
pub(super) fn roots_of_consistency(
    old_size: u64,
    old_root: &Hash,
    new_size: u64,
    proof: &[Hash],
) -> Option<(Hash, Hash)> {
    roots(old_size, new_size, Some(old_root), proof)
}

/// Returns the roots of the older and newer part of a subtree of `size` leaves, of which the older
/// tree has the first `old`. `known` is the root of the older tree if the subtree has its first
/// leaf.
fn roots(old: u64, size: u64, known: Option<&Hash>, proof: &[Hash]) -> Option<(Hash, Hash)> {
    if old == size {
        return match (known, proof) {
            (Some(root), []) | (None, [root]) => Some((*root, *root)),
            _ => None,
        };
    }
    let (other, below) = proof.split_last()?;
    let left = left_size(size);
    if old <= left {
        let (old, new) = roots(old, left, known, below)?;
        Some((old, node_hash(&new, other)))
    } else {
        let (old, new) = roots(old - left, size - left, None, below)?;
        Some((node_hash(other, &old), node_hash(other, &new)))
    }
}

/// Returns the largest power of two that is smaller than `size`, which is at least 2.
fn left_size(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}
