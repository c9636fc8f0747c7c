//! ImmuDB's part of a proof: that a transaction has the checkpoint, and what ImmuDB has signed
//! after it.

use bytes::Bytes;
use prost::Message;

use super::messages;
use crate::{
    immudb::{
        Sha256Hash, TxHeader, TxId, TxMetadata,
        verify::{
            DatabaseState, EntryProof, ProofMismatch, PublicKey, SignatureError, TrustedState, entry_digest,
            verify_entry, verify_signature,
        },
    },
    proof::{HASHES_MAX, SignedNote},
};

/// The version of the transactions of this service. Others hash their entries differently.
const VERSION: u16 = 1;

/// The kinds of attributes in the metadata of a transaction, as ImmuDB encodes it.
const TRUNCATED_TX: u8 = 0;
const EXTRA: u8 = 1;

/// Why ImmuDB's part of a proof is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The bytes are not a certificate.
    #[error("the certificate of ImmuDB is not a message of the expected type")]
    NotACertificate,
    /// A field has an invalid value.
    #[error("the certificate of ImmuDB has an invalid {field}")]
    Field {
        /// The name of the field.
        field: &'static str,
    },
    /// The entry is not the checkpoint of the proof.
    #[error("ImmuDB has another checkpoint than the proof")]
    OtherCheckpoint,
    /// No transaction of this service has such a header.
    #[error("ImmuDB's transaction {tx} cannot have the header in the proof (version {version})")]
    Header {
        /// The transaction.
        tx: TxId,
        /// The version in the header.
        version: u16,
    },
    /// The entry is not in the transaction.
    #[error("ImmuDB: {0}")]
    Entry(#[from] ProofMismatch),
    /// The state after the transaction is not signed with the key.
    #[error("ImmuDB: {0}")]
    Signature(#[from] SignatureError),
}

/// That ImmuDB has a checkpoint: the entry, the transaction that wrote it, and the signature of the
/// state after that transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImmudbCertificate {
    /// The name of the database.
    pub database: String,
    /// The key of the entry.
    pub key: Bytes,
    /// The value of the entry: the checkpoint as a signed note.
    pub value: Bytes,
    /// The header of the transaction.
    pub header: TxHeader,
    /// That the entry is in the transaction.
    pub proof: EntryProof,
    /// The signature of the state after the transaction, if the server has a signing key.
    pub signature: Option<Bytes>,
}

/// The state of ImmuDB that a certificate leads to: its history up to the transaction with the
/// checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertifiedState {
    /// The name of the database.
    pub database: String,
    /// The transaction with the checkpoint, and its accumulated hash.
    pub state: TrustedState,
    /// When it was committed by ImmuDB's clock, in seconds since 1970.
    pub committed_at: i64,
    /// Whether the signature was checked. Without it, nobody vouches for this state, and it has to
    /// be compared with what ImmuDB itself answers.
    pub is_signed: bool,
}

impl ImmudbCertificate {
    /// Encodes the certificate. Transactions of this service have no metadata, and what is longer
    /// than ImmuDB allows is not accepted when it is decoded.
    pub fn encode(&self) -> Bytes {
        self.to_message().encode_to_vec().into()
    }

    /// Decodes a certificate.
    ///
    /// # Errors
    /// Returns an error if the bytes are not a certificate, or if a field is invalid.
    pub fn decode(bytes: &[u8]) -> Result<Self, CertificateError> {
        let message = messages::ImmudbCertificate::decode(bytes);
        Self::from_message(message.map_err(|_| CertificateError::NotACertificate)?)
    }

    pub(super) fn to_message(&self) -> messages::ImmudbCertificate {
        let Self { database, key, value, header, proof, signature } = self;
        let bytes = |hash: &Sha256Hash| Bytes::copy_from_slice(hash);
        messages::ImmudbCertificate {
            database: database.clone(),
            key: key.clone(),
            value: value.clone(),
            transaction: header.id.0,
            previous_hash: bytes(&header.previous_hash),
            timestamp: header.timestamp_seconds,
            version: header.version.into(),
            metadata: header.metadata.as_ref().map(encode_metadata).unwrap_or_default().into(),
            entry_count: header.entry_count,
            entries_hash: bytes(&header.entries_hash),
            tree_transaction: header.tree_tx.0,
            tree_root: bytes(&header.tree_root),
            entry_index: proof.leaf,
            entry_proof: proof.terms.iter().map(bytes).collect(),
            signature: signature.clone().unwrap_or_default(),
        }
    }

    pub(super) fn from_message(message: messages::ImmudbCertificate) -> Result<Self, CertificateError> {
        let invalid = |field| CertificateError::Field { field };
        let hash = |bytes: &Bytes, field| Sha256Hash::try_from(bytes.as_ref()).map_err(|_| invalid(field));
        if message.entry_proof.len() > HASHES_MAX {
            return Err(invalid("entry_proof"));
        }
        let terms = message.entry_proof.iter().map(|term| hash(term, "entry_proof"));
        let metadata = decode_metadata(&message.metadata).ok_or(invalid("metadata"))?;
        Ok(Self {
            header: TxHeader {
                id: TxId(message.transaction),
                previous_hash: hash(&message.previous_hash, "previous_hash")?,
                timestamp_seconds: message.timestamp,
                entry_count: message.entry_count,
                entries_hash: hash(&message.entries_hash, "entries_hash")?,
                tree_tx: TxId(message.tree_transaction),
                tree_root: hash(&message.tree_root, "tree_root")?,
                version: u16::try_from(message.version).map_err(|_| invalid("version"))?,
                // ImmuDB hashes empty metadata as none.
                metadata: Some(metadata).filter(|metadata| !encode_metadata(metadata).is_empty()),
            },
            proof: EntryProof {
                leaf: message.entry_index,
                width: message.entry_count,
                terms: terms.collect::<Result<_, _>>()?,
            },
            database: message.database,
            key: message.key,
            value: message.value,
            signature: Some(message.signature).filter(|signature| !signature.is_empty()),
        })
    }

    /// Checks that the entry is the checkpoint with this text, that the transaction has the entry,
    /// and that the state after it is signed with `key`, if that is given.
    ///
    /// The signatures under the checkpoint are not checked: the caller has checked those of the
    /// same text.
    ///
    /// # Errors
    /// Returns an error if any of this does not hold.
    pub fn verify(
        &self,
        checkpoint_text: &str,
        key: Option<&PublicKey>,
    ) -> Result<CertifiedState, CertificateError> {
        let header = &self.header;
        if !has_text(&self.value, checkpoint_text) {
            return Err(CertificateError::OtherCheckpoint);
        }
        let alh = header.accumulated_hash().filter(|_| header.version == VERSION);
        let alh = alh.ok_or(CertificateError::Header { tx: header.id, version: header.version })?;
        verify_entry(&self.proof, &entry_digest(&self.key, &self.value), header)?;
        let state = TrustedState { tx: header.id, alh };
        if let Some(key) = key {
            let (database, signature) = (self.database.clone(), self.signature.clone());
            verify_signature(&DatabaseState { database, state, signature }, key)?;
        }
        Ok(CertifiedState {
            database: self.database.clone(),
            state,
            committed_at: header.timestamp_seconds,
            is_signed: key.is_some(),
        })
    }
}

/// Returns whether the bytes are a signed note with this text.
fn has_text(note: &[u8], text: &str) -> bool {
    let is_note = SignedNote::parse(note).is_ok();
    let note = str::from_utf8(note).unwrap_or_default();
    let signatures = note.strip_prefix(text).and_then(|rest| rest.strip_prefix('\n'));
    // The last blank line of a note is the one before its signatures.
    is_note && signatures.is_some_and(|lines| !lines.starts_with('\n') && !lines.contains("\n\n"))
}

fn encode_metadata(metadata: &TxMetadata) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(tx) = metadata.truncated_tx {
        bytes.push(TRUNCATED_TX);
        bytes.extend(tx.0.to_be_bytes());
    }
    if !metadata.extra.is_empty() {
        bytes.push(EXTRA);
        bytes.extend(u16::try_from(metadata.extra.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(&metadata.extra);
    }
    bytes
}

/// Returns `None` if the bytes are not those of metadata.
fn decode_metadata(bytes: &[u8]) -> Option<TxMetadata> {
    let mut metadata = TxMetadata { truncated_tx: None, extra: Bytes::new() };
    let mut rest = bytes;
    if let Some(after) = rest.strip_prefix(&[TRUNCATED_TX]) {
        let (tx, after) = after.split_first_chunk()?;
        metadata.truncated_tx = Some(TxId(u64::from_be_bytes(*tx)));
        rest = after;
    }
    if let Some(after) = rest.strip_prefix(&[EXTRA]) {
        let (length, after) = after.split_first_chunk()?;
        let (extra, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
        metadata.extra = Bytes::copy_from_slice(extra);
        rest = after;
    }
    rest.is_empty().then_some(metadata)
}
