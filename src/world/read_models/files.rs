//! The file of the read models, and the files that SQLite keeps next to it.
//!
//! Claims, identifies, renames and removes them together, and gives them their mode. Their
//! contents, and whether they may be removed, are left to others.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::ReadModelError;

/// The configuration key of the path.
pub const KEY: &str = "world.read_models_path";

const ALL: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Returns the path with a suffix added to the file name.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Returns the paths at which the file and everything that belongs to it may exist.
pub fn all(path: &Path) -> impl Iterator<Item = PathBuf> + use<'_> {
    ALL.iter().map(|suffix| with_suffix(path, suffix))
}

/// Returns the size of the write-ahead log.
pub fn wal_bytes(path: &Path) -> u64 {
    fs::metadata(with_suffix(path, "-wal")).map_or(0, |found| found.len())
}

/// Claims the file for this process until the returned handle is dropped. Another service would
/// consider the rows of this history wrong, and rebuild them.
///
/// # Errors
/// Returns an error if another process holds the claim, or if the file cannot be claimed.
pub fn claim(path: &Path) -> Result<fs::File, ReadModelError> {
    let lock = with_suffix(path, ".lock");
    let error = |source| ReadModelError::Io { path: lock.clone(), source };
    let file = fs::File::options().create(true).truncate(false).write(true).open(&lock).map_err(error)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            Err(ReadModelError::OfAnotherService { path: path.to_owned(), key: KEY })
        }
        Err(fs::TryLockError::Error(source)) => Err(error(source)),
    }
}

/// Identifies a file, whatever its name, and its write-ahead log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    file: (u64, u64),
    wal: Option<(u64, u64)>,
}

impl Identity {
    /// Returns `None` if there is no file.
    pub fn of(path: &Path) -> Option<Self> {
        Some(Self { file: number(path)?, wal: number(&with_suffix(path, "-wal")) })
    }

    /// Returns whether the path still leads to the same file.
    pub fn is_at(self, path: &Path) -> bool {
        number(path) == Some(self.file)
    }

    /// Removes what is left of this file after another file took its place: its write-ahead log
    /// would be mistaken for that of the other file.
    ///
    /// # Errors
    /// Returns an error if one of the files cannot be deleted.
    pub fn remove_rest(self, path: &Path) -> Result<(), ReadModelError> {
        if self.wal.is_none() || number(&with_suffix(path, "-wal")) != self.wal {
            return Ok(());
        }
        each(path, |file, suffix| if suffix.is_empty() { Ok(()) } else { fs::remove_file(file) })
    }
}

/// Returns the device and the inode number.
fn number(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Removes the file and everything that belongs to it.
///
/// # Errors
/// Returns an error if one of the files cannot be deleted.
pub fn remove(path: &Path) -> Result<(), ReadModelError> {
    each(path, |file, _| fs::remove_file(file))
}

/// Renames the file, so that data that may belong to another program is not lost.
///
/// # Errors
/// Returns an error if one of the files cannot be renamed.
pub fn set_aside(path: &Path) -> Result<PathBuf, ReadModelError> {
    let is_free = |aside: &PathBuf| ALL.iter().all(|suffix| !with_suffix(aside, suffix).exists());
    let numbered = (2u32..).map(|number| with_suffix(path, &format!(".damaged-{number}")));
    let mut names = std::iter::once(with_suffix(path, ".damaged")).chain(numbered);
    let aside = names.find(is_free).unwrap_or_else(|| with_suffix(path, ".damaged"));
    each(path, |file, suffix| fs::rename(file, with_suffix(&aside, suffix)))?;
    Ok(aside)
}

/// Sets the mode of the file and of those that SQLite keeps next to it. SQLite creates later ones
/// with the mode of the file.
///
/// # Errors
/// Returns an error if one of the modes cannot be set.
pub fn set_mode(path: &Path, mode: u32) -> Result<(), ReadModelError> {
    each(path, |file, _| fs::set_permissions(file, fs::Permissions::from_mode(mode)))
}

fn each(path: &Path, change: impl Fn(&Path, &str) -> io::Result<()>) -> Result<(), ReadModelError> {
    for suffix in ALL {
        let file = with_suffix(path, suffix);
        match change(&file, suffix) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ReadModelError::Io { path: file, source: error });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_that_of_all_files_of_sqlite_also_of_later_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.sqlite");
        let mode = |suffix| fs::metadata(with_suffix(&path, suffix)).unwrap().mode() & 0o777;
        let write = || {
            let rows = rusqlite::Connection::open(&path).unwrap();
            rows.pragma_update(None, "journal_mode", "WAL").unwrap();
            rows.execute_batch("CREATE TABLE IF NOT EXISTS t (a); INSERT INTO t VALUES (1)").unwrap();
            rows
        };
        let rows = write();
        set_mode(&path, 0o640).unwrap();
        assert_eq!(["", "-wal", "-shm"].map(mode), [0o640; 3]);
        // The last connection removes them.
        drop(rows);
        assert!(!with_suffix(&path, "-wal").exists());
        let rows = write();
        assert_eq!(["", "-wal", "-shm"].map(mode), [0o640; 3]);
        drop(rows);
        assert!(set_mode(&dir.path().join("nothing"), 0o640).is_ok());
    }
}
