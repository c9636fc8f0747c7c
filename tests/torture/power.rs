//! A power failure: data that was written and not synced is removed again, wholly or page by page,
//! and so are names.
//!
//! The journals are those of `shim.c`, which describes them.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::names;

const PAGE_BYTES: usize = 4096;
const NUMBERS: usize = 5;

/// How much of the unsynced data reaches the disk nevertheless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survives {
    Nothing,
    /// Each page is decided separately.
    SomePages,
}

struct Record {
    offset: usize,
    size_before: usize,
    bytes_before: Vec<u8>,
}

/// Applies a power failure to a process that was killed.
pub fn cut(undo: &Path, survives: Survives, random: &mut fastrand::Rng) {
    let paths = fs::read_dir(undo).unwrap().map(|entry| entry.unwrap().path());
    let is_of_contents = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name != names::JOURNAL && !name.starts_with(names::KEPT)
    };
    let mut journals: Vec<PathBuf> = paths.filter(is_of_contents).collect();
    // The same seed must give the same order.
    journals.sort();
    for journal in journals {
        if let Some((path, records)) = read(&journal) {
            let now = fs::read(&path).unwrap();
            let before = undone(&now, &records);
            let after = match survives {
                Survives::Nothing => before,
                Survives::SomePages => mixed(&before, &now, random),
            };
            // In place: other processes may have the file open.
            fs::write(&path, after).unwrap();
        }
    }
    // Names come last: the contents were found by their current names.
    names::cut(undo, survives, random);
    forget(undo);
}

/// Discards the journals if the power stays on.
pub fn forget(undo: &Path) {
    for entry in fs::read_dir(undo).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
}

/// Returns the file of a journal and the changes made to it. Returns `None` if the file is gone.
fn read(journal: &Path) -> Option<(PathBuf, Vec<Record>)> {
    let bytes = fs::read(journal).unwrap();
    let line = bytes.iter().position(|byte| *byte == b'\n')?;
    let named = PathBuf::from(String::from_utf8(bytes[..line].to_vec()).ok()?);
    let inode: u64 = journal.file_name()?.to_str()?.parse().ok()?;
    // The file may have been renamed since, within its directory.
    let is_it =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.is_file() && found.ino() == inode);
    let path = Some(named.clone()).filter(is_it).or_else(|| {
        let entries = fs::read_dir(named.parent()?).ok()?;
        entries.filter_map(|entry| Some(entry.ok()?.path())).find(is_it)
    })?;
    let mut rest = &bytes[line + 1..];
    let mut records = Vec::new();
    while rest.len() >= NUMBERS * 8 {
        let number = |at: usize| usize::from_le_bytes(rest[at * 8..at * 8 + 8].try_into().unwrap());
        let (offset, size_before, length) = (number(1), number(3), number(4));
        let body = NUMBERS * 8;
        // The kill may have interrupted the journal itself: then its write was not made.
        let Some(bytes_before) = rest.get(body..body + length) else { break };
        records.push(Record { offset, size_before, bytes_before: bytes_before.to_vec() });
        rest = &rest[body + length..];
    }
    Some((path, records))
}

/// Returns the file as it was at its last sync.
fn undone(now: &[u8], records: &[Record]) -> Vec<u8> {
    let mut bytes = now.to_vec();
    for record in records.iter().rev() {
        bytes.resize(record.size_before, 0);
        // A write past the end of the file replaced nothing.
        if record.bytes_before.is_empty() {
            continue;
        }
        bytes[record.offset..record.offset + record.bytes_before.len()].copy_from_slice(&record.bytes_before);
    }
    bytes
}

fn mixed(before: &[u8], now: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let (short, long) = (before.len().min(now.len()), before.len().max(now.len()));
    let size = match random.u8(..3) {
        0 => before.len(),
        1 => now.len(),
        _ => random.usize(short..=long),
    };
    let mut bytes = vec![0; size];
    for start in (0..size).step_by(PAGE_BYTES) {
        let from = if random.bool() { before } else { now };
        let end = (start + PAGE_BYTES).min(size).min(from.len());
        if start < end {
            bytes[start..end].copy_from_slice(&from[start..end]);
        }
    }
    bytes
}
