//! Proofs that a tree continues an older one: all leaves of the older one are its first leaves.

use super::{
    EMPTY_ROOT, Hash, ProofError, check_root, node_hash,
    path::{Path, Side},
    root, split,
};

/// Returns the proof that the tree with these hashes of leaves continues the tree of its first
/// `old_size` leaves. Returns `None` if there are fewer leaves. The proof is empty if the older
/// tree has no leaf, or all of them.
pub fn prove(leaves: &[Hash], old_size: u64) -> Option<Vec<Hash>> {
    let mut old = usize::try_from(old_size).ok().filter(|old| *old <= leaves.len())?;
    let mut proof = Vec::new();
    if old == 0 {
        return Some(proof);
    }
    let mut subtree = leaves;
    let mut begins_the_tree = true;
    while old < subtree.len() {
        let (left, right) = split(subtree);
        if old <= left.len() {
            proof.push(root(right));
            subtree = left;
        } else {
            proof.push(root(left));
            old -= left.len();
            subtree = right;
            begins_the_tree = false;
        }
    }
    if !begins_the_tree {
        // Otherwise it is the root of the older tree, which the verifier knows.
        proof.push(root(subtree));
    }
    proof.reverse();
    Some(proof)
}

/// Checks that the tree of `new_size` leaves continues the one of `old_size`, by the algorithm in
/// section 2.1.4.2 of RFC 9162.
///
/// A tree without leaves is continued by every tree, and each tree continues itself. The proof is
/// empty then. As in [`inclusion::verify`](super::inclusion::verify), the sizes have to be known
/// together with the roots.
pub fn verify(
    old_size: u64,
    old_root: &Hash,
    new_size: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    let length = || ProofError::Length { hashes: proof.len() };
    if old_size > new_size {
        return Err(ProofError::Shrunk { old: old_size, new: new_size });
    }
    if old_size == 0 || old_size == new_size {
        if !proof.is_empty() {
            return Err(length());
        }
        return check_ends(old_size, old_root, new_size, new_root);
    }
    // A tree whose size is a power of two is a node of every tree that continues it.
    let (first, rest) = if old_size.is_power_of_two() {
        (old_root, proof)
    } else {
        proof.split_first().ok_or_else(length)?
    };
    let mut path = Path::new(old_size - 1, new_size - 1);
    path.skip_right_children();
    let (mut old, mut new) = (*first, *first);
    for hash in rest {
        match path.next_side().ok_or_else(length)? {
            Side::Left => {
                old = node_hash(hash, &old);
                new = node_hash(hash, &new);
            }
            Side::Right => new = node_hash(&new, hash),
        }
    }
    if !path.is_at_root() {
        return Err(length());
    }
    check_root(old_size, old_root, &old)?;
    check_root(new_size, new_root, &new)
}

/// Checks the roots where no proof is needed: the older tree is empty, or the same tree.
fn check_ends(old_size: u64, old_root: &Hash, new_size: u64, new_root: &Hash) -> Result<(), ProofError> {
    if old_size == 0 {
        check_root(0, &EMPTY_ROOT, old_root)?;
    }
    if old_size == new_size { check_root(new_size, new_root, old_root) } else { Ok(()) }
}
