//! ImmuDB received a request, and its answer never arrived.
//!
//! The service settles the outcome by reading ImmuDB.

use std::time::Duration;

use aethyr_event_store::{
    grpc::wire::{State, StoredIn},
    immudb::{KeyValue, Session},
};
use tempfile::tempdir;

use crate::{
    outage::assert_in_immudb,
    support::{
        events::{append, append_to, event, request, whole_order},
        immudb::ImmuDb,
        load::{Load, acknowledged, assert_all_there},
        proxy::{Mode, Proxy},
        service::{PATIENCE, Service, Setup},
        stored::assert_written_once,
    },
};

/// Starts a service behind a proxy. Its clients wait for ImmuDB as long as the test needs.
async fn behind_proxy(immudb: &ImmuDb) -> (Proxy, Service) {
    let proxy = Proxy::start(immudb.port()).await;
    let setup = Setup::with_immudb(proxy.port())
        .set("immudb", "retry_count: 1000")
        .set("immudb", "retry_delay: 0.05")
        .set("immudb", "retry_delay_max: 0.1");
    let service = Service::start(setup).await;
    append_to(&mut service.client(), "room-1", 2).await;
    (proxy, service)
}

pub async fn until(what: &str, mut come_true: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !come_true() {
        assert!(std::time::Instant::now() < end, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn events_in(immudb: &ImmuDb) -> usize {
    immudb.reader(&["--database", "aethyr", "scan", "event:"]).len()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_cut_off_is_found_in_immudb() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let (proxy, service) = behind_proxy(&immudb).await;
    proxy.set(Mode::DropAnswers);
    let mut client = service.client();
    let appending = tokio::spawn(async move { append(&mut client, vec![event("room-1")]).await });
    until("ImmuDB has the event", || events_in(&immudb) == 3).await;
    assert!(!appending.is_finished());
    proxy.set(Mode::Pass);
    proxy.cut();
    let answer = appending.await.unwrap();
    assert_eq!((answer.stored_in(), answer.first_position), (StoredIn::Immudb, 3));
    let stats = service.wait_until_forwarded().await;
    assert!(stats.retries > 0 && stats.fallbacks == 0, "{stats:?}");
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
    assert!(!service.log().contains("another client writes to the database"), "{}", service.log());
    // One transaction wrote the event, whatever was attempted.
    let entries = immudb.reader(&["--database", "aethyr", "txscan"]);
    let key = "event:room-1:00000000000000000003";
    assert_eq!(entries.iter().filter(|entry| entry["key"] == key).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_writes_before_an_attempt_without_an_answer_is_found() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let (proxy, service) = behind_proxy(&immudb).await;
    service.wait_until_forwarded().await;
    proxy.set(Mode::KeepRequests);
    let mut client = service.client();
    let appending = tokio::spawn(async move { append(&mut client, vec![event("room-1")]).await });
    until("the request is kept", || proxy.kept() > 0).await;
    let foreign = Session::open(&immudb.settings("aethyr")).await.unwrap();
    for value in ["1", "2"] {
        let entry = KeyValue { key: "foreign".into(), value: value.into() };
        foreign.set(vec![entry], Vec::new()).await.unwrap();
    }
    proxy.set(Mode::DropAnswers);
    until("ImmuDB has the event", || events_in(&immudb) == 3).await;
    proxy.set(Mode::Pass);
    proxy.cut();
    assert_eq!(appending.await.unwrap().stored_in(), StoredIn::Immudb);
    service.wait_for_log("another client writes to the database").await;
    assert!(service.log().contains("transactions=2"), "{}", service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_commits_late_and_before_the_next_one_is_found() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let (proxy, service) = behind_proxy(&immudb).await;
    proxy.set(Mode::KeepRequestsAndRefuse);
    let mut client = service.client();
    let appending = tokio::spawn(async move { append(&mut client, vec![event("room-1")]).await });
    until("the request is kept", || proxy.kept() > 0).await;
    proxy.cut();
    service.wait_for("a second attempt", |stats| stats.retries > 2).await;
    assert_eq!(events_in(&immudb), 2);
    proxy.set(Mode::PassAndRefuse);
    until("ImmuDB has the event", || events_in(&immudb) == 3).await;
    proxy.set(Mode::Pass);
    assert_eq!(appending.await.unwrap().stored_in(), StoredIn::Immudb);
    append_to(&mut service.client(), "room-1", 2).await;
    service.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
    let entries = immudb.reader(&["--database", "aethyr", "txscan"]);
    assert_eq!(
        entries.iter().filter(|entry| entry["key"].as_str().unwrap().starts_with("event:")).count(),
        5
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_comes_after_the_next_one_writes_nothing() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let (proxy, service) = behind_proxy(&immudb).await;
    proxy.set(Mode::KeepRequests);
    let mut client = service.client();
    let appending = tokio::spawn(async move { append(&mut client, vec![event("room-1")]).await });
    until("the request is kept", || proxy.kept() > 0).await;
    let late = proxy.cut_and_keep();
    assert_eq!(appending.await.unwrap().stored_in(), StoredIn::Immudb);
    let before = immudb.reader(&["--database", "aethyr", "txscan"]).len();
    late.deliver();
    append_to(&mut service.client(), "room-1", 2).await;
    until("the late request is through", || late.is_through()).await;
    let stats = service.wait_until_forwarded().await;
    assert_eq!((stats.event_count, stats.state()), (5, State::Connected));
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
    let entries = immudb.reader(&["--database", "aethyr", "txscan"]);
    // Nor does it take a transaction number, which would look like another writer.
    assert!(!service.log().contains("another client writes to the database"), "{}", service.log());
    // Two appends of one event, each of which writes its record, its aggregate's number and the
    // head.
    assert_eq!(entries.len(), before + 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_under_load_cost_no_call() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let proxy = Proxy::start(immudb.port()).await;
    let service = Service::start(Setup::with_immudb(proxy.port())).await;
    let load = Load::start(&service.client(), 32, 1);
    for round in 0..15 {
        let now = service.stats().await.event_count;
        service.wait_for("some appends", |stats| stats.event_count > now + 100).await;
        if round % 3 == 0 {
            proxy.set(Mode::DropAnswers);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        proxy.cut();
        proxy.set(Mode::Pass);
    }
    let calls = load.end().await;
    assert!(calls.iter().all(|call| call.answer.is_ok()));
    service.wait_until_forwarded().await;
    let order = whole_order(&mut service.client()).await;
    assert_all_there(&calls, &order);
    assert_eq!(order.len(), acknowledged(&calls));
    assert_in_immudb(&immudb, &order);
    assert_written_once(&immudb, &order);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_is_given_up() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let proxy = Proxy::start(immudb.port()).await;
    let setup = Setup::with_immudb(proxy.port())
        .set("immudb", "fallback_after: 1.0")
        .set("immudb", "request_timeout: 2.0");
    let service = Service::start(setup).await;
    append_to(&mut service.client(), "room-1", 2).await;
    service.wait_until_forwarded().await;
    proxy.set(Mode::KeepRequests);
    let answer = service.client().append_events(request(vec![event("room-1")])).await.unwrap().into_inner();
    assert_eq!(answer.stored_in(), StoredIn::LocalLog);
    append_to(&mut service.client(), "room-1", 10).await;
    service.wait_for_state(State::Fallback).await;
    proxy.set(Mode::Pass);
    service.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
}
