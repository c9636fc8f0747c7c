//! Proofs do not need ImmuDB. What ImmuDB gets after an outage is bound to the tree.

use aethyr_event_store::{
    grpc::wire::{State, StoredIn},
    proof::root,
};
use serde_json::Value;
use tempfile::tempdir;

use super::{
    leaves, proof_of,
    signed_states::{assert_in_immudb, certified_proof_of},
    verifier::Verifier,
    verifier_key, with_checkpoints,
};
use crate::support::{
    events::{append_to, whole_order},
    immudb::{ImmuDb, other_client::OtherClient},
    service::{Service, Setup},
};

const DATABASE: &str = "aethyr";

/// Asserts that the head of the log in ImmuDB names the tree over all events.
async fn assert_head_has_the_tree(service: &Service, immudb: &ImmuDb) {
    service.wait_until_forwarded().await;
    let order = whole_order(&mut service.client()).await;
    let head = OtherClient::log_in(immudb, DATABASE).await.value("log:head").await;
    let head: Value = serde_json::from_slice(&head).unwrap();
    assert_eq!(head["position"].as_u64(), Some(order.len() as u64), "{head}");
    assert_eq!(head["tree_size"].as_u64(), Some(order.len() as u64), "{head}");
    assert_eq!(head["tree_root"].as_str(), Some(&*hex::encode(root(&leaves(&order)))), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_costs_immudbs_part_of_a_proof_and_nothing_else() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let setup = with_checkpoints(Setup::with_immudb(immudb.port())).set("immudb", "keep_alive: 90.0");
    let service = Service::start(setup).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 10).await;
    service.wait_until_forwarded().await;
    let (key, before) = (verifier_key(&service), whole_order(&mut client).await);
    let verifier = Verifier::of(&key);
    let (early, _) = certified_proof_of(&service, &before[0]).await;

    immudb.kill();
    let answers = append_to(&mut client, "room-1", 30).await;
    assert!(answers.iter().all(|answer| answer.stored_in() == StoredIn::LocalLog));
    let order = whole_order(&mut client).await;
    for event in order.iter().rev() {
        let proof = proof_of(&mut client, event).await;
        proof.assert_proves(event, &key);
        assert_eq!(proof.extra.immudb, None, "ImmuDB does not have the checkpoint");
    }
    let last = proof_of(&mut client, order.last().unwrap()).await;
    verifier.assert_accepts(last.text.as_bytes(), &[]);
    verifier.assert_accepts(early.text.as_bytes(), &[]);
    assert_eq!(service.stats().await.state(), State::Fallback);

    immudb.restart().await;
    assert_head_has_the_tree(&service, &immudb).await;
    let (proof, certificate) = certified_proof_of(&service, order.last().unwrap()).await;
    proof.assert_proves(order.last().unwrap(), &key);
    assert_in_immudb(&immudb, &key, &proof, &certificate).await;
    append_to(&mut client, "room-2", 3).await;
    assert_head_has_the_tree(&service, &immudb).await;
}
