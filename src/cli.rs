//! The command line: what can be asked of the program, and what each command does.

use std::{
    future::Future,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

use crate::{
    config::{Config, Loaded, Warning},
    log,
    printable::escaped,
    server::Options,
    telemetry,
};

mod asking;
mod health;
mod import;
mod init;
mod pending;
mod permissions;
mod repair;
mod resolve;
mod serve;

/// Bad usage or configuration.
const EXIT_USAGE: u8 = 64;

/// The event store of a game world.
#[derive(Debug, Parser)]
#[command(name = "aethyr-event-store", version)]
struct Arguments {
    /// Configuration file; without it conf/server.yml, or server.yml in $XDG_CONFIG_HOME/aethyr-event-store or
    /// /etc/aethyr-event-store.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves (also without any command).
    Serve {
        /// Takes the ImmuDB database over from a writer that is gone for good. If it still lives, its
        /// later events are lost to this history.
        #[arg(long)]
        take_over: bool,
        /// Believes the clock of this machine, although it does not fit the newest event or ImmuDB's clock.
        #[arg(long)]
        accept_clock: bool,
    },
    /// Writes a configuration with every key and its default.
    Init {
        /// The folder in which conf/server.yml is made.
        #[arg(default_value = ".")]
        folder: PathBuf,
    },
    /// Checks the configuration and prints what is in force, without secrets.
    CheckConfig,
    /// Asks a running service whether it serves; exit code 0 if it does.
    Health {
        /// What is asked about: the whole service, `reads`, or `immudb`.
        #[arg(long, default_value = "")]
        service: String,
        #[command(flatten)]
        at: asking::Service,
    },
    /// Asks a running service about its events and its world, or has it change them.
    #[command(flatten)]
    Ask(asking::Ask),
    /// Takes over event files (a copy of storage/events) that continue the local log. The service must
    /// be stopped. What ImmuDB has is copied first.
    Import {
        /// The folder, in the layout of storage/events.
        folder: PathBuf,
        /// Does not ask ImmuDB first: what only ImmuDB has can't be told from what is missing then.
        #[arg(long)]
        without_immudb: bool,
        /// Takes the ImmuDB database over from a writer that is gone for good.
        #[arg(long)]
        take_over: bool,
    },
    /// Checks the whole local log, and mends what is damaged out of ImmuDB and the event files. The
    /// service must be stopped. The damaged log is kept beside the mended one.
    Repair {
        /// Where nothing has the missing events any more: gives up everything from the damage on.
        #[arg(long)]
        discard_after_damage: bool,
    },
    /// Shows the local events that ImmuDB does not have. The service must be stopped.
    Pending {
        #[command(subcommand)]
        what: PendingCommand,
    },
    /// Ends STATE_SUSPECT or STATE_FENCED, after a person has found out what happened. The service must be
    /// stopped.
    #[command(group(clap::ArgGroup::new("choice").required(true)))]
    Resolve {
        /// ImmuDB lacks what it had: sends everything again that it lacks.
        #[arg(long, group = "choice")]
        resend: bool,
        /// ImmuDB has another history: gives the local events up that don't fit it, after they were
        /// exported, and puts the local log aside. A start can then take the other history over.
        #[arg(long, group = "choice", requires = "export")]
        give_up_pending: bool,
        /// A new or empty folder for the events that are given up.
        #[arg(long, value_name = "DIR", requires = "give_up_pending", conflicts_with = "resend")]
        export: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum PendingCommand {
    /// Prints position, aggregate, sequence number, type, time and id of each, with tabs between, then
    /// what ImmuDB says, and counts.
    List {
        /// Does not ask ImmuDB: what it has is taken from the local log's notes.
        #[arg(long)]
        offline: bool,
    },
    /// Writes them as event files, in the layout of storage/events.
    Export {
        /// A new or empty folder.
        folder: PathBuf,
        /// Does not ask ImmuDB: what it has is taken from the local log's notes.
        #[arg(long)]
        offline: bool,
    },
}

/// Does what the arguments say.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let command = arguments.command.unwrap_or(Command::Serve { take_over: false, accept_clock: false });
    if let Command::Init { folder } = &command {
        return init::write(folder);
    }
    let loaded = match Config::load(arguments.config.as_deref(), environment()) {
        Ok(loaded) => loaded,
        Err(error) => {
            let named = arguments.config.map(|file| format!("{} and ", file.display())).unwrap_or_default();
            return refused(&format!("configuration ({named}the environment): {error}"));
        }
    };
    if command.uses_storage()
        && let Err(why) = may_use_storage(&loaded)
    {
        return refused(&why);
    }
    permissions::restrict(&loaded.config);
    match command {
        Command::Init { .. } => ExitCode::SUCCESS,
        Command::Serve { take_over, accept_clock } => {
            let options = Options { take_over, accept_clock, ..Options::default() };
            serve::serve(loaded, options)
        }
        Command::CheckConfig => check_config(&loaded),
        Command::Health { service, at } => {
            run(health::ask(asking::address(&loaded.config, at.address), service))
        }
        Command::Ask(ask) => asking::ask(&loaded.config, ask),
        Command::Import { folder, without_immudb, take_over } => {
            let contact = if without_immudb { import::Contact::Skipped } else { import::Contact::First };
            logged(&loaded, import::run(loaded.config.clone(), folder, contact, take_over))
        }
        Command::Repair { discard_after_damage } => {
            let loss = if discard_after_damage { repair::Loss::Accepted } else { repair::Loss::Refused };
            logged(&loaded, repair::run(loaded.config.clone(), loss))
        }
        Command::Pending { what } => pending(&loaded, what),
        Command::Resolve { give_up_pending: true, export: Some(folder), .. } => {
            logged(&loaded, resolve::give_up(loaded.config.clone(), &folder))
        }
        Command::Resolve { .. } => logged(&loaded, resolve::resend(loaded.config.clone())),
    }
}

impl Command {
    fn uses_storage(&self) -> bool {
        match self {
            Self::Serve { .. }
            | Self::Import { .. }
            | Self::Repair { .. }
            | Self::Pending { .. }
            | Self::Resolve { .. } => true,
            Self::Init { .. } | Self::CheckConfig | Self::Health { .. } | Self::Ask(_) => false,
        }
    }
}

/// An empty world must not be taken for the one that lies elsewhere.
fn may_use_storage(loaded: &Loaded) -> Result<(), String> {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for warning in &loaded.warnings {
        if let Warning::NoFile { looked_for } = warning {
            let looked_for: Vec<_> =
                looked_for.iter().map(|path| absolute(path).display().to_string()).collect();
            return Err(format!(
                "no configuration: looked for {}. `aethyr-event-store init` writes conf/server.yml here, --config \
                 names another file",
                looked_for.join(", ")
            ));
        }
    }
    let log = &loaded.config.event_sourcing.log_path;
    let former = loaded.former_log_path.as_deref().filter(|former| log::is_there(former));
    match former.filter(|_| !log::is_there(log)) {
        Some(former) => Err(format!(
            "there is a log in {}, and none in {}: relative paths start at the folder of the configuration (or above it \
             if that is called conf), not at the working directory. If it is the world's, move the storage there, or write \
             the paths out; if it is an old copy, move it away",
            absolute(former).display(),
            log.display()
        )),
        None => Ok(()),
    }
}

fn refused(why: &str) -> ExitCode {
    say(&format!("aethyr-event-store: {why}"));
    ExitCode::from(EXIT_USAGE)
}

fn pending(loaded: &Loaded, what: PendingCommand) -> ExitCode {
    let contact = |offline| if offline { pending::Contact::Offline } else { pending::Contact::Wanted };
    let config = loaded.config.clone();
    match what {
        PendingCommand::List { offline } => logged(loaded, pending::list(config, contact(offline))),
        PendingCommand::Export { folder, offline } => {
            logged(loaded, pending::export(config, contact(offline), &folder))
        }
    }
}

/// What of the environment is text. A value of ours that is none would be ignored silently, so it goes on
/// with a sign in it that no key lets pass.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
}

/// A line on standard error, for those who typed the command.
fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{}", escaped(line));
}

fn check_config(loaded: &Loaded) -> ExitCode {
    use std::io::Write;
    for warning in &loaded.warnings {
        say(&format!("warning: {warning}"));
    }
    match write!(std::io::stdout(), "{}", loaded.config.to_yaml_redacted()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Runs a command that ends by itself and says on failure why.
fn run(command: impl Future<Output = Result<(), String>>) -> ExitCode {
    let result = match Runtime::new() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => Err(error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read what it printed is gone.
        Err(error) if error.is_empty() => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("aethyr-event-store: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The same, for a command that writes to the storage: what it does stands in the log.
fn logged(loaded: &Loaded, command: impl Future<Output = Result<(), String>>) -> ExitCode {
    match telemetry::init(&loaded.config.logging) {
        Ok(_guard) => run(command),
        Err(error) => {
            say(&format!("aethyr-event-store: {error}"));
            ExitCode::from(EXIT_USAGE)
        }
    }
}
