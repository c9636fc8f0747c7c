//! The layers of the index, from the newest to the oldest: the parts in memory, and the files.
//!
//! Lookups search the layers in this order. The module only keeps the layers; writing and merging
//! them is left to `upkeep`.

use std::sync::Arc;

use super::{Complete, IndexBatch, Totals, memtable::Memtable, source::EntrySource, table::Table};
use crate::log::LogOffset;

/// All layers at one moment.
///
/// They change in one step with the published tip, so no two answers show different moments: if an
/// append has events of two aggregates, no reader sees one without the other.
#[derive(Debug)]
pub(super) struct Layers {
    /// How far the index is complete, and the totals up to that point.
    pub complete: Complete,
    pub totals: Totals,
    pub recent: Memtable,
    /// From the oldest to the newest. Each continues where the one before it ends.
    pub older: Arc<[Layer]>,
}

/// A layer to which no entries are added any more. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Layer {
    File(Arc<Table>),
    /// Waits to become a file, or cannot be written.
    Memory(Arc<Memtable>),
}

impl Layer {
    pub(super) fn source(&self) -> &dyn EntrySource {
        match self {
            Self::File(table) => &**table,
            Self::Memory(memtable) => &**memtable,
        }
    }

    pub(super) fn table(&self) -> Option<&Arc<Table>> {
        match self {
            Self::File(table) => Some(table),
            Self::Memory(_) => None,
        }
    }

    /// Returns the offset in the log at which the layer's part begins.
    pub(super) fn from(&self) -> LogOffset {
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

    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(one), Self::File(other)) => Arc::ptr_eq(one, other),
            (Self::Memory(one), Self::Memory(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Layers {
    /// Creates the layers. The last of them determines how far the index is complete.
    pub(super) fn of(older: Arc<[Layer]>) -> Self {
        let (complete, totals) = older.last().map_or_else(Default::default, |layer| {
            let (complete, totals) = layer.complete();
            (complete, totals.clone())
        });
        Self { complete, totals, recent: Memtable::after(complete), older }
    }

    pub(super) fn add(&mut self, entries: IndexBatch) {
        entries.count(&mut self.totals);
        self.complete = entries.complete();
        self.recent.add(entries);
    }

    /// Freezes the recent entries: they become a layer to which nothing is added any more.
    pub(super) fn freeze(&mut self) {
        if self.recent.from != self.complete.tip.end {
            let mut frozen = std::mem::replace(&mut self.recent, Memtable::after(self.complete));
            frozen.totals = self.totals.clone();
            self.older = self.older.iter().cloned().chain([Layer::Memory(frozen.into())]).collect();
        }
    }

    /// Adds an existing layer as the next one. The layers before it must be frozen.
    pub(super) fn go_on_with(&mut self, layer: Layer) {
        *self = Self::of(self.older.iter().cloned().chain([layer]).collect());
    }

    /// Replaces layers by others that cover the same part. Returns false if the old ones no longer
    /// exist.
    pub(super) fn replace(&mut self, old: &[Layer], new: &[Layer]) -> bool {
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
