//! Locks that keep a second process out of a directory.
//!
//! A lock file alone is not enough: if it is removed, a second process gets in. Therefore, the
//! directory itself is locked as well. The log also has a lock file next to its directory, because
//! `repair` and `resolve` replace the directory.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;
use tracing::{error, warn};

use super::{Access, OpenError};

pub(super) const WITHIN: &str = "lock";
const BESIDE: &str = ".lock";

/// The lock that keeps a second process away from the log. It is held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _files: Vec<File>,
}

impl Lock {
    /// Takes the lock.
    ///
    /// # Errors
    /// Returns an error if another process holds the lock, or if the directory cannot be created.
    pub fn take(folder: &Path, access: Access) -> Result<Self, OpenError> {
        let folder = &std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let mut files = Vec::new();
        // Locked first: the directory may be about to be renamed.
        if let Some(path) = beside(folder) {
            files.extend(lock_beside(folder, &path, access)?);
        }
        let path = folder.join(WITHIN);
        if access == Access::ReadWrite {
            fs::create_dir_all(folder).map_err(|source| io_error(&path, source))?;
        }
        match LockedFolder::lock(folder) {
            Ok(locked) => files.extend(locked.0),
            Err(fs::TryLockError::WouldBlock) => return Err(locked_by_another(folder)),
            Err(fs::TryLockError::Error(source)) => return Err(io_error(folder, source)),
        }
        let file = open(&path, access).map_err(|source| io_error(&path, source))?;
        lock(&file, folder, &path)?;
        files.push(file);
        Ok(Self { _files: files })
    }
}

/// A lock on a directory itself, not on a file in it.
#[derive(Debug)]
pub(super) struct LockedFolder(Option<File>);

impl LockedFolder {
    pub(super) fn lock_if_there(folder: &Path) -> Result<Self, fs::TryLockError> {
        if folder.exists() { Self::lock(folder) } else { Ok(Self(None)) }
    }

    fn lock(folder: &Path) -> Result<Self, fs::TryLockError> {
        let opened = File::open(folder).map_err(fs::TryLockError::Error)?;
        match opened.try_lock() {
            Ok(()) => Ok(Self(Some(opened))),
            Err(fs::TryLockError::Error(error)) if is_unsupported(&error) => {
                error!(
                    folder = %folder.display(),
                    %error,
                    "this file system cannot lock folders; only the lock file keeps a second process out: \
                     never remove it"
                );
                Ok(Self(None))
            }
            Err(error) => Err(error),
        }
    }
}

/// The errors of file systems that cannot lock directories. NFS, for example, locks only files that
/// are open for writing.
fn is_unsupported(error: &io::Error) -> bool {
    [Errno::BADF, Errno::OPNOTSUPP, Errno::NOSYS, Errno::NOLCK, Errno::INVAL, Errno::ISDIR]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Locks the file next to the directory. The directory itself is locked in any case, so no obstacle
/// to this lock may stop the service.
fn lock_beside(folder: &Path, path: &Path, access: Access) -> Result<Option<File>, OpenError> {
    // A lock does not require write access: the file may belong to another user.
    let opened = open(path, access).or_else(|error| File::open(path).map_err(|_| error));
    let locked = opened.map_err(fs::TryLockError::Error).and_then(|file| file.try_lock().map(|()| file));
    match locked {
        Ok(file) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Err(locked_by_another(folder)),
        // A process that only reads never renames the directory.
        Err(fs::TryLockError::Error(_)) if access == Access::ReadOnly => Ok(None),
        Err(fs::TryLockError::Error(error)) => {
            warn!(file = %path.display(), %error, "cannot lock the file; do not run repair or resolve \
             while the service is running");
            Ok(None)
        }
    }
}

/// Returns the path of the lock file next to a directory, such as `log.lock` for `storage/log`.
fn beside(folder: &Path) -> Option<PathBuf> {
    // Removes a trailing slash, which the configuration may contain.
    let folder: PathBuf = folder.components().collect();
    let mut name = folder.file_name()?.to_owned();
    name.push(BESIDE);
    Some(folder.with_file_name(name))
}

fn open(path: &Path, access: Access) -> io::Result<File> {
    match access {
        Access::ReadWrite => {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            File::options().create(true).truncate(false).write(true).open(path)
        }
        Access::ReadOnly => File::open(path),
    }
}

fn lock(file: &File, folder: &Path, path: &Path) -> Result<(), OpenError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(fs::TryLockError::WouldBlock) => Err(locked_by_another(folder)),
        Err(fs::TryLockError::Error(source)) => Err(io_error(path, source)),
    }
}

fn locked_by_another(folder: &Path) -> OpenError {
    OpenError::Locked(folder.to_owned())
}

fn io_error(path: &Path, source: io::Error) -> OpenError {
    OpenError::NotLocked { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;

    fn assert_locked(folder: &Path) {
        for access in [Access::ReadWrite, Access::ReadOnly] {
            let refused = Lock::take(folder, access);
            assert!(matches!(refused, Err(OpenError::Locked(_))), "{access:?}: {refused:?}");
        }
    }

    #[test]
    fn one_process_has_the_log() {
        let root = tempdir().unwrap();
        let folder = root.path().join("log");
        let lock = Lock::take(&folder, Access::ReadWrite).unwrap();
        assert_locked(&folder);
        drop(lock);
        Lock::take(&folder, Access::ReadWrite).unwrap();
    }

    #[test]
    fn whichever_lock_is_removed_another_holds() {
        let root = tempdir().unwrap();
        let folder = root.path().join("log");
        let _lock = Lock::take(&folder, Access::ReadWrite).unwrap();
        fs::remove_file(folder.join("lock")).unwrap();
        assert_locked(&folder);
        fs::remove_file(root.path().join("log.lock")).unwrap();
        assert_locked(&folder);
    }

    #[test]
    fn a_lock_beside_that_is_not_ours_locks_and_one_that_cannot_be_made_stops_nobody() {
        let root = tempdir().unwrap();
        let folder = root.path().join("log");
        fs::create_dir(root.path().join("log.lock")).unwrap();
        let lock = Lock::take(&folder, Access::ReadWrite).unwrap();
        fs::remove_file(folder.join("lock")).unwrap();
        fs::rename(&folder, root.path().join("log.damaged-1")).unwrap();
        assert_locked(&folder);
        drop(lock);
        fs::remove_dir(root.path().join("log.lock")).unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", root.path().join("log.lock")).unwrap();
        let _lock = Lock::take(&folder, Access::ReadWrite).unwrap();
        assert_locked(&folder);
    }

    #[test]
    fn a_folder_that_took_the_place_of_the_locked_one_is_locked() {
        let root = tempdir().unwrap();
        let folder = root.path().join("log/");
        let _lock = Lock::take(&folder, Access::ReadWrite).unwrap();
        fs::rename(&folder, root.path().join("log.damaged-1")).unwrap();
        fs::create_dir(&folder).unwrap();
        assert_locked(&folder);
    }
}
