//! What lies on this machine, opened in the right order: the lock, the index, the log, and the index
//! brought up to the log's end.

use std::{
    collections::HashSet,
    fs,
    io::{ErrorKind, Write},
    ops::ControlFlow,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use rustix::io::Errno;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::EventSourcingConfig,
    event::{EventId, Hash, record},
    history::History,
    index::{
        Direction, Examined, Index, IndexError,
        rebuild::{self, RebuildError},
    },
    log::{
        Access, Cursor, FolderOwner, Frame, Lock, Log, LogId, OpenError, OwnerError, OwnerFile, Place,
        Recovered, StoredRecord,
        clean_stop::{self, Unclean},
        recover, recover_read_only,
    },
    progress::Progress,
};

/// The configuration's key of the index's folder.
pub const INDEX_PATH: &str = "event_sourcing.index_path";

/// The opened log and index. Nobody else can open them meanwhile.
#[derive(Debug)]
pub struct Storage {
    pub lock: Lock,
    pub log: Log,
    pub index: Arc<Index>,
    /// What comes of examining an index that is large.
    pub examined: Option<LaterExamined>,
    /// Of the index's folder.
    pub index_owner: Option<FolderOwner>,
    pub log_id: Option<LogId>,
    /// Whether the log is as a clean stop left it.
    pub last_stop: Result<(), Unclean>,
    /// Nothing can be written; then the index is a temporary one.
    pub read_only: Option<ReadOnly>,
}

/// Why the disk is only read.
#[derive(Debug)]
pub struct ReadOnly {
    pub reason: String,
    /// Events of the last group: whether they are durable can't be known.
    pub in_doubt: HashSet<EventId>,
    _index: TempDir,
}

/// Why they can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error(transparent)]
    Log(#[from] OpenError),
    #[error("{0} (it may be deleted: it is rebuilt from the log)")]
    Index(#[from] IndexError),
    #[error(
        "the local log {log} is older than the index {index}: it ends before what the index had of it. Either it \
         is an older copy, or its end was lost. `aethyr-event-store repair` brings back what ImmuDB and the event \
         files have of it. To go on with the log as it is, move {index} away: it is made again, without the events \
         that the log lacks"
    )]
    OlderLog { log: String, index: String },
    #[error(transparent)]
    Owner(#[from] OwnerError),
    #[error(
        "the local log is empty, but {path} holds event files; \
         `aethyr-event-store import {path}` takes them over, or move them away"
    )]
    EventFilesWithoutLog { path: String },
    #[error(
        "{path} holds event files of Aethyr's own event store, which can't be taken over (Ruby's Marshal format): move them \
         away, or name another folder (event_sourcing.storage_path)"
    )]
    EventFilesOfAethyr { path: String },
    #[error("the opening was ended by a stop of the service")]
    Stopped,
    #[error("{path}: {source}")]
    EventFiles { path: String, source: std::io::Error },
}

impl Storage {
    /// Opens the log and the index, and repairs what a crash may leave.
    ///
    /// # Errors
    /// Another process has them, the log is damaged, or a file can't be read or written.
    pub fn open(config: &EventSourcingConfig, types_max: u64) -> Result<Self, StorageError> {
        Self::open_unless(config, types_max, &CancellationToken::new())
    }

    /// The same, ended early when `stop` is cancelled.
    ///
    /// # Errors
    /// Those of [`Storage::open`], and that it was ended.
    pub fn open_unless(
        config: &EventSourcingConfig,
        types_max: u64,
        stop: &CancellationToken,
    ) -> Result<Self, StorageError> {
        let lock = Lock::take(&config.log_path, Access::ReadWrite)?;
        let log_error = |source| OpenError::of_folder(&config.log_path, source);
        let last_stop = clean_stop::check(&config.log_path).map_err(log_error)?;
        let log_id = LogId::find(&config.log_path).map_err(log_error)?;
        remove_temporary_folders(config, log_id);
        // Before anything in it is looked at: another's index is neither damaged nor deleted.
        let mut index_owner = FolderOwner::claim(&config.index_path, OwnerFile::Within, log_id, INDEX_PATH)?;
        let opened = match Index::open(&config.index_path) {
            Ok(index) => Some(index.counting_types(types_max)),
            Err(error) if error.is_of_the_machine() => return Err(error.into()),
            Err(why) => {
                warn!(%why, "the index can't be opened; it is rebuilt");
                None
            }
        };
        let recovered =
            recover(&config.log_path, opened.as_ref().and_then(seen)).map_err(|error| match error {
                OpenError::Older { folder: log } => {
                    StorageError::OlderLog { log, index: config.index_path.display().to_string() }
                }
                error => error.into(),
            })?;
        if last_stop.is_ok()
            && let Err(error) = clean_stop::note(&config.log_path)
        {
            // The last group was written once more, which is no other log.
            warn!(%error, "the note of the last clean stop is lost");
        }
        let log_id = LogId::keep(&config.log_path).map_err(log_error)?;
        if let Some(id) = log_id {
            index_owner.name(id);
        }
        let usable =
            opened.map(|index| examine_and_bring_up(&index, &recovered, stop).map(|later| (index, later)));
        let (index, examined) = match usable {
            Some(Ok(usable)) => usable,
            Some(Err(error)) if !error.may_be_of_the_index() => return Err(error),
            other => {
                if let Some(Err(why)) = other {
                    warn!(%why, "the index is rebuilt");
                }
                let index = Index::renew(&config.index_path)?.counting_types(types_max);
                bring_up(&index, &recovered, stop)?;
                (index, None)
            }
        };
        let tip = index.complete().tip;
        info!(position = tip.position.0, aggregates = index.complete().aggregates, "local log opened");
        let log = Log::new(recovered, tip, config.segment_bytes_max);
        let (index, index_owner) = (Arc::new(index), Some(index_owner));
        Ok(Self { lock, log, index, examined, index_owner, log_id, last_stop, read_only: None })
    }

    /// Opens what can't be written for reading: `why` is what [`Storage::open`] said. The index is built from the log in
    /// the system's folder for temporary files.
    ///
    /// # Errors
    /// The log can't be read either.
    pub fn open_read_only(
        config: &EventSourcingConfig,
        types_max: u64,
        why: &StorageError,
        stop: &CancellationToken,
    ) -> Result<Self, StorageError> {
        let lock = Lock::take(&config.log_path, Access::ReadOnly)?;
        let log_id =
            LogId::find(&config.log_path).map_err(|source| OpenError::of_folder(&config.log_path, source))?;
        remove_temporary_folders(config, log_id);
        let (recovered, last_group) = recover_read_only(&config.log_path)?;
        let in_doubt = event_ids(&recovered, last_group)?;
        let folder = temporary_folder(config, log_id)?;
        let index = Index::open(folder.path())?.counting_types(types_max);
        bring_up(&index, &recovered, stop)?;
        let tip = index.complete().tip;
        let mut log = Log::new(recovered, tip, config.segment_bytes_max);
        log.fail();
        let read_only = Some(ReadOnly { reason: why.to_string(), in_doubt, _index: folder });
        let index = Arc::new(index);
        // Nothing is written, so nothing has to be known of it.
        let last_stop = Ok(());
        Ok(Self { lock, log, index, examined: None, index_owner: None, log_id, last_stop, read_only })
    }

    /// Whether a file can be written to the folders of the log and the index.
    pub fn is_writable(config: &EventSourcingConfig) -> bool {
        let writable = |folder: &PathBuf| {
            let probe = folder.join(".probe");
            let written =
                fs::create_dir_all(folder).and_then(|()| fs::File::create(&probe)).and_then(|mut file| {
                    file.write_all(&[0; 4096])?;
                    file.sync_all()
                });
            _ = fs::remove_file(&probe);
            written.is_ok()
        };
        [&config.log_path, &config.index_path].into_iter().all(writable)
    }

    pub fn history(&self) -> History {
        History { index: self.index.clone(), segments: self.log.segments().clone() }
    }
}

/// Of the appends from `start` on.
fn event_ids(recovered: &Recovered, start: Place) -> Result<HashSet<EventId>, StorageError> {
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

const TEMPORARY: &str = "aethyr-event-store-index-";

/// The folder of a temporary index names its log, and the log's folder, of which this process has the lock: a copy of
/// the log may be served beside it.
fn temporary_prefix(config: &EventSourcingConfig, log_id: Option<LogId>) -> Option<String> {
    let folder = fs::metadata(&config.log_path).ok()?;
    Some(format!("{TEMPORARY}{}-{:x}-{:x}-", log_id?, folder.dev(), folder.ino()))
}

fn temporary_places() -> [PathBuf; 3] {
    [std::env::temp_dir(), "/dev/shm".into(), "/run".into()]
}

/// On the disk of the storage there may be none that can be written.
fn temporary_folder(config: &EventSourcingConfig, log_id: Option<LogId>) -> Result<TempDir, StorageError> {
    let prefix = temporary_prefix(config, log_id).unwrap_or_else(|| TEMPORARY.to_owned());
    let mut refused = None;
    for place in temporary_places() {
        match tempfile::Builder::new().prefix(&prefix).tempdir_in(&place) {
            Ok(folder) => return Ok(folder),
            Err(source) => _ = refused.get_or_insert(OpenError::of_folder(&place, source)),
        }
    }
    let nowhere = || OpenError::of_folder(&std::env::temp_dir(), ErrorKind::NotFound.into());
    Err(refused.unwrap_or_else(nowhere).into())
}

/// Removes what a killed process left of this log's temporary indexes. Nobody uses them: the log's lock is held.
fn remove_temporary_folders(config: &EventSourcingConfig, log_id: Option<LogId>) {
    /// As `tempfile` names them.
    const RANDOM_BYTES: usize = 6;
    let Some(prefix) = temporary_prefix(config, log_id) else { return };
    let is_ours = |name: &str| name.strip_prefix(&prefix).is_some_and(|rest| rest.len() == RANDOM_BYTES);
    for place in temporary_places() {
        let Ok(entries) = fs::read_dir(&place) else { continue };
        for entry in entries.flatten() {
            let ours = entry.file_name().to_str().is_some_and(is_ours);
            // A link is none of ours.
            if !ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let folder = entry.path();
            match fs::remove_dir_all(&folder) {
                Ok(()) => info!(folder = %folder.display(), "a temporary index of before is removed"),
                Err(error) => warn!(%error, folder = %folder.display(), "a temporary index of before stays"),
            }
        }
    }
}

impl StorageError {
    /// The disk did not let us write; it may be read all the same.
    pub fn is_of_writing(&self) -> bool {
        let source = match self {
            Self::Log(OpenError::Io { source, .. }) | Self::Owner(OwnerError::Io { source, .. }) => source,
            Self::Index(error) => match error.source_of_machine() {
                Some(source) => source,
                None => return false,
            },
            Self::Log(
                OpenError::Damage(_)
                | OpenError::Locked(_)
                | OpenError::NotEmpty { .. }
                | OpenError::Older { .. },
            )
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

    /// A new index may do better: what does not go on from an index that lacks something looks like damage to
    /// the log.
    fn may_be_of_the_index(&self) -> bool {
        match self {
            Self::Index(error) => !error.is_of_the_machine(),
            Self::Log(OpenError::Damage(_)) => true,
            Self::Log(
                OpenError::Io { .. }
                | OpenError::Locked(_)
                | OpenError::NotEmpty { .. }
                | OpenError::Older { .. },
            )
            | Self::OlderLog { .. }
            | Self::Owner(_)
            | Self::EventFilesWithoutLog { .. }
            | Self::EventFilesOfAethyr { .. }
            | Self::Stopped
            | Self::EventFiles { .. } => false,
        }
    }
}

type LaterExamined = oneshot::Receiver<Result<(), IndexError>>;

/// Whether the index is whole and belongs to the log, to whose end it is brought up.
fn examine_and_bring_up(
    index: &Index,
    recovered: &Recovered,
    stop: &CancellationToken,
) -> Result<Option<LaterExamined>, StorageError> {
    /// A start takes a little longer at most; the rest is examined beside the service.
    const EXAMINATION_MAX: Duration = Duration::from_secs(1);
    if !index.has_enough() || !fits(index, recovered) {
        return Err(IndexError::Lacking.into());
    }
    // Before the examination, which may go on: nothing must read an index that is about to be removed.
    bring_up(index, recovered, stop)?;
    match index.examination().run_within(EXAMINATION_MAX) {
        Examined::Done(result) => Ok(result.map(|()| None)?),
        Examined::Later(examined) => Ok(Some(examined)),
    }
}

/// How far the index had the log, if it had anything.
fn seen(index: &Index) -> Option<Place> {
    Some(index.complete().tip.end).filter(|end| *end > Place::START)
}

/// The log has at the index's end what the index says, and the index finds it. Its parts reach the disk at
/// different times, so damage to it may leave the place up to which it is complete, and take entries away.
fn fits(index: &Index, recovered: &Recovered) -> bool {
    let tip = index.complete().tip;
    let Ok((first, place)) = index.frame_before(tip.position) else { return false };
    let mut cursor = Cursor::at(recovered.segments().clone(), place, first);
    let mut last = None;
    while let Ok(Some(read)) = cursor.next(tip.end) {
        if let Frame::Append { records, .. } = read.frame {
            last = Some((read.start, records));
        }
    }
    let Some((start, records)) = last else { return tip.hash == Hash::START };
    records.last().is_some_and(|stored| stored.hash == tip.hash)
        && records.into_iter().all(|stored| finds(index, start, stored).unwrap_or(false))
}

fn finds(index: &Index, frame: Place, stored: StoredRecord) -> Result<bool, IndexError> {
    let place = stored.place(frame);
    let Ok(event) = record::decode(stored.bytes, stored.hash) else { return Ok(false) };
    let Some(head) = index.head(&event.event.aggregate_id)? else { return Ok(false) };
    let range = event.sequence.0..=event.sequence.0;
    let found = index.events(head.number, range, Direction::Forwards, 1)?;
    Ok(head.last >= event.sequence && found == [place] && index.event(event.event.id)? == Some(place))
}

fn bring_up(index: &Index, recovered: &Recovered, stop: &CancellationToken) -> Result<(), StorageError> {
    let segments = recovered.segments();
    let from = index.complete().tip.end;
    if from == recovered.end {
        return Ok(());
    }
    let whole = segments.byte_count().unwrap_or(0);
    let mut progress = Progress::new("bringing up the index", "bytes", 0, whole);
    let done = rebuild::bring_up(index, segments, recovered.end, |place| {
        progress.reached(segments.bytes_before(place).unwrap_or(0));
        if stop.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match done {
        Ok(()) => Ok(()),
        Err(RebuildError::Log(error)) => Err(StorageError::Log(error.into())),
        Err(RebuildError::Index(error)) => Err(StorageError::Index(error)),
        Err(RebuildError::Stopped) => Err(StorageError::Stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_removes_temporary_indexes_of_its_own_log_and_no_others() {
        let storage = tempfile::tempdir().unwrap();
        let config = EventSourcingConfig {
            log_path: storage.path().join("log"),
            index_path: storage.path().join("index"),
            ..EventSourcingConfig::default()
        };
        let log_id = Storage::open(&config, 10).unwrap().log_id.unwrap();
        let left = temporary_folder(&config, Some(log_id)).unwrap().keep();
        fs::write(left.join("table"), "of an index").unwrap();
        let others = temporary_folder(&config, None).unwrap();
        let link = left.with_file_name(format!("{}nolink", temporary_prefix(&config, Some(log_id)).unwrap()));
        std::os::unix::fs::symlink(others.path(), &link).unwrap();
        drop(Storage::open(&config, 10).unwrap());
        assert!(!left.exists());
        assert!(others.path().exists() && link.symlink_metadata().is_ok());
        fs::remove_file(link).unwrap();
    }
}
