//! Files are deleted in some of the configured folders, and others are deleted or renamed whole: none may
//! lie in another.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use super::{Config, ConfigError};

impl Config {
    /// Where files of the service lie, with the keys that say so.
    pub fn paths(&self) -> [(&'static str, &PathBuf); 6] {
        folders(self)
    }

    /// Has relative paths start at this folder.
    pub(super) fn start_paths_at(&mut self, start: &Path) {
        let events = &mut self.event_sourcing;
        for path in [
            &mut events.storage_path,
            &mut events.log_path,
            &mut events.index_path,
            &mut self.world.states_path,
            &mut self.world.read_models_path,
            &mut self.logging.path,
        ] {
            *path = start.join(&path);
        }
    }

    /// The key of the configured folder in which `path` lies, if it lies in one.
    pub fn folder_around(&self, path: &Path) -> Option<&'static str> {
        let around = |(_, folder): &(&str, &PathBuf)| real(path).starts_with(real(folder));
        folders(self).into_iter().find(around).map(|(key, _)| key)
    }
}

/// The file of the read models counts: it is deleted, too.
fn folders(config: &Config) -> [(&'static str, &PathBuf); 6] {
    let events = &config.event_sourcing;
    [
        ("event_sourcing.storage_path", &events.storage_path),
        ("event_sourcing.log_path", &events.log_path),
        ("event_sourcing.index_path", &events.index_path),
        ("world.states_path", &config.world.states_path),
        ("world.read_models_path", &config.world.read_models_path),
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
                    expected: format!("a folder outside of {outer}"),
                });
            }
        }
    }
    Ok(())
}

/// The folder itself, whatever way leads to it; it need not be there yet.
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
