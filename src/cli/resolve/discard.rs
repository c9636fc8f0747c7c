//! Renames a local log whose pending events are discarded. Nothing is deleted except the index,
//! which is derived from the log.
//!
//! Renaming the log is the last step, and atomic. Before it, the state is that of a start without
//! an index and without event files. After it, the state is that of an empty disk, which has no
//! writer id either.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tracing::info;

use crate::{
    cli::{
        Error,
        repair::{beside, sync_parent},
    },
    config::EventSourcingConfig,
};

/// Renames the event files and the log, removes the index, and returns the new path of the log. The
/// caller must hold the lock of the log, and must have closed the log and the index.
///
/// # Errors
/// Returns an error if a directory cannot be renamed or removed.
pub(super) fn set_aside(config: &EventSourcingConfig) -> Result<PathBuf, Error> {
    set_event_files_aside(config)?;
    remove_index(&config.index_path)?;
    rename(&config.log_path)
}

/// Renames the directory of the event files. Next to an empty log they would make the start fail,
/// because they might be all that is left of a lost log.
fn set_event_files_aside(config: &EventSourcingConfig) -> Result<(), Error> {
    let folder = &config.storage_path;
    match fs::read_dir(folder).map(|mut entries| entries.next().is_none()) {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::of_file(folder, error)),
    }
    let kept = rename(folder)?;
    info!(kept = %kept.display(), "event files renamed");
    Ok(())
}

/// Removes the index durably. It must be gone before the log is renamed: next to an empty log it
/// would indicate that a log was lost.
fn remove_index(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::of_file(folder, error)),
        Ok(()) | Err(_) => sync_parent(folder),
    }
}

/// Renames `log` to `log.given-up-1`, or to the next free name.
fn rename(folder: &Path) -> Result<PathBuf, Error> {
    for number in 1u32.. {
        let kept = beside(folder, &format!("given-up-{number}"));
        match renameat_with(CWD, folder, CWD, &kept, RenameFlags::NOREPLACE) {
            Ok(()) => return sync_parent(folder).map(|()| kept),
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(Error::of_file(folder, error.into())),
        }
    }
    Err(Error::of_file(folder, io::Error::other("no free name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(root: &Path) -> EventSourcingConfig {
        let config = EventSourcingConfig {
            storage_path: root.join("events"),
            log_path: root.join("log"),
            index_path: root.join("index"),
            ..EventSourcingConfig::default()
        };
        for folder in [&config.storage_path, &config.log_path, &config.index_path] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("contents"), "").unwrap();
        }
        config
    }

    #[test]
    fn the_log_keeps_its_name_until_everything_else_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let config = storage(dir.path());
        // Not a directory, so it cannot be removed as one.
        fs::remove_dir_all(&config.index_path).unwrap();
        fs::write(&config.index_path, "").unwrap();
        assert!(set_aside(&config).is_err());
        assert!(config.log_path.join("contents").exists());
        fs::remove_file(&config.index_path).unwrap();
        assert_eq!(set_aside(&config).unwrap(), dir.path().join("log.given-up-1"));
        assert!(dir.path().join("log.given-up-1/contents").exists() && !config.log_path.exists());
    }

    #[test]
    fn a_log_that_cannot_be_renamed_is_left_beside_no_index() {
        let dir = tempfile::tempdir().unwrap();
        let config = storage(dir.path());
        fs::remove_dir_all(&config.log_path).unwrap();
        assert!(set_aside(&config).is_err());
        assert!(!config.index_path.exists());
        assert!(dir.path().join("events.given-up-1/contents").exists());
    }

    #[test]
    fn a_path_may_end_in_a_slash_and_names_that_are_taken_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = storage(dir.path());
        config.log_path.push("");
        fs::create_dir(dir.path().join("log.given-up-1")).unwrap();
        assert_eq!(set_aside(&config).unwrap(), dir.path().join("log.given-up-2"));
        assert_eq!(fs::read_dir(dir.path().join("log.given-up-1")).unwrap().count(), 0);
    }
}
