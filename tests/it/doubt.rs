//! Another writer uses the database, or the database is no longer what it was.
//!
//! In both cases, nothing is written into a wrong history.

use aethyr_event_store::grpc::wire::{
    LoadEventsRequest, RecordedEvent, State, StoredIn,
    world::{GetRoomRequest, world_service_client::WorldServiceClient},
};
use tempfile::tempdir;
use tonic::Code;

use crate::{
    copy::copy_folder,
    outage::assert_in_immudb,
    support::{
        events::{append, append_to, event, load, load_pieces, reason, request, whole_order},
        immudb::ImmuDb,
        proxy::{Mode, Proxy},
        service::{Service, Setup},
    },
};

async fn assert_fenced(service: &Service) {
    service.wait_for_state(State::Fenced).await;
    let before = service.stats().await.event_count;
    let refused = service.client().append_events(request(vec![event("room-1")])).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "FENCED"));
    service.wait_for_health("reads", before > 0).await;
    assert_eq!(service.stats().await.event_count, before);
}

/// Asserts that reads are refused: without events it looks like an empty world, but it is a service
/// that has lost them.
async fn assert_reads_are_refused(service: &Service) {
    let refused = load_pieces(
        &mut service.client(),
        LoadEventsRequest { aggregate_id: "room-1".to_owned(), ..LoadEventsRequest::default() },
    )
    .await
    .unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "EMPTY_LOG"));
    let refused = WorldServiceClient::new(service.channel())
        .get_room(GetRoomRequest { id: "room-1".to_owned(), as_of: None })
        .await
        .unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "EMPTY_LOG"));
    service.wait_for_health("reads", false).await;
    service.wait_for_health("", false).await;
}

/// Asserts that events are accepted while ImmuDB stays as it is.
async fn assert_suspect(service: &Service, immudb: &ImmuDb) {
    assert_parked(service, immudb, State::Suspect).await;
}

async fn assert_parked(service: &Service, immudb: &ImmuDb, state: State) {
    service.wait_for_state(state).await;
    let before = immudb.reader(&["--database", "aethyr", "txscan"]).len();
    let answers = append_to(&mut service.client(), "room-1", 3).await;
    assert!(answers.iter().all(|answer| answer.stored_in() == StoredIn::LocalLog));
    assert_eq!(service.stats().await.state(), state);
    assert_eq!(immudb.reader(&["--database", "aethyr", "txscan"]).len(), before);
}

async fn resolved(service: &mut Service, immudb: &ImmuDb) -> Vec<RecordedEvent> {
    let order = whole_order(&mut service.client()).await;
    service.stop();
    let (done, said) = service.run(&["resolve", "--resend"]);
    assert!(done, "{said}");
    service.restart().await;
    service.wait_until_forwarded().await;
    assert_eq!(whole_order(&mut service.client()).await, order);
    assert_in_immudb(immudb, &order);
    order
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_on_the_same_database_is_fenced() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 3).await;
    let second = Service::launched(Setup::with_immudb(immudb.port()));
    assert_fenced(&second).await;
    assert_reads_are_refused(&second).await;
    append_to(&mut service.client(), "room-1", 3).await;
    let stats = service.wait_until_forwarded().await;
    assert_eq!((stats.event_count, stats.fallbacks), (6, 0));
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_writer_stops_writing() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port());
    let mut deposed = Service::start(setup.clone()).await;
    append_to(&mut deposed.client(), "room-1", 3).await;
    let second = Service::start(setup.arguments(&["serve", "--take-over"])).await;
    assert_eq!(load(&mut second.client(), "room-1").await.len(), 3);
    append_to(&mut second.client(), "room-1", 2).await;
    let order = whole_order(&mut second.client()).await;

    // A writer that learns of the takeover from its own write cannot know the outcome of that
    // write.
    let status = deposed.client().append_events(request(vec![event("room-1")])).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unknown, "OUTCOME_UNKNOWN"));
    assert_fenced(&deposed).await;
    assert_eq!(load(&mut deposed.client(), "room-1").await.len(), 4);
    assert_eq!(deposed.stats().await.pending_events, 1);
    deposed.kill();
    deposed.launch();
    assert_fenced(&deposed).await;
    // Its events stay in its log, are listed as pending, and cannot be forced into the other
    // history.
    assert_eq!(deposed.stats().await.pending_events, 1);
    deposed.stop();
    let (done, said) = deposed.run(&["resolve", "--resend"]);
    assert!(!done, "{said}");
    deposed.launch();
    assert_fenced(&deposed).await;
    assert_in_immudb(&immudb, &order);
}

/// The log is an older one, and has the id of a writer that was fenced. For either reason, it must
/// not be served as the stored history.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_that_another_writer_came_after_serves_nothing_if_configured() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port());
    let careful = setup.clone().set("immudb", "require_contact: unclean");
    let taking_over = careful.clone().arguments(&["serve", "--take-over"]);
    let mut service = Service::start(careful.clone()).await;
    append_to(&mut service.client(), "room-1", 3).await;
    service.wait_until_forwarded().await;
    service.stop();
    let (storage, backup) = (service.storage(), service.dir().join("backup"));
    copy_folder(&storage, &backup);
    let mut other = Service::start(setup.arguments(&["serve", "--take-over"])).await;
    other.wait_for_state(State::Connected).await;
    other.kill();
    service.reconfigure(taking_over.clone());
    service.restart().await;
    service.wait_for_state(State::Connected).await;
    let last = event("room-1");
    append(&mut service.client(), vec![last.clone()]).await;
    service.wait_until_forwarded().await;
    let order = whole_order(&mut service.client()).await;
    service.kill();

    std::fs::remove_dir_all(&storage).unwrap();
    copy_folder(&backup, &storage);
    service.reconfigure(careful.clone());
    service.launch();
    service.wait_for_state(State::Fenced).await;
    let ask = LoadEventsRequest { aggregate_id: "room-1".to_owned(), ..LoadEventsRequest::default() };
    let refused = load_pieces(&mut service.client(), ask).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "FIRST_CONTACT"));
    // The event is stored, but this log does not know of it.
    let refused = service.client().append_events(request(vec![last])).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "FIRST_CONTACT"));
    service.wait_for_health("reads", false).await;
    service.kill();

    service.reconfigure(taking_over);
    service.restart().await;
    service.wait_for_state(State::Connected).await;
    assert_eq!(whole_order(&mut service.client()).await, order);

    // An empty log is not treated as an older one.
    service.kill();
    std::fs::remove_dir_all(&storage).unwrap();
    service.reconfigure(careful);
    service.launch();
    service.wait_for_state(State::Fenced).await;
    assert_reads_are_refused(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_over_with_events_that_do_not_fit_is_refused() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port());
    let mut apart = Service::start(setup.clone()).await;
    append_to(&mut apart.client(), "room-1", 3).await;
    apart.wait_until_forwarded().await;
    immudb.kill();
    append_to(&mut apart.client(), "room-1", 2).await;
    apart.kill();
    immudb.restart().await;
    let second = Service::start(setup.clone().arguments(&["serve", "--take-over"])).await;
    append_to(&mut second.client(), "room-1", 1).await;
    let order = whole_order(&mut second.client()).await;
    apart.reconfigure(setup.arguments(&["serve", "--take-over"]));
    apart.launch();
    assert_fenced(&apart).await;
    assert_eq!(load(&mut apart.client(), "room-1").await.len(), 5);
    assert_in_immudb(&immudb, &order);
    append_to(&mut second.client(), "room-1", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_releases_the_database_but_not_while_events_are_pending() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port());
    let mut service = Service::start(setup.clone()).await;
    append_to(&mut service.client(), "room-1", 2).await;
    service.wait_until_forwarded().await;
    immudb.kill();
    append_to(&mut service.client(), "room-1", 1).await;
    assert!(service.stop().success());
    immudb.restart().await;
    let mut second = Service::launched(setup.clone());
    assert_fenced(&second).await;
    second.stop();
    service.restart().await;
    service.wait_until_forwarded().await;
    assert!(service.stop().success());
    assert!(service.log().contains("released log:head"));
    second.restart().await;
    assert_eq!(second.wait_until_forwarded().await.event_count, 3);
    append_to(&mut second.client(), "room-1", 1).await;
    // The first service starts again: the head names another writer.
    service.launch();
    assert_fenced(&service).await;
    assert_in_immudb(&immudb, &whole_order(&mut second.client()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immudb_that_was_put_back_gets_nothing_until_the_operator_says_so() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 3).await;
    immudb.stop().await;
    copy_folder(&dir.path().join("data"), &dir.path().join("backup"));
    immudb.restart().await;
    append_to(&mut service.client(), "room-1", 3).await;
    service.wait_until_forwarded().await;
    immudb.stop().await;
    std::fs::remove_dir_all(dir.path().join("data")).unwrap();
    std::fs::rename(dir.path().join("backup"), dir.path().join("data")).unwrap();
    immudb.restart().await;
    append_to(&mut service.client(), "room-1", 1).await;
    assert_suspect(&service, &immudb).await;
    // A restart does not change that.
    service.kill();
    service.restart().await;
    assert_suspect(&service, &immudb).await;
    assert_eq!(resolved(&mut service, &immudb).await.len(), 13);
    // Nothing is in doubt any more.
    service.stop();
    assert!(!service.run(&["resolve", "--resend"]).0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_immudb_gets_nothing_until_the_operator_says_so() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 3).await;
    service.wait_until_forwarded().await;
    immudb.kill();
    std::fs::remove_dir_all(dir.path().join("data")).unwrap();
    immudb.restart().await;
    append_to(&mut service.client(), "room-1", 1).await;
    assert_suspect(&service, &immudb).await;
    resolved(&mut service, &immudb).await;
}

/// ImmuDB was contacted; what is wrong with it is another question.
#[tokio::test(flavor = "multi_thread")]
async fn an_immudb_that_lacks_events_is_seen_all_the_same_after_a_crash() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port()).set("immudb", "require_contact: unclean");
    let mut service = Service::start(setup).await;
    append_to(&mut service.client(), "room-1", 3).await;
    service.wait_until_forwarded().await;
    service.kill();
    immudb.kill();
    std::fs::remove_dir_all(dir.path().join("data")).unwrap();
    immudb.restart().await;
    service.launch();
    assert_suspect(&service, &immudb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_vanished_or_was_overwritten_stops_the_forwarder() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 3).await;
    immudb.reader(&["--database", "aethyr", "delete", "log:head"]);
    append_to(&mut service.client(), "room-1", 1).await;
    assert_suspect(&service, &immudb).await;
    immudb.reader(&["--database", "aethyr", "set", "log:head", "nonsense"]);
    let mut service = service;
    service.kill();
    service.restart().await;
    let before = immudb.reader(&["--database", "aethyr", "txscan"]).len();
    service.wait_for("an end of the start", |stats| stats.state() != State::Unspecified).await;
    let answer = service.client().append_events(request(vec![event("room-1")])).await;
    assert!(answer.is_err() || answer.unwrap().into_inner().stored_in() == StoredIn::LocalLog);
    assert_eq!(immudb.reader(&["--database", "aethyr", "txscan"]).len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_events_of_unknown_origin_is_not_claimed() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    append(&mut service.client(), vec![event("room-1")]).await;
    assert!(service.stop().success());
    immudb.reader(&["--database", "aethyr", "delete", "log:head"]);
    std::fs::remove_dir_all(service.storage()).unwrap();
    let before = immudb.reader(&["--database", "aethyr", "txscan"]).len();
    service.launch();
    service.wait_for_state(State::Suspect).await;
    assert_reads_are_refused(&service).await;
    // Its sequence number has been assigned before.
    let refused = service.client().append_events(request(vec![event("room-1")])).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "EMPTY_LOG"));
    assert_eq!(service.stats().await.event_count, 0);
    assert_eq!(immudb.reader(&["--database", "aethyr", "txscan"]).len(), before);
}

/// Aethyr itself uses the same keys, and the same default name for the database.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_aethyrs_own_is_named_as_such_and_no_writes_are_accepted_beside_it() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    service.wait_for_state(State::Connected).await;
    assert!(service.stop().success());
    immudb.reader(&["--database", "aethyr", "delete", "log:head"]);
    immudb.reader(&["--database", "aethyr", "set", "event:room-1:1", "\u{4}\u{8}{\u{6}:\u{9}name"]);
    std::fs::remove_dir_all(service.storage()).unwrap();
    service.launch();
    service.wait_for_state(State::Suspect).await;
    let error = service.stats().await.immudb.unwrap().last_error;
    assert!(error.contains("Aethyr's own event store") && error.contains("immudb.database"), "{error}");
    assert_reads_are_refused(&service).await;
    let refused = service.client().append_events(request(vec![event("room-1")])).await.unwrap_err();
    assert_eq!(reason(&refused), "EMPTY_LOG");
    service.kill();
    service.reconfigure(Setup::with_immudb(immudb.port()).set("immudb", "database: another"));
    service.restart().await;
    service.wait_for_state(State::Connected).await;
    append(&mut service.client(), vec![event("room-1")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immudb_that_was_put_back_below_a_living_session_is_noticed() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    // A keep-alive in between would find the database gone.
    let setup = Setup::with_immudb(immudb.port()).set("immudb", "keep_alive: 90.0");
    let mut service = Service::start(setup).await;
    let (data, backup) = (dir.path().join("data/aethyr"), dir.path().join("backup"));
    append_to(&mut service.client(), "room-1", 3).await;
    service.wait_until_forwarded().await;
    immudb.reader(&["--database", "aethyr", "unload-database"]);
    copy_folder(&data, &backup);
    immudb.reader(&["--database", "aethyr", "load-database"]);
    append_to(&mut service.client(), "room-1", 3).await;
    let retries = service.wait_until_forwarded().await.retries;
    immudb.reader(&["--database", "aethyr", "unload-database"]);
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&backup, &data).unwrap();
    immudb.reader(&["--database", "aethyr", "load-database"]);
    // The session has not noticed anything.
    assert_eq!(service.stats().await.retries, retries);
    let answer = append(&mut service.client(), vec![event("room-1")]).await;
    assert_eq!(answer.stored_in(), StoredIn::LocalLog);
    assert_suspect(&service, &immudb).await;
    resolved(&mut service, &immudb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_immudb_lost_is_named_no_more() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 20).await;
    let sent = request(vec![event("room-1"), event("room-2")]);
    service.client().append_events(sent.clone()).await.unwrap();
    service.wait_until_forwarded().await;
    immudb.kill();
    std::fs::remove_dir_all(dir.path().join("data")).unwrap();
    immudb.restart().await;
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_for_state(State::Suspect).await;
    resolved(&mut service, &immudb).await;
    let key = "event:room-2:00000000000000000001";
    let truth = immudb.reader(&["--database", "aethyr", "get", key])[0]["tx"].as_u64().unwrap();
    for _ in 0..2 {
        let answer = service.client().append_events(sent.clone()).await.unwrap().into_inner();
        assert!(answer.already_stored);
        assert_eq!((answer.stored_in(), answer.immudb_tx), (StoredIn::Immudb, truth));
        std::fs::remove_dir_all(service.storage().join("index")).ok();
        service.kill();
        service.restart().await;
        service.wait_until_forwarded().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_fenced_writer_has_in_common_with_the_other_counts_as_forwarded() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let proxy = Proxy::start(immudb.port()).await;
    let service = Service::start(Setup::with_immudb(proxy.port())).await;
    append_to(&mut service.client(), "room-1", 3).await;
    // ImmuDB commits the event, and the answer is lost.
    proxy.set(Mode::DropAnswers);
    let mut client = service.client();
    let appending = tokio::spawn(async move { append(&mut client, vec![event("room-1")]).await });
    service.wait_for("the event", |stats| stats.event_count == 4).await;
    let in_immudb = || immudb.reader(&["--database", "aethyr", "scan", "event:"]).len();
    service.wait_until("ImmuDB has the event", async || in_immudb() == 4).await;
    let taken = Setup::with_immudb(immudb.port()).arguments(&["serve", "--take-over"]);
    let other = Service::start(taken).await;
    append_to(&mut other.client(), "room-1", 2).await;
    proxy.set(Mode::Pass);
    proxy.cut();
    assert_eq!(appending.await.unwrap().stored_in(), StoredIn::Immudb);
    assert_fenced(&service).await;
    let stats = service.stats().await;
    assert_eq!((stats.pending_events, stats.forwarded_position), (0, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_deleted_below_the_head_is_noticed() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 3).await;
    service.wait_until_forwarded().await;
    immudb.reader(&["--database", "aethyr", "delete", "event:room-1:00000000000000000003"]);
    append_to(&mut service.client(), "room-1", 1).await;
    assert_parked(&service, &immudb, State::Tampered).await;
    assert!(service.stats().await.immudb.unwrap().last_error.contains("was deleted"));
    service.kill();
    service.restart().await;
    assert_parked(&service, &immudb, State::Tampered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_writes_to_the_database_is_warned_of() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 3).await;
    // Restarts of both sides, claims and new sessions leave no gaps in the transaction numbers.
    immudb.restart().await;
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_until_forwarded().await;
    service.stop();
    service.restart().await;
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_until_forwarded().await;
    assert!(!service.log().contains("another client writes to the database"), "{}", service.log());
    for _ in 0..3 {
        immudb.reader(&["--database", "aethyr", "set", "anything", "of another client"]);
    }
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_for_log("another client writes to the database").await;
    let log = service.log();
    let line = log.lines().find(|line| line.contains("another client writes to the database")).unwrap();
    assert!(line.contains("WARN") && line.contains("transactions=3"), "{line}");
    assert!(line.contains("anything") && !line.contains("of another client"), "{line}");
    assert_eq!(service.wait_until_forwarded().await.state(), State::Connected);
    // Further ones are counted, and reported with the next line, a minute later.
    immudb.reader(&["--database", "aethyr", "set", "anything", "else"]);
    append_to(&mut service.client(), "room-1", 2).await;
    service.wait_until_forwarded().await;
    assert_eq!(service.log().matches("another client writes to the database").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_after_immudb_was_restarted_releases_the_head_too() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 2).await;
    service.wait_until_forwarded().await;
    immudb.restart().await;
    assert!(service.stop().success());
    assert!(service.log().contains("released log:head"), "{}", service.log());
    let second = Service::start(Setup::with_immudb(immudb.port())).await;
    assert_eq!(second.wait_until_forwarded().await.event_count, 2);
}
