//! The commands that query a running service over gRPC or make it change something.
//!
//! This module holds what they share: the connection and the output. What a command prints is left
//! to its own module.

use std::{
    io::{ErrorKind, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Subcommand;
use serde_json::Value;

use super::{Error, run};
use crate::{
    config::Config,
    grpc::{ClientSettings, JsonClient},
    printable::escaped,
};

mod connection;
mod events;
mod execute;
mod object;
mod rebuild;
mod stats;

pub(super) use connection::{ConnectionArgs, ConnectionError, ServiceArgs};
pub(super) use execute::ExecuteError;

#[derive(Debug, Subcommand)]
pub(super) enum ClientCommand {
    /// Print the events of an aggregate: type, time, actor and changes
    Events {
        /// Aggregate id
        id: String,
        /// Print each event as stored, as JSON, one per line
        #[arg(long)]
        json: bool,
        /// Continue with new events until interrupted
        #[arg(long)]
        follow: bool,
        /// First sequence number to print
        #[arg(long, default_value_t = 1, value_name = "NUMBER")]
        from: u64,
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// Print the statistics of the service
    Stats {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// Print a line of statistics repeatedly
    Watch {
        /// Seconds between two lines (0.01 to 86400)
        #[arg(long, default_value_t = 1.0, value_parser = interval, value_name = "SECONDS")]
        interval: f64,
        /// Exit after this number of lines
        #[arg(long, value_name = "LINES")]
        count: Option<u64>,
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// Print an object of the world as JSON, now or at a past moment
    Object {
        /// Object id
        id: String,
        /// State after the event with this sequence number, or at this time, for example
        /// 2026-11-25T10:00:00Z
        #[arg(long, value_name = "TIME|SEQUENCE")]
        at: Option<object::AsOf>,
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// Execute commands from a file, one per line, as JSON in the form of `ExecuteCommands`. A line
    /// with a list of commands is executed as a whole or not at all
    Execute {
        /// File to read; - for standard input
        file: PathBuf,
        /// Continue after a line that fails
        #[arg(long)]
        keep_going: bool,
        /// Number of lines to execute concurrently; with more than one, their order is not kept
        #[arg(long, default_value_t = 1, value_name = "NUMBER")]
        callers: usize,
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// Replay and check all events and correct the read models while the service keeps running
    Rebuild {
        /// First repair this damaged object: events that violate its rules are ignored from then
        /// on. Can be repeated
        #[arg(long, value_name = "ID")]
        repair: Vec<String>,
        /// Who requested the repair; recorded in the event
        #[arg(long, value_name = "NAME", requires = "repair")]
        actor: Option<String>,
        #[command(flatten)]
        service: ServiceArgs,
    },
}

/// Parses an interval in seconds. The bounds keep it usable for a timer.
fn interval(text: &str) -> Result<f64, &'static str> {
    let seconds: f64 = text.parse().map_err(|_| "not a number")?;
    if (0.01..=86_400.0).contains(&seconds) { Ok(seconds) } else { Err("must be between 0.01 and 86400") }
}

/// Runs the command.
pub(super) fn run_command(config: &Config, command: ClientCommand) -> ExitCode {
    run(execute_command(config, command))
}

async fn execute_command(config: &Config, command: ClientCommand) -> Result<(), Error> {
    let at = |service: ServiceArgs| service.settings(config);
    match command {
        ClientCommand::Events { id, json, follow, from, service } => {
            let form = if json { events::Form::Json } else { events::Form::People };
            events::show(at(service)?, events::EventsArgs { id, from, form, follow }).await
        }
        ClientCommand::Stats { json, service } => stats::show(at(service)?, json).await,
        ClientCommand::Watch { interval, count, service } => {
            stats::watch(at(service)?, Duration::from_secs_f64(interval), count).await
        }
        ClientCommand::Object { id, at: moment, service } => object::show(at(service)?, id, moment).await,
        ClientCommand::Execute { file, keep_going, callers, service } => {
            let on_error = if keep_going { execute::OnError::GoOn } else { execute::OnError::Stop };
            execute::run(at(service)?, execute::ExecuteArgs { file, on_error, callers }).await
        }
        ClientCommand::Rebuild { repair, actor, service } => {
            rebuild::run(at(service)?, repair, actor.unwrap_or_default()).await
        }
    }
}

/// Connects to the service.
///
/// # Errors
/// Returns an error if no service is listening at the address, or if it is not trusted.
pub(super) async fn connect(service: ClientSettings) -> Result<JsonClient, Error> {
    Ok(JsonClient::connect_with(&service).await?)
}

/// Prints indented JSON on standard output.
///
/// # Errors
/// Returns an error if standard output is closed.
pub(super) fn print_indented(value: &Value) -> Result<(), Error> {
    format!("{value:#}").lines().try_for_each(print)
}

/// Prints a line on standard output.
///
/// # Errors
/// Returns an error if standard output cannot be written, or if its reader is gone.
pub(super) fn print(line: &str) -> Result<(), Error> {
    writeln!(std::io::stdout().lock(), "{}", escaped(line)).map_err(output_error)
}

/// Prints text on standard output exactly as it is, for files.
///
/// # Errors
/// Returns an error if standard output cannot be written, or if its reader is gone.
pub(super) fn print_exactly(text: &str) -> Result<(), Error> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(output_error)
}

fn output_error(error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::BrokenPipe => Error::OutputClosed,
        _ => Error::Io(error),
    }
}

/// Returns a member that is a string, or an empty string if it is missing.
pub(super) fn text<'v>(value: &'v Value, member: &str) -> &'v str {
    value.get(member).and_then(Value::as_str).unwrap_or_default()
}

/// Returns a member that is a whole number, or 0 if it is missing.
pub(super) fn number(value: &Value, member: &str) -> u64 {
    value.get(member).and_then(Value::as_u64).unwrap_or_default()
}

/// Returns the elements of a member that is a list, or none if it is missing.
pub(super) fn list<'v>(value: &'v Value, member: &str) -> &'v [Value] {
    value.get(member).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
