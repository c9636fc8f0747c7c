//! Who may read the files of the service: its user, and its group where the configuration says so. And whether its user
//! may.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, Mode, access},
    io::Errno,
    process::{getegid, geteuid, umask},
};

use crate::{config::Config, world::read_models::all_files};

const GROUP_AND_OTHERS: u32 = 0o077;
const OTHERS: u32 = 0o007;
/// To enter a folder.
const SEARCH: u32 = 0o011;

/// Files and folders that this process makes from now on have 0600 and 0700, or 0640 and 0750, whatever its umask was.
pub fn restrict(config: &Config) {
    let masked = match config.server.group_readable {
        true => Mode::RWXO | Mode::WGRP,
        false => Mode::RWXO | Mode::RWXG,
    };
    umask(masked);
}

/// What lies at a configured path, and more may read than should.
#[derive(Debug)]
pub struct TooWide {
    pub key: &'static str,
    pub path: PathBuf,
    /// Mends it, and all other files of that key.
    pub command: String,
}

/// What lies there from before: made by another program, or by an earlier version of this one.
pub fn too_wide(config: &Config) -> Vec<TooWide> {
    let (not_allowed, who) = match config.server.group_readable {
        true => (OTHERS, "o-rwx"),
        false => (GROUP_AND_OTHERS, "go-rwx"),
    };
    let is_open = |path: &PathBuf| is_open_to(path, not_allowed);
    let found = config.paths().into_iter().filter_map(|(key, path)| {
        // A database has files beside its own; a folder has none.
        let open: Vec<PathBuf> =
            all_files(path).filter_map(|path| fs::canonicalize(path).ok()).filter(is_open).collect();
        let command = open.iter().map(|path| quoted(path)).collect::<Vec<_>>().join(" ");
        let path = open.into_iter().next()?;
        Some(TooWide { key, path, command: format!("chmod -R {who} {command}") })
    });
    found.collect()
}

/// Whether those that `not_allowed` stands for may do anything there, and get there at all.
fn is_open_to(path: &Path, not_allowed: u32) -> bool {
    let mode = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.mode());
    let mut around = path.ancestors().skip(1);
    mode(path) & not_allowed != 0 && around.all(|folder| mode(folder) & not_allowed & SEARCH != 0)
}

/// What this process may not use at a configured path: somebody else's, as a copy made by another user is.
#[derive(Debug)]
pub struct OutOfReach {
    pub key: &'static str,
    pub path: PathBuf,
    /// Whose it is, and who we are.
    pub owner: u32,
    pub user: u32,
    /// Mends it.
    pub command: String,
}

/// The first of each configured path.
pub fn out_of_reach(config: &Config) -> Vec<OutOfReach> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let found = config.paths().into_iter().filter_map(|(key, configured)| {
        let (path, owner) = not_usable(configured, &is_usable)?;
        // All of what is configured, unless even the way there is barred.
        let all = if configured.starts_with(&path) { path.as_path() } else { configured };
        let command = format!("chown -R {user}:{group} {}", quoted(all));
        Some(OutOfReach { key, path, owner, user, command })
    });
    found.collect()
}

/// What is there of the path, or what is in it, and can't be used, with its owner.
fn not_usable(path: &Path, is_usable: &impl Fn(&Path, bool) -> bool) -> Option<(PathBuf, u32)> {
    const LOOKED_AT_MAX: usize = 1000;
    let whose = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        let is_usable = is_usable(path, metadata.is_dir());
        (!is_usable).then(|| (path.to_owned(), metadata.uid()))
    };
    let is_there = |path: &&Path| !path.as_os_str().is_empty() && fs::metadata(path).is_ok();
    let here = path.ancestors().find(is_there)?;
    if let Some(found) = whose(here) {
        return Some(found);
    }
    let inside = if here == path { fs::read_dir(here).ok() } else { None };
    inside?.take(LOOKED_AT_MAX).flatten().find_map(|entry| whose(&entry.path()))
}

/// Also where it is whole, but on a read-only file system: that is no question of owners.
fn is_usable(path: &Path, is_folder: bool) -> bool {
    let search = if is_folder { Access::EXEC_OK } else { Access::empty() };
    access(path, Access::READ_OK | Access::WRITE_OK | search) != Err(Errno::ACCESS)
}

/// As a shell takes it.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if path.chars().all(is_plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, process::Command};

    use super::*;

    #[test]
    fn what_nobody_else_can_reach_is_not_too_wide() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        for (outer_mode, inner_mode, not_allowed, open) in [
            (0o755, 0o755, GROUP_AND_OTHERS, true),
            (0o711, 0o744, OTHERS, true),
            (0o755, 0o750, GROUP_AND_OTHERS, true),
            (0o755, 0o750, OTHERS, false),
            (0o700, 0o777, GROUP_AND_OTHERS, false),
            (0o750, 0o755, OTHERS, false),
            (0o755, 0o700, GROUP_AND_OTHERS, false),
        ] {
            set(&inner, inner_mode);
            set(dir.path(), outer_mode);
            let found = is_open_to(&inner, not_allowed);
            assert_eq!(found, open, "{inner_mode:o} in {outer_mode:o} for {not_allowed:o}");
        }
    }

    #[test]
    fn what_is_in_the_way_is_named_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, log) = (dir.path().join("storage"), dir.path().join("storage/log"));
        fs::create_dir_all(&log).unwrap();
        let segment = log.join("0000000001.segment");
        fs::write(&segment, "").unwrap();
        let owner = fs::metadata(&segment).unwrap().uid();
        let barred = |barred: &Path| not_usable(&log, &|path: &Path, _: bool| path != barred);
        assert_eq!(barred(Path::new("/elsewhere")), None);
        assert_eq!(barred(&log), Some((log.clone(), owner)));
        assert_eq!(barred(&segment), Some((segment.clone(), owner)));
        // What is not there yet is made in what is.
        fs::remove_dir_all(&log).unwrap();
        assert_eq!(barred(&storage), Some((storage.clone(), owner)));
        assert!(is_usable(&storage, true));
    }

    #[test]
    fn a_shell_takes_the_path_as_it_is() {
        for path in ["/plain/a-1_b.c", "/with a space", "/it's", "/$HOME;`x`\"", "/ü"] {
            let script = format!("printf %s {}", quoted(Path::new(path)));
            let said = Command::new("sh").args(["-c", &script]).output().unwrap().stdout;
            assert_eq!(String::from_utf8(said).unwrap(), path);
        }
    }
}
