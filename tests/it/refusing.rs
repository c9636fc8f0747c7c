//! A retry of an acknowledged append gets its first answer, even while new events are refused.
//!
//! Files and locks that belong to another log are left alone.

use aethyr_event_store::grpc::wire::{AppendEventsRequest, AppendEventsResponse, State, StoredIn};
use tempfile::tempdir;

use crate::support::{
    events::{append, event, load, reason, request},
    immudb::ImmuDb,
    service::{Service, Setup},
};

/// Asserts that a retry gets the answer of the first attempt, while a new event is refused with
/// this reason. Returns the answer to the retry.
async fn assert_refuses_only_new(
    service: &Service,
    stored: &AppendEventsRequest,
    first: &AppendEventsResponse,
    refusal: &str,
) -> AppendEventsResponse {
    let mut client = service.client();
    let status = client.append_events(request(vec![event("room-1")])).await.unwrap_err();
    assert_eq!(reason(&status), refusal, "{status:?}");
    let again = client.append_events(stored.clone()).await.unwrap().into_inner();
    assert!(again.already_stored);
    assert_eq!((&again.aggregates, again.first_position), (&first.aggregates, first.first_position));
    let mut others = stored.clone();
    others.events[0].event_type = "SomethingElse".to_owned();
    let status = client.append_events(others).await.unwrap_err();
    assert_eq!(reason(&status), "EVENT_ID_REUSED", "{status:?}");
    again
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_is_answered_where_the_limits_or_the_configuration_refuse_new_events() {
    let mut service = Service::start(Setup::local()).await;
    let stored = request(vec![event("room-1"), event("room-2")]);
    let first = service.client().append_events(stored.clone()).await.unwrap().into_inner();
    for (section, line, refusal) in [
        ("event_sourcing", "enabled: false", "EVENT_SOURCING_DISABLED"),
        ("limits", "disk_free_min: 1000000000000000", "DISK_FULL"),
    ] {
        service.stop();
        service.reconfigure(Setup::local().set(section, line));
        service.launch();
        service.wait_for_health("reads", true).await;
        let again = assert_refuses_only_new(&service, &stored, &first, refusal).await;
        assert_eq!(again.stored_in(), StoredIn::LocalLog);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_is_answered_beyond_the_limit_of_pending_events_and_by_a_fenced_service() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port()).set("limits", "pending_events_max: 2");
    let mut service = Service::start(setup.clone()).await;
    let forwarded = request(vec![event("room-1")]);
    let first = service.client().append_events(forwarded.clone()).await.unwrap().into_inner();
    service.wait_until_forwarded().await;
    immudb.kill();
    let pending = request(vec![event("room-1"), event("room-2")]);
    let second = service.client().append_events(pending.clone()).await.unwrap().into_inner();
    assert_eq!(second.stored_in(), StoredIn::LocalLog);
    assert_refuses_only_new(&service, &pending, &second, "PENDING_EVENTS").await;
    assert_refuses_only_new(&service, &forwarded, &first, "PENDING_EVENTS").await;

    service.kill();
    immudb.restart().await;
    let other = Service::start(setup.arguments(&["serve", "--take-over"])).await;
    other.client().append_events(request(vec![event("room-3")])).await.unwrap();
    other.wait_until_forwarded().await;
    service.launch();
    service.wait_for_state(State::Fenced).await;
    let again = assert_refuses_only_new(&service, &forwarded, &first, "FENCED").await;
    assert_eq!(again.stored_in(), StoredIn::Immudb);
    let again = assert_refuses_only_new(&service, &pending, &second, "FENCED").await;
    assert_eq!(again.stored_in(), StoredIn::LocalLog);
}

#[tokio::test(flavor = "multi_thread")]
async fn derived_folders_of_another_log_are_refused_and_left_alone() {
    let first = Service::start(Setup::local()).await;
    first.client().append_events(request(vec![event("room-1")])).await.unwrap();
    let index = first.storage().canonicalize().unwrap().join("index");
    let mut second = Service::start(Setup::local()).await;
    second.client().append_events(request(vec![event("room-9")])).await.unwrap();
    second.stop();

    let line = format!("index_path: {}", index.display());
    second.reconfigure(Setup::local().set("event_sourcing", &line));
    assert_eq!(second.launch_and_crash().code(), Some(1));
    assert!(second.log().contains("is in use by another process"), "{}", second.log());
    assert!(second.log().contains("event_sourcing.index_path"), "{}", second.log());
    first.client().append_events(request(vec![event("room-1")])).await.unwrap();

    let mut first = first;
    first.stop();
    assert_eq!(second.launch_and_crash().code(), Some(1));
    assert!(second.log().contains("was created from another log"), "{}", second.log());
    // The index still serves the log that it was built from, unchanged.
    first.restart().await;
    let told = |line: &str| line.contains("index") && line.contains("rebuil");
    assert!(!first.log().lines().any(told), "{}", first.log());
    assert_eq!(first.stats().await.event_count, 2);
    // The lock file, which looks like a leftover, is not the only thing that keeps others away.
    std::fs::remove_file(index.join(".owner")).unwrap();
    assert_eq!(second.launch_and_crash().code(), Some(1));
    assert!(second.log().contains("is in use by another process"), "{}", second.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn event_files_of_another_log_are_left_alone_and_the_service_goes_on() {
    let with_files = || Setup::local().set("event_sourcing", "event_files: true");
    let dir = tempdir().unwrap();
    let line = format!("storage_path: {}", dir.path().display());
    let shared = || with_files().set("event_sourcing", &line);
    let first = Service::start(shared()).await;
    first.client().append_events(request(vec![event("room-1")])).await.unwrap();
    let mut second = Service::start(with_files()).await;
    second.client().append_events(request(vec![event("room-1")])).await.unwrap();
    second.stop();
    second.reconfigure(shared());
    second.restart().await;
    assert!(second.log().contains("event files are disabled"), "{}", second.log());
    second.client().append_events(request(vec![event("room-1")])).await.unwrap();
    first.client().append_events(request(vec![event("room-1")])).await.unwrap();
}

/// Removing a file that looks like a leftover must not let a second service write the same data.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_lock_lets_no_second_process_in() {
    let service = Service::start(Setup::local()).await;
    append(&mut service.client(), vec![event("room-1")]).await;
    for lock in ["log/lock", "log.lock"] {
        std::fs::remove_file(service.storage().join(lock)).unwrap();
        for command in [&["serve"][..], &["repair"], &["resolve", "--resend"]] {
            let path = service.dir().join("second.log");
            let log = std::fs::File::create(&path).unwrap();
            let mut second = service.command(command);
            let status = second.env("AETHYR_SERVER__LISTEN", "127.0.0.1:0").stderr(log).status().unwrap();
            let said = std::fs::read_to_string(&path).unwrap();
            assert_eq!(status.code(), Some(1), "{lock}, {command:?}: {said}");
            assert!(said.contains("is in use by another process"), "{lock}, {command:?}: {said}");
        }
    }
    append(&mut service.client(), vec![event("room-1")]).await;
    assert_eq!(load(&mut service.client(), "room-1").await.len(), 2);
}
