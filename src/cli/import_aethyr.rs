//! `import-aethyr`: imports the events that Aethyr's own event store has written, from its files or
//! from its keys in ImmuDB.
//!
//! Everything is read twice: first to find out which aggregates are complete and what the log
//! already has, then in the order of time to append it. Aggregates with a fault are reported and
//! left out, and the others are imported. The files and the keys are not changed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{Error, import};
use crate::{
    clock::REST_MAX,
    config::Config,
    event::{Position, Timestamp},
    history::History,
    immudb, log,
    server::{self, Components, ServerOptions, settings},
    storage::Storage,
    transparency::generations,
};

mod appender;
mod examiner;
mod report;
mod source;

use appender::Appender;
use examiner::{Examiner, LogView, Plan};
use report::{Next, Report, Stored};
use source::{Contents, Database, Source, SourceError};

/// The name that stands for the database in place of a directory.
const IMMUDB: &str = "immudb";

/// The arguments of the command.
#[derive(Debug, clap::Args)]
pub(super) struct ImportAethyrArgs {
    /// Directory with Aethyr's event files (its storage/events), or `immudb` for the keys that
    /// Aethyr has written into ImmuDB
    #[arg(value_name = "DIR|immudb")]
    from: PathBuf,
    /// With `immudb`: the database to read, if it is not the configured one (immudb.database)
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Only report what would be imported. Nothing is written, and events that only ImmuDB has are
    /// not taken into account
    #[arg(long)]
    dry_run: bool,
    /// Do not contact ImmuDB as the destination. Only use this if it has no event that the local
    /// log lacks
    #[arg(long)]
    without_immudb: bool,
    /// Claim the ImmuDB database although its last writer did not release it
    #[arg(long)]
    take_over: bool,
}

impl ImportAethyrArgs {
    fn is_from_immudb(&self) -> bool {
        self.from == Path::new(IMMUDB)
    }
}

/// Why events are not imported.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportAethyrError {
    #[error("{0}: is not a directory")]
    NoFolder(PathBuf),
    #[error("--database is only possible with `immudb` in place of a directory")]
    DatabaseOfFolder,
    #[error("{0}: found no events of Aethyr's own event store")]
    NoEvents(String),
    #[error("ImmuDB: {0}")]
    Immudb(#[from] immudb::Error),
    #[error("aggregate {aggregate}, event {number}: changed during the import")]
    Changed { aggregate: String, number: u64 },
    #[error(
        "the clock of this machine does not fit the newest event of the log, so the time of the import is \
         not known; see `serve --accept-clock`"
    )]
    Clock,
    #[error(
        "{left_out} aggregates or files were left out, and {problems} problems were found; see the report"
    )]
    Incomplete { left_out: u64, problems: u64 },
}

/// Imports the events and prints a report.
///
/// # Errors
/// Returns an error if the storage, the files or ImmuDB cannot be used, or if something could not
/// be carried over.
pub(super) async fn run(config: Config, args: ImportAethyrArgs) -> Result<(), Error> {
    let source = open(&config, &args).await?;
    let result = import_from(config, &args, &source).await;
    source.close().await;
    result
}

async fn open(config: &Config, args: &ImportAethyrArgs) -> Result<Source, Error> {
    if !args.is_from_immudb() {
        return match (&args.database, args.from.is_dir()) {
            (Some(_), _) => Err(ImportAethyrError::DatabaseOfFolder.into()),
            (None, false) => Err(ImportAethyrError::NoFolder(args.from.clone()).into()),
            (None, true) => Ok(Source::Folder(args.from.clone())),
        };
    }
    let section = config.immudb.as_ref().ok_or(Error::NoImmudb)?;
    let mut settings = settings::immudb(section);
    if let Some(database) = &args.database {
        settings.database.clone_from(database);
    }
    let database = Database::open(settings).await.map_err(ImportAethyrError::from)?;
    Ok(Source::Immudb(Box::new(database)))
}

async fn import_from(mut config: Config, args: &ImportAethyrArgs, source: &Source) -> Result<(), Error> {
    let contents = source.list().await.map_err(failed)?;
    if contents.aggregates.is_empty() && contents.unreadable.is_empty() {
        return Err(ImportAethyrError::NoEvents(source.to_string()).into());
    }
    let next = Next {
        folder_in_use: is_same(&args.from, &config.event_sourcing.storage_path),
        database_in_use: reads_destination(&config, args),
        ..Next::default()
    };
    if args.dry_run {
        let (plan, report) = examine(&config, source, &contents, &read_only(&config)?).await?;
        let stored =
            Stored { events: plan.event_count(), already: plan.already, times: plan.times(), dry: true };
        return report.finish(&stored, &next);
    }
    // The files of Aethyr may be in the directory where the service would write its own.
    config.event_sourcing.event_files = false;
    // The next start of the service makes checkpoints, and audits.
    config.proof.checkpoint_every = Duration::ZERO;
    config.audit.events_per_second = 0;
    if args.without_immudb || next.database_in_use {
        config.immudb = None;
    }
    let storage = Storage::open(&settings::storage(&config.event_sourcing, &config.limits))?;
    let log_path = config.event_sourcing.log_path.clone();
    if config.immudb.is_some() && storage.log.tip().position == Position(0) {
        // What ImmuDB has is restored first.
        generations::begin_copy(&log_path)
            .map_err(|error| Error::of_file(&generations::path(&log_path), error))?;
    }
    let options = ServerOptions { take_over: args.take_over, ..ServerOptions::default() };
    let parts = Components::start(&config, &options, storage)?;
    let result = import_into(&parts, &config, source, &contents).await;
    server::stop(parts, config.server.shutdown_grace).await;
    let (report, stored, newest) = result?;
    let rest_max = i64::try_from(REST_MAX.as_secs()).unwrap_or(i64::MAX);
    let rested = Timestamp::now().seconds().saturating_sub(newest.seconds());
    report.finish(&stored, &Next { clock_doubted: rested > rest_max, ..next })
}

/// Returns the report, what was stored, and the recorded time of the newest event in the log.
async fn import_into(
    parts: &Components,
    config: &Config,
    source: &Source,
    contents: &Contents,
) -> Result<(Report, Stored, Timestamp), Error> {
    if config.immudb.is_some() {
        import::contacted(parts).await?;
    }
    let log = LogView::new(parts.store.history().clone(), parts.store.tip().position);
    let (plan, report) = examine(config, source, contents, &log).await?;
    let times = plan.times();
    let events = match plan.units.is_empty() {
        true => 0,
        false => Appender::new(parts, times)?.append_all(source, &plan).await?,
    };
    let already = plan.already;
    info!(
        imported = events,
        already,
        left_out = report.left_out_count(),
        "import of Aethyr's events finished"
    );
    let newest = parts.store.history().index.complete().recorded_at;
    Ok((report, Stored { events, already, times, dry: false }, newest))
}

async fn examine(
    config: &Config,
    source: &Source,
    contents: &Contents,
    log: &LogView,
) -> Result<(Plan, Report), Error> {
    let mut examiner = Examiner::new(source, log, config.limits.event_bytes_max);
    examiner.examine_all(contents).await?;
    Ok(examiner.finish())
}

/// Returns the log for reading. It is not created if there is none.
fn read_only(config: &Config) -> Result<LogView, Error> {
    if !log::is_there(&config.event_sourcing.log_path) {
        return Ok(LogView::empty());
    }
    let settings = settings::storage(&config.event_sourcing, &config.limits);
    let storage = Storage::open_read_only(&settings, &CancellationToken::new())?;
    let history: History = storage.history();
    Ok(LogView::of_storage(history, storage))
}

/// Returns whether the events are read from the database to which the service replicates. It must
/// get another one afterwards, so it is not contacted as the destination.
fn reads_destination(config: &Config, args: &ImportAethyrArgs) -> bool {
    let configured = config.immudb.as_ref().map(|section| &section.database);
    args.is_from_immudb() && args.database.as_ref().is_none_or(|database| Some(database) == configured)
}

fn is_same(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

fn failed(error: SourceError) -> Error {
    match error {
        SourceError::File(error) => Error::Io(error),
        SourceError::Immudb(error) => ImportAethyrError::Immudb(error).into(),
        SourceError::Missing => Error::Io(std::io::ErrorKind::NotFound.into()),
    }
}
