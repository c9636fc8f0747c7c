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
    access::Right,
    error::{NoProof, StoreError},
    event::{Position, record::StoredEvent},
    grpc::{
        authorization::Forbidden,
        redaction::{self, Secrets},
        status,
        transport::{concurrency::Admitted, reads::size_answer},
        wire,
    },
    merkle::Hash,
    replication::audit::{AuditStatus, AuditWatch},
    store::{EventRef, EventStore},
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
        let ProofRequest { event, with_record: wanted } =
            self.decoder.proof(&request).map_err(status::of_violations)?;
        self.may_prove(call, &event).await?;
        let transparency = self.transparency()?;
        let position = self.blocking(call, move |store| store.position_of(&event)).await?;
        // A checkpoint may have to be made first.
        call.answer.resize(0)?;
        let covering = transparency.cover(position).await;
        let kept = covering.map_err(|error| status::of_error(error.into()))?;
        let (checkpoint_size, anchored) = (kept.checkpoint.size(), kept.anchored);
        let view = tree_of(transparency.tree(), checkpoint_size).await;
        let view = view.map_err(|error| status::of_error(error.into()))?;
        let may_load = call.principal.may(Right::Load);
        let is_masked = Secrets::for_caller(&call.principal) == Secrets::Masked;
        let made = self.blocking(call, move |store| {
            let with_record = wanted && may_load && !(is_masked && has_hash(store, position)?);
            let wanted_proof = WantedProof { position, with_record };
            let file = prove(store.history(), store.tip(), &view, &kept, wanted_proof)?;
            Ok((String::from_utf8_lossy(&file.to_bytes()).into_owned(), wanted && !with_record))
        });
        let (tlog_proof, redacted) = made.await?;
        let position = position.0;
        let response = wire::GetProofResponse { tlog_proof, position, checkpoint_size, anchored, redacted };
        size_answer(call, &response)?;
        Ok(response)
    }

    /// Checks that the caller may name the event. If its scope is restricted, an event that does
    /// not exist is refused like one out of the scope.
    async fn may_prove(&self, call: &Admitted, event: &EventRef) -> Result<(), Status> {
        let scope = &call.principal.identity.scope;
        let id = match event {
            EventRef::Numbered(aggregate, _) => {
                return self.lookup(call).check(Right::Prove, aggregate).await;
            }
            EventRef::Id(_) if scope.is_unrestricted() => return Ok(()),
            EventRef::Id(id) => *id,
        };
        let found = self.blocking(call, move |store| store.find(id)).await?;
        let is_in_scope = found.is_some_and(|found| {
            scope.has_id(found.event.aggregate_id.as_str()) && scope.has_type(&found.event.aggregate_type)
        });
        if is_in_scope { Ok(()) } else { Err(Forbidden::Scope(Right::Prove).refuse(call)) }
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

/// Returns whether the record of the event at this position has a password hash.
fn has_hash(store: &EventStore, position: Position) -> Result<bool, StoreError> {
    let found = store.history().record_at(position, store.tip())?;
    let event = StoredEvent::new(found.bytes, found.hash);
    redaction::has_hash(&event.map_err(|error| StoreError::Damaged(error.into()))?)
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

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;
    use crate::{
        config::LimitsConfig,
        grpc::event_store::decode::Decoder,
        sequencer::tests::{in_folder, start},
        server::settings,
        store::tests::local_store,
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn a_record_with_the_hash_of_a_player_is_told_from_all_others() {
        let folder = tempdir().unwrap();
        let running = start(&in_folder(&folder));
        let store = local_store(&running);
        let hash = r#"{"password_hash":"5f4dcc3b5aa765d61d8327deb882cf99"}"#;
        let event = |(aggregate_type, event_type, json): (&str, &str, &str)| wire::NewEvent {
            aggregate_id: format!("a {aggregate_type}"),
            aggregate_type: aggregate_type.to_owned(),
            event_type: event_type.to_owned(),
            data: Some(wire::new_event::Data::Json(json.to_owned())),
            ..wire::NewEvent::default()
        };
        let events = [
            ("Player", "PlayerCreated", hash),
            ("Player", "PlayerPasswordUpdated", hash),
            ("Player", "PlayerCreated", r#"{"password_hash":null}"#),
            ("Player", "PlayerAdminStatusUpdated", hash),
            ("Account", "PlayerCreated", hash),
        ];
        let events = events.into_iter().map(event).collect();
        let request = wire::AppendEventsRequest { events, ..wire::AppendEventsRequest::default() };
        let decoder = Decoder { limits: settings::request_limits(&LimitsConfig::default()) };
        store.append(decoder.append(request).unwrap()).await.unwrap();
        let found: Vec<bool> =
            (1..=5).map(|position| has_hash(&store, Position(position)).unwrap()).collect();
        assert_eq!(found, [true, true, false, false, false]);
    }
}
