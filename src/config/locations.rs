//! The default locations of the configuration file, and the directory that relative paths in it
//! start from.
//!
//! Only names paths: the files are read elsewhere.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Relative to the working directory.
const LOCAL: &str = "conf/server.yml";
const OF_PROGRAM: &str = "aethyr-event-store/server.yml";
const OF_SYSTEM: &str = "/etc";
/// Relative paths in a configuration in a directory of this name start at the parent directory.
const CONF: &str = "conf";

/// Returns the files to look for if none is named, in order of precedence.
pub(super) fn candidates(environment: &[(String, String)]) -> Vec<PathBuf> {
    let variable = |wanted: &str| {
        let found = environment.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| PathBuf::from(value)).filter(|path| path.is_absolute())
    };
    let of_user = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
    let mut candidates = vec![PathBuf::from(LOCAL)];
    candidates.extend(of_user.map(|folder| folder.join(OF_PROGRAM)));
    candidates.push(Path::new(OF_SYSTEM).join(OF_PROGRAM));
    candidates
}

/// Returns the directory that relative paths start from: the directory of the configuration file,
/// or its parent if it is called `conf`. Returns `None` if that is the working directory.
pub(super) fn start_of_paths(file: &Path) -> Option<PathBuf> {
    let file = std::path::absolute(file).ok()?;
    let folder = file.parent()?;
    let start = match folder.file_name() {
        Some(name) if name == CONF => folder.parent()?,
        _ => folder,
    };
    let real = |path: &Path| fs::canonicalize(path).ok();
    let is_working_directory = real(start).is_some_and(|start| real(Path::new(".")) == Some(start));
    (!is_working_directory).then(|| start.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates_with(environment: &[(&str, &str)]) -> Vec<String> {
        let environment: Vec<(String, String)> =
            environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        candidates(&environment).iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn a_configuration_is_looked_for_here_then_of_the_user_then_of_the_system() {
        let (here, system) = ("conf/server.yml", "/etc/aethyr-event-store/server.yml");
        assert_eq!(candidates_with(&[]), [here, system]);
        let of_user = "/u/.config/aethyr-event-store/server.yml";
        assert_eq!(candidates_with(&[("HOME", "/u")]), [here, of_user, system]);
        // The XDG specification requires relative paths to be ignored.
        assert_eq!(candidates_with(&[("HOME", "/u"), ("XDG_CONFIG_HOME", "x")]), [here, of_user, system]);
        let given = candidates_with(&[("HOME", "/u"), ("XDG_CONFIG_HOME", "/x")]);
        assert_eq!(given, [here, "/x/aethyr-event-store/server.yml", system]);
    }

    #[test]
    fn paths_start_at_the_folder_of_the_configuration_or_above_conf() {
        for here in ["conf/server.yml", "./conf/other.yml", "server.yml", "none.yml"] {
            assert_eq!(start_of_paths(Path::new(here)), None, "{here}");
        }
        for (file, start) in [
            ("/etc/aethyr-event-store/server.yml", "/etc/aethyr-event-store"),
            ("/srv/game/conf/server.yml", "/srv/game"),
            ("/srv/game/conf.d/server.yml", "/srv/game/conf.d"),
            ("/server.yml", "/"),
        ] {
            assert_eq!(start_of_paths(Path::new(file)), Some(PathBuf::from(start)), "{file}");
        }
    }
}
