//! The local disk is lost, and the history is restored from ImmuDB.
//!
//! Nothing is served before the restore is complete.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use aethyr_event_store::{
    event::record,
    grpc::wire::{
        AppendEventsRequest, LoadSnapshotRequest, NewEvent, SaveSnapshotRequest, State, StatsResponse,
        StoredIn, save_snapshot_request,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use tempfile::tempdir;
use tonic::Code;

use crate::{
    outage::assert_in_immudb,
    support::{
        events::{append, append_to, event, expecting, request, whole_order},
        immudb::ImmuDb,
        proxy::{Mode, Proxy},
        service::{Client, PATIENCE, Service, Setup},
    },
};

/// Writes a little of everything. Returns an append for a retry.
async fn history(client: &mut Client) -> AppendEventsRequest {
    append_to(client, "room-1", 5).await;
    let sent = expecting(vec![event("room-1"), event("room-2"), event("room-1")], &[("room-2", 0)]);
    client.append_events(sent.clone()).await.unwrap();
    let player = NewEvent { aggregate_type: "Hero".into(), event_type: "PlayerMoved".into(), ..event("p") };
    append(client, vec![player]).await;
    // The last one replaces a snapshot of the same event.
    for (sequence_number, version) in [(3, 1), (6, 1), (6, 2)] {
        let snapshot = SaveSnapshotRequest {
            aggregate_id: "room-1".into(),
            sequence_number,
            data: Some(save_snapshot_request::Data::Json(format!("{{\"version\":{version}}}"))),
            schema_version: 4,
            ..Default::default()
        };
        client.save_snapshot(snapshot).await.unwrap();
    }
    append_to(client, "room-1", 2).await;
    sent
}

/// Returns only the counters of what is stored.
fn totals(stats: StatsResponse) -> StatsResponse {
    StatsResponse {
        event_count: stats.event_count,
        aggregate_count: stats.aggregate_count,
        snapshot_count: stats.snapshot_count,
        event_types: stats.event_types,
        aggregate_types: stats.aggregate_types,
        last_position: stats.last_position,
        forwarded_position: stats.forwarded_position,
        ..StatsResponse::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_disk_comes_back_whole() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    let sent = history(&mut service.client()).await;
    let order = whole_order(&mut service.client()).await;
    let first = service.client().append_events(sent.clone()).await.unwrap().into_inner();
    let before = totals(service.wait_until_forwarded().await);
    let ask = LoadSnapshotRequest { aggregate_id: "room-1".into() };
    let snapshot = service.client().load_snapshot(ask.clone()).await.unwrap().into_inner();
    // After a clean stop, no other writer has the database.
    assert!(service.stop().success());
    fs::remove_dir_all(service.storage()).unwrap();
    service.restart().await;
    let mut client = service.client();
    assert_eq!(whole_order(&mut client).await, order);
    assert_eq!(client.load_snapshot(ask).await.unwrap().into_inner(), snapshot);
    assert_eq!(totals(service.stats().await), before);
    assert_eq!(client.append_events(sent).await.unwrap().into_inner(), first);
    append_to(&mut client, "room-1", 3).await;
    service.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &whole_order(&mut client).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_that_lost_the_disk_the_operator_says_that_the_writer_is_gone() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port());
    let mut service = Service::start(setup.clone()).await;
    history(&mut service.client()).await;
    service.wait_until_forwarded().await;
    let order = whole_order(&mut service.client()).await;
    service.kill();
    fs::remove_dir_all(service.storage()).unwrap();
    service.launch();
    service.wait_for_state(State::Fenced).await;
    assert!(service.stats().await.immudb.unwrap().last_error.contains("another writer"));
    service.wait_for_log("another writer").await;
    service.kill();
    service.reconfigure(setup.arguments(&["serve", "--take-over"]));
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order);
    assert_eq!(append(&mut service.client(), vec![event("room-1")]).await.stored_in(), StoredIn::Immudb);
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_killed_again_and_again_ends_whole() {
    const EVENTS: usize = 60_000;
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port());
    let mut service = Service::start(setup.clone()).await;
    for first in (0..EVENTS).step_by(500) {
        let events = (first..first + 500).map(|number| event(&format!("room-{}", number % 100)));
        append(&mut service.client(), events.collect()).await;
    }
    service.wait_until_forwarded().await;
    let order = whole_order(&mut service.client()).await;
    assert!(service.stop().success());
    fs::remove_dir_all(service.storage()).unwrap();
    // Some of the kills have to hit the restore; where they hit it is left to chance.
    for met in 0..5 {
        kill_in_the_copy(&mut service, &setup, Duration::from_millis(10 * met)).await;
    }
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order);
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
}

/// Starts the service until a kill interrupts the restore, on a new disk if the kill came too late.
async fn kill_in_the_copy(service: &mut Service, setup: &Setup, after: Duration) {
    let until = Instant::now() + PATIENCE;
    loop {
        service.launch();
        service.wait_for_log("restoring the history from ImmuDB").await;
        tokio::time::sleep(after).await;
        service.kill();
        if service.storage().join("log/copying").exists() {
            break;
        }
        assert!(Instant::now() < until, "no kill met the copy");
        fs::remove_dir_all(service.storage()).unwrap();
        // The head names the writer that was just killed.
        service.reconfigure(setup.clone().arguments(&["serve", "--take-over"]));
    }
    service.reconfigure(setup.clone());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_before_the_copy_is_whole() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port());
    let mut service = Service::start(setup.clone()).await;
    for _ in 0..60 {
        append(&mut service.client(), (0..500).map(|_| event("room-1")).collect()).await;
    }
    service.wait_until_forwarded().await;
    let order = whole_order(&mut service.client()).await;
    assert!(service.stop().success());
    // A restore that has begun and cannot continue.
    fs::remove_dir_all(service.storage()).unwrap();
    kill_in_the_copy(&mut service, &setup, Duration::ZERO).await;
    immudb.kill();
    service.launch();
    service.wait_for_state(State::Copying).await;
    assert_eq!(service.health("").await, Some(false));
    let mut client = service.client();
    let refused = client.append_events(request(vec![event("room-1")])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let refused =
        client.load_snapshot(LoadSnapshotRequest { aggregate_id: "room-1".into() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    immudb.restart().await;
    service.wait_for_health("", true).await;
    assert_eq!(whole_order(&mut service.client()).await, order);
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_of_others_are_skipped_and_reported() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 3).await;
    immudb.reader(&["--database", "aethyr", "set", "note", "by somebody else"]);
    append_to(&mut service.client(), "room-1", 3).await;
    let order = whole_order(&mut service.client()).await;
    service.wait_until_forwarded().await;
    assert!(service.stop().success());
    fs::remove_dir_all(service.storage()).unwrap();
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order);
    service.wait_for_log("skipped transactions of other clients").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_storage_folder_can_be_moved_to_another_server() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port());
    let mut service = Service::start(setup.clone()).await;
    history(&mut service.client()).await;
    immudb.kill();
    append_to(&mut service.client(), "room-1", 3).await;
    let order = whole_order(&mut service.client()).await;
    service.stop();
    let mut other = Service::new(setup);
    copy_folder(&service.storage(), other.dir());
    immudb.restart().await;
    other.restart().await;
    other.wait_until_forwarded().await;
    assert_eq!(whole_order(&mut other.client()).await, order);
    assert_in_immudb(&immudb, &order);
}

pub fn copy_folder(from: &Path, into: &Path) {
    assert!(Command::new("cp").arg("-r").arg(from).arg(into).status().unwrap().success());
}

fn snapshot(aggregate: &str, sequence_number: u64) -> SaveSnapshotRequest {
    SaveSnapshotRequest { aggregate_id: aggregate.to_owned(), sequence_number, ..Default::default() }
}

/// Returns the sequence numbers of the snapshots that the service has, and that ImmuDB has.
async fn snapshots_of(service: &Service, immudb: &ImmuDb, aggregates: &[&str]) -> Vec<(u64, u64)> {
    let mut numbers = Vec::new();
    for aggregate in aggregates {
        let ask = LoadSnapshotRequest { aggregate_id: (*aggregate).to_owned() };
        let ours = service.client().load_snapshot(ask).await.unwrap().into_inner().snapshot.unwrap();
        let entry = &immudb.reader(&["--database", "aethyr", "get", &format!("snapshot:{aggregate}")])[0];
        let value = STANDARD.decode(entry["value_base64"].as_str().unwrap()).unwrap();
        let theirs = record::decode_snapshot(value.into()).unwrap();
        numbers.push((ours.sequence_number, theirs.sequence.0));
    }
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_behind_the_last_event_come_back_too() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    let mut client = service.client();
    for aggregate in ["room-1", "room-2"] {
        append_to(&mut client, aggregate, 100).await;
    }
    // More transactions than fit into a page, and no event among them.
    for sequence in 1..=100 {
        client.save_snapshot(snapshot("room-1", sequence)).await.unwrap();
    }
    client.save_snapshot(snapshot("room-2", 7)).await.unwrap();
    service.wait_until_forwarded().await;
    assert!(service.stop().success());
    fs::remove_dir_all(service.storage()).unwrap();
    service.restart().await;
    service.wait_until_forwarded().await;
    let found = snapshots_of(&service, &immudb, &["room-1", "room-2"]).await;
    assert_eq!(found, [(100, 100), (7, 7)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_lacked_nothing_but_its_last_snapshots_is_ended() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port());
    let mut service = Service::start(setup.clone()).await;
    append_to(&mut service.client(), "room-1", 10).await;
    service.wait_until_forwarded().await;
    assert!(service.stop().success());
    // A crash after the last event leaves this file.
    let note = service.storage().join("log/copying");
    fs::write(&note, "").unwrap();
    service.reconfigure(Setup::local());
    let (served, said) = service.run(&["serve"]);
    assert!(!served && said.contains("incomplete copy from ImmuDB"), "{said}");
    service.reconfigure(setup);
    service.restart().await;
    service.wait_until_forwarded().await;
    assert!(!note.exists());
    service.kill();
    immudb.kill();
    service.restart().await;
    assert_eq!(append(&mut service.client(), vec![event("room-1")]).await.first_position, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_restore_accepts_no_writes_although_immudb_was_emptied() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 10).await;
    service.wait_until_forwarded().await;
    service.kill();
    fs::write(service.storage().join("log/copying"), "").unwrap();
    immudb.kill();
    fs::remove_dir_all(dir.path().join("data")).unwrap();
    immudb.restart().await;
    service.launch();
    service
        .wait_for("the doubt", |stats| stats.immudb.as_ref().unwrap().last_error.contains("log:head"))
        .await;
    assert_eq!(service.stats().await.state(), State::Copying);
    let refused = service.client().append_events(request(vec![event("room-1")])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_over_waits_for_an_immudb_that_is_slow() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let proxy = Proxy::start(immudb.port()).await;
    let setup = Setup::with_immudb(proxy.port());
    let mut service = Service::start(setup.clone()).await;
    append_to(&mut service.client(), "room-1", 10).await;
    service.wait_until_forwarded().await;
    service.kill();
    fs::remove_dir_all(service.storage()).unwrap();
    proxy.set(Mode::KeepRequests);
    let impatient = setup
        .set("immudb", "fallback_after: 0.2")
        .set("immudb", "request_timeout: 2.0")
        .set("immudb", "retry_count: 1");
    service.reconfigure(impatient.arguments(&["serve", "--take-over"]));
    service.launch();
    // Each failure would begin the fallback of a service that does not take over.
    service.wait_for("attempts that failed", |stats| stats.retries >= 2).await;
    let refused = service.client().append_events(request(vec![event("room-1")])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    proxy.set(Mode::Pass);
    service.wait_for_health("", true).await;
    assert_eq!(append(&mut service.client(), vec![event("room-1")]).await.first_position, 11);
    service.wait_for("everything is in ImmuDB", |stats| stats.pending_events == 0).await;
}
