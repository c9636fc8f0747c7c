//! Records to which log a derived directory belongs, so that no service mistakes another service's
//! directory for a damaged one of its own.
//!
//! A log has an id: the file `id` in its directory or, in an older log, the salt of its first
//! segment. A directory that is derived from a log has the log's id in a file `.owner`, in it or
//! next to it. The file is locked while the directory is in use.

use std::{
    fmt, fs,
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use tracing::warn;
use uuid::Uuid;

use super::{lock::LockedFolder, segment};

const ID: &str = "id";
/// The name of an owner file, or its suffix next to a directory.
pub const OWNER: &str = ".owner";

/// The id of a log. It does not change in backups or through `repair`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogId(Uuid);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl LogId {
    /// Returns the id as it is in files that belong to the log.
    pub fn uuid(self) -> Uuid {
        self.0
    }

    /// Returns the id of the log in `folder`, or `None` if no log was created yet.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read.
    pub fn find(folder: &Path) -> io::Result<Option<Self>> {
        if let Some(id) = Self::stored(folder)? {
            return Ok(Some(id));
        }
        let first = segment::path(folder, 1);
        let mut header = [0; segment::HEADER_BYTES as usize];
        match fs::File::open(first).and_then(|mut file| file.read_exact(&mut header)) {
            Ok(()) => Ok(segment::Segment::salt_of(&header, 1).map(|salt| Self(Uuid::from_bytes(salt)))),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the id that is stored in a file of its own. A log that `repair` has not finished has
    /// none.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub fn stored(folder: &Path) -> io::Result<Option<Self>> {
        Ok(read_if_there(&folder.join(ID))?.as_deref().and_then(parse))
    }

    /// Returns the id like [`LogId::find`], and stores it in its own file if it is not there yet.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read.
    pub fn keep(folder: &Path) -> io::Result<Option<Self>> {
        let Some(id) = Self::find(folder)? else { return Ok(None) };
        if !folder.join(ID).exists()
            && let Err(error) = id.write(folder)
        {
            warn!(%error, "cannot store the id of the log; the id of its first segment is used");
        }
        Ok(Some(id))
    }

    /// Returns the id as it is stored in files: with a checksum, so that a damaged file names no
    /// log.
    fn line(self) -> String {
        format!("{self} {:08x}\n", crc32c::crc32c(self.0.as_bytes()))
    }

    /// Stores the id in the directory of a log that replaces the log with this id.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn write(self, folder: &Path) -> io::Result<()> {
        let temporary = folder.join(ID).with_extension("new");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(self.line().as_bytes())?;
        file.sync_all()?;
        fs::rename(temporary, folder.join(ID))?;
        fs::File::open(folder)?.sync_all()
    }
}

/// The location of the file that names the owner of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerFile {
    /// `.owner` in the directory.
    Within,
    /// The directory's name followed by `.owner`, for a directory that must be empty at times.
    Beside,
}

/// Why a derived directory is not used. It is never deleted for this reason.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// Another process holds the lock of the directory.
    #[error("{path} is in use by another process; each service needs its own folder ({key})")]
    InUse {
        /// The path of the directory.
        path: PathBuf,
        /// The configuration key of the directory.
        key: &'static str,
    },
    /// The owner file names a log with another id.
    #[error(
        "{path} was created from another log ({owner}); give this service its own directory ({key}), or delete \
         {path} if no service uses it"
    )]
    AnotherLog {
        /// The path of the directory.
        path: PathBuf,
        /// The id of that log.
        owner: LogId,
        /// The configuration key of the directory.
        key: &'static str,
    },
    /// The directory or its owner file cannot be opened, locked or created.
    #[error("{path}: {source} ({key})")]
    Io {
        /// The path of the directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
        /// The configuration key of the directory.
        key: &'static str,
    },
}

/// A claim on a derived directory, held while it is in use.
#[derive(Debug)]
pub struct FolderOwner {
    file: fs::File,
    path: PathBuf,
    owner: Option<LogId>,
    /// The directory is locked as well, because the file could be removed.
    _folder: LockedFolder,
}

impl FolderOwner {
    /// Claims a directory for the log with this id. `key` is the configuration key of the
    /// directory.
    ///
    /// # Errors
    /// Returns an error if another process uses the directory, or if it was derived from another
    /// log.
    pub fn claim(
        folder: &Path,
        file: OwnerFile,
        log: Option<LogId>,
        key: &'static str,
    ) -> Result<Self, OwnerError> {
        let path = match file {
            OwnerFile::Within => folder.join(OWNER),
            OwnerFile::Beside => {
                // Removes a trailing slash, which the configuration may contain.
                let mut path = folder.components().collect::<PathBuf>().into_os_string();
                path.push(OWNER);
                path.into()
            }
        };
        let io_error = |source| OwnerError::Io { path: folder.to_owned(), source, key };
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(io_error)?;
        let in_use = || OwnerError::InUse { path: folder.to_owned(), key };
        let locked = LockedFolder::lock_if_there(folder).map_err(|error| match error {
            fs::TryLockError::WouldBlock => in_use(),
            fs::TryLockError::Error(source) => io_error(source),
        })?;
        let mut file = fs::File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io_error)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(in_use()),
            Err(fs::TryLockError::Error(source)) => return Err(io_error(source)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io_error)?;
        let owner = parse(&String::from_utf8_lossy(&bytes));
        match (owner, log) {
            (Some(owner), Some(log)) if owner != log => {
                Err(OwnerError::AnotherLog { path: folder.to_owned(), owner, key })
            }
            // Without a log, the directory may belong to a log that was lost. That is checked
            // elsewhere.
            _ => Ok(Self { file, path, owner, _folder: locked }),
        }
    }

    /// Records the owner, unless it is recorded already.
    pub fn name(&mut self, log: LogId) {
        if self.owner == Some(log) {
            return;
        }
        let written = self
            .file
            .rewind()
            .and_then(|()| self.file.set_len(0))
            .and_then(|()| self.file.write_all(log.line().as_bytes()));
        match written {
            Ok(()) => self.owner = Some(log),
            Err(error) => {
                warn!(file = %self.path.display(), %error, "cannot record the owner of the folder")
            }
        }
    }
}

fn parse(text: &str) -> Option<LogId> {
    let (id, checksum) = text.trim_end().split_once(' ')?;
    let id = Uuid::try_parse(id).ok()?;
    (u32::from_str_radix(checksum, 16).ok()? == crc32c::crc32c(id.as_bytes())).then_some(LogId(id))
}

fn read_if_there(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;
    use crate::log::recover;

    #[test]
    fn a_log_keeps_its_id_and_a_folder_its_owner() {
        let root = tempdir().unwrap();
        let [first, second, folder] = ["first", "second", "folder"].map(|name| root.path().join(name));
        assert_eq!(LogId::find(&first).unwrap(), None);
        recover(&first, None).unwrap();
        recover(&second, None).unwrap();
        let ours = LogId::find(&first).unwrap().unwrap();
        assert_eq!(LogId::keep(&first).unwrap(), Some(ours));
        fs::remove_file(segment::path(&first, 1)).unwrap();
        assert_eq!(LogId::find(&first).unwrap(), Some(ours), "it is kept beside the segments");
        let another = LogId::find(&second).unwrap().unwrap();

        let mut owner = FolderOwner::claim(&folder, OwnerFile::Within, Some(ours), "a.key").unwrap();
        owner.name(ours);
        let refused = FolderOwner::claim(&folder, OwnerFile::Within, Some(ours), "a.key").unwrap_err();
        assert!(matches!(refused, OwnerError::InUse { .. }), "{refused}");
        fs::remove_file(folder.join(OWNER)).unwrap();
        let refused = FolderOwner::claim(&folder, OwnerFile::Within, Some(another), "a.key").unwrap_err();
        assert!(matches!(refused, OwnerError::InUse { .. }), "without its file: {refused}");
        drop(owner);
        let mut owner = FolderOwner::claim(&folder, OwnerFile::Within, Some(ours), "a.key").unwrap();
        owner.name(ours);
        drop(owner);
        let refused = FolderOwner::claim(&folder, OwnerFile::Within, Some(another), "a.key").unwrap_err();
        assert!(matches!(refused, OwnerError::AnotherLog { owner, .. } if owner == ours), "{refused}");
        let mut beside =
            FolderOwner::claim(&folder.join("events/"), OwnerFile::Beside, Some(ours), "k").unwrap();
        beside.name(ours);
        assert!(folder.join("events.owner").exists() && !folder.join("events").exists());
        // A torn or damaged file names no owner.
        let whole = fs::read(folder.join(OWNER)).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            for bytes in [&damaged[..], &whole[..at]] {
                fs::write(folder.join(OWNER), bytes).unwrap();
                let claimed = FolderOwner::claim(&folder, OwnerFile::Within, Some(another), "a.key");
                let trimmed = |bytes| String::from_utf8_lossy(bytes).trim_end().to_owned();
                assert!(claimed.is_ok() || trimmed(bytes) == trimmed(&whole), "{at}");
            }
        }
    }
}
