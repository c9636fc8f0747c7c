//! The service's files are readable by its own user only, or also by its group if configured,
//! whatever umask the service starts with.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{
    events::append_to,
    service::{Service, Setup},
};

/// Returns a service that ran with a umask of 022 and has created all its files: log, index, read
/// models, event files and its own log.
async fn ran(setup: Setup) -> Service {
    let mut service = Service::new(setup);
    service.use_umask("022");
    service.restart().await;
    append_to(&mut service.client(), "room-1", 3).await;
    for name in ["storage/log", "storage/index", "storage/read_models.sqlite", "logs/system.log"] {
        service.wait_until(name, async || service.dir().join(name).exists()).await;
    }
    service.stop();
    service
}

/// Returns all files and directories below a path with their modes.
fn modes(folder: &Path) -> Vec<(PathBuf, bool, u32)> {
    let metadata = fs::symlink_metadata(folder).unwrap();
    let mut found = vec![(folder.to_owned(), metadata.is_dir(), metadata.mode() & 0o777)];
    if metadata.is_dir() {
        let entries = fs::read_dir(folder).unwrap();
        found.extend(entries.flat_map(|entry| modes(&entry.unwrap().path())));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_for_the_services_user_alone_or_for_its_group_too() {
    let group = Setup::local().set("server", "group_readable: true");
    for (setup, folder_mode, file_mode) in [(Setup::local(), 0o700, 0o600), (group, 0o750, 0o640)] {
        let service = ran(setup).await;
        for name in ["storage", "logs"] {
            for (path, is_folder, mode) in modes(&service.dir().join(name)) {
                let wanted = if is_folder { folder_mode } else { file_mode };
                // The database of the index restricts its files to the user in any case.
                let may_be_less = path.starts_with(service.storage().join("index")) && mode == 0o600;
                // The private key is for the user alone in any case.
                let is_private = path.starts_with(service.storage().join("keys"));
                let wanted = if is_private { wanted & 0o700 } else { wanted };
                let fits = mode == wanted || may_be_less;
                assert!(fits, "{}: {mode:o} instead of {wanted:o}", path.display());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_others_can_read_is_a_warning_with_the_command_that_mends_it() {
    const WARNING: &str = "path is accessible to other users";
    let mut service = ran(Setup::local()).await;
    assert!(!service.log().contains(WARNING), "{}", service.log());
    let widen = |path: PathBuf| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    // A crash leaves such a file: SQLite reads it and does not change its mode.
    fs::write(service.storage().join("read_models.sqlite-wal"), "").unwrap();
    for name in ["", "storage", "storage/log", "storage/read_models.sqlite-wal"] {
        widen(service.dir().join(name));
    }
    service.restart().await;
    service.stop();
    let log = service.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains(WARNING)).collect();
    let keys = ["event_sourcing.log_path", "world.read_models_path"];
    assert_eq!(warnings.len(), keys.len(), "{warnings:?}");
    for (warning, key) in warnings.into_iter().zip(keys) {
        assert!(warning.contains(key), "{warning}");
        let (_, command) = warning.split_once("to fix this, run: ").unwrap();
        // The fields of the log line follow the message.
        let command = command.split(" key=").next().unwrap();
        // Files that existed at startup may be gone by now.
        fs::write(service.storage().join("read_models.sqlite-wal"), "").unwrap();
        assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
    }
    service.restart().await;
    assert!(!service.log().contains(WARNING), "{}", service.log());
}
