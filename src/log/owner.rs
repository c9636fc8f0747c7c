//! Which log a derived folder belongs to, so that no service takes another's for its own damaged one.
//!
//! A log has an id: the file `id` in its folder, or in an older log the salt of its first segment. A folder that is derived
//! from a log has the id in a file `.owner` in it or beside it, which is locked as long as the folder is in use.

use std::{
    fmt, fs,
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use tracing::warn;
use uuid::Uuid;

use super::{lock::LockedFolder, segment};

const ID: &str = "id";
pub const OWNER: &str = ".owner";

/// The id of a log. It stays with it through backups and `repair`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogId(Uuid);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl LogId {
    /// Of the log in `folder`; `None` where no log was begun yet.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn find(folder: &Path) -> io::Result<Option<Self>> {
        if let Some(text) = read_if_there(&folder.join(ID))?
            && let Some(id) = parse(&text)
        {
            return Ok(Some(id));
        }
        let first = segment::path(folder, 1);
        let mut header = [0; segment::HEADER_BYTES as usize];
        match fs::File::open(first).and_then(|mut file| file.read_exact(&mut header)) {
            Ok(()) => Ok(segment::File::salt_of(&header, 1).map(|salt| Self(Uuid::from_bytes(salt)))),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The same, kept in a file of its own from now on.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn keep(folder: &Path) -> io::Result<Option<Self>> {
        let Some(id) = Self::find(folder)? else { return Ok(None) };
        if !folder.join(ID).exists()
            && let Err(error) = id.write(folder)
        {
            warn!(%error, "the id of the log could not be kept; it is that of its first segment");
        }
        Ok(Some(id))
    }

    /// As files have it: with a checksum, so that a damaged one names nobody.
    fn line(self) -> String {
        format!("{self} {:08x}\n", crc32c::crc32c(self.0.as_bytes()))
    }

    /// Gives it to a log that takes the place of the one that has it.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(self, folder: &Path) -> io::Result<()> {
        let temporary = folder.join(ID).with_extension("new");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(self.line().as_bytes())?;
        file.sync_all()?;
        fs::rename(temporary, folder.join(ID))?;
        fs::File::open(folder)?.sync_all()
    }
}

/// Where the owner of a folder is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerFile {
    /// `.owner` in the folder.
    Within,
    /// The folder's name with `.owner` behind it, where the folder is to be empty at times.
    Beside,
}

/// Why a derived folder is not used. It is never deleted for that.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    #[error("{path} is in use by another process: every service needs a folder of its own ({key})")]
    InUse { path: String, key: &'static str },
    #[error(
        "{path} was made from another log ({owner}): give this service a folder of its own ({key}), or delete \
         that one if no service uses it"
    )]
    AnotherLog { path: String, owner: LogId, key: &'static str },
    #[error("{path}: {source} ({key})")]
    Io { path: String, source: io::Error, key: &'static str },
}

/// The claim on a derived folder, held as long as it is in use.
#[derive(Debug)]
pub struct FolderOwner {
    file: fs::File,
    path: PathBuf,
    owner: Option<LogId>,
    /// The file could be removed.
    _folder: LockedFolder,
}

impl FolderOwner {
    /// Claims a folder for the log with this id. `key` is the configuration's key of the folder.
    ///
    /// # Errors
    /// Another process uses it, or it was made from another log.
    pub fn claim(
        folder: &Path,
        file: OwnerFile,
        log: Option<LogId>,
        key: &'static str,
    ) -> Result<Self, OwnerError> {
        let path = match file {
            OwnerFile::Within => folder.join(OWNER),
            OwnerFile::Beside => {
                // Without a slash that the configuration may end it with.
                let mut path = folder.components().collect::<PathBuf>().into_os_string();
                path.push(OWNER);
                path.into()
            }
        };
        let shown = || folder.display().to_string();
        let io_error = |source| OwnerError::Io { path: shown(), source, key };
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(io_error)?;
        let in_use = || OwnerError::InUse { path: shown(), key };
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
                Err(OwnerError::AnotherLog { path: shown(), owner, key })
            }
            // Without a log the folder may be what is left of a lost one: that is judged elsewhere.
            _ => Ok(Self { file, path, owner, _folder: locked }),
        }
    }

    /// Writes down whose it is, unless that is there.
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
                warn!(file = %self.path.display(), %error, "it could not be written whose the folder is")
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
        // A torn or damaged file names nobody.
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
