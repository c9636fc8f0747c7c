//! Proofs that can be checked without this service: signed checkpoints of a tree, and files that
//! prove a leaf to be in it.
//!
//! The formats are those of C2SP, so that other programs can verify what this one makes, and the
//! other way round: [`SignedNote`] is `c2sp.org/signed-note`, [`Checkpoint`]
//! `c2sp.org/tlog-checkpoint`, [`TlogProof`] `c2sp.org/tlog-proof`, and keys of witnesses sign as
//! `c2sp.org/tlog-cosignature` says. The signatures are Ed25519. The trees are those of RFC 6962.
//!
//! Everything here is pure, except that [`SigningKey::generate`] needs random numbers. What is
//! parsed is within limits, and has only one encoding: encoding it again gives the same bytes. The
//! module knows neither events nor ImmuDB.

mod checkpoint;
pub(crate) mod encoding;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod key;
mod note;
pub(crate) mod note_file;
#[cfg(test)]
mod tests;
mod tlog_proof;

pub(crate) use key::{PRIVATE, Parts};

pub use checkpoint::{Checkpoint, CheckpointError};
pub use key::{Algorithm, KeyError, KeyId, NAME_BYTES_MAX, SigningKey, VerifierKey, is_key_name};
pub use note::{CosignatureError, NOTE_BYTES_MAX, NoteError, SIGNATURES_MAX, SignatureError, SignedNote};
pub use tlog_proof::{
    HASHES_MAX, PROOF_BYTES_MAX, TlogProof, TlogProofError, VerificationError, VerifiedProof,
};

pub use crate::merkle::{
    EMPTY_ROOT, Hash, ProofError, RightEdge, consistency, inclusion, leaf_hash, node_hash, root,
};
