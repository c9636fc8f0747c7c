//! Verification of what ImmuDB certifies: the entries of a transaction, the chain of transactions,
//! the tree over them, and the signature of a state.
//!
//! ImmuDB chains its transactions by their accumulated hashes, and each header also has the root of
//! a tree over all transactions before it. A [`Chain`] computes both, so that one header at a time
//! proves that the history was only continued. Where headers in between are missing,
//! [`verify_dual_proof`] needs a proof from ImmuDB instead. [`verify_signature`] checks who
//! certified a state.
//!
//! All functions are pure, and none panics on any input. They check what a transaction is, and
//! nothing of what its keys and values mean.

mod chain;
mod digest;
mod header;
mod proof;
mod state;
#[cfg(test)]
mod tests;

pub use chain::{Chain, HeaderMismatch, SentEntries, TrustedState};
pub use digest::{entries_hash, entry_digest, raw_entry_digest};
pub use proof::{
    DualProof, EntryProof, LinearProof, ProofMismatch, verify_consistency, verify_dual_proof, verify_entry,
    verify_inclusion, verify_last_inclusion,
};
pub use state::{DatabaseState, PublicKey, PublicKeyError, SignatureError, verify_signature};
