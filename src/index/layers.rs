//! All that is known, from the newest to the oldest: what is in memory, and the files.

use std::sync::Arc;

use super::{Complete, Entries, Totals, memtable::Memtable, source::Source, table::Table};
use crate::log::Place;

/// It moves in one step with the published tip, so that no two answers show two moments: of an append to two aggregates
/// nobody sees the one without the other.
#[derive(Debug)]
pub struct Layers {
    /// How far everything is known, and the totals up to there.
    pub complete: Complete,
    pub totals: Totals,
    pub recent: Memtable,
    /// From the oldest to the newest; each goes on where the one before it ends.
    pub older: Arc<[Layer]>,
}

/// What takes no entries any more. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Layer {
    File(Arc<Table>),
    /// To become a file, or can't be written.
    Memory(Arc<Memtable>),
}

impl Layer {
    pub fn source(&self) -> &dyn Source {
        match self {
            Self::File(table) => &**table,
            Self::Memory(memtable) => &**memtable,
        }
    }

    pub fn table(&self) -> Option<&Arc<Table>> {
        match self {
            Self::File(table) => Some(table),
            Self::Memory(_) => None,
        }
    }

    /// Where in the log that begins which it knows.
    pub fn from(&self) -> Place {
        match self {
            Self::File(table) => table.summary.from,
            Self::Memory(memtable) => memtable.from,
        }
    }

    fn complete(&self) -> (Complete, &Totals) {
        match self {
            Self::File(table) => (table.summary.complete, &table.summary.totals),
            Self::Memory(memtable) => (memtable.complete, &memtable.totals),
        }
    }

    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(one), Self::File(other)) => Arc::ptr_eq(one, other),
            (Self::Memory(one), Self::Memory(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Layers {
    /// The last of them says how far everything is known.
    pub fn of(older: Arc<[Layer]>) -> Self {
        let (complete, totals) = older.last().map_or_else(Default::default, |layer| {
            let (complete, totals) = layer.complete();
            (complete, totals.clone())
        });
        Self { complete, totals, recent: Memtable::behind(complete), older }
    }

    pub fn add(&mut self, entries: Entries) {
        entries.count(&mut self.totals);
        self.complete = entries.complete();
        self.recent.add(entries);
    }

    /// Nothing is added any more to what came lately.
    pub fn freeze(&mut self) {
        if self.recent.from != self.complete.tip.end {
            let mut frozen = std::mem::replace(&mut self.recent, Memtable::behind(self.complete));
            frozen.totals = self.totals.clone();
            self.older = self.older.iter().cloned().chain([Layer::Memory(frozen.into())]).collect();
        }
    }

    /// The next layer was there already. All that came before it is frozen.
    pub fn go_on_with(&mut self, layer: Layer) {
        *self = Self::of(self.older.iter().cloned().chain([layer]).collect());
    }

    /// Others know what these knew; says whether they were still there.
    pub fn replace(&mut self, old: &[Layer], new: &[Layer]) -> bool {
        let start = self
            .older
            .windows(old.len().max(1))
            .position(|layers| layers.iter().zip(old).all(|(layer, old)| layer.is(old)));
        let Some(start) = start else { return false };
        let behind = self.older.iter().skip(start.saturating_add(old.len()));
        self.older = self.older.iter().take(start).chain(new).chain(behind).cloned().collect();
        true
    }
}
