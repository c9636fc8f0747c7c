//! Proofs that an event is in the history: what the service makes, and which programs accept it.
//!
//! They are held against hashes that the tests compute themselves from the chain hashes of the
//! events, with the functions for trees that are in memory as a whole.

use std::time::{Duration, Instant};

use aethyr_event_store::{
    grpc::wire::{GetCheckpointRequest, GetCheckpointResponse, GetProofRequest, RecordedEvent},
    proof::{Checkpoint, Hash, SignedNote, VerifierKey, leaf_hash},
};

use crate::support::{
    events::reason,
    service::{Client, PATIENCE, Service, Setup},
};

mod accepting;
mod checking;
mod consistency;
mod fallback;
pub mod file;
mod rebuilding;
mod second_opinion;
mod signed_states;
pub mod verifier;

const POLL: Duration = Duration::from_millis(20);

/// Reasons that are gone after a while.
const PASSING: [&str; 2] = ["NO_CHECKPOINT", "TREE"];

/// Makes a checkpoint every second.
pub fn with_checkpoints(setup: Setup) -> Setup {
    setup.set("proof", "checkpoint_every: 1.0")
}

/// Returns the leaves of the tree over these events, which have to be all from the first one on.
pub fn leaves(order: &[RecordedEvent]) -> Vec<Hash> {
    order.iter().map(|event| leaf_hash(&event.chain_hash)).collect()
}

/// Returns the public key, as the command prints it.
pub fn verifier_key(service: &Service) -> VerifierKey {
    let output = service.command(&["proof", "key"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    VerifierKey::parse(str::from_utf8(&output.stdout).unwrap().trim_end()).unwrap()
}

/// Returns the newest checkpoint, as soon as it has at least this size.
pub async fn checkpoint_of(service: &Service, size: u64) -> GetCheckpointResponse {
    let mut client = service.client();
    let until = Instant::now() + PATIENCE;
    loop {
        match client.get_checkpoint(GetCheckpointRequest { size: 0 }).await {
            Ok(found) if found.get_ref().size >= size => return found.into_inner(),
            Ok(_) => {}
            Err(status) if PASSING.contains(&&*reason(&status)) => {}
            Err(status) => panic!("{status:?}"),
        }
        assert!(Instant::now() < until, "no checkpoint of {size} events:\n{}", service.log());
        tokio::time::sleep(POLL).await;
    }
}

/// Returns the checkpoint in a note that this key has signed.
pub fn signed_checkpoint(note: &[u8], key: &VerifierKey) -> Checkpoint {
    let note = SignedNote::parse(note).unwrap();
    Checkpoint::parse(note.verify(key).unwrap()).unwrap()
}

/// Returns the proof of an event, as soon as the service has its tree.
pub async fn proof_of(client: &mut Client, event: &RecordedEvent) -> file::Proof {
    let until = Instant::now() + PATIENCE;
    let request = GetProofRequest {
        aggregate_id: event.aggregate_id.clone(),
        sequence_number: event.sequence_number,
        ..GetProofRequest::default()
    };
    loop {
        match client.get_proof(request.clone()).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                assert_eq!(answer.position, event.position);
                let proof = file::Proof::parse(&answer.tlog_proof);
                assert_eq!(proof.checkpoint_size(), answer.checkpoint_size);
                return proof;
            }
            Err(status) if PASSING.contains(&&*reason(&status)) && Instant::now() < until => {
                tokio::time::sleep(POLL).await;
            }
            Err(status) => panic!("{status:?}"),
        }
    }
}
