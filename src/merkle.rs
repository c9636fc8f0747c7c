//! Hash trees as RFC 6962 defines them, with the proofs of RFC 9162.
//!
//! A tree has a leaf for each record, in the order in which the records were appended, and its root
//! commits to all of them. [`RightEdge`] keeps the root of a growing tree without its leaves.
//! [`inclusion`] proves that a leaf is in a tree, and [`consistency`] that a tree continues an
//! older one.
//!
//! All functions are pure. They know neither events nor ImmuDB, whose tree over transactions has
//! the same shape, and they reject a malformed proof with a [`ProofError`].

use sha2::{Digest, Sha256};

pub mod consistency;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub mod inclusion;
mod path;
#[cfg(any(test, feature = "fuzzing"))]
mod reference;
mod right_edge;
#[cfg(test)]
mod tests;

pub use right_edge::RightEdge;

/// A SHA-256 hash: of a leaf, of a node, or of a whole tree.
pub type Hash = [u8; 32];

/// The root of a tree without leaves: SHA-256 of no bytes.
pub const EMPTY_ROOT: Hash = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27,
    0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// Why a proof is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The tree has no leaf with this index.
    #[error("a tree of {size} leaves has no leaf with the index {index}")]
    NoLeaf {
        /// The index that the proof is for, from 0 on.
        index: u64,
        /// The number of leaves of the tree.
        size: u64,
    },
    /// A tree never gets smaller, so it cannot continue a larger one.
    #[error("a tree of {new} leaves cannot continue one of {old}")]
    Shrunk {
        /// The number of leaves of the older tree.
        old: u64,
        /// The number of leaves of the newer tree.
        new: u64,
    },
    /// Proofs for these sizes have another number of hashes.
    #[error("the proof has {hashes} hashes, which is not the number for these sizes")]
    Length {
        /// The number of hashes of the proof.
        hashes: usize,
    },
    /// The proof leads to another root than the tree has.
    #[error(
        "the proof gives the root {} for {size} leaves, but it is {}",
        hex::encode(.found),
        hex::encode(.expected)
    )]
    OtherRoot {
        /// The number of leaves of the tree.
        size: u64,
        /// The root of the tree.
        expected: Hash,
        /// The root that follows from the proof.
        found: Hash,
    },
}

/// Returns the hash of a leaf. Its prefix differs from that of a node, so that neither can be
/// presented as the other.
pub fn leaf_hash(data: &[u8]) -> Hash {
    Sha256::new().chain_update([0u8]).chain_update(data).finalize().into()
}

/// Returns the hash of a node with these two children.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1u8]).chain_update(left).chain_update(right).finalize().into()
}

/// Returns the root of a tree, from the hashes of its leaves.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => EMPTY_ROOT,
        [leaf] => *leaf,
        _ => {
            let (left, right) = split(leaves);
            node_hash(&root(left), &root(right))
        }
    }
}

/// Splits a tree of at least two leaves into the subtrees below its root. The left one is complete:
/// its size is the largest power of two that is smaller than that of the tree.
fn split(leaves: &[Hash]) -> (&[Hash], &[Hash]) {
    leaves.split_at(leaves.len().next_power_of_two() / 2)
}

/// Compares the root that follows from a proof with that of the tree.
fn check_root(size: u64, expected: &Hash, found: &Hash) -> Result<(), ProofError> {
    if expected == found {
        return Ok(());
    }
    Err(ProofError::OtherRoot { size, expected: *expected, found: *found })
}
