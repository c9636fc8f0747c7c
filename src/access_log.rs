//! The access log: who was refused, who changed what only few may change, and each reload.
//!
//! It is a file of JSON lines of its own, `access.log`, beside `system.log`. A call never waits for
//! the disk: entries are queued in memory, and a thread of the log writes them. While the file
//! cannot be written, entries wait and the thread tries again. Up to 100 refusals a second are
//! never lost unless the disk fails for longer than the queue lasts; those above, and all entries
//! for which the queue has no room, are counted, and a line of the log has the count.
//!
//! Which calls have an entry is decided by `grpc`, except that writes and reads have one only if
//! the configuration says so. An entry has no data, no token and no hash.

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{event::Timestamp, refusals, threads};

mod entry;
mod file;

pub(crate) use entry::{CallName, Entry, EntryKind, LoggedCaller};
use file::LogFile;

/// The refusals that are logged within a second.
const REFUSALS_PER_SECOND: u32 = 100;
/// The entries that may wait, other than writes and reads: the refusals of more than five minutes.
const WAITING_MAX: usize = 32 * 1024;
/// The entries of writes and reads that may wait.
const OPTIONAL_WAITING_MAX: usize = 16 * 1024;
/// The minimum time between two lines about entries that are not logged.
const LOST_EVERY: Duration = Duration::from_secs(1);
/// The pause after a failure of the file.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a stop waits for the entries to be written.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// Where the log is, and what it has in addition to refusals.
#[derive(Debug, Clone)]
pub(crate) struct AccessLogSettings {
    /// The directory of `access.log`.
    pub folder: PathBuf,
    /// The size in bytes after which `access.log` is rotated.
    pub file_bytes_max: usize,
    /// The maximum number of files, including `access.log` itself.
    pub files_max: usize,
    /// Whether all writes are logged.
    pub log_writes: bool,
    /// Whether all reads are logged.
    pub log_reads: bool,
}

/// Accepts entries. Cheap to clone. The default drops all of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct AccessLog(Option<Arc<Shared>>);

/// Waits a short time for the entries to be written when dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct AccessLogGuard(Arc<Shared>);

/// What the callers and the thread of the log share.
#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    log_writes: bool,
    log_reads: bool,
}

/// The entries that wait to be written, and the counts of those that do not.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Timestamp, Entry)>,
    /// The number of writes and reads among them.
    optional: usize,
    second: Second,
    lost: Lost,
    /// When the thread was last given the counts.
    lost_told: Option<Instant>,
    reopen: bool,
    closed: bool,
    /// The thread has written everything and has ended.
    ended: bool,
}

/// Counts the refusals of the current second.
#[derive(Debug, Default)]
struct Second {
    began: Option<Instant>,
    refusals: u32,
}

/// The entries that were not logged.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Lost {
    refusals: u64,
    others: u64,
}

/// What the thread does next.
#[derive(Debug)]
struct Batch {
    entries: VecDeque<(Timestamp, Entry)>,
    lost: Lost,
    reopen: bool,
    is_last: bool,
}

impl AccessLog {
    /// Starts the thread that writes the log. While the file cannot be written, entries wait.
    ///
    /// # Errors
    /// Returns an error if the thread cannot be started.
    pub(crate) fn open(settings: AccessLogSettings) -> io::Result<(Self, AccessLogGuard)> {
        let shared = Arc::new(Shared::new(settings.log_writes, settings.log_reads));
        let file = LogFile::new(settings);
        let of_thread = shared.clone();
        threads::spawn("access-log", move || write_all(&of_thread, file))?;
        Ok((Self(Some(shared.clone())), AccessLogGuard(shared)))
    }

    /// Returns whether entries of this kind are logged.
    pub(crate) fn takes(&self, kind: EntryKind) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.takes(kind))
    }

    /// Queues an entry, which gets the current time.
    pub(crate) fn write(&self, entry: Entry) {
        let Some(shared) = self.0.as_ref().filter(|shared| shared.takes(entry.kind)) else { return };
        shared.lock().add(entry, Timestamp::now(), Instant::now());
        shared.changed.notify_one();
    }

    /// Makes the next line reopen `access.log`, because the open file may have been moved.
    pub(crate) fn reopen(&self) {
        if let Some(shared) = &self.0 {
            shared.lock().reopen = true;
            shared.changed.notify_one();
        }
    }
}

impl Drop for AccessLogGuard {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.closed = true;
        self.0.changed.notify_all();
        let waited = self.0.changed.wait_timeout_while(queue, FLUSH_MAX, |queue| !queue.ended);
        drop(waited);
    }
}

impl Shared {
    fn new(log_writes: bool, log_reads: bool) -> Self {
        Self { queue: Mutex::default(), changed: Condvar::new(), log_writes, log_reads }
    }

    fn takes(&self, kind: EntryKind) -> bool {
        match kind {
            EntryKind::Refusal | EntryKind::Always => true,
            EntryKind::Write => self.log_writes,
            EntryKind::Read => self.log_reads,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to do.
    fn next(&self) -> Batch {
        let mut queue = self.lock();
        loop {
            if let Some(batch) = queue.take(Instant::now()) {
                return batch;
            }
            queue = if queue.lost == Lost::default() {
                self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.changed.wait_timeout(queue, LOST_EVERY).unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }
}

/// Writes the entries until the log is closed.
fn write_all(shared: &Shared, mut file: LogFile) {
    loop {
        let mut batch = shared.next();
        let written = file.write(&mut batch);
        let is_last = batch.is_last;
        if let Err(error) = written {
            refusals::failed("the access log cannot be written", &error);
            shared.lock().put_back(batch);
            if !is_last {
                thread::sleep(RETRY_AFTER);
            }
        }
        if is_last {
            break;
        }
    }
    shared.lock().ended = true;
    shared.changed.notify_all();
}

impl Queue {
    fn add(&mut self, entry: Entry, at: Timestamp, now: Instant) {
        let important = self.waiting.len().saturating_sub(self.optional);
        let has_room = match entry.kind {
            EntryKind::Refusal => self.second.has_room(now) && important < WAITING_MAX,
            // They leave half of the places to refusals.
            EntryKind::Always => important < WAITING_MAX / 2,
            EntryKind::Write | EntryKind::Read => self.optional < OPTIONAL_WAITING_MAX,
        };
        if has_room && !self.ended {
            self.optional += usize::from(entry.kind.is_optional());
            self.waiting.push_back((at, entry));
        } else if entry.kind == EntryKind::Refusal {
            self.lost.refusals = self.lost.refusals.saturating_add(1);
        } else {
            self.lost.others = self.lost.others.saturating_add(1);
        }
    }

    /// Returns what is to be written now, if anything is.
    fn take(&mut self, now: Instant) -> Option<Batch> {
        let told = self.lost_told.filter(|_| !self.closed);
        let is_due = told.is_none_or(|told| now.saturating_duration_since(told) >= LOST_EVERY);
        let lost = if is_due { std::mem::take(&mut self.lost) } else { Lost::default() };
        if lost != Lost::default() {
            self.lost_told = Some(now);
        } else if self.waiting.is_empty() && !self.reopen && !self.closed {
            return None;
        }
        self.optional = 0;
        Some(Batch {
            entries: std::mem::take(&mut self.waiting),
            lost,
            reopen: std::mem::take(&mut self.reopen),
            is_last: self.closed,
        })
    }

    /// Returns what could not be written to the front of the queue.
    fn put_back(&mut self, batch: Batch) {
        let Batch { mut entries, lost, reopen, .. } = batch;
        entries.append(&mut self.waiting);
        self.optional = entries.iter().filter(|(_, entry)| entry.kind.is_optional()).count();
        self.waiting = entries;
        self.lost.refusals = self.lost.refusals.saturating_add(lost.refusals);
        self.lost.others = self.lost.others.saturating_add(lost.others);
        self.reopen |= reopen;
    }
}

impl Second {
    fn has_room(&mut self, now: Instant) -> bool {
        const SECOND: Duration = Duration::from_secs(1);
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= SECOND) {
            *self = Self { began: Some(now), refusals: 0 };
        }
        self.refusals = self.refusals.saturating_add(1);
        self.refusals <= REFUSALS_PER_SECOND
    }
}

#[cfg(test)]
mod tests;
