//! The errors of the commands.
//!
//! Their texts are what the operator reads on standard error. What only one command can report is
//! an error of that command's module.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    client::{ConnectionError, ExecuteError},
    health::HealthError,
    immudb_setup::ImmudbSetupError,
    import::ImportError,
    import_aethyr::ImportAethyrError,
    pending::ExportError,
    proof::ProofError,
    repair::RepairError,
    resolve::ResolveError,
    token::TokenCommandError,
    verify::VerifyError,
    verify_proof::VerifyProofError,
};
use crate::{
    access::LoadError,
    config::ConfigError,
    grpc::ClientError,
    history::HistoryError,
    log::{FrameTooLarge, WriteError},
    replication::comparison::ComparisonError,
    sequencer::RestoreError,
    server::ServerError,
    storage::StorageError,
    telemetry::TelemetryError,
};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// An error of the operating system. The text names no file.
    #[error(transparent)]
    Io(io::Error),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("standard output: {0}")]
    Output(#[source] io::Error),
    /// The reader of standard output is gone, as `head` may be. This error is not printed.
    #[error("standard output is closed")]
    OutputClosed,
    #[error(transparent)]
    ImmudbSetup(#[from] ImmudbSetupError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("an append or a snapshot {0}")]
    TooLarge(#[from] FrameTooLarge),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("the configuration has no section immudb")]
    NoImmudb,
    #[error(transparent)]
    Comparison(#[from] ComparisonError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("{id}: does not exist")]
    NoSuchAggregate { id: String },
    #[error("damaged aggregates: {count}")]
    DamagedAggregates { count: u64 },
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    #[error(transparent)]
    Health(#[from] HealthError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    ImportAethyr(#[from] ImportAethyrError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Repair(#[from] RepairError),
    #[error(transparent)]
    Proof(#[from] ProofError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error(transparent)]
    VerifyProof(#[from] VerifyProofError),
    #[error(transparent)]
    Token(#[from] TokenCommandError),
}

impl Error {
    pub(super) fn of_file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }
}

/// Why no command is run: the configuration cannot be used. It has an exit code of its own.
#[derive(Debug, thiserror::Error)]
pub(super) enum UsageError {
    #[error("invalid configuration ({}environment variables): {source}", named(file.as_deref()))]
    Config {
        /// The file that was named on the command line.
        file: Option<PathBuf>,
        source: Box<ConfigError>,
    },
    #[error(
        "no configuration file found; searched: {}. Run `aethyr-event-store init` to create \
         conf/server.yml, or use --config FILE",
        listed(looked_for)
    )]
    NoConfigFile { looked_for: Vec<PathBuf> },
    #[error(
        "found a log in {former}, but none in {log}: relative paths start at the directory of the \
         configuration file (or at its parent, if it is called conf), not at the working directory. If \
         the log is the current one, move the storage or configure absolute paths; if it is an old copy, \
         move it away"
    )]
    FormerLog {
        /// Where an earlier version would have looked.
        former: PathBuf,
        /// The configured path.
        log: PathBuf,
    },
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// `access.file` or `access.anonymous` is not valid.
    #[error(transparent)]
    Access(#[from] LoadError),
}

fn named(file: Option<&Path>) -> String {
    file.map(|file| format!("{} and ", file.display())).unwrap_or_default()
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
