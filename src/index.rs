//! The index for lookups: derived from the log, and rebuilt where it is missing or damaged.
//!
//! The module owns the directory `storage/index`. Entries are kept in memory first. When there are
//! enough, or at a stop, they become a file that never changes; small files are merged into larger
//! ones. No append waits for that: entries that cannot be written stay in memory, and unreadable
//! files are rebuilt. The index never decides anything that the log could contradict.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    event::{AggregateId, ChainHash, EventId, Position, SequenceNumber, Timestamp, record::ReplicationMark},
    log::{LogOffset, RecordAddress, Segments, Tip},
};

mod entries;
mod entry;
mod error;
mod folder;
mod layers;
mod memtable;
mod merge;
mod presence;
pub mod rebuild;
mod scan;
mod source;
mod table;
mod table_rebuild;
mod totals;
mod upkeep;
mod visit;

pub use entries::{IndexBatch, IndexedEvent, IndexedSnapshot};
use entry::EventRun;
pub use entry::StoredId;
pub use error::IndexError;
use folder::IndexFolder;
pub use folder::remove;
use layers::{Layer, Layers};
pub use presence::{AbsentUpTo, Presence};
pub use scan::{IndexScan, KnownLogEnd};
use source::Hashed;
use table::{Seed, Table};
pub use totals::Totals;
pub use upkeep::Upkeep;
pub use visit::WaitMode;
use visit::continue_if;

/// What is known about an aggregate without reading its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The number of the last event.
    pub last: SequenceNumber,
    /// The type, which the first event determines.
    pub aggregate_type: Arc<str>,
    /// The newest snapshot, if there is one.
    pub snapshot: Option<SnapshotHead>,
}

/// The newest snapshot of an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotHead {
    /// The last event that the snapshot includes.
    pub sequence: SequenceNumber,
    /// The address of the snapshot's record.
    pub place: RecordAddress,
}

/// How far into the log the index is complete, and the state at that point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complete {
    /// The end of the part of the log that the index covers.
    pub tip: Tip,
    /// When the last event was recorded.
    pub recorded_at: Timestamp,
    /// The number of aggregates.
    pub aggregates: u64,
    /// The number of aggregates that have a snapshot.
    pub snapshots: u64,
    /// The last replication mark in the log.
    pub forwarded: ReplicationMark,
    /// The last frame that can be found by its position.
    last_findable: LogOffset,
}

/// The event that a part of the log continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Continued {
    position: Position,
    hash: ChainHash,
}

impl Continued {
    fn by(tip: Tip) -> Self {
        Self { position: tip.position, hash: tip.hash }
    }
}

impl Default for Complete {
    fn default() -> Self {
        Self {
            tip: Tip::START,
            recorded_at: Timestamp::default(),
            aggregates: 0,
            snapshots: 0,
            forwarded: ReplicationMark::default(),
            last_findable: LogOffset { segment: 0, offset: 0 },
        }
    }
}

/// Which end of a range comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The lowest number comes first.
    Forwards,
    /// The highest number comes first.
    Backwards,
}

/// The index. Lookups are cheap and possible from any thread; one thread adds entries.
pub struct Index {
    folder: IndexFolder,
    segments: Arc<Segments>,
    seed: Seed,
    options: IndexOptions,
    layers: RwLock<Layers>,
    /// The current heads of aggregates that were changed recently, or are about to be.
    heads: Cache<AggregateId, Head>,
    /// Files after a gap: the part of the log before them is in no file.
    later: Mutex<VecDeque<Arc<Table>>>,
    /// Held while a file is rebuilt.
    rebuilding: Mutex<()>,
    /// Files that could not be rebuilt, with time and reason. The next attempt waits for a while.
    not_made: Mutex<HashMap<PathBuf, (Instant, IndexError)>>,
    upkeep: upkeep::UpkeepSignals,
    /// Cancels work that may take long.
    stop: CancellationToken,
    /// Layers before this offset belong to another index, which writes and merges them.
    own_from: LogOffset,
}

/// How an index is kept.
#[derive(Debug, Clone, Copy)]
pub struct IndexOptions {
    /// The maximum number of types that are counted by name.
    pub types_max: u64,
    /// The number of events in memory at which they are written to a file.
    pub file_events: usize,
    /// The same limit in bytes of the log that would have to be read again after a crash.
    pub file_log_bytes: u64,
    /// A rebuild adds its entries each time it has read this many bytes of the log.
    pub bytes_at_once: u64,
    /// Disk space in bytes that is reserved for the log.
    pub disk_free_min: u64,
    /// Whether files are written. If not, everything stays in memory.
    pub writes: bool,
}

impl IndexOptions {
    /// The number of events in a file that was written from memory.
    pub const FILE_EVENTS: usize = 64 * 1024;
    /// The default of `bytes_at_once`: 16 MiB.
    pub const BYTES_AT_ONCE: u64 = 16 * 1024 * 1024;
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("complete", &self.complete()).finish_non_exhaustive()
    }
}

/// The maximum number of cached heads: about 20 MiB.
const HEADS_MAX: usize = 64 * 1024;

impl Index {
    /// Creates an index without entries.
    fn empty(
        folder: IndexFolder,
        segments: Arc<Segments>,
        seed: Seed,
        options: IndexOptions,
        stop: CancellationToken,
    ) -> Self {
        Self {
            folder,
            segments,
            seed,
            options,
            layers: RwLock::new(Layers::of(Arc::default())),
            heads: Cache::new(HEADS_MAX),
            later: Mutex::default(),
            rebuilding: Mutex::default(),
            not_made: Mutex::default(),
            upkeep: upkeep::UpkeepSignals::default(),
            stop,
            own_from: LogOffset::START,
        }
    }

    /// Continues with the files that match the log, which ends at `end`. The caller must bring the
    /// index up to there. Once `stop` is cancelled, no file is rebuilt or merged.
    pub fn open(
        folder: &Path,
        found: IndexScan,
        (segments, end): (Arc<Segments>, LogOffset),
        options: IndexOptions,
        stop: &CancellationToken,
    ) -> Self {
        let folder = IndexFolder::new(folder, options);
        let tables = scan::of_this_log(found.tables, &segments, end);
        let mut tables = scan::of_its_history(&tables, &segments, end);
        if let Err(error) = folder.clear(&tables, &found.unopened) {
            warn!(%error, "cannot remove obsolete files from the index folder");
        }
        let seed = tables.first().map_or_else(Seed::random, |table| table.summary.seed);
        let later = scan::behind_the_first_gap(&mut tables);
        let layers = tables.into_iter().map(Layer::File).collect();
        Self {
            layers: RwLock::new(Layers::of(layers)),
            later: Mutex::new(later.into()),
            ..Self::empty(folder, segments, seed, options, stop.clone())
        }
    }

    /// Returns the next file after a gap.
    fn next_file(&self) -> Option<Arc<Table>> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// No layer changes while this lock is held. Hold it for memory only, never for disk access.
    fn layers(&self) -> RwLockReadGuard<'_, Layers> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn layers_mut(&self) -> RwLockWriteGuard<'_, Layers> {
        self.layers.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how far into the log the index is complete.
    pub fn complete(&self) -> Complete {
        self.layers().complete
    }

    /// Like [`Index::complete`], together with the totals up to that point.
    pub fn figures(&self) -> (Complete, Totals) {
        let layers = self.layers();
        (layers.complete, layers.totals.clone())
    }

    /// Returns the totals up to the point where the index is complete.
    pub fn totals(&self) -> Totals {
        self.figures().1
    }

    /// Returns the head of an aggregate. Waits for the rebuild of a damaged file.
    ///
    /// # Errors
    /// Returns an error if a file cannot be used or rebuilt.
    pub fn head(&self, id: &AggregateId) -> Result<Option<Head>, IndexError> {
        self.head_with(id, WaitMode::Waits)
    }

    /// Returns the head of an aggregate.
    ///
    /// # Errors
    /// See [`Index::head`].
    pub fn head_with(&self, id: &AggregateId, wait_mode: WaitMode) -> Result<Option<Head>, IndexError> {
        let remembered = {
            let _unmoved = self.layers();
            self.heads.get(id)
        };
        if let Some(head) = remembered {
            return Ok(Some(head));
        }
        let aggregate = self.hashed_aggregate(id);
        self.visit(
            wait_mode,
            || None,
            |found, source| {
                *found = source::run_up_to(source, aggregate, u64::MAX)?.map(|run| run.head());
                Ok(continue_if(found.is_none()))
            },
        )
    }

    /// Looks up a head for the thread that adds entries, which is about to change it.
    fn head_to_change(&self, id: &AggregateId) -> Result<Option<Head>, IndexError> {
        let head = self.head_with(id, WaitMode::AtOnce)?;
        // Only this thread adds to the cache, so this head is up to date.
        if let Some(head) = head.as_ref().filter(|_| self.heads.get(id).is_none()) {
            self.heads.insert(id.clone(), head.clone());
        }
        Ok(head)
    }

    /// Returns the address of the event with this id.
    ///
    /// # Errors
    /// Returns an error if a file cannot be used or rebuilt.
    pub fn event(&self, id: EventId) -> Result<Option<RecordAddress>, IndexError> {
        Ok(self.event_with(id, WaitMode::Waits)?.map(|stored| stored.place))
    }

    /// Like [`Index::event`], with a part of the digest to rule out a match without a read.
    ///
    /// # Errors
    /// See [`Index::event`].
    pub fn event_with(&self, id: EventId, wait_mode: WaitMode) -> Result<Option<StoredId>, IndexError> {
        let event = Hashed { id, hash: self.seed.hash(id.as_bytes()) };
        self.visit(
            wait_mode,
            || None,
            |found, source| {
                *found = source::event(source, event)?;
                Ok(continue_if(found.is_none()))
            },
        )
    }

    /// Returns the addresses of the events `range` of an aggregate, at most `count`, from either
    /// end. The last event of the range must exist.
    ///
    /// # Errors
    /// Returns an error if a file cannot be used or rebuilt.
    pub fn events(
        &self,
        aggregate: &AggregateId,
        range: RangeInclusive<u64>,
        direction: Direction,
        count: usize,
    ) -> Result<Vec<RecordAddress>, IndexError> {
        let steps = (count as u64).saturating_sub(1);
        // Sequence numbers have no gaps, so it is known which events are wanted.
        let (first, last) = match direction {
            Direction::Forwards => (*range.start(), range.start().saturating_add(steps).min(*range.end())),
            Direction::Backwards => (range.end().saturating_sub(steps).max(*range.start()), *range.end()),
        };
        let mut places = self.places(aggregate, first..=last, WaitMode::Waits)?;
        if direction == Direction::Backwards {
            places.reverse();
        }
        Ok(places)
    }

    /// Returns the address of an aggregate's event with this sequence number.
    ///
    /// # Errors
    /// See [`Index::events`].
    pub fn event_numbered(
        &self,
        aggregate: &AggregateId,
        sequence: SequenceNumber,
        wait_mode: WaitMode,
    ) -> Result<Option<RecordAddress>, IndexError> {
        Ok(self.places(aggregate, sequence.0..=sequence.0, wait_mode)?.first().copied())
    }

    fn places(
        &self,
        aggregate: &AggregateId,
        range: RangeInclusive<u64>,
        wait_mode: WaitMode,
    ) -> Result<Vec<RecordAddress>, IndexError> {
        let aggregate = self.hashed_aggregate(aggregate);
        let parts = self.visit(wait_mode, Vec::new, |parts: &mut Vec<Vec<EventRun>>, source| {
            let runs = source::runs(source, aggregate, *range.start(), *range.end())?;
            let reached = runs.iter().any(|run| run.first <= *range.start() && !run.places.is_empty());
            parts.push(runs);
            Ok(continue_if(!reached))
        })?;
        let places = parts.into_iter().rev().flatten().flat_map(|run| (run.first..).zip(run.places));
        Ok(places.filter(|(number, _)| range.contains(number)).map(|(_, place)| place).collect())
    }

    /// Returns a frame at or before the one that holds `position`, and the frame's first position.
    /// To find the event, read on from there.
    ///
    /// # Errors
    /// Returns an error if a file cannot be used or rebuilt.
    pub fn frame_before(
        &self,
        position: Position,
        wait_mode: WaitMode,
    ) -> Result<(Position, LogOffset), IndexError> {
        let found = self.visit(
            wait_mode,
            || None,
            |found, source| {
                *found = source::frame_before(source, position)?;
                Ok(continue_if(found.is_none()))
            },
        )?;
        Ok(found.unwrap_or((Position(1), LogOffset::START)))
    }

    /// Returns the ImmuDB transaction that committed `position`, or `None` if it is not known yet.
    ///
    /// # Errors
    /// Returns an error if a file cannot be used or rebuilt.
    pub fn transaction(&self, position: Position, wait_mode: WaitMode) -> Result<Option<u64>, IndexError> {
        // The oldest layer with a valid transaction counts: its first one that ends at `position`
        // or later, unless a newer layer has lost it.
        let begin = || (None, Position(u64::MAX));
        let (found, _) = self.visit(wait_mode, begin, |(found, lost), source| {
            let first = source::transaction(source, position)?;
            *found = first.filter(|(last, _)| *last <= *lost).or(*found);
            *lost = source.transactions_lost().map_or(*lost, |its| its.min(*lost));
            Ok(continue_if(true))
        })?;
        Ok(found.map(|(_, transaction)| transaction))
    }

    /// Returns at most `count` aggregates by id: those after `after` whose id starts with `prefix`.
    ///
    /// # Errors
    /// Returns an error if a file cannot be used or rebuilt.
    pub fn aggregates(
        &self,
        prefix: &str,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<(AggregateId, Head)>, IndexError> {
        let found = self.visit(WaitMode::Waits, BTreeMap::new, |found, source| {
            for head in source::heads(source, prefix, after).take(count) {
                let (id, head) = head?;
                found.entry(id).or_insert(head);
            }
            Ok(continue_if(true))
        })?;
        Ok(found.into_iter().take(count).collect())
    }

    /// Makes all of `entries` findable, in one step with the effect of `published`.
    pub fn add(&self, entries: IndexBatch, published: impl FnOnce()) {
        let mut layers = self.layers_mut();
        for (id, head) in entries.changed() {
            self.heads.insert(id.clone(), head.clone());
        }
        layers.add(entries);
        published();
        let (from, end) = (layers.recent.from, layers.complete.tip.end);
        let log_bytes = match end.segment.saturating_sub(from.segment) {
            0 => end.offset.saturating_sub(from.offset),
            1 => end.offset,
            _ => u64::MAX,
        };
        let (file_events, file_log_bytes) = (self.options.file_events, self.options.file_log_bytes);
        if layers.recent.event_count() >= file_events || log_bytes >= file_log_bytes {
            layers.freeze();
            drop(layers);
            self.upkeep.wake();
        }
    }

    fn hashed_aggregate<'i>(&self, id: &'i AggregateId) -> Hashed<&'i AggregateId> {
        Hashed { id, hash: self.seed.hash(id.as_str().as_bytes()) }
    }
}

#[cfg(test)]
mod tests;
