//! The local log has events that ImmuDB cannot accept: they are listed, exported, and discarded
//! only at the operator's command.

use std::{fs, path::Path};

use aethyr_event_store::{
    event::{AggregateId, ChainHash, record},
    event_files::folder::EventFolder,
    grpc::wire::{RecordedEvent, SaveSnapshotRequest, State, save_snapshot_request::Data},
};
use tempfile::{TempDir, tempdir};

use crate::{
    outage::assert_in_immudb,
    support::{
        events::{append, append_to, event, load, whole_order},
        immudb::ImmuDb,
        service::{Service, Setup},
    },
};

/// Two histories that have three events in common: that of the fenced writer, which is stopped, and
/// that of the service that has the database.
struct Divergence {
    immudb: ImmuDb,
    deposed: Service,
    /// The whole log of the fenced writer.
    ours: Vec<RecordedEvent>,
    other: Service,
    dir: TempDir,
}

const COMMON: u64 = 3;

/// Creates two histories. The fenced writer has two appends of three events, and a snapshot, that
/// the other history lacks.
async fn diverged() -> Divergence {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port()).set("event_sourcing", "event_files: true");
    let mut deposed = Service::start(setup.clone()).await;
    append_to(&mut deposed.client(), "room-1", 3).await;
    deposed.wait_until_forwarded().await;
    immudb.kill();
    append_to(&mut deposed.client(), "room-1", 1).await;
    append(&mut deposed.client(), vec![event("room-1"), event("a/b")]).await;
    save_snapshot(&deposed, "room-1", 5).await;
    deposed.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    let ours = whole_order(&mut deposed.client()).await;
    deposed.kill();
    immudb.restart().await;
    let other = Service::start(setup.arguments(&["serve", "--take-over"])).await;
    append_to(&mut other.client(), "room-2", 2).await;
    other.wait_until_forwarded().await;
    deposed.launch();
    deposed.wait_for_state(State::Fenced).await;
    deposed.stop();
    Divergence { immudb, deposed, ours, other, dir }
}

async fn save_snapshot(service: &Service, aggregate: &str, sequence_number: u64) {
    let snapshot = SaveSnapshotRequest {
        aggregate_id: aggregate.to_owned(),
        sequence_number,
        data: Some(Data::Json("{\"exits\":[]}".to_owned())),
        ..SaveSnapshotRequest::default()
    };
    service.client().save_snapshot(snapshot).await.unwrap();
}

/// Returns the standard output of a command that must succeed.
fn printed(service: &Service, arguments: &[&str]) -> String {
    let output = service.command(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Asserts that the files hold exactly these events: the chain hash leads from record to record,
/// and there is no other file.
fn assert_holds(folder: &Path, events: &[RecordedEvent], after: &[u8]) {
    let files = EventFolder::new(folder);
    assert_eq!(files.event_paths().unwrap().len(), events.len());
    let mut hash = ChainHash::from_slice(after).unwrap();
    for event in events {
        let aggregate = AggregateId::new(&event.aggregate_id).unwrap();
        let path = folder.join(aggregate.encoded()).join(format!("{}.event", event.sequence_number));
        let found = EventFolder::read_event(&path).unwrap().unwrap();
        assert_eq!(found.position.0, event.position);
        hash = hash.chain(&record::encode_recorded(&found));
        assert_eq!(hash.0.as_slice(), event.chain_hash.as_ref(), "position {}", event.position);
    }
}

fn given_up(service: &Service, name: &str) -> bool {
    service.storage().join(name).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_writer_gives_its_events_up_into_files_and_takes_the_other_history() {
    let Divergence { dir: _dir, immudb, mut deposed, ours, mut other } = diverged().await;
    let (before, pending) = ours.split_at(COMMON as usize);
    let after = before.last().unwrap().chain_hash.clone();
    let ids = fs::read_to_string(deposed.storage().join("log/writers")).unwrap();

    let (done, said) = deposed.run(&["resolve", "--give-up-pending", "--export", "rescued"]);
    assert!(done && said.contains("common=3 given_up=3"), "{said}");
    let rescued = deposed.dir().join("rescued");
    assert_holds(&rescued, pending, &after);
    assert!(rescued.join("snapshots/room-1.snapshot").exists());
    assert!(!rescued.join("export.unfinished").exists());
    // The log is kept, with its writer ids; its original directory has none.
    assert_eq!(fs::read_to_string(deposed.storage().join("log.given-up-1/writers")).unwrap(), ids);
    assert!(!deposed.storage().join("log").exists() && !deposed.storage().join("index").exists());
    assert!(given_up(&deposed, "events.given-up-1") && !deposed.storage().join("events").exists());

    let (done, said) = deposed.run(&["resolve", "--give-up-pending", "--export", "rescued"]);
    assert!(!done && said.contains("nothing to do"), "{said}");
    assert!(!deposed.storage().join("log/writers").exists());

    // Without a writer id of its own, it has to wait for the release, and then restores all events.
    deposed.launch();
    deposed.wait_for_state(State::Fenced).await;
    deposed.stop();
    let order = whole_order(&mut other.client()).await;
    assert!(other.stop().success());
    deposed.restart().await;
    deposed.wait_until_forwarded().await;
    assert_eq!(whole_order(&mut deposed.client()).await, order);
    append_to(&mut deposed.client(), "room-1", 1).await;
    let stats = deposed.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &whole_order(&mut deposed.client()).await);
    // Data derived from the discarded log is rebuilt.
    assert!(!stats.projections.is_empty());
    deposed
        .wait_for("the read models follow", |stats| {
            stats.projections.iter().all(|models| models.problem.is_empty() && models.lag == 0)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_events_are_listed_without_their_data_and_exported_byte_by_byte() {
    let Divergence { dir: _dir, immudb: _immudb, mut deposed, ours, other: _other } = diverged().await;
    let (before, pending) = ours.split_at(COMMON as usize);
    let after = before.last().unwrap().chain_hash.clone();
    let list = printed(&deposed, &["pending", "list"]);
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split('\t').collect()).collect();
    for (line, event) in lines.iter().zip(pending) {
        let (position, sequence) = (event.position.to_string(), event.sequence_number.to_string());
        let [at, aggregate, number, event_type, recorded_at, id] = line[..] else { panic!("{line:?}") };
        assert_eq!((at, aggregate, number), (&*position, &*event.aggregate_id, &*sequence));
        assert_eq!((event_type, id), (&*event.event_type, &*event.event_id));
        assert_eq!(recorded_at, event.recorded_at.unwrap().to_string());
    }
    assert!(list.contains("log:head is at position 5, writer ") && list.contains("(another log)"), "{list}");
    assert!(list.contains("up to position 3; the database continues with different events"), "{list}");
    let counts = "pending after position 3: events 3, aggregates 2, appends 2, snapshots 1";
    assert_eq!((lines.len(), list.lines().last().unwrap()), (6, counts));
    assert!(!list.contains("Forest") && !list.contains("exits"), "{list}");
    let offline = printed(&deposed, &["pending", "list", "--offline"]);
    assert!(offline.contains("not contacted") && offline.ends_with(&format!("{counts}\n")), "{offline}");

    for _ in 0..2 {
        let (done, said) = deposed.run(&["pending", "export", "rescued"]);
        assert!(done && said.contains("exported and synced"), "{said}");
        assert_holds(&deposed.dir().join("rescued"), pending, &after);
    }
    // None of this changes the log.
    deposed.launch();
    deposed.wait_for_state(State::Fenced).await;
    assert_eq!(whole_order(&mut deposed.client()).await, ours);
    assert!(!deposed.run(&["pending", "list"]).0, "the log is in use");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_only_look_make_no_database() {
    let Divergence { dir: _dir, immudb, mut deposed, .. } = diverged().await;
    deposed.reconfigure(Setup::with_immudb(immudb.port()).set("immudb", "database: mistyped"));
    for _ in 0..2 {
        let list = printed(&deposed, &["pending", "list"]);
        assert!(list.contains("database does not exist"), "{list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_never_mixes_with_what_is_there_and_stays_out_of_the_storage() {
    let mut service = Service::start(Setup::local()).await;
    append_to(&mut service.client(), "room-1", 3).await;
    service.stop();
    let folder = service.dir().join("full");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("letter.txt"), "dear").unwrap();
    let (done, said) = service.run(&["pending", "export", "full"]);
    assert!(!done && said.contains("contains other files"), "{said}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    for inside in ["storage/log/x", "storage/index/x", "storage/events", "logs/x"] {
        let (done, said) = service.run(&["pending", "export", inside]);
        assert!(!done && said.contains("choose a directory outside"), "{inside}: {said}");
    }
    // An interrupted export is written again; files that were changed since are not trusted.
    assert!(service.run(&["pending", "export", "rescued"]).0);
    let file = service.dir().join("rescued/room-1/2.event");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, "").unwrap();
    let (done, said) = service.run(&["pending", "export", "rescued"]);
    assert!(!done && said.contains("contains other files"), "{said}");
    fs::write(service.dir().join("rescued/export.unfinished"), "").unwrap();
    assert!(service.run(&["pending", "export", "rescued"]).0);
    assert_eq!(fs::read(&file).unwrap(), whole);
    assert!(!service.dir().join("rescued/export.unfinished").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_given_up_where_nothing_diverged() {
    let give_up = ["resolve", "--give-up-pending", "--export", "rescued"];
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 3).await;
    service.wait_until_forwarded().await;
    service.stop();
    let (done, said) = service.run(&give_up);
    assert!(!done && said.contains("ImmuDB has all local events (position 3)"), "{said}");
    service.restart().await;
    service.wait_until_forwarded().await;
    immudb.kill();
    append_to(&mut service.client(), "room-1", 2).await;
    service.kill();
    let (done, said) = service.run(&give_up);
    assert!(!done && said.contains("ImmuDB must be reachable"), "{said}");
    immudb.restart().await;
    let (done, said) = service.run(&give_up);
    assert!(!done && said.contains("the local events continue ImmuDB's history after position 3"), "{said}");
    let (done, said) = service.run(&["resolve", "--resend"]);
    assert!(!done && said.contains("nothing to do"), "{said}");
    // Exactly one choice is allowed.
    for wrong in [&["resolve"][..], &give_up[..2], &[&give_up[..], &["--resend"]].concat()] {
        assert_eq!(service.command(wrong).output().unwrap().status.code(), Some(64), "{wrong:?}");
    }
    let export_of_nothing = ["resolve", "--resend", "--export", "rescued"];
    assert_eq!(service.command(&export_of_nothing).output().unwrap().status.code(), Some(64));
    assert!(!service.dir().join("rescued").exists() && !given_up(&service, "log.given-up-1"));
    service.restart().await;
    service.wait_until_forwarded().await;
    assert_eq!(load(&mut service.client(), "room-1").await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_goes_on_where_it_ended_halfway() {
    let Divergence { dir: _dir, immudb: _immudb, mut deposed, ours, other: _other } = diverged().await;
    let (before, pending) = ours.split_at(COMMON as usize);
    let after = before.last().unwrap().chain_hash.clone();
    let give_up = ["resolve", "--give-up-pending", "--export", "rescued"];
    // As if it had been interrupted before the log was renamed: events exported, the index gone,
    // the event files renamed.
    assert!(deposed.run(&["pending", "export", "rescued"]).0);
    fs::remove_dir_all(deposed.storage().join("index")).unwrap();
    fs::rename(deposed.storage().join("events"), deposed.storage().join("events.given-up-1")).unwrap();
    deposed.launch();
    deposed.wait_for_state(State::Fenced).await;
    assert_eq!(whole_order(&mut deposed.client()).await, ours);
    deposed.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    deposed.stop();
    // A directory that already has the name is left alone.
    fs::create_dir(deposed.storage().join("log.given-up-1")).unwrap();
    let (done, said) = deposed.run(&give_up);
    assert!(done, "{said}");
    assert_holds(&deposed.dir().join("rescued"), pending, &after);
    assert!(given_up(&deposed, "events.given-up-1") && given_up(&deposed, "events.given-up-2"));
    assert!(given_up(&deposed, "log.given-up-2/writers") && !given_up(&deposed, "log.given-up-1/writers"));
    // The renamed directory is a complete log that can be restored.
    let mut again = Service::new(Setup::local());
    fs::create_dir(again.storage()).unwrap();
    fs::rename(deposed.storage().join("log.given-up-2"), again.storage().join("log")).unwrap();
    again.restart().await;
    assert_eq!(whole_order(&mut again.client()).await, ours);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_fails_leaves_the_log_where_it_is() {
    let Divergence { dir: _dir, immudb: _immudb, mut deposed, ours, other: _other } = diverged().await;
    fs::write(deposed.dir().join("file"), "").unwrap();
    let (done, said) = deposed.run(&["resolve", "--give-up-pending", "--export", "file/rescued"]);
    assert!(!done, "{said}");
    assert!(!given_up(&deposed, "log.given-up-1") && deposed.storage().join("index").exists());
    deposed.launch();
    deposed.wait_for_state(State::Fenced).await;
    assert_eq!(whole_order(&mut deposed.client()).await, ours);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_immudb_lost_before_another_wrote_there_are_given_up_into_files_too() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port());
    let mut service = Service::start(setup.clone()).await;
    append_to(&mut service.client(), "room-1", 5).await;
    service.wait_until_forwarded().await;
    let ours = whole_order(&mut service.client()).await;
    service.stop();
    // ImmuDB was reset to nothing, and another service has claimed it.
    immudb.kill();
    fs::remove_dir_all(dir.path().join("data")).unwrap();
    immudb.restart().await;
    let mut other = Service::start(setup).await;
    append_to(&mut other.client(), "room-2", 1).await;
    other.wait_until_forwarded().await;
    let list = printed(&service, &["pending", "list"]);
    assert!(list.contains("pending after position 0: events 5"), "{list}");
    let offline = printed(&service, &["pending", "list", "--offline"]);
    assert!(offline.contains("pending after position 5: events 0"), "{offline}");
    let (done, said) = service.run(&["resolve", "--give-up-pending", "--export", "rescued"]);
    assert!(done && said.contains("common=0 given_up=5"), "{said}");
    assert_holds(&service.dir().join("rescued"), &ours, &ChainHash::START.0);
    // The service goes on with the history that the operator has decided for.
    let theirs = whole_order(&mut other.client()).await;
    assert!(other.stop().success());
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, theirs);
    append_to(&mut service.client(), "room-3", 1).await;
    service.wait_until_forwarded().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_emptied_immudb_lacks_is_listed_and_sent_again() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 3).await;
    save_snapshot(&service, "room-1", 2).await;
    service.wait_until_forwarded().await;
    immudb.kill();
    fs::remove_dir_all(dir.path().join("data")).unwrap();
    immudb.restart().await;
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_for_state(State::Suspect).await;
    let order = whole_order(&mut service.client()).await;
    service.stop();
    let list = printed(&service, &["pending", "list"]);
    assert!(list.contains("log:head is missing") && list.contains("the database is empty"), "{list}");
    assert!(
        list.ends_with("pending after position 0: events 4, aggregates 1, appends 4, snapshots 1\n"),
        "{list}"
    );
    let (done, said) = service.run(&["resolve", "--give-up-pending", "--export", "rescued"]);
    assert!(!done && said.contains("`resolve --resend`"), "{said}");
    let (done, said) = service.run(&["resolve", "--resend"]);
    assert!(done && said.contains("from=1 to=4"), "{said}");
    let (done, said) = service.run(&["resolve", "--resend"]);
    assert!(!done && said.contains("nothing to do"), "{said}");
    service.restart().await;
    service.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &order);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_head_was_deleted_a_new_database_takes_everything() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port());
    let mut service = Service::start(setup.clone()).await;
    append_to(&mut service.client(), "room-1", 3).await;
    service.wait_until_forwarded().await;
    immudb.reader(&["--database", "aethyr", "delete", "log:head"]);
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_for_state(State::Suspect).await;
    service.stop();
    let list = printed(&service, &["pending", "list"]);
    assert!(list.contains("up to position 3; the database has events, but no log:head"), "{list}");
    for choice in [&["--resend"][..], &["--give-up-pending", "--export", "rescued"]] {
        let (done, said) = service.run(&[&["resolve"], choice].concat());
        assert!(!done && said.contains("configure a new database name"), "{said}");
    }
    service.reconfigure(setup.set("immudb", "database: second"));
    service.launch();
    service.wait_for_state(State::Suspect).await;
    service.stop();
    let (done, said) = service.run(&["resolve", "--resend"]);
    assert!(done && said.contains("from=1 to=4"), "{said}");
    service.restart().await;
    assert_eq!(service.wait_until_forwarded().await.forwarded_position, 4);
    assert_eq!(immudb.reader(&["--database", "second", "scan", "event:"]).len(), 4);
}
