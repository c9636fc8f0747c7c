//! `import`: appends event files that continue the local log, in the order of positions and only as
//! whole appends.
//!
//! Events that the log already has are skipped. Appends that do not continue the log are logged and
//! skipped. The files are not changed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use tracing::{info, warn};

use super::Error;
use crate::{
    config::Config,
    event::{ChainHash, Position, RecordedEvent, record},
    event_files::{
        folder::{EventFolder, read_file},
        format,
    },
    progress::Progress,
    replication::{restore::RestoreMarker, state::State},
    sequencer::{RestoredTransaction, Sequencer},
    server::{self, Components, ServerOptions, settings},
    storage::Storage,
    transparency::generations,
};

/// Whether events that the log lacks are restored from ImmuDB before the import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ImmudbRestore {
    First,
    Skipped,
}

/// Why events are not imported.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportError {
    #[error("ImmuDB: {reason} (use --without-immudb to import without ImmuDB)")]
    NotRestored { reason: String },
    #[error(
        "{path}: these are event files of Aethyr's own event store (Ruby Marshal format); import them with \
         `aethyr-event-store import-aethyr {path}`"
    )]
    RubyMarshal { path: PathBuf },
    #[error("{path}: file changed during the import")]
    FileChanged { path: PathBuf },
    #[error(
        "{conflicts} appends did not continue the log, and {unreadable} files could not be read; see \
         the warnings in the log"
    )]
    Incomplete { conflicts: u64, unreadable: u64 },
}

/// Imports the event files and snapshots in `folder`.
///
/// # Errors
/// Returns an error if the storage or the directory cannot be used, if ImmuDB cannot be contacted,
/// or if files could not be read or did not continue the log.
pub(super) async fn run(
    mut config: Config,
    folder: PathBuf,
    restore: ImmudbRestore,
    take_over: bool,
) -> Result<(), Error> {
    let wants_immudb = restore == ImmudbRestore::First && config.immudb.is_some();
    if !wants_immudb {
        config.immudb = None;
    }
    // The event files are read here, so they must not be written or deleted meanwhile.
    config.event_sourcing.event_files = false;
    // The next start of the service makes checkpoints, and audits.
    config.proof.checkpoint_every = Duration::ZERO;
    config.audit.events_per_second = 0;
    let storage = Storage::open(&settings::storage(&config.event_sourcing, &config.limits))?;
    let log_path = &config.event_sourcing.log_path;
    let was_empty = storage.log.tip().position == Position(0);
    if was_empty {
        generations::begin_copy(log_path)
            .map_err(|error| Error::of_file(&generations::path(log_path), error))?;
    }
    let options = ServerOptions { take_over, ..ServerOptions::default() };
    let parts = Components::start(&config, &options, storage)?;
    let imported = if wants_immudb { contacted(&parts).await } else { Ok(()) };
    let imported = match imported {
        Ok(()) => import(&parts, &folder).await,
        Err(error) => Err(error),
    };
    // What was imported was part of the history, unlike what is appended from now on.
    let noted = if was_empty && !RestoreMarker::new(log_path).exists() {
        let noted = RestoreMarker::new(log_path).note_restored(parts.store.tip().position);
        noted.map_err(|error| Error::of_file(log_path, error))
    } else {
        Ok(())
    };
    let imported = imported.and(noted);
    server::stop(parts, config.server.shutdown_grace).await;
    imported
}

/// Waits until everything in ImmuDB has been restored.
pub(super) async fn contacted(parts: &Components) -> Result<(), Error> {
    const RETRIES_MAX: u64 = 3;
    const LOOK_EVERY: Duration = Duration::from_millis(200);
    let replication = parts.store.replication();
    let mut state = replication.watch_state();
    loop {
        let now = *state.borrow_and_update();
        match now {
            State::Connected | State::Migrating | State::LocalOnly => return Ok(()),
            // With --take-over, this state is not left without ImmuDB.
            State::Starting if replication.view().retries > RETRIES_MAX => {
                let reason = replication.view().last_error;
                return Err(ImportError::NotRestored { reason }.into());
            }
            State::Starting | State::Copying => {}
            State::Fallback | State::Suspect | State::Fenced => {
                let reason = replication.view().last_error;
                return Err(ImportError::NotRestored { reason }.into());
            }
            State::Tampered => {
                let reason = "its history was changed (STATE_TAMPERED)".to_owned();
                return Err(ImportError::NotRestored { reason }.into());
            }
        }
        // Retries do not change the state, so check periodically as well.
        let _ = tokio::time::timeout(LOOK_EVERY, state.changed()).await;
    }
}

/// The results of the import.
#[derive(Debug, Default)]
struct ImportSummary {
    imported: u64,
    identical: u64,
    snapshots: u64,
    conflicts: u64,
    unreadable: u64,
}

async fn import(parts: &Components, path: &Path) -> Result<(), Error> {
    let folder = EventFolder::new(path);
    if folder.is_of_aethyr().map_err(Error::Io)? {
        return Err(ImportError::RubyMarshal { path: path.to_owned() }.into());
    }
    let mut outcome = ImportSummary::default();
    let mut files = stock(&folder, &mut outcome)?;
    files.sort_unstable();
    let mut progress = Progress::new("importing", "files", 0, files.len() as u64);
    let tip = parts.store.tip();
    let mut appends = Appends {
        sequencer: parts.store.sequencer(),
        position: tip.position,
        hash: tip.hash,
        ready: Vec::new(),
        ready_bytes: 0,
    };
    let mut rest = files.as_slice();
    let mut done = 0u64;
    while let Some((first, _, _)) = rest.first() {
        let count = rest.iter().take_while(|(append, _, _)| append == first).count();
        let (group, behind) = rest.split_at(count);
        rest = behind;
        import_append(parts, &mut appends, group, &mut outcome).await?;
        done = done.saturating_add(count as u64);
        progress.reached(done);
    }
    appends.flush().await?;
    drop(progress);
    import_snapshots(parts, &folder, &mut outcome).await?;
    let ImportSummary { imported, identical, snapshots, conflicts, unreadable } = outcome;
    info!(imported, identical, snapshots, conflicts, unreadable, "import finished");
    match (conflicts, unreadable) {
        (0, 0) => Ok(()),
        _ => Err(ImportError::Incomplete { conflicts, unreadable }.into()),
    }
}

/// The first position of the append, the position, and the path of an event file. Files sorted in
/// this order can be appended.
type ImportFile = (Position, Position, PathBuf);

/// Lists the event files. A file that cannot be read, such as one damaged by a power failure, is
/// counted and does not prevent the import of the others.
fn stock(folder: &EventFolder, outcome: &mut ImportSummary) -> Result<Vec<ImportFile>, Error> {
    let mut files = Vec::new();
    for path in folder.event_paths().map_err(Error::Io)? {
        match EventFolder::read_event(&path) {
            Ok(Some(event)) => files.push((event.append.first, event.position, path)),
            Ok(None) => {
                warn!(file = %path.display(), "not an event file");
                outcome.unreadable = outcome.unreadable.saturating_add(1);
            }
            Err(error) => {
                warn!(file = %path.display(), %error, "file cannot be read");
                outcome.unreadable = outcome.unreadable.saturating_add(1);
            }
        }
    }
    Ok(files)
}

async fn import_append(
    parts: &Components,
    appends: &mut Appends<'_>,
    files: &[ImportFile],
    outcome: &mut ImportSummary,
) -> Result<(), Error> {
    let mut events = Vec::with_capacity(files.len());
    for (_, _, path) in files {
        let event = EventFolder::read_event(path).map_err(Error::Io)?;
        events.push(event.ok_or_else(|| ImportError::FileChanged { path: path.clone() })?);
    }
    let problem = match known(parts, &events)? {
        Known::AllIdentical => {
            outcome.identical = outcome.identical.saturating_add(events.len() as u64);
            return Ok(());
        }
        Known::Differs => "the log has a different event at this position",
        Known::No => match appends.add(&events) {
            Ok(()) => {
                outcome.imported = outcome.imported.saturating_add(events.len() as u64);
                return appends.flush_if_full().await;
            }
            Err(problem) => problem,
        },
    };
    outcome.conflicts = outcome.conflicts.saturating_add(1);
    let path = files.first().map(|(_, _, path)| path.display().to_string());
    warn!(file = path, problem, log_ends = appends.position.0, "append does not continue the log; skipped");
    Ok(())
}

enum Known {
    AllIdentical,
    Differs,
    No,
}

fn known(parts: &Components, events: &[RecordedEvent]) -> Result<Known, Error> {
    let history = parts.store.history();
    let tip = parts.store.tip();
    for event in events {
        if event.position > tip.position {
            return Ok(Known::No);
        }
        let ours = history.event_at(event.position, tip)?;
        // The hash in the file alone does not show that the rest of the file is unchanged.
        if ours != *event {
            return Ok(Known::Differs);
        }
    }
    Ok(Known::AllIdentical)
}

/// Appends that continue the log, collected until there are enough for one sync.
struct Appends<'a> {
    sequencer: &'a Sequencer,
    position: Position,
    hash: ChainHash,
    ready: Vec<Vec<Bytes>>,
    ready_bytes: usize,
}

impl Appends<'_> {
    const AT_ONCE_BYTES: usize = 8 * 1024 * 1024;

    fn add(&mut self, events: &[RecordedEvent]) -> Result<(), &'static str> {
        let (mut position, mut hash) = (self.position, self.hash);
        let mut records = Vec::with_capacity(events.len());
        for event in events {
            if event.position != position.next() {
                return Err("its position does not follow the end of the log");
            }
            let record = record::encode_recorded(event);
            (position, hash) = (event.position, hash.chain(&record));
            if hash != event.hash {
                return Err("its chain hash does not match");
            }
            records.push(record);
        }
        if events.first().is_none_or(|event| event.append.event_count() != events.len() as u64) {
            return Err("other files of the same append are missing");
        }
        (self.position, self.hash) = (position, hash);
        self.ready_bytes += records.iter().map(Bytes::len).sum::<usize>();
        self.ready.push(records);
        Ok(())
    }

    async fn flush_if_full(&mut self) -> Result<(), Error> {
        if self.ready_bytes >= Self::AT_ONCE_BYTES {
            return self.flush().await;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let appends = std::mem::take(&mut self.ready);
        self.ready_bytes = 0;
        if appends.is_empty() {
            return Ok(());
        }
        let transaction = RestoredTransaction { appends, ..RestoredTransaction::default() };
        self.sequencer.restore(vec![transaction]).await?;
        Ok(())
    }
}

async fn import_snapshots(
    parts: &Components,
    folder: &EventFolder,
    outcome: &mut ImportSummary,
) -> Result<(), Error> {
    for path in folder.snapshot_paths().map_err(Error::Io)? {
        let bytes = match read_file(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                warn!(file = %path.display(), %error, "file cannot be read");
                outcome.unreadable = outcome.unreadable.saturating_add(1);
                continue;
            }
        };
        let Some(snapshot) = format::read_snapshot(&bytes) else {
            warn!(file = %path.display(), "not a snapshot file");
            continue;
        };
        let record = record::encode_snapshot(snapshot);
        parts.store.sequencer().restore_snapshot(record).await?;
        outcome.snapshots = outcome.snapshots.saturating_add(1);
    }
    Ok(())
}
