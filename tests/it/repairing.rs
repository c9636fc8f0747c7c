//! `repair` discards no stored event unless the operator says so.
//!
//! It leaves a log that the service can start with.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    path::Path,
    process::Command,
};

use aethyr_event_store::grpc::wire::{
    NewEvent, RecordedEvent, SaveSnapshotRequest, new_event::Data, save_snapshot_request,
};
use tempfile::tempdir;

use crate::{
    outage::assert_in_immudb,
    support::{
        events::{append, append_to, event, whole_order},
        immudb::ImmuDb,
        service::{Service, Setup},
    },
};

/// Makes segments so small that a history of a few events has several of them.
fn small_segments(setup: Setup) -> Setup {
    setup.set("event_sourcing", "segment_bytes_max: 1048576").set("event_sourcing", "event_files: true")
}

/// Appends events of 300 kB, one per call, each with its number in its type. Returns the whole log.
async fn large_events(service: &Service, numbers: std::ops::RangeInclusive<u8>) -> Vec<RecordedEvent> {
    for number in numbers {
        let data = Some(Data::Binary(vec![number; 300_000].into()));
        let event_type = format!("Large{number:03}");
        append(&mut service.client(), vec![NewEvent { data, event_type, ..event("room-1") }]).await;
    }
    whole_order(&mut service.client()).await
}

fn damage(service: &Service, number: u8) {
    let text = format!("Large{number:03}");
    for path in service.segments() {
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text.as_bytes()) {
            bytes[at] ^= 1;
            fs::write(path, bytes).unwrap();
            return;
        }
    }
    panic!("{text} is nowhere");
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let mut file = fs::File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(bytes).unwrap();
}

fn forget_index(service: &Service) {
    fs::remove_dir_all(service.storage().join("index")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_that_lies_half_in_immudb_and_half_in_files_is_filled() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(small_segments(Setup::with_immudb(immudb.port()))).await;
    large_events(&service, 1..=4).await;
    service.wait_until_forwarded().await;
    immudb.kill();
    let order = large_events(&service, 5..=8).await;
    service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    service.kill();
    immudb.restart().await;
    for number in 4..=6 {
        damage(&service, number);
    }
    let (done, said) = service.run(&["repair"]);
    assert!(done && said.contains("filled=3"), "{said}");
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order);
    service.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &order);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_go_on_from_the_log_is_not_filled_in() {
    let mut service = Service::start(small_segments(Setup::local())).await;
    let order = large_events(&service, 1..=8).await;
    service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    service.stop();
    for number in 4..=6 {
        damage(&service, number);
    }
    // The event files have only the end of the gap.
    fs::remove_file(service.storage().join("events/room-1/4.event")).unwrap();
    let (done, said) = service.run(&["repair"]);
    assert!(!done && said.contains("--discard-after-damage"), "{said}");
    let (done, said) = service.run(&["repair", "--discard-after-damage"]);
    assert!(done && said.contains("frames=2 events=2"), "{said}");
    for position in 7..=8 {
        assert!(said.contains(&format!("first={position} last={position}")), "{said}");
    }
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order[..3]);
    append_to(&mut service.client(), "room-1", 2).await;
    service.stop();
    let (done, said) = service.run(&["repair"]);
    assert!(done && said.contains("nothing was changed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_end_is_not_given_up_silently_although_the_index_is_gone() {
    let mut service = Service::start(small_segments(Setup::local())).await;
    // The last of these events do not fill their segment.
    let order = large_events(&service, 1..=7).await;
    service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    service.stop();
    forget_index(&service);
    let events = service.storage().join("events");
    let kept = service.dir().join("kept");
    fs::rename(&events, &kept).unwrap();
    let last = service.segments().pop().unwrap();
    for header in [vec![0xff; 64], vec![0; 64]] {
        overwrite(&last, 0, &header);
        let (served, said) = service.run(&["serve"]);
        assert!(!served && said.contains("repair"), "{said}");
        assert!(last.exists(), "a segment full of events was removed");
        let (done, said) = service.run(&["repair"]);
        assert!(!done && said.contains("--discard-after-damage"), "{said}");
    }
    // With the event files nothing is lost, but the operator still has to confirm that this was
    // everything.
    fs::rename(&kept, &events).unwrap();
    let (done, said) = service.run(&["repair"]);
    assert!(!done && said.contains("up to 7, but there may have been more"), "{said}");
    let (done, said) = service.run(&["repair", "--discard-after-damage"]);
    assert!(done, "{said}");
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_that_ended_between_two_steps_is_restarted() {
    let mut service = Service::start(small_segments(Setup::local())).await;
    let order = large_events(&service, 1..=8).await;
    service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    service.stop();
    damage(&service, 5);
    // An unfinished draft, and a log that was not renamed yet.
    fs::create_dir(service.storage().join("log.draft")).unwrap();
    fs::write(service.storage().join("log.draft/0000000001.segment"), "half").unwrap();
    fs::create_dir(service.storage().join("log.mended")).unwrap();
    fs::write(service.storage().join("log.mended/writers"), "kept").unwrap();
    let (done, said) = service.run(&["repair"]);
    assert!(done, "{said}");
    assert_eq!(fs::read_to_string(service.storage().join("log.damaged-1/writers")).unwrap(), "kept");
    assert!(service.storage().join("log.damaged-2/0000000001.segment").exists());
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_version_has_written_is_neither_cut_off_nor_discarded() {
    let mut service = Service::start(Setup::local()).await;
    append_to(&mut service.client(), "room-1", 1).await;
    service.stop();
    let path = service.segments().pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    // The version, and the checksum of the header.
    bytes[8] = 2;
    let checksum = crc32c::crc32c(&bytes[..32]);
    bytes[32..36].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    for command in [&["serve"][..], &["repair"], &["repair", "--discard-after-damage"]] {
        let (done, said) = service.run(command);
        assert!(!done && said.contains("a newer version of the program"), "{command:?}: {said}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "{command:?}");
    }
}

/// `repair` builds the new log in `log.draft`.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_has_the_name_of_the_draft_is_not_removed() {
    let (mut service, mut other) =
        (Service::start(Setup::local()).await, Service::start(Setup::local()).await);
    append_to(&mut other.client(), "room-1", 1).await;
    service.stop();
    other.stop();
    let draft = service.storage().join("log.draft");
    fs::rename(other.storage().join("log"), &draft).unwrap();
    let (done, said) = service.run(&["repair"]);
    assert!(!done && said.contains("holds another log"), "{said}");
    assert!(draft.join("0000000001.segment").exists());
}

/// Two processes wrote at the same offsets, and each continued the log as it knew it.
#[tokio::test(flavor = "multi_thread")]
async fn each_whole_frame_that_is_skipped_is_reported_and_none_without_the_operators_consent() {
    let mut service = Service::start(Setup::local()).await;
    large_events(&service, 1..=4).await;
    service.stop();
    let (storage, kept) = (service.storage(), service.dir().join("kept"));
    let copied = Command::new("cp").arg("-a").args([&storage, &kept]).status().unwrap();
    assert!(copied.success());
    let segment = service.segments().pop().unwrap();
    let shared = fs::read(&segment).unwrap().len();
    service.restart().await;
    large_events(&service, 5..=6).await;
    let data = Some(save_snapshot_request::Data::Json("{}".into()));
    let aggregate_id = "room-1".into();
    let snapshot = SaveSnapshotRequest { aggregate_id, sequence_number: 6, data, ..Default::default() };
    service.client().save_snapshot(snapshot).await.unwrap();
    large_events(&service, 7..=8).await;
    service.stop();
    let mut both = fs::read(&segment).unwrap();
    fs::remove_dir_all(&storage).unwrap();
    fs::rename(&kept, &storage).unwrap();
    service.restart().await;
    append_to(&mut service.client(), "room-1", 1).await;
    let order = whole_order(&mut service.client()).await;
    service.stop();
    let other = fs::read(&segment).unwrap();
    both[shared..other.len()].copy_from_slice(&other[shared..]);
    fs::write(&segment, both).unwrap();
    forget_index(&service);
    let (done, said) = service.run(&["repair"]);
    assert!(
        !done
            && said.contains("at position 6 does not continue the log")
            && said.contains("--discard-after-damage"),
        "{said}"
    );
    let (done, said) = service.run(&["repair", "--discard-after-damage"]);
    assert!(done && said.contains("frames=4 events=3 snapshots=1"), "{said}");
    for position in 6..=8 {
        let passed_over = format!("first={position} last={position}");
        assert_eq!(said.matches(&passed_over).count(), 1, "{said}");
    }
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await, order);
    // The snapshot belongs to another history.
    assert_eq!(service.stats().await.snapshot_count, 0);
}
