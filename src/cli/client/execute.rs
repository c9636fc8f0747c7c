//! `execute`: executes commands from a file, one JSON value per line.
//!
//! A line with a list of commands is executed as a whole or not at all. Empty lines and lines that
//! start with `#` are skipped.

use std::{
    fs::File,
    io::{BufRead, BufReader, ErrorKind, stdin},
    path::{Path, PathBuf},
    time::Instant,
};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::{ClientSettings, Error, connect, list, print};
use crate::{grpc::JsonClient, progress::Progress};

const EXECUTE: &str = "aethyr.world.v1.CommandService/ExecuteCommands";

/// What to do after a line that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnError {
    Stop,
    GoOn,
}

/// The options of the command.
#[derive(Debug)]
pub(super) struct ExecuteArgs {
    /// `-` means standard input.
    pub file: PathBuf,
    pub on_error: OnError,
    /// The number of lines executed concurrently. With more than one, their order is not kept.
    pub callers: usize,
}

/// Why a line, or the whole file, was not executed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecuteError {
    #[error("invalid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Any of the other lines may have been executed.
    #[error("line {number}: {source}")]
    Line { number: u64, source: Box<Error> },
    #[error("line {number}: {source} (the previous lines have been executed)")]
    LineInOrder { number: u64, source: Box<Error> },
    #[error("failed lines: {count}")]
    FailedLines { count: u64 },
}

/// Executes the commands in a file.
///
/// # Errors
/// Returns an error that names the line that failed and the reason, or what could not be read. With
/// `OnError::GoOn`, failed lines are reported as they occur, and the error only counts them.
pub(super) async fn run(service: ClientSettings, args: ExecuteArgs) -> Result<(), Error> {
    let (lines, total) = open(&args.file)?;
    let client = connect(service).await?;
    let mut progress = Progress::new("executing", "lines", 0, total);
    let began = Instant::now();
    let (mut commands, mut events, mut failed, mut seen) = (0, 0, 0u64, 0);
    let numbered = (1u64..).zip(lines).map(|(number, line)| {
        let (client, file) = (client.clone(), args.file.clone());
        async move {
            let done = match line {
                Ok(line) => execute(&client, line.trim()).await,
                Err(error) => Err(Error::of_file(&file, error)),
            };
            (number, done)
        }
    });
    let mut done = stream::iter(numbered).buffer_unordered(args.callers.max(1));
    while let Some((number, executed)) = done.next().await {
        match executed {
            Ok((its_commands, its_events)) => {
                commands += its_commands;
                events += its_events;
            }
            Err(error) if args.on_error == OnError::GoOn => {
                failed += 1;
                crate::cli::say(&format!("line {number}: {error}"));
            }
            Err(error) => return Err(stopped_at(number, error, args.callers).into()),
        }
        seen += 1;
        progress.reached(seen);
    }
    drop(progress);
    let seconds = began.elapsed().as_secs_f64();
    print(&format!("executed {commands} commands in {seconds:.1} s, {events} events"))?;
    match failed {
        0 => Ok(()),
        count => Err(ExecuteError::FailedLines { count }.into()),
    }
}

/// Returns the error for the line at which the command stops.
fn stopped_at(number: u64, error: Error, callers: usize) -> ExecuteError {
    let source = Box::new(error);
    if callers > 1 {
        ExecuteError::Line { number, source }
    } else {
        ExecuteError::LineInOrder { number, source }
    }
}

type InputLines = Box<dyn Iterator<Item = std::io::Result<String>>>;

/// Returns the lines and their number, which is 0 if it cannot be known in advance.
fn open(file: &Path) -> Result<(InputLines, u64), Error> {
    if file == Path::new("-") {
        return Ok((readable(BufReader::new(stdin())), 0));
    }
    let open = || File::open(file).map_err(|error| Error::of_file(file, error));
    let count = readable(BufReader::new(open()?)).count();
    Ok((readable(BufReader::new(open()?)), count as u64))
}

/// Returns the lines up to and including the first read error. A line that is not UTF-8 is an
/// error, but does not end the iteration.
fn readable(file: impl BufRead + 'static) -> InputLines {
    let mut ended = false;
    Box::new(file.lines().take_while(move |line| {
        let ends = line.as_ref().is_err_and(|error| error.kind() != ErrorKind::InvalidData);
        !std::mem::replace(&mut ended, ends)
    }))
}

/// Executes one line. Returns the number of commands and the number of resulting events.
async fn execute(client: &JsonClient, line: &str) -> Result<(usize, usize), Error> {
    if line.is_empty() || line.starts_with('#') {
        return Ok((0, 0));
    }
    let commands = match serde_json::from_str(line) {
        Ok(Value::Array(together)) => json!({"commands": together}),
        Ok(command) => json!({"commands": [command]}),
        Err(error) => return Err(ExecuteError::Json(error).into()),
    };
    let answer = client.call(EXECUTE, &commands).await?;
    let results = list(&answer, "results");
    Ok((results.len(), results.iter().map(|result| list(result, "events").len()).sum()))
}
