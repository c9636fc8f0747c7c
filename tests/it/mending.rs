//! Files that were damaged, deleted or copied elsewhere: intact data is served, damage is named,
//! and the commands for it work.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aethyr_event_store::grpc::wire::{
    LoadEventsRequest, NewEvent, ReadAllRequest, RecordedEvent, SaveSnapshotRequest, new_event::Data,
};
use tempfile::tempdir;
use tonic::{Code, Status};

use crate::{
    copy::copy_folder,
    outage::assert_in_immudb,
    support::{
        events::{append, append_to, event, load, load_pieces, request, whole_order},
        immudb::ImmuDb,
        service::{Service, Setup},
    },
};

fn with_files() -> Setup {
    Setup::local().set("event_sourcing", "event_files: true")
}

/// Appends events of 300 kB, three per segment. Each has its number in its type.
async fn large_history(service: &Service) -> Vec<RecordedEvent> {
    for number in 1..=8 {
        let data = Data::Binary(vec![number; 300_000].into());
        let event_type = format!("Large{number}");
        append(&mut service.client(), vec![NewEvent { data: Some(data), event_type, ..event("room-1") }])
            .await;
    }
    whole_order(&mut service.client()).await
}

/// Flips a bit at the first occurrence of `text` in the files. Returns the path of the changed
/// file.
fn flip_at(paths: &[PathBuf], text: &str) -> PathBuf {
    for path in paths {
        let mut bytes = fs::read(path).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text.as_bytes()) {
            bytes[at] ^= 1;
            fs::write(path, bytes).unwrap();
            return path.clone();
        }
    }
    panic!("{text} is nowhere");
}

fn assert_damage(status: &Status, file: &Path) {
    assert_eq!(status.code(), Code::DataLoss, "{status:?}");
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(status.message().contains(name) && status.message().contains("repair"), "{}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_never_served_and_is_repaired_from_immudb() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port()).set("event_sourcing", "segment_bytes_max: 1048576");
    let mut service = Service::start(setup).await;
    let order = large_history(&service).await;
    let snapshot =
        SaveSnapshotRequest { aggregate_id: "room-1".into(), sequence_number: 8, ..Default::default() };
    service.client().save_snapshot(snapshot).await.unwrap();
    service.wait_until_forwarded().await;
    let damaged = flip_at(&service.segments(), "Large2");
    let whole = LoadEventsRequest { aggregate_id: "room-1".into(), ..Default::default() };
    assert_damage(&load_pieces(&mut service.client(), whole.clone()).await.unwrap_err(), &damaged);
    let mut stream = service.client().read_all(ReadAllRequest::default()).await.unwrap().into_inner();
    let status = loop {
        match stream.message().await {
            Ok(Some(piece)) => assert!(piece.events.iter().all(|event| event.position < 2)),
            Ok(None) => panic!("damage was skipped"),
            Err(status) => break status,
        }
    };
    assert_damage(&status, &damaged);
    // Reads that do not touch the damage are served as before.
    let behind = LoadEventsRequest { from_sequence: 3, ..whole };
    let pieces = load_pieces(&mut service.client(), behind).await.unwrap();
    assert_eq!(pieces.iter().map(|piece| piece.events.len()).sum::<usize>(), 6);
    assert!(service.stats().await.load_failures >= 2);

    service.stop();
    let (done, said) = service.run(&["repair"]);
    assert!(done && said.contains("the local log was repaired"), "{said}");
    assert!(service.storage().join("log.damaged-1").join(damaged.file_name().unwrap()).exists());
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order);
    assert_eq!(service.stats().await.snapshot_count, 1);
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
    service.stop();
    let (done, said) = service.run(&["repair"]);
    assert!(done && said.contains("nothing was changed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_repaired_from_the_event_files_or_discarded_when_the_operator_says_so() {
    let setup = with_files().set("event_sourcing", "segment_bytes_max: 1048576");
    let mut service = Service::start(setup).await;
    let order = large_history(&service).await;
    service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    assert!(service.storage().join("events/room-1/8.event").exists());
    service.stop();
    flip_at(&service.segments(), "Large3");
    flip_at(&service.segments(), "Large6");
    assert!(service.run(&["repair"]).0);
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order);

    service.stop();
    flip_at(&service.segments(), "Large5");
    fs::remove_file(service.storage().join("events/room-1/5.event")).unwrap();
    let (done, said) = service.run(&["repair"]);
    assert!(!done && said.contains("--discard-after-damage"), "{said}");
    let (done, said) = service.run(&["repair", "--discard-after-damage"]);
    assert!(done, "{said}");
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order[..4]);
    append_to(&mut service.client(), "room-1", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_end_is_gone_is_not_taken_for_a_shorter_one() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 20).await;
    service.wait_until_forwarded().await;
    let order = whole_order(&mut service.client()).await;
    service.stop();
    let path = service.segments().pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    let (kept, gone) = bytes.split_at(bytes.len() / 2);
    // A log of the same length is not an older one.
    for (gone, told) in
        [(&vec![0xff; gone.len()][..], "missing or damaged"), (&[0xff; 3], "is older than the index")]
    {
        fs::write(&path, [kept, gone].concat()).unwrap();
        let (served, said) = service.run(&["serve"]);
        assert!(!served && said.contains(told) && said.contains("repair"), "{said}");
    }
    let (done, said) = service.run(&["repair"]);
    assert!(done, "{said}");
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order);
}

/// The log was copied first, and the index after more events had been appended.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_log_is_named_as_such_and_no_damage() {
    let mut service = Service::start(Setup::local()).await;
    append_to(&mut service.client(), "room-1", 5).await;
    let older = whole_order(&mut service.client()).await;
    let (log, copied) = (service.storage().join("log"), service.dir().join("copied"));
    copy_folder(&log, &copied);
    append_to(&mut service.client(), "room-1", 5).await;
    service.stop();
    fs::remove_dir_all(&log).unwrap();
    fs::rename(&copied, &log).unwrap();
    let index = service.storage().join("index");
    let (served, said) = service.run(&["serve"]);
    assert!(!served && said.contains("is older than the index"), "{said}");
    // Also when nothing can be written to the index.
    let owner = index.join(".owner");
    fs::rename(&owner, service.dir().join("owner")).unwrap();
    fs::create_dir(&owner).unwrap();
    let (served, said) = service.run(&["serve"]);
    assert!(!served && said.contains("is older than the index"), "{said}");
    assert!(!said.contains("damage") && said.contains(&format!("move {}", "storage/index")), "{said}");
    // The older log can be used as it is, if the operator wants that.
    fs::rename(&index, service.dir().join("index.aside")).unwrap();
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, older);
    append_to(&mut service.client(), "room-1", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_that_nobody_saw_is_cut_off_and_kept() {
    let mut service = Service::start(Setup::local()).await;
    append_to(&mut service.client(), "room-1", 5).await;
    let order = whole_order(&mut service.client()).await;
    // The file is cut to its frames, and there is no clean stop after that.
    service.stop();
    service.restart().await;
    service.kill();
    // A crash may leave this of a group that was never acknowledged.
    let path = service.segments().pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let whole = bytes.len();
    bytes.extend_from_within(whole / 2..whole - 3);
    fs::write(&path, &bytes).unwrap();
    service.restart().await;
    service.wait_for_log("removed the torn tail of the local log").await;
    assert_eq!(whole_order(&mut service.client()).await, order);
    assert_eq!(fs::read(path.with_extension(format!("torn-{whole}"))).unwrap(), bytes[whole..]);
    append_to(&mut service.client(), "room-1", 2).await;
    service.kill();
    service.restart().await;
    assert_eq!(load(&mut service.client(), "room-1").await.len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_damaged_index_is_rebuilt_and_a_foreign_one_refused() {
    let mut service = Service::start(Setup::local()).await;
    for number in 0..20 {
        append_to(&mut service.client(), &format!("room-{number}"), 3).await;
    }
    let order = whole_order(&mut service.client()).await;
    let stats = service.stats().await;
    let mut other = Service::start(Setup::local()).await;
    append_to(&mut other.client(), "elsewhere", 30).await;
    other.stop();
    let index = service.storage().join("index");
    for how in ["gone", "foreign", "damaged"] {
        service.stop();
        match how {
            "gone" => fs::remove_dir_all(&index).unwrap(),
            "foreign" => {
                fs::remove_dir_all(&index).unwrap();
                copy_folder(&other.storage().join("index"), &index);
            }
            _ => flip_every_file(&index),
        }
        if how == "foreign" {
            assert_eq!(service.launch_and_crash().code(), Some(1));
            assert!(service.log().contains("was created from another log"), "{}", service.log());
            fs::remove_dir_all(&index).unwrap();
        }
        service.restart().await;
        assert_eq!(whole_order(&mut service.client()).await, order, "{how}");
        let now = service.stats().await;
        assert_eq!((now.event_count, &now.event_types), (stats.event_count, &stats.event_types), "{how}");
        assert_eq!(load(&mut service.client(), "room-7").await.len(), 3, "{how}");
    }
}

/// Flips a bit in the middle of every file below a directory.
fn flip_every_file(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            flip_every_file(&path);
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_log_beside_event_files_is_refused_until_they_are_imported() {
    let mut service = Service::start(with_files()).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 5).await;
    append(&mut client, vec![event("a/b"), event("room-1"), event("../x")]).await;
    let snapshot =
        SaveSnapshotRequest { aggregate_id: "room-1".into(), sequence_number: 4, ..Default::default() };
    client.save_snapshot(snapshot).await.unwrap();
    let order = whole_order(&mut client).await;
    service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    let events = service.storage().join("events");
    assert_eq!(fs::read_to_string(events.join("room-1.sequence")).unwrap().trim(), "6");
    assert!(events.join("snapshots/room-1.snapshot").exists() && events.join("a%2Fb/1.event").exists());
    service.stop();
    fs::remove_dir_all(service.storage().join("log")).unwrap();
    fs::remove_dir_all(service.storage().join("index")).unwrap();
    let (served, said) = service.run(&["serve"]);
    assert!(!served && said.contains("import"), "{said}");
    assert!(events.join("room-1/1.event").exists());

    let (done, said) = service.run(&["import", "storage/events"]);
    assert!(done, "{said}");
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order);
    assert_eq!(service.stats().await.snapshot_count, 1);
    // A second import has nothing to do.
    service.stop();
    let (done, said) = service.run(&["import", "storage/events"]);
    assert!(done && said.contains("imported=0 identical=8"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_do_not_continue_the_log_are_named_and_left_alone() {
    let mut service = Service::start(with_files()).await;
    append_to(&mut service.client(), "room-1", 3).await;
    service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    service.stop();
    let mut other = Service::start(Setup::local()).await;
    append_to(&mut other.client(), "room-1", 2).await;
    let order = whole_order(&mut other.client()).await;
    other.stop();
    let files = service.storage().join("events");
    let (done, said) = other.run(&["import", files.to_str().unwrap()]);
    assert!(!done && said.contains("append does not continue the log") && said.contains("1.event"), "{said}");
    // A file that was edited by hand continues no log.
    let path = files.join("room-1/2.event");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("Forest", "Desert")).unwrap();
    let third = Service::new(Setup::local());
    let (done, said) = third.run(&["import", files.to_str().unwrap()]);
    assert!(!done && said.contains("2.event"), "{said}");
    assert!(path.exists());
    other.restart().await;
    assert_eq!(whole_order(&mut other.client()).await, order);
}

#[tokio::test(flavor = "multi_thread")]
async fn event_files_are_there_in_an_outage_and_cleared_after_it() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port()).set("event_sourcing", "event_files: true");
    let mut service = Service::start(setup).await;
    append_to(&mut service.client(), "room-1", 2).await;
    immudb.kill();
    append_to(&mut service.client(), "room-1", 2).await;
    let files = service.storage().join("events");
    service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    assert!(files.join("room-1/3.event").exists() && files.join("room-1/4.event").exists());
    assert!(!files.join("room-1/2.event").exists());
    // The service did not write this file, so it must not delete it.
    fs::write(files.join("room-1/99.event"), "{}").unwrap();
    service.kill();
    fs::remove_file(files.join("room-1/3.event")).unwrap();
    service.restart().await;
    service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    assert!(files.join("room-1/3.event").exists(), "not written again");
    immudb.restart().await;
    service.wait_until_forwarded().await;
    service.wait_for("no event files", |stats| stats.event_files_pending == 0).await;
    assert!(!files.join("room-1/3.event").exists() && !files.join("room-1/4.event").exists());
    assert!(!files.join("room-1.sequence").exists());
    assert!(files.join("room-1/99.event").exists());
}

/// A directory of unknown origin may contain anything.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_waits_for_no_pipe_and_follows_no_link() {
    let mut service = Service::start(with_files()).await;
    append_to(&mut service.client(), "room-1", 5).await;
    append_to(&mut service.client(), "room-2", 1).await;
    let order = whole_order(&mut service.client()).await;
    service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    service.stop();
    let (given, elsewhere) = (service.dir().join("given"), service.dir().join("elsewhere"));
    fs::rename(service.storage().join("events"), &given).unwrap();
    fs::remove_dir_all(service.storage()).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(given.join("room-2"), elsewhere.join("room-2")).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("room-2"), given.join("room-2")).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("room-2/1.event"), given.join("room-1/6.event")).unwrap();
    fs::create_dir_all(given.join("snapshots")).unwrap();
    for pipe in ["room-1/7.event", "snapshots/room-1.snapshot"] {
        assert!(std::process::Command::new("mkfifo").arg(given.join(pipe)).status().unwrap().success());
    }
    let (done, said) = service.run(&["import", "given"]);
    assert!(!done && said.contains("imported=5"), "{said}");
    for (file, why) in [
        ("given/room-2", "is a symbolic link"),
        ("room-1/6.event", "is a symbolic link"),
        ("room-1/7.event", "not a regular file"),
        ("snapshots/room-1.snapshot", "not a regular file"),
    ] {
        assert!(said.lines().any(|line| line.contains(file) && line.contains(why)), "{file}: {said}");
    }
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order[..5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_copies_first_what_immudb_has() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port()).set("event_sourcing", "event_files: true");
    let mut service = Service::start(setup).await;
    append_to(&mut service.client(), "room-1", 4).await;
    service.wait_until_forwarded().await;
    immudb.kill();
    append_to(&mut service.client(), "room-1", 3).await;
    service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    let order = whole_order(&mut service.client()).await;
    service.kill();
    fs::rename(service.storage().join("events"), service.dir().join("rescued")).unwrap();
    fs::remove_dir_all(service.storage()).unwrap();
    let (done, said) = service.run(&["import", "rescued"]);
    assert!(!done && said.contains("--without-immudb"), "{said}");
    immudb.restart().await;
    let (done, said) = service.run(&["import", "rescued", "--take-over"]);
    assert!(done && said.contains("imported=3"), "{said}");
    service.restart().await;
    service.wait_until_forwarded().await;
    assert_eq!(whole_order(&mut service.client()).await, order);
    let refused = service.client().append_events(request(vec![])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_in_immudb(&immudb, &order);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_failed_leaves_the_guard_in_place() {
    let mut service = Service::start(with_files()).await;
    append_to(&mut service.client(), "room-1", 3).await;
    service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    let order = whole_order(&mut service.client()).await;
    service.stop();
    let events = service.storage().join("events");
    fs::remove_dir_all(service.storage().join("log")).unwrap();
    fs::remove_dir_all(service.storage().join("index")).unwrap();
    // A power failure may leave this of a file that was never synced.
    let first = fs::read(events.join("room-1/1.event")).unwrap();
    fs::write(events.join("room-1/1.event"), "").unwrap();
    let (done, said) = service.run(&["import", "storage/events"]);
    assert!(!done && said.contains("1.event"), "{said}");
    let (served, said) = service.run(&["serve"]);
    assert!(!served && said.contains("import"), "{said}");
    fs::write(events.join("room-1/1.event"), first).unwrap();
    assert!(service.run(&["import", "storage/events"]).0);
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_file_of_another_history_is_set_aside_and_not_overwritten() {
    let mut service = Service::start(with_files()).await;
    append_to(&mut service.client(), "room-1", 2).await;
    service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    service.stop();
    let other = Service::start(with_files()).await;
    append_to(&mut other.client(), "room-1", 4).await;
    other.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    let (foreign, ours) = (other.storage().join("events/room-1"), service.storage().join("events/room-1"));
    for name in ["3.event", "4.event"] {
        fs::copy(foreign.join(name), ours.join(name)).unwrap();
    }
    service.restart().await;
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    let same = |a: PathBuf, b: PathBuf| fs::read(a).unwrap() == fs::read(b).unwrap();
    assert!(same(ours.join("3.event.foreign-1"), foreign.join("3.event")));
    assert!(same(ours.join("4.event"), foreign.join("4.event")));
    assert!(!same(ours.join("3.event"), foreign.join("3.event")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_null_is_kept_through_event_files() {
    let mut service = Service::start(with_files()).await;
    let null = NewEvent { data: Some(Data::Json("null".into())), ..event("room-1") };
    append(&mut service.client(), vec![null, event("room-1")]).await;
    service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    let order = whole_order(&mut service.client()).await;
    service.stop();
    fs::remove_dir_all(service.storage().join("log")).unwrap();
    fs::remove_dir_all(service.storage().join("index")).unwrap();
    let (done, said) = service.run(&["import", "storage/events"]);
    assert!(done, "{said}");
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order);
}
