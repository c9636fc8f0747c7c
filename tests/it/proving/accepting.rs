//! Each event of a history has a proof that everybody accepts, and that nobody accepts once it was
//! changed.

use std::{collections::BTreeSet, thread};

use aethyr_event_store::{
    grpc::wire::{GetProofRequest, RecordedEvent},
    proof::{SigningKey, VerifierKey},
};
use tonic::Code;

use super::{
    checkpoint_of, file::Proof, proof_of, second_opinion, signed_checkpoint, verifier::Verifier,
    verifier_key, with_checkpoints,
};
use crate::support::{
    events::{append, event, reason, whole_order},
    service::{Service, Setup},
};

const ROUNDS: u64 = 3;
const APPENDS: u64 = 20;
const EVENTS_AN_APPEND: u64 = 10;
const VERIFIERS: usize = 4;

/// Appends events in several rounds, and takes the proof of each with the checkpoint of its round.
async fn proven_history(service: &Service) -> Vec<(RecordedEvent, Proof)> {
    let mut client = service.client();
    let mut proofs: Vec<(RecordedEvent, Proof)> = Vec::new();
    for round in 1..=ROUNDS {
        for number in 0..APPENDS {
            let events = (0..EVENTS_AN_APPEND).map(|_| event(&format!("room-{}", number % 7)));
            append(&mut client, events.collect()).await;
        }
        checkpoint_of(service, round * APPENDS * EVENTS_AN_APPEND).await;
        let order = whole_order(&mut client).await;
        for event in &order[proofs.len()..] {
            proofs.push((event.clone(), proof_of(&mut client, event).await));
        }
    }
    proofs
}

/// Asserts that the library and the command accept each proof, and that the checkpoints are those
/// of several rounds.
fn assert_accepted(proofs: &[(RecordedEvent, Proof)], key: &VerifierKey) {
    let mut previous_hash = vec![0; 32];
    let mut sizes = BTreeSet::new();
    for (event, proof) in proofs {
        assert_eq!(proof.extra.previous_hash, previous_hash, "position {}", event.position);
        sizes.insert(proof.assert_proves(event, key).size());
        previous_hash = event.chain_hash.to_vec();
    }
    assert!(sizes.len() as u64 >= ROUNDS, "{sizes:?}");
    let verifier = Verifier::of(key);
    thread::scope(|scope| {
        for part in proofs.chunks(proofs.len().div_ceil(VERIFIERS)) {
            let verifier = &verifier;
            scope.spawn(move || {
                for (event, proof) in part {
                    let printed = verifier.assert_accepts(proof.text.as_bytes(), &[]);
                    let expected =
                        [format!("event: {}", event.event_id), format!("position: {}", event.position)];
                    for line in expected {
                        assert!(printed.lines().any(|found| found == line), "{line:?} is not in {printed}");
                    }
                }
            });
        }
    });
}

/// Asserts that the command refuses a proof whose parts do not belong together.
fn assert_changes_are_refused(proofs: &[(RecordedEvent, Proof)], key: &VerifierKey) {
    let verifier = Verifier::of(key);
    let another_key = SigningKey::generate(key.name()).unwrap();
    let with_another_key = Verifier::of(another_key.verifier());
    for pair in proofs.windows(2).step_by(199) {
        let [(_, proof), (_, next)] = pair else { panic!("not a pair") };
        with_another_key.assert_refuses(proof.text.as_bytes(), &[]);
        verifier.assert_refuses(&proof.flipped(&proof.extra.record), &[]);
        if proof.file.index > 0 {
            verifier.assert_refuses(&proof.flipped(&proof.extra.previous_hash), &[]);
        }
        verifier.assert_refuses(&proof.changed(|file| file.extra.clone_from(&next.file.extra)), &[]);
        verifier.assert_refuses(&proof.changed(|file| file.index += 1), &[]);
        verifier.assert_refuses(&proof.changed(|file| file.inclusion[0][31] ^= 1), &[]);
        verifier.assert_refuses(&proof.changed(|file| _ = file.inclusion.pop()), &[]);
        let (_, last) = proofs.last().unwrap();
        if last.checkpoint_size() != proof.checkpoint_size() {
            let other_tree = proof.changed(|file| file.checkpoint.clone_from(&last.file.checkpoint));
            verifier.assert_refuses(&other_tree, &[]);
        }
    }
    verifier.assert_refuses(b"", &[]);
    verifier.assert_refuses(&proofs[0].1.text.as_bytes()[..200], &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proof_of_each_event_is_accepted_without_the_service() {
    let mut service = Service::start(with_checkpoints(Setup::local())).await;
    let proofs = proven_history(&service).await;
    let key = verifier_key(&service);
    assert!(service.stop().success());
    assert_accepted(&proofs, &key);
    second_opinion::assert_accepts(&key, &proofs);
    assert_changes_are_refused(&proofs, &key);
}

/// The period is so long that only a proof leads to a checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_behind_the_newest_checkpoint_is_proven_with_a_new_one() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    for count in 1..=2 {
        append(&mut client, vec![event("room-1"), event("room-2")]).await;
        let order = whole_order(&mut client).await;
        assert_eq!(order.len(), 2 * count);
        let key = verifier_key(&service);
        for event in order.iter().rev() {
            let checkpoint = proof_of(&mut client, event).await.assert_proves(event, &key);
            assert!(checkpoint.size() >= event.position);
        }
        let newest = checkpoint_of(&service, order.len() as u64).await;
        assert_eq!(newest.verifier_key, key.to_string());
        assert_eq!(signed_checkpoint(newest.checkpoint.as_bytes(), &key).size(), newest.size);
    }
    assert_forms(&service).await;
    assert_unknown_events_are_named(&service).await;
}

/// By the id of an event, without its record, and by the command.
async fn assert_forms(service: &Service) {
    let mut client = service.client();
    let order = whole_order(&mut client).await;
    let (key, event) = (verifier_key(service), &order[1]);
    let verifier = Verifier::of(&key);
    let by_id = GetProofRequest { event_id: event.event_id.clone(), ..GetProofRequest::default() };
    let found = client.get_proof(by_id.clone()).await.unwrap().into_inner();
    Proof::parse(&found.tlog_proof).assert_proves(event, &key);

    let hashes = GetProofRequest { without_record: true, ..by_id };
    let hashes = client.get_proof(hashes).await.unwrap().into_inner().tlog_proof;
    assert!(Proof::parse(&hashes).extra.record.is_empty());
    let [hash, another] = [event, &order[0]].map(|event| hex::encode(&event.chain_hash));
    let printed = verifier.assert_accepts(hashes.as_bytes(), &["--hash", &hash]);
    assert!(!printed.contains(&event.event_id), "{printed}");
    verifier.assert_refuses(hashes.as_bytes(), &["--hash", &another]);

    let (sequence, address) = (event.sequence_number.to_string(), service.address());
    let command = ["proof", &event.aggregate_id, &sequence, "--address", &address];
    let output = service.command(&command).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Proof::parse(str::from_utf8(&output.stdout).unwrap()).assert_proves(event, &key);
    verifier.assert_accepts(&output.stdout, &[]);
}

async fn assert_unknown_events_are_named(service: &Service) {
    let by_sequence = |aggregate: &str, sequence_number| GetProofRequest {
        aggregate_id: aggregate.to_owned(),
        sequence_number,
        ..GetProofRequest::default()
    };
    let by_id = GetProofRequest { event_id: event("room-1").event_id, ..GetProofRequest::default() };
    for request in [by_sequence("room-1", 3), by_sequence("nowhere", 1), by_id] {
        let status = service.client().get_proof(request).await.unwrap_err();
        assert_eq!((status.code(), &*reason(&status)), (Code::NotFound, "NO_EVENT"), "{status:?}");
    }
}
