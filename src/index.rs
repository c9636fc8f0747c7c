//! What can be looked up: derived from the log, and made again from it wherever it is missing or damaged.
//!
//! It owns the folder `storage/index`. What is added lies in memory first. When it is enough, or at a stop, it becomes a file
//! that never changes; small files are merged into larger ones. No append waits for that: what can't be written stays in
//! memory, and what can't be read is made again. Nothing is ever decided from the index that the log could
//! contradict.

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
    event::{AggregateId, EventId, Hash, Position, SequenceNumber, Timestamp, record::ForwardedMark},
    log::{Place, RecordPlace, Segments, Tip},
};

mod entries;
mod entry;
mod folder;
mod found;
mod layers;
mod memtable;
mod mending;
mod merge;
pub mod rebuild;
mod source;
mod table;
mod totals;
mod upkeep;
mod visit;

pub use entries::{Entries, IndexedEvent, IndexedSnapshot};
use entry::Run;
pub use entry::StoredId;
use folder::Folder;
pub use folder::remove;
pub use found::{Found, Seen};
use layers::{Layer, Layers};
use source::{Hashed, Source};
use table::{Seed, Table, TableError};
pub use totals::Totals;
pub use upkeep::Upkeep;
pub use visit::Patience;
use visit::goes_on;

/// A look-up came to nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexError {
    #[error("index: {table}; it is not made again from the log yet: {why}")]
    NotMadeYet { table: TableError, why: &'static str },
    #[error("index: {table}, and it can't be made again from the log: {why}")]
    NotMade { table: TableError, why: String },
}

impl IndexError {
    /// It can't happen; should it, nothing is to be answered from what is older.
    fn of_memory(table: TableError) -> Self {
        Self::NotMade { table, why: "it is in memory".to_owned() }
    }
}

/// What is known of an aggregate without reading its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub last: SequenceNumber,
    pub aggregate_type: Arc<str>,
    pub snapshot: Option<SnapshotHead>,
}

/// The newest snapshot of an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotHead {
    pub sequence: SequenceNumber,
    pub place: RecordPlace,
}

/// How far in the log everything is known, and what holds there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complete {
    pub tip: Tip,
    /// When the last event was recorded.
    pub recorded_at: Timestamp,
    pub aggregates: u64,
    /// Aggregates that have a snapshot.
    pub snapshots: u64,
    pub forwarded: ForwardedMark,
    /// The last frame that can be found by its position.
    last_findable: Place,
}

/// The event that a part of the log goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Continued {
    position: Position,
    hash: Hash,
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
            forwarded: ForwardedMark::default(),
            last_findable: Place { segment: 0, offset: 0 },
        }
    }
}

/// Which end of a range comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Forwards,
    Backwards,
}

/// The index. Cheap look-ups from any thread; one thread adds.
pub struct Index {
    folder: Folder,
    segments: Arc<Segments>,
    seed: Seed,
    options: Options,
    layers: RwLock<Layers>,
    /// Heads as they are now, of aggregates that were lately changed, or are about to be.
    heads: Cache<AggregateId, Head>,
    /// Layers behind a part of the log that is in no file.
    later: Mutex<VecDeque<Arc<Table>>>,
    /// Held by who makes a file again.
    mending: Mutex<()>,
    /// Files that could not be made again, why, and when that was: it is not tried again at once.
    not_made: Mutex<HashMap<PathBuf, (Instant, IndexError)>>,
    upkeep: upkeep::Signals,
    /// Ends what may take long.
    stop: CancellationToken,
    /// Layers before this place are another's to write and to merge.
    own_from: Place,
}

/// How an index is kept.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Distinct types that are counted by name.
    pub types_max: u64,
    /// With so many events in memory they become a file.
    pub file_events: usize,
    /// Or when so many bytes of the log would have to be read again after a crash.
    pub file_log_bytes: u64,
    /// What is made again is added when so many bytes of the log were read.
    pub bytes_at_once: u64,
    /// So many bytes of the disk are the log's.
    pub disk_free_min: u64,
    /// Otherwise everything stays in memory.
    pub writes: bool,
}

impl Options {
    /// Events of a file that was in memory before.
    pub const FILE_EVENTS: usize = 64 * 1024;
    pub const BYTES_AT_ONCE: u64 = 16 * 1024 * 1024;
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("complete", &self.complete()).finish_non_exhaustive()
    }
}

/// A position up to which certain events are not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbsentUpTo(Position);

/// Heads that are remembered: about 20 MiB.
const HEADS_MAX: usize = 64 * 1024;

impl Index {
    fn new(
        folder: Folder,
        segments: Arc<Segments>,
        seed: Seed,
        options: Options,
        layers: Arc<[Layer]>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            folder,
            segments,
            seed,
            options,
            layers: RwLock::new(Layers::of(layers)),
            heads: Cache::new(HEADS_MAX),
            later: Mutex::default(),
            mending: Mutex::default(),
            not_made: Mutex::default(),
            upkeep: upkeep::Signals::default(),
            stop,
            own_from: Place::START,
        }
    }

    /// Goes on with the files that were found, as far as they are of the log. `end` is where that ends; what the files lack
    /// is to be brought up. Once `stop` is cancelled no file is made again or merged.
    pub fn open(
        folder: &Path,
        found: Found,
        (segments, end): (Arc<Segments>, Place),
        options: Options,
        stop: &CancellationToken,
    ) -> Self {
        let folder = Folder::new(folder, options);
        let tables = found::of_this_log(found.tables, &segments, end);
        let mut tables = found::of_its_history(&tables, &segments, end);
        if let Err(error) = folder.clear(&tables, &found.unopened) {
            warn!(%error, "files that are no part of the index any more stay in its folder");
        }
        let seed = tables.first().map_or_else(Seed::random, |table| table.summary.seed);
        let later = found::behind_the_first_gap(&mut tables);
        let layers = tables.into_iter().map(Layer::File).collect();
        let index = Self::new(folder, segments, seed, options, layers, stop.clone());
        *index.later.lock().unwrap_or_else(PoisonError::into_inner) = later.into();
        index
    }

    /// Of those that are behind a gap.
    fn next_file(&self) -> Option<Arc<Table>> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Nothing moves while this is held: for what is in memory, never for a look at the disk.
    fn layers(&self) -> RwLockReadGuard<'_, Layers> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn layers_mut(&self) -> RwLockWriteGuard<'_, Layers> {
        self.layers.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far in the log everything is known.
    pub fn complete(&self) -> Complete {
        self.layers().complete
    }

    /// The same with the totals up to there.
    pub fn figures(&self) -> (Complete, Totals) {
        let layers = self.layers();
        (layers.complete, layers.totals.clone())
    }

    pub fn totals(&self) -> Totals {
        self.figures().1
    }

    /// # Errors
    /// A file can't be used or made again.
    pub fn head(&self, id: &AggregateId) -> Result<Option<Head>, IndexError> {
        self.head_with(id, Patience::Waits)
    }

    /// # Errors
    /// As [`Index::head`].
    pub fn head_with(&self, id: &AggregateId, patience: Patience) -> Result<Option<Head>, IndexError> {
        let remembered = {
            let _unmoved = self.layers();
            self.heads.get(id)
        };
        if let Some(head) = remembered {
            return Ok(Some(head));
        }
        let aggregate = self.hashed_aggregate(id);
        self.visit(
            patience,
            || None,
            |found, source| {
                *found = source::run_up_to(source, aggregate, u64::MAX)?.map(|run| run.head());
                Ok(goes_on(found.is_none()))
            },
        )
    }

    /// The same for the thread that adds, which is about to build on it.
    fn head_to_change(&self, id: &AggregateId) -> Result<Option<Head>, IndexError> {
        let head = self.head_with(id, Patience::AtOnce)?;
        // Only this thread puts any there, so none is older.
        if let Some(head) = head.as_ref().filter(|_| self.heads.get(id).is_none()) {
            self.heads.insert(id.clone(), head.clone());
        }
        Ok(head)
    }

    /// Up to where none of these events is stored; `None` if one of them may be. Looks at nothing but memory.
    pub fn absent_up_to(&self, ids: impl Iterator<Item = EventId> + Clone) -> Option<AbsentUpTo> {
        let (older, position) = {
            let layers = self.layers();
            if ids.clone().any(|id| layers.recent.has_event(id)) {
                return None;
            }
            (layers.older.clone(), layers.complete.tip.position)
        };
        let may_have = |id: EventId| {
            let hash = self.seed.hash(id.as_bytes());
            older.iter().any(|layer| match layer {
                Layer::File(table) => table.may_have(hash),
                Layer::Memory(memtable) => memtable.has_event(id),
            })
        };
        (!ids.into_iter().any(may_have)).then_some(AbsentUpTo(position))
    }

    /// Whether events that were absent up to there are certainly still not stored. Looks only at the newest part in memory.
    pub fn is_still_absent(&self, up_to: AbsentUpTo, mut ids: impl Iterator<Item = EventId>) -> bool {
        let layers = self.layers();
        layers.recent.after.position <= up_to.0 && !ids.any(|id| layers.recent.has_event(id))
    }

    /// Where the event with this id lies.
    ///
    /// # Errors
    /// A file can't be used or made again.
    pub fn event(&self, id: EventId) -> Result<Option<RecordPlace>, IndexError> {
        Ok(self.event_with(id, Patience::Waits)?.map(|stored| stored.place))
    }

    /// The same, and what tells without reading it whether it can be the one that was sent.
    ///
    /// # Errors
    /// As [`Index::event`].
    pub fn event_with(&self, id: EventId, patience: Patience) -> Result<Option<StoredId>, IndexError> {
        let event = Hashed { id, hash: self.seed.hash(id.as_bytes()) };
        self.visit(
            patience,
            || None,
            |found, source| {
                *found = source::event(source, event)?;
                Ok(goes_on(found.is_none()))
            },
        )
    }

    /// Places of the events `range` of an aggregate, at most `count`, from either end on. The last of them must be there.
    ///
    /// # Errors
    /// A file can't be used or made again.
    pub fn events(
        &self,
        aggregate: &AggregateId,
        range: RangeInclusive<u64>,
        direction: Direction,
        count: usize,
    ) -> Result<Vec<RecordPlace>, IndexError> {
        let steps = (count as u64).saturating_sub(1);
        // Numbers have no gap, so it is known which of them are wanted.
        let (first, last) = match direction {
            Direction::Forwards => (*range.start(), range.start().saturating_add(steps).min(*range.end())),
            Direction::Backwards => (range.end().saturating_sub(steps).max(*range.start()), *range.end()),
        };
        let mut places = self.places(aggregate, first..=last, Patience::Waits)?;
        if direction == Direction::Backwards {
            places.reverse();
        }
        Ok(places)
    }

    /// Where an aggregate's event with a number lies.
    ///
    /// # Errors
    /// As [`Index::events`].
    pub fn event_numbered(
        &self,
        aggregate: &AggregateId,
        sequence: SequenceNumber,
        patience: Patience,
    ) -> Result<Option<RecordPlace>, IndexError> {
        Ok(self.places(aggregate, sequence.0..=sequence.0, patience)?.first().copied())
    }

    fn places(
        &self,
        aggregate: &AggregateId,
        range: RangeInclusive<u64>,
        patience: Patience,
    ) -> Result<Vec<RecordPlace>, IndexError> {
        let aggregate = self.hashed_aggregate(aggregate);
        let parts = self.visit(patience, Vec::new, |parts: &mut Vec<Vec<Run>>, source| {
            let runs = source::runs(source, aggregate, *range.start(), *range.end())?;
            let reached = runs.iter().any(|run| run.first <= *range.start() && !run.places.is_empty());
            parts.push(runs);
            Ok(goes_on(!reached))
        })?;
        let places = parts.into_iter().rev().flatten().flat_map(|run| (run.first..).zip(run.places));
        Ok(places.filter(|(number, _)| range.contains(number)).map(|(_, place)| place).collect())
    }

    /// A frame at or before the one that holds `position`, to read on from, and the position that it begins
    /// with.
    ///
    /// # Errors
    /// A file can't be used or made again.
    pub fn frame_before(
        &self,
        position: Position,
        patience: Patience,
    ) -> Result<(Position, Place), IndexError> {
        let found = self.visit(
            patience,
            || None,
            |found, source| {
                *found = source::frame_before(source, position)?;
                Ok(goes_on(found.is_none()))
            },
        )?;
        Ok(found.unwrap_or((Position(1), Place::START)))
    }

    /// The transaction in which ImmuDB took the event at `position`; `None` while that is not known.
    ///
    /// # Errors
    /// A file can't be used or made again.
    pub fn transaction(&self, position: Position, patience: Patience) -> Result<Option<u64>, IndexError> {
        // The oldest that holds: the first from the position on, and up to where those of older layers hold.
        let begin = || (None, Position(u64::MAX));
        let (found, _) = self.visit(patience, begin, |(found, lost), source| {
            let first = source::transaction(source, position)?;
            *found = first.filter(|(last, _)| *last <= *lost).or(*found);
            *lost = source.transactions_lost().map_or(*lost, |its| its.min(*lost));
            Ok(goes_on(true))
        })?;
        Ok(found.map(|(_, transaction)| transaction))
    }

    /// At most `count` aggregates behind the id `after` whose id starts with `prefix`, by id.
    ///
    /// # Errors
    /// A file can't be used or made again.
    pub fn aggregates(
        &self,
        prefix: &str,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<(AggregateId, Head)>, IndexError> {
        let found = self.visit(Patience::Waits, BTreeMap::new, |found, source| {
            for head in source::heads(source, prefix, after).take(count) {
                let (id, head) = head?;
                found.entry(id).or_insert(head);
            }
            Ok(goes_on(true))
        })?;
        Ok(found.into_iter().take(count).collect())
    }

    /// Makes everything of `entries` findable, in one step with what `published` does.
    pub fn add(&self, entries: Entries, published: impl FnOnce()) {
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
