//! What lies on this machine, opened in the right order: the lock, the index, the log, and the index
//! brought up to the log's end.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::{
    config::EventSourcingConfig,
    event::{Hash, record},
    history::History,
    index::{
        Direction, Examined, Index, IndexError,
        rebuild::{self, RebuildError},
    },
    log::{Cursor, Frame, Lock, Log, OpenError, Place, Recovered, StoredRecord, recover},
    progress::Progress,
};

/// The opened log and index. Nobody else can open them meanwhile.
#[derive(Debug)]
pub struct Storage {
    pub lock: Lock,
    pub log: Log,
    pub index: Arc<Index>,
    /// What comes of examining an index that is large.
    pub examined: Option<LaterExamined>,
}

/// Why they can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error(transparent)]
    Log(#[from] OpenError),
    #[error("{0} (it may be deleted: it is rebuilt from the log)")]
    Index(#[from] IndexError),
    #[error(
        "the local log is empty, but {path} holds event files; \
         `aethyr-event-store import {path}` takes them over, or move them away"
    )]
    EventFilesWithoutLog { path: String },
    #[error("{path}: {source}")]
    EventFiles { path: String, source: std::io::Error },
}

impl Storage {
    /// Opens the log and the index, and repairs what a crash may leave.
    ///
    /// # Errors
    /// Another process has them, the log is damaged, or a file can't be read or written.
    pub fn open(config: &EventSourcingConfig, types_max: u64) -> Result<Self, StorageError> {
        let lock = Lock::take(&config.log_path)?;
        let opened = match Index::open(&config.index_path) {
            Ok(index) => Some(index.counting_types(types_max)),
            Err(error) if error.is_of_the_machine() => return Err(error.into()),
            Err(why) => {
                warn!(%why, "the index can't be opened; it is rebuilt");
                None
            }
        };
        let recovered = recover(&config.log_path, opened.as_ref().and_then(seen))?;
        let usable = opened.map(|index| examine_and_bring_up(&index, &recovered).map(|later| (index, later)));
        let (index, examined) = match usable {
            Some(Ok(usable)) => usable,
            Some(Err(error)) if !error.may_be_of_the_index() => return Err(error),
            other => {
                if let Some(Err(why)) = other {
                    warn!(%why, "the index is rebuilt");
                }
                let index = Index::renew(&config.index_path)?.counting_types(types_max);
                bring_up(&index, &recovered)?;
                (index, None)
            }
        };
        let tip = index.complete().tip;
        info!(position = tip.position.0, aggregates = index.complete().aggregates, "local log opened");
        let log = Log::new(recovered, tip, config.segment_bytes_max);
        Ok(Self { lock, log, index: Arc::new(index), examined })
    }

    pub fn history(&self) -> History {
        History { index: self.index.clone(), segments: self.log.segments().clone() }
    }
}

impl StorageError {
    /// A new index may do better: what does not go on from an index that lacks something looks like damage to
    /// the log.
    fn may_be_of_the_index(&self) -> bool {
        match self {
            Self::Index(error) => !error.is_of_the_machine(),
            Self::Log(OpenError::Damage(_)) => true,
            Self::Log(OpenError::Io { .. } | OpenError::Locked(_))
            | Self::EventFilesWithoutLog { .. }
            | Self::EventFiles { .. } => false,
        }
    }
}

type LaterExamined = oneshot::Receiver<Result<(), IndexError>>;

/// Whether the index is whole and belongs to the log, to whose end it is brought up.
fn examine_and_bring_up(index: &Index, recovered: &Recovered) -> Result<Option<LaterExamined>, StorageError> {
    /// A start takes a little longer at most; the rest is examined beside the service.
    const EXAMINATION_MAX: Duration = Duration::from_secs(1);
    if !index.has_enough() || !fits(index, recovered) {
        return Err(IndexError::Lacking.into());
    }
    // Before the examination, which may go on: nothing must read an index that is about to be removed.
    bring_up(index, recovered)?;
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

fn bring_up(index: &Index, recovered: &Recovered) -> Result<(), StorageError> {
    let segments = recovered.segments();
    let from = index.complete().tip.end;
    if from == recovered.end {
        return Ok(());
    }
    let whole = segments.byte_count().unwrap_or(0);
    let mut progress = Progress::new("bringing up the index", "bytes", 0, whole);
    let done = rebuild::bring_up(index, segments, recovered.end, |place| {
        progress.reached(segments.bytes_before(place).unwrap_or(0));
    });
    match done {
        Ok(()) => Ok(()),
        Err(RebuildError::Log(error)) => Err(StorageError::Log(error.into())),
        Err(RebuildError::Index(error)) => Err(StorageError::Index(error)),
    }
}
