//! ImmuDB, or a proxy in front of it, accepts only messages smaller than `batch_bytes_max`.
//!
//! The service adapts, and names an append that fits into no message.

use aethyr_event_store::grpc::wire::{NewEvent, State, StoredIn, new_event::Data};
use tempfile::tempdir;

use crate::{
    outage::assert_in_immudb,
    support::{
        events::{append, append_to, event, whole_order},
        immudb::ImmuDb,
        proxy::{Mode, Proxy},
        service::{Client, Service, Setup},
    },
};

fn of_size(bytes: usize) -> NewEvent {
    NewEvent { data: Some(Data::Binary(vec![7; bytes].into())), ..event("large") }
}

async fn append_each(client: &mut Client, count: usize, bytes: usize) {
    for _ in 0..count {
        append(client, vec![of_size(bytes)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_goes_over_in_messages_that_immudb_takes() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start_with(dir.path(), &["--max-recv-msg-size=100000"]).await;
    let service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 1).await;
    immudb.kill();
    append_each(&mut service.client(), 100, 20_000).await;
    immudb.restart().await;
    let stats = service.wait_until_forwarded().await;
    assert_eq!((stats.event_count, stats.fallbacks), (101, 1), "{}", service.log());
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
    // 2 MB is rejected and halved five times at most; the result is remembered for the rest.
    service.wait_for_log("smaller transactions").await;
    let smaller = service.log().matches("smaller transactions").count();
    assert!((1..=6).contains(&smaller), "{smaller}");
    assert!(!service.log().contains("ERROR"), "{}", service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_fits_no_message_is_named_and_goes_over_when_immudb_takes_it() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start_with(dir.path(), &["--max-recv-msg-size=100000"]).await;
    // A client that waits for ImmuDB is answered once ImmuDB has rejected the append, however long
    // that takes.
    let setup = Setup::with_immudb(immudb.port()).set("immudb", "fallback_after: 60.0");
    let service = Service::start(setup).await;
    append_each(&mut service.client(), 3, 20_000).await;
    let answer = append(&mut service.client(), (0..10).map(|_| of_size(20_000)).collect()).await;
    assert_eq!(answer.stored_in(), StoredIn::LocalLog);
    append_each(&mut service.client(), 3, 20_000).await;
    let stats = service.wait_for_state(State::Fallback).await;
    let said = stats.immudb.unwrap().last_error;
    assert!(said.contains("the append at positions 4 to 13") && said.contains("larger than max"), "{said}");
    assert_eq!((stats.forwarded_position, stats.event_count), (3, 16));
    service.wait_for_log("does not accept messages of this size").await;
    let errors = service.log().matches("does not accept messages of this size").count();
    assert_eq!(errors, 1, "{}", service.log());
    immudb.restart_with(&["--max-recv-msg-size=1000000"]).await;
    service.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_breaks_large_messages_off_without_a_word_gets_smaller_ones() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let proxy = Proxy::start(immudb.port()).await;
    let setup = Setup::with_immudb(proxy.port())
        .set("immudb", "retry_delay: 0.05")
        .set("immudb", "retry_delay_max: 0.1");
    let service = Service::start(setup).await;
    append_to(&mut service.client(), "room-1", 1).await;
    proxy.set(Mode::KeepRequestsAndRefuse);
    append_each(&mut service.client(), 100, 20_000).await;
    proxy.cut();
    proxy.set(Mode::CutAbove(150_000));
    service.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
    assert!(service.log().contains("smaller transactions"), "{}", service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_a_proxy_breaks_off_each_time_is_named_and_goes_over_when_it_lets_it_pass() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let proxy = Proxy::start(immudb.port()).await;
    let setup = Setup::with_immudb(proxy.port())
        .set("immudb", "retry_delay: 0.05")
        .set("immudb", "retry_delay_max: 0.1");
    let service = Service::start(setup).await;
    append_each(&mut service.client(), 3, 20_000).await;
    service.wait_until_forwarded().await;
    proxy.set(Mode::CutAbove(100_000));
    append(&mut service.client(), (0..10).map(|_| of_size(20_000)).collect()).await;
    append_each(&mut service.client(), 3, 20_000).await;
    let named = |said: &str| {
        said.contains("the append at positions 4 to 13 (")
            && said.contains("bytes) may exceed the message size")
    };
    let stats = service
        .wait_for("the append is named", |stats| named(&stats.immudb.as_ref().unwrap().last_error))
        .await;
    assert_eq!((stats.state(), stats.forwarded_position), (State::Fallback, 3));
    // Further attempts do not change that, and the log says so once.
    service.wait_for("more attempts", |later| later.retries > stats.retries + 5).await;
    let stats = service.stats().await;
    assert!(named(&stats.immudb.unwrap().last_error), "{}", service.log());
    service.wait_for_log("replication to ImmuDB is blocked").await;
    let log = service.log();
    let warned: Vec<_> =
        log.lines().filter(|line| line.contains("replication to ImmuDB is blocked")).collect();
    assert!(matches!(warned[..], [line] if line.contains("WARN") && named(line)), "{warned:?}\n{log}");
    proxy.set(Mode::Pass);
    service.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
}
