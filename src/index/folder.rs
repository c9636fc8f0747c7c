//! The directory of the index: its files, and a note of the log's tip.
//!
//! The name of a file states the part of the log that it covers: segment and offset of its start
//! and of its end. A file appears complete under its name, or not at all. The note, `tip`, is
//! written once a second and never synced. A log that ends before it is an old copy, or is damaged.

use std::{
    fs,
    io::{self, BufWriter},
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::{info, warn};

use super::{
    IndexOptions,
    entry::Entry,
    table::{Summary, Table, TableWriteError, write},
};
use crate::{crash_point::CrashPoint, log::Tip};

pub(super) const EXTENSION: &str = "index";
const UNFINISHED: &str = "unfinished";
pub(super) const TIP: &str = "tip";

/// The database of the first version: a directory, and files by name or extension.
const FORMER_FOLDER: &str = "keyspaces";
const FORMER_FILES: [&str; 3] = ["jnl", "lock", "version"];
/// The first version also had a note next to the directory.
const FORMER_NOTE: &str = "opening";

/// The directory to which files are written.
#[derive(Debug, Clone)]
pub(super) struct IndexFolder {
    path: PathBuf,
    /// Disk space in bytes that is reserved for the log.
    disk_free_min: u64,
    /// If false, everything stays in memory.
    writes: bool,
}

impl IndexFolder {
    pub(super) fn new(path: &Path, options: IndexOptions) -> Self {
        Self { path: path.to_owned(), disk_free_min: options.disk_free_min, writes: options.writes }
    }

    pub(super) fn writes(&self) -> bool {
        self.writes
    }

    /// Writes a file and makes it durable.
    pub(super) fn write(
        &self,
        summary: &Summary,
        filtered_max: u64,
        entries: impl Iterator<Item = Result<Entry, TableWriteError>>,
    ) -> Result<Table, TableWriteError> {
        const BUFFER_BYTES: usize = 256 * 1024;
        if !self.writes {
            return Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem).into());
        }
        let (from, end) = (summary.from, summary.complete.tip.end);
        let name = format!("{:010}.{:010}-{:010}.{:010}", from.segment, from.offset, end.segment, end.offset);
        let path = self.path.join(format!("{name}.{EXTENSION}"));
        let unfinished = path.with_extension(UNFINISHED);
        let write = || {
            // The directory may have been removed.
            fs::create_dir_all(&self.path)?;
            let file =
                fs::File::options().create(true).truncate(true).read(true).write(true).open(&unfinished)?;
            let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
            write(summary, filtered_max, entries, &mut out)?;
            let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            CrashPoint::IndexFileWritten.reached();
            fs::rename(&unfinished, &path)?;
            fs::File::open(&self.path)?.sync_all()?;
            CrashPoint::IndexFileNamed.reached();
            Ok(Table::of(&path, file)?)
        };
        let written: Result<Table, TableWriteError> = write();
        if written.is_err() {
            _ = fs::remove_file(&unfinished);
        }
        written
    }

    /// Whether the disk has room for twice this size besides the reserve. Derived data must not
    /// take the last space from the log.
    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
        let needed = bytes.saturating_mul(2).saturating_add(self.disk_free_min);
        rustix::fs::statvfs(&self.path)
            .map_or(true, |stat| stat.f_bavail.saturating_mul(stat.f_frsize) >= needed)
    }

    /// Removes a file that was replaced by others.
    pub(super) fn remove(&self, table: &Table) {
        if !self.writes {
            return;
        }
        if let Err(error) = fs::remove_file(table.path())
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(file = %table.path().display(), %error, "cannot remove an obsolete index file");
        }
    }

    /// Removes unused files, the unfinished files of a crash, and the database of the service's
    /// first version.
    pub(super) fn clear(&self, used: &[Arc<Table>], unopened: &[PathBuf]) -> io::Result<()> {
        if !self.writes {
            return Ok(());
        }
        let has_database = self.path.join(FORMER_FOLDER).is_dir();
        let mut failed = None;
        // In reverse order: the files that remain after a failure still show how far the log went.
        let mut paths =
            fs::read_dir(&self.path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort_unstable_by(|one, other| other.cmp(one));
        for path in paths {
            let name = path.file_name().unwrap_or_default();
            let extension = path.extension().unwrap_or_default();
            let is_former = FORMER_FILES.iter().any(|former| name == *former || extension == *former);
            let ours = extension == EXTENSION || extension == UNFINISHED || (has_database && is_former);
            if ours && !used.iter().any(|table| table.path() == path) && !unopened.contains(&path) {
                failed = fs::remove_file(path).err().or(failed);
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        if has_database {
            info!(folder = %self.path.display(), "removing the index of an earlier version; it is rebuilt");
            fs::remove_dir_all(self.path.join(FORMER_FOLDER))?;
            _ = fs::remove_file(self.path.with_extension(FORMER_NOTE));
        }
        Ok(())
    }

    /// Writes the note of the log's tip.
    pub(super) fn note_tip(&self, tip: Tip, salt: [u8; 16]) -> io::Result<()> {
        if !self.writes {
            return Ok(());
        }
        let Tip { end, position, hash, .. } = tip;
        let salt = hex::encode(salt);
        let text = format!("{} {} {salt} {} {}", end.segment, end.offset, position.0, hex::encode(hash.0));
        let unfinished = self.path.join(TIP).with_extension(UNFINISHED);
        fs::create_dir_all(&self.path)?;
        fs::write(&unfinished, format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes())))?;
        fs::rename(&unfinished, self.path.join(TIP))
    }
}

/// Removes the index files and the note of the tip from a directory. The file that names the
/// directory's owner stays.
///
/// # Errors
/// Returns an error if a file cannot be removed.
pub fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(TIP)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let folder = IndexFolder { path: folder.to_owned(), disk_free_min: 0, writes: true };
    match folder.clear(&[], &[]) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
