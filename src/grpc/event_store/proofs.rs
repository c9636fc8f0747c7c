//! The calls for proofs, checkpoints and consistency, and their part of the statistics.
//!
//! None of them reaches ImmuDB: its part of a proof is kept with the checkpoint.

use bytes::Bytes;
use tonic::Status;

use super::{
    EventStoreCalls,
    decode::{ConsistencyRequest, ProofRequest},
    encode::{ProofFigures, timestamp},
};
use crate::{
    error::NoProof,
    grpc::{
        status,
        transport::{concurrency::Admitted, reads::size_answer},
        wire,
    },
    merkle::Hash,
    replication::audit::{AuditStatus, AuditWatch},
    transparency::{
        AnchorKind, AnchorStatus, Transparency, TransparencyStatus,
        proofs::{WantedProof, prove, tree_of},
    },
    tree::TreeState,
};

impl EventStoreCalls {
    /// Makes the proof of an event.
    pub(super) async fn proof(
        &self,
        call: &Admitted,
        request: wire::GetProofRequest,
    ) -> Result<wire::GetProofResponse, Status> {
        let ProofRequest { event, with_record } =
            self.decoder.proof(&request).map_err(status::of_violations)?;
        let transparency = self.transparency()?;
        let position = self.blocking(call, move |store| store.position_of(&event)).await?;
        // A checkpoint may have to be made first.
        call.answer.resize(0)?;
        let covering = transparency.cover(position).await;
        let kept = covering.map_err(|error| status::of_error(error.into()))?;
        let (checkpoint_size, anchored) = (kept.checkpoint.size(), kept.anchored);
        let view = tree_of(transparency.tree(), checkpoint_size).await;
        let view = view.map_err(|error| status::of_error(error.into()))?;
        let wanted = WantedProof { position, with_record };
        let made = self.blocking(call, move |store| {
            let file = prove(store.history(), store.tip(), &view, &kept, wanted)?;
            Ok(String::from_utf8_lossy(&file.to_bytes()).into_owned())
        });
        let tlog_proof = made.await?;
        let response = wire::GetProofResponse { tlog_proof, position: position.0, checkpoint_size, anchored };
        size_answer(call, &response)?;
        Ok(response)
    }

    /// Returns a kept checkpoint.
    pub(super) async fn checkpoint(
        &self,
        call: &Admitted,
        request: wire::GetCheckpointRequest,
    ) -> Result<wire::GetCheckpointResponse, Status> {
        let transparency = self.transparency()?;
        self.store.admit_read().map_err(status::of_error)?;
        let size = request.size;
        let kept = if size == 0 { transparency.newest() } else { transparency.kept(size) };
        let kept = kept.ok_or_else(|| status::of_error(NoProof::NoCheckpoint { size }.into()))?;
        let response = wire::GetCheckpointResponse {
            checkpoint: String::from_utf8_lossy(&kept.note.to_bytes()).into_owned(),
            size: kept.checkpoint.size(),
            made_at: Some(timestamp(kept.made_at)),
            anchored: kept.anchored,
            verifier_key: transparency.verifier_key_of(&kept).map(|key| key.to_string()).unwrap_or_default(),
        };
        size_answer(call, &response)?;
        Ok(response)
    }

    /// Proves that a tree continues an older one.
    pub(super) async fn consistency(
        &self,
        call: &Admitted,
        request: wire::GetConsistencyRequest,
    ) -> Result<wire::GetConsistencyResponse, Status> {
        let ConsistencyRequest { from, to } =
            self.decoder.consistency(request).map_err(status::of_violations)?;
        let transparency = self.transparency()?;
        self.store.admit_read().map_err(status::of_error)?;
        let newest = || transparency.newest().map_or(0, |kept| kept.checkpoint.size());
        let size = to.unwrap_or_else(|| newest().max(from));
        let events = self.store.tip().position.0;
        if size > events {
            return Err(status::of_error(NoProof::TooFewEvents { size, events }.into()));
        }
        let view = tree_of(transparency.tree(), size).await;
        let view = view.map_err(|error| status::of_error(error.into()))?;
        let made = self.blocking(call, move |store| {
            let history = store.history();
            let hashes = view.consistency(from, size, history)?;
            let roots = (view.root_at(from, history)?, view.root_at(size, history)?);
            Ok((hashes, roots))
        });
        let (hashes, (from_root, to_root)) = made.await?;
        let bytes = |hash: &Hash| Bytes::copy_from_slice(hash);
        let response = wire::GetConsistencyResponse {
            hashes: hashes.iter().map(bytes).collect(),
            from_root: bytes(&from_root),
            to_size: size,
            to_root: bytes(&to_root),
        };
        size_answer(call, &response)?;
        Ok(response)
    }
}

/// Returns the figures about the tree, the checkpoints, the anchors and the auditor.
pub(super) fn figures(transparency: Option<&Transparency>, audit: Option<&AuditWatch>) -> ProofFigures {
    let newest = transparency.and_then(Transparency::newest);
    let tree_size = transparency.map(|transparency| match transparency.tree().state() {
        TreeState::Building { size, .. } => size,
        TreeState::Ready(view) => view.size(),
        TreeState::Failed { .. } => 0,
    });
    let (problem, anchors) = transparency
        .map(Transparency::status)
        .map_or((None, Vec::new()), |TransparencyStatus { problem, anchors }| (problem, anchors));
    ProofFigures {
        tree_size: tree_size.unwrap_or_default(),
        checkpoint_size: newest.as_ref().map_or(0, |kept| kept.checkpoint.size()),
        checkpoint_at: newest.map(|kept| timestamp(kept.made_at)),
        checkpoint_problem: problem.map(|problem| problem.to_string()).unwrap_or_default(),
        anchors: anchors.into_iter().map(anchor).collect(),
        // Without a round, the audit is off.
        audit: audit.map(AuditWatch::status).filter(|status| status.round > 0).map(audited),
    }
}

fn anchor(status: AnchorStatus) -> wire::AnchorStats {
    let AnchorStatus { kind, target, size, reached_at, failures, last_error } = status;
    let kind = match kind {
        AnchorKind::File => "file",
        AnchorKind::Command => "command",
        AnchorKind::Witness => "witness",
    };
    wire::AnchorStats {
        kind: kind.to_owned(),
        target,
        size,
        reached_at: reached_at.map(timestamp),
        failures,
        last_error: last_error.unwrap_or_default(),
    }
}

fn audited(status: AuditStatus) -> wire::AuditStats {
    let AuditStatus { round, transaction, last_transaction, events, started_at, finished_at, last_error } =
        status;
    wire::AuditStats {
        round,
        transaction,
        last_transaction,
        events_checked: events,
        started_at: started_at.map(timestamp),
        finished_at: finished_at.map(timestamp),
        last_error: last_error.unwrap_or_default(),
    }
}
