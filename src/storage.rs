//! Opens the data on this machine in the right order: the lock, the index, the log, and then the
//! index brought up to the end of the log. Repairs what a crash may leave.

use std::{
    collections::HashSet,
    fs,
    io::{ErrorKind, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::io::Errno;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    event::{EventId, record},
    history::History,
    index::{
        Index, IndexError, IndexOptions, IndexScan, WaitMode,
        rebuild::{self, RebuildError},
    },
    log::{
        Access, Cursor, FolderOwner, Frame, Lock, Log, LogId, LogOffset, OpenError, OwnerError, OwnerFile,
        Recovered,
        clean_stop::{self, Unclean},
        recover, recover_read_only,
    },
    progress::Progress,
};

/// The configuration key of the index directory.
pub const INDEX_PATH: &str = "event_sourcing.index_path";

/// Where the log and the index are, and their limits.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of the log.
    pub log_path: PathBuf,
    /// The directory of the index.
    pub index_path: PathBuf,
    /// The size at which the log begins a new segment.
    pub segment_bytes_max: u64,
    /// The maximum number of types that the index counts by name.
    pub types_max: u64,
    /// Disk space in bytes that the index reserves for the log.
    pub disk_free_min: u64,
}

/// The opened log and index. No other process can open them meanwhile.
#[derive(Debug)]
pub struct Storage {
    /// Keeps other processes out until it is dropped.
    pub lock: Lock,
    /// The write end of the log.
    pub log: Log,
    /// The index, which covers the whole log.
    pub index: Arc<Index>,
    /// The ownership of the index directory.
    pub index_owner: Option<FolderOwner>,
    /// The id of the log, if it is known.
    pub log_id: Option<LogId>,
    /// Whether the log is as the last clean stop left it.
    pub last_stop: Result<(), Unclean>,
    /// Set if nothing can be written. The index then stays in memory.
    pub read_only: Option<ReadOnly>,
}

/// What is known of storage that is read-only.
#[derive(Debug)]
pub struct ReadOnly {
    /// The events of the last group. It cannot be known whether they are durable.
    pub in_doubt: HashSet<EventId>,
}

/// Why the storage cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The log cannot be opened, read or written.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The index is unusable and cannot be rebuilt.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The log ends before a position that the index has seen, without a sign of damage.
    #[error(
        "the local log {log} is older than the index {index}: it ends before the position that the index \
         has seen. Either it is an older copy, or its end was lost. Run `aethyr-event-store repair` to \
         recover the missing events from ImmuDB and the event files. To continue with the log as it is, \
         without these events, move {index} away; it is rebuilt"
    )]
    OlderLog {
        /// The directory of the log.
        log: PathBuf,
        /// The directory of the index.
        index: PathBuf,
    },
    /// The index directory is in use, or belongs to another log.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// The log is empty, but there are event files: the log was probably lost.
    #[error(
        "the local log is empty, but {path} contains event files; run `aethyr-event-store import {path}`, \
         or move the files away"
    )]
    EventFilesWithoutLog {
        /// The directory of the event files.
        path: PathBuf,
    },
    /// The log is empty, but there are event files of Aethyr's own event store.
    #[error(
        "{path} contains event files of Aethyr's own event store (Ruby Marshal format); import them with \
         `aethyr-event-store import-aethyr {path}`, move them away, or configure another directory \
         (event_sourcing.storage_path)"
    )]
    EventFilesOfAethyr {
        /// The directory of the event files.
        path: PathBuf,
    },
    /// A shutdown was requested before the storage was open.
    #[error("opening the storage was interrupted by a shutdown")]
    Stopped,
    /// The directory of the event files cannot be read.
    #[error("{path}: {source}")]
    EventFiles {
        /// The directory of the event files.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
}

impl Storage {
    /// Opens the log and the index, and repairs what a crash may leave.
    ///
    /// # Errors
    /// Returns an error if another process has opened them, if the log is damaged, or if a file
    /// cannot be read or written.
    pub fn open(settings: &Settings) -> Result<Self, StorageError> {
        Self::open_unless(settings, &CancellationToken::new())
    }

    /// Same as [`Storage::open`], but stops early when `stop` is cancelled.
    ///
    /// # Errors
    /// See [`Storage::open`]. Also returns an error if it was stopped early.
    pub fn open_unless(settings: &Settings, stop: &CancellationToken) -> Result<Self, StorageError> {
        let lock = Lock::take(&settings.log_path, Access::ReadWrite)?;
        let log_error = |source| OpenError::of_folder(&settings.log_path, source);
        let last_stop = clean_stop::check(&settings.log_path).map_err(log_error)?;
        let log_id = LogId::find(&settings.log_path).map_err(log_error)?;
        // Claimed before anything in it is examined, so that the index of another log is neither
        // damaged nor deleted.
        let mut index_owner = claim_index(&settings.index_path, log_id)?;
        // Done even if the index cannot be written, because it tells how far the log went.
        let (found, is_found) = match IndexScan::read_folder(&settings.index_path) {
            Ok(found) => (found, true),
            Err(error) => {
                error!(%error, "index is not readable; it is rebuilt from the log and kept in memory until the \
                 next start");
                (IndexScan::default(), false)
            }
        };
        let seen = found.seen(&settings.log_path).map(|seen| seen.end);
        let recovered = recover(&settings.log_path, seen).map_err(|error| match error {
            OpenError::Older { folder: log } => {
                StorageError::OlderLog { log, index: settings.index_path.clone() }
            }
            error => error.into(),
        })?;
        if last_stop.is_ok()
            && let Err(error) = clean_stop::note(&settings.log_path)
        {
            // Recovery has rewritten the last group, but this is still the same log.
            warn!(%error, "cannot rewrite the record of the last clean stop");
        }
        let log_id = LogId::keep(&settings.log_path).map_err(log_error)?;
        if let (Some(id), Some(index_owner)) = (log_id, &mut index_owner) {
            index_owner.name(id);
        }
        let parts = (recovered.segments().clone(), recovered.end);
        let options = options(settings, is_found && index_owner.is_some());
        let index = Index::open(&settings.index_path, found, parts, options, stop);
        catch_up(&index, &recovered, stop)?;
        let tip = index.complete().tip;
        info!(position = tip.position.0, aggregates = index.complete().aggregates, "local log opened");
        let log = Log::new(recovered, tip, settings.segment_bytes_max);
        let index = Arc::new(index);
        Ok(Self { lock, log, index, index_owner, log_id, last_stop, read_only: None })
    }

    /// Opens storage that cannot be written, for reading only. Index entries that its files lack
    /// stay in memory.
    ///
    /// # Errors
    /// Returns an error if the log cannot be read either.
    pub fn open_read_only(settings: &Settings, stop: &CancellationToken) -> Result<Self, StorageError> {
        let lock = Lock::take(&settings.log_path, Access::ReadOnly)?;
        let log_id = LogId::find(&settings.log_path)
            .map_err(|source| OpenError::of_folder(&settings.log_path, source))?;
        let (recovered, last_group) = recover_read_only(&settings.log_path)?;
        let in_doubt = event_ids(&recovered, last_group)?;
        // The index of another log is not trusted.
        let found = IndexScan::read_folder(&settings.index_path).unwrap_or_default();
        let parts = (recovered.segments().clone(), recovered.end);
        let options = options(settings, false);
        let index = Index::open(&settings.index_path, found, parts, options, stop);
        catch_up(&index, &recovered, stop)?;
        let tip = index.complete().tip;
        let mut log = Log::new(recovered, tip, settings.segment_bytes_max);
        log.fail();
        let read_only = Some(ReadOnly { in_doubt });
        let index = Arc::new(index);
        // Nothing is written, so the last stop does not matter.
        let last_stop = Ok(());
        Ok(Self { lock, log, index, index_owner: None, log_id, last_stop, read_only })
    }

    /// Returns whether a file can be written to the log directory.
    pub fn is_writable(log_path: &Path) -> bool {
        let probe = log_path.join(".probe");
        let written = fs::create_dir_all(log_path).and_then(|()| fs::File::create(&probe));
        let written = written.and_then(|mut file| {
            file.write_all(&[0; 4096])?;
            file.sync_all()
        });
        _ = fs::remove_file(&probe);
        written.is_ok()
    }

    /// Returns the log and the index for reading. Lookups wait for rebuilds.
    pub fn history(&self) -> History {
        let (index, segments) = (self.index.clone(), self.log.segments().clone());
        History { index, segments, wait_mode: WaitMode::Waits }
    }
}

/// Returns the ids of all events in the appends from `start` on.
fn event_ids(recovered: &Recovered, start: LogOffset) -> Result<HashSet<EventId>, StorageError> {
    let mut cursor = Cursor::new(recovered.segments().clone(), start);
    let mut ids = HashSet::new();
    while let Some(read) = cursor.next(recovered.end).map_err(OpenError::from)? {
        if let Frame::Append { records, .. } = read.frame {
            let events = records.into_iter().filter_map(|one| record::decode(one.bytes, one.hash).ok());
            ids.extend(events.map(|event| event.event.id));
        }
    }
    Ok(ids)
}

fn options(settings: &Settings, writes: bool) -> IndexOptions {
    IndexOptions {
        types_max: settings.types_max,
        file_events: IndexOptions::FILE_EVENTS,
        file_log_bytes: settings.segment_bytes_max,
        bytes_at_once: IndexOptions::BYTES_AT_ONCE,
        disk_free_min: settings.disk_free_min,
        writes,
    }
}

/// Claims the index directory. Returns `None` if it cannot be used: the index is only derived from
/// the log, so its failure must not make the log unavailable.
fn claim_index(index_path: &Path, log_id: Option<LogId>) -> Result<Option<FolderOwner>, OwnerError> {
    match FolderOwner::claim(index_path, OwnerFile::Within, log_id, INDEX_PATH) {
        Ok(owner) => Ok(Some(owner)),
        Err(error @ OwnerError::Io { .. }) => {
            error!(%error, "index is not writable; missing entries are kept in memory until the next start");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl StorageError {
    /// Returns whether the disk refused to be written. It may be readable all the same.
    pub fn is_of_writing(&self) -> bool {
        let source = match self {
            Self::Log(OpenError::Io { source, .. } | OpenError::NotLocked { source, .. })
            | Self::Owner(OwnerError::Io { source, .. }) => source,
            Self::Log(
                OpenError::Damage(_)
                | OpenError::Newer(_)
                | OpenError::Locked(_)
                | OpenError::NotEmpty { .. }
                | OpenError::Older { .. },
            )
            | Self::Index(_)
            | Self::OlderLog { .. }
            | Self::Stopped
            | Self::Owner(OwnerError::InUse { .. } | OwnerError::AnotherLog { .. })
            | Self::EventFilesWithoutLog { .. }
            | Self::EventFilesOfAethyr { .. }
            | Self::EventFiles { .. } => return false,
        };
        matches!(
            source.kind(),
            ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull | ErrorKind::QuotaExceeded
        ) || source.raw_os_error() == Some(Errno::IO.raw_os_error())
    }
}

fn catch_up(index: &Index, recovered: &Recovered, stop: &CancellationToken) -> Result<(), StorageError> {
    let segments = recovered.segments();
    let from = index.complete().tip.end;
    if from == recovered.end {
        return Ok(());
    }
    let whole = segments.byte_count().unwrap_or(0);
    let mut progress = Progress::new("updating the index", "bytes", 0, whole);
    let done = rebuild::catch_up(index, recovered.end, |place| {
        progress.reached(segments.bytes_before(place).unwrap_or(0));
        if stop.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match done {
        Ok(()) => Ok(()),
        Err(RebuildError::Log(error)) => Err(StorageError::Log(error.into())),
        Err(RebuildError::Index(error)) if !stop.is_cancelled() => Err(StorageError::Index(error)),
        Err(RebuildError::Index(_) | RebuildError::Stopped) => Err(StorageError::Stopped),
    }
}
