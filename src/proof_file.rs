//! Proof files: that an event is in the history of a log, with the event itself.
//!
//! A file has the format `c2sp.org/tlog-proof`, and [`crate::proof`] verifies what every tool for
//! that format verifies. This module owns what is particular to this service: the leaf is the chain
//! hash of an event, and the extra data has the event's record, the chain hash before it, and
//! perhaps an [`ImmudbCertificate`]. The extra data counts only as far as it leads to the leaf, or
//! to the checkpoint.
//!
//! All functions are pure. They need no configuration, no log and no network, and none panics on
//! any input.

use bytes::Bytes;
use prost::Message;

use crate::{
    event::{
        ChainHash, Position, RecordedEvent,
        record::{self, RecordError},
    },
    immudb::verify::PublicKey,
    proof::{Checkpoint, TlogProof, TlogProofError, VerificationError, VerifierKey, leaf_hash},
};

mod certificate;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;

pub use certificate::{CertificateError, CertifiedState, ImmudbCertificate};

mod messages {
    #![allow(clippy::all, clippy::too_many_lines, missing_docs, unreachable_pub, reason = "generated")]
    include!(concat!(env!("OUT_DIR"), "/proof/aethyr.storage.v1.rs"));
}

/// Why bytes are not a proof file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofFileError {
    /// The file does not have the format.
    #[error(transparent)]
    Format(#[from] TlogProofError),
    /// The extra data is not a message of this service.
    #[error("the extra data of the proof is not that of an event")]
    Extra,
    /// The chain hash before the event has the wrong length.
    #[error("the chain hash before the event has {bytes} bytes instead of 32")]
    PreviousHash {
        /// The number of bytes that were found.
        bytes: usize,
    },
    /// ImmuDB's part is malformed.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Why a proof is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofFileRejection {
    /// The file has only hashes, and it is not known which event they are about.
    #[error("the proof does not contain the event; the chain hash of the event is required")]
    NoEvent,
    /// The event in the file has another chain hash than the given one.
    #[error("the event has the chain hash {found}, not {expected}")]
    OtherEvent {
        /// The chain hash that was given.
        expected: ChainHash,
        /// The chain hash that follows from the file.
        found: ChainHash,
    },
    /// The chain hash is not in the log, or a signature is missing or wrong.
    #[error(transparent)]
    Log(#[from] VerificationError),
    /// The record is not that of an event.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The event says of itself that it is at another position than its leaf.
    #[error("the event has the position {found}, but its leaf is that of position {expected}")]
    OtherPosition {
        /// The position of the leaf.
        expected: Position,
        /// The position in the record.
        found: Position,
    },
    /// The word of ImmuDB is required, but the file has none.
    #[error("the proof has no certificate of ImmuDB")]
    NoCertificate,
    /// ImmuDB's part does not fit the checkpoint or the key.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// The keys that a proof is verified with.
#[derive(Debug, Clone, Copy)]
pub struct VerificationKeys<'k> {
    /// The key of the log. Its name is the origin of the log's checkpoints.
    pub log: &'k VerifierKey,
    /// The keys of the witnesses, all of which must have cosigned the checkpoint.
    pub witnesses: &'k [VerifierKey],
    /// The key with which ImmuDB signs its states. If it is given, the proof must have a
    /// certificate of ImmuDB.
    pub immudb: Option<&'k PublicKey>,
}

/// A proof that an event is in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofFile {
    /// The record of the event as it is stored. `None` in a proof with hashes only.
    pub record: Option<Bytes>,
    /// The chain hash before the event. It has no meaning without the record.
    pub previous_hash: ChainHash,
    /// That ImmuDB has the checkpoint.
    pub immudb: Option<ImmudbCertificate>,
    /// The inclusion of the event's leaf, and the checkpoint. Its extra data is empty here;
    /// [`ProofFile::to_bytes`] adds it.
    pub proof: TlogProof,
}

/// What a verified proof says.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// The event. `None` if the proof has hashes only.
    pub event: Option<RecordedEvent>,
    /// The number of the event in the order of all events.
    pub position: Position,
    /// The chain hash of the event, which commits to it and to all events before it.
    pub chain_hash: ChainHash,
    /// The state of the log in which the event is.
    pub checkpoint: Checkpoint,
    /// When each witness saw that state, in seconds since 1970, in the order of the keys.
    pub cosigned_at: Vec<u64>,
    /// What ImmuDB states, if the proof has a certificate. See [`CertifiedState::is_signed`].
    pub immudb: Option<CertifiedState>,
}

impl ProofFile {
    /// Parses a file. Fields of newer versions in its extra data are ignored.
    ///
    /// # Errors
    /// Returns an error if the bytes are not such a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProofFileError> {
        let mut proof = TlogProof::parse(bytes)?;
        let extra = Bytes::from(std::mem::take(&mut proof.extra));
        let extra = messages::ProofExtra::decode(extra).map_err(|_| ProofFileError::Extra)?;
        let record = Some(extra.record).filter(|record| !record.is_empty());
        let previous_hash = match (ChainHash::from_slice(&extra.previous_hash), &record) {
            (Some(hash), _) => hash,
            (None, None) if extra.previous_hash.is_empty() => ChainHash::START,
            (None, _) => return Err(ProofFileError::PreviousHash { bytes: extra.previous_hash.len() }),
        };
        let immudb = extra.immudb.map(ImmudbCertificate::from_message).transpose()?;
        Ok(Self { record, previous_hash, immudb, proof })
    }

    /// Returns the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        TlogProof { extra: self.extra(), ..self.proof.clone() }.to_bytes()
    }

    /// Returns the extra data, which is empty if there is none.
    fn extra(&self) -> Vec<u8> {
        let has_previous = self.record.is_some() || self.previous_hash != ChainHash::START;
        let previous_hash = if has_previous { self.previous_hash.0.as_slice() } else { &[] };
        messages::ProofExtra {
            record: self.record.clone().unwrap_or_default(),
            previous_hash: Bytes::copy_from_slice(previous_hash),
            immudb: self.immudb.as_ref().map(ImmudbCertificate::to_message),
        }
        .encode_to_vec()
    }

    /// Checks that the event is in the log, by the word of all the keys. `hash` is the chain hash
    /// of the event, which has to be known for a proof without its record. If it is given for
    /// another proof, it must be that of the record.
    ///
    /// # Errors
    /// Returns an error if any part of the proof does not fit.
    pub fn verify(
        &self,
        keys: &VerificationKeys<'_>,
        hash: Option<ChainHash>,
    ) -> Result<Verified, ProofFileRejection> {
        let recorded = self.record.as_ref().map(|record| self.previous_hash.chain(record));
        let chain_hash = match (recorded, hash) {
            (Some(found), Some(expected)) if found != expected => {
                return Err(ProofFileRejection::OtherEvent { expected, found });
            }
            (Some(hash), _) | (None, Some(hash)) => hash,
            (None, None) => return Err(ProofFileRejection::NoEvent),
        };
        let verified = self.proof.verify(&leaf_hash(&chain_hash.0), keys.log, keys.witnesses)?;
        let position = Position(self.proof.index).next();
        let event = self.record.clone().map(|record| record::decode(record, chain_hash)).transpose()?;
        if let Some(found) = event.as_ref().map(|event| event.position).filter(|found| *found != position) {
            return Err(ProofFileRejection::OtherPosition { expected: position, found });
        }
        if keys.immudb.is_some() && self.immudb.is_none() {
            return Err(ProofFileRejection::NoCertificate);
        }
        let text = verified.checkpoint.to_text();
        let immudb = self.immudb.as_ref().map(|certificate| certificate.verify(&text, keys.immudb));
        Ok(Verified {
            event,
            position,
            chain_hash,
            checkpoint: verified.checkpoint,
            cosigned_at: verified.cosigned_at,
            immudb: immudb.transpose()?,
        })
    }
}
