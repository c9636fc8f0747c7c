//! Tests of the log as a whole: what was written is read, a torn tail is truncated, and damage is
//! always noticed.

use std::fs;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};

use super::{
    frame::{FrameKind, FramePlace, HEADER_BYTES},
    *,
};

/// One frame to write.
#[derive(Debug, Clone)]
enum Piece {
    Append(Vec<Vec<u8>>),
    Snapshot(Vec<u8>),
    Mark(Vec<u8>),
}

fn open(folder: &Path) -> Result<Recovered, OpenError> {
    recover(folder, None)
}

fn new_log(folder: &Path, segment_bytes_max: u64) -> Log {
    Log::new(open(folder).unwrap(), Tip::START, segment_bytes_max)
}

fn write(log: &mut Log, pieces: &[Piece]) {
    let mut group = log.begin().unwrap();
    for piece in pieces {
        match piece {
            Piece::Append(records) => {
                let records: Vec<Bytes> = records.iter().cloned().map(Bytes::from).collect();
                group.append(&records).unwrap();
            }
            Piece::Snapshot(record) => _ = group.snapshot(record).unwrap(),
            Piece::Mark(mark) => group.mark(mark),
        }
    }
    log.write(group).unwrap();
}

/// Returns all frames up to the end.
fn frames(recovered: &Recovered) -> Result<Vec<Frame>, ReadError> {
    let start = crate::event::ChainHash::START;
    let mut cursor = Cursor::after(recovered.segments().clone(), LogOffset::START, Position(0), start);
    let mut frames = Vec::new();
    while let Some(read) = cursor.next(recovered.end)? {
        frames.push(read.frame);
    }
    Ok(frames)
}

fn appends(count: u8) -> Vec<Piece> {
    (0..count).map(|number| Piece::Append(vec![vec![number; 20]; 2])).collect()
}

/// Writes three groups of three frames each. Returns the end of each group.
fn three_groups() -> (TempDir, Vec<LogOffset>) {
    let folder = tempdir().unwrap();
    let mut log = new_log(folder.path(), u64::MAX);
    let mut ends = Vec::new();
    for _ in 0..3 {
        let mut pieces = appends(2);
        pieces.push(Piece::Snapshot(b"a snapshot".to_vec()));
        write(&mut log, &pieces);
        ends.push(log.tip().end);
    }
    log.close().unwrap();
    (folder, ends)
}

fn segment_path(folder: &TempDir) -> PathBuf {
    segment::path(folder.path(), 1)
}

/// Copies the segment into its own directory and changes it.
fn changed(folder: &TempDir, change: impl FnOnce(&mut Vec<u8>)) -> TempDir {
    let copy = tempdir().unwrap();
    let mut bytes = fs::read(segment_path(folder)).unwrap();
    change(&mut bytes);
    fs::write(segment_path(&copy), bytes).unwrap();
    copy
}

fn pieces() -> impl Strategy<Value = Vec<Vec<Piece>>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..200);
    let piece = prop_oneof![
        4 => prop::collection::vec(bytes(), 1..5).prop_map(Piece::Append),
        1 => bytes().prop_map(Piece::Snapshot),
        1 => bytes().prop_map(Piece::Mark),
    ];
    prop::collection::vec(prop::collection::vec(piece, 1..5), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_was_written_is_read_over_any_number_of_segments(groups in pieces(), max in 65..3000u64) {
        let folder = tempdir().unwrap();
        let mut log = new_log(folder.path(), max);
        for group in &groups {
            write(&mut log, group);
        }
        let tip = log.tip();
        drop(log);
        let recovered = recover(folder.path(), Some(tip.end)).unwrap();
        prop_assert_eq!(recovered.end, tip.end);
        let read: Vec<Vec<Vec<u8>>> = frames(&recovered)
            .unwrap()
            .into_iter()
            .map(|frame| match frame {
                Frame::Append { records, .. } => {
                    records.into_iter().map(|stored| stored.bytes.to_vec()).collect()
                }
                Frame::Snapshot { record, .. } => vec![record.bytes.to_vec()],
                Frame::Mark(bytes) => vec![bytes.to_vec()],
            })
            .collect();
        let written: Vec<Vec<Vec<u8>>> = groups
            .into_iter()
            .flatten()
            .map(|piece| match piece {
                Piece::Append(records) => records,
                Piece::Snapshot(bytes) | Piece::Mark(bytes) => vec![bytes],
            })
            .collect();
        prop_assert_eq!(read, written);
    }
}

#[test]
fn each_flipped_byte_is_noticed_or_was_never_synced() {
    let (folder, ends) = three_groups();
    let whole = frames(&open(folder.path()).unwrap()).unwrap();
    let length = fs::metadata(segment_path(&folder)).unwrap().len();
    // In the header, everything after the checksum is unused.
    let unused = 36..segment::HEADER_BYTES;
    for at in 0..length {
        for bit in [0, 7] {
            let copy = changed(&folder, |bytes| bytes[at as usize] ^= 1 << bit);
            let seen = recover(copy.path(), Some(ends[2]));
            if unused.contains(&at) {
                assert_eq!(frames(&seen.unwrap()).unwrap(), whole, "byte {at}");
                continue;
            }
            assert!(matches!(seen, Err(OpenError::Damage(_))), "byte {at}: {seen:?}");
            let unchanged = changed(&folder, |bytes| bytes[at as usize] ^= 1 << bit);
            let same = fs::read(segment_path(&unchanged)).unwrap() == fs::read(segment_path(&copy)).unwrap();
            assert!(same, "byte {at}: a damaged log was touched");
            // Without an index, only the last group may be mistaken for a torn tail.
            match open(copy.path()) {
                Err(error) => {
                    assert!(matches!(error, OpenError::Damage(_)), "byte {at}: {error}");
                    assert!(at < ends[1].offset, "byte {at} belongs to the last group");
                }
                Ok(recovered) => {
                    assert!(at >= ends[1].offset && recovered.end.offset <= at, "byte {at}");
                    let left = frames(&recovered).unwrap();
                    assert_eq!(left, whole[..left.len()], "byte {at}");
                    assert!(left.len() >= 6, "byte {at}: a synced group was lost");
                }
            }
        }
    }
}

#[test]
fn each_cut_is_noticed_or_was_never_synced() {
    let (folder, ends) = three_groups();
    let whole = frames(&open(folder.path()).unwrap()).unwrap();
    let length = fs::metadata(segment_path(&folder)).unwrap().len();
    for cut in 0..length {
        let copy = changed(&folder, |bytes| bytes.truncate(cut as usize));
        // A copy that was made during a write may be torn anywhere.
        let seen = recover(copy.path(), Some(ends[2]));
        match seen {
            Err(OpenError::Older { .. }) if cut >= segment::HEADER_BYTES => {}
            // Then there is no segment at all.
            Err(OpenError::Damage(_)) if cut < segment::HEADER_BYTES => {}
            other => panic!("cut at {cut}: {other:?}"),
        }
        let copy = changed(&folder, |bytes| bytes.truncate(cut as usize));
        let recovered = open(copy.path()).unwrap();
        let left = frames(&recovered).unwrap();
        assert_eq!(left, whole[..left.len()], "cut at {cut}");
        assert!(recovered.end.offset <= cut.max(segment::HEADER_BYTES), "cut at {cut}");
        // The truncated bytes are gone for good: the log continues from there.
        assert_eq!(frames(&open(copy.path()).unwrap()).unwrap(), left, "cut at {cut}");
    }
}

#[test]
fn a_last_group_with_holes_is_cut_back_to_before_its_first_hole() {
    let (folder, ends) = three_groups();
    let whole = frames(&open(folder.path()).unwrap()).unwrap();
    // A power cut may keep later pages and lose earlier ones.
    for hole in (ends[1].offset..ends[2].offset - 3).step_by(7) {
        let copy = changed(&folder, |bytes| bytes[hole as usize..][..3].fill(0xee));
        let recovered = open(copy.path()).unwrap();
        let left = frames(&recovered).unwrap();
        assert!(left.len() >= 6 && left.len() < 9, "hole at {hole}");
        assert_eq!(left, whole[..left.len()]);
        let mut log = Log::new(recovered, tip_of(&left), u64::MAX);
        write(&mut log, &appends(1));
        let end = log.tip().end;
        drop(log);
        let again = frames(&recover(copy.path(), Some(end)).unwrap()).unwrap();
        assert_eq!(again.len(), left.len() + 1, "hole at {hole}");
    }
}

/// Returns the tip of a log whose only segment holds exactly these frames.
fn tip_of(frames: &[Frame]) -> Tip {
    let mut tip = Tip::START;
    for frame in frames {
        let entries = match frame {
            Frame::Append { first, records, .. } => {
                tip.position = Position(first.0 + records.len() as u64 - 1);
                tip.hash = records.last().unwrap().hash;
                records.iter().map(|stored| frame::entry_bytes(stored.bytes.len() as u32)).sum::<u64>() + 44
            }
            Frame::Snapshot { number, record } => {
                tip.snapshots = *number;
                frame::entry_bytes(record.bytes.len() as u32) + 40
            }
            Frame::Mark(bytes) => bytes.len() as u64,
        };
        tip.end.offset += HEADER_BYTES as u64 + entries;
    }
    tip
}

/// Appends a frame with this version and kind to the only segment.
fn with_frame_of(folder: &TempDir, end: LogOffset, version: u8, kind: u8) -> TempDir {
    changed(folder, |bytes| {
        let salt = segment::Segment::salt_of(bytes, 1).unwrap();
        let place = FramePlace { offset: end.offset, group_offset: end.offset };
        let start = bytes.len();
        frame::write(bytes, &salt, place, FrameKind::Mark, |out| out.extend_from_slice(b"new"));
        let frame = &mut bytes[start..];
        (frame[12], frame[13]) = (kind, version);
        let (header, payload) = frame.split_at(HEADER_BYTES);
        let checksum = frame::checksum(&salt, end.offset, header, payload);
        frame[4..8].copy_from_slice(&checksum.to_le_bytes());
    })
}

#[test]
fn a_frame_of_a_newer_version_is_refused_by_name_and_not_cut_off() {
    let (folder, ends) = three_groups();
    let behind = LogOffset { offset: ends[2].offset + 27, ..ends[2] };
    for (version, kind, named) in [(2, 1, "frame version 2"), (1, 4, "frame kind 4")] {
        let copy = with_frame_of(&folder, ends[2], version, kind);
        let before = fs::read(segment_path(&copy)).unwrap();
        assert_eq!(before.len() as u64, behind.offset);
        for seen in [None, Some(ends[2]), Some(behind)] {
            let refused = recover(copy.path(), seen).unwrap_err();
            assert!(matches!(refused, OpenError::Newer(_)), "{refused}");
            assert!(refused.to_string().contains(named), "{refused}");
        }
        let refused = recover_read_only(copy.path()).unwrap_err();
        assert!(matches!(refused, OpenError::Newer(_)), "{refused}");
        assert_eq!(fs::read(segment_path(&copy)).unwrap(), before);
        // With a wrong checksum, it is a torn tail like any other.
        let torn = changed(&copy, |bytes| *bytes.last_mut().unwrap() ^= 1);
        assert_eq!(open(torn.path()).unwrap().end, ends[2]);
    }
}

#[test]
fn a_segment_of_a_newer_version_is_refused_by_name() {
    let (folder, _) = three_groups();
    let copy = changed(&folder, |bytes| {
        bytes[8] = 2;
        let checksum = crc32c::crc32c(&bytes[..32]);
        bytes[32..36].copy_from_slice(&checksum.to_le_bytes());
    });
    let refused = open(copy.path()).unwrap_err();
    assert!(matches!(refused, OpenError::Newer(_)), "{refused}");
    assert!(refused.to_string().contains("segment version 2"), "{refused}");
    assert!(segment_path(&copy).exists());
}

#[test]
fn a_later_group_of_a_newer_version_shows_that_the_bytes_before_it_were_synced() {
    let (folder, ends) = three_groups();
    let newer = with_frame_of(&folder, ends[2], 2, 1);
    let damaged = changed(&newer, |bytes| bytes[ends[1].offset as usize + HEADER_BYTES] ^= 1);
    let refused = open(damaged.path()).unwrap_err();
    assert!(refused.to_string().contains("followed by later groups"), "{refused}");
}

#[test]
fn a_segment_of_a_newer_version_is_found_behind_a_damaged_one() {
    let folder = tempdir().unwrap();
    let mut log = new_log(folder.path(), 1);
    write(&mut log, &appends(1));
    write(&mut log, &appends(1));
    drop(log);
    check_versions(folder.path()).unwrap();
    let (first, second) = (segment::path(folder.path(), 1), segment::path(folder.path(), 2));
    let mut bytes = fs::read(&second).unwrap();
    bytes[8] = 2;
    let checksum = crc32c::crc32c(&bytes[..32]);
    bytes[32..36].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&second, bytes).unwrap();
    let mut bytes = fs::read(&first).unwrap();
    bytes[0] ^= 1;
    fs::write(&first, bytes).unwrap();
    let refused = check_versions(folder.path()).unwrap_err();
    assert!(matches!(refused, ReadError::Newer(_)), "{refused}");
}

#[test]
fn events_that_hold_frames_are_no_frames() {
    let folder = tempdir().unwrap();
    let mut log = new_log(folder.path(), u64::MAX);
    write(&mut log, &appends(2));
    let before = log.tip().end;
    // A client does not know the salt. This one guesses it, and knows everything else exactly.
    let mut hostile = Vec::new();
    for offset in before.offset..before.offset + 300 {
        let place = FramePlace { offset, group_offset: offset };
        frame::write(&mut hostile, &[0; 16], place, FrameKind::Mark, |out| out.extend_from_slice(b"!"));
    }
    write(&mut log, &[Piece::Append(vec![hostile])]);
    drop(log);
    let copy = changed(&folder, |bytes| bytes[before.offset as usize] ^= 1);
    // The torn frame is truncated. Nothing in it is mistaken for a later group, which would be
    // damage.
    let recovered = open(copy.path()).unwrap();
    assert_eq!(recovered.end, before);
    assert_eq!(frames(&recovered).unwrap().len(), 2);
}

#[test]
fn unsynced_frames_are_one_group_with_what_follows() {
    let folder = tempdir().unwrap();
    let mut log = new_log(folder.path(), u64::MAX);
    write(&mut log, &appends(1));
    let synced = log.tip().end;
    let mut group = log.begin().unwrap();
    group.append(&[Bytes::from_static(b"not synced")]).unwrap();
    log.write_unsynced(group).unwrap();
    write(&mut log, &appends(1));
    drop(log);
    // As long as neither was synced, the first frame may be lost although the second is intact.
    let copy = changed(&folder, |bytes| bytes[synced.offset as usize + 30] ^= 1);
    assert_eq!(open(copy.path()).unwrap().end, synced);
}

#[test]
fn a_segment_that_was_never_completed_is_created_again() {
    for (left, byte) in [(0, 0), (1, 0), (40, 0), (63, 0), (64, 0), (40, 7), (64, 7)] {
        let folder = tempdir().unwrap();
        let mut log = new_log(folder.path(), 65);
        write(&mut log, &appends(1));
        let tip = log.tip();
        drop(log);
        fs::write(segment::path(folder.path(), 2), vec![byte; left]).unwrap();
        let recovered = recover(folder.path(), Some(tip.end)).unwrap();
        assert_eq!(recovered.end, tip.end, "{left} bytes of {byte}");
        let mut log = Log::new(recovered, tip, 65);
        write(&mut log, &appends(1));
        assert_eq!(log.tip().end.segment, 2);
        drop(log);
        assert_eq!(frames(&open(folder.path()).unwrap()).unwrap().len(), 2);
    }
}

#[test]
fn a_missing_segment_is_damage() {
    let folder = tempdir().unwrap();
    let mut log = new_log(folder.path(), 65);
    for _ in 0..4 {
        write(&mut log, &appends(1));
    }
    let end = log.tip().end;
    assert_eq!(end.segment, 4);
    drop(log);
    for missing in 1..=4 {
        let path = segment::path(folder.path(), missing);
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let opened = recover(folder.path(), Some(end));
        // Without the last segment, the log may as well be an older copy.
        let told = match missing {
            4 => matches!(opened, Err(OpenError::Older { .. })),
            _ => matches!(opened, Err(OpenError::Damage(_))),
        };
        assert!(told, "without {missing}: {opened:?}");
        fs::write(&path, kept).unwrap();
    }
    assert_eq!(frames(&open(folder.path()).unwrap()).unwrap().len(), 4);
}

#[test]
fn a_failed_log_accepts_no_writes() {
    let folder = tempdir().unwrap();
    let mut log = new_log(folder.path(), u64::MAX);
    write(&mut log, &appends(1));
    log.fail();
    assert!(matches!(log.begin(), Err(WriteError::Failed)));
    assert_eq!(frames(&open(folder.path()).unwrap()).unwrap().len(), 1);
}

#[test]
fn what_was_taken_back_is_never_read() {
    let folder = tempdir().unwrap();
    let mut log = new_log(folder.path(), u64::MAX);
    write(&mut log, &appends(1));
    let published = log.tip();
    let mut cursor = Cursor::new(log.segments().clone(), LogOffset::START);
    // A group under way is after the end that readers know.
    let mut group = log.begin().unwrap();
    group.append(&[Bytes::from_static(b"refused")]).unwrap();
    log.write_unsynced(group).unwrap();
    assert!(cursor.next(published.end).unwrap().is_some());
    assert!(cursor.next(published.end).unwrap().is_none());
    // It fails and is removed, and another group takes its place.
    let file = log.segments().file(1).unwrap();
    log.take_back(&file, published.end, io::Error::other("a full disk"));
    log.tip = published;
    write(&mut log, &[Piece::Append(vec![b"taken".to_vec()])]);
    let Some(ReadFrame { frame: Frame::Append { records, .. }, .. }) = cursor.next(log.tip().end).unwrap()
    else {
        panic!("no append")
    };
    assert_eq!(records[0].bytes.as_ref(), b"taken");
}

#[test]
fn a_segment_with_frames_is_never_taken_for_an_unfinished_one() {
    let (folder, _) = three_groups();
    let copy = changed(&folder, |bytes| bytes[..64].fill(0));
    assert!(matches!(open(copy.path()), Err(OpenError::Damage(_))));
    assert!(segment_path(&copy).exists());
}

#[test]
fn a_torn_tail_full_of_headers_is_opened_about_as_fast_as_any_other() {
    // Each of these claims to be the header of a frame that fills all of the remaining space.
    const BYTES: usize = 4 << 20;
    let opened_in = |torn: &dyn Fn(u64) -> Vec<u8>| {
        let folder = tempdir().unwrap();
        let mut log = new_log(folder.path(), u64::MAX);
        write(&mut log, &appends(2));
        let before = log.tip().end;
        write(&mut log, &[Piece::Append(vec![torn(before.offset)])]);
        drop(log);
        let copy = changed(&folder, |bytes| bytes[before.offset as usize] ^= 1);
        let began = std::time::Instant::now();
        assert_eq!(open(copy.path()).unwrap().end, before);
        began.elapsed()
    };
    let innocent = opened_in(&|_| vec![b'.'; BYTES]);
    let hostile = opened_in(&|start| {
        let mut bytes = Vec::with_capacity(BYTES);
        while bytes.len() + HEADER_BYTES <= BYTES {
            let length = (BYTES - bytes.len() - HEADER_BYTES) as u32;
            bytes.extend_from_slice(b"AELF\0\0\0\0");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&[1, 1, 0, 0]);
            bytes.extend_from_slice(&(start + 1).to_le_bytes());
        }
        bytes
    });
    // If every checksum were computed over its whole length, this would be a factor of thousands.
    assert!(hostile < innocent * 100, "{hostile:?} instead of {innocent:?}");
}
