//! The chain of transactions, computed here from their headers, and with it ImmuDB's tree.

use super::{entries_hash, entry_digest};
use crate::{
    immudb::{KeyValue, Sha256Hash, TxHeader, TxId},
    merkle::{EMPTY_ROOT, RightEdge, leaf_hash},
};

/// What the first transaction has as the root of the tree before it.
pub(super) const NO_TREE: Sha256Hash = [0; 32];

/// The version of the transactions of this service. Others hash their entries differently.
const VERSION: u16 = 1;

/// A transaction, and the hash of the history that ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedState {
    /// The last transaction, or 0 in an empty database.
    pub tx: TxId,
    /// Its accumulated hash, which ImmuDB calls `Alh`.
    pub alh: Sha256Hash,
}

impl TrustedState {
    /// Returns the state of a database without transactions.
    pub fn empty() -> TrustedState {
        TrustedState { tx: TxId(0), alh: EMPTY_ROOT }
    }
}

/// The entries of a transaction as they were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentEntries {
    /// The number of entries.
    pub count: u32,
    /// The hash of all entries, as [`entries_hash`] returns it.
    pub hash: Sha256Hash,
}

impl SentEntries {
    /// Returns the number and the hash of entries in the order in which they are sent.
    pub fn of(entries: &[KeyValue]) -> SentEntries {
        SentEntries {
            // A transaction has at most `ENTRIES_MAX` entries.
            count: u32::try_from(entries.len()).unwrap_or(u32::MAX),
            hash: entries_hash(entries.iter().map(|entry| entry_digest(&entry.key, &entry.value))),
        }
    }

    /// Checks that a header is that of a transaction with these entries.
    fn check(&self, header: &TxHeader) -> Result<(), HeaderMismatch> {
        let tx = header.id;
        if header.version != VERSION {
            return Err(HeaderMismatch::Version { tx, found: header.version });
        }
        if header.entry_count != self.count {
            return Err(HeaderMismatch::EntryCount { tx, expected: self.count, found: header.entry_count });
        }
        if header.entries_hash != self.hash {
            return Err(HeaderMismatch::EntriesHash { tx, expected: self.hash, found: header.entries_hash });
        }
        Ok(())
    }
}

/// Why a header is not that of the next transaction, or of a transaction with these entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderMismatch {
    /// It is another transaction.
    #[error("expected transaction {expected}, found {found}")]
    Id {
        /// The transaction that it should be.
        expected: TxId,
        /// The transaction that it is.
        found: TxId,
    },
    /// It has more entries, or fewer.
    #[error("transaction {tx}: expected {expected} entries, found {found}")]
    EntryCount {
        /// The transaction.
        tx: TxId,
        /// The number of entries that it should have.
        expected: u32,
        /// The number of entries that were found.
        found: u32,
    },
    /// It has other entries, or has them in another order.
    #[error(
        "transaction {tx}: expected the hash {} of the entries, found {}",
        hex::encode(.expected),
        hex::encode(.found)
    )]
    EntriesHash {
        /// The transaction.
        tx: TxId,
        /// The hash that the entries should have.
        expected: Sha256Hash,
        /// The hash that was found.
        found: Sha256Hash,
    },
    /// It continues another history.
    #[error(
        "transaction {tx}: expected the hash {} of the previous transaction, found {}",
        hex::encode(.expected),
        hex::encode(.found)
    )]
    PreviousHash {
        /// The transaction.
        tx: TxId,
        /// The accumulated hash of the transaction before it, as computed here.
        expected: Sha256Hash,
        /// The hash in the header.
        found: Sha256Hash,
    },
    /// Its tree does not end with the transaction before it.
    #[error("transaction {tx}: expected a tree up to transaction {expected}, found {found}")]
    TreeTx {
        /// The transaction.
        tx: TxId,
        /// The transaction before it.
        expected: TxId,
        /// The last transaction in the tree.
        found: TxId,
    },
    /// Its tree has other transactions.
    #[error(
        "transaction {tx}: expected the root {} of the tree, found {}",
        hex::encode(.expected),
        hex::encode(.found)
    )]
    TreeRoot {
        /// The transaction.
        tx: TxId,
        /// The root as computed here.
        expected: Sha256Hash,
        /// The root in the header.
        found: Sha256Hash,
    },
    /// Its version is unknown, is not that of this service, or does not allow what it has.
    #[error("transaction {tx}: cannot be hashed as one of version {found}")]
    Version {
        /// The transaction.
        tx: TxId,
        /// The version in the header.
        found: u16,
    },
    /// It records that values were deleted on purpose.
    #[error("transaction {tx}: the values before transaction {truncated} were deleted")]
    Truncated {
        /// The transaction.
        tx: TxId,
        /// The first transaction that still has its values.
        truncated: TxId,
    },
}

/// The history of a database as computed here: the hash of its last transaction, and the right edge
/// of the tree over all of them. It takes at most 64 hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    state: TrustedState,
    edge: RightEdge,
}

impl Chain {
    /// Returns the history of a database without transactions.
    pub fn empty() -> Chain {
        Chain { state: TrustedState::empty(), edge: RightEdge::new() }
    }

    /// Returns a history that was saved. Returns `None` if the edge is that of another state, as
    /// far as this can be seen: every edge of an odd size has the hash of the last transaction.
    pub(crate) fn new(state: TrustedState, edge: RightEdge) -> Option<Chain> {
        let is_known = |alh| edge.hashes().last() == Some(&leaf_hash(alh));
        let may_end_with = match state.tx.0 {
            0 => state == TrustedState::empty(),
            tx => tx.is_multiple_of(2) || is_known(&state.alh),
        };
        (edge.size() == state.tx.0 && may_end_with).then_some(Chain { state, edge })
    }

    /// Returns a history that was saved, from its state and from [`Chain::edge_hashes`]. Returns
    /// `None` if they do not belong together, as far as this can be seen.
    pub fn from_parts(state: TrustedState, edge_hashes: Vec<Sha256Hash>) -> Option<Chain> {
        Chain::new(state, RightEdge::from_parts(state.tx.0, edge_hashes)?)
    }

    /// Returns the history up to the last transaction in a tree, from the proof that it is the last
    /// one: that proof consists of the complete subtrees before it, the smallest first. Returns
    /// `None` if it has another number of hashes.
    pub(in crate::immudb) fn from_last_inclusion(state: TrustedState, proof: &[Sha256Hash]) -> Option<Chain> {
        let subtrees = proof.iter().rev().copied().collect();
        let mut edge = RightEdge::from_parts(state.tx.0.checked_sub(1)?, subtrees)?;
        edge.push(leaf_hash(&state.alh));
        Chain::new(state, edge)
    }

    /// Returns the last transaction.
    pub fn state(&self) -> TrustedState {
        self.state
    }

    /// Returns the right edge of the tree over all transactions.
    pub(crate) fn edge(&self) -> &RightEdge {
        &self.edge
    }

    /// Returns the roots of the complete subtrees of the tree over all transactions: one for each
    /// set bit of their number, the largest first.
    pub fn edge_hashes(&self) -> &[Sha256Hash] {
        self.edge().hashes()
    }

    /// Checks that `header` is that of the next transaction, and appends it. `sent` has its entries
    /// if this service sent them.
    ///
    /// A wrong time, and wrong entries without `sent`, show only with the next header or with a
    /// state: the hashes there are others then.
    ///
    /// # Errors
    /// Returns an error if the header is not that of the next transaction. The chain is unchanged
    /// then.
    pub fn append(&mut self, header: &TxHeader, sent: Option<&SentEntries>) -> Result<(), HeaderMismatch> {
        let last = self.state;
        let tx = last.tx.next();
        // Both are equal at the highest possible id, after which there is no next one.
        if header.id != tx || tx == last.tx {
            return Err(HeaderMismatch::Id { expected: tx, found: header.id });
        }
        if let Some(sent) = sent {
            sent.check(header)?;
        }
        if header.previous_hash != last.alh {
            let (expected, found) = (last.alh, header.previous_hash);
            return Err(HeaderMismatch::PreviousHash { tx, expected, found });
        }
        if header.tree_tx != last.tx {
            return Err(HeaderMismatch::TreeTx { tx, expected: last.tx, found: header.tree_tx });
        }
        let root = if last.tx == TxId(0) { NO_TREE } else { self.edge.root() };
        if header.tree_root != root {
            return Err(HeaderMismatch::TreeRoot { tx, expected: root, found: header.tree_root });
        }
        if let Some(truncated) = header.metadata.as_ref().and_then(|metadata| metadata.truncated_tx) {
            return Err(HeaderMismatch::Truncated { tx, truncated });
        }
        let alh = header.accumulated_hash().ok_or(HeaderMismatch::Version { tx, found: header.version })?;
        self.edge.push(leaf_hash(&alh));
        self.state = TrustedState { tx, alh };
        Ok(())
    }
}
