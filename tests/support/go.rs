//! Go programs that the tests need.
//!
//! They are built on first use, once for all test processes, and kept next to the other build
//! artifacts.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use super::paths;

/// A Go module in this repository, and the directory below `target` for its programs.
pub struct Module {
    pub source: &'static str,
    pub target: &'static str,
}

impl Module {
    /// Builds `package` as `name`, unless the existing program is newer than all of its `sources`.
    /// Test processes that need it at the same time build it once.
    pub fn build(&self, name: &str, package: &str, sources: &[&str]) -> PathBuf {
        let module = paths::root().join(self.source);
        let dir = paths::target().join(self.target);
        fs::create_dir_all(&dir).unwrap();
        let lock = File::create(dir.join("lock")).unwrap();
        lock.lock().unwrap();

        let program = dir.join(name);
        let built = modified(&program);
        if built.is_some() && sources.iter().all(|source| modified(&module.join(source)) <= built) {
            return program;
        }
        // Build under another name first, so that an interrupted build leaves nothing that looks
        // complete.
        let unfinished = dir.join(format!("{name}.unfinished"));
        let output = Command::new("go")
            .current_dir(&module)
            .args(["build", "-buildvcs=false", "-o"])
            .arg(&unfinished)
            .arg(package)
            .output()
            .unwrap_or_else(|error| {
                panic!("these tests need Go 1.25 or newer, to build {package} (go: {error})")
            });
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "go build {package} in {}:\n{errors}", module.display());
        fs::rename(&unfinished, &program).unwrap();
        program
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}
