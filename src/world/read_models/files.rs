//! The file of the read models, and what SQLite keeps beside it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::ReadModelError;

/// The key of the configuration that names it.
pub const KEY: &str = "world.read_models_path";

const ALL: [&str; 4] = ["", "-wal", "-shm", "-journal"];

pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Where the file and all that belongs to it may lie.
pub fn all(path: &Path) -> impl Iterator<Item = PathBuf> + use<'_> {
    ALL.iter().map(|suffix| with_suffix(path, suffix))
}

/// How long the write-ahead log is.
pub fn wal_bytes(path: &Path) -> u64 {
    fs::metadata(with_suffix(path, "-wal")).map_or(0, |found| found.len())
}

/// Claims the file for this process, for as long as what is returned is kept: another service would take the rows of this
/// one's history for wrong, and make them anew.
///
/// # Errors
/// Another process has it, or it can't be claimed.
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

/// Which file it is, whatever its name, and its write-ahead log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    file: (u64, u64),
    wal: Option<(u64, u64)>,
}

impl Identity {
    /// `None`: there is no file.
    pub fn of(path: &Path) -> Option<Self> {
        Some(Self { file: number(path)?, wal: number(&with_suffix(path, "-wal")) })
    }

    /// The path still leads to the same file.
    pub fn is_at(self, path: &Path) -> bool {
        number(path) == Some(self.file)
    }

    /// Removes what is left of this file where another took its place: its write-ahead log would be taken for the other's.
    ///
    /// # Errors
    /// One of the files can't be deleted.
    pub fn remove_rest(self, path: &Path) -> Result<(), ReadModelError> {
        if self.wal.is_none() || number(&with_suffix(path, "-wal")) != self.wal {
            return Ok(());
        }
        each(path, |file, suffix| if suffix.is_empty() { Ok(()) } else { fs::remove_file(file) })
    }
}

/// The device, and the number that it has there.
fn number(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// # Errors
/// One of the files can't be deleted.
pub fn remove(path: &Path) -> Result<(), ReadModelError> {
    each(path, |file, _| fs::remove_file(file))
}

/// Removes the read models of a log that is put aside. Others' are left alone.
///
/// # Errors
/// A service uses them, or one of the files can't be deleted.
pub fn remove_those_of(path: &Path, log: Option<&str>) -> Result<(), ReadModelError> {
    if log.is_none() || !path.exists() {
        return Ok(());
    }
    let _claim = claim(path)?;
    match super::tables::check_owner(path, log) {
        Ok(()) => remove(path),
        Err(ReadModelError::Foreign { .. } | ReadModelError::OfAnotherLog { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives it another name, so that nothing is lost of what may be somebody's.
///
/// # Errors
/// One of the files can't be renamed.
pub fn put_aside(path: &Path) -> Result<PathBuf, ReadModelError> {
    let is_free = |aside: &PathBuf| ALL.iter().all(|suffix| !with_suffix(aside, suffix).exists());
    let numbered = (2u32..).map(|number| with_suffix(path, &format!(".damaged-{number}")));
    let mut names = std::iter::once(with_suffix(path, ".damaged")).chain(numbered);
    let aside = names.find(is_free).unwrap_or_else(|| with_suffix(path, ".damaged"));
    each(path, |file, suffix| fs::rename(file, with_suffix(&aside, suffix)))?;
    Ok(aside)
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
