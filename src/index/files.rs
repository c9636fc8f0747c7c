//! The database's files, looked at before the database opens them.
//!
//! It believes them more than they deserve: a damaged count makes it ask for more memory than there is, and
//! what it finds in a damaged journal can make it panic in a way that ends the process. All carry checksums that
//! it does not look at, or too late. The formats are the database's own; a test holds that a whole index passes.

use std::{
    fs::{self, File},
    io::Cursor,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Buf;
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};
use tracing::warn;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::IndexError;

/// Damaged files are found. A torn end of the journal in use is cut off: it was never whole.
///
/// # Errors
/// A file is damaged or can't be read.
pub(super) fn check(folder: &Path) -> Result<(), IndexError> {
    if !folder.exists() {
        return Ok(());
    }
    let keyspaces = folder.join("keyspaces");
    if keyspaces.exists() {
        for keyspace in entries(&keyspaces)? {
            check_manifest(&keyspace)?;
        }
    }
    let mut journals: Vec<(u64, PathBuf)> = entries(folder)?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "jnl"))
        .filter_map(|path| Some((path.file_stem()?.to_str()?.parse().ok()?, path)))
        .collect();
    journals.sort_unstable();
    let mut number = None;
    let in_use = journals.pop();
    for (_, path) in journals {
        let bytes = read_used(&path)?;
        let end = whole_batches(&bytes, &mut number);
        if !is_unused(&bytes, end) {
            return Err(damaged(&path));
        }
    }
    let Some((_, path)) = in_use else { return Ok(()) };
    let bytes = read_used(&path)?;
    let end = whole_batches(&bytes, &mut number);
    if !is_unused(&bytes, end) {
        warn!(file = %path.display(), offset = end, "torn end of the index's journal cut off");
        let file = File::options().write(true).open(&path).map_err(|error| io_error(&path, error))?;
        file.set_len(end as u64).map_err(|error| io_error(&path, error))?;
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, IndexError> {
    let entries = fs::read_dir(folder).map_err(|error| io_error(folder, error))?;
    entries.map(|entry| Ok(entry.map_err(|error| io_error(folder, error))?.path())).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, IndexError> {
    fs::read(path).map_err(|error| io_error(path, error))
}

/// A journal is preallocated: of most of it nothing was ever written, and nothing needs to be read.
fn read_used(path: &Path) -> Result<Vec<u8>, IndexError> {
    let read = || {
        let file = File::open(path)?;
        let mut bytes = Vec::new();
        loop {
            let start = match seek(&file, SeekFrom::Data(bytes.len() as u64)) {
                Err(Errno::NXIO) => return Ok(bytes),
                start => start?,
            };
            let end = seek(&file, SeekFrom::Hole(start))?;
            bytes.resize(usize::try_from(end).unwrap_or(usize::MAX), 0);
            let written = bytes.get_mut(usize::try_from(start).unwrap_or(usize::MAX)..);
            file.read_exact_at(written.unwrap_or_default(), start)?;
        }
    };
    read().map_err(|error: std::io::Error| io_error(path, error))
}

fn io_error(path: &Path, source: std::io::Error) -> IndexError {
    IndexError::Io { path: path.display().to_string(), source }
}

fn damaged(path: &Path) -> IndexError {
    IndexError::File(path.display().to_string())
}

/// `current` has the number of the manifest in force (u64), its XXH3 (u128) and the kind of checksum.
fn check_manifest(keyspace: &Path) -> Result<(), IndexError> {
    let current = keyspace.join("current");
    let bytes = read(&current)?;
    let mut fields = bytes.as_slice();
    let (Ok(number), Ok(checksum), Ok(0), 0) =
        (fields.try_get_u64_le(), fields.try_get_u128_le(), fields.try_get_u8(), fields.len())
    else {
        return Err(damaged(&current));
    };
    let path = keyspace.join(format!("v{number}"));
    let manifest = read(&path)?;
    if xxh3_128(&manifest) != checksum {
        return Err(damaged(&path));
    }
    for (number, checksum) in tables(&manifest).ok_or_else(|| damaged(&path))? {
        let table = keyspace.join("tables").join(number.to_string());
        // Filters, for one, are read only now and then: damage to them would show long after the start.
        if xxh3_128(&read(&table)?) != checksum {
            return Err(damaged(&table));
        }
    }
    Ok(())
}

/// A manifest's section `tables`: levels (u8), of each its runs (u8), of each its tables (u32), of each the
/// number (u64), the kind of checksum (u8), the XXH3 of the file (u128) and a batch number (u64).
fn tables(manifest: &[u8]) -> Option<Vec<(u64, u128)>> {
    let archive = sfa::Reader::from_reader(&mut Cursor::new(manifest)).ok()?;
    let section = archive.toc().section(b"tables")?;
    let start = usize::try_from(section.pos()).ok()?;
    let end = start.checked_add(usize::try_from(section.len()).ok()?)?;
    let mut section = manifest.get(start..end)?;
    let mut tables = Vec::new();
    for _level in 0..section.try_get_u8().ok()? {
        for _run in 0..section.try_get_u8().ok()? {
            for _table in 0..section.try_get_u32_le().ok()? {
                let number = section.try_get_u64_le().ok()?;
                let 0 = section.try_get_u8().ok()? else { return None };
                tables.push((number, section.try_get_u128_le().ok()?));
                let _batch = section.try_get_u64_le().ok()?;
            }
        }
    }
    Some(tables)
}

/// Nothing but the zeros of a preallocated file follows.
fn is_unused(bytes: &[u8], end: usize) -> bool {
    bytes.get(end..).unwrap_or_default().iter().all(|byte| *byte == 0)
}

/// Where the last whole batch ends that all batches before lead to. `number` is that of the last one.
fn whole_batches(bytes: &[u8], number: &mut Option<u64>) -> usize {
    let mut rest = bytes;
    while let Some((behind, next)) = batch(rest) {
        // The number stands under no checksum, and the database drops what has too low a one.
        if number.is_some_and(|before| next <= before || next - before > NUMBERS_SKIPPED_MAX) {
            break;
        }
        (rest, *number) = (behind, Some(next));
    }
    bytes.len().saturating_sub(rest.len())
}

/// Flushes and compactions take numbers too, but few.
const NUMBERS_SKIPPED_MAX: u64 = 1 << 32;

/// A batch is a start (tag 1, entries u32, number u64), its entries, and an end (tag 3, XXH3 of the entries,
/// a magic). Gives back what follows it, and its number.
fn batch(bytes: &[u8]) -> Option<(&[u8], u64)> {
    const MAGIC: &[u8] = b"FJL\x03";
    let mut rest = bytes;
    let 1 = rest.try_get_u8().ok()? else { return None };
    let count = rest.try_get_u32_le().ok()?;
    let number = rest.try_get_u64_le().ok()?;
    let entries = rest;
    for _ in 0..count {
        rest = entry(rest)?;
    }
    let checked = entries.get(..entries.len().checked_sub(rest.len())?)?;
    let 3 = rest.try_get_u8().ok()? else { return None };
    let checksum = rest.try_get_u64_le().ok()?;
    let rest = rest.strip_prefix(MAGIC)?;
    (checksum == xxh3_64(checked)).then_some((rest, number))
}

/// An entry is a key and a value (tag 2, kind u8, compression u8, keyspace u64, lengths u16, u32, u32), or the
/// emptying of a keyspace (tag 4, keyspace u64). Gives back what follows it.
fn entry(mut bytes: &[u8]) -> Option<&[u8]> {
    match bytes.try_get_u8().ok()? {
        2 => {
            let _kind = bytes.try_get_u8().ok()?;
            let 0 = bytes.try_get_u8().ok()? else { return None };
            let _keyspace = bytes.try_get_u64_le().ok()?;
            let key = usize::from(bytes.try_get_u16_le().ok()?);
            let value = bytes.try_get_u32_le().ok()?;
            let stored = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
            (value as usize == stored).then_some(())?;
            bytes.get(key.checked_add(stored)?..)
        }
        4 => {
            let _keyspace = bytes.try_get_u64_le().ok()?;
            Some(bytes)
        }
        _ => None,
    }
}
