//! `execute`: commands out of a file, one a line as JSON; a line with a list of them is done as a whole or not at all.

use std::{
    fs::File,
    io::{BufRead, BufReader, ErrorKind, stdin},
    path::{Path, PathBuf},
    time::Instant,
};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::{Address, connect, list, print};
use crate::{grpc::JsonClient, progress::Progress};

const EXECUTE: &str = "aethyr.world.v1.CommandService/ExecuteCommands";

/// What is done about a line that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Stop,
    GoOn,
}

/// What is wanted.
#[derive(Debug)]
pub struct Wanted {
    /// `-` is standard input.
    pub file: PathBuf,
    pub refused: Refused,
    /// Lines at the same time; with more than one their order is not kept.
    pub callers: usize,
}

/// # Errors
/// Says which line was refused, and why, or what could not be read.
pub async fn run(address: Address, wanted: Wanted) -> Result<(), String> {
    let (lines, total) = open(&wanted.file)?;
    let client = connect(address).await?;
    let mut progress = Progress::new("executing", "lines", 0, total);
    let began = Instant::now();
    let (mut commands, mut events, mut failed, mut seen) = (0, 0, 0u64, 0);
    let numbered = (1u64..).zip(lines).map(|(number, line)| {
        let (client, file) = (client.clone(), wanted.file.clone());
        async move {
            let line = line.map_err(|error| format!("{}: {error}", file.display()));
            let done = match line {
                Ok(line) => execute(&client, line.trim()).await,
                Err(error) => Err(error),
            };
            (number, done)
        }
    });
    let mut done = stream::iter(numbered).buffer_unordered(wanted.callers.max(1));
    while let Some((number, executed)) = done.next().await {
        match executed {
            Ok((its_commands, its_events)) => {
                commands += its_commands;
                events += its_events;
            }
            Err(error) if wanted.refused == Refused::GoOn => {
                failed += 1;
                crate::cli::say(&format!("line {number}: {error}"));
            }
            Err(error) if wanted.callers > 1 => return Err(format!("line {number}: {error}")),
            Err(error) => return Err(format!("line {number}: {error} (the lines before it are done)")),
        }
        seen += 1;
        progress.reached(seen);
    }
    drop(progress);
    let seconds = began.elapsed().as_secs_f64();
    print(&format!("{commands} commands, {events} events, in {seconds:.1} s"))?;
    match failed {
        0 => Ok(()),
        count => Err(format!("{count} lines were refused")),
    }
}

type Lines = Box<dyn Iterator<Item = std::io::Result<String>>>;

/// The lines, and how many there are, where that can be known before.
fn open(file: &Path) -> Result<(Lines, u64), String> {
    if file == Path::new("-") {
        return Ok((readable(BufReader::new(stdin())), 0));
    }
    let open = || File::open(file).map_err(|error| format!("{}: {error}", file.display()));
    let count = readable(BufReader::new(open()?)).count();
    Ok((readable(BufReader::new(open()?)), count as u64))
}

/// Up to the first that can't be read, which says why. One that is no UTF-8 does not hold up the next.
fn readable(file: impl BufRead + 'static) -> Lines {
    let mut ended = false;
    Box::new(file.lines().take_while(move |line| {
        let ends = line.as_ref().is_err_and(|error| error.kind() != ErrorKind::InvalidData);
        !std::mem::replace(&mut ended, ends)
    }))
}

/// Does what a line says; how many commands that were, and events that came of it.
async fn execute(client: &JsonClient, line: &str) -> Result<(usize, usize), String> {
    if line.is_empty() || line.starts_with('#') {
        return Ok((0, 0));
    }
    let commands = match serde_json::from_str(line) {
        Ok(Value::Array(together)) => json!({"commands": together}),
        Ok(command) => json!({"commands": [command]}),
        Err(error) => return Err(format!("is no JSON: {error}")),
    };
    let answer = client.call(EXECUTE, &commands).await.map_err(|error| error.to_string())?;
    let results = list(&answer, "results");
    Ok((results.len(), results.iter().map(|result| list(result, "events").len()).sum()))
}
