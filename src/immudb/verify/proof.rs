//! Proofs of ImmuDB: that an entry is in a transaction, that a transaction is in the tree of a
//! later one, and that a later state continues an earlier one.
//!
//! ImmuDB can let its tree lag behind the chain of transactions, and a server could show two
//! histories in what the tree does not cover. No server since version 1.3.2 writes such
//! transactions. So a tree that does not end with the transaction before is rejected here, and the
//! proofs about such a gap are not needed.

use std::cmp::Ordering;

use super::{HeaderMismatch, TrustedState, chain::NO_TREE, header::accumulate};
use crate::{
    immudb::{Sha256Hash, TxHeader, TxId},
    merkle::{consistency, inclusion, leaf_hash, node_hash},
};

/// A proof that an entry is one of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryProof {
    /// The index of the entry in the transaction, from 0 on.
    pub leaf: u32,
    /// The number of entries of the transaction.
    pub width: u32,
    /// The hashes beside the path from the entry to the root, from below.
    pub terms: Vec<Sha256Hash>,
}

/// A proof that the history up to a transaction, the target, continues the history up to an earlier
/// one or to itself, the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DualProof {
    /// The header of the source.
    pub source: TxHeader,
    /// The header of the target.
    pub target: TxHeader,
    /// That the source is in the target's tree. Empty if that tree does not cover it.
    pub inclusion: Vec<Sha256Hash>,
    /// That the target's tree continues the source's one. Empty if the source has no tree.
    pub consistency: Vec<Sha256Hash>,
    /// The accumulated hash of the last transaction in the target's tree, or zeros.
    pub target_tree_alh: Sha256Hash,
    /// That this transaction is the last one in the target's tree.
    pub last_inclusion: Vec<Sha256Hash>,
    /// The chain from that transaction, or from the source if it is later, to the target.
    pub linear: LinearProof,
}

/// A part of the chain of transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearProof {
    /// The first transaction.
    pub source: TxId,
    /// The last transaction.
    pub target: TxId,
    /// The accumulated hash of the first transaction, and then what each further one adds to it.
    pub terms: Vec<Sha256Hash>,
}

/// Why a proof is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofMismatch {
    /// A header is not that of its transaction.
    #[error(transparent)]
    Header(#[from] HeaderMismatch),
    /// A header belongs to another history.
    #[error(
        "transaction {tx}: expected the accumulated hash {}, found {}",
        hex::encode(.expected),
        hex::encode(.found)
    )]
    OtherState {
        /// The transaction.
        tx: TxId,
        /// The hash that it should have.
        expected: Sha256Hash,
        /// The hash of its header.
        found: Sha256Hash,
    },
    /// The source is later than the target.
    #[error("transaction {target} cannot continue transaction {source_tx}")]
    Order {
        /// The transaction that should be the earlier one.
        source_tx: TxId,
        /// The transaction that should be the later one.
        target: TxId,
    },
    /// The entry is not at this place of the transaction.
    #[error("the proof of an entry of transaction {tx} does not lead to the hash of its entries")]
    Entry {
        /// The transaction.
        tx: TxId,
    },
    /// A transaction is not in the tree of a later one.
    #[error("the proof that transaction {tx} precedes transaction {later} does not lead to its tree")]
    Inclusion {
        /// The earlier transaction.
        tx: TxId,
        /// The transaction with the tree.
        later: TxId,
    },
    /// The tree of a transaction does not continue that of an earlier one.
    #[error(
        "the proof that transaction {later} continues transaction {earlier} does not lead to their trees"
    )]
    Consistency {
        /// The transaction with the older tree.
        earlier: TxId,
        /// The transaction with the newer tree.
        later: TxId,
    },
    /// The chain does not lead to the target.
    #[error("the chain of the proof does not lead to transaction {target}")]
    Linear {
        /// The transaction to which it should lead.
        target: TxId,
    },
}

/// Checks that the entry with this digest is at its place in the transaction of `header`.
///
/// # Errors
/// Returns an error if the proof does not lead to the hash of the entries in the header.
pub fn verify_entry(proof: &EntryProof, digest: &Sha256Hash, header: &TxHeader) -> Result<(), ProofMismatch> {
    let mismatch = ProofMismatch::Entry { tx: header.id };
    if proof.width != header.entry_count {
        return Err(mismatch);
    }
    let (leaf, width) = (u64::from(proof.leaf), u64::from(proof.width));
    inclusion::verify(&leaf_hash(digest), leaf, width, &proof.terms, &header.entries_hash)
        .map_err(|_| mismatch)
}

/// Checks that a transaction is in the tree of the later transaction `header`.
///
/// # Errors
/// Returns an error if the proof does not lead to the root of the tree in the header.
pub fn verify_inclusion(
    state: TrustedState,
    header: &TxHeader,
    proof: &[Sha256Hash],
) -> Result<(), ProofMismatch> {
    let mismatch = ProofMismatch::Inclusion { tx: state.tx, later: header.id };
    let Some(index) = state.tx.0.checked_sub(1) else { return Err(mismatch) };
    inclusion::verify(&leaf_hash(&state.alh), index, header.tree_tx.0, proof, &header.tree_root)
        .map_err(|_| mismatch)
}

/// Checks that a transaction with the accumulated hash `alh` is the last one in the tree of the
/// later transaction `header`.
///
/// The hashes of such a proof are the roots of all complete subtrees of the tree before it, the
/// smallest first.
///
/// # Errors
/// Returns an error if the proof does not lead to the root of the tree in the header.
pub fn verify_last_inclusion(
    alh: Sha256Hash,
    header: &TxHeader,
    proof: &[Sha256Hash],
) -> Result<(), ProofMismatch> {
    verify_inclusion(TrustedState { tx: header.tree_tx, alh }, header, proof)
}

/// Checks that the tree of the header `new` continues that of the header `old`.
///
/// # Errors
/// Returns an error if the proof does not lead to the roots of both trees.
pub fn verify_consistency(old: &TxHeader, new: &TxHeader, proof: &[Sha256Hash]) -> Result<(), ProofMismatch> {
    let (size, new_size) = (old.tree_tx.0, new.tree_tx.0);
    let fits = match size.cmp(&new_size) {
        Ordering::Less if size == 0 => proof.is_empty(),
        Ordering::Less => {
            let rest = without_old_root(size, &old.tree_root, proof);
            rest.is_some_and(|rest| {
                consistency::verify(size, &old.tree_root, new_size, &new.tree_root, rest).is_ok()
            })
        }
        Ordering::Equal => old.tree_root == new.tree_root && is_of_one_tree(size, &old.tree_root, proof),
        Ordering::Greater => false,
    };
    let mismatch = ProofMismatch::Consistency { earlier: old.id, later: new.id };
    fits.then_some(()).ok_or(mismatch)
}

/// Returns the proof as RFC 9162 has it: without the old root, which ImmuDB adds if it is a node of
/// the newer tree. Returns `None` if it is another one.
fn without_old_root<'p>(size: u64, root: &Sha256Hash, proof: &'p [Sha256Hash]) -> Option<&'p [Sha256Hash]> {
    if !size.is_power_of_two() {
        return Some(proof);
    }
    proof.split_first().filter(|(first, _)| *first == root).map(|(_, rest)| rest)
}

/// Returns whether a proof is the one that ImmuDB sends for a tree and itself: the two subtrees
/// below its root, the right one first.
fn is_of_one_tree(size: u64, root: &Sha256Hash, proof: &[Sha256Hash]) -> bool {
    match proof {
        [] => size <= 1,
        [right, left] => size > 1 && node_hash(left, right) == *root,
        _ => false,
    }
}

/// Checks that the history with the state `target` continues the one with the state `source`. Both
/// states may be the same.
///
/// Nothing continues an empty database in this sense: its state is to be replaced by the first one
/// that is known.
///
/// # Errors
/// Returns an error if the proof is for other transactions, or if any part of it does not fit.
pub fn verify_dual_proof(
    proof: &DualProof,
    source: TrustedState,
    target: TrustedState,
) -> Result<(), ProofMismatch> {
    if source.tx > target.tx {
        return Err(ProofMismatch::Order { source_tx: source.tx, target: target.tx });
    }
    check_header(&proof.source, source)?;
    check_header(&proof.target, target)?;
    let tree = TrustedState { tx: proof.target.tree_tx, alh: proof.target_tree_alh };
    if source.tx < tree.tx {
        verify_inclusion(source, &proof.target, &proof.inclusion)?;
    } else if !proof.inclusion.is_empty() {
        return Err(ProofMismatch::Inclusion { tx: source.tx, later: target.tx });
    }
    verify_consistency(&proof.source, &proof.target, &proof.consistency)?;
    check_tree_end(proof, tree)?;
    check_chain(&proof.linear, if source.tx < tree.tx { tree } else { source }, target)
}

/// Checks that a header is that of a transaction whose tree ends with the one before it, and that
/// its hash is that of the state.
fn check_header(header: &TxHeader, state: TrustedState) -> Result<(), ProofMismatch> {
    let tx = state.tx;
    let before = tx.0.checked_sub(1).filter(|_| header.id == tx).map(TxId);
    let before = before.ok_or(HeaderMismatch::Id { expected: tx, found: header.id })?;
    if header.tree_tx != before {
        return Err(HeaderMismatch::TreeTx { tx, expected: before, found: header.tree_tx }.into());
    }
    if before == TxId(0) && header.tree_root != NO_TREE {
        let (expected, found) = (NO_TREE, header.tree_root);
        return Err(HeaderMismatch::TreeRoot { tx, expected, found }.into());
    }
    let found = header.accumulated_hash().ok_or(HeaderMismatch::Version { tx, found: header.version })?;
    if found != state.alh {
        return Err(ProofMismatch::OtherState { tx, expected: state.alh, found });
    }
    Ok(())
}

/// Checks that the target's tree ends with the transaction `end`, and that it is the one before the
/// target.
fn check_tree_end(proof: &DualProof, end: TrustedState) -> Result<(), ProofMismatch> {
    let target = &proof.target;
    if end.tx == TxId(0) {
        let is_absent = proof.last_inclusion.is_empty() && end.alh == NO_TREE;
        return is_absent.then_some(()).ok_or(ProofMismatch::Inclusion { tx: end.tx, later: target.id });
    }
    verify_last_inclusion(end.alh, target, &proof.last_inclusion)?;
    if target.previous_hash != end.alh {
        let (tx, expected, found) = (target.id, end.alh, target.previous_hash);
        return Err(HeaderMismatch::PreviousHash { tx, expected, found }.into());
    }
    Ok(())
}

/// Checks that a part of the chain leads from one state to another, which is the same one or that
/// of the next transaction.
fn check_chain(proof: &LinearProof, source: TrustedState, target: TrustedState) -> Result<(), ProofMismatch> {
    let reached = match proof.terms.as_slice() {
        [first] if source.tx == target.tx => Some(*first),
        [first, added] if source.tx.0.checked_add(1) == Some(target.tx.0) => {
            Some(accumulate(target.tx, first, added))
        }
        _ => None,
    };
    let fits = (proof.source, proof.target) == (source.tx, target.tx)
        && proof.terms.first() == Some(&source.alh)
        && reached == Some(target.alh);
    fits.then_some(()).ok_or(ProofMismatch::Linear { target: target.tx })
}
