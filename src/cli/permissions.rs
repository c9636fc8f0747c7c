//! The permissions of the service's files: whether other users can access them, and whether the
//! service can.
//!
//! New files are accessible to the user of the service only, and to its group if so configured.
//! Existing files are checked but never changed; each problem comes with a command that fixes it.

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

use crate::{
    config::{Config, KEY_FILE},
    world::read_models::all_files,
};

const GROUP_AND_OTHERS: u32 = 0o077;
const OTHERS: u32 = 0o007;
/// The permissions of the group and of others, with that to enter a directory.
const CLASSES: [(u32, u32); 2] = [(0o070, 0o010), (0o007, 0o001)];

/// Sets the umask, whatever it was, so that files and directories that this process creates from
/// now on have modes 0600 and 0700, or 0640 and 0750.
pub(super) fn restrict(config: &Config) {
    let masked = if config.server.group_readable { Mode::RWXO | Mode::WGRP } else { Mode::RWXO | Mode::RWXG };
    umask(masked);
}

/// A file or directory at a configured path that other users can access but should not.
#[derive(Debug)]
pub(super) struct ExposedPath {
    pub key: &'static str,
    pub path: PathBuf,
    /// Fixes this and all other files of the key.
    pub command: String,
}

/// Finds existing files and directories that other users can access: created by another program, or
/// by an earlier version of this one. The group never needs the private key.
pub(super) fn too_wide(config: &Config) -> Vec<ExposedPath> {
    let found = config.paths().into_iter().filter_map(|(key, path)| {
        let is_for_group = config.server.group_readable && key != KEY_FILE;
        let (not_allowed, who) = if is_for_group { (OTHERS, "o-rwx") } else { (GROUP_AND_OTHERS, "go-rwx") };
        let may_be_read =
            if key == "world.read_models_path" { config.world.read_models_mode.unwrap_or(0) } else { 0 };
        let is_open = |path: &PathBuf| is_open_to(path, not_allowed & !may_be_read);
        // A database has other files next to it; a directory does not.
        let open: Vec<PathBuf> =
            all_files(path).filter_map(|path| fs::canonicalize(path).ok()).filter(is_open).collect();
        let command = open.iter().map(|path| quoted(path)).collect::<Vec<_>>().join(" ");
        let path = open.into_iter().next()?;
        Some(ExposedPath { key, path, command: format!("chmod -R {who} {command}") })
    });
    found.chain(secrets(config)).collect()
}

/// Finds secrets that other users can read, and the file of the identities if they can change it.
/// The group may be that of a service manager, which places these files.
fn secrets(config: &Config) -> impl Iterator<Item = ExposedPath> {
    const WRITE: u32 = 0o002;
    let immudb = config.immudb.as_ref();
    let tls =
        |key: &'static str, file: Option<&PathBuf>| file.map(|path| (key, path.clone(), OTHERS, "o-rwx"));
    let files = [
        config.access.file.clone().map(|path| ("access.file", path, WRITE, "o-w")),
        tls("server.tls.key_file", config.server.tls.as_ref().map(|tls| &tls.key_file)),
        tls("immudb.password_file", immudb.and_then(|immudb| immudb.password_file.as_ref())),
        tls(
            "immudb.tls.key_file",
            immudb.and_then(|immudb| immudb.tls.as_ref()).and_then(|tls| tls.key_file.as_ref()),
        ),
    ];
    files.into_iter().flatten().filter_map(|(key, path, not_allowed, who)| {
        let path = fs::canonicalize(path).ok().filter(|path| is_open_to(path, not_allowed))?;
        let command = format!("chmod {who} {}", quoted(&path));
        Some(ExposedPath { key, path, command })
    })
}

/// Returns whether the users that `not_allowed` stands for have any permission on the path and can
/// reach it at all.
fn is_open_to(path: &Path, not_allowed: u32) -> bool {
    let mode = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.mode());
    let mut around = path.ancestors().skip(1);
    let classes = CLASSES.into_iter().filter(|(class, _)| not_allowed & class != 0);
    let enter = classes.fold(0, |bits, (_, enter)| bits | enter);
    mode(path) & not_allowed != 0 && around.all(|folder| mode(folder) & enter != 0)
}

/// A file or directory at a configured path that this process may not use, because it belongs to
/// another user, such as a copy made by that user.
#[derive(Debug)]
pub(super) struct InaccessiblePath {
    pub key: &'static str,
    pub path: PathBuf,
    /// The user that owns it.
    pub owner: u32,
    /// The user that this process runs as.
    pub user: u32,
    /// Fixes it.
    pub command: String,
}

/// Finds the first unusable file or directory of each configured path. The file of the private key
/// is not one of them: it may well be read-only, and the service reports a key that it cannot use.
pub(super) fn out_of_reach(config: &Config) -> Vec<InaccessiblePath> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let paths = config.paths().into_iter().filter(|(key, _)| *key != KEY_FILE);
    let found = paths.filter_map(|(key, configured)| {
        let (path, owner) = not_usable(configured, &is_usable)?;
        // Fix the whole configured path, unless a parent directory is unusable: then fix that
        // directory.
        let all = if configured.starts_with(&path) { path.as_path() } else { configured };
        let command = format!("chown -R {user}:{group} {}", quoted(all));
        Some(InaccessiblePath { key, path, owner, user, command })
    });
    found.collect()
}

/// Finds what cannot be used, with its owner: the path or its nearest existing parent, or an entry
/// in the directory.
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

/// Returns whether this process may use the path. A path on a read-only file system counts as
/// usable, because ownership is not the problem there.
fn is_usable(path: &Path, is_folder: bool) -> bool {
    let search = if is_folder { Access::EXEC_OK } else { Access::empty() };
    access(path, Access::READ_OK | Access::WRITE_OK | search) != Err(Errno::ACCESS)
}

/// Quotes a path for a shell.
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
            (0o755, 0o666, 0o002, true),
            (0o755, 0o664, 0o002, false),
            (0o750, 0o666, 0o002, false),
        ] {
            set(&inner, inner_mode);
            set(dir.path(), outer_mode);
            let found = is_open_to(&inner, not_allowed);
            assert_eq!(found, open, "{inner_mode:o} in {outer_mode:o} for {not_allowed:o}");
        }
    }

    #[test]
    fn the_private_key_is_for_the_user_alone_even_if_other_files_are_for_the_group() {
        let dir = tempfile::tempdir().unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let (log, key) = (dir.path().join("log"), dir.path().join("checkpoint.key"));
        fs::create_dir(&log).unwrap();
        fs::write(&key, "").unwrap();
        set(dir.path(), 0o750);
        set(&log, 0o750);
        let mut config = Config::default();
        config.server.group_readable = true;
        (config.event_sourcing.log_path, config.proof.key_file) = (log, key.clone());
        let exposed = |mode| {
            set(&key, mode);
            let root = fs::canonicalize(dir.path()).unwrap();
            let found = too_wide(&config).into_iter().filter(|exposed| exposed.path.starts_with(&root));
            found.map(|exposed| exposed.key).collect::<Vec<_>>()
        };
        // Directories above that nobody else can enter protect it as well.
        let is_reachable = is_open_to(&config.event_sourcing.log_path, GROUP_AND_OTHERS);
        assert_eq!(exposed(0o640), if is_reachable { vec![KEY_FILE] } else { vec![] });
        assert_eq!(exposed(0o600), Vec::<&str>::new());
    }

    #[test]
    fn a_file_of_identities_that_others_can_change_is_too_wide_and_one_that_they_can_read_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let file = dir.path().join("access.yml");
        fs::write(&file, "").unwrap();
        set(dir.path(), 0o755);
        let mut config = Config::default();
        config.access.file = Some(file.clone());
        let is_exposed = |mode| {
            set(&file, mode);
            too_wide(&config).iter().any(|exposed| exposed.key == "access.file")
        };
        let is_reachable = is_open_to(dir.path(), OTHERS);
        assert_eq!(is_exposed(0o646), is_reachable);
        assert!(!is_exposed(0o644));
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
        // A missing directory would be created in its nearest existing parent.
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
