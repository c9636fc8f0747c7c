//! Makes the proof that an event is in the history, as a file for callers.
//!
//! The record and the chain hashes come from the local log, the rest from the tree and from a kept
//! checkpoint. Nothing is sent anywhere. What is returned was verified against the root in the
//! checkpoint.

use std::time::Duration;

use super::{KeptCheckpoint, NoKey, TransparencyError};
use crate::{
    error::{NoProof, StoreError},
    event::{ChainHash, Position},
    history::{History, HistoryError},
    log::Tip,
    merkle::{inclusion, leaf_hash},
    proof::TlogProof,
    proof_file::ProofFile,
    tree::{TreeError, TreeState, TreeView, TreeWatch},
};

/// How long a call waits for a tree that is only a little behind the log.
const BEHIND_MAX: Duration = Duration::from_secs(2);

/// The event to prove.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WantedProof {
    pub position: Position,
    /// Whether the file has the record of the event.
    pub with_record: bool,
}

/// Returns the tree once it has this number of leaves. Waits only while the tree follows the log,
/// and not while it is built.
///
/// # Errors
/// Returns an error if the tree does not have them soon.
pub(crate) async fn tree_of(tree: &TreeWatch, size: u64) -> Result<TreeView, TransparencyError> {
    let state = match tree.state() {
        TreeState::Ready(view) if view.size() >= size => return Ok(view),
        TreeState::Ready(_) => match tree.wait_for(size, BEHIND_MAX).await {
            Some(view) => return Ok(view),
            None => tree.state(),
        },
        other @ (TreeState::Building { .. } | TreeState::Failed { .. }) => other,
    };
    Err(tree_error(state, size))
}

/// Returns why there is no tree of `wanted` events.
pub(super) fn tree_error(state: TreeState, wanted: u64) -> TransparencyError {
    match state {
        TreeState::Building { size, of } => TransparencyError::TreeNotReady { size, of },
        TreeState::Ready(view) => TransparencyError::TreeNotReady { size: view.size(), of: wanted },
        TreeState::Failed { reason } => TransparencyError::TreeFailed(reason),
    }
}

/// Makes the proof of an event that is in the tree of the checkpoint. `tip` is the end of the log.
///
/// # Errors
/// Returns an error if the event cannot be read, if the tree is smaller than the checkpoint's, or
/// if the log does not have the tree of the checkpoint.
pub(crate) fn prove(
    history: &History,
    tip: Tip,
    view: &TreeView,
    kept: &KeptCheckpoint,
    wanted: WantedProof,
) -> Result<ProofFile, StoreError> {
    let WantedProof { position, with_record } = wanted;
    let index = position.0.checked_sub(1).ok_or(NoProof::NoEvent)?;
    let found = history.record_at(position, tip)?;
    let previous_hash = history.locate(Position(index), tip)?.hash;
    if previous_hash.chain(&found.bytes) != found.hash {
        return Err(HistoryError::Position(position).into());
    }
    let (size, root) = (kept.checkpoint.size(), kept.checkpoint.root());
    let inclusion = view.inclusion(index, size, history)?;
    inclusion::verify(&leaf_hash(&found.hash.0), index, size, &inclusion, root)
        .map_err(TreeError::<HistoryError>::from)?;
    Ok(ProofFile {
        record: with_record.then_some(found.bytes),
        previous_hash: if with_record { previous_hash } else { ChainHash::START },
        immudb: kept.certificate.clone(),
        proof: TlogProof { extra: Vec::new(), index, inclusion, checkpoint: kept.note.clone() },
    })
}

impl From<TransparencyError> for StoreError {
    fn from(error: TransparencyError) -> Self {
        match error {
            TransparencyError::TreeNotReady { size, of } => NoProof::TreeBuilding { size, of }.into(),
            TransparencyError::TreeFailed(reason) => NoProof::Failed { reason }.into(),
            TransparencyError::Disabled | TransparencyError::NoKey(NoKey::Disabled) => {
                NoProof::Disabled.into()
            }
            TransparencyError::NoKey(error) => NoProof::NoKey { reason: error.to_string() }.into(),
            other => NoProof::Failed { reason: other.to_string() }.into(),
        }
    }
}
