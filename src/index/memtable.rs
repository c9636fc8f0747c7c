//! The entries of the index that are in no file yet.
//!
//! A memtable covers one part of the log, like a file. It is filled until it is frozen, and is then
//! written to a file.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use bytes::Bytes;

use super::{
    Complete, Continued, IndexBatch, Totals,
    entry::{
        Entry, EventRun, IDS_FROM, StoredId, aggregate_key, event_id_in, filtered, frame_entry,
        transaction_entry, transaction_key,
    },
    error::{TableError, TableFault},
    source::EntrySource,
};
use crate::{
    event::{EventId, Position},
    log::LogOffset,
};

/// Entries in memory, from one offset in the log up to another.
#[derive(Debug)]
pub(super) struct Memtable {
    pub from: LogOffset,
    /// The last event before `from`.
    pub after: Continued,
    pub complete: Complete,
    /// The totals up to the end of this part. Set only when nothing is added any more.
    pub totals: Totals,
    /// A hash map, because nearly every append looks up ids that are new.
    ids: HashMap<EventId, StoredId>,
    others: BTreeMap<Bytes, Bytes>,
    transactions_lost: Option<Position>,
}

impl Memtable {
    /// Creates an empty memtable that starts where `complete` ends.
    pub(super) fn after(complete: Complete) -> Self {
        Self {
            from: complete.tip.end,
            after: Continued::by(complete.tip),
            complete,
            totals: Totals::default(),
            ids: HashMap::new(),
            others: BTreeMap::new(),
            transactions_lost: None,
        }
    }

    pub(super) fn add(&mut self, added: IndexBatch) {
        let parts = added.into_parts();
        for run in parts.runs {
            self.add_run(run);
        }
        self.ids.extend(parts.ids);
        let frames = parts.findable.into_iter().map(frame_entry);
        self.others.extend(frames.map(|entry| (entry.key, entry.value)));
        if let Some(lost) = parts.transactions_lost {
            self.others.split_off(&*transaction_key(lost.next()));
            self.transactions_lost = Some(lost.min(self.transactions_lost.unwrap_or(lost)));
        }
        let transactions = parts.transactions.into_iter().map(transaction_entry);
        self.others.extend(transactions.map(|entry| (entry.key, entry.value)));
        self.complete = parts.complete;
    }

    /// Adds a run, joined with the last run of the same aggregate if that has room for it.
    fn add_run(&mut self, run: EventRun) {
        let last = self.last_other(&aggregate_key(run.id.as_str(), u64::MAX));
        let added = run.entry();
        let joined = last.and_then(|last| EventRun::join(&last, &added));
        let Entry { key, value } = joined.unwrap_or(added);
        self.others.insert(key, value);
    }

    fn last_other(&self, key: &[u8]) -> Option<Entry> {
        let last = self.others.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        last.map(|(key, value)| Entry { key: key.clone(), value: value.clone() })
    }

    pub(super) fn has_event(&self, id: EventId) -> bool {
        self.ids.contains_key(&id)
    }

    pub(super) fn event_count(&self) -> usize {
        self.ids.len()
    }

    /// Returns all entries, sorted by key.
    pub(super) fn sorted(&self) -> impl Iterator<Item = Entry> {
        let mut ids: Vec<_> = self.ids.iter().collect();
        ids.sort_unstable_by_key(|(id, _)| *id.as_bytes());
        let ids = ids.into_iter().map(|(id, stored)| stored.entry(*id));
        let others = |range: (Bound<&[u8]>, Bound<&[u8]>)| {
            let entries = self.others.range::<[u8], _>(range);
            entries.map(|(key, value)| Entry { key: key.clone(), value: value.clone() })
        };
        let before = others((Bound::Unbounded, Bound::Excluded(IDS_FROM)));
        before.chain(ids).chain(others((Bound::Included(IDS_FROM), Bound::Unbounded)))
    }

    /// Returns the number of entries that go into a filter, or slightly more.
    pub(super) fn filtered_max(&self) -> u64 {
        let others = self.others.keys().filter(|key| filtered(key).is_some()).count();
        (self.ids.len() as u64).saturating_add(others as u64)
    }
}

impl EntrySource for Memtable {
    fn may_have(&self, _: u64) -> bool {
        true
    }

    fn last_up_to(&self, key: &[u8]) -> Result<Option<Entry>, TableError> {
        if let Some(id) = event_id_in(key) {
            return Ok(self.ids.get(&id).map(|stored| stored.entry(id)));
        }
        Ok(self.last_other(key))
    }

    fn entries_from<'s>(&'s self, key: &[u8]) -> Box<dyn Iterator<Item = Result<Entry, TableError>> + 's> {
        let entries = self.others.range::<[u8], _>((Bound::Included(key), Bound::Unbounded));
        Box::new(entries.map(|(key, value)| Ok(Entry { key: key.clone(), value: value.clone() })))
    }

    fn transactions_lost(&self) -> Option<Position> {
        self.transactions_lost
    }

    fn error(&self, what: &'static str) -> TableError {
        TableError { file: "memtable".into(), fault: TableFault::Invalid(what) }
    }
}
