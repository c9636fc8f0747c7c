//! Log output: standard error and `system.log`, which is rotated when it is full.
//!
//! An append never waits for a log line. Each output is written by a thread of its own. If it
//! cannot keep up, or if its disk is full, lines are lost and counted. What is logged is decided
//! elsewhere.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use file_rotate::compression::Compression;
use file_rotate::suffix::AppendCount;
use file_rotate::{ContentLimit, FileRotate};
use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber, debug, warn};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::field::{RecordFields, VisitOutput};
use tracing_subscriber::fmt::format::{DefaultFields, DefaultVisitor, FormatFields, Writer};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::printable::escaped;

mod log_filter;

pub use log_filter::log_filter;

const FILE_NAME: &str = "system.log";
const LINES_WAITING_MAX: usize = 16_384;

/// The level, and the files to write to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of `system.log`.
    pub folder: PathBuf,
    /// In the syntax of [`log_filter()`].
    pub level: String,
    /// The size in bytes after which `system.log` is rotated.
    pub file_bytes_max: usize,
    /// The maximum number of files, including `system.log` itself.
    pub files_max: usize,
}

/// Flushes the queued lines when dropped, so it must be kept until the very end of the program.
#[must_use]
pub struct Guard {
    outputs: Vec<Output>,
    filter: FilterHandle,
    reopen: Arc<AtomicBool>,
}

/// Changes the log level while the program runs.
type FilterHandle = reload::Handle<EnvFilter, Registry>;

/// The reason why logging cannot be initialized or changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is not in the syntax of [`log_filter()`], or could not be set.
    #[error("invalid log level {level:?}")]
    Level {
        /// The level as given.
        level: String,
    },
    /// The process already has a logger.
    #[error("logging is already initialized")]
    AlreadyInitialised,
}

/// Starts logging to the configured outputs, for the rest of the program. If the directory is not
/// writable, lines go to standard error only.
pub fn init(settings: &Settings) -> Result<Guard, TelemetryError> {
    let filter = filter(&settings.level)?;
    let ansi = io::stderr().is_terminal();
    let (to_stderr, stderr) = Output::new("log-stderr", io::stderr(), Colours::from(ansi));
    let reopen = Arc::new(AtomicBool::new(false));
    let (to_file, file) = match open(settings) {
        Ok(file) => {
            let file = SystemLog { settings: settings.clone(), file, reopen: reopen.clone() };
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
            let path = std::path::absolute(&settings.folder).unwrap_or_else(|_| settings.folder.clone());
            let path = path.display();
            warn!(%path, %error, "logging.path is not writable; logging to standard error only");
        }
    }
    Ok(Guard { outputs, filter, reopen })
}

/// Logs the number of tasks periodically at level DEBUG, to help find leaks.
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

fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    log_filter(level).ok_or_else(|| TelemetryError::Level { level: level.to_owned() })
}

impl Guard {
    /// Makes the next line reopen `system.log`, because the open file may have been moved.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
    }

    /// Sets the log level from now on.
    ///
    /// # Errors
    /// Returns an error if `level` is not a valid level.
    pub fn filter(&self, level: &str) -> Result<(), TelemetryError> {
        let filter = filter(level)?;
        self.filter.reload(filter).map_err(|_| TelemetryError::Level { level: level.to_owned() })
    }

    /// Returns the number of lines lost since the start, over all outputs.
    pub fn lines_lost(&self) -> usize {
        self.outputs.iter().map(Output::lines_lost).sum()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let lines = self.lines_lost();
        if lines > 0 {
            warn!(lines, "log lines were dropped");
        }
    }
}

/// A writer with its own thread and queue.
struct Output {
    dropped: ErrorCounter,
    failed: Arc<AtomicUsize>,
    _worker: WorkerGuard,
}

impl Output {
    fn new(thread: &str, writer: impl Write + Send + 'static, colours: Colours) -> (NonBlocking, Output) {
        let failed = Arc::new(AtomicUsize::new(0));
        let lines = EscapingWriter { writer, colours, failed: failed.clone() };
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

/// Whether the formatter adds colour escape sequences to lines.
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

/// Writes one line at a time. Escapes text from clients, so that it can neither control a terminal
/// nor forge lines. Counts lines that cannot be written, because the writer thread ignores errors.
struct EscapingWriter<W> {
    writer: W,
    colours: Colours,
    failed: Arc<AtomicUsize>,
}

impl<W: Write> Write for EscapingWriter<W> {
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

/// Escapes a line, but keeps the sequences with which `tracing_subscriber` colours it. Those that a
/// client sent are escaped already: see [`TerminalFields`].
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

/// The file `system.log`, which is reopened on request.
struct SystemLog {
    settings: Settings,
    file: FileRotate<AppendCount>,
    reopen: Arc<AtomicBool>,
}

impl Write for SystemLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.reopen.swap(false, Ordering::Acquire) {
            match open(&self.settings) {
                Ok(file) => self.file = file,
                Err(error) => warn!(%error, "cannot reopen system.log; continuing with the old file"),
            }
        }
        self.file.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Opens `system.log`. Checks first that the directory is writable, because `FileRotate` panics or
/// fails silently if it is not.
fn open(settings: &Settings) -> io::Result<FileRotate<AppendCount>> {
    let folder = writable(&settings.folder)?;
    let files_aside = settings.files_max.saturating_sub(1);
    Ok(FileRotate::new(
        folder.join(FILE_NAME),
        AppendCount::new(files_aside),
        ContentLimit::BytesSurpassed(settings.file_bytes_max.max(1)),
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
    let stderr = fmt::layer().compact().with_ansi(ansi).fmt_fields(TerminalFields).with_writer(to_stderr);
    let (filter, handle) = reload::Layer::new(filter);
    (tracing_subscriber::registry().with(filter).with(stderr).with(file), handle)
}

/// Formats the fields of events and spans for the terminal. Escapes their values before anything is
/// coloured: later, a colour that a client sent could not be distinguished from those of the
/// formatter.
struct TerminalFields;

impl<'writer> FormatFields<'writer> for TerminalFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> std::fmt::Result {
        let mut values = EscapedValues(DefaultVisitor::new(writer, true));
        fields.record(&mut values);
        values.0.finish()
    }
}

/// Passes the values of fields on as escaped text.
struct EscapedValues<'writer>(DefaultVisitor<'writer>);

impl Visit for EscapedValues<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        self.0.record_debug(field, &format_args!("{}", escaped(&text)));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // As the default formatter does: only the message has no quotation marks.
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }
}

/// Formats the fields of spans for the file. They are formatted once for each type of formatter, so
/// sharing the type with the terminal would put its colours into the file.
struct FileFields(DefaultFields);

impl<'writer> FormatFields<'writer> for FileFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> std::fmt::Result {
        self.0.format_fields(writer, fields)
    }
}

#[cfg(test)]
mod tests;
