//! The service is killed at arbitrary moments.
//!
//! After every restart, all acknowledged events are still in the log and reach ImmuDB.

use aethyr_event_store::grpc::wire::State;
use tempfile::tempdir;

use crate::{
    outage::assert_in_immudb,
    support::{
        events::{append_to, whole_order},
        immudb::ImmuDb,
        load::{Load, assert_all_there},
        service::{Service, Setup},
    },
};

/// Returns event counts from a fixed seed: the moments differ, and are the same in every run.
fn moments() -> impl Iterator<Item = u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::from_fn(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some(1 + state % 150)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_events_survive_kill() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    // Small segments, so that some of the kills hit the creation of a new one.
    let setup = Setup::with_immudb(immudb.port()).set("event_sourcing", "segment_bytes_max: 1048576");
    let mut service = Service::start(setup).await;
    let (mut calls, mut stored) = (Vec::new(), 0);
    for moment in moments().take(20) {
        let load = Load::start(&service.client(), 16, 2);
        service.wait_for("some appends", |stats| stats.event_count >= stored + moment).await;
        service.kill();
        calls.extend(load.end().await);
        service.restart().await;
        let order = whole_order(&mut service.client()).await;
        assert_all_there(&calls, &order);
        stored = order.len() as u64;
    }
    service.wait_until_forwarded().await;
    let order = whole_order(&mut service.client()).await;
    assert_in_immudb(&immudb, &order);
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_both_in_an_outage_loses_nothing() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    let load = Load::start(&service.client(), 16, 1);
    service.wait_for("a good start", |stats| stats.event_count > 200).await;
    immudb.kill();
    let gone = service.wait_for_state(State::Fallback).await;
    service.wait_for("going on", |stats| stats.event_count > gone.event_count + 200).await;
    service.kill();
    let calls = load.end().await;
    service.restart().await;
    let order = whole_order(&mut service.client()).await;
    assert_all_there(&calls, &order);
    append_to(&mut service.client(), "after", 3).await;
    immudb.restart().await;
    service.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
}
