//! What a witness signs and what it refuses. Knows nothing of HTTP.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::{
    cosigning_key::CosigningKey,
    request::{AddCheckpoint, RequestError},
    signature_lines::{LinesError, lines_by, split},
    state::{Cosigned, StateError, StateFile},
};
use crate::proof::{
    Checkpoint, CheckpointError, EMPTY_ROOT, ProofError, SignatureError, VerifierKey, consistency,
};

/// Why a checkpoint is not cosigned.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("the checkpoint has the size {size}, which is less than the old size {old_size}")]
    Smaller { old_size: u64, size: u64 },
    #[error("the witness does not know the log {origin:?}")]
    UnknownLog { origin: String },
    /// The log has not signed the checkpoint.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error(transparent)]
    Lines(#[from] LinesError),
    /// The proof does not begin at the newest checkpoint.
    #[error("the newest checkpoint of the log has the size {size}")]
    OtherSize { size: u64 },
    /// The log has signed two histories, or the proof is wrong.
    #[error("the checkpoint of {origin:?} does not continue the one of size {old_size}: {source}")]
    Inconsistent { origin: String, old_size: u64, source: ProofError },
    /// Nothing is signed without a time.
    #[error("the clock of the witness is wrong")]
    Clock,
    #[error("the witness cannot store its state")]
    State(#[from] StateError),
}

/// Signs the checkpoints of some logs.
#[derive(Debug)]
pub(super) struct Cosigner {
    logs: Vec<VerifierKey>,
    key: CosigningKey,
    /// Locked from the comparison with the newest checkpoint until another one is durable.
    state: Mutex<StateFile>,
}

impl Cosigner {
    /// The name of a log's key is the origin of its checkpoints. A log may have several keys.
    pub(super) fn new(logs: Vec<VerifierKey>, key: CosigningKey, state: StateFile) -> Self {
        Self { logs, key, state: Mutex::new(state) }
    }

    /// Returns the signature line for the checkpoint in a request, once the checkpoint is durable.
    /// The time is in seconds since 1970. Waits for the disk.
    pub(super) fn add_checkpoint(&self, body: &[u8], time: u64) -> Result<String, Refusal> {
        let request = AddCheckpoint::parse(body)?;
        let AddCheckpoint { old_size, ref proof, ref origin, .. } = request;
        let text = self.signed_text(&request)?;
        let checkpoint = Checkpoint::parse(text)?;
        let (size, root) = (checkpoint.size(), *checkpoint.root());
        if old_size > size {
            return Err(Refusal::Smaller { old_size, size });
        }
        if time == 0 {
            return Err(Refusal::Clock);
        }

        let mut state = self.lock();
        let newest = state.newest(origin);
        let (newest_size, newest_root) = newest.map_or((0, EMPTY_ROOT), |newest| (newest.size, newest.root));
        if old_size != newest_size {
            return Err(Refusal::OtherSize { size: newest_size });
        }
        consistency::verify(old_size, &newest_root, size, &root, proof)
            .map_err(|source| Refusal::Inconsistent { origin: origin.clone(), old_size, source })?;
        let cosignature = self.key.cosign(text, time);
        // The same tree again changes nothing, and must not cost a write.
        if newest.is_none_or(|newest| newest.size != size) {
            let note = format!("{text}\n{}{cosignature}", self.log_lines(&request, text)?);
            state.record(origin, Cosigned { size, root, note })?;
        }
        Ok(cosignature)
    }

    /// Returns the newest checkpoint of the log whose origin has this SHA-256, in lowercase
    /// hexadecimal digits, with its signatures.
    pub(super) fn newest(&self, origin_hash: &str) -> Option<String> {
        let state = self.lock();
        let mut all = state.all();
        let found = all.find(|(origin, _)| hex::encode(Sha256::digest(origin)) == origin_hash);
        found.map(|(_, cosigned)| cosigned.note.clone())
    }

    /// Returns the text of the checkpoint if one of the keys of its log has signed it, and none of
    /// them has a wrong signature.
    fn signed_text<'r>(&self, request: &'r AddCheckpoint) -> Result<&'r str, Refusal> {
        let (mut signed, mut missing) = (None, None);
        for key in self.keys(&request.origin) {
            match request.note.verify(key) {
                Ok(text) => signed = Some(text),
                Err(error @ SignatureError::Missing { .. }) => missing = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        let unknown = || Refusal::UnknownLog { origin: request.origin.clone() };
        signed.ok_or_else(|| missing.map_or_else(unknown, Refusal::Signature))
    }

    /// Returns the signature lines by the keys of the log. Those by others, which anybody can add,
    /// are left out.
    fn log_lines(&self, request: &AddCheckpoint, text: &str) -> Result<String, LinesError> {
        let note = request.note.to_bytes();
        let lines = str::from_utf8(&note).ok().and_then(split).map_or("", |(_, lines)| lines);
        let mut own = String::new();
        for key in self.keys(&request.origin) {
            for (line, _) in lines_by(text, lines, key)? {
                own.push_str(line);
            }
        }
        Ok(own)
    }

    fn keys(&self, origin: &str) -> impl Iterator<Item = &VerifierKey> {
        self.logs.iter().filter(move |key| key.name() == origin)
    }

    fn lock(&self) -> MutexGuard<'_, StateFile> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
