//! The loop of the sequencer thread: takes the waiting calls, one group after another, until it is
//! stopped.
//!
//! It also writes replication marks when no append comes, and watches the groups on the threads of
//! callers.

use std::{
    iter,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    call::SequencerCall,
    marks::WaitingMarks,
    worker_lock::{GroupPanicked, Watch, WorkerLock},
};

/// The state owned by the thread.
pub(super) struct QueueLoop {
    worker_lock: Arc<WorkerLock>,
    waiting: Receiver<SequencerCall>,
    marks: WaitingMarks,
    /// The deadline for writing the waiting marks.
    marks_due: Option<Instant>,
    lingers: Arc<AtomicBool>,
    watch: Watch,
}

impl QueueLoop {
    /// How long marks wait for an append to accompany. After that, they are written on their own.
    const MARK_DELAY: Duration = Duration::from_secs(1);
    /// The longest time that a group lingers for more calls.
    const GATHERING_MAX: Duration = Duration::from_millis(1);

    pub(super) fn new(
        worker_lock: Arc<WorkerLock>,
        waiting: Receiver<SequencerCall>,
        marks: WaitingMarks,
        lingers: Arc<AtomicBool>,
    ) -> Self {
        Self { worker_lock, waiting, marks, marks_due: None, lingers, watch: Watch::new() }
    }

    /// Runs until the thread is stopped, or until all handles are gone.
    ///
    /// # Errors
    /// Returns an error if a caller's thread panicked in a group. Nothing is written after that.
    pub(super) fn run(mut self) -> Result<(), GroupPanicked> {
        self.take_calls()?;
        let worker = self.watch.wait_for(&self.worker_lock)?.take();
        if let Some(worker) = worker {
            worker.close();
        }
        Ok(())
    }

    fn take_calls(&mut self) -> Result<(), GroupPanicked> {
        let mut next = None;
        loop {
            let call = match next.take() {
                Some(call) => call,
                None => match self.next_call()? {
                    Some(call) => call,
                    None => return Ok(()),
                },
            };
            match call {
                SequencerCall::MarksWaiting => self.worker_lock.leave(),
                SequencerCall::Stop => return Ok(()),
                call => {
                    self.linger();
                    next = self.step(call)?;
                }
            }
        }
    }

    /// Lingers for more calls while no caller waits for this group alone.
    fn linger(&self) {
        let until = Instant::now() + Self::GATHERING_MAX;
        while self.lingers.load(Ordering::Acquire) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }

    /// Makes one group of the first call and of those that wait. Returns a call that must come
    /// after the group. It still counts as queued.
    fn step(&mut self, first: SequencerCall) -> Result<Option<SequencerCall>, GroupPanicked> {
        let mut worker = self.watch.wait_for(&self.worker_lock)?;
        let Some(worker) = worker.as_mut() else { return Ok(None) };
        self.marks_due = None;
        let calls = iter::once(first).chain(self.waiting.try_iter()).inspect(|_| self.worker_lock.leave());
        let left = worker.step(calls);
        if left.is_some() {
            self.worker_lock.enter();
        }
        self.watch.decide(&self.worker_lock, worker);
        Ok(left)
    }

    /// Waits for the next call. Returns `None` when all handles are gone.
    fn next_call(&mut self) -> Result<Option<SequencerCall>, GroupPanicked> {
        loop {
            match self.receive() {
                // Further marks do not postpone the deadline.
                Ok(SequencerCall::MarksWaiting) => self.worker_lock.leave(),
                Ok(call) => return Ok(Some(call)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.worker_lock.is_poisoned() {
                return Err(GroupPanicked);
            }
            if self.watch.watches() {
                self.watch.look(&self.worker_lock);
            }
            if self.marks_due.is_some_and(|due| due <= Instant::now()) {
                self.write_marks();
            }
        }
    }

    /// Writes the waiting marks, unless a caller's thread is writing. They are tried again then.
    fn write_marks(&mut self) {
        let Some(mut worker) = self.worker_lock.try_lock() else {
            self.marks_due = Some(Instant::now() + Watch::INTERVAL);
            return;
        };
        self.marks_due = None;
        if let Some(worker) = worker.as_mut() {
            worker.write_marks();
        }
    }

    /// Waits for a call until the next moment at which something else has to be done.
    fn receive(&mut self) -> Result<SequencerCall, RecvTimeoutError> {
        let mut left = self.watch.watches().then_some(Watch::INTERVAL);
        if self.marks.is_empty() {
            self.marks_due = None;
        } else {
            let now = Instant::now();
            let due = *self.marks_due.get_or_insert_with(|| now + Self::MARK_DELAY);
            let until_due = due.saturating_duration_since(now);
            left = Some(left.map_or(until_due, |left| left.min(until_due)));
        }
        match left {
            Some(left) => self.waiting.recv_timeout(left),
            None => self.waiting.recv().map_err(RecvTimeoutError::from),
        }
    }
}

impl Drop for QueueLoop {
    /// Drops the worker, also after a panic: those who observe the sequencer learn from that that
    /// it has ended.
    fn drop(&mut self) {
        self.worker_lock.end();
    }
}
