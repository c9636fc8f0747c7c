//! Opening what is on the disk. What is found there may be damaged in any way, and even end the process.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use fjall::{Database, KeyspaceCreateOptions};
use quick_cache::sync::Cache;
use tracing::warn;

use super::{
    Complete, Index, IndexError, META_COMPLETE, Stored, files, guarded, id_filter::IdFilter, recent::Memory,
    visible::Visible,
};
use crate::log;

pub(super) const FORMAT: &[u8] = b"format";
const FORMAT_VERSION: &[u8] = b"2";

/// Heads that are remembered: about 20 MiB.
const HEADS_MAX: usize = 64 * 1024;

/// So often the process may end while the index is opened: once may be a person's doing.
const ATTEMPTS_MAX: u64 = 2;

/// It is there while the index is opened, or once it is known to be damaged; a byte for each attempt.
fn note(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".opening");
    name.into()
}

fn note_attempts(note: &Path, attempts: u64) -> Result<(), IndexError> {
    let text = ".".repeat(usize::try_from(attempts).unwrap_or(1));
    let parent = note.parent().map_or(Ok(()), fs::create_dir_all);
    parent.and_then(|()| fs::write(note, text)).map_err(|source| {
        let path = note.display().to_string();
        IndexError::Io { path, source }
    })
}

fn forget_attempts(note: &Path) {
    if let Err(error) = fs::remove_file(note)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(note = %note.display(), %error, "delete it, or a later start rebuilds the index");
    }
}

fn remove_contents(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() == log::OWNER {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

impl Index {
    /// Opens what is in `folder`, or begins an empty index.
    ///
    /// # Errors
    /// What is there is unusable; the caller may remove it and rebuild.
    pub fn open(folder: &Path) -> Result<Self, IndexError> {
        files::check(folder)?;
        // Damage can also end the process here, at every start again. The note tells the next ones.
        let note = note(folder);
        let attempts = fs::metadata(&note).map_or(0, |found| found.len());
        if attempts >= ATTEMPTS_MAX {
            return Err(IndexError::NotOpened);
        }
        if let Err(error) = note_attempts(&note, attempts + 1) {
            warn!(%error, "a start that dies over the index can't be told to the next");
        }
        let opened = guarded(|| Self::open_as_it_is(folder));
        forget_attempts(&note);
        opened
    }

    /// Removes what is in `folder` but the note of its owner, and begins an empty index.
    ///
    /// # Errors
    /// It can't be removed or begun.
    pub fn renew(folder: &Path) -> Result<Self, IndexError> {
        remove_contents(folder).map_err(|source| {
            let path = folder.display().to_string();
            IndexError::Io { path, source }
        })?;
        // Not before: whoever ends in between must not trust what is left.
        forget_attempts(&note(folder));
        Self::open(folder)
    }

    /// Removes what is in `folder` but the note of its owner.
    ///
    /// # Errors
    /// It can't be removed.
    pub fn remove(folder: &Path) -> io::Result<()> {
        remove_contents(folder)
    }

    /// The next start does not open it.
    ///
    /// # Errors
    /// The note can't be written.
    pub fn distrust(folder: &Path) -> Result<(), IndexError> {
        note_attempts(&note(folder), ATTEMPTS_MAX)
    }

    fn open_as_it_is(folder: &Path) -> Result<Self, IndexError> {
        const CACHE_BYTES: u64 = 64 * 1024 * 1024;
        // Read again at every start: the least that fjall allows.
        const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;
        let database =
            Database::builder(folder).cache_size(CACHE_BYTES).max_journaling_size(JOURNAL_BYTES).open()?;
        let keyspace = |name, memtable_mib: u64| {
            database.keyspace(name, || {
                KeyspaceCreateOptions::default().max_memtable_size(memtable_mib * 1024 * 1024)
            })
        };
        let meta = keyspace("meta", 1)?;
        match meta.get(FORMAT)? {
            None => meta.insert(FORMAT, FORMAT_VERSION)?,
            Some(version) if version == FORMAT_VERSION => {}
            Some(_) => return Err(IndexError::Entry("format")),
        }
        let complete = match meta.get(META_COMPLETE)? {
            None => Complete::default(),
            Some(bytes) => Complete::decode(&bytes).ok_or(IndexError::Entry("meta"))?,
        };
        let mut index = Self {
            aggregates: keyspace("aggregates", 16)?,
            events: keyspace("events", 16)?,
            event_ids: keyspace("event_ids", 16)?,
            positions: keyspace("positions", 2)?,
            transactions: keyspace("transactions", 2)?,
            totals_kept: keyspace("totals", 2)?,
            meta,
            types_max: u64::MAX,
            visible: Visible::default(),
            heads: Cache::new(HEADS_MAX),
            memory: Memory::default(),
            ids: Arc::new(IdFilter::new(complete.tip.position.0)),
            stored: Mutex::default(),
            database,
        };
        let totals = index.load_totals()?;
        index.visible = Visible::new(complete, totals.clone());
        *index.stored.lock().unwrap_or_else(PoisonError::into_inner) =
            Stored { totals, digest: complete.digest };
        Ok(index)
    }
}
