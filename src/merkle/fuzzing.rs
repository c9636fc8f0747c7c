//! Hash trees and their proofs for the fuzz targets. See [`crate::fuzzing`].
//!
//! Panics if a proof of a tree is not accepted, if a changed one is, or if a verdict differs from
//! the recursive definitions of RFC 6962.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a broken promise has to end the run")]

use super::{
    EMPTY_ROOT, Hash, RightEdge, consistency, inclusion, leaf_hash,
    reference::{root_of_inclusion, roots_of_consistency},
    root,
};

/// The maximum number of leaves of a tree that is made.
const LEAVES_MAX: u64 = 300;

/// Takes two numbers from the bytes, and hashes from the rest. Verifies the hashes as proofs for
/// these numbers. Then makes proofs for a tree, and changes them.
pub fn tree_proofs(bytes: &[u8]) {
    let Some((small, rest)) = bytes.split_first_chunk() else { return };
    let Some((large, rest)) = rest.split_first_chunk() else { return };
    let (small, large) = (u64::from_le_bytes(*small), u64::from_le_bytes(*large));
    let hashes: Vec<Hash> = rest.chunks_exact(32).map(|hash| hash.try_into().expect("32 bytes")).collect();
    if let Some((first, proof)) = hashes.split_first() {
        as_by_definition(small, large, first, proof);
    }
    restored(large, &hashes);
    let leaves: Vec<Hash> = (0..large % LEAVES_MAX).map(|number| leaf_hash(&number.to_le_bytes())).collect();
    grown(&leaves);
    included(&leaves, small, rest);
    continued(&leaves, small % (leaves.len() as u64 + 1), rest);
}

/// Checks that the algorithms of RFC 9162 accept just what follows from the definitions.
fn as_by_definition(small: u64, large: u64, first: &Hash, proof: &[Hash]) {
    let found = root_of_inclusion(first, small, large, proof);
    let verified = inclusion::verify(first, small, large, proof, &found.unwrap_or(EMPTY_ROOT));
    assert_eq!(verified.is_ok(), found.is_some(), "{verified:?}");
    if small == 0 || small >= large {
        let is_right = if small == 0 { *first == EMPTY_ROOT } else { small == large };
        let verified = consistency::verify(small, first, large, first, proof);
        assert_eq!(verified.is_ok(), is_right && proof.is_empty(), "{verified:?}");
        return;
    }
    let found = roots_of_consistency(small, first, large, proof);
    let (old, new) = found.unwrap_or((*first, EMPTY_ROOT));
    let verified = consistency::verify(small, &old, large, &new, proof);
    assert_eq!(verified.is_ok(), found.is_some(), "{verified:?}");
}

/// Checks an edge that is restored from any size and any hashes.
fn restored(size: u64, hashes: &[Hash]) {
    let Some(mut edge) = RightEdge::from_parts(size, hashes.to_vec()) else { return };
    assert_eq!((edge.size(), edge.hashes()), (size, hashes));
    for hash in hashes {
        edge.push(*hash);
        assert_eq!(edge.hashes().len(), edge.size().count_ones() as usize);
    }
}

/// Checks that an edge has the root of its leaves.
fn grown(leaves: &[Hash]) {
    let mut edge = RightEdge::new();
    leaves.iter().for_each(|leaf| edge.push(*leaf));
    assert_eq!((edge.size(), edge.root()), (leaves.len() as u64, root(leaves)));
}

/// Checks the proof that a leaf is in the tree.
fn included(leaves: &[Hash], index: u64, change: &[u8]) {
    let size = leaves.len() as u64;
    let Some(index) = index.checked_rem(size) else { return };
    let (leaf, root) = (&leaves[index as usize], root(leaves));
    let proof = inclusion::prove(leaves, index).expect("a leaf of the tree");
    inclusion::verify(leaf, index, size, &proof, &root).expect("a proof of ours");
    if let Some(changed) = changed(&proof, change) {
        inclusion::verify(leaf, index, size, &changed, &root).expect_err("a changed proof");
    }
}

/// Checks the proof that the tree continues one of its first leaves.
fn continued(leaves: &[Hash], old: u64, change: &[u8]) {
    let size = leaves.len() as u64;
    let (old_root, new_root) = (root(&leaves[..old as usize]), root(leaves));
    let proof = consistency::prove(leaves, old).expect("a smaller tree");
    consistency::verify(old, &old_root, size, &new_root, &proof).expect("a proof of ours");
    if let Some(changed) = changed(&proof, change) {
        consistency::verify(old, &old_root, size, &new_root, &changed).expect_err("a changed proof");
    }
}

/// Flips a bit of the proof, drops a hash, adds one or exchanges two. The bytes say which. Returns
/// `None` if the proof remains the same.
fn changed(proof: &[Hash], change: &[u8]) -> Option<Vec<Hash>> {
    let [kind, at, bit, ..] = change else { return None };
    let at = usize::from(*at).checked_rem(proof.len());
    let mut changed = proof.to_vec();
    match (kind % 4, at) {
        (0, Some(at)) => changed[at][usize::from(bit / 8)] ^= 1 << (bit % 8),
        (1, Some(at)) => _ = changed.remove(at),
        (2, Some(at)) => changed.swap(0, at),
        (_, at) => changed.insert(at.unwrap_or(0), EMPTY_ROOT),
    }
    (changed != proof).then_some(changed)
}
