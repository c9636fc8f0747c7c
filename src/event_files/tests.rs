//! Tests of the file format, of gaps left by a crash, and of foreign objects among the files.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    process::Command,
};

use proptest::prelude::*;

use super::{known_files::EventFile, *};
use crate::{
    config::{EventSourcingConfig, LimitsConfig},
    event::{
        AggregateId, AppendBounds, ChainHash, Content, ContentDigest, EventId, NewEvent, RecordedEvent,
        SequenceNumber, Snapshot, Timestamp,
        record::{self, ReplicationMark},
    },
    log::LogOffset,
    replication::{PendingLimits, state::State},
    server,
    storage::Storage,
};

fn recorded(content: Content) -> RecordedEvent {
    let event = NewEvent {
        id: EventId::random(),
        aggregate_id: AggregateId::new("../x:Ä").unwrap(),
        aggregate_type: "Room".into(),
        event_type: "RoomCreated".into(),
        content,
        correlation_id: String::new(),
        causation_id: "c".into(),
        metadata: BTreeMap::from([("actor".into(), "admin".into())]),
        occurred_at: Timestamp::new(-5, 1),
    };
    RecordedEvent {
        digest: ContentDigest::of(&event),
        event,
        sequence: SequenceNumber(3),
        position: Position(7),
        recorded_at: Timestamp::new(1_700_000_000, 123_456_789).unwrap(),
        recorded_by: "arena-1".into(),
        append: AppendBounds { first: Position(6), last: Position(8) },
        hash: ChainHash::START.chain(b"x"),
    }
}

/// The file must yield the same bytes again, or its hash would no longer match.
fn assert_kept_exactly(content: Content) {
    let event = recorded(content);
    let back = format::read_event(&format::write_event(event.clone())).unwrap();
    assert_eq!(back, event);
    assert_eq!(record::encode_recorded(&back), record::encode_recorded(&event));
}

#[test]
fn a_file_gives_the_same_record_again() {
    let texts = ["{}", " { \"a\" : 1.0e400 }\n", "{\"a\":1,\"a\":2}", "\"\\u0000\"", "[1,\n 2]", "1"];
    for text in texts {
        assert_kept_exactly(Content::Json(text.to_owned()));
    }
    assert_kept_exactly(Content::Absent);
    assert_kept_exactly(Content::Binary(vec![0, 255, 7].into()));
}

/// `import` accepts a file only if the hash of its record is that of the file.
#[test]
fn a_forged_name_of_an_identity_does_not_fit_the_hash() {
    let mut event = recorded(Content::Json("{}".into()));
    event.hash = ChainHash::START.chain(&record::encode_recorded(&event));
    let text = String::from_utf8(format::write_event(event.clone())).unwrap();
    let fits = |text: &str| {
        let found = format::read_event(text.as_bytes()).unwrap();
        found.hash == ChainHash::START.chain(&record::encode_recorded(&found))
    };
    assert!(fits(&text));
    const NAMED: &str = "  \"recorded_by\": \"arena-1\",\n";
    assert!(text.contains(NAMED), "{text}");
    assert!(!fits(&text.replace("arena-1", "arena-2")));
    assert!(!fits(&text.replace(NAMED, "")));
    // A file of an earlier version has no name, and fits.
    let mut old = RecordedEvent { recorded_by: "".into(), ..event };
    old.hash = ChainHash::START.chain(&record::encode_recorded(&old));
    let text = String::from_utf8(format::write_event(old)).unwrap();
    assert!(!text.contains("recorded_by") && fits(&text), "{text}");
    let forged = text.replace("  \"position\"", &format!("{NAMED}  \"position\""));
    assert_ne!(forged, text);
    assert!(!fits(&forged));
}

#[test]
fn a_snapshot_file_gives_the_same_snapshot_again() {
    let snapshot = Snapshot {
        aggregate_id: AggregateId::new("room-1").unwrap(),
        sequence: SequenceNumber(9),
        content: Content::Json("{\"name\": \"Forest\"}".into()),
        schema_version: 4,
        metadata: BTreeMap::new(),
        recorded_at: Timestamp::new(1_700_000_000, 5).unwrap(),
        event_hash: ChainHash::START.chain(b"x"),
    };
    assert_eq!(format::read_snapshot(&format::write_snapshot(snapshot.clone())), Some(snapshot));
}

#[test]
fn a_file_of_somebody_else_is_no_event() {
    assert_eq!(format::read_event(b""), None);
    assert_eq!(format::read_event(b"{}"), None);
    let whole = format::write_event(recorded(Content::Json("{}".into())));
    for length in 0..whole.len() - 2 {
        assert_eq!(format::read_event(&whole[..length]), None, "cut at {length}");
    }
}

proptest! {
    #[test]
    fn any_content_is_kept_exactly(text in any::<String>(), bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        assert_kept_exactly(Content::Json(serde_json::to_string(&text).unwrap()));
        assert_kept_exactly(Content::Binary(bytes.into()));
    }
}

/// Creates a writer over an empty directory, and the shared state that Stats reads. ImmuDB has the
/// log up to `forwarded`.
fn writer(dir: &std::path::Path, forwarded: u64) -> (EventFileWriter, Arc<EventFiles>) {
    let config = EventSourcingConfig {
        log_path: dir.join("log"),
        index_path: dir.join("index"),
        storage_path: dir.join("events"),
        ..EventSourcingConfig::default()
    };
    let limits = PendingLimits { events_max: 100, bytes_max: 100, segment_bytes_max: 100 };
    let replication =
        Arc::new(ReplicationStatus::new(State::Connected, mark(forwarded), LogOffset::START, false, limits));
    let progress = Arc::new(PublishedProgress::default());
    let shared = Arc::new(EventFiles {
        files_max: 100,
        replication: replication.clone(),
        tip: watch::channel(Tip { position: Position(forwarded), ..Tip::START }).1,
        progress: progress.clone(),
    });
    let storage = Storage::open(&server::settings::storage(&config, &LimitsConfig::default())).unwrap();
    let settings = Settings { folder: config.storage_path, files_max: 100 };
    (EventFileWriter::new(&settings, storage.history(), replication, progress), shared)
}

fn mark(position: u64) -> ReplicationMark {
    ReplicationMark { position: Position(position), ..ReplicationMark::default() }
}

/// Returns the event at a position. All events belong to one aggregate.
fn numbered(position: u64) -> RecordedEvent {
    let event = recorded(Content::Absent);
    RecordedEvent { sequence: SequenceNumber(position), position: Position(position), ..event }
}

/// Writes files as a crash leaves them, and takes them over as at a start with nothing in ImmuDB.
fn found(writer: &mut EventFileWriter, positions: &[u64]) {
    let mut waiting = VecDeque::new();
    for event in positions.iter().map(|position| numbered(*position)) {
        let (position, sequence) = (event.position, event.sequence);
        waiting.push_back(EventFile { position, aggregate: event.event.aggregate_id.clone(), sequence });
        writer.folder.write_event(event).unwrap();
    }
    writer.files.take_up(waiting, Position(0));
    writer.publish(mark(0));
}

#[test]
fn files_behind_a_gap_hold_up_none_before_them() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _) = writer(dir.path(), 0);
    found(&mut writer, &[1, 2, 4, 5, 7]);
    writer.write_event(numbered(3)).unwrap();
    // The fifth need not be written again; the sixth comes next.
    assert_eq!(writer.files.written_to(), Position(5));
    assert_eq!(writer.clear(mark(3)).unwrap(), 3);
    let left = |writer: &EventFileWriter| writer.folder.event_paths().unwrap().len();
    assert_eq!(left(&writer), 3);
    // ImmuDB has committed the sixth, which has no file.
    assert_eq!(writer.clear(mark(7)).unwrap(), 3);
    assert_eq!(left(&writer), 0);
    assert!(writer.files.is_empty());
}

#[test]
fn files_behind_a_gap_are_pending_once_immudb_has_their_events() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, shared) = writer(dir.path(), 5);
    found(&mut writer, &[4, 5]);
    assert!(shared.pending() > 0);
    writer.clear(mark(5)).unwrap();
    writer.publish(mark(5));
    assert_eq!(shared.pending(), 0);
    assert!(writer.folder.event_paths().unwrap().is_empty());
}

#[test]
fn a_file_is_pending_until_the_files_of_an_earlier_run_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, shared) = writer(dir.path(), 5);
    assert_eq!(shared.pending(), 1);
    writer.publish(mark(5));
    assert_eq!(shared.pending(), 0);
}

/// Creates a foreign object at the path of a file.
fn put(what: &str, path: &Path, elsewhere: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    match what {
        "a link" => std::os::unix::fs::symlink(elsewhere, path).unwrap(),
        "a pipe" => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
        "a folder" => put("a file", &path.join("note"), elsewhere),
        _ => std::fs::write(path, "not ours").unwrap(),
    }
}

#[test]
fn what_lies_in_the_place_of_a_file_is_set_aside_and_holds_up_nothing() {
    let event = numbered(1);
    let name = event.event.aggregate_id.encoded();
    for what in ["a link", "a pipe", "a folder", "a file"] {
        for place in ["", "/1.event", "/1.partial", ".sequence", ".partial"] {
            let dir = tempfile::tempdir().unwrap();
            let (folder, elsewhere) = (dir.path().join("events"), dir.path().join("elsewhere"));
            std::fs::create_dir(&elsewhere).unwrap();
            let (mut writer, _) = writer(dir.path(), 0);
            let path = folder.join(format!("{name}{place}"));
            put(what, &path, &elsewhere);
            writer.folder.make_durable().unwrap();
            writer.folder.sweep().unwrap();
            writer.write_event(event.clone()).unwrap();
            let written = writer.folder.existing_event(&event.event.aggregate_id, event.sequence).unwrap();
            let read = format::read_event(&written.bytes().unwrap());
            assert_eq!(read.as_ref(), Some(&event), "{what} at {place:?}");
            assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0, "{what} at {place:?}");
            // Files that can be derived from others are replaced.
            let is_kept = match place {
                "" => what != "a folder",
                "/1.event" => true,
                _ => what == "a folder",
            };
            let aside = format!("{}.foreign-1", path.display());
            assert_eq!(Path::new(&aside).symlink_metadata().is_ok(), is_kept, "{what} at {place:?}");
        }
    }
}

#[test]
fn what_is_no_event_file_keeps_no_log_from_being_begun() {
    let dir = tempfile::tempdir().unwrap();
    let folder = EventFolder::new(&dir.path().join("events"));
    for (number, what) in ["a link", "a pipe", "a folder"].into_iter().enumerate() {
        put(what, &dir.path().join(format!("events/room-{number}/1.event")), dir.path());
    }
    put("a link", &dir.path().join("events/room-9"), dir.path());
    assert!(!folder.has_events().unwrap());
    put("a file", &dir.path().join("events/room-1/2.event"), dir.path());
    assert!(folder.has_events().unwrap());
}

#[test]
fn a_directory_is_that_of_aethyr_if_most_of_its_files_are() {
    for (of_ruby, others, expected) in [(0, 0, false), (1, 0, true), (1, 2, false), (9, 2, true)] {
        let dir = tempfile::tempdir().unwrap();
        let room = dir.path().join("room");
        std::fs::create_dir(&room).unwrap();
        for number in 0..of_ruby + others {
            let start: &[u8] = if number < of_ruby { b"\x04\x08{" } else { b"{" };
            std::fs::write(room.join(format!("{number}.event")), start).unwrap();
        }
        let folder = folder::EventFolder::new(dir.path());
        assert_eq!(folder.is_of_aethyr().unwrap(), expected, "{of_ruby} of {}", of_ruby + others);
    }
}
