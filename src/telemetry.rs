//! Where log lines go: standard error and `system.log`, which is put aside when it is full.
//!
//! An append never waits for a log line. Both outputs are written by threads of their own; where
//! one can't keep up, or its disk is full, lines are lost and counted. Nothing here decides what is
//! worth a line.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use file_rotate::compression::Compression;
use file_rotate::suffix::AppendCount;
use file_rotate::{ContentLimit, FileRotate};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber, debug, warn};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{DefaultFields, FormatFields, Writer};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::config::LoggingConfig;
use crate::printable::escaped;

const FILE_NAME: &str = "system.log";
const LINES_WAITING_MAX: usize = 16_384;

/// Writes out what waits when it is dropped, so it is kept until the very end of the program.
#[must_use]
pub struct Guard {
    outputs: Vec<Output>,
    filter: FilterHandle,
    reopen: Arc<AtomicBool>,
}

/// Changes what is worth a line while the program runs.
type FilterHandle = reload::Handle<EnvFilter, Registry>;

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("{level:?} is no log level")]
    Level { level: String },
    #[error("there is a log already")]
    AlreadyInitialised,
}

/// Sends log lines where the configuration says, from now on and for the whole program. Where the
/// folder can't be written to, they go to standard error alone.
pub fn init(config: &LoggingConfig) -> Result<Guard, TelemetryError> {
    let filter = filter(&config.level)?;
    let ansi = io::stderr().is_terminal();
    let (to_stderr, stderr) = Output::new("log-stderr", io::stderr(), Colours::from(ansi));
    let reopen = Arc::new(AtomicBool::new(false));
    let (to_file, file) = match open(config) {
        Ok(file) => {
            let file = SystemLog { config: config.clone(), file, reopen: reopen.clone() };
            let (writer, output) = Output::new("log-file", file, Colours::None);
            (Some(writer), Ok(output))
        }
        Err(error) => (None, Err(error)),
    };
    let (subscriber, filter) = subscriber(filter, to_stderr, ansi, to_file);
    subscriber.try_init().map_err(|_| TelemetryError::AlreadyInitialised)?;

    let mut outputs = vec![stderr];
    match file {
        Ok(output) => outputs.push(output),
        Err(error) => {
            let path = std::path::absolute(&config.path).unwrap_or_else(|_| config.path.clone());
            let path = path.display();
            warn!(%path, %error, "the folder logging.path is not writable: lines go to standard error alone");
        }
    }
    Ok(Guard { outputs, filter, reopen })
}

/// Says now and then how many tasks there are, for those who look for a leak; the level is DEBUG.
pub async fn report_runtime() {
    const EVERY: Duration = Duration::from_secs(5);
    let runtime = tokio::runtime::Handle::current().metrics();
    loop {
        // The level may change while the service runs.
        if tracing::enabled!(Level::DEBUG) {
            debug!(tasks = runtime.num_alive_tasks(), "runtime");
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// A filter in the syntax of `tracing`'s env filter, narrowed: what stands alone must be a level,
/// for otherwise a misspelt level would be taken for a module and silence all others.
pub fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let no_level = || TelemetryError::Level { level: level.to_owned() };
    let is_directive =
        |part: &str| part.contains(['=', '[', '{', '}', ']']) || part.trim().parse::<LevelFilter>().is_ok();
    if level.trim().is_empty() || !level.split(',').all(is_directive) {
        return Err(no_level());
    }
    // What a library says of its daily work is of no use to an administrator, unless it is asked for. And
    // h2 warns of frames, so that a caller who sends rubbish could fill the log with it.
    let quiet = ["h2=error", "hyper=warn", "tower=warn"];
    let unasked =
        quiet.into_iter().filter(|rule| !rule.split('=').take(1).any(|library| level.contains(library)));
    let all: Vec<&str> = std::iter::once(level).chain(unasked).collect();
    EnvFilter::try_new(all.join(",")).map_err(|_| no_level())
}

impl Guard {
    /// Has `system.log` opened again before its next line: what was opened may have been moved.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
    }

    /// What is worth a line from now on.
    ///
    /// # Errors
    /// It is no level.
    pub fn filter(&self, level: &str) -> Result<(), TelemetryError> {
        let filter = filter(level)?;
        self.filter.reload(filter).map_err(|_| TelemetryError::Level { level: level.to_owned() })
    }

    /// How many lines were lost since the start, over all outputs.
    pub fn lines_lost(&self) -> usize {
        self.outputs.iter().map(Output::lines_lost).sum()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let lines = self.lines_lost();
        if lines > 0 {
            warn!(lines, "log lines were lost");
        }
    }
}

/// A writer with a thread and a queue of its own.
struct Output {
    dropped: ErrorCounter,
    failed: Arc<AtomicUsize>,
    _worker: WorkerGuard,
}

impl Output {
    fn new(thread: &str, writer: impl Write + Send + 'static, colours: Colours) -> (NonBlocking, Output) {
        let failed = Arc::new(AtomicUsize::new(0));
        let lines = Lines { writer, colours, failed: failed.clone() };
        let (sender, worker) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES_WAITING_MAX)
            .thread_name(thread)
            .finish(lines);
        let output = Output { dropped: sender.error_counter(), failed, _worker: worker };
        (sender, output)
    }

    fn lines_lost(&self) -> usize {
        self.dropped.dropped_lines() + self.failed.load(Ordering::Relaxed)
    }
}

/// Whether lines have escape sequences of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colours {
    None,
    Ansi,
}

impl From<bool> for Colours {
    fn from(ansi: bool) -> Self {
        if ansi { Self::Ansi } else { Self::None }
    }
}

/// Takes a line at a time. Text of callers does not act on a terminal, and makes no lines. Counts what can't be written,
/// which the thread that writes passes over in silence.
struct Lines<W> {
    writer: W,
    colours: Colours,
    failed: Arc<AtomicUsize>,
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.writer.write(line)
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let text = String::from_utf8_lossy(line);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let line = match self.colours {
            Colours::None => format!("{}\n", escaped(text)),
            Colours::Ansi => format!("{}\n", escaped_but_colours(text)),
        };
        self.writer.write_all(line.as_bytes()).inspect_err(|_| {
            self.failed.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Keeps what `tracing_subscriber` colours a line with. It does not escape every field, so others may be there, too.
fn escaped_but_colours(text: &str) -> String {
    const COLOURS: [&str; 10] = ["[0m", "[1m", "[2m", "[3m", "[31m", "[32m", "[33m", "[34m", "[35m", "[36m"];
    let mut parts = text.split('\x1b');
    let mut line = escaped(parts.next().unwrap_or_default()).into_owned();
    for part in parts {
        let colour = COLOURS.into_iter().find(|colour| part.starts_with(colour));
        line.push_str(if colour.is_some() { "\x1b" } else { "\\u001b" });
        line.push_str(&escaped(part));
    }
    line
}

/// `system.log`, which is opened again where that is asked for.
struct SystemLog {
    config: LoggingConfig,
    file: FileRotate<AppendCount>,
    reopen: Arc<AtomicBool>,
}

impl Write for SystemLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.reopen.swap(false, Ordering::Acquire) {
            match open(&self.config) {
                Ok(file) => self.file = file,
                Err(error) => warn!(%error, "system.log can't be opened again; the old file is written on"),
            }
        }
        self.file.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Tries the folder first, because `FileRotate` panics or keeps silent where it can't write.
fn open(config: &LoggingConfig) -> io::Result<FileRotate<AppendCount>> {
    let folder = writable(&config.path)?;
    let files_aside = config.files_max.saturating_sub(1);
    Ok(FileRotate::new(
        folder.join(FILE_NAME),
        AppendCount::new(files_aside),
        ContentLimit::BytesSurpassed(config.file_bytes_max.max(1)),
        Compression::None,
        None,
    ))
}

fn writable(folder: &Path) -> io::Result<PathBuf> {
    let folder = std::path::absolute(folder)?;
    fs::create_dir_all(&folder)?;
    fs::read_dir(&folder)?;
    OpenOptions::new().read(true).append(true).create(true).open(folder.join(FILE_NAME))?;
    Ok(folder)
}

fn subscriber<W>(
    filter: EnvFilter,
    to_stderr: W,
    ansi: bool,
    to_file: Option<NonBlocking>,
) -> (impl Subscriber + Send + Sync, FilterHandle)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let file = to_file.map(|writer| {
        fmt::layer()
            .compact()
            .with_ansi(false)
            .fmt_fields(FileFields(DefaultFields::new()))
            .with_writer(writer)
    });
    let stderr = fmt::layer().compact().with_ansi(ansi).with_writer(to_stderr);
    let (filter, handle) = reload::Layer::new(filter);
    (tracing_subscriber::registry().with(filter).with(stderr).with(file), handle)
}

/// A span's fields are formatted once for each type of formatter: with the terminal's own type its
/// colours would stand in the file.
struct FileFields(DefaultFields);

impl<'writer> FormatFields<'writer> for FileFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> std::fmt::Result {
        self.0.format_fields(writer, fields)
    }
}

#[cfg(test)]
mod tests;
