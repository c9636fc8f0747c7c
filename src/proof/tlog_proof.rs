//! Files that prove a leaf to be in a log, without any other data than the keys of the log and of
//! the witnesses (`.tlog-proof`).

use super::{
    Algorithm, Checkpoint, CheckpointError, NoteError, SignatureError, SignedNote, VerifierKey, encoding,
};
use crate::merkle::{Hash, ProofError, inclusion};

/// The maximum length of a file, in bytes. It has room for the largest record as extra data.
pub const PROOF_BYTES_MAX: usize = 64 << 20;

/// The maximum number of hashes: one for each level of the highest tree.
pub const HASHES_MAX: usize = 64;

/// The first line of a file.
const FORMAT: &str = "c2sp.org/tlog-proof@v1";

/// Why bytes are not such a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlogProofError {
    /// The file is longer than the limit.
    #[error("the proof has {bytes} bytes; the limit is {PROOF_BYTES_MAX}")]
    TooLong {
        /// The length of the file.
        bytes: usize,
    },
    /// The file is not UTF-8.
    #[error("the proof is not UTF-8")]
    NotUtf8,
    /// The file does not begin with the name of its format.
    #[error("the first line of the proof is not {FORMAT}")]
    Format,
    /// The line with the extra data is not base64, or empty.
    #[error("the extra data of the proof is not base64, or empty")]
    Extra,
    /// The line with the index is missing, or not a number without leading zeros.
    #[error("the proof has no line with an index in decimal digits")]
    Index,
    /// A line of the proof of inclusion is not the base64 of a hash.
    #[error("hash {number} of the proof is not 32 bytes in base64")]
    Hash {
        /// The number of the hash, from 1 on.
        number: usize,
    },
    /// There are more hashes than any tree has levels.
    #[error("the proof has more than {HASHES_MAX} hashes")]
    TooManyHashes,
    /// The file has no blank line with a checkpoint below it.
    #[error("the proof has no checkpoint below a blank line")]
    NoCheckpoint,
    /// The checkpoint is not a signed note.
    #[error("the checkpoint of the proof is malformed: {0}")]
    Note(#[from] NoteError),
}

/// Why a proof is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerificationError {
    /// The log has not signed the checkpoint, or a witness has not cosigned it.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// What the log has signed is not a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint is that of another log.
    #[error("the checkpoint is of the log {found:?}, not of {expected:?}")]
    OtherOrigin {
        /// The name of the key of the log.
        expected: String,
        /// The origin in the checkpoint.
        found: String,
    },
    /// The leaf is not proven to be in the tree of the checkpoint.
    #[error(transparent)]
    Inclusion(#[from] ProofError),
}

/// The proof that a log has a leaf, in the format `c2sp.org/tlog-proof@v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// Data with a meaning for this log only, such as the record. The proof does not cover it.
    /// Empty if there is none.
    pub extra: Vec<u8>,
    /// The index of the leaf, from 0 on.
    pub index: u64,
    /// The proof of inclusion, with at most [`HASHES_MAX`] hashes.
    pub inclusion: Vec<Hash>,
    /// The checkpoint, signed by the log, and perhaps by witnesses.
    pub checkpoint: SignedNote,
}

/// What a verified proof says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedProof {
    /// The state of the log, in which the leaf is.
    pub checkpoint: Checkpoint,
    /// When each witness saw that state, in seconds since 1970, in the order in which the witnesses
    /// were given.
    pub cosigned_at: Vec<u64>,
}

impl TlogProof {
    /// Parses a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, TlogProofError> {
        if bytes.len() > PROOF_BYTES_MAX {
            return Err(TlogProofError::TooLong { bytes: bytes.len() });
        }
        let text = str::from_utf8(bytes).map_err(|_| TlogProofError::NotUtf8)?;
        let (head, checkpoint) = text.split_once("\n\n").ok_or(TlogProofError::NoCheckpoint)?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(FORMAT) {
            return Err(TlogProofError::Format);
        }
        let extra = match lines.next_if(|line| line.starts_with("extra ")) {
            None => Vec::new(),
            Some(line) => parse_extra(line)?,
        };
        let index = lines.next().and_then(|line| line.strip_prefix("index "));
        let index = index.and_then(encoding::decode_decimal).ok_or(TlogProofError::Index)?;
        let inclusion = (1..).zip(lines).map(|(number, line)| {
            if number > HASHES_MAX {
                return Err(TlogProofError::TooManyHashes);
            }
            encoding::decode_hash(line).ok_or(TlogProofError::Hash { number })
        });
        let inclusion = inclusion.collect::<Result<_, _>>()?;
        let checkpoint = SignedNote::parse(checkpoint.as_bytes())?;
        Ok(Self { extra, index, inclusion, checkpoint })
    }

    /// Returns the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut head = format!("{FORMAT}\n");
        if !self.extra.is_empty() {
            head.push_str(&format!("extra {}\n", encoding::encode(&self.extra)));
        }
        head.push_str(&format!("index {}\n", self.index));
        for hash in &self.inclusion {
            head.push_str(&encoding::encode(hash));
            head.push('\n');
        }
        head.push('\n');
        [head.into_bytes(), self.checkpoint.to_bytes()].concat()
    }

    /// Checks that the log has the leaf with this leaf hash, and that all the witnesses saw it. The
    /// name of the log's key has to be the origin of the checkpoint.
    pub fn verify(
        &self,
        leaf: &Hash,
        log: &VerifierKey,
        witnesses: &[VerifierKey],
    ) -> Result<VerifiedProof, VerificationError> {
        if log.algorithm() != Algorithm::Ed25519 {
            let (name, id) = (log.name().to_owned(), log.id());
            return Err(SignatureError::NotALog { name, id }.into());
        }
        let checkpoint = Checkpoint::parse(self.checkpoint.verify(log)?)?;
        if checkpoint.origin() != log.name() {
            let (expected, found) = (log.name().to_owned(), checkpoint.origin().to_owned());
            return Err(VerificationError::OtherOrigin { expected, found });
        }
        let cosigned_at = witnesses.iter().map(|witness| self.checkpoint.cosigned_at(witness));
        let cosigned_at = cosigned_at.collect::<Result<_, _>>()?;
        inclusion::verify(leaf, self.index, checkpoint.size(), &self.inclusion, checkpoint.root())?;
        Ok(VerifiedProof { checkpoint, cosigned_at })
    }
}

fn parse_extra(line: &str) -> Result<Vec<u8>, TlogProofError> {
    let extra = line.strip_prefix("extra ").and_then(encoding::decode);
    extra.filter(|extra| !extra.is_empty()).ok_or(TlogProofError::Extra)
}
