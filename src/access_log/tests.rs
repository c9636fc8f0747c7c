//! Tests of the queue, the lines and the file.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use super::*;

fn settings(folder: &Path) -> AccessLogSettings {
    AccessLogSettings {
        folder: folder.to_owned(),
        file_bytes_max: 10 << 20,
        files_max: 5,
        log_writes: false,
        log_reads: false,
    }
}

fn entry(kind: EntryKind, call: &str) -> Entry {
    Entry::new(kind, LoggedCaller::default(), CallName::of_path(call), "UNAUTHENTICATED")
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::new(seconds, 0).unwrap()
}

fn batch(calls: &[&str]) -> Batch {
    let entries = calls.iter().map(|call| (at(1), entry(EntryKind::Refusal, call))).collect();
    Batch { entries, lost: Lost::default(), reopen: false, is_last: false }
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn calls(path: &Path) -> Vec<String> {
    lines(path).iter().map(|line| line["call"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_hundred_refusals_a_second_are_kept_and_the_rest_is_counted() {
    let (mut queue, start) = (Queue::default(), Instant::now());
    for second in 0..300 {
        let now = start + Duration::from_secs(second);
        for _ in 0..100 {
            queue.add(entry(EntryKind::Refusal, "call"), at(1), now);
        }
    }
    assert_eq!((queue.waiting.len(), queue.lost), (30_000, Lost::default()));
    let now = start + Duration::from_secs(300);
    for _ in 0..150 {
        queue.add(entry(EntryKind::Refusal, "call"), at(1), now);
    }
    assert_eq!((queue.waiting.len(), queue.lost), (30_100, Lost { refusals: 50, others: 0 }));
    for second in 301..400 {
        for _ in 0..100 {
            queue.add(entry(EntryKind::Refusal, "call"), at(1), start + Duration::from_secs(second));
        }
    }
    assert_eq!(queue.waiting.len(), WAITING_MAX);
    let lost = 50 + 30_100 + 9900 - WAITING_MAX as u64;
    assert_eq!(queue.lost, Lost { refusals: lost, others: 0 });
}

#[test]
fn reads_take_no_place_of_a_refusal() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    for _ in 0..OPTIONAL_WAITING_MAX + 10 {
        queue.add(entry(EntryKind::Read, "call"), at(1), now);
    }
    for kind in [EntryKind::Refusal, EntryKind::Always] {
        queue.add(entry(kind, "call"), at(1), now);
    }
    assert_eq!(queue.waiting.len(), OPTIONAL_WAITING_MAX + 2);
    assert_eq!(queue.lost, Lost { refusals: 0, others: 10 });
}

#[test]
fn counts_are_told_once_a_second_and_at_the_end() {
    let (mut queue, start) = (Queue::default(), Instant::now());
    assert!(queue.take(start).is_none());
    queue.lost.refusals = 5;
    assert_eq!(queue.take(start).unwrap().lost, Lost { refusals: 5, others: 0 });
    queue.lost.others = 7;
    assert!(queue.take(start + Duration::from_millis(999)).is_none());
    queue.add(entry(EntryKind::Always, "call"), at(1), start);
    let taken = queue.take(start + Duration::from_millis(999)).unwrap();
    assert_eq!((taken.entries.len(), taken.lost), (1, Lost::default()));
    queue.closed = true;
    let taken = queue.take(start + Duration::from_millis(999)).unwrap();
    assert_eq!((taken.is_last, taken.lost), (true, Lost { refusals: 0, others: 7 }));
}

#[test]
fn what_could_not_be_written_waits_before_what_came_later() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.add(entry(EntryKind::Read, "first"), at(1), now);
    queue.lost.refusals = 3;
    let taken = queue.take(now).unwrap();
    queue.add(entry(EntryKind::Write, "second"), at(2), now);
    queue.put_back(taken);
    assert_eq!((queue.optional, queue.lost), (2, Lost { refusals: 3, others: 0 }));
    let names: Vec<String> = queue.waiting.iter().map(|(_, entry)| entry.call.to_string()).collect();
    assert_eq!(names, ["first", "second"]);
}

#[test]
fn a_line_has_what_is_known_and_cannot_act_on_a_terminal() {
    let caller = LoggedCaller {
        identity: Some("arena-1".into()),
        token: Some("k3v9x2ab".into()),
        address: Some("[::1]:50051".parse().unwrap()),
        uid: None,
    };
    let call = CallName::Known("aethyr.eventstore.v1.EventStoreService", "AppendEvents");
    let mut entry = Entry::new(EntryKind::Refusal, caller, call, "PERMISSION_DENIED");
    entry.reason = Some("NOT_ALLOWED".into());
    (entry.events, entry.first_position) = (Some(3), Some(17));
    let line = entry.line(at(1_795_600_800)).unwrap();
    assert_eq!(
        line,
        "{\"time\":\"2026-11-25T10:00:00Z\",\"identity\":\"arena-1\",\"token\":\"k3v9x2ab\",\
         \"peer\":\"[::1]:50051\",\"call\":\"aethyr.eventstore.v1.EventStoreService/AppendEvents\",\
         \"code\":\"PERMISSION_DENIED\",\"reason\":\"NOT_ALLOWED\",\"events\":3,\"first_position\":17}\n"
    );
    const HOSTILE: &str = "/x\x1b[2J\u{9b}31m\u{202e}y\n{\"forged\":1}\u{2028}";
    let line = self::entry(EntryKind::Refusal, HOSTILE).line(at(1)).unwrap();
    assert_eq!(line.matches('\n').count(), 1, "{line:?}");
    assert!(!line.contains(['\x1b', '\u{9b}', '\u{202e}', '\u{2028}']), "{line:?}");
    let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(parsed["call"].as_str(), HOSTILE.strip_prefix('/'));
    let long = self::entry(EntryKind::Refusal, &"é".repeat(10_000)).line(at(1)).unwrap();
    assert!(long.len() < 600, "{}", long.len());
}

#[test]
fn a_log_has_refusals_and_only_the_calls_that_are_configured() {
    for (log_writes, log_reads) in [(false, false), (true, false), (false, true)] {
        let folder = tempfile::tempdir().unwrap();
        let settings = AccessLogSettings { log_writes, log_reads, ..settings(folder.path()) };
        let (log, guard) = AccessLog::open(settings).unwrap();
        for (kind, call) in [
            (EntryKind::Refusal, "refused"),
            (EntryKind::Write, "write"),
            (EntryKind::Read, "read"),
            (EntryKind::Always, "always"),
        ] {
            log.write(entry(kind, call));
        }
        log.write(Entry::reload("access.file", false));
        drop(guard);
        let mut expected = vec!["refused"];
        expected.extend(log_writes.then_some("write"));
        expected.extend(log_reads.then_some("read"));
        expected.extend(["always", "reload/access.file"]);
        let path = folder.path().join(file::FILE_NAME);
        assert_eq!(calls(&path), expected);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn every_refusal_of_a_flood_is_a_line_or_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (log, guard) = AccessLog::open(settings(folder.path())).unwrap();
    for _ in 0..1000 {
        log.write(entry(EntryKind::Refusal, "call"));
    }
    drop(guard);
    let lines = lines(&folder.path().join(file::FILE_NAME));
    let (counts, logged): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.get("call").is_none());
    let counted: u64 = counts.iter().map(|line| line["refusals_not_logged"].as_u64().unwrap()).sum();
    assert_eq!(logged.len() as u64 + counted, 1000);
    assert!(logged.len() >= 100, "{}", logged.len());
}

#[test]
fn nothing_is_written_without_a_log() {
    let log = AccessLog::default();
    assert!(!log.takes(EntryKind::Refusal));
    log.write(entry(EntryKind::Refusal, "call"));
    log.reopen();
}

#[test]
fn files_are_bounded_in_size_and_number_and_only_their_owner_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join(file::FILE_NAME);
    fs::write(&old, "").unwrap();
    fs::set_permissions(&old, fs::Permissions::from_mode(0o644)).unwrap();
    let settings = AccessLogSettings { file_bytes_max: 200, files_max: 3, ..settings(folder.path()) };
    let mut file = LogFile::new(settings);
    for _ in 0..50 {
        file.write(&mut batch(&["call"])).unwrap();
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert!(metadata.len() <= 400, "{}", metadata.len());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["access.log", "access.log.1", "access.log.2"]);
}

#[test]
fn a_file_that_was_moved_is_left_when_asked_and_a_removed_one_is_created_again() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join(file::FILE_NAME), folder.path().join("moved"));
    let mut file = LogFile::new(settings(folder.path()));
    file.write(&mut batch(&["first"])).unwrap();
    fs::rename(&path, &moved).unwrap();
    fs::write(&path, "").unwrap();
    file.write(&mut batch(&["second"])).unwrap();
    assert_eq!(calls(&moved), ["first", "second"]);
    file.write(&mut Batch { reopen: true, ..batch(&["third"]) }).unwrap();
    assert_eq!((calls(&moved).len(), calls(&path)), (2, vec!["third".to_owned()]));
    fs::remove_file(&path).unwrap();
    file.write(&mut batch(&["fourth"])).unwrap();
    assert_eq!(calls(&path), ["fourth"]);
}

#[test]
fn a_file_that_cannot_be_written_keeps_what_waits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file::FILE_NAME);
    let mut file = LogFile::new(settings(folder.path()));
    fs::create_dir(&path).unwrap();
    let mut waiting = batch(&["first", "second"]);
    waiting.lost.refusals = 9;
    file.write(&mut waiting).unwrap_err();
    assert_eq!((waiting.entries.len(), waiting.lost.refusals), (2, 9));
    fs::remove_dir(&path).unwrap();
    file.write(&mut waiting).unwrap();
    assert_eq!((waiting.entries.len(), waiting.lost), (0, Lost::default()));
    let lines = lines(&path);
    assert_eq!((lines.len(), lines[0]["refusals_not_logged"].as_u64()), (3, Some(9)));
}

#[test]
fn entries_wait_for_a_folder_that_cannot_be_written_to_at_first() {
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("logs");
    fs::write(&logs, "a file where the folder should be").unwrap();
    let mut file = LogFile::new(settings(&logs));
    let mut waiting = batch(&["first"]);
    file.write(&mut waiting).unwrap_err();
    assert_eq!(waiting.entries.len(), 1);
    fs::remove_file(&logs).unwrap();
    file.write(&mut waiting).unwrap();
    assert_eq!(calls(&logs.join(file::FILE_NAME)), ["first"]);
}
