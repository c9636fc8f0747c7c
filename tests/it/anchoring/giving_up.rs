//! `resolve --give-up-pending` exchanges the end of the history for that of another writer, and a
//! generation begins.

use aethyr_event_store::grpc::wire::State;
use tempfile::tempdir;

use super::{Before, file_anchor, wait_for_size, with_anchors};
use crate::{
    outage::assert_in_immudb,
    proving::with_checkpoints,
    support::{
        events::{append, event, whole_order},
        immudb::ImmuDb,
        service::{Client, Service, Setup},
    },
};

const COMMON: usize = 3;

/// Appends events at once, so that a checkpoint has all of them or none.
async fn append_some(client: &mut Client, count: usize) {
    append(client, (0..count).map(|_| event("room-1")).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_up_end_begins_a_generation_and_keeps_what_was_proven() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let anchor = dir.path().join("anchor");
    let setup = Setup::with_immudb(immudb.port());
    let anchored = with_anchors(with_checkpoints(setup.clone()), &[file_anchor(&anchor)]);
    let mut deposed = Service::start(anchored).await;
    append_some(&mut deposed.client(), COMMON).await;
    deposed.wait_until_forwarded().await;
    wait_for_size(&deposed, &anchor, COMMON as u64).await;
    immudb.kill();
    append_some(&mut deposed.client(), 2).await;
    let before = Before::of(&deposed, &anchor, COMMON).await;
    deposed.kill();

    // The other writer signs nothing: its key is another one.
    immudb.restart().await;
    let other = setup.set("proof", "checkpoint_every: 0.0").arguments(&["serve", "--take-over"]);
    let mut other = Service::start(other).await;
    append_some(&mut other.client(), 4).await;
    other.wait_until_forwarded().await;
    deposed.launch();
    deposed.wait_for_state(State::Fenced).await;
    deposed.stop();
    let (done, said) = deposed.run(&["resolve", "--give-up-pending", "--export", "rescued"]);
    assert!(done && said.contains("common=3 given_up=2"), "{said}");

    let order = whole_order(&mut other.client()).await;
    assert!(other.stop().success());
    deposed.restart().await;
    deposed.wait_until_forwarded().await;
    assert_eq!(whole_order(&mut deposed.client()).await, order);
    before.assert_next_generation(&mut deposed, &anchor).await;
    deposed.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &whole_order(&mut deposed.client()).await);
}
