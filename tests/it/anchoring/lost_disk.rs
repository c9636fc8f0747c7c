//! The disk of the service is lost, and its log is copied back from ImmuDB with the key that signed
//! before.

use std::fs;

use aethyr_event_store::grpc::wire::State;
use tempfile::tempdir;

use super::{assert_continues_anchor, file_anchor, findings, notes, unverified, wait_for_size, with_anchors};
use crate::{
    proving::{verifier_key, with_checkpoints},
    support::{
        events::{append_to, whole_order},
        immudb::ImmuDb,
        service::{Service, Setup},
    },
};

const EVENTS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_copy_with_the_same_key_continues_the_generation() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(&dir.path().join("immudb")).await;
    let anchor = dir.path().join("anchor");
    let setup = with_checkpoints(Setup::with_immudb(immudb.port()));
    let setup = with_anchors(setup, &[file_anchor(&anchor)]);
    let mut service = Service::start(setup.clone()).await;
    append_to(&mut service.client(), "room-1", EVENTS).await;
    service.wait_until_forwarded().await;
    wait_for_size(&service, &anchor, EVENTS as u64).await;
    let key = verifier_key(&service);

    // It did not release the database, so the next process is fenced before it has any event.
    service.kill();
    let kept = dir.path().join("keys");
    fs::rename(service.storage().join("keys"), &kept).unwrap();
    fs::remove_dir_all(service.storage()).unwrap();
    fs::create_dir(service.storage()).unwrap();
    fs::rename(&kept, service.storage().join("keys")).unwrap();
    service.launch();
    service.wait_for_state(State::Fenced).await;
    assert!(service.stop().success());

    service.reconfigure(setup.arguments(&["serve", "--take-over"]));
    service.restart().await;
    append_to(&mut service.client(), "room-1", EVENTS).await;
    wait_for_size(&service, &anchor, 2 * EVENTS as u64).await;
    let order = whole_order(&mut service.client()).await;
    assert_eq!(order.len(), 2 * EVENTS);
    assert_eq!(verifier_key(&service), key, "no generation has begun");
    assert!(notes(&anchor).iter().all(|note| unverified(note).origin() == key.name()));
    assert_continues_anchor(&service, &anchor, &order).await;
    assert_eq!(findings(&service).len(), 0);
}
