//! Tests of preallocated space: it is never mistaken for a torn tail or for damage, and neither of
//! them is mistaken for preallocated space.

use std::{fs, path::Path};

use bytes::Bytes;
use tempfile::{TempDir, tempdir};

use super::*;
use crate::log::{
    Access, Cursor, Damaged, Frame, Group, Log, LogOffset, OpenError, Recovered, Salvage, Segments, Tip,
    recover, recover_read_only, segment,
};

fn new_log(folder: &Path, segment_bytes_max: u64) -> Log {
    Log::new(recover(folder, None).unwrap(), Tip::START, segment_bytes_max)
}

fn write(log: &mut Log, add: impl FnOnce(&mut Group)) {
    let mut group = log.begin().unwrap();
    add(&mut group);
    log.write(group).unwrap();
}

fn append(log: &mut Log) {
    write(log, |group| _ = group.append(&[Bytes::from_static(&[7; 300])]).unwrap());
}

/// Writes three appends and drops the log without closing it.
fn left_by_a_crash() -> (TempDir, Tip) {
    let folder = tempdir().unwrap();
    let mut log = new_log(folder.path(), u64::MAX);
    (0..3).for_each(|_| append(&mut log));
    let tip = log.tip();
    (folder, tip)
}

fn path(folder: &TempDir) -> std::path::PathBuf {
    segment::path(folder.path(), 1)
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

fn change(folder: &TempDir, change: impl FnOnce(&mut [u8])) {
    let mut bytes = fs::read(path(folder)).unwrap();
    change(&mut bytes);
    fs::write(path(folder), bytes).unwrap();
}

fn frames(recovered: &Recovered) -> Vec<Frame> {
    let mut cursor = Cursor::new(recovered.segments().clone(), LogOffset::START);
    std::iter::from_fn(|| cursor.next(recovered.end).unwrap()).map(|read| read.frame).collect()
}

/// Returns the torn tails that were truncated and saved, with their file names.
fn torn(folder: &TempDir) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let torn = entries.filter(|path| path.to_string_lossy().contains(".torn-"));
    torn.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect()
}

fn damages(folder: &TempDir) -> (usize, Vec<Damaged>) {
    let mut salvage = Salvage::open_last(folder.path(), 1).unwrap().unwrap();
    let whole = salvage.by_ref().count();
    (whole, salvage.damages)
}

#[test]
fn space_after_the_last_frame_is_no_torn_tail_and_no_damage() {
    let (folder, tip) = left_by_a_crash();
    assert!(length(&path(&folder)) > tip.end.offset + 300, "nothing was allocated");
    assert_eq!(damages(&folder), (3, Vec::new()));
    let (read_only, _) = recover_read_only(folder.path()).unwrap();
    assert_eq!(read_only.end, tip.end);
    let recovered = recover(folder.path(), Some(tip.end)).unwrap();
    assert_eq!((recovered.end, frames(&recovered).len()), (tip.end, 3));
    assert_eq!(length(&path(&folder)), tip.end.offset);
    assert_eq!(torn(&folder), []);
    let mut log = Log::new(recovered, tip, u64::MAX);
    append(&mut log);
    drop(log);
    assert_eq!(frames(&recover(folder.path(), None).unwrap()).len(), 4);
}

#[test]
fn a_log_that_is_closed_ends_with_its_last_frame() {
    let folder = tempdir().unwrap();
    let mut log = new_log(folder.path(), u64::MAX);
    append(&mut log);
    let end = log.tip().end.offset;
    assert!(length(&path(&folder)) > end);
    log.close().unwrap();
    assert_eq!(length(&path(&folder)), end);
}

#[test]
fn a_segment_that_another_follows_ends_with_its_last_frame() {
    let folder = tempdir().unwrap();
    let mut log = new_log(folder.path(), 10_000);
    let mut ends = vec![LogOffset::START];
    while log.tip().end.segment < 4 {
        append(&mut log);
        let end = log.tip().end;
        match ends.last_mut().filter(|last| last.segment == end.segment) {
            Some(last) => *last = end,
            None => ends.push(end),
        }
        // Never more than the maximum size of a segment: others may need the space.
        let last = length(&segment::path(folder.path(), end.segment));
        assert!(last <= end.offset.max(10_000), "{last} bytes for {end:?}");
    }
    drop(log);
    for end in ends.iter().take(3) {
        assert_eq!(length(&segment::path(folder.path(), end.segment)), end.offset);
    }
}

#[test]
fn space_grows_with_the_segment() {
    let folder = tempdir().unwrap();
    let mut log = new_log(folder.path(), u64::MAX);
    let mut lengths = Vec::new();
    for _ in 0..40 {
        write(&mut log, |group| _ = group.append(&[Bytes::from(vec![7; 400_000])]).unwrap());
        lengths.push(length(&path(&folder)));
        let ahead = lengths.last().unwrap() - log.tip().end.offset;
        assert!(ahead <= AHEAD_BYTES_MAX);
    }
    lengths.dedup();
    assert!(lengths.len() < 10, "allocated in {} pieces: {lengths:?}", lengths.len());
}

#[test]
fn what_is_torn_in_the_space_is_cut_off_and_kept_without_the_space() {
    let (folder, tip) = left_by_a_crash();
    let end = tip.end.offset as usize;
    change(&folder, |bytes| bytes[end + 2000..end + 2005].fill(9));
    assert_eq!(
        damages(&folder),
        (3, vec![Damaged { offset: tip.end.offset, bytes: 2005 }]),
        "what the operator has to examine"
    );
    let recovered = recover(folder.path(), Some(tip.end)).unwrap();
    assert_eq!((recovered.end, length(&path(&folder))), (tip.end, tip.end.offset));
    let mut kept = vec![0; 2000];
    kept.extend([9; 5]);
    assert_eq!(torn(&folder), [(format!("0000000001.torn-{end}"), kept)]);
}

#[test]
fn an_end_that_became_zeros_is_never_taken_for_space_that_nobody_used() {
    let (folder, tip) = left_by_a_crash();
    let end = tip.end.offset as usize;
    // Frames that the index has seen are gone, as in an older copy.
    for from in [end - 1, end - 100, end - 500] {
        let (folder, tip) = left_by_a_crash();
        change(&folder, |bytes| bytes[from..].fill(0));
        let kept = fs::read(path(&folder)).unwrap();
        let refused = recover(folder.path(), Some(tip.end)).unwrap_err();
        assert!(matches!(refused, OpenError::Older { .. } | OpenError::Damage(_)), "{refused}");
        assert!(fs::read(path(&folder)).unwrap() == kept, "it was touched");
    }
    // A later group follows.
    change(&folder, |bytes| bytes[100..300].fill(0));
    assert!(matches!(recover(folder.path(), None), Err(OpenError::Damage(_))));
}

#[test]
fn a_last_frame_that_ends_in_zeros_is_whole() {
    for is_closed in [true, false] {
        let folder = tempdir().unwrap();
        let mut log = new_log(folder.path(), u64::MAX);
        write(&mut log, |group| group.mark(&[0; 50]));
        let tip = log.tip();
        if is_closed {
            log.close().unwrap()
        } else {
            drop(log)
        }
        assert_eq!(damages(&folder), (1, Vec::new()));
        let recovered = recover(folder.path(), Some(tip.end)).unwrap();
        assert_eq!(recovered.end, tip.end);
        assert!(matches!(&frames(&recovered)[..], [Frame::Mark(mark)] if mark.as_ref() == [0; 50]));
    }
}

#[test]
fn what_is_taken_back_takes_the_space_with_it() {
    let folder = tempdir().unwrap();
    let mut log = new_log(folder.path(), u64::MAX);
    append(&mut log);
    let before = log.tip();
    let file = log.segments().file(1).unwrap();
    log.take_back(&file, before.end, io::Error::other("a full disk"));
    assert_eq!(length(&path(&folder)), before.end.offset);
    append(&mut log);
    assert!(length(&path(&folder)) > log.tip().end.offset, "nothing is allocated any more");
}

#[test]
fn where_nothing_can_be_allocated_it_is_tried_again_much_later() {
    let (folder, tip) = left_by_a_crash();
    // No space can be allocated in a file that is open for reading.
    let refusing = Segments::open(folder.path(), Access::ReadOnly).unwrap().file(1).unwrap();
    let taking = Segments::open(folder.path(), Access::ReadWrite).unwrap().file(1).unwrap();
    let mut preallocation = Preallocation::none(tip.end.offset);
    let first = tip.end.offset + 500;
    preallocation.prepare(&refusing, first, u64::MAX);
    assert_eq!(preallocation.file_end, first);
    let before = length(&path(&folder));
    preallocation.prepare(&taking, first + 500, u64::MAX);
    assert_eq!((preallocation.file_end, length(&path(&folder))), (first + 500, before));
    let later = first + AHEAD_BYTES_MAX;
    preallocation.prepare(&taking, later, u64::MAX);
    assert_eq!(preallocation.file_end, later + AHEAD_BYTES_MAX);
    assert_eq!(length(&path(&folder)), preallocation.file_end);
}

#[test]
fn damage_before_a_last_frame_that_ends_in_zeros_is_no_torn_tail() {
    for is_closed in [true, false] {
        let folder = tempdir().unwrap();
        let mut log = new_log(folder.path(), u64::MAX);
        append(&mut log);
        let damaged = log.tip().end.offset as usize + 30;
        append(&mut log);
        write(&mut log, |group| group.mark(&[0; 50]));
        let tip = log.tip();
        if is_closed {
            log.close().unwrap()
        } else {
            drop(log)
        }
        change(&folder, |bytes| bytes[damaged] ^= 1);
        let kept = fs::read(path(&folder)).unwrap();
        for seen in [None, Some(tip.end)] {
            let refused = recover(folder.path(), seen).unwrap_err();
            assert!(matches!(refused, OpenError::Damage(_)), "{refused}");
        }
        let refused = recover_read_only(folder.path()).unwrap_err();
        assert!(matches!(refused, OpenError::Damage(_)), "{refused}");
        assert!(fs::read(path(&folder)).unwrap() == kept, "it was touched");
    }
}
