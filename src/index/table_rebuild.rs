//! Rebuilds index files that cannot be used.
//!
//! The part of the log that the file covered is read again, and the result replaces the file in one
//! step. If the rebuild fails, the old layers stay as they are, and the next attempt waits for a
//! while.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use tracing::warn;

use super::{
    Index, IndexError, Layer, Layers, Table, continue_if,
    error::{NotMadeReason, TableError},
    rebuild::{self, RebuildError},
};

/// The maximum number of rebuilt layers that stay in memory because they cannot be written.
const IN_MEMORY_MAX: usize = 4;

/// The pause after a failed attempt, which may have read much of the log.
const PAUSE: Duration = Duration::from_secs(60);

impl Index {
    fn not_made(&self) -> MutexGuard<'_, HashMap<PathBuf, (Instant, IndexError)>> {
        self.not_made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns why the recent rebuild of an unusable file failed, or `None` if there was no such
    /// failure.
    pub(super) fn why_not_made(&self, table: &Table) -> Option<IndexError> {
        let mut not_made = self.not_made();
        not_made.retain(|_, (when, _)| when.elapsed() < PAUSE);
        not_made.get(table.path()).map(|(_, error)| error.clone())
    }

    /// Rebuilds, from the log, the part of the index that a file covered.
    pub(super) fn rebuild_table(&self, table: &Arc<Table>, why: &TableError) -> Result<(), IndexError> {
        let _rebuilding = self.rebuilding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = self.why_not_made(table) {
            return Err(error);
        }
        let old = Layer::File(table.clone());
        let older = self.layers().older.clone();
        let Some(place) = older.iter().position(|layer| layer.is(&old)) else {
            // Another thread was first.
            return Ok(());
        };
        warn!(error = %why, "an index file is unusable; rebuilding it");
        let before = older.iter().take(place).cloned().collect();
        let part = Self {
            layers: RwLock::new(Layers::of(before)),
            own_from: table.range().0,
            upkeep: self.upkeep.of_part(),
            ..Self::empty(
                self.folder.clone(),
                self.segments.clone(),
                self.seed,
                self.options,
                self.stop.clone(),
            )
        };
        let made = self.rebuilt_layers(&part, table, why);
        if let Err(error) = &made {
            self.not_made().insert(table.path().to_owned(), (Instant::now(), error.clone()));
        }
        let parts_layers = part.layers().older.clone();
        let replaced = match &made {
            Ok(made) => self.layers_mut().replace(&[old], made),
            Err(_) => false,
        };
        // A new file may have the name of an old one. Then the file with this name is the new one.
        let is_used = |table: &Arc<Table>| {
            let layers = self.layers().older.clone();
            layers.iter().filter_map(Layer::table).any(|used| used.path() == table.path())
        };
        let left = parts_layers.iter().filter_map(Layer::table).chain(replaced.then_some(table));
        left.filter(|table| !is_used(table)).for_each(|table| self.folder.remove(table));
        made.map(drop)
    }

    /// Returns the layers of `part` that replace a file.
    fn rebuilt_layers(&self, part: &Self, table: &Table, why: &TableError) -> Result<Vec<Layer>, IndexError> {
        let not_yet = |why_not| IndexError::NotMadeYet { table: why.clone(), why: why_not };
        let not_made = |reason| IndexError::NotMade { table: why.clone(), why: reason };
        let (from, end) = table.range();
        // Startup has no alternative to the rebuild, so there are no limits then. The rebuild of a
        // missing file has no limits either.
        let is_bounded = self.folder.writes() && self.upkeep.has_threads();
        if is_bounded && !self.folder.has_room_for(table.byte_count()) {
            return Err(not_yet("there is not enough disk space"));
        }
        let is_ended = || self.upkeep.is_stopping() || self.stop.is_cancelled();
        let may_go_on = |_| {
            let layers = part.layers();
            let in_memory = layers.older.iter().filter(|layer| layer.table().is_none()).count();
            let fills_memory = is_bounded && in_memory > IN_MEMORY_MAX;
            continue_if(!fills_memory && !is_ended())
        };
        match rebuild::catch_up(part, end, may_go_on) {
            Ok(()) => {}
            Err(RebuildError::Stopped) if is_ended() => return Err(not_yet("the service is shutting down")),
            Err(RebuildError::Stopped) => return Err(not_yet("its files cannot be written")),
            Err(RebuildError::Index(error)) => return Err(error),
            Err(RebuildError::Log(error)) => return Err(not_made(NotMadeReason::Log(Arc::new(error)))),
        }
        if part.complete() != table.summary.complete {
            return Err(not_made(NotMadeReason::AnotherHistory));
        }
        part.write_all();
        // A file before this one may have been rebuilt as well.
        let made = part.layers().older.clone();
        let made: Vec<_> = made.iter().skip_while(|layer| layer.from() < from).cloned().collect();
        if made.first().is_some_and(|layer| layer.from() == from) {
            Ok(made)
        } else {
            Err(not_yet("the preceding file is unusable, too"))
        }
    }
}
