//! ImmuDB answers late: the fallback begins once, lasts as long as the answers are late, and ends
//! by itself.

use std::time::Duration;

use aethyr_event_store::grpc::wire::{State, StoredIn};
use tempfile::tempdir;

use crate::{
    outage::assert_in_immudb,
    support::{
        events::{append, append_to, event, whole_order},
        immudb::ImmuDb,
        load::{Load, assert_all_there},
        proxy::{Mode, Proxy},
        service::{Service, Setup},
    },
};

async fn behind_proxy(fallback_after: &str) -> (tempfile::TempDir, ImmuDb, Proxy, Service) {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let proxy = Proxy::start(immudb.port()).await;
    let setup = Setup::with_immudb(proxy.port()).set("immudb", &format!("fallback_after: {fallback_after}"));
    let service = Service::start(setup).await;
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_until_forwarded().await;
    service.wait_for("the end of a fallback", |stats| stats.state() == State::Connected).await;
    (dir, immudb, proxy, service)
}

#[tokio::test(flavor = "multi_thread")]
async fn late_answers_begin_one_fallback_that_lasts_until_they_come_in_time() {
    let (_dir, immudb, proxy, service) = behind_proxy("4.0").await;
    // A busy machine may have been that slow by itself.
    let before = service.stats().await.fallbacks;
    proxy.set(Mode::LateAnswers(Duration::from_millis(2800)));
    let calls = Load::start(&service.client(), 4, 1);
    let fallen = service.wait_for("the fallback", |stats| stats.fallbacks > before).await;
    // However many of the commits come through, each of them is late.
    let last_tx = |stats: &aethyr_event_store::grpc::wire::StatsResponse| {
        stats.immudb.as_ref().map_or(0, |immudb| immudb.last_tx)
    };
    let first = last_tx(&fallen);
    let mut seen = first;
    while seen < first + 4 {
        let stats = service.wait_for("the next commit", |stats| last_tx(stats) > seen).await;
        assert!(matches!(stats.state(), State::Fallback | State::Migrating), "{stats:?}");
        seen = last_tx(&stats);
    }
    let said = service.stats().await.immudb.unwrap().last_error;
    assert!(said.contains("a commit took"), "{said}");
    proxy.set(Mode::Pass);
    let calls = calls.end().await;
    let stats = service.wait_until_forwarded().await;
    assert_eq!(stats.fallbacks, before + 1, "{}", service.log());
    for caller in 0..4 {
        let own = |event: &str| event == format!("caller-{caller}");
        let of_caller = calls.iter().filter(|call| own(&call.events[0].aggregate_id));
        let in_immudb = |call: &&_| {
            let call: &crate::support::load::Call = call;
            call.answer.as_ref().unwrap().stored_in() == StoredIn::Immudb
        };
        let waited = of_caller.filter(in_immudb).count();
        assert!(waited <= 3, "{waited} callers waited for a late commit");
    }
    let order = whole_order(&mut service.client()).await;
    assert_all_there(&calls, &order);
    assert_in_immudb(&immudb, &order);
    assert!(!service.log().contains("another client writes to the database"), "{}", service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_late_and_not_slow_are_waited_for() {
    let (_dir, immudb, proxy, service) = behind_proxy("60.0").await;
    proxy.set(Mode::LateAnswers(Duration::from_millis(300)));
    let answers = append_to(&mut service.client(), "room-1", 5).await;
    assert!(answers.iter().all(|answer| answer.stored_in() == StoredIn::Immudb));
    let stats = service.stats().await;
    assert_eq!((stats.state(), stats.fallbacks), (State::Connected, 0));
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_service_comes_back_after_an_outage_by_writing_the_head_alone() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_until_forwarded().await;
    immudb.kill();
    assert_eq!(append(&mut service.client(), vec![event("room-1")]).await.stored_in(), StoredIn::LocalLog);
    immudb.restart().await;
    service.wait_until_forwarded().await;
    let order = whole_order(&mut service.client()).await;
    assert_in_immudb(&immudb, &order);
    let entries = immudb.reader(&["--database", "aethyr", "txscan"]);
    let last_event = entries.iter().filter(|entry| entry["key"] == "event:room-1:00000000000000000002");
    let taken = last_event.map(|entry| entry["tx"].as_u64().unwrap()).next().unwrap();
    let heads: Vec<u64> = entries
        .iter()
        .filter(|entry| entry["key"] == "log:head")
        .map(|entry| entry["tx"].as_u64().unwrap())
        .filter(|tx| *tx > taken)
        .collect();
    assert!(heads.len() >= 2, "three commits in a row end the fallback, not {heads:?} after {taken}");
}
