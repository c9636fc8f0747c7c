//! Sources of entries: a file, or a part of the index in memory.
//!
//! The functions here search a single source. A lookup searches the sources from the newest to the
//! oldest.

use std::iter::{self, Peekable};

use super::{
    Head,
    entry::{
        Entry, EventRun, StoredId, aggregate_in, aggregate_key, aggregates_from, id_key, position_key,
        take_frame, take_transaction, transaction_key,
    },
    error::TableError,
};
use crate::{
    event::{AggregateId, EventId, Position},
    log::LogOffset,
};

pub(super) trait EntrySource {
    /// Whether an id with this hash may be in this source. Reads only memory.
    fn may_have(&self, hash: u64) -> bool;

    /// Returns the last entry whose key is not greater than `key`. If `key` has an id that is not
    /// in this source, the result may be `None` although there are entries before it.
    ///
    /// # Errors
    /// Returns an error if a file cannot be used.
    fn last_up_to(&self, key: &[u8]) -> Result<Option<Entry>, TableError>;

    /// Returns the entries from a key on. Entries of event ids may be left out.
    fn entries_from<'s>(&'s self, key: &[u8]) -> Box<dyn Iterator<Item = Result<Entry, TableError>> + 's>;

    /// Returns the position after which the transactions of older sources are no longer valid, if
    /// there is one.
    fn transactions_lost(&self) -> Option<Position>;

    /// Returns the error for a source that is damaged in this way.
    fn error(&self, what: &'static str) -> TableError;
}

/// An id, and its hash with the seed of the index.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hashed<T> {
    pub id: T,
    pub hash: u64,
}

/// Checks that an entry could be parsed: the entries of an intact source are always valid.
fn parsed<T>(source: &dyn EntrySource, taken: Option<T>) -> Result<T, TableError> {
    taken.ok_or_else(|| source.error("an entry is invalid"))
}

pub(super) fn event(
    source: &dyn EntrySource,
    event: Hashed<EventId>,
) -> Result<Option<StoredId>, TableError> {
    if !source.may_have(event.hash) {
        return Ok(None);
    }
    let key = id_key(event.id);
    let found = source.last_up_to(&key)?.filter(|entry| *entry.key == *key);
    found.map(|entry| parsed(source, StoredId::take(&entry))).transpose()
}

/// Returns the last run of an aggregate that begins with the event `sequence` or before it.
pub(super) fn run_up_to(
    source: &dyn EntrySource,
    aggregate: Hashed<&AggregateId>,
    sequence: u64,
) -> Result<Option<EventRun>, TableError> {
    if !source.may_have(aggregate.hash) {
        return Ok(None);
    }
    let id = aggregate.id.as_str();
    let found = source.last_up_to(&aggregate_key(id, sequence))?;
    let found = found.filter(|entry| aggregate_in(&entry.key) == Some(id.as_bytes()));
    found.map(|entry| parsed(source, EventRun::take(&entry))).transpose()
}

/// Returns the runs of an aggregate that have events from `first` to `last`, in order.
pub(super) fn runs(
    source: &dyn EntrySource,
    aggregate: Hashed<&AggregateId>,
    first: u64,
    last: u64,
) -> Result<Vec<EventRun>, TableError> {
    let Some(newest) = run_up_to(source, aggregate, last)? else { return Ok(Vec::new()) };
    if newest.first <= first {
        return Ok(vec![newest]);
    }
    let oldest = run_up_to(source, aggregate, first)?.map_or(first, |run| run.first);
    let key = |sequence| aggregate_key(aggregate.id.as_str(), sequence);
    let end = key(last);
    let between = source.entries_from(&key(oldest));
    let between = between.take_while(|entry| entry.as_ref().map_or(true, |entry| *entry.key <= *end));
    between.map(|entry| parsed(source, EventRun::take(&entry?))).collect()
}

/// Returns the last frame whose first position is not greater than `position`, among the frames
/// that can be found by position.
pub(super) fn frame_before(
    source: &dyn EntrySource,
    position: Position,
) -> Result<Option<(Position, LogOffset)>, TableError> {
    Ok(source.last_up_to(&position_key(position))?.and_then(|entry| take_frame(&entry)))
}

/// Returns the first transaction that ends with `position` or later.
pub(super) fn transaction(
    source: &dyn EntrySource,
    position: Position,
) -> Result<Option<(Position, u64)>, TableError> {
    let first = source.entries_from(&transaction_key(position)).next().transpose()?;
    Ok(first.and_then(|entry| take_transaction(&entry)))
}

/// Returns the heads of the aggregates whose id starts with `prefix` and sorts after `after`, by
/// id.
pub(super) fn heads<'s>(
    source: &'s dyn EntrySource,
    prefix: &'s str,
    after: Option<&str>,
) -> impl Iterator<Item = Result<(AggregateId, Head), TableError>> + use<'s> {
    let start = match after.filter(|after| *after >= prefix) {
        Some(after) => aggregate_key(after, u64::MAX),
        None => aggregates_from(prefix),
    };
    let mut entries = source.entries_from(&start).peekable();
    iter::from_fn(move || {
        let is_wanted =
            |entry: &Entry| aggregate_in(&entry.key).is_some_and(|id| id.starts_with(prefix.as_bytes()));
        let newest = match entries.next()? {
            Ok(first) => last_run(source, &mut entries, Some(first).filter(is_wanted)?),
            Err(error) => Err(error),
        };
        let run = newest.and_then(|entry| parsed(source, EventRun::take(&entry)));
        Some(run.map(|run| (run.id.clone(), run.head())))
    })
}

type EntryIter<'s> = Peekable<Box<dyn Iterator<Item = Result<Entry, TableError>> + 's>>;

/// Returns the last run of the aggregate whose first run is `first`. The runs in between are read,
/// or skipped if there are many.
fn last_run<'s>(
    source: &'s dyn EntrySource,
    entries: &mut EntryIter<'s>,
    first: Entry,
) -> Result<Entry, TableError> {
    const READ_MAX: usize = 16;
    let mut newest = first;
    for _ in 0..READ_MAX {
        let is_next = |next: &Result<Entry, TableError>| {
            next.as_ref().map_or(true, |next| aggregate_in(&next.key) == aggregate_in(&newest.key))
        };
        match entries.next_if(is_next) {
            Some(next) => newest = next?,
            None => return Ok(newest),
        }
    }
    let id = aggregate_in(&newest.key).unwrap_or_default();
    let behind = [b"a", id, &[0], &u64::MAX.to_be_bytes()].concat();
    *entries = source.entries_from(&behind).peekable();
    Ok(source.last_up_to(&behind)?.unwrap_or(newest))
}
