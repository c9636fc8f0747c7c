//! A local log that is given up, put aside: nothing of it is deleted but the index, which is derived from it.
//!
//! The log's new name is the last step and a single one. Before it, everything is as after a start without
//! an index and without event files; after it, as on an empty disk, which has no writer id either.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tracing::info;

use crate::{cli::repair::sync_parent, config::EventSourcingConfig};

/// Whoever calls holds the log's lock, and has neither the log nor the index open. Returns the log's new name.
///
/// # Errors
/// A folder can't be renamed or removed.
pub fn put(config: &EventSourcingConfig) -> Result<PathBuf, String> {
    set_event_files_aside(config)?;
    remove_index(&config.index_path)?;
    rename(&config.log_path)
}

/// Beside an empty log they would stop the start: they might be all that is left of it.
fn set_event_files_aside(config: &EventSourcingConfig) -> Result<(), String> {
    let folder = &config.storage_path;
    match fs::read_dir(folder).map(|mut entries| entries.next().is_none()) {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("{}: {error}", folder.display())),
    }
    let kept = rename(folder)?;
    info!(kept = %kept.display(), "event files renamed");
    Ok(())
}

/// It must be gone for good before the log is: beside an empty log it would be the trace of a lost one.
fn remove_index(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", folder.display()))
        }
        Ok(()) | Err(_) => sync_parent(folder),
    }
}

/// `log` becomes `log.given-up-1`, or the next that is free.
fn rename(folder: &Path) -> Result<PathBuf, String> {
    let problem = |error: &dyn std::fmt::Display| format!("{}: {error}", folder.display());
    for number in 1u32.. {
        let mut name = folder.file_name().unwrap_or_default().to_owned();
        name.push(format!(".given-up-{number}"));
        let kept = folder.with_file_name(name);
        match renameat_with(CWD, folder, CWD, &kept, RenameFlags::NOREPLACE) {
            Ok(()) => return sync_parent(folder).map(|()| kept),
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(problem(&error)),
        }
    }
    Err(problem(&"no name is left for it"))
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
        // No folder, so it is not removed as one.
        fs::remove_dir_all(&config.index_path).unwrap();
        fs::write(&config.index_path, "").unwrap();
        assert!(put(&config).is_err());
        assert!(config.log_path.join("contents").exists());
        fs::remove_file(&config.index_path).unwrap();
        assert_eq!(put(&config), Ok(dir.path().join("log.given-up-1")));
        assert!(dir.path().join("log.given-up-1/contents").exists() && !config.log_path.exists());
    }

    #[test]
    fn a_log_that_cannot_be_renamed_is_left_beside_no_index() {
        let dir = tempfile::tempdir().unwrap();
        let config = storage(dir.path());
        fs::remove_dir_all(&config.log_path).unwrap();
        assert!(put(&config).is_err());
        assert!(!config.index_path.exists());
        assert!(dir.path().join("events.given-up-1/contents").exists());
    }

    #[test]
    fn a_path_may_end_in_a_slash_and_names_that_are_taken_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = storage(dir.path());
        config.log_path.push("");
        fs::create_dir(dir.path().join("log.given-up-1")).unwrap();
        assert_eq!(put(&config), Ok(dir.path().join("log.given-up-2")));
        assert_eq!(fs::read_dir(dir.path().join("log.given-up-1")).unwrap().count(), 0);
    }
}
