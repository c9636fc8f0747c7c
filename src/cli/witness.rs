//! `witness`: cosigns the checkpoints of other services, until a signal ends it.
//!
//! It needs no configuration and no storage of this program. Log lines go to standard error only.

use std::{
    io::{self, IsTerminal},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use rustix::{fs::Mode, process::umask};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};
use tracing::{Level, info};

use super::{client::print, say};
use crate::{
    proof::{Algorithm, KeyError, VerifierKey},
    witness::{self, CosigningKey, KeyFileError, ServeError, WitnessServerSettings},
};

/// The arguments of the command.
#[derive(Debug, clap::Args)]
pub(super) struct WitnessArgs {
    /// Address to listen on, for HTTP without TLS, for example 127.0.0.1:7380
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// File with the newest checkpoint of each log. Created at the first start. Without it, the
    /// witness does not know what it has signed: never delete it, and never restore an older copy
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    /// Verifier key of a log whose checkpoints are cosigned; may be repeated. `aethyr-event-store
    /// proof key` prints it
    #[arg(long = "log", value_name = "VKEY", required = true, value_parser = log_key)]
    logs: Vec<VerifierKey>,
    /// File with the private key of the witness. Created at the first start [default: the file of
    /// the state, with .key after its name]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Name of the witness, without spaces and plus signs, for example witness.example.com/games.
    /// It is a part of the key, so it cannot change later [default: a unique name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Why a log cannot have a witness.
#[derive(Debug, thiserror::Error)]
enum LogKeyError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("this is the key of a witness, not of a log")]
    NotALog,
}

/// Why the witness does not run.
#[derive(Debug, thiserror::Error)]
enum WitnessCommandError {
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(
        "{}: the state is missing, but there is a key in {}: without its state, a witness may sign another \
         history; restore the state, or create a witness with another --key-file",
        state.display(),
        key_file.display()
    )]
    NoState { state: PathBuf, key_file: PathBuf },
    #[error("cannot start the async runtime: {0}")]
    Runtime(#[source] io::Error),
    #[error("cannot install signal handlers: {0}")]
    Signals(#[source] io::Error),
}

/// Runs the witness. Prints its verifier key on standard output first.
pub(super) fn run(args: WitnessArgs) -> ExitCode {
    // Only this user can access the state and the key.
    umask(Mode::RWXO | Mode::RWXG);
    let logging = tracing_subscriber::fmt().compact().with_max_level(Level::INFO);
    let logging = logging.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr);
    // It fails only if the process has a logger already.
    let _ = logging.try_init();
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("aethyr-event-store: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn start(args: WitnessArgs) -> Result<(), WitnessCommandError> {
    let WitnessArgs { listen, state, logs, key_file, name } = args;
    let key_file = key_file.unwrap_or_else(|| {
        let mut file = state.clone().into_os_string();
        file.push(".key");
        file.into()
    });
    // The state is created before the key: a key without a state has lost it.
    if key_file.exists() && !state.exists() {
        return Err(WitnessCommandError::NoState { state, key_file });
    }
    witness::create_state(&state).map_err(ServeError::State)?;
    let key = witness::load_or_create_key(&key_file, name.as_deref())?;
    show(&key);
    let runtime = Runtime::new().map_err(WitnessCommandError::Runtime)?;
    runtime.block_on(until_signalled(WitnessServerSettings { listen, state, logs, key }))
}

async fn until_signalled(settings: WitnessServerSettings) -> Result<(), WitnessCommandError> {
    let ended = signalled().map_err(WitnessCommandError::Signals)?;
    Ok(witness::serve(settings, ended).await?)
}

/// Prints the key that those who verify cosignatures need. The witness runs without a reader, too.
fn show(key: &CosigningKey) {
    let _ = print(&key.verifier().to_string());
}

/// Resolves at a signal that ends the witness.
fn signalled() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!(signal, "signal received");
    })
}

fn log_key(text: &str) -> Result<VerifierKey, LogKeyError> {
    let key = VerifierKey::parse(text)?;
    if key.algorithm() == Algorithm::Ed25519 { Ok(key) } else { Err(LogKeyError::NotALog) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_that_has_lost_its_state_does_not_start() {
        let dir = tempfile::tempdir().unwrap();
        let args = WitnessArgs {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            state: dir.path().join("state"),
            logs: Vec::new(),
            key_file: None,
            name: None,
        };
        std::fs::write(dir.path().join("state.key"), "").unwrap();
        let refused = start(args).unwrap_err();
        assert!(matches!(refused, WitnessCommandError::NoState { .. }), "{refused}");
        assert!(!dir.path().join("state").exists());
    }

    #[test]
    fn only_the_key_of_a_log_is_accepted() {
        let log = "log.example/aethyr+887ecb9c+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4";
        assert_eq!(log_key(log).unwrap().to_string(), log);
        let witness = "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X";
        assert!(matches!(log_key(witness), Err(LogKeyError::NotALog)));
        assert!(matches!(log_key("log.example/aethyr"), Err(LogKeyError::Key(KeyError::NotAVerifierKey))));
    }
}
