//! Maintains the index in the background: writes memory to files, merges small files into larger
//! ones, and rebuilds damaged ones.
//!
//! Whatever fails is tried again. Lookups continue meanwhile.

use std::{
    io,
    ops::{Range, RangeInclusive},
    slice,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::error;

use super::{
    Index, Layer,
    error::TableError,
    memtable::Memtable,
    merge,
    source::EntrySource,
    table::{Summary, Table, TableWriteError},
};
use crate::{crash_point::CrashPoint, log::Tip, refusals};

/// The number of files of about the same size that are merged into one.
const FANOUT: usize = 8;

/// The maximum number of files in which an id is searched, once merging has caught up.
const FILES_MAX: usize = 28;

/// Files up to level 5 are merged by the thread that writes them. Those above are merged by another
/// thread, because that may take long.
const WRITTEN_LEVELS: RangeInclusive<u32> = 0..=5;
const MERGED_LEVELS: RangeInclusive<u32> = 6..=u32::MAX;

/// The interval at which failed work is tried again.
const EVERY: Duration = Duration::from_secs(1);

/// The pause after a failed merge, which may have written much.
const PAUSE: Duration = Duration::from_secs(60);

/// The signals to the maintenance threads.
#[derive(Debug, Default)]
pub(super) struct UpkeepSignals {
    state: Mutex<UpkeepState>,
    changed: Condvar,
    stopping: Arc<AtomicBool>,
    /// A file is waiting to be rebuilt: large merges can wait.
    urgent: AtomicBool,
}

#[derive(Debug, Default)]
struct UpkeepState {
    /// The number of signals so far.
    woken: u64,
    has_threads: bool,
    /// Files to be rebuilt. The first may be under way.
    damaged: Vec<(Arc<Table>, TableError)>,
}

impl UpkeepState {
    fn is_damaged(&self, table: &Arc<Table>) -> bool {
        self.damaged.iter().any(|(other, _)| Arc::ptr_eq(other, table))
    }
}

/// The time until which a thread does not merge because a merge has failed.
type MergePause = Option<Instant>;

impl UpkeepSignals {
    fn state(&self) -> MutexGuard<'_, UpkeepState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wake(&self) {
        self.state().woken += 1;
        self.changed.notify_all();
    }

    /// Queues a file to be rebuilt, if there is a thread that does it. Returns whether there is.
    pub(super) fn request_rebuild(&self, table: &Arc<Table>, why: &TableError) -> bool {
        let mut state = self.state();
        if state.has_threads && !state.is_damaged(table) {
            state.damaged.push((table.clone(), why.clone()));
            state.woken += 1;
            self.urgent.store(true, Ordering::Release);
            self.changed.notify_all();
        }
        state.has_threads
    }

    /// Returns a file that is to be rebuilt.
    fn damaged(&self) -> Option<(Arc<Table>, TableError)> {
        self.state().damaged.first().cloned()
    }

    fn rebuild_ended(&self, table: &Arc<Table>) {
        let mut state = self.state();
        state.damaged.retain(|(other, _)| !Arc::ptr_eq(other, table));
        self.urgent.store(!state.damaged.is_empty(), Ordering::Release);
    }

    /// Whether there are threads for work that cannot be done immediately.
    pub(super) fn has_threads(&self) -> bool {
        self.state().has_threads
    }

    /// Creates the signals of a part that is built next to the index and stops together with it.
    pub(super) fn of_part(&self) -> Self {
        Self { stopping: self.stopping.clone(), ..Self::default() }
    }

    fn has_urgent(&self) -> bool {
        self.urgent.load(Ordering::Acquire)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Waits until there is new work or the interval is over. Returns the number of signals so far.
    fn wait(&self, seen: u64) -> u64 {
        let idle = |state: &mut UpkeepState| state.woken == seen && !self.is_stopping();
        let waited = self.changed.wait_timeout_while(self.state(), EVERY, idle);
        waited.unwrap_or_else(PoisonError::into_inner).0.woken
    }
}

/// The maintenance threads. Dropping this stops them, after everything in memory has been written
/// to files.
#[derive(Debug)]
pub struct Upkeep {
    index: Arc<Index>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Upkeep {
    /// Starts the threads.
    ///
    /// # Errors
    /// Returns an error if a thread cannot be started.
    pub fn start(index: Arc<Index>) -> io::Result<Self> {
        let mut upkeep = Self { index: index.clone(), threads: Vec::new() };
        let writing = index.clone();
        upkeep.spawn("index-write", move || writing.keep_writing())?;
        let merging = index.clone();
        upkeep.spawn("index-merge", move || merging.keep_merging())?;
        index.upkeep.state().has_threads = true;
        Ok(upkeep)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.push(thread::Builder::new().name(name.into()).spawn(run)?);
        Ok(())
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.index.upkeep.state().has_threads = false;
        self.index.upkeep.stopping.store(true, Ordering::Release);
        self.index.upkeep.wake();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                error!("the index maintenance thread panicked");
            }
        }
    }
}

/// Records, when dropped, that no thread rebuilds files any more.
struct OnEnd<'s>(&'s UpkeepSignals);

impl Drop for OnEnd<'_> {
    fn drop(&mut self) {
        self.0.state().has_threads = false;
    }
}

impl Index {
    fn keep_writing(&self) {
        let (mut seen, mut noted, mut pause) = (0, None, None);
        loop {
            seen = self.upkeep.wait(seen);
            let stopping = self.upkeep.is_stopping();
            if stopping {
                self.layers_mut().freeze();
            }
            self.write_frozen();
            while !stopping && self.merge(WRITTEN_LEVELS, &mut pause) {
                self.write_frozen();
            }
            self.note_tip(&mut noted);
            if stopping {
                return;
            }
        }
    }

    fn keep_merging(&self) {
        // However this thread ends, no work may be left to it after that.
        let _ended = OnEnd(&self.upkeep);
        let (mut seen, mut pause) = (0, None);
        while !self.upkeep.is_stopping() {
            seen = self.upkeep.wait(seen);
            self.rebuild_damaged_tables();
            while !self.upkeep.is_stopping() && self.merge(MERGED_LEVELS, &mut pause) {
                self.rebuild_damaged_tables();
            }
        }
    }

    fn rebuild_damaged_tables(&self) {
        while let Some((table, why)) = self.upkeep.damaged() {
            if let Err(error) = self.rebuild_table(&table, &why) {
                refusals::failed("cannot rebuild index files", &error);
            }
            self.upkeep.rebuild_ended(&table);
        }
    }

    /// Freezes the entries in memory and writes them to files.
    pub(super) fn write_all(&self) {
        self.layers_mut().freeze();
        self.write_frozen();
    }

    /// Writes the frozen layers to files, and merges files.
    pub(super) fn keep_up(&self) {
        self.write_frozen();
        while self.merge(0..=u32::MAX, &mut None) {}
    }

    /// Writes the frozen layers to files, as far as possible.
    pub(super) fn write_frozen(&self) {
        let older = self.layers().older.clone();
        for layer in self.own(&older).iter().filter(|_| self.folder.writes()) {
            let Layer::Memory(memtable) = layer else { continue };
            match self.written(memtable) {
                Ok(table) => {
                    _ = self.layers_mut().replace(slice::from_ref(layer), &[Layer::File(table.into())])
                }
                Err(error) => return self.not_written(&error),
            }
        }
    }

    fn own<'l>(&self, layers: &'l [Layer]) -> &'l [Layer] {
        let first = layers.partition_point(|layer| layer.from() < self.own_from);
        layers.get(first..).unwrap_or_default()
    }

    fn written(&self, memtable: &Memtable) -> Result<Table, TableWriteError> {
        let (from, end) = (memtable.from, memtable.complete.tip.end);
        let summary = Summary {
            from,
            after: memtable.after,
            complete: memtable.complete,
            totals: memtable.totals.clone(),
            salts: [self.segments.salt(from.segment)?, self.segments.salt(end.segment)?],
            seed: self.seed,
            events: memtable.event_count() as u64,
            transactions_lost: memtable.transactions_lost(),
        };
        self.folder.write(&summary, memtable.filtered_max(), memtable.sorted().map(Ok))
    }

    fn not_written(&self, error: &TableWriteError) {
        if self.folder.writes() {
            refusals::failed("cannot write index files; their entries stay in memory", error);
        }
    }

    /// Merges some files if a merge is due. Returns whether another merge may be due now.
    fn merge(&self, levels: RangeInclusive<u32>, pause: &mut MergePause) -> bool {
        if pause.is_some_and(|after| Instant::now() < after) {
            return false;
        }
        let older = self.layers().older.clone();
        let own = self.own(&older);
        let is_whole = |table: &&Arc<Table>| {
            !self.upkeep.state().is_damaged(table) && self.why_not_made(table).is_none()
        };
        let events = |layer: &Layer| layer.table().filter(is_whole).map(|table| table.summary.events);
        let events: Vec<_> = own.iter().map(events).collect();
        let waits_for_mending = levels == MERGED_LEVELS;
        let Some(old) = due(&events, levels).and_then(|due| own.get(due)) else { return false };
        let tables: Vec<_> = old.iter().filter_map(|layer| layer.table().cloned()).collect();
        match self.merged(&tables, waits_for_mending) {
            Ok(merged) => {
                CrashPoint::IndexFilesMerged.reached();
                let replaced = self.layers_mut().replace(old, &[Layer::File(merged.clone())]);
                if replaced {
                    tables.iter().for_each(|table| self.folder.remove(table))
                } else {
                    self.folder.remove(&merged)
                }
                true
            }
            Err(TableWriteError::Ended) => false,
            Err(error) => {
                if let TableWriteError::Source(why) = &error
                    && let Some(table) = tables.iter().find(|table| table.path() == why.file)
                {
                    // The file is not merged until it is rebuilt.
                    return self.upkeep.request_rebuild(table, why) || self.rebuild_table(table, why).is_ok();
                }
                *pause = Some(Instant::now() + PAUSE);
                self.not_written(&error);
                false
            }
        }
    }

    fn merged(&self, tables: &[Arc<Table>], waits_for_mending: bool) -> Result<Arc<Table>, TableWriteError> {
        let none = || io::Error::from(io::ErrorKind::NotFound);
        let summary = merge::summary(tables).ok_or_else(none)?;
        if !self.folder.has_room_for(tables.iter().map(|table| table.byte_count()).sum()) {
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        let filtered = tables.iter().map(|table| table.filtered_max()).sum();
        let is_ended = || {
            let waits = waits_for_mending && self.upkeep.has_urgent();
            waits || self.upkeep.is_stopping() || self.stop.is_cancelled()
        };
        let entries = merge::entries(tables, &is_ended);
        Ok(Arc::new(self.folder.write(&summary, filtered, entries)?))
    }

    fn note_tip(&self, noted: &mut Option<Tip>) {
        let tip = self.complete().tip;
        if *noted == Some(tip) {
            return;
        }
        let salt = self.segments.salt(tip.end.segment);
        match salt.and_then(|salt| self.folder.note_tip(tip, salt)) {
            Ok(()) => *noted = Some(tip),
            Err(error) => self.not_written(&error.into()),
        }
    }
}

/// Returns which layers to merge, given the numbers of events of those that can be merged: the
/// first `FANOUT` neighbours of about the same size, at the lowest level that has them. If there
/// are none, but too many files, returns the `FANOUT` neighbours that are the least work.
fn due(events: &[Option<u64>], levels: RangeInclusive<u32>) -> Option<Range<usize>> {
    let level = |events: &Option<u64>| events.map(|events| events.max(1).ilog(FANOUT as u64));
    let mut start = 0usize;
    let mut first: Option<(u32, usize)> = None;
    for run in events.chunk_by(|one, other| level(one) == level(other)) {
        let its = run.first().and_then(level).filter(|its| levels.contains(its) && run.len() >= FANOUT);
        first = first.into_iter().chain(its.map(|its| (its, start))).min();
        start = start.saturating_add(run.len());
    }
    let many = events.iter().flatten().count() > FILES_MAX;
    let least = events.windows(FANOUT).enumerate().filter(|_| many).filter_map(|(start, window)| {
        let its = window.iter().filter_map(level).max()?;
        let sum = window.iter().copied().sum::<Option<u64>>()?;
        levels.contains(&its).then_some((sum, start))
    });
    let start = first.map(|(_, start)| start).or(least.min().map(|(_, start)| start))?;
    Some(start..start.saturating_add(FANOUT))
}
