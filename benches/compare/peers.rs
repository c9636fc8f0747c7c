//! Installs pinned versions of the other systems, once, below cargo's target directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{outcome::Outcome, row::Row, support::immudb::ImmuDb};

/// The version that the tests use.
pub const IMMUDB_VERSION: &str = "1.11.1";
pub const UMADB_VERSION: &str = "0.7.8";
pub const MESSAGE_DB_VERSION: &str = "1.3.1";
/// The version in `nats-server/go.mod`.
pub const NATS_VERSION: &str = "2.15.2";

/// Locates and installs the programs.
pub struct Peers {
    /// The program of the service.
    pub server: PathBuf,
    folder: PathBuf,
}

impl Peers {
    pub fn new(server: PathBuf, folder: PathBuf) -> Self {
        Self { server, folder }
    }

    /// Installs UmaDB. Its Python wheel contains the server.
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

    /// Checks for Go, which builds ImmuDB and NATS.
    pub fn go(&self) -> Outcome<()> {
        run(Command::new("go").arg("version")).map(drop).map_err(|error| format!("Go is required: {error}"))
    }

    /// Builds the server, as the tests do, and its load program.
    pub async fn immudb(&self) -> Outcome<()> {
        self.go()?;
        let build = || {
            ImmuDb::binary();
            ImmuDb::load_program();
        };
        tokio::task::spawn_blocking(build).await.map_err(|_| "ImmuDB could not be built".to_owned())
    }

    /// Returns the version of a system for the report.
    pub fn version(&self, row: Row) -> String {
        match row {
            Row::AethyrLocal | Row::AethyrEventFiles => env!("CARGO_PKG_VERSION").to_owned(),
            Row::AethyrImmudb => format!("{}, ImmuDB {IMMUDB_VERSION}", env!("CARGO_PKG_VERSION")),
            Row::ImmudbConditional | Row::ImmudbConditionalOurs | Row::ImmudbSet | Row::ImmudbSetOurs => {
                IMMUDB_VERSION.to_owned()
            }
            Row::Umadb => UMADB_VERSION.to_owned(),
            Row::Nats => NATS_VERSION.to_owned(),
            Row::MessageDb => {
                let postgres = postgres()
                    .and_then(|folder| run(Command::new(folder.join("postgres")).arg("--version")).ok());
                format!(
                    "{MESSAGE_DB_VERSION}, {}",
                    postgres.unwrap_or_default().replace("postgres (PostgreSQL) ", "PostgreSQL ")
                )
            }
        }
    }

    /// Builds the NATS server from the source in the Go module proxy.
    pub fn nats(&self) -> Outcome<PathBuf> {
        let program = self.folder.join(format!("nats-server-{NATS_VERSION}"));
        if !program.exists() {
            self.go()?;
            let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare/nats-server");
            let unfinished = program.with_extension("unfinished");
            let mut build = Command::new("go");
            build.current_dir(module).args(["build", "-buildvcs=false", "-o"]).arg(&unfinished);
            run(build.arg("github.com/nats-io/nats-server/v2"))?;
            fs::rename(&unfinished, &program).map_err(|error| error.to_string())?;
        }
        Ok(program)
    }

    /// Installs the scripts from npm, and locates an installed PostgreSQL.
    pub fn message_db(&self) -> Outcome<MessageDbPrograms> {
        let postgres = postgres().ok_or("PostgreSQL is required: apt-get install postgresql")?;
        let folder = self.folder.join(format!("message-db-{MESSAGE_DB_VERSION}"));
        let scripts = folder.join("package/database");
        if !scripts.exists() {
            make_folder(&folder)?;
            let package = format!("@eventide/message-db@{MESSAGE_DB_VERSION}");
            let archive = run(Command::new("npm").current_dir(&folder).args(["pack", "--silent", &package]))?;
            run(Command::new("tar").current_dir(&folder).args(["xzf", &archive]))?;
        }
        Ok(MessageDbPrograms { postgres, scripts })
    }
}

/// The programs of PostgreSQL, and the scripts of message-db.
#[derive(Clone, Debug)]
pub struct MessageDbPrograms {
    /// The directory with `initdb` and `postgres`.
    pub postgres: PathBuf,
    /// message-db's directory `database`.
    pub scripts: PathBuf,
}

/// Returns the program directory of the newest PostgreSQL, where Debian installs it.
fn postgres() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(Result::ok);
    let folders = versions.map(|version| version.path().join("bin"));
    folders.filter(|folder| folder.join("initdb").exists() && folder.join("postgres").exists()).max()
}

/// Returns the commit that is measured, or an empty string without git.
pub fn commit() -> String {
    let mut git = Command::new("git");
    git.current_dir(env!("CARGO_MANIFEST_DIR")).args(["describe", "--always", "--dirty", "--exclude=*"]);
    run(&mut git).unwrap_or_default()
}

/// Runs a command to completion and returns its output.
pub fn run(command: &mut Command) -> Outcome<String> {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().display().to_string();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        return Err(format!("{name}: {} {}", text(&output.stderr), output.status));
    }
    Ok(text(&output.stdout))
}

pub fn make_folder(folder: &Path) -> Outcome<()> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}
