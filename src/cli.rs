//! The command line. Parses the arguments, loads the configuration, restricts the permissions of
//! new files, and runs one command.
//!
//! A command that uses the storage is rejected if there is no configuration file, or if the log
//! appears to be in a different directory. What each command does is left to its own module.

use std::{
    future::Future,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

use crate::{
    config::{Config, LoadedConfig, Warning},
    log,
    printable::escaped,
    server::{ServerOptions, settings},
    telemetry,
};

mod client;
mod error;
mod findings;
mod health;
mod immudb_setup;
mod import;
mod import_aethyr;
mod init;
mod pending;
mod permissions;
mod proof;
mod repair;
mod resolve;
mod serve;
mod token;
mod verify;
mod verify_proof;
mod witness;

use error::{Error, UsageError};
use token::TokenCommand;

/// The exit code for invalid usage or an invalid configuration.
const EXIT_USAGE: u8 = 64;

/// Event store for game worlds: gRPC service with a durable local log and replication to ImmuDB.
#[derive(Debug, Parser)]
#[command(name = "aethyr-event-store", version)]
struct Arguments {
    /// Configuration file [default: conf/server.yml, then server.yml in
    /// $XDG_CONFIG_HOME/aethyr-event-store, then in /etc/aethyr-event-store]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<CliCommand>,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Run the service (default command)
    Serve {
        /// Claim the ImmuDB database although its last writer did not release it. Only use this if
        /// that writer is gone permanently: if it still runs, its pending events are lost to this
        /// history
        #[arg(long)]
        take_over: bool,
        /// Accept the clock of this machine although it does not fit the newest event or ImmuDB's
        /// clock
        #[arg(long)]
        accept_clock: bool,
        /// If ImmuDB has damaged data and the local log is empty: restore what precedes the damage,
        /// and continue from there. Everything after it is missing from then on
        #[arg(long)]
        copy_until_damage: bool,
    },
    /// Write a configuration file with every key, most with their default values
    Init {
        /// Directory in which conf/server.yml is created
        #[arg(default_value = ".")]
        folder: PathBuf,
    },
    /// Check the configuration and print the effective values, without secrets
    CheckConfig,
    /// Create the database and a user for it in ImmuDB
    ImmudbSetup(immudb_setup::ImmudbSetupArgs),
    /// Query the health of a running service; exit code 0 if it is serving
    Health {
        /// Health service to query: empty for the whole service, `reads`, or `immudb`
        #[arg(long, default_value = "")]
        service: String,
        #[command(flatten)]
        at: client::ConnectionArgs,
    },
    /// Asks a running service about its events and its world, or has it change them.
    #[command(flatten)]
    Client(client::ClientCommand),
    /// Append event files (a copy of storage/events) to the local log. Everything that ImmuDB has
    /// is copied first. The service must be stopped
    Import {
        /// Directory with the event files, in the layout of storage/events
        folder: PathBuf,
        /// Do not contact ImmuDB. Only use this if ImmuDB has no event that both the local log and
        /// the files lack
        #[arg(long)]
        without_immudb: bool,
        /// Claim the ImmuDB database although its last writer did not release it
        #[arg(long)]
        take_over: bool,
    },
    /// Import the events that Aethyr's own event store has written, from its files or from its keys
    /// in ImmuDB. The service must be stopped
    ImportAethyr(import_aethyr::ImportAethyrArgs),
    /// Check the local log and repair damage from ImmuDB and the event files. The damaged log is
    /// kept next to the repaired one. The service must be stopped
    Repair {
        /// If events cannot be recovered from anywhere: discard everything from the damage on
        #[arg(long)]
        discard_after_damage: bool,
    },
    /// List or export pending events: local events that ImmuDB does not have. The service must be
    /// stopped
    Pending {
        #[command(subcommand)]
        what: PendingCommand,
    },
    /// List the findings: contradictions between ImmuDB and what the service knows about its
    /// history. The service may be running
    Findings {
        /// Print each finding as JSON, one per line
        #[arg(long)]
        json: bool,
    },
    /// Write the proof of an event to standard output, as a file that `verify-proof` verifies
    Proof(proof::ProofArgs),
    /// Verify a proof file and print what it proves. Needs no configuration, service or network
    VerifyProof(verify_proof::VerifyProofArgs),
    /// Have the running service verify the whole history, or compare the history with checkpoints
    Verify(verify::VerifyArgs),
    /// Make a token for an identity, or find out whose a token is
    Token {
        #[command(subcommand)]
        what: TokenCommand,
    },
    /// Run a witness, which cosigns the checkpoints of other services. Needs no configuration
    Witness(witness::WitnessArgs),
    /// End STATE_SUSPECT, STATE_FENCED or STATE_TAMPERED after the cause has been found. The
    /// service must be stopped
    #[command(group(clap::ArgGroup::new("choice").required(true)))]
    Resolve {
        /// For an ImmuDB that lost events: replicate again everything that it lacks
        #[arg(long, group = "choice")]
        resend: bool,
        /// For an ImmuDB with a different history: export the local events that do not fit into it,
        /// and rename the local log. The next start restores the history from ImmuDB
        #[arg(long, group = "choice", requires = "export")]
        give_up_pending: bool,
        /// New or empty directory for the exported events
        #[arg(
            long,
            value_name = "DIR",
            requires = "give_up_pending",
            conflicts_with_all = ["resend", "accept_findings"]
        )]
        export: Option<PathBuf>,
        /// For an ImmuDB whose history was changed: accept the findings with these numbers, which
        /// must be all that are open, and continue from ImmuDB's present state. Nothing is
        /// replicated again, so what was changed in ImmuDB stays changed
        #[arg(
            long,
            group = "choice",
            value_name = "NUMBER",
            num_args = 0..,
            requires = "because"
        )]
        accept_findings: Option<Vec<u64>>,
        /// Why the findings are accepted; recorded in an event of the aggregate aethyr:audit
        #[arg(
            long,
            value_name = "TEXT",
            value_parser = clap::builder::NonEmptyStringValueParser::new(),
            requires = "accept_findings",
            conflicts_with_all = ["resend", "give_up_pending"]
        )]
        because: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum PendingCommand {
    /// List pending events (tab-separated: position, aggregate id, sequence number, event type,
    /// time, event id), then compare with ImmuDB and print totals
    List {
        /// Do not contact ImmuDB; use the forwarded position recorded in the local log
        #[arg(long)]
        offline: bool,
    },
    /// Export pending events to event files, in the layout of storage/events
    Export {
        /// New or empty directory
        folder: PathBuf,
        /// Do not contact ImmuDB; use the forwarded position recorded in the local log
        #[arg(long)]
        offline: bool,
    },
}

/// Runs the command that the arguments name and returns the exit code of the process.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let command = arguments.command.unwrap_or(CliCommand::Serve {
        take_over: false,
        accept_clock: false,
        copy_until_damage: false,
    });
    match command {
        CliCommand::Init { folder } => init::write(&folder),
        CliCommand::VerifyProof(args) => verify_proof::run_command(&args),
        CliCommand::Witness(args) => witness::run(args),
        CliCommand::Token { what: TokenCommand::New { name, role, expires } } => {
            token::make(&name, &role, expires)
        }
        command => configured(arguments.config, command),
    }
}

/// Loads the configuration and runs a command that needs it.
fn configured(file: Option<PathBuf>, command: CliCommand) -> ExitCode {
    let loaded = match Config::load(file.as_deref(), environment()) {
        Ok(loaded) => loaded,
        Err(error) => {
            let source = Box::new(error);
            return report(&Error::Usage(UsageError::Config { file, source }));
        }
    };
    if command.uses_storage()
        && let Err(error) = may_use_storage(&loaded)
    {
        return report(&Error::Usage(error));
    }
    permissions::restrict(&loaded.config);
    command.run(loaded)
}

impl CliCommand {
    /// Runs a command with its configuration.
    fn run(self, loaded: LoadedConfig) -> ExitCode {
        match self {
            // These are run without a configuration.
            Self::Init { .. }
            | Self::VerifyProof(_)
            | Self::Witness(_)
            | Self::Token { what: TokenCommand::New { .. } } => ExitCode::SUCCESS,
            Self::Serve { take_over, accept_clock, copy_until_damage } => {
                let options =
                    ServerOptions { take_over, accept_clock, copy_until_damage, ..ServerOptions::default() };
                serve::serve(loaded, options)
            }
            Self::CheckConfig => check_config(&loaded),
            Self::ImmudbSetup(args) => run(async move { immudb_setup::run(&loaded.config, args).await }),
            Self::Health { service, at } => {
                run(async { health::ask(at.endpoint(&loaded.config)?, service).await })
            }
            Self::Client(command) => client::run_command(&loaded.config, command),
            Self::Import { folder, without_immudb, take_over } => {
                let restore = if without_immudb {
                    import::ImmudbRestore::Skipped
                } else {
                    import::ImmudbRestore::First
                };
                logged(&loaded, import::run(loaded.config.clone(), folder, restore, take_over))
            }
            Self::ImportAethyr(args) => logged(&loaded, import_aethyr::run(loaded.config.clone(), args)),
            Self::Repair { discard_after_damage } => {
                let loss = if discard_after_damage { repair::Loss::Accepted } else { repair::Loss::Refused };
                logged(&loaded, repair::run(loaded.config.clone(), loss))
            }
            Self::Pending { what } => pending(&loaded, what),
            Self::Findings { json } => {
                let form = if json { findings::Form::Json } else { findings::Form::Text };
                match findings::list(&loaded.config.event_sourcing.log_path, form) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(error) => report(&error),
                }
            }
            Self::Resolve { accept_findings: Some(findings), because: Some(because), .. } => {
                logged(&loaded, resolve::accept_findings(loaded.config.clone(), findings, because))
            }
            Self::Resolve { give_up_pending: true, export: Some(folder), .. } => {
                logged(&loaded, resolve::give_up(loaded.config.clone(), &folder))
            }
            Self::Resolve { .. } => logged(&loaded, resolve::resend(loaded.config.clone())),
            Self::Proof(args) => proof::run_command(&loaded.config, args),
            Self::Verify(args) => verify::run_command(&loaded, args),
            Self::Token { what: TokenCommand::Check } => token::check(&loaded.config),
        }
    }

    fn uses_storage(&self) -> bool {
        match self {
            Self::Serve { .. }
            | Self::Import { .. }
            | Self::ImportAethyr(_)
            | Self::Repair { .. }
            | Self::Pending { .. }
            | Self::Findings { .. }
            | Self::Resolve { .. } => true,
            Self::Proof(args) => args.uses_files(),
            // `verify` uses the storage only if no service is running.
            Self::Init { .. }
            | Self::CheckConfig
            | Self::ImmudbSetup(_)
            | Self::Health { .. }
            | Self::Client(_)
            | Self::VerifyProof(_)
            | Self::Verify(_)
            | Self::Token { .. }
            | Self::Witness(_) => false,
        }
    }
}

/// Checks that the configured storage is the one that the operator means.
///
/// Returns an error if there is no configuration file, or if there is no log in the configured
/// directory but one where an earlier version would have looked. Otherwise the command would use an
/// empty log in place of the existing one.
fn may_use_storage(loaded: &LoadedConfig) -> Result<(), UsageError> {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for warning in &loaded.warnings {
        if let Warning::NoFile { looked_for } = warning {
            let looked_for = looked_for.iter().map(|path| absolute(path)).collect();
            return Err(UsageError::NoConfigFile { looked_for });
        }
    }
    let log = &loaded.config.event_sourcing.log_path;
    let former = loaded.former_log_path.as_deref().filter(|former| log::is_there(former));
    match former.filter(|_| !log::is_there(log)) {
        Some(former) => Err(UsageError::FormerLog { former: absolute(former), log: log.clone() }),
        None => Ok(()),
    }
}

/// Prints the error, and returns the exit code for it.
fn report(error: &Error) -> ExitCode {
    // A command whose reader is gone ends without a message.
    if !matches!(error, Error::OutputClosed) {
        say(&format!("aethyr-event-store: {error}"));
    }
    if matches!(error, Error::Usage(_)) { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
}

fn pending(loaded: &LoadedConfig, what: PendingCommand) -> ExitCode {
    let mode =
        |offline| if offline { pending::ComparisonMode::Offline } else { pending::ComparisonMode::Wanted };
    let config = loaded.config.clone();
    match what {
        PendingCommand::List { offline } => logged(loaded, pending::list(config, mode(offline))),
        PendingCommand::Export { folder, offline } => {
            logged(loaded, pending::export(config, mode(offline), &folder))
        }
    }
}

/// Returns the environment variables whose names are valid UTF-8. A value that is not is converted
/// lossily instead of being dropped: the check of text values rejects the replacement character, so
/// the value is reported and not silently ignored.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
}

/// Prints a line on standard error, for the operator who ran the command.
fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{}", escaped(line));
}

/// Prints the effective configuration, and, as comments, who may do what.
fn check_config(loaded: &LoadedConfig) -> ExitCode {
    use std::io::Write;
    for warning in &loaded.warnings {
        say(&format!("warning: {warning}"));
    }
    for warning in loaded.config.security_warnings() {
        say(&format!("warning: {warning}"));
    }
    let policy = match token::policy(&loaded.config) {
        Ok(policy) => policy,
        Err(error) => return report(&Error::Usage(error)),
    };
    for warning in policy.warnings(&settings::access(&loaded.config)) {
        say(&format!("warning: {warning}"));
    }
    let mut shown = loaded.config.to_yaml_redacted();
    for line in policy.describe() {
        shown.push_str(&format!("# {}\n", escaped(&line)));
    }
    match write!(std::io::stdout(), "{shown}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Runs a command to completion. If it fails, prints the reason.
fn run(command: impl Future<Output = Result<(), Error>>) -> ExitCode {
    let result = match Runtime::new() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => Err(Error::Io(error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Like `run`, but initializes logging first. For commands that use the storage, so that their
/// actions are recorded in the log file.
fn logged(loaded: &LoadedConfig, command: impl Future<Output = Result<(), Error>>) -> ExitCode {
    match telemetry::init(&settings::telemetry(&loaded.config.logging)) {
        Ok(_guard) => run(command),
        Err(error) => report(&Error::Usage(error.into())),
    }
}
