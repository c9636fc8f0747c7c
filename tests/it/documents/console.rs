//! Executes the commands of the documentation's sessions, as a reader would type them.

use std::{
    env,
    future::Future,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    pin::Pin,
    process::{Command, Stdio},
    sync::OnceLock,
};

use rusqlite::types::Value;
use tempfile::TempDir;

use super::{
    markdown::{Block, Page},
    names::Names,
    setups::Situation,
    transcript::{compare, steps},
};
use crate::{
    support::go::Module,
    world::{caught_up, read_models},
};

/// The address of the service in the documentation.
const PRINTED_ADDRESS: &str = "127.0.0.1:50051";
const GRPCURL: Module = Module { source: "tests/grpcurl", target: "grpcurl-1.9.3" };
const LEVELS: [&str; 4] = ["ERROR", "WARN", "INFO", "DEBUG"];

/// Plays the sessions of a page, after those of the pages that it continues. Returns the number of
/// commands that were run.
pub async fn play(pages: &[Page], page: &Page) -> usize {
    let mut console = Console::in_situation("local").await;
    console.play(pages, page).await;
    console.commands
}

struct Console {
    situation: Situation,
    names: Names,
    /// A directory with the programs that the commands use.
    programs: TempDir,
    commands: usize,
}

impl Console {
    async fn in_situation(name: &str) -> Self {
        let programs = tempfile::tempdir().unwrap();
        symlink(env!("CARGO_BIN_EXE_aethyr-event-store"), programs.path().join("aethyr-event-store"))
            .unwrap();
        symlink(grpcurl(), programs.path().join("grpcurl")).unwrap();
        Self { situation: Situation::named(name).await, names: Names::default(), programs, commands: 0 }
    }

    fn play<'a>(&'a mut self, pages: &'a [Page], page: &'a Page) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
        Box::pin(async move {
            if let Some(before) = &page.played_after {
                let before = pages.iter().find(|page| page.path == *before);
                let before = before.unwrap_or_else(|| panic!("{}: played after no page", page.path));
                self.play(pages, before).await;
            }
            for block in page.blocks.iter().filter(|block| block.is_session()) {
                if let Some(setup) = &block.setup {
                    let commands = self.commands;
                    *self = Self { commands, ..Self::in_situation(setup).await };
                }
                self.play_block(&page.path, block).await;
            }
        })
    }

    async fn play_block(&mut self, page: &str, block: &Block) {
        for step in steps(&block.lines) {
            let output = self.run(&self.names.in_command(&step.command)).await;
            if let Err(difference) = compare(&step.output, &output, &mut self.names) {
                let (place, output) = (format!("{page}:{}", block.line), output.join("\n"));
                panic!(
                    "{place}: {difference}\n$ {}\n{output}\n{}",
                    step.command,
                    self.situation.service.log()
                );
            }
            self.commands += 1;
        }
    }

    /// Returns the output of the command, including errors.
    async fn run(&mut self, command: &str) -> Vec<String> {
        let service = &mut self.situation.service;
        if service.is_running() && service.health("").await == Some(true) {
            caught_up(service).await;
        }
        let address = format!("127.0.0.1:{}", service.port());
        let command = command.replace(PRINTED_ADDRESS, &address);
        if let Some(arguments) = command.strip_prefix("sqlite3 ") {
            return self.query(arguments);
        }
        let path = format!("{}:{}", self.programs.path().display(), env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        for (name, _) in
            env::vars().filter(|(name, _)| name.starts_with("AETHYR_") || name.starts_with("IMMUDB_"))
        {
            shell.env_remove(name);
        }
        let output = shell
            .args(["-c", &format!("exec 2>&1\n{command}")])
            .current_dir(self.situation.service.dir())
            .env("PATH", path)
            .env("AETHYR_SERVER__LISTEN", &address)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(without_time).collect()
    }

    /// Executes `sqlite3 FILE 'SQL'`. Prints rows as that program does.
    fn query(&self, arguments: &str) -> Vec<String> {
        let (file, sql) = arguments.split_once(' ').unwrap();
        assert_eq!(file, "storage/read_models.sqlite");
        let tables = read_models(&self.situation.service);
        let sql =
            ['\'', '"'].iter().find_map(|quote| sql.strip_prefix(*quote)?.strip_suffix(*quote)).unwrap();
        let mut statement = tables.prepare(sql).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        let mut printed = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let value = |column| match row.get_unwrap::<usize, Value>(column) {
                Value::Null => String::new(),
                Value::Integer(number) => number.to_string(),
                Value::Real(number) => number.to_string(),
                Value::Text(text) => text,
                Value::Blob(bytes) => String::from_utf8(bytes).unwrap(),
            };
            printed.push((0..columns).map(value).collect::<Vec<_>>().join("|"));
        }
        printed
    }
}

/// Removes the time and the module from a line of the log, as the documentation does.
fn without_time(line: &str) -> String {
    let parts = line.split_once(' ').and_then(|(time, rest)| {
        let (level, rest) = rest.trim_start().split_once(' ')?;
        let (_module, message) = rest.split_once(": ")?;
        (time.ends_with('Z') && LEVELS.contains(&level)).then(|| format!("{level} {message}"))
    });
    parts.unwrap_or_else(|| line.to_owned())
}

/// Returns the program, which is built on first use.
pub fn grpcurl() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM
        .get_or_init(|| GRPCURL.build("grpcurl", "github.com/fullstorydev/grpcurl/cmd/grpcurl", &["go.mod"]))
}
