//! Lets one thread at a time write a group: the sequencer thread, or the thread of a caller.
//!
//! An append that arrives while nothing else is under way is handled on its caller's thread. That
//! saves two handovers to a sleeping thread, which together can take as long as the sync. Calls
//! that come side by side are handled by the sequencer thread, in groups.
//!
//! A caller's thread is a worker of the async runtime, and is blocked while it writes. So this is
//! done only if the runtime has other workers, while the disk is fast, and while the sequencer
//! thread watches: see [`Watch`].

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::runtime::Handle;

use super::{call::SequencerCall, worker::Worker};

/// The worker, behind a lock.
pub(super) struct WorkerLock {
    locked: Mutex<Locked>,
    /// The calls in the queue, and those that the sequencer thread has taken and waits to handle.
    queued: AtomicUsize,
    /// Advanced when a caller's thread begins a group, and when it ends one.
    on_callers: AtomicU64,
}

pub(super) struct Locked {
    /// `None` after the end.
    pub worker: Option<Worker>,
    /// Whether the sequencer thread watches how long a caller's thread takes.
    pub watched: bool,
}

impl std::fmt::Debug for WorkerLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WorkerLock")
    }
}

impl WorkerLock {
    /// The work for a larger append takes so long that the handovers do not matter.
    const BYTES_MAX: u64 = 64 * 1024;
    /// If the last write took longer than this, with its sync, the handovers do not matter, and no
    /// worker of the runtime should be blocked for so long.
    const WRITE_MAX: Duration = Duration::from_millis(1);

    pub(super) fn new(worker: Worker) -> Self {
        Self {
            locked: Mutex::new(Locked { worker: Some(worker), watched: false }),
            queued: AtomicUsize::new(0),
            on_callers: AtomicU64::new(0),
        }
    }

    /// Counts a call that is about to be queued.
    pub(super) fn enter(&self) {
        self.queued.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes back [`WorkerLock::enter`], when the call is handled or could not be queued.
    pub(super) fn leave(&self) {
        self.queued.fetch_sub(1, Ordering::AcqRel);
    }

    /// Handles a call of this size on this thread, if nothing else is under way. Returns the call
    /// if it must be queued.
    pub(super) fn try_on_caller(&self, call: SequencerCall, bytes: u64) -> Option<SequencerCall> {
        let is_first = || self.queued.load(Ordering::Acquire) == 0;
        if bytes > Self::BYTES_MAX || !is_first() {
            return Some(call);
        }
        // Poisoned: the sequencer thread ends as soon as it notices.
        let Ok(mut locked) = self.locked.try_lock() else { return Some(call) };
        let watched = locked.watched;
        // The sequencer thread may have taken a call in the meantime, and waits for this lock.
        let Some(worker) = locked.worker.as_mut().filter(|_| watched && is_first()) else {
            return Some(call);
        };
        let last = worker.last_group();
        if last.calls > 1 || last.write > Self::WRITE_MAX || worker.lingers() {
            return Some(call);
        }
        self.on_callers.fetch_add(1, Ordering::AcqRel);
        let left = worker.step(std::iter::once(call));
        self.on_callers.fetch_add(1, Ordering::AcqRel);
        left
    }

    /// Waits until no other thread has the worker.
    ///
    /// # Errors
    /// Returns an error if a caller's thread panicked in a group.
    pub(super) fn wait(&self) -> Result<MutexGuard<'_, Locked>, PoisonError<MutexGuard<'_, Locked>>> {
        self.locked.lock()
    }

    /// Takes the worker, unless another thread has it.
    fn try_wait(&self) -> Option<MutexGuard<'_, Locked>> {
        match self.locked.try_lock() {
            Ok(locked) => Some(locked),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Returns whether a caller's thread panicked in a group.
    pub(super) fn is_poisoned(&self) -> bool {
        self.locked.is_poisoned()
    }
}

/// Watches how long a caller's thread takes, on behalf of the sequencer thread.
///
/// A worker of the runtime that is blocked may be the one that was to wait for events of the
/// network. No other one takes that over by itself while all others sleep. So if a disk hangs, one
/// of them has to be woken up.
pub(super) struct Watch {
    runtime: Option<Handle>,
    /// The value of `on_callers` at the last look.
    seen: u64,
    quiet_looks: u32,
    watches: bool,
}

impl Watch {
    /// The time from one look to the next.
    pub(super) const INTERVAL: Duration = Duration::from_millis(10);
    /// After this many looks without a group on a caller's thread, watching ends, so that an idle
    /// service does not wake up.
    const QUIET_LOOKS_MAX: u32 = 100;

    /// Watches on behalf of the runtime of this thread, if it has a worker that can be woken up.
    pub(super) fn new() -> Self {
        let runtime = Handle::try_current().ok().filter(|runtime| runtime.metrics().num_workers() > 1);
        Self { runtime, seen: 0, quiet_looks: 0, watches: false }
    }

    /// Begins to watch. From now on, callers may write.
    pub(super) fn begin(&mut self, locked: &mut Locked) {
        self.watches = self.runtime.is_some();
        self.quiet_looks = 0;
        locked.watched = self.watches;
    }

    /// Returns whether [`Watch::look`] must be called after the interval.
    pub(super) fn watches(&self) -> bool {
        self.watches
    }

    pub(super) fn look(&mut self, worker_lock: &WorkerLock) {
        let now = worker_lock.on_callers.load(Ordering::Acquire);
        let is_the_same = now == self.seen;
        self.seen = now;
        if !is_the_same {
            self.quiet_looks = 0;
        } else if now % 2 == 1 {
            // Any task wakes up a worker. It then also waits for events.
            if let Some(runtime) = &self.runtime {
                runtime.spawn(async {});
            }
        } else {
            self.quiet_looks = self.quiet_looks.saturating_add(1);
            if self.quiet_looks >= Self::QUIET_LOOKS_MAX
                && let Some(mut locked) = worker_lock.try_wait()
            {
                locked.watched = false;
                self.watches = false;
            }
        }
    }
}

#[cfg(test)]
mod tests;
