//! A power cut: what was written and not synced is taken away again, wholly or page by page, and so are names.
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

/// How much of what was not synced reaches the disk all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survives {
    Nothing,
    /// Each page for itself.
    SomePages,
}

struct Record {
    offset: usize,
    size_before: usize,
    bytes_before: Vec<u8>,
}

/// Takes the power away from a process that was killed.
pub fn cut(undo: &Path, survives: Survives, random: &mut fastrand::Rng) {
    let paths = fs::read_dir(undo).unwrap().map(|entry| entry.unwrap().path());
    let is_of_contents = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name != names::JOURNAL && !name.starts_with(names::KEPT)
    };
    let mut journals: Vec<PathBuf> = paths.filter(is_of_contents).collect();
    // In the same order for the same seed.
    journals.sort();
    for journal in journals {
        if let Some((path, records)) = read(&journal) {
            let now = fs::read(&path).unwrap();
            let before = undone(&now, &records);
            let after = match survives {
                Survives::Nothing => before,
                Survives::SomePages => mixed(&before, &now, random),
            };
            // In place: the file stays the one that others may have open.
            fs::write(&path, after).unwrap();
        }
    }
    // The contents were found by the names of now.
    names::cut(undo, survives, random);
    forget(undo);
}

/// Forgets what could be undone, where the power stays.
pub fn forget(undo: &Path) {
    for entry in fs::read_dir(undo).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
}

/// The file of a journal and what was done to it; `None` where that file is gone.
fn read(journal: &Path) -> Option<(PathBuf, Vec<Record>)> {
    let bytes = fs::read(journal).unwrap();
    let line = bytes.iter().position(|byte| *byte == b'\n')?;
    let named = PathBuf::from(String::from_utf8(bytes[..line].to_vec()).ok()?);
    let inode: u64 = journal.file_name()?.to_str()?.parse().ok()?;
    // A file may have been renamed since, within its folder.
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
        // The kill may have met the journal itself: its write was not made then.
        let Some(bytes_before) = rest.get(body..body + length) else { break };
        records.push(Record { offset, size_before, bytes_before: bytes_before.to_vec() });
        rest = &rest[body + length..];
    }
    Some((path, records))
}

/// The file as it was when it was synced last.
fn undone(now: &[u8], records: &[Record]) -> Vec<u8> {
    let mut bytes = now.to_vec();
    for record in records.iter().rev() {
        bytes.resize(record.size_before, 0);
        // What was written behind the end took the place of nothing.
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
