//! Tests of reading record by record: order, memory use, skipping, and damage, with frames that fit
//! into the buffer and larger ones.

use std::{fs, path::Path};

use tempfile::{TempDir, tempdir};

use super::*;
use crate::log::{Log, Tip, recover};

/// Writes small appends, appends that are larger than the buffer, and frames without events between
/// them.
fn written(segment_bytes_max: u64) -> (TempDir, Log, Vec<Vec<u8>>) {
    let folder = tempdir().unwrap();
    let mut log = Log::new(recover(folder.path(), None).unwrap(), Tip::START, segment_bytes_max);
    let appends: Vec<Vec<Vec<u8>>> = vec![
        vec![b"one".to_vec(), b"two".to_vec()],
        (0..40).map(|number| vec![number; 20_000]).collect(),
        vec![vec![7; 3 * CHUNK_BYTES], b"small".to_vec()],
        vec![b"last".to_vec()],
    ];
    for append in &appends {
        let mut group = log.begin().unwrap();
        group.append(&append.iter().cloned().map(Bytes::from).collect::<Vec<_>>()).unwrap();
        _ = group.snapshot(b"a snapshot").unwrap();
        group.mark(b"a mark");
        log.write(group).unwrap();
    }
    (folder, log, appends.concat())
}

fn cursor(log: &Log) -> RecordCursor {
    RecordCursor::at(log.segments().clone(), LogOffset::START, Position(1))
}

fn read_all(
    mut cursor: RecordCursor,
    end: LogOffset,
    each: impl Fn(&mut RecordCursor),
) -> Result<Vec<Vec<u8>>, ReadError> {
    let mut records = Vec::new();
    while let Some(found) = cursor.find(end)? {
        let CursorItem::Record(found) = found else { continue };
        assert_eq!(found.position.0, records.len() as u64 + 1);
        records.push(found.bytes.to_vec());
        cursor.take(&found);
        each(&mut cursor);
    }
    Ok(records)
}

/// The position of a record, and the chain hash up to and including it.
type LastRecord = Option<(Position, ChainHash)>;

/// Returns the positions of the records that are returned up to `end`, and the last record that was
/// taken or skipped.
fn read_wanted(
    mut cursor: RecordCursor,
    end: LogOffset,
    is_wanted: impl Fn(Position) -> bool,
) -> Result<(Vec<u64>, LastRecord), ReadError> {
    let mut returned = Vec::new();
    while let Some(found) = cursor.find_wanted(end, |position, _| is_wanted(position))? {
        let CursorItem::Record(found) = found else { continue };
        returned.push(found.position.0);
        cursor.take(&found);
    }
    Ok((returned, cursor.last()))
}

#[test]
fn all_records_are_found_in_order_with_the_buffer_and_without() {
    for segment_bytes_max in [1, u64::MAX] {
        let (_folder, log, records) = written(segment_bytes_max);
        let end = log.tip().end;
        assert_eq!(read_all(cursor(&log), end, |_| {}).unwrap(), records);
        assert_eq!(read_all(cursor(&log), end, RecordCursor::forget).unwrap(), records);
    }
}

#[test]
fn a_record_stays_the_next_one_until_it_is_taken() {
    let (_folder, log, records) = written(u64::MAX);
    let (mut cursor, end) = (cursor(&log), log.tip().end);
    for record in &records {
        while matches!(cursor.find(end).unwrap().unwrap(), CursorItem::Skipped(_)) {}
        cursor.forget();
        let Some(CursorItem::Record(found)) = cursor.find(end).unwrap() else { panic!("it is gone") };
        assert_eq!(found.bytes.as_ref(), record);
        cursor.take(&found);
    }
}

#[test]
fn records_that_are_not_wanted_are_skipped_unless_their_frame_is_large() {
    for segment_bytes_max in [1, u64::MAX] {
        let (_folder, log, _) = written(segment_bytes_max);
        let tip = log.tip();
        for wanted in [vec![], vec![1], vec![2], vec![1, 2], vec![45], vec![1, 45]] {
            let is_wanted = |position: Position| wanted.contains(&position.0);
            let (returned, last) = read_wanted(cursor(&log), tip.end, is_wanted).unwrap();
            let (of_large, of_small): (Vec<u64>, Vec<u64>) =
                returned.into_iter().partition(|position| (3..=44).contains(position));
            assert_eq!(of_small, wanted);
            assert_eq!(of_large, (3..=44).collect::<Vec<_>>());
            assert_eq!(last, Some((tip.position, tip.hash)));
        }
    }
}

#[test]
fn a_returned_record_must_match_its_hash_and_a_skipped_one_the_checksum_of_its_frame() {
    let (folder, log, _) = written(u64::MAX);
    let (end, path) = (log.tip().end, segment::path(folder.path(), 1));
    let file = log.segments().file(1).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let start = usize::try_from(segment::HEADER_BYTES).unwrap();
    let frame_bytes = Header::parse(&bytes[start..]).unwrap().frame_bytes();
    let (head, payload) = bytes[start..start + frame_bytes].split_at_mut(HEADER_BYTES);
    let second = payload.windows(3).position(|bytes| bytes == b"two").unwrap();
    payload[second] ^= 1;
    let checksum = frame::checksum(file.salt(), segment::HEADER_BYTES, head, payload);
    head[4..8].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let read = |wanted: u64| read_wanted(cursor(&log), end, |position| position.0 == wanted);
    assert!(matches!(read(2), Err(ReadError::Damage(_))));
    assert_eq!(read(1).unwrap().0[..2], [1, 3]);
}

#[test]
fn records_that_are_read_again_are_checked_again() {
    let folder = tempdir().unwrap();
    let mut log = Log::new(recover(folder.path(), None).unwrap(), Tip::START, u64::MAX);
    let mut group = log.begin().unwrap();
    let stored = group.append(&[&b"one"[..], b"two", b"three"].map(Bytes::from_static)).unwrap();
    log.write(group).unwrap();
    let (mut cursor, end) = (cursor(&log), log.tip().end);
    let Some(CursorItem::Record(first)) = cursor.find_wanted(end, |_, _| true).unwrap() else {
        panic!("no record")
    };
    cursor.take(&first);
    cursor.forget();
    // The frame was intact when it was checked, and is damaged before the rest of it is read.
    let path = segment::path(folder.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    bytes[usize::try_from(stored[2].place.offset).unwrap() + LENGTH_BYTES] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let read = read_wanted(cursor, end, |_| false);
    assert!(matches!(read, Err(ReadError::Damage(_))), "{read:?}");
}

#[test]
fn a_large_frame_is_never_in_memory_as_a_whole() {
    let (_folder, log, _) = written(u64::MAX);
    let (mut cursor, end) = (cursor(&log), log.tip().end);
    while let Some(found) = cursor.find(end).unwrap() {
        // A part of the frame, or the one record that is larger.
        let record = match &found {
            CursorItem::Record(found) => found.bytes.len() + 100,
            CursorItem::Skipped(_) => 0,
        };
        assert!(cursor.buffer.len() <= CHUNK_BYTES.max(record), "{} bytes", cursor.buffer.len());
        if let CursorItem::Record(found) = found {
            cursor.take(&found);
        }
    }
}

#[test]
fn no_flipped_byte_goes_unnoticed() {
    let (folder, log, _) = written(u64::MAX);
    let (end, path) = (log.tip().end, segment::path(folder.path(), 1));
    log.close().unwrap();
    let bytes = fs::read(&path).unwrap();
    let recovered = recover(folder.path(), None).unwrap();
    let segments = recovered.segments();
    let at = |segments: &Arc<Segments>| RecordCursor::at(segments.clone(), LogOffset::START, Position(1));
    read_all(at(segments), end, RecordCursor::forget).unwrap();
    read_wanted(at(segments), end, |_| false).unwrap();
    let flip = |path: &Path, offset: usize| {
        let mut changed = bytes.clone();
        changed[offset] ^= 1;
        fs::write(path, changed).unwrap();
    };
    // Every byte of the small frames and of the headers, and some bytes of the large frames.
    let start = usize::try_from(segment::HEADER_BYTES).unwrap();
    let offsets = (start..start + 1000).chain((start + 1000..bytes.len()).step_by(9973));
    for offset in offsets.chain(bytes.len() - 500..bytes.len()) {
        flip(&path, offset);
        read_all(at(segments), end, RecordCursor::forget).unwrap_err();
        read_wanted(at(segments), end, |_| false).unwrap_err();
    }
}
