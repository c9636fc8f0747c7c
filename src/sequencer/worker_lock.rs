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
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::runtime::Handle;

use super::{call::SequencerCall, worker::Worker};

/// A caller's thread panicked while it wrote a group.
#[derive(Debug, thiserror::Error)]
#[error("a group panicked on the thread of its caller")]
pub(super) struct GroupPanicked;

/// The worker, behind a lock.
pub(super) struct WorkerLock {
    /// `None` after the end.
    worker: Mutex<Option<Worker>>,
    /// The calls in the queue, and those that the sequencer thread has taken and waits to handle.
    queued: AtomicUsize,
    /// Whether callers may write. Changes only under the lock.
    admits_callers: AtomicBool,
    /// Advanced when a caller's thread begins a group, and when it ends one.
    on_callers: AtomicU64,
}

impl std::fmt::Debug for WorkerLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WorkerLock")
    }
}

impl WorkerLock {
    /// The work for a larger append takes so long that the handovers do not matter.
    const BYTES_MAX: u64 = 64 * 1024;

    pub(super) fn new(worker: Worker) -> Self {
        Self {
            worker: Mutex::new(Some(worker)),
            queued: AtomicUsize::new(0),
            admits_callers: AtomicBool::new(false),
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
        let may_write =
            || self.admits_callers.load(Ordering::Acquire) && self.queued.load(Ordering::Acquire) == 0;
        // Without the lock, which the sequencer thread would have to wait for.
        if bytes > Self::BYTES_MAX || !may_write() {
            return Some(call);
        }
        // If it is poisoned, the sequencer thread ends as soon as it notices.
        let Some(mut worker) = self.try_lock() else { return Some(call) };
        // The sequencer thread may have taken a call in the meantime, and waits for this lock.
        let may_write = may_write();
        let Some(worker) = worker.as_mut().filter(|worker| may_write && !worker.lingers()) else {
            return Some(call);
        };
        self.on_callers.fetch_add(1, Ordering::AcqRel);
        let left = worker.step(std::iter::once(call));
        self.on_callers.fetch_add(1, Ordering::AcqRel);
        if !worker.lets_callers_write() {
            self.admits_callers.store(false, Ordering::Release);
        }
        left
    }

    /// Takes the worker, unless another thread has it.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Option<Worker>>> {
        self.worker.try_lock().ok()
    }

    /// Drops the worker. Nothing is written after that.
    pub(super) fn end(&self) {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(worker);
    }

    /// Returns whether a caller's thread panicked in a group.
    pub(super) fn is_poisoned(&self) -> bool {
        self.worker.is_poisoned()
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

    /// Waits until no other thread has the worker. Nobody can look meanwhile, so another worker of
    /// the runtime is woken up before.
    ///
    /// # Errors
    /// Returns an error if a caller's thread panicked in a group.
    pub(super) fn wait_for<'l>(
        &self,
        worker_lock: &'l WorkerLock,
    ) -> Result<MutexGuard<'l, Option<Worker>>, GroupPanicked> {
        if let Some(worker) = worker_lock.try_lock() {
            return Ok(worker);
        }
        self.wake_another();
        worker_lock.worker.lock().map_err(|_| GroupPanicked)
    }

    /// Any task wakes up a worker. It then also waits for events.
    fn wake_another(&self) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(async {});
        }
    }

    /// Decides, after a group of the sequencer thread, whether callers may write, and watches if
    /// they may. The worker has to be that of the lock.
    pub(super) fn decide(&mut self, worker_lock: &WorkerLock, worker: &Worker) {
        self.watches = self.runtime.is_some() && worker.lets_callers_write();
        self.quiet_looks = 0;
        worker_lock.admits_callers.store(self.watches, Ordering::Release);
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
            self.wake_another();
        } else {
            self.quiet_looks = self.quiet_looks.saturating_add(1);
            if self.quiet_looks >= Self::QUIET_LOOKS_MAX
                && let Some(_worker) = worker_lock.try_lock()
            {
                worker_lock.admits_callers.store(false, Ordering::Release);
                self.watches = false;
            }
        }
    }
}

#[cfg(test)]
mod tests;
