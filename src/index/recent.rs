//! What was added lately and is not in the database yet.
//!
//! An append must not wait for the database, which is slow beside a map in memory. So entries are found here from the
//! moment they are added, and a thread of its own carries them into the database, many groups in one batch. A
//! crash loses what is here: the index is then merely behind the log.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, PoisonError, RwLock},
    thread,
    time::Duration,
};

use tokio::sync::watch;
use tracing::error;

use super::{Complete, Direction, Entries, Head, Index, IndexError, guarded};
use crate::{
    event::{AggregateId, EventId, Position},
    log::{Place, RecordPlace},
};

/// With so many events they are carried over.
const EVENTS_MAX: usize = 16 * 1024;

/// Nobody adds any more until the thread has caught up.
const EVENTS_WAITING_MAX: usize = 4 * EVENTS_MAX;

/// Fewer events wait for so long.
const DELAY: Duration = Duration::from_secs(1);

/// Entries, and where their events can be looked up.
#[derive(Debug)]
pub(super) struct Recent {
    pub entries: Entries,
    ids: HashMap<EventId, RecordPlace>,
    runs: HashMap<u64, Run>,
}

/// Events of one aggregate that follow each other.
#[derive(Debug)]
struct Run {
    first: u64,
    places: Vec<RecordPlace>,
}

impl Recent {
    fn new(complete: Complete) -> Self {
        Self { entries: Entries::after(complete), ids: HashMap::new(), runs: HashMap::new() }
    }

    fn add(&mut self, added: Entries) {
        for (aggregate, sequence, id, place) in added.events() {
            self.ids.insert(*id, *place);
            let run = self.runs.entry(*aggregate).or_insert(Run { first: sequence.0, places: Vec::new() });
            run.places.push(*place);
        }
        self.entries.join(added);
    }

    fn first_of(&self, aggregate: u64) -> Option<u64> {
        self.runs.get(&aggregate).map(|run| run.first)
    }

    /// The sequence number after the last.
    fn behind(&self, aggregate: u64) -> Option<u64> {
        self.runs.get(&aggregate).map(|run| run.first.saturating_add(run.places.len() as u64))
    }

    fn place(&self, aggregate: u64, sequence: u64) -> Option<RecordPlace> {
        let run = self.runs.get(&aggregate)?;
        let index = usize::try_from(sequence.checked_sub(run.first)?).ok()?;
        run.places.get(index).copied()
    }
}

/// From the newest to the oldest: what is carried over moves from the first to the second, and then into the
/// database. Whoever looks reads them in this order, and misses nothing.
#[derive(Debug, Default)]
struct Layers {
    recent: Option<Recent>,
    /// Is being carried over.
    writing: Option<Arc<Recent>>,
}

impl Layers {
    fn each(&self) -> impl DoubleEndedIterator<Item = &Recent> {
        self.recent.iter().chain(self.writing.as_deref())
    }
}

/// What is in memory, and how far the thread is with it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    layers: RwLock<Layers>,
    progress: Mutex<Progress>,
    changed: Condvar,
    failed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Progress {
    events: usize,
    /// Something is there, whether events or not.
    waiting: bool,
    stop: bool,
    /// The database took something no more.
    failed: bool,
}

impl Memory {
    fn look<T>(&self, found: impl Fn(&Recent) -> Option<T>) -> Option<T> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        layers.each().find_map(found)
    }

    pub fn head(&self, id: &AggregateId) -> Option<Head> {
        self.look(|recent| recent.entries.changed_head(id))
    }

    pub fn event(&self, id: EventId) -> Option<RecordPlace> {
        self.look(|recent| recent.ids.get(&id).copied())
    }

    /// The first of the aggregate's events that is here, and the places of those in `range`, at most `count`.
    pub fn events(
        &self,
        aggregate: u64,
        range: std::ops::RangeInclusive<u64>,
        direction: Direction,
        count: usize,
    ) -> Option<(u64, Vec<RecordPlace>)> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        let first = layers.each().filter_map(|recent| recent.first_of(aggregate)).min()?;
        let behind = layers.each().filter_map(|recent| recent.behind(aggregate)).max()?;
        let place = |sequence| layers.each().find_map(|recent| recent.place(aggregate, sequence));
        let here = first.max(*range.start())..behind.min(range.end().saturating_add(1));
        let places = match direction {
            Direction::Forwards => here.map_while(place).take(count).collect(),
            Direction::Backwards => here.rev().map_while(place).take(count).collect(),
        };
        Some((first, places))
    }

    /// The last place up to `position`.
    pub fn frame_before(&self, position: Position) -> Option<(Position, Place)> {
        self.look(|recent| recent.entries.frame_before(position))
    }

    /// Transactions from `position` on, and up to which position those in the database hold.
    pub fn transaction(&self, position: Position) -> (Option<(Position, u64)>, Option<Position>) {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        let mut lost: Option<Position> = None;
        let mut found = None;
        for recent in layers.each() {
            let holds = |found: Option<(Position, u64)>| {
                found.filter(|(last, _)| lost.is_none_or(|lost| *last <= lost))
            };
            found = holds(recent.entries.transaction(position)).or(found);
            lost = lost.into_iter().chain(recent.entries.transactions_lost()).min();
        }
        (found, lost)
    }

    /// Heads of the first `count` aggregates whose id starts with `prefix`, behind `after`, in the order of ids.
    pub fn heads(&self, prefix: &str, after: Option<&str>, count: usize) -> Vec<(AggregateId, Head)> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = |id: &&AggregateId| {
            id.as_str().starts_with(prefix) && after.is_none_or(|after| id.as_str() > after)
        };
        let changed = layers.each().flat_map(|recent| recent.entries.changed_heads());
        let mut ids: Vec<&AggregateId> = changed.map(|(id, _)| id).filter(wanted).collect();
        // Appends wait meanwhile, so no more than these are put in order. Each may be in both layers.
        let enough = count.saturating_mul(2);
        if enough < ids.len() {
            ids.select_nth_unstable(enough);
            ids.truncate(enough);
        }
        ids.sort_unstable();
        ids.dedup();
        let head = |id: &AggregateId| layers.each().find_map(|recent| recent.entries.changed_head(id));
        ids.into_iter().take(count).filter_map(|id| Some((id.clone(), head(id)?))).collect()
    }

    #[cfg(test)]
    pub fn fail(&self) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).failed = true;
    }

    /// Waits until there is room for more.
    pub fn wait_for_room(&self) -> Result<(), IndexError> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        while progress.events >= EVENTS_WAITING_MAX && !progress.failed {
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        if progress.failed { Err(IndexError::NotTaken) } else { Ok(()) }
    }

    /// Makes them findable. One thread adds, and waited for room before.
    pub fn add(&self, entries: Entries) {
        let added = entries.event_count();
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        layers.recent.get_or_insert_with(|| Recent::new(entries.complete)).add(entries);
        drop(layers);
        let before = progress.events;
        progress.events = before.saturating_add(added);
        let first = !std::mem::replace(&mut progress.waiting, true);
        if first || (before < EVENTS_MAX && progress.events >= EVENTS_MAX) {
            self.changed.notify_all();
        }
    }

    /// Waits until there is enough to carry over, or it has waited long enough. `None`: the end.
    fn next(&self) -> Option<Arc<Recent>> {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |progress: &mut Progress| !progress.waiting && !progress.stop;
        let progress = self.changed.wait_while(progress, idle).unwrap_or_else(PoisonError::into_inner);
        let few = |progress: &mut Progress| progress.events < EVENTS_MAX && !progress.stop;
        let waited = self.changed.wait_timeout_while(progress, DELAY, few);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.take()
    }

    /// What is here is about to be carried over.
    pub fn take(&self) -> Option<Arc<Recent>> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        layers.writing = layers.recent.take().map(Arc::new);
        (progress.waiting, progress.events) = (false, 0);
        layers.writing.clone()
    }

    /// The database took something no more.
    pub fn has_failed(&self) -> bool {
        *self.failed.borrow()
    }

    /// Resolves when it has.
    pub fn watch_failed(&self) -> watch::Receiver<bool> {
        self.failed.subscribe()
    }

    /// It was.
    pub fn done(&self, result: Result<(), IndexError>) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => self.layers.write().unwrap_or_else(PoisonError::into_inner).writing = None,
            Err(error) => {
                error!(%error, "the index takes no entries any more; they are made again at the next start");
                progress.failed = true;
                self.failed.send_replace(true);
            }
        }
        self.changed.notify_all();
    }
}

/// The thread that carries over; it ends when this is dropped, with everything in the database.
#[derive(Debug)]
pub struct Carrier {
    index: Arc<Index>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Carrier {
    /// # Errors
    /// No thread can be started.
    pub fn start(index: Arc<Index>) -> std::io::Result<Self> {
        let own = index.clone();
        let run = move || {
            while let Some(recent) = own.memory.next() {
                // A panic must not leave those waiting who add.
                let result = guarded(|| own.store(&recent.entries).map(drop));
                let failed = result.is_err();
                own.memory.done(result);
                if failed {
                    break;
                }
            }
        };
        let thread = thread::Builder::new().name("index".into()).spawn(run)?;
        Ok(Self { index, thread: Some(thread) })
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        let memory = &self.index.memory;
        memory.progress.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        memory.changed.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            error!("the index panicked");
        }
    }
}
