//! ImmuDB goes away and comes back, in every way that it can: killed, hanging, restarted, with
//! another password, or with a full disk.
//!
//! No call fails, no acknowledged event is lost, and the fallback ends by itself.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use aethyr_event_store::grpc::wire::{NewEvent, State, StatsResponse, StoredIn, new_event::Data};
use rustix::process::Signal;
use tempfile::tempdir;
use tokio::time::timeout;

pub use crate::support::stored::assert_in_immudb;
use crate::support::stored::assert_written_once;
use crate::{
    copy::copy_folder,
    support::{
        events::{append, append_to, event, load, reason, request, whole_order},
        immudb::ImmuDb,
        load::{Load, acknowledged, assert_all_there},
        service::{PATIENCE, Service, Setup},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn killing_immudb_under_load_costs_no_call_and_no_event() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let service = Service::start(Setup::with_immudb(immudb.port())).await;
    let load = Load::start(&service.client(), 64, 1);
    service.wait_for("a good start", |stats| stats.event_count > 500).await;
    immudb.kill();
    let gone = service.wait_for_state(State::Fallback).await;
    service.wait_for("going on", |stats| stats.event_count > gone.event_count + 500).await;
    // No call waits for an ImmuDB that is gone, not even one from the first moment of the outage.
    let mut calls = timeout(PATIENCE, load.end()).await.expect("a call waits for the end of the outage");
    let load = Load::start(&service.client(), 64, 1);
    immudb.restart().await;
    let back = service.wait_for("coming back", |stats| stats.migrated_events > 0).await;
    service.wait_for("going on", |stats| stats.event_count > back.event_count + 500).await;
    calls.extend(load.end().await);
    service.wait_until_forwarded().await;

    let failed = calls.iter().find(|call| call.answer.is_err());
    assert!(failed.is_none(), "{failed:?}");
    let order = whole_order(&mut service.client()).await;
    assert_all_there(&calls, &order);
    assert_eq!(order.len(), acknowledged(&calls));
    assert_in_immudb(&immudb, &order);
}

/// The remedy for an ImmuDB with a damaged index. See `docs/operations/troubleshooting.md`.
#[tokio::test(flavor = "multi_thread")]
async fn an_immudb_whose_indexes_were_removed_rebuilds_them() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let service = Service::start(Setup::with_immudb(immudb.port())).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 30).await;
    service.wait_until_forwarded().await;
    immudb.kill();
    append_to(&mut client, "room-1", 3).await;
    immudb.restart_without_indexes().await;
    append_to(&mut client, "room-1", 3).await;
    service.wait_until_forwarded().await;
    let order = whole_order(&mut client).await;
    assert_eq!(order.len(), 36);
    assert_in_immudb(&immudb, &order);
    assert_written_once(&immudb, &order);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immudb_that_hangs_is_waited_for_once() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port()).set("immudb", "fallback_after: 1.0");
    let service = Service::start(setup).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 3).await;
    service.wait_until_forwarded().await;
    immudb.pause();
    let answer = append(&mut client, vec![event("room-1")]).await;
    assert_eq!(answer.stored_in(), StoredIn::LocalLog);
    assert_eq!(service.stats().await.state(), State::Fallback);
    let answers = append_to(&mut client, "room-1", 20).await;
    assert!(answers.iter().all(|answer| answer.stored_in() == StoredIn::LocalLog));
    assert_eq!(load(&mut client, "room-1").await.len(), 24);
    immudb.resume();
    service.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &whole_order(&mut client).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_events_migrate_in_order_while_appends_go_on() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    immudb.stop().await;
    let service = Service::start(Setup::with_immudb(immudb.port())).await;
    assert_eq!(service.stats().await.state(), State::Fallback);
    let outage = Load::start(&service.client(), 64, 50);
    service.wait_for("a large backlog", |stats| stats.pending_events >= 100_000).await;
    let mut calls = outage.end().await;
    let going_on = Load::start(&service.client(), 8, 1);
    immudb.restart().await;
    let stats = service.wait_for_state(State::Connected).await;
    assert!(stats.migrated_events >= 100_000, "{}", stats.migrated_events);
    calls.extend(going_on.end().await);
    service.wait_until_forwarded().await;
    assert!(calls.iter().all(|call| call.answer.is_ok()));
    let order = whole_order(&mut service.client()).await;
    assert_all_there(&calls[..1000], &order);
    assert_in_immudb(&immudb, &order);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_events_over_five_hundred_aggregates_migrate() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let service = Service::start(Setup::with_immudb(immudb.port())).await;
    let mut client = service.client();
    let many = || (0..500).map(|number| event(&format!("room-{number}"))).collect::<Vec<_>>();
    assert_eq!(append(&mut client, many()).await.stored_in(), StoredIn::Immudb);
    immudb.kill();
    let answer = append(&mut client, many()).await;
    assert_eq!((answer.stored_in(), answer.aggregates.len()), (StoredIn::LocalLog, 500));
    immudb.restart().await;
    service.wait_until_forwarded().await;
    let order = whole_order(&mut client).await;
    assert_eq!(order.len(), 1000);
    assert_in_immudb(&immudb, &order);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_gone_or_expired_cost_nothing() {
    let dir = tempdir().unwrap();
    let flags = ["--session-timeout=1s", "--sessions-guard-check-interval=100ms"];
    let mut immudb = ImmuDb::start_with(dir.path(), &flags).await;
    // A slow machine must not trigger a fallback.
    let setup = Setup::with_immudb(immudb.port()).set("immudb", "fallback_after: 60.0");
    let service = Service::start(setup).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 2).await;
    // ImmuDB restarts without a call in between, so the service discovers the lost session when it
    // writes.
    immudb.stop().await;
    immudb.restart().await;
    append_to(&mut client, "room-1", 2).await;
    service.wait_until_forwarded().await;
    // Idle for longer than a session lives. Only the passing of time ends a session, hence the
    // sleep.
    tokio::time::sleep(Duration::from_secs(3)).await;
    append_to(&mut client, "room-1", 2).await;
    let stats = service.wait_until_forwarded().await;
    assert_eq!((stats.event_count, stats.store_failures, stats.fallbacks), (6, 0, 0));
    assert_in_immudb(&immudb, &whole_order(&mut client).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_shown_and_not_tried_hotly() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port()).set("immudb", "password: \"open sesame\"");
    let began = Instant::now();
    let service = Service::start(setup).await;
    let stats = service.wait_for_state(State::Fallback).await;
    let said = stats.immudb.unwrap().last_error;
    assert!(said.contains("invalid user name or password"), "{said}");
    let mut client = service.client();
    let answers = append_to(&mut client, "room-1", 200).await;
    assert!(answers.iter().all(|answer| answer.stored_in() == StoredIn::LocalLog));
    let retries = service.stats().await.retries;
    assert!(retries <= 1 + began.elapsed().as_secs() / 10, "{retries} in {:?}", began.elapsed());
    service.wait_for_log("operator action is required").await;
    assert!(!service.log().contains("open sesame"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_was_changed_and_is_changed_back_is_an_outage_that_ends_by_itself() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    immudb.change_password("Xyzzy-1-plugh");
    let setup = Setup::with_immudb(immudb.port()).set("immudb", "password: Xyzzy-1-plugh");
    let service = Service::start(setup).await;
    append_to(&mut service.client(), "room-1", 2).await;
    service.wait_until_forwarded().await;
    immudb.change_password("Plugh-2-xyzzy");
    // A restart ends the open sessions.
    immudb.restart().await;
    append_to(&mut service.client(), "room-1", 2).await;
    // The first attempts may have failed because of the restart.
    let refused = |stats: &StatsResponse| stats.immudb.as_ref().unwrap().last_error.contains("password");
    service
        .wait_for("the password is wrong", |stats| stats.state() == State::Fallback && refused(stats))
        .await;
    immudb.change_password("Xyzzy-1-plugh");
    assert_eq!(service.wait_until_forwarded().await.event_count, 4);
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_log_accepts_no_writes_before_immudb_was_reached_if_configured() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    immudb.stop().await;
    let setup = Setup::with_immudb(immudb.port()).set("immudb", "require_first_contact: true");
    let mut service = Service::new(setup);
    service.launch();
    service.wait_for_state(State::Fallback).await;
    let mut client = service.client();
    let refused = client.append_events(request(vec![event("room-1")])).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (tonic::Code::Unavailable, "FIRST_CONTACT"));
    assert_eq!(service.stats().await.event_count, 0);
    immudb.restart().await;
    service.wait_for_state(State::Connected).await;
    assert_eq!(service.health("").await, Some(true));
    assert_eq!(append(&mut client, vec![event("room-1")]).await.stored_in(), StoredIn::Immudb);
    // Once the log has events, the next outage is an ordinary one, even across a restart.
    immudb.kill();
    service.stop();
    service.restart().await;
    append_to(&mut service.client(), "room-1", 1).await;
}

/// A storage directory that is restored while ImmuDB is away would assign the same numbers again.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_log_accepts_no_writes_before_immudb_was_reached_if_configured() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port()).set("immudb", "require_contact: unclean");
    let mut service = Service::start(setup).await;
    append_to(&mut service.client(), "room-1", 3).await;
    service.wait_until_forwarded().await;
    service.stop();
    let (storage, backup) = (service.storage(), service.dir().join("backup"));
    copy_folder(&storage, &backup);
    service.restart().await;
    append_to(&mut service.client(), "room-1", 3).await;
    service.wait_until_forwarded().await;
    let order = whole_order(&mut service.client()).await;
    service.stop();
    // After a clean stop, an outage of ImmuDB is an ordinary one.
    immudb.stop().await;
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order);
    service.kill();
    for put_back in [false, true] {
        if put_back {
            std::fs::remove_dir_all(&storage).unwrap();
            copy_folder(&backup, &storage);
        }
        service.launch();
        service.wait_for_state(State::Fallback).await;
        let mut client = service.client();
        let refused = client.append_events(request(vec![event("room-1")])).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (tonic::Code::Unavailable, "FIRST_CONTACT"));
        let said = if put_back { "were copied, restored or modified" } else { "crashed" };
        service.wait_for_log(said).await;
        // A clean stop does not lift the refusal.
        for stop in ["orderly", "killed"] {
            match stop {
                "orderly" => assert!(service.stop().success()),
                _ => service.kill(),
            }
            service.launch();
            service.wait_for_state(State::Fallback).await;
            let refused = service.client().append_events(request(vec![event("room-1")])).await.unwrap_err();
            assert_eq!(reason(&refused), "FIRST_CONTACT", "after {said}, {stop}");
        }
        service.kill();
        let (done, said) = service.run(&["import", "storage/events", "--without-immudb"]);
        assert!(done, "{said}");
        service.launch();
        service.wait_for_state(State::Fallback).await;
        let refused = service.client().append_events(request(vec![event("room-1")])).await.unwrap_err();
        assert_eq!(reason(&refused), "FIRST_CONTACT", "after an import");
        service.kill();
    }
    immudb.restart().await;
    service.restart().await;
    service.wait_until_forwarded().await;
    assert_eq!(whole_order(&mut service.client()).await, order);
    append_to(&mut service.client(), "room-1", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_paused_itself_loses_nothing() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let service = Service::start(Setup::with_immudb(immudb.port())).await;
    let calls = Load::start(&service.client(), 16, 1);
    service.wait_for("a good start", |stats| stats.event_count > 200).await;
    service.signal(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(2)).await;
    service.signal(Signal::CONT);
    let now = service.stats().await.event_count;
    service.wait_for("going on", |stats| stats.event_count > now + 200).await;
    let calls = calls.end().await;
    assert!(calls.iter().all(|call| call.answer.is_ok()));
    service.wait_until_forwarded().await;
    let order = whole_order(&mut service.client()).await;
    assert_all_there(&calls, &order);
    assert_in_immudb(&immudb, &order);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immudb_whose_disk_is_full_counts_as_gone_although_it_answers_reads() {
    let dir = tempdir().unwrap();
    let Some(immudb) = ImmuDb::start_on_disk(dir.path(), 64).await else {
        let _ = writeln!(std::io::stderr(), "not tested: this machine mounts no file system for a test");
        return;
    };
    let setup = Setup::with_immudb(immudb.port())
        .set("immudb", "request_timeout: 2.0")
        .set("immudb", "retry_delay_max: 0.5");
    let service = Service::start(setup).await;
    append_to(&mut service.client(), "room-1", 5).await;
    immudb.disk().unwrap().fill();
    let large = |_| NewEvent { data: Some(Data::Binary(vec![7; 500_000].into())), ..event("room-1") };
    let answer = append(&mut service.client(), (0..4).map(large).collect()).await;
    assert_eq!(answer.stored_in(), StoredIn::LocalLog);
    append_to(&mut service.client(), "room-1", 20).await;
    // ImmuDB answers reads; that alone must not end the fallback.
    assert_eq!(immudb.reader(&["--database", "aethyr", "get", "sequence:room-1"]).len(), 1);
    let retries = service.stats().await.retries;
    let stats = service.wait_for("more attempts", |stats| stats.retries > retries + 1).await;
    assert_eq!((stats.state(), stats.event_count, stats.fallbacks), (State::Fallback, 29, 1));
    immudb.disk().unwrap().free();
    service.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_an_outage_takes_events_however_long_the_log_is() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port()).set("limits", "pending_bytes_max: 1048576");
    let mut service = Service::start(setup).await;
    for _ in 0..20 {
        let data = Some(Data::Binary(vec![7; 100_000].into()));
        append(&mut service.client(), vec![NewEvent { data, ..event("room-1") }]).await;
    }
    service.wait_until_forwarded().await;
    immudb.kill();
    service.kill();
    service.restart().await;
    // The kill may have lost the newest forwarded positions.
    assert!(service.stats().await.pending_events < 5);
    let answer = append(&mut service.client(), vec![event("room-1")]).await;
    assert_eq!((answer.stored_in(), answer.first_position), (StoredIn::LocalLog, 21));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_a_few_large_events_is_a_backlog() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 1).await;
    immudb.kill();
    // By count they fit into one transaction; by size they do not fit into forty.
    let large = Data::Binary(vec![7; 900_000].into());
    for _ in 0..200 {
        let one = NewEvent { data: Some(large.clone()), ..event("large") };
        append(&mut service.client(), vec![one]).await;
    }
    immudb.restart().await;
    // A client that calls in Connected waits for everything pending, so there must be no more than
    // the next transaction takes.
    let connected = service.wait_for_state(State::Connected).await;
    assert!(connected.pending_events <= 4, "a caller would wait for all of it: {connected:?}");
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_a_warning_and_its_end_says_how_much_was_left_to_do() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 2).await;
    service.wait_until_forwarded().await;
    immudb.kill();
    append_to(&mut service.client(), "room-1", 7).await;
    service.wait_for_state(State::Fallback).await;
    let address = format!("127.0.0.1:{}", immudb.port());
    let lines = |service: &Service, text: &str| -> Vec<String> {
        service.log().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    };
    service.wait_for_log("ImmuDB outage").await;
    let warned = lines(&service, "ImmuDB outage");
    assert!(
        matches!(&warned[..], [line] if line.contains("WARN") && line.contains(&address) && line.contains("refused")),
        "{warned:?}"
    );
    immudb.restart().await;
    service.wait_until_forwarded().await;
    service.wait_for_log("ImmuDB is available again").await;
    let told = lines(&service, "ImmuDB is available again");
    let wanted = ["INFO", &address, "migrated=7", "seconds="];
    assert!(
        matches!(&told[..], [line] if wanted.iter().all(|text| line.contains(text))),
        "{told:?}\n{}",
        service.log()
    );
    assert_eq!(lines(&service, "ImmuDB outage").len(), 1, "one outage, one warning");
}
