//! The configured directories, and the check that none of them is inside another.
//!
//! Files are deleted in some of them, and others are deleted or renamed as a whole. Nested
//! directories would lose data.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use super::{AnchorConfig, Config, ConfigError, ListenAddress};

/// The configuration key of the file with the private key that signs checkpoints.
pub(crate) const KEY_FILE: &str = "proof.key_file";

impl Config {
    /// Returns the paths of the service's files with their configuration keys.
    pub fn paths(&self) -> [(&'static str, &PathBuf); 7] {
        folders(self)
    }

    /// Resolves relative paths against `start`.
    pub(super) fn start_paths_at(&mut self, start: &Path) {
        let events = &mut self.event_sourcing;
        for path in [
            &mut events.storage_path,
            &mut events.log_path,
            &mut events.index_path,
            &mut self.world.states_path,
            &mut self.world.read_models_path,
            &mut self.proof.key_file,
            &mut self.logging.path,
        ] {
            *path = start.join(&path);
        }
        for anchor in &mut self.proof.anchors {
            start_anchor_at(anchor, start);
        }
        for path in self.other_files() {
            *path = start.join(&path);
        }
    }

    /// The files that the service only reads, and its socket.
    fn other_files(&mut self) -> Vec<&mut PathBuf> {
        let mut files: Vec<Option<&mut PathBuf>> = vec![self.access.file.as_mut()];
        files.extend(self.server.listen.0.iter_mut().map(|address| match address {
            ListenAddress::Unix(path) => Some(path),
            ListenAddress::Tcp(_) => None,
        }));
        if let Some(tls) = &mut self.server.tls {
            files.extend([Some(&mut tls.certificate_file), Some(&mut tls.key_file)]);
            files.push(tls.client_ca_file.as_mut());
        }
        if let Some(immudb) = &mut self.immudb {
            files.extend([immudb.public_key_file.as_mut(), immudb.password_file.as_mut()]);
            if let Some(tls) = &mut immudb.tls {
                files.extend([tls.ca_file.as_mut(), tls.certificate_file.as_mut(), tls.key_file.as_mut()]);
            }
        }
        files.into_iter().flatten().collect()
    }

    /// Returns the key of the configured directory that is or contains `path`, or `None` if there
    /// is none.
    pub fn folder_around(&self, path: &Path) -> Option<&'static str> {
        let around = |(_, folder): &(&str, &PathBuf)| real(path).starts_with(real(folder));
        folders(self).into_iter().find(around).map(|(key, _)| key)
    }
}

/// Resolves the relative paths of an anchor. A program without a slash is looked up in PATH.
fn start_anchor_at(anchor: &mut AnchorConfig, start: &Path) {
    match anchor {
        AnchorConfig::File(path) => *path = start.join(&path),
        AnchorConfig::Command(command) => {
            let program = command.first_mut().filter(|program| program.contains('/'));
            if let Some(program) = program
                && let Ok(path) = start.join(&program).into_os_string().into_string()
            {
                *program = path;
            }
        }
        AnchorConfig::Witness(witness) => {
            if let Some(path) = &mut witness.ca_file {
                *path = start.join(&path);
            }
        }
    }
}

/// Includes the file of the read models, because it is deleted as well, and that of the private
/// key, because it must not be.
fn folders(config: &Config) -> [(&'static str, &PathBuf); 7] {
    let events = &config.event_sourcing;
    [
        ("event_sourcing.storage_path", &events.storage_path),
        ("event_sourcing.log_path", &events.log_path),
        ("event_sourcing.index_path", &events.index_path),
        ("world.states_path", &config.world.states_path),
        ("world.read_models_path", &config.world.read_models_path),
        (KEY_FILE, &config.proof.key_file),
        ("logging.path", &config.logging.path),
    ]
}

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let folders = folders(config);
    for (inner, inner_path) in folders {
        for (outer, outer_path) in folders {
            if inner != outer && real(inner_path).starts_with(real(outer_path)) {
                return Err(ConfigError::Invalid {
                    key: inner.into(),
                    variable: None,
                    found: format!("{inner_path:?}"),
                    expected: format!("a directory outside {outer}"),
                });
            }
        }
    }
    for (number, anchor) in (1..).zip(&config.proof.anchors) {
        let AnchorConfig::File(path) = anchor else { continue };
        if let Some(outer) = config.folder_around(path) {
            return Err(ConfigError::Invalid {
                key: format!("proof.anchors.{number}.file"),
                variable: None,
                found: format!("{path:?}"),
                expected: format!("a file outside {outer}"),
            });
        }
    }
    Ok(())
}

/// Returns the path without symbolic links and `..`, so that it identifies the directory. The
/// directory need not exist yet.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if let Ok(real) = fs::canonicalize(&path) {
        return real;
    }
    match (path.parent(), path.components().next_back()) {
        (Some(parent), Some(Component::ParentDir)) => {
            let mut above = real(parent);
            above.pop();
            above
        }
        (Some(parent), Some(Component::Normal(name))) => real(parent).join(name),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_starts_at_the_folder_of_the_configuration_and_lies_outside_of_the_storage() {
        let command = |words: [&str; 2]| AnchorConfig::Command(words.map(str::to_owned).to_vec());
        let mut config = Config::default();
        config.proof.anchors = vec![
            AnchorConfig::File("anchors/checkpoints".into()),
            command(["bin/post", "a/b"]),
            command(["post", "a/b"]),
        ];
        config.start_paths_at(Path::new("/srv/game"));
        let expected = [
            AnchorConfig::File("/srv/game/anchors/checkpoints".into()),
            command(["/srv/game/bin/post", "a/b"]),
            command(["post", "a/b"]),
        ];
        assert_eq!(config.proof.anchors, expected);
        assert_eq!(config.proof.key_file, Path::new("/srv/game/storage/keys/checkpoint.key"));
        assert!(check(&config).is_ok());
        config.proof.anchors = vec![AnchorConfig::File("/srv/game/storage/log/checkpoints".into())];
        let refused = check(&config).unwrap_err().to_string();
        assert!(
            refused.starts_with("proof.anchors.1.file: ") && refused.ends_with("event_sourcing.log_path")
        );
    }

    #[test]
    fn a_folder_is_the_same_by_whatever_way() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("a");
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        for way in ["a", "./a", "b/../a", "link/a", "link/b/../a"] {
            assert_eq!(real(&dir.path().join(way)), real(&inside), "{way}");
        }
        assert_ne!(real(&dir.path().join("b")), real(&inside));
    }
}
