//! Who may read the files of the service: its user, and its group where the configuration says so.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{fs::Mode, process::umask};

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
    fn a_shell_takes_the_path_as_it_is() {
        for path in ["/plain/a-1_b.c", "/with a space", "/it's", "/$HOME;`x`\"", "/ü"] {
            let script = format!("printf %s {}", quoted(Path::new(path)));
            let said = Command::new("sh").args(["-c", &script]).output().unwrap().stdout;
            assert_eq!(String::from_utf8(said).unwrap(), path);
        }
    }
}
