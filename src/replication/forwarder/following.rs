//! Follows the log: packs pending events into transactions and sends them, until a failure or the
//! shutdown ends it. Claiming the database, and handling answers and failures, are left to others.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    Forwarder, Learned, Link, LogPoint, Released, StopReason,
    answers::{backlog_after, distrusted},
    in_flight::{Answered, InFlight},
};
use crate::{
    crash_point::CrashPoint,
    event::Position,
    history::HistoryError,
    log::Tip,
    replication::{
        BatchLimits,
        examination::Heads,
        state::{Backlog, State},
        transaction::{Batch, Packer},
    },
};

/// What the next transaction lingers for.
#[derive(Debug, Clone, Copy)]
struct Linger {
    reached: Position,
    /// The end of the log when the last transaction was committed. Events after it come from
    /// clients that this commit answered.
    waiting: Position,
    /// The number of events in the last transaction.
    event_count: u64,
}

/// What happens next while transactions are in flight.
enum NextStep {
    /// The oldest transaction was answered.
    Answered(Box<Answered>),
    /// More is pending after this point than fits into one transaction.
    Backlog(LogPoint),
    /// The runtime is shutting down.
    GoingDown,
}

/// Why the forwarder is no longer idle.
enum Woken {
    /// There may be something to do.
    ByEvent,
    /// The time has come.
    ByTime,
    ShutDown,
}

/// The result of sending one transaction, or several that overlapped.
struct Carried {
    link: Link,
    packer: Packer,
    /// The number of events in the last transaction.
    event_count: u64,
    took: Duration,
    /// The end of the log when the last transaction was committed.
    waiting: Position,
}

impl Forwarder {
    /// The number of transactions that are sent one at a time after a failure, or after a
    /// transaction of another client.
    pub(super) const ALONE_AFTER_FAILURE: u32 = 16;

    /// Sends the log to ImmuDB until something ends it.
    pub(super) async fn follow(&mut self, mut link: Link) -> StopReason {
        let mut packer = Packer::new(self.history.clone(), self.settings.batch, link.reached);
        let mut tip = self.sequencer.watch_tip();
        let mut keep_alive = Instant::now() + self.settings.keep_alive;
        let mut probe = Instant::now();
        loop {
            match self.reported_tampering(&link.session).await {
                Ok(None) => {}
                Ok(Some(evidence)) => return StopReason::Tampered(Box::new(evidence)),
                Err(error) => return distrusted(error, link.session),
            }
            if let Err(error) = self.tend_checkpoints(&link).await {
                return distrusted(error, link.session);
            }
            self.give_edge(&mut packer).await;
            let batch = if let Some(batch) = self.late_checkpoint(&link, &packer) {
                batch
            } else {
                match self.next_batch(packer, &mut tip, link.reached).await {
                    Some((back, Ok(batch))) => {
                        packer = back;
                        self.checkpoints.add_to(batch)
                    }
                    Some((_, Err(error))) => return StopReason::Unreadable(error),
                    None => return StopReason::ShutDown(link),
                }
            };
            if self.shutdown.is_cancelled() {
                return StopReason::ShutDown(link);
            }
            let is_empty = batch.entries.is_empty();
            if is_empty && self.machine.state() == State::Migrating && Instant::now() < probe {
                match self.idle(&mut tip, probe).await {
                    Woken::ShutDown => return StopReason::ShutDown(link),
                    Woken::ByEvent | Woken::ByTime => continue,
                }
            }
            // Only committed writes end the fallback. So if nothing is pending, the head alone is
            // written.
            if !is_empty || self.machine.state() != State::Connected {
                let carried = match self.carry(link, batch, packer, &mut tip).await {
                    Ok(carried) => carried,
                    Err(end) => return end,
                };
                (link, packer) = (carried.link, carried.packer);
                let (event_count, waiting, took) = (carried.event_count, carried.waiting, carried.took);
                let pending = tip.borrow().position.0.saturating_sub(link.reached.position.0);
                self.throttle(took, pending).await;
                let wanted = Linger { reached: link.reached.position, waiting, event_count };
                self.linger(&mut tip, wanted, took).await;
                keep_alive = Instant::now() + self.settings.keep_alive;
                probe = Instant::now() + self.probes.pause();
                continue;
            }
            self.reach(&link, batch.reached, Learned::ByHead);
            link.reached = batch.reached;
            match self.idle(&mut tip, keep_alive).await {
                Woken::ShutDown => return StopReason::ShutDown(link),
                Woken::ByEvent => {}
                Woken::ByTime => {
                    if let Err(error) = self.catch_up(&link.session, Heads::Unknown).await {
                        return distrusted(error, link.session);
                    }
                    keep_alive = Instant::now() + self.settings.keep_alive;
                }
            }
        }
    }

    /// Waits until there may be something to do, or until the time comes.
    async fn idle(&mut self, tip: &mut watch::Receiver<Tip>, until: Instant) -> Woken {
        tokio::select! {
            changed = tip.changed() => if changed.is_err() { Woken::ShutDown } else { Woken::ByEvent },
            () = self.shutdown.cancelled() => Woken::ShutDown,
            () = self.checkpoints.woken() => Woken::ByEvent,
            () = self.reports.arrived() => Woken::ByEvent,
            () = sleep_until(until) => Woken::ByTime,
        }
    }

    /// Returns a transaction with the checkpoint alone, if that has waited for long enough while
    /// there was always something else to send.
    fn late_checkpoint(&self, link: &Link, packer: &Packer) -> Option<Batch> {
        if !self.checkpoints.has_waited() {
            return None;
        }
        // Otherwise, the packer would be ahead of what ImmuDB has.
        let tree = packer.tree().filter(|tree| tree.size == link.reached.position.0);
        let reached = LogPoint { tree, ..link.reached };
        Some(self.checkpoints.add_to(Batch::of_head(reached))).filter(|batch| batch.checkpoint.is_some())
    }

    /// Packs the next transaction, starting after what was packed before. Returns `None` if the
    /// runtime is shutting down.
    async fn next_batch(
        &mut self,
        mut packer: Packer,
        tip: &mut watch::Receiver<Tip>,
        reached: LogPoint,
    ) -> Option<(Packer, Result<Batch, HistoryError>)> {
        packer.limit_bytes(self.batch_size.bytes());
        let now = *tip.borrow_and_update();
        let packing = pack(packer, now, self.replication.distance(reached.place, now.end));
        self.unless_overdue(packing).await
    }

    /// Sends a transaction, and further ones while more is pending than fits into one. Returns when
    /// all of them have been answered.
    async fn carry(
        &mut self,
        mut link: Link,
        first: Batch,
        mut packer: Packer,
        tip: &mut watch::Receiver<Tip>,
    ) -> Result<Carried, StopReason> {
        let mut in_flight = InFlight::default();
        let mut next = Some(first);
        let mut unreadable = None;
        // Nothing more can be sent before the next answer.
        let mut exhausted = false;
        loop {
            if let Some(batch) = next.take_if(|batch| in_flight.takes(batch)) {
                self.send(&link, &mut in_flight, batch).await;
            }
            let may_pack = next.is_none() && !exhausted && self.may_follow(&in_flight);
            let before = may_pack.then(|| in_flight.before(&link).reached);
            let answered = match self.progress(&mut in_flight, before, tip.clone()).await {
                NextStep::Answered(answered) => *answered,
                NextStep::Backlog(reached) => {
                    let Some((back, packed)) = self.next_batch(packer, tip, reached).await else {
                        return Err(StopReason::ShutDown(link));
                    };
                    packer = back;
                    match packed {
                        Ok(batch) => next = Some(batch).filter(|batch| !batch.entries.is_empty()),
                        Err(error) => unreadable = Some(error),
                    }
                    exhausted = next.is_none();
                    continue;
                }
                NextStep::GoingDown => return Err(StopReason::ShutDown(link)),
            };
            if in_flight.is_empty() || answered.answer.is_err() {
                self.sequencer.lingers(false);
            }
            let Answered { sent, at, .. } = &answered;
            let (event_count, took) = (sent.event_count, at.duration_since(sent.at));
            link = match self.answered(link, answered).await {
                Ok(link) => link,
                Err(end) => {
                    self.alone = Self::ALONE_AFTER_FAILURE;
                    if let (StopReason::Failed { error, .. }, false) = (&*end, in_flight.is_empty()) {
                        self.note_definite(error);
                    }
                    // The head must not be read before everything that was sent has been answered
                    // or has timed out: until then it may still change.
                    let drained = self.unless_overdue(in_flight.drain()).await;
                    drained.into_iter().for_each(|sent| self.note_unanswered(sent));
                    return Err(*end);
                }
            };
            exhausted = unreadable.is_some();
            if in_flight.is_empty() && next.is_none() {
                return match unreadable {
                    Some(error) => Err(StopReason::Unreadable(error)),
                    None => {
                        let waiting = self.sequencer.tip().position;
                        Ok(Carried { link, packer, event_count, took, waiting })
                    }
                };
            }
        }
    }

    /// Returns whether another transaction may be sent before those in flight are answered. This
    /// requires a quick ImmuDB: a slow one would only have more to do before it answers the waiting
    /// clients.
    fn may_follow(&self, in_flight: &InFlight) -> bool {
        self.alone == 0
            && self.last_was_quick
            && self.machine.state() == State::Connected
            && !self.shutdown.is_cancelled()
            && !self.checkpoints.has_waited()
            && in_flight.may_be_followed()
            && in_flight.is_large(self.limits())
    }

    /// Waits for the next answer or, if `before` is given, until more is pending after it than fits
    /// into one transaction. A second transaction pays off only if it is full: two halves take
    /// longer than one transaction with both.
    async fn progress(
        &mut self,
        in_flight: &mut InFlight,
        before: Option<LogPoint>,
        mut tip: watch::Receiver<Tip>,
    ) -> NextStep {
        let (replication, limits) = (self.replication.clone(), self.limits());
        let backlog = async {
            let Some(reached) = before else { return std::future::pending().await };
            let is_backlog = |tip: &Tip| backlog_after(&replication, limits, reached, *tip) == Backlog::Large;
            match tip.wait_for(is_backlog).await {
                Ok(_) => reached,
                // The sequencer is gone.
                Err(_) => std::future::pending().await,
            }
        };
        self.sent = in_flight.oldest_sent();
        let progress = async {
            tokio::select! {
                biased;
                answered = in_flight.next() => match answered {
                    Some(answered) => NextStep::Answered(answered),
                    None => NextStep::GoingDown,
                },
                reached = backlog => NextStep::Backlog(reached),
            }
        };
        let progress = self.unless_overdue(progress).await;
        self.sent = None;
        progress
    }

    /// Returns the current limits of one transaction.
    pub(super) fn limits(&self) -> BatchLimits {
        BatchLimits { bytes_max: self.batch_size.bytes(), ..self.settings.batch }
    }

    /// Throttles the migration. Sending a backlog takes at most half of the time: the rest of this
    /// machine's and of ImmuDB's capacity is for clients that call meanwhile. This applies only
    /// while the backlog is smaller than ever before, so it ends however much is appended.
    async fn throttle(&mut self, busy: Duration, pending: u64) {
        const PAUSE_MAX: Duration = Duration::from_millis(50);
        if self.machine.state() != State::Migrating {
            self.pending_min = None;
        } else if self.pending_min.is_none_or(|min| pending < min) {
            self.pending_min = Some(pending);
            self.shutdown.run_until_cancelled(tokio::time::sleep(busy.min(PAUSE_MAX))).await;
        }
    }

    /// Waits briefly for as many events as the last transaction had. Clients that were just
    /// answered often append again at once, and one transaction with all of them costs ImmuDB less
    /// than two with half of them each. The slower ImmuDB is, the longer this waits, because a
    /// client that comes too late has to wait for two transactions.
    async fn linger(&self, tip: &mut watch::Receiver<Tip>, wanted: Linger, busy: Duration) {
        const LINGER_MIN: Duration = Duration::from_micros(500);
        const LINGER_MAX: Duration = Duration::from_millis(25);
        if self.machine.state() == State::Connected {
            let pause = (busy / 16).clamp(LINGER_MIN, LINGER_MAX);
            // Otherwise the clients that came meanwhile and those that append again would alternate
            // forever.
            let from = if pause > LINGER_MIN { wanted.waiting } else { wanted.reached };
            let as_many = from.0.saturating_add(wanted.event_count);
            let come = tip.wait_for(|tip| tip.position.0 >= as_many);
            _ = tokio::time::timeout(pause, come).await;
        }
    }

    /// Sends one transaction: the batch and the head, on the condition that the head is as last
    /// seen, or as the transaction in flight will leave it.
    async fn send(&mut self, link: &Link, in_flight: &mut InFlight, batch: Batch) {
        let head = self.head_entry(batch.reached, Released::No);
        self.checkpoints.sends(&batch);
        CrashPoint::BeforeSet.reached();
        self.sequencer.lingers(self.machine.state() == State::Connected);
        let is_second = !in_flight.is_empty();
        in_flight.send(link, batch, head).await;
        if is_second {
            CrashPoint::SecondSent.reached();
        }
    }
}

/// Packs the next transaction. Returns `None` if the runtime is shutting down.
async fn pack(mut packer: Packer, tip: Tip, lag_bytes: u64) -> Option<(Packer, Result<Batch, HistoryError>)> {
    /// Data that was written just now is in memory, so reading it does not block and needs no other
    /// thread.
    const FRESH_BYTES_MAX: u64 = 256 * 1024;
    if lag_bytes <= FRESH_BYTES_MAX {
        let batch = packer.next(tip);
        return Some((packer, batch));
    }
    let packed = tokio::task::spawn_blocking(move || {
        let batch = packer.next(tip);
        (packer, batch)
    });
    match packed.await {
        Ok(packed) => Some(packed),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}
