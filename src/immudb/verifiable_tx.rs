//! Transactions with ImmuDB's proofs, and the states that it certifies, as they are sent.

use bytes::Bytes;

use super::{
    Error, Sha256Hash, TransactionKeys, TxHeader, TxId, schema,
    verify::{
        Chain, DatabaseState, DualProof, HeaderMismatch, LinearProof, ProofMismatch, TrustedState,
        verify_dual_proof,
    },
};

/// A transaction, with the proof that it and another one are in one history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiableTx {
    /// The transaction without its values.
    pub transaction: TransactionKeys,
    /// The proof. Its source is the earlier one of the two transactions.
    pub proof: DualProof,
    /// The signature of the state after the target of the proof, if the server has a signing key.
    pub signature: Option<Bytes>,
}

impl VerifiableTx {
    /// Checks that the transaction and the trusted state, which may be earlier or later, are in one
    /// history, and that the transaction has the entries of its header. Returns the state after it.
    ///
    /// # Errors
    /// Returns an error if the proof is about another state, or if anything does not fit.
    pub fn verify(&self, trusted: TrustedState) -> Result<TrustedState, ProofMismatch> {
        self.transaction.check()?;
        let header = &self.transaction.header;
        let version = HeaderMismatch::Version { tx: header.id, found: header.version };
        let state = TrustedState { tx: header.id, alh: header.accumulated_hash().ok_or(version)? };
        let (source, target) = if trusted.tx <= state.tx { (trusted, state) } else { (state, trusted) };
        verify_dual_proof(&self.proof, source, target)?;
        Ok(state)
    }

    /// Returns the history up to the target of the proof. The right edge of its tree comes from the
    /// proof, and is held against the root in the header. So the history is as trustworthy as the
    /// accumulated hash of the target.
    ///
    /// # Errors
    /// Returns an error if the proof does not lead to the header of the target.
    pub fn chain(&self) -> Result<Chain, ProofMismatch> {
        let target = &self.proof.target;
        let before = TxId(target.id.0.saturating_sub(1));
        if target.tree_tx != before {
            let (tx, found) = (target.id, target.tree_tx);
            return Err(HeaderMismatch::TreeTx { tx, expected: before, found }.into());
        }
        let mut chain = Chain::empty();
        if target.tree_tx > TxId(0) {
            let last = TrustedState { tx: target.tree_tx, alh: self.proof.target_tree_alh };
            let mismatch = ProofMismatch::Inclusion { tx: last.tx, later: target.id };
            chain = Chain::from_last_inclusion(last, &self.proof.last_inclusion).ok_or(mismatch)?;
        }
        chain.append(target, None)?;
        Ok(chain)
    }
}

impl TryFrom<schema::VerifiableTx> for VerifiableTx {
    type Error = Error;

    fn try_from(wire: schema::VerifiableTx) -> Result<VerifiableTx, Error> {
        let transaction = wire.tx.ok_or_else(|| incomplete("VerifiableTx", "tx"))?;
        let proof = wire.dual_proof.ok_or_else(|| incomplete("VerifiableTx", "dualProof"))?;
        Ok(VerifiableTx {
            transaction: transaction.try_into()?,
            proof: proof.try_into()?,
            signature: wire.signature.map(|signature| signature.signature),
        })
    }
}

impl TryFrom<schema::DualProof> for DualProof {
    type Error = Error;

    fn try_from(wire: schema::DualProof) -> Result<DualProof, Error> {
        const MESSAGE: &str = "DualProof";
        let read = |header: Option<schema::TxHeader>, field: &str| {
            TxHeader::try_from(header.ok_or_else(|| incomplete(MESSAGE, field))?)
        };
        let linear = wire.linear_proof.ok_or_else(|| incomplete(MESSAGE, "linearProof"))?;
        Ok(DualProof {
            source: read(wire.source_tx_header, "sourceTxHeader")?,
            target: read(wire.target_tx_header, "targetTxHeader")?,
            inclusion: hashes(MESSAGE, "inclusionProof", &wire.inclusion_proof)?,
            consistency: hashes(MESSAGE, "consistencyProof", &wire.consistency_proof)?,
            target_tree_alh: hash(MESSAGE, "targetBlTxAlh", &wire.target_bl_tx_alh)?,
            last_inclusion: hashes(MESSAGE, "lastInclusionProof", &wire.last_inclusion_proof)?,
            linear: LinearProof {
                source: TxId(linear.source_tx_id),
                target: TxId(linear.target_tx_id),
                terms: hashes("LinearProof", "terms", &linear.terms)?,
            },
        })
    }
}

impl TryFrom<schema::ImmutableState> for DatabaseState {
    type Error = Error;

    fn try_from(wire: schema::ImmutableState) -> Result<DatabaseState, Error> {
        let alh = hash("ImmutableState", "txHash", &wire.tx_hash)?;
        Ok(DatabaseState {
            database: wire.db,
            state: TrustedState { tx: TxId(wire.tx_id), alh },
            signature: wire.signature.map(|signature| signature.signature),
        })
    }
}

pub(super) fn hashes(message: &'static str, field: &str, wire: &[Bytes]) -> Result<Vec<Sha256Hash>, Error> {
    wire.iter().map(|bytes| hash(message, field, bytes)).collect()
}

fn hash(message: &'static str, field: &str, wire: &Bytes) -> Result<Sha256Hash, Error> {
    Sha256Hash::try_from(wire.as_ref())
        .map_err(|_| Error::corrupted(message, format!("{field} is malformed")))
}

pub(super) fn incomplete(message: &'static str, field: &str) -> Error {
    Error::corrupted(message, format!("{field} is missing"))
}
