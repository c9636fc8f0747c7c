//! Installing what is compared with: pinned versions, below the target folder, once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::load::Outcome;

pub const UMADB_VERSION: &str = "0.7.8";

/// Where the programs are, or how to get them.
pub struct Peers {
    /// Our own.
    pub server: PathBuf,
    folder: PathBuf,
}

impl Peers {
    pub fn new(server: PathBuf, folder: PathBuf) -> Self {
        Self { server, folder }
    }

    /// The wheel has the server in it.
    pub fn umadb(&self) -> Outcome<PathBuf> {
        let environment = self.folder.join(format!("umadb-{UMADB_VERSION}"));
        let program = environment.join("bin/umadb");
        if !program.exists() {
            let package = format!("umadb=={UMADB_VERSION}");
            run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
            run(Command::new(environment.join("bin/pip")).args(["install", "--quiet", &package]))?;
        }
        Ok(program)
    }
}

/// Runs a command that ends by itself.
pub fn run(command: &mut Command) -> Outcome<String> {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().display().to_string();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{name}: {} {}", text(&output.stderr), output.status)),
    }
}

pub fn make_folder(folder: &Path) -> Outcome<()> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}
