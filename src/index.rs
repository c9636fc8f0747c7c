//! What can be looked up: derived from the log, and rebuilt from it whenever it is missing or damaged.
//!
//! It owns the folder `storage/index` (a `fjall` database, never synced for an answer) and the totals.
//! It knows up to where in the log it is complete; frames are applied in order, each batch atomically with
//! that place, so after a crash it is merely behind, and is brought up from there. Nothing is ever
//! decided from it that the log could contradict.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

use fjall::{Database, Keyspace, Readable};
use quick_cache::sync::Cache;
use rustix::io::Errno;
use tokio::sync::watch;

use crate::{
    event::{AggregateId, EventId, Position, SequenceNumber},
    log::{Place, RecordPlace},
};

mod codec;
mod digest;
mod entries;
mod examination;
mod files;
mod id_filter;
mod opening;
pub mod rebuild;
mod recent;
mod visible;

pub use codec::Complete;
use digest::{Digest, Part};
pub use entries::{Entries, IndexedEvent, IndexedSnapshot};
pub use examination::{Examination, Examined};
use id_filter::IdFilter;
pub use recent::Carrier;
use recent::Memory;
use visible::Visible;

/// The database or what it holds is unusable. Deleting `storage/index` while the service is stopped mends it.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("index: {0}")]
    Database(#[from] fjall::Error),
    #[error("index: an entry of {0} makes no sense")]
    Entry(&'static str),
    #[error("index: the database panicked over what it holds")]
    Panicked,
    #[error("index: {0} is damaged")]
    File(String),
    #[error("index: {path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("index: entries are missing, are not those that were written, or belong to another log")]
    Lacking,
    #[error("index: it takes no entries any more; a restart is needed")]
    NotTaken,
    #[error("index: the process ended while it was opened, or found it damaged")]
    NotOpened,
}

impl IndexError {
    /// The machine does not let us read or write; the index may be as good as ever.
    pub fn is_of_the_machine(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let Some(source) = self.source_of_machine() else { return false };
        let of_the_system = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
        matches!(source.kind(), PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
            || of_the_system.contains(&source.raw_os_error())
    }

    /// The error of the system behind it.
    pub fn source_of_machine(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } | Self::Database(fjall::Error::Io(source)) => Some(source),
            // Storage(Io(source)): the database's own source of an error is two steps away.
            Self::Database(error) => {
                let within = std::error::Error::source(error).and_then(std::error::Error::source);
                within.and_then(|source| source.downcast_ref::<io::Error>())
            }
            _ => None,
        }
    }
}

/// What is damaged may make the database panic: that ends a call, and not the service.
fn guarded<T>(call: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(Err(IndexError::Panicked))
}

/// What is known of an aggregate without reading its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Number of the aggregate in the index, in the order of first events.
    pub number: u64,
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

/// True totals, by type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    pub event_types: HashMap<Arc<str>, u64>,
    pub aggregate_types: HashMap<Arc<str>, u64>,
}

/// The index. Cheap lookups from any thread; one thread applies.
pub struct Index {
    database: Database,
    /// aggregate id -> [`Head`]
    aggregates: Keyspace,
    /// number of the aggregate, sequence number -> place of the record
    events: Keyspace,
    /// event id -> place of the record
    event_ids: Keyspace,
    /// position -> place of a frame that begins with it; not for every frame
    positions: Keyspace,
    /// last position in a transaction of ImmuDB -> the transaction
    transactions: Keyspace,
    /// kind and name of a type -> total
    totals_kept: Keyspace,
    meta: Keyspace,
    /// Distinct types that are counted by name.
    types_max: u64,
    visible: Visible,
    /// Heads of aggregates that were lately changed. Only the thread that applies puts any in: a reader might
    /// put back one that is older.
    heads: Cache<AggregateId, Head>,
    memory: Memory,
    ids: Arc<IdFilter>,
    /// What the database has; in `visible` is what can be found.
    stored: Mutex<Stored>,
}

#[derive(Debug, Default)]
struct Stored {
    totals: Totals,
    digest: Digest,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("complete", &self.complete()).finish_non_exhaustive()
    }
}

const META_COMPLETE: &[u8] = b"complete";

impl Index {
    /// How far in the log everything is known.
    pub fn complete(&self) -> Complete {
        self.visible.read().complete
    }

    /// The same with the totals up to there.
    pub fn figures(&self) -> (Complete, Totals) {
        let visible = self.visible.read();
        (visible.complete, visible.totals.clone())
    }

    /// Counts so many distinct types by name, and those beyond them together.
    #[must_use]
    pub fn counting_types(self, types_max: u64) -> Self {
        Self { types_max, ..self }
    }

    /// # Errors
    /// The index is unusable.
    pub fn head(&self, id: &AggregateId) -> Result<Option<Head>, IndexError> {
        match self.recent_head(id) {
            Some(head) => Ok(Some(head)),
            None => self.stored_head(id),
        }
    }

    fn recent_head(&self, id: &AggregateId) -> Option<Head> {
        let _unmoved = self.visible.read();
        self.heads.get(id).or_else(|| self.memory.head(id))
    }

    fn stored_head(&self, id: &AggregateId) -> Result<Option<Head>, IndexError> {
        guarded(|| self.aggregates.get(id.as_str())?.map(|bytes| codec::decode_head(&bytes)).transpose())
    }

    /// The same for the thread that applies, which is about to build on it.
    fn head_to_change(&self, id: &AggregateId) -> Result<Option<Head>, IndexError> {
        if let Some(head) = self.recent_head(id) {
            return Ok(Some(head));
        }
        let Some(head) = self.stored_head(id)? else { return Ok(None) };
        // A head that went back would give a number away twice.
        let next = codec::event_key(head.number, head.last.next().0);
        if guarded(|| Ok(self.events.contains_key(next)?))? {
            return Err(IndexError::Entry("an aggregate's head"));
        }
        self.heads.insert(id.clone(), head.clone());
        Ok(Some(head))
    }

    /// Whether the event with this id may be stored. Looks at nothing but a filter in memory.
    pub fn may_have_event(&self, id: EventId) -> bool {
        self.ids.may_have(id)
    }

    /// Where the event with this id lies.
    ///
    /// # Errors
    /// The index is unusable.
    pub fn event(&self, id: EventId) -> Result<Option<RecordPlace>, IndexError> {
        if !self.ids.may_have(id) {
            return Ok(None);
        }
        if let Some(place) = self.memory.event(id) {
            return Ok(Some(place));
        }
        guarded(|| self.event_ids.get(id.as_bytes())?.map(|bytes| codec::decode_place(&bytes)).transpose())
    }

    /// Places of the records `first` to `last` of an aggregate, at most `count`, in either direction.
    ///
    /// # Errors
    /// The index is unusable, or has a gap there.
    pub fn events(
        &self,
        aggregate: u64,
        range: std::ops::RangeInclusive<u64>,
        direction: Direction,
        count: usize,
    ) -> Result<Vec<RecordPlace>, IndexError> {
        let (first_recent, recent) =
            self.memory.events(aggregate, range.clone(), direction, count).unwrap_or((u64::MAX, Vec::new()));
        let (before, mut places) = match direction {
            Direction::Forwards => (recent, Vec::new()),
            Direction::Backwards => (Vec::new(), recent),
        };
        // What is in memory may be in the database as well by now.
        let last = (*range.end()).min(first_recent.saturating_sub(1));
        if last < *range.start() {
            places.extend(before);
            return Ok(places);
        }
        let keys = codec::event_key(aggregate, *range.start())..=codec::event_key(aggregate, last);
        guarded(|| {
            let mut entries = self.events.range(keys);
            while places.len() < count {
                let entry = match direction {
                    Direction::Forwards => entries.next(),
                    Direction::Backwards => entries.next_back(),
                };
                let Some(entry) = entry else { break };
                places.push(codec::decode_place(&entry.value()?)?);
            }
            places.extend(before.into_iter().take(count.saturating_sub(places.len())));
            Ok(places)
        })
    }

    /// A frame at or before the one that holds `position`, to read on from, and the position that it begins
    /// with.
    ///
    /// # Errors
    /// The index is unusable.
    pub fn frame_before(&self, position: Position) -> Result<(Position, Place), IndexError> {
        if let Some(found) = self.memory.frame_before(position) {
            return Ok(found);
        }
        guarded(|| match self.positions.range(..=position.0.to_be_bytes()).next_back() {
            None => Ok((Position(1), Place::START)),
            Some(entry) => {
                let (key, value) = entry.into_inner()?;
                let first = codec::decode_u64(&key).map_err(|_| IndexError::Entry("positions"))?;
                Ok((Position(first), codec::decode_frame_place(&value)?))
            }
        })
    }

    /// The transaction in which ImmuDB took the event at `position`; `None` while that is not known.
    ///
    /// # Errors
    /// The index is unusable.
    pub fn transaction(&self, position: Position) -> Result<Option<u64>, IndexError> {
        let (recent, lost) = self.memory.transaction(position);
        let holds = |last: u64| lost.is_none_or(|lost| last <= lost.0);
        guarded(|| {
            if let Some(entry) = self.transactions.range(position.0.to_be_bytes()..).next() {
                let (last, tx) = entry.into_inner()?;
                if holds(codec::decode_u64(&last)?) {
                    return codec::decode_u64(&tx).map(Some);
                }
            }
            Ok(recent.map(|(_, tx)| tx))
        })
    }

    /// At most `count` aggregates behind the id `after` whose id starts with `prefix`, by id.
    ///
    /// # Errors
    /// The index is unusable.
    pub fn aggregates(
        &self,
        prefix: &str,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<(AggregateId, Head)>, IndexError> {
        use std::ops::Bound;
        let start = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after.as_bytes().to_vec()),
            None => Bound::Included(prefix.as_bytes().to_vec()),
        };
        // Of one moment: what moves from the memory into the database meanwhile is in the one or the other.
        let (recent, snapshot) = {
            let _unmoved = self.visible.read();
            (self.memory.heads(prefix, after, count), self.database.snapshot())
        };
        let stored = guarded(|| {
            let mut found = BTreeMap::new();
            for entry in snapshot.range(&self.aggregates, (start, Bound::Unbounded)).take(count) {
                let (key, value) = entry.into_inner()?;
                if !key.starts_with(prefix.as_bytes()) {
                    break;
                }
                let id = std::str::from_utf8(&key).ok().and_then(|id| AggregateId::new(id).ok());
                found.insert(id.ok_or(IndexError::Entry("aggregates"))?, codec::decode_head(&value)?);
            }
            Ok(found)
        })?;
        let mut found = stored;
        found.extend(recent);
        Ok(found.into_iter().take(count).collect())
    }

    pub fn totals(&self) -> Totals {
        self.figures().1
    }

    /// Makes everything of `entries` findable and stores it, in one step. Not beside [`Index::add`].
    ///
    /// # Errors
    /// The index is unusable; it has all of it or nothing.
    pub fn apply(&self, entries: Entries) -> Result<(), IndexError> {
        let digest = self.store(&entries)?;
        entries.events().iter().for_each(|(_, _, id, _)| self.ids.insert(id.as_bytes()));
        let mut visible = self.visible.write();
        entries.count(&mut visible.totals);
        visible.complete = Complete { digest, ..entries.complete };
        self.remember(entries.into_changed_heads());
        Ok(())
    }

    /// Makes everything of `entries` findable, in one step with what `published` does. A [`Carrier`] stores it later.
    ///
    /// # Errors
    /// The index is unusable.
    pub fn add(&self, entries: Entries, published: impl FnOnce()) -> Result<(), IndexError> {
        let heads: Vec<_> = entries.changed_heads().map(|(id, head)| (id.clone(), head.clone())).collect();
        entries.events().iter().for_each(|(_, _, id, _)| self.ids.insert(id.as_bytes()));
        self.memory.wait_for_room()?;
        let mut visible = self.visible.write();
        entries.count(&mut visible.totals);
        visible.complete = entries.complete;
        self.memory.add(entries);
        self.remember(heads);
        published();
        Ok(())
    }

    fn remember(&self, heads: impl IntoIterator<Item = (AggregateId, Head)>) {
        for (id, head) in heads {
            self.heads.insert(id, head);
        }
    }

    fn store(&self, entries: &Entries) -> Result<Digest, IndexError> {
        let mut batch = self.database.batch();
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let Stored { totals, digest } = &mut *stored;
        *digest = guarded(|| entries.write(self, &mut batch, totals, *digest))?;
        let complete = Complete { digest: *digest, ..entries.complete };
        batch.insert(&self.meta, META_COMPLETE, complete.encode());
        guarded(|| Ok(batch.commit()?))?;
        Ok(*digest)
    }

    /// It takes no entries any more until it is opened again.
    pub fn has_failed(&self) -> bool {
        self.memory.has_failed()
    }

    #[cfg(test)]
    pub fn fail(&self) {
        self.memory.fail();
    }

    /// Turns true with [`Index::has_failed`].
    pub fn watch_failed(&self) -> watch::Receiver<bool> {
        self.memory.watch_failed()
    }

    /// Whether it has as many entries as it should, as far as that is known without reading them. Of events it
    /// is, for they are never written twice.
    pub fn has_enough(&self) -> bool {
        let Complete { tip, aggregates, .. } = self.complete();
        let has = |keyspace: &Keyspace, count: u64| keyspace.approximate_len() as u64 >= count;
        has(&self.events, tip.position.0)
            && has(&self.event_ids, tip.position.0)
            && has(&self.aggregates, aggregates)
    }

    /// Of everything that it holds now.
    pub fn examination(&self) -> Examination {
        let parts = [
            (Part::Events, &self.events),
            (Part::EventIds, &self.event_ids),
            (Part::Aggregates, &self.aggregates),
            (Part::Positions, &self.positions),
            (Part::Transactions, &self.transactions),
            (Part::Totals, &self.totals_kept),
        ];
        Examination {
            snapshot: self.database.snapshot(),
            parts: parts.map(|(part, keyspace)| (part, keyspace.clone())).into(),
            meta: self.meta.clone(),
            ids: self.ids.clone(),
            expected: self.stored.lock().unwrap_or_else(PoisonError::into_inner).digest,
        }
    }

    fn load_totals(&self) -> Result<Totals, IndexError> {
        let mut totals = Totals::default();
        for entry in self.totals_kept.iter() {
            let (key, value) = entry.into_inner()?;
            let (kind, name) = codec::decode_total_key(&key).ok_or(IndexError::Entry("totals"))?;
            let by_type = match kind {
                codec::TotalKind::EventType => &mut totals.event_types,
                codec::TotalKind::AggregateType => &mut totals.aggregate_types,
            };
            by_type.insert(name.into(), codec::decode_u64(&value)?);
        }
        Ok(totals)
    }
}

/// Which end of a range comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Forwards,
    Backwards,
}

#[cfg(test)]
mod tests;
