//! The sequencer thread: turns the waiting calls into one group after another until it is stopped.
//!
//! It owns the log and is its only writer. It also writes replication marks when no append comes,
//! and poisons the log when the outcome of a write is unknown.

use std::{
    collections::HashSet,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::error;

use super::{
    AdmissionCheck, GroupError, Marks, RestoreError, SequencerCall, Settings,
    existing::{SentEvent, StoredEvents},
    poisoned::{Poisoned, PoisonedBy},
    replies::Replies,
};
use crate::{
    error::StoreError,
    event::{AggregateId, EventId},
    index::{Index, Upkeep, WaitMode},
    log::{Log, Tip},
    stats::Counters,
};

/// The state owned by the thread.
pub(super) struct Worker {
    pub(super) log: Log,
    pub(super) index: Arc<Index>,
    pub(super) settings: Arc<Settings>,
    pub(super) admission: Arc<AdmissionCheck>,
    pub(super) counters: Arc<Counters>,
    pub(super) published: watch::Sender<Tip>,
    pub(super) marks: Marks,
    /// The deadline for writing the waiting marks.
    pub(super) marks_due: Option<Instant>,
    pub(super) lingers: Arc<AtomicBool>,
    pub(super) stored_events: StoredEvents,
    pub(super) poisoned: watch::Sender<Option<Arc<Poisoned>>>,
    pub(super) replies: Replies,
    /// Dropped when the thread ends, which writes the whole index to files.
    pub(super) _upkeep: Upkeep,
}

impl Worker {
    /// How long marks wait for an append to accompany. After that, they are written on their own.
    const MARK_DELAY: Duration = Duration::from_secs(1);
    /// The longest time that a group lingers for more calls.
    const GATHERING_MAX: Duration = Duration::from_millis(1);

    pub(super) fn run(mut self, waiting: &Receiver<SequencerCall>) {
        let mut next = None;
        loop {
            let call = match next.take() {
                Some(call) => call,
                None => match self.wait(waiting) {
                    Some(call) => call,
                    None => break,
                },
            };
            match call {
                SequencerCall::MarksWaiting => {}
                SequencerCall::Stop => break,
                call => {
                    self.linger();
                    next = self.group(call, waiting);
                }
            }
        }
        self.write_marks();
        if let Err(error) = self.log.close() {
            error!(%error, "cannot close the local log");
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

    /// Waits for the next call. Returns `None` when all handles are gone.
    fn wait(&mut self, waiting: &Receiver<SequencerCall>) -> Option<SequencerCall> {
        loop {
            let received = match self.has_marks() {
                true => {
                    let due = *self.marks_due.get_or_insert_with(|| Instant::now() + Self::MARK_DELAY);
                    waiting.recv_timeout(due.saturating_duration_since(Instant::now()))
                }
                false => waiting.recv().map_err(RecvTimeoutError::from),
            };
            match received {
                // Further marks do not postpone the deadline.
                Ok(SequencerCall::MarksWaiting) => {}
                Ok(call) => return Some(call),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    self.marks_due = None;
                    self.write_marks();
                }
            }
        }
    }

    pub(super) fn has_marks(&self) -> bool {
        !self.marks.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Makes one group of `first` and the waiting calls. Returns a call that must come after the
    /// group.
    fn group(&mut self, first: SequencerCall, waiting: &Receiver<SequencerCall>) -> Option<SequencerCall> {
        let mut group = match self.begin() {
            Ok(group) => group,
            Err(error) => {
                self.refuse(first, &error);
                return None;
            }
        };
        let mut next = Some(first);
        let mut left = None;
        while let Some(call) = next.take() {
            left = group.take(self, call);
            if left.is_some() || group.is_full() {
                break;
            }
            next = waiting.try_recv().ok();
        }
        self.finish(group);
        left
    }

    /// Poisons the log: nothing is written before a restart. The first reason is kept.
    pub(super) fn poison(&mut self, by: PoisonedBy, reason: &str, in_doubt: HashSet<EventId>) {
        self.log.fail();
        let poisoned = Poisoned { by, reason: reason.to_owned(), in_doubt };
        self.poisoned.send_if_modified(|known| match known {
            Some(_) => false,
            None => {
                error!(
                    reason,
                    events_in_doubt = poisoned.in_doubt.len(),
                    "the local log is poisoned: writes are refused until the service has been restarted"
                );
                *known = Some(Arc::new(poisoned));
                true
            }
        });
    }

    fn refuse(&self, call: SequencerCall, error: &GroupError) {
        match call {
            SequencerCall::Append { append, reply, .. } => {
                let poisoned = self.poisoned.borrow().clone();
                let in_doubt = poisoned.is_some_and(|poisoned| poisoned.leaves_in_doubt(&append));
                let sent = SentEvent::all_of(&append);
                let answer = match self.stored_events.find(&sent) {
                    _ if in_doubt => Err(StoreError::OutcomeUnknown),
                    Ok(Some(existing)) => {
                        let head = |id: &AggregateId| self.index.head_with(id, WaitMode::AtOnce);
                        Ok(existing.into_stored(&sent, &self.settings.thresholds, head))
                    }
                    Err(unknown @ (StoreError::Conflict(_) | StoreError::OutcomeUnknown)) => Err(unknown),
                    Ok(None) | Err(_) => Err(error.for_caller(&self.settings)),
                };
                _ = reply.send(answer);
            }
            SequencerCall::Snapshot { reply, .. } => _ = reply.send(Err(error.for_caller(&self.settings))),
            SequencerCall::Restore { reply, .. } => {
                _ = reply.send(Err(RestoreError::NotWritten(error.to_string())))
            }
            SequencerCall::RestoreSnapshot { reply, .. } => {
                _ = reply.send(Err(RestoreError::NotWritten(error.to_string())))
            }
            SequencerCall::MarksWaiting | SequencerCall::Stop => {}
        }
    }
}
