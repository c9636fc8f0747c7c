//! Values with ImmuDB's proofs, as they are sent.

use bytes::Bytes;

use super::{
    Error, TxHeader, schema,
    verifiable_tx::{hashes, incomplete},
    verify::{
        DualProof, EntryProof, HeaderMismatch, ProofMismatch, TrustedState, entry_digest, verify_dual_proof,
        verify_entry,
    },
};

/// A value with the proof that a transaction wrote it, and that this transaction and another one
/// are in one history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiableEntry {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The header of the transaction that wrote the value.
    pub header: TxHeader,
    /// The proof that the entry is in the transaction.
    pub proof: EntryProof,
    /// The proof that both transactions are in one history. Its source is the earlier one of the
    /// two.
    pub dual: DualProof,
    /// The signature of the state after the target of that proof, if the server has a signing key.
    pub signature: Option<Bytes>,
}

impl VerifiableEntry {
    /// Checks that the transaction wrote this value, as a plain entry, and that it and the trusted
    /// state, which may be earlier or later, are in one history. Returns the state after the
    /// transaction.
    ///
    /// # Errors
    /// Returns an error if the proof is about another state, or if anything does not fit.
    pub fn verify(&self, trusted: TrustedState) -> Result<TrustedState, ProofMismatch> {
        let header = &self.header;
        verify_entry(&self.proof, &entry_digest(&self.key, &self.value), header)?;
        let version = HeaderMismatch::Version { tx: header.id, found: header.version };
        let state = TrustedState { tx: header.id, alh: header.accumulated_hash().ok_or(version)? };
        let (source, target) = if trusted.tx <= state.tx { (trusted, state) } else { (state, trusted) };
        verify_dual_proof(&self.dual, source, target)?;
        Ok(state)
    }
}

impl TryFrom<schema::VerifiableEntry> for VerifiableEntry {
    type Error = Error;

    fn try_from(wire: schema::VerifiableEntry) -> Result<VerifiableEntry, Error> {
        const MESSAGE: &str = "VerifiableEntry";
        let entry = wire.entry.ok_or_else(|| incomplete(MESSAGE, "entry"))?;
        let transaction = wire.verifiable_tx.ok_or_else(|| incomplete(MESSAGE, "verifiableTx"))?;
        let header = transaction.tx.and_then(|tx| tx.header).ok_or_else(|| incomplete(MESSAGE, "header"))?;
        let dual = transaction.dual_proof.ok_or_else(|| incomplete(MESSAGE, "dualProof"))?;
        let proof = wire.inclusion_proof.ok_or_else(|| incomplete(MESSAGE, "inclusionProof"))?;
        Ok(VerifiableEntry {
            key: entry.key,
            value: entry.value,
            header: header.try_into()?,
            proof: proof.try_into()?,
            dual: dual.try_into()?,
            signature: transaction.signature.map(|signature| signature.signature),
        })
    }
}

impl TryFrom<schema::InclusionProof> for EntryProof {
    type Error = Error;

    fn try_from(wire: schema::InclusionProof) -> Result<EntryProof, Error> {
        const MESSAGE: &str = "InclusionProof";
        let malformed = |field| Error::corrupted(MESSAGE, format!("{field} is malformed"));
        Ok(EntryProof {
            leaf: u32::try_from(wire.leaf).map_err(|_| malformed("leaf"))?,
            width: u32::try_from(wire.width).map_err(|_| malformed("width"))?,
            terms: hashes(MESSAGE, "terms", &wire.terms)?,
        })
    }
}
