//! Proofs that a leaf is in a tree: the hashes beside the path from the leaf to the root, from
//! below.

use super::{
    Hash, ProofError, check_root, node_hash,
    path::{Path, Side},
    root, split,
};

/// Returns the proof for the leaf with this index, from 0 on. Returns `None` if there is no such
/// leaf. Takes the hashes of all leaves.
pub fn prove(leaves: &[Hash], index: u64) -> Option<Vec<Hash>> {
    let mut index = usize::try_from(index).ok().filter(|index| *index < leaves.len())?;
    let mut subtree = leaves;
    let mut proof = Vec::new();
    while subtree.len() > 1 {
        let (left, right) = split(subtree);
        if index < left.len() {
            proof.push(root(right));
            subtree = left;
        } else {
            proof.push(root(left));
            index -= left.len();
            subtree = right;
        }
    }
    proof.reverse();
    Some(proof)
}

/// Checks that the tree of `size` leaves with this root has the leaf hash `leaf` at this index,
/// by the algorithm in section 2.1.3.2 of RFC 9162.
///
/// The size has to be known together with the root, for example from a signed checkpoint: a proof
/// may also fit another size.
pub fn verify(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> Result<(), ProofError> {
    let length = || ProofError::Length { hashes: proof.len() };
    if index >= size {
        return Err(ProofError::NoLeaf { index, size });
    }
    let mut path = Path::new(index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        hash = match path.next_side().ok_or_else(length)? {
            Side::Left => node_hash(sibling, &hash),
            Side::Right => node_hash(&hash, sibling),
        };
    }
    if !path.is_at_root() {
        return Err(length());
    }
    check_root(size, root, &hash)
}
