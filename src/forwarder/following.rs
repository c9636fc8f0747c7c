//! Following the log: transaction after transaction, until something ends it.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use super::{
    BatchLimits, BatchSize, End, Forwarder, Learned, Link, Pause, Reached, Released, Standing, State,
    batch::{Batch, Packer},
    in_flight::{Answer, Answered, InFlight, Sent},
    state::{Commit, Happening, Rest},
};
use crate::{
    crash_point::CrashPoint,
    event::{Position, record::ForwardedMark},
    history::HistoryError,
    immudb::{self, ErrorKind, Session, SetError, TxId},
    log::Tip,
};

/// Whom the next transaction waits for.
#[derive(Debug, Clone, Copy)]
struct Company {
    reached: Position,
    /// The end of the log when the last transaction was committed: what lies behind that comes from those whom it answered.
    waiting: Position,
    /// Of the last transaction.
    event_count: u64,
}

/// What comes next while transactions are in flight.
enum Progress {
    /// The oldest one is.
    Answered(Box<Answered>),
    /// More lies behind this than one transaction takes.
    Backlog(Reached),
    /// The runtime ends.
    GoingDown,
}

/// What was carried over in one go.
struct Carried {
    link: Link,
    packer: Packer,
    /// Of the last transaction.
    event_count: u64,
    took: Duration,
    /// The end of the log when it was committed.
    waiting: Position,
}

impl Forwarder {
    /// So many transactions go alone after one that failed, or after one of somebody else's.
    const ALONE_AFTER_FAILURE: u32 = 16;

    /// Carries the log over until something ends it.
    pub(super) async fn follow(&mut self, mut link: Link) -> End {
        let mut packer = Packer::new(self.history.clone(), self.settings.batch, link.reached);
        let mut tip = self.sequencer.watch_tip();
        let mut keep_alive = Instant::now() + self.settings.keep_alive;
        let mut probe = Instant::now();
        loop {
            let batch = match self.next_batch(packer, &mut tip, link.reached).await {
                Some((back, Ok(batch))) => {
                    packer = back;
                    batch
                }
                Some((_, Err(error))) => return End::Unreadable(error),
                None => return End::ShutDown(link),
            };
            if self.shutdown.is_cancelled() {
                return End::ShutDown(link);
            }
            let is_empty = batch.entries.is_empty();
            if is_empty && self.machine.state() == State::Migrating && Instant::now() < probe {
                tokio::select! {
                    changed = tip.changed() => if changed.is_err() { return End::ShutDown(link) },
                    () = self.shutdown.cancelled() => return End::ShutDown(link),
                    () = sleep_until(probe) => {}
                }
                continue;
            }
            // Only committed writes end the fallback, so there the head alone is written.
            if !is_empty || self.machine.state() != State::Connected {
                let carried = match self.carry(link, batch, packer, &mut tip).await {
                    Ok(carried) => carried,
                    Err(end) => return end,
                };
                (link, packer) = (carried.link, carried.packer);
                let (event_count, waiting, took) = (carried.event_count, carried.waiting, carried.took);
                let pending = tip.borrow().position.0.saturating_sub(link.reached.position.0);
                self.give_way(took, pending).await;
                let company = Company { reached: link.reached.position, waiting, event_count };
                self.await_company(&mut tip, company, took).await;
                keep_alive = Instant::now() + self.settings.keep_alive;
                probe = Instant::now() + self.probes.pause();
                continue;
            }
            self.reach(&link, batch.reached, Learned::ByHead);
            link.reached = batch.reached;
            tokio::select! {
                changed = tip.changed() => if changed.is_err() { return End::ShutDown(link) },
                () = self.shutdown.cancelled() => return End::ShutDown(link),
                () = sleep_until(keep_alive) => {
                    let alive = self.unless_overdue(link.session.keep_alive()).await;
                    if let Err(error) = alive {
                        return failed(error, link.session, Pause::Delay);
                    }
                    self.look_for_foreign(link.head_tx, link.head_tx.next(), 1);
                    keep_alive = Instant::now() + self.settings.keep_alive;
                }
            }
        }
    }

    /// What the next transaction carries, behind what was packed before. `None`: the runtime is going down.
    async fn next_batch(
        &mut self,
        mut packer: Packer,
        tip: &mut watch::Receiver<Tip>,
        reached: Reached,
    ) -> Option<(Packer, Result<Batch, HistoryError>)> {
        packer.limit_bytes(self.batch_size.bytes());
        let now = *tip.borrow_and_update();
        let packing = pack(packer, now, self.standing.distance(reached.place, now.end));
        self.unless_overdue(packing).await
    }

    /// Sends a transaction, and others behind it while more waits than one takes. Ends when all of them are answered.
    async fn carry(
        &mut self,
        mut link: Link,
        first: Batch,
        mut packer: Packer,
        tip: &mut watch::Receiver<Tip>,
    ) -> Result<Carried, End> {
        let mut in_flight = InFlight::default();
        let mut next = Some(first);
        let mut unreadable = None;
        // Nothing of what is pending can be sent before the next answer.
        let mut exhausted = false;
        loop {
            if let Some(batch) = next.take_if(|batch| in_flight.takes(batch)) {
                self.send(&link, &mut in_flight, batch).await;
            }
            let may_pack = next.is_none() && !exhausted && self.may_follow(&in_flight);
            let before = may_pack.then(|| in_flight.before(&link).reached);
            let Answered { sent, answer, at } = match self.progress(&mut in_flight, before, tip.clone()).await
            {
                Progress::Answered(answered) => *answered,
                Progress::Backlog(reached) => {
                    let Some((back, packed)) = self.next_batch(packer, tip, reached).await else {
                        return Err(End::ShutDown(link));
                    };
                    packer = back;
                    match packed {
                        Ok(batch) => next = Some(batch).filter(|batch| !batch.entries.is_empty()),
                        Err(error) => unreadable = Some(error),
                    }
                    exhausted = next.is_none();
                    continue;
                }
                Progress::GoingDown => return Err(End::ShutDown(link)),
            };
            if in_flight.is_empty() || answer.is_err() {
                self.sequencer.unhurried(false);
            }
            let (event_count, took) = (sent.event_count, at.duration_since(sent.at));
            link = match self.answered(link, sent, answer, took) {
                Ok(link) => link,
                Err(end) => {
                    self.alone = Self::ALONE_AFTER_FAILURE;
                    if let End::Failed { error, .. } = &*end
                        && !in_flight.is_empty()
                    {
                        self.note_definite(error);
                    }
                    // The head is read when nothing that was sent can change it any more, or has timed out.
                    self.unless_overdue(in_flight.drain()).await;
                    return Err(*end);
                }
            };
            exhausted = unreadable.is_some();
            if in_flight.is_empty() && next.is_none() {
                return match unreadable {
                    Some(error) => Err(End::Unreadable(error)),
                    None => {
                        let waiting = self.sequencer.tip().position;
                        Ok(Carried { link, packer, event_count, took, waiting })
                    }
                };
            }
        }
    }

    /// Whether another transaction may be sent before what is in flight is answered: to an ImmuDB that is quick. One that
    /// is slow would only have more to do before it answers those who wait.
    fn may_follow(&self, in_flight: &InFlight) -> bool {
        self.alone == 0
            && self.last_was_quick
            && self.machine.state() == State::Connected
            && !self.shutdown.is_cancelled()
            && in_flight.may_be_followed()
            && in_flight.is_large(self.limits())
    }

    /// Waits for the next answer, or until more lies behind `before`, if that is given, than one transaction takes. A second
    /// one pays only where it is full: of what fits into one, two halves take longer.
    async fn progress(
        &mut self,
        in_flight: &mut InFlight,
        before: Option<Reached>,
        mut tip: watch::Receiver<Tip>,
    ) -> Progress {
        let (standing, limits) = (self.standing.clone(), self.limits());
        let backlog = async {
            let Some(reached) = before else { return std::future::pending().await };
            let is_backlog = |tip: &Tip| rest_behind(&standing, limits, reached, *tip) == Rest::Backlog;
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
                    Some(answered) => Progress::Answered(answered),
                    None => Progress::GoingDown,
                },
                reached = backlog => Progress::Backlog(reached),
            }
        };
        let progress = self.unless_overdue(progress).await;
        self.sent = None;
        progress
    }

    /// What one transaction takes.
    fn limits(&self) -> BatchLimits {
        BatchLimits { bytes_max: self.batch_size.bytes(), ..self.settings.batch }
    }

    /// Working off a backlog takes half of the time at most: the rest of the machine, and of ImmuDB's, is for
    /// those who call meanwhile. But only while the backlog becomes smaller than it ever was: however much is
    /// appended meanwhile, it has an end.
    async fn give_way(&mut self, busy: Duration, pending: u64) {
        const PAUSE_MAX: Duration = Duration::from_millis(50);
        if self.machine.state() != State::Migrating {
            self.pending_min = u64::MAX;
        } else if pending < self.pending_min {
            self.pending_min = pending;
            self.shutdown.run_until_cancelled(tokio::time::sleep(busy.min(PAUSE_MAX))).await;
        }
    }

    /// Callers who were just answered often come again at once. One transaction with all of them costs ImmuDB less than
    /// two with half of them each, so the next waits a moment for as many events as the last had. The slower ImmuDB, the
    /// more a caller loses who comes too late and waits for two transactions.
    async fn await_company(&self, tip: &mut watch::Receiver<Tip>, company: Company, busy: Duration) {
        const COMPANY_MIN: Duration = Duration::from_micros(500);
        const COMPANY_MAX: Duration = Duration::from_millis(25);
        if self.machine.state() == State::Connected {
            let pause = (busy / 16).clamp(COMPANY_MIN, COMPANY_MAX);
            // Those who came meanwhile and those who come again would otherwise take turns for ever.
            let from = if pause > COMPANY_MIN { company.waiting } else { company.reached };
            let as_many = from.0.saturating_add(company.event_count);
            let come = tip.wait_for(|tip| tip.position.0 >= as_many);
            _ = tokio::time::timeout(pause, come).await;
        }
    }

    /// One transaction: the batch and the head, on the condition that the head is as we saw it, or will be.
    async fn send(&mut self, link: &Link, in_flight: &mut InFlight, batch: Batch) {
        let head = self.head_entry(batch.reached, Released::No);
        CrashPoint::BeforeSet.reached();
        self.sequencer.unhurried(self.machine.state() == State::Connected);
        let is_second = !in_flight.is_empty();
        in_flight.send(link, batch, head).await;
        if is_second {
            CrashPoint::SecondSent.reached();
        }
    }

    /// What follows from ImmuDB's answer to the transaction that was sent first.
    fn answered(&mut self, link: Link, sent: Sent, answer: Answer, took: Duration) -> Result<Link, Box<End>> {
        let Link { session, head_tx, .. } = link;
        let Sent { reached, event_count, frame_count, record_bytes, .. } = sent;
        let from = sent.before.reached;
        match answer {
            Ok(header) if header.id <= head_tx => Err(Box::new(End::Suspect)),
            Ok(header) => {
                CrashPoint::AfterSet.reached();
                self.own_tx = Some(header.id);
                self.look_for_foreign(head_tx, header.id, 1);
                self.alone = match header.id == sent.expected() {
                    true => self.alone.saturating_sub(1),
                    false => Self::ALONE_AFTER_FAILURE,
                };
                let last_event = sent.last_event.clone();
                let link = Link { session, head_tx: header.id, reached, last_event };
                self.committed(&link, &sent, took);
                Ok(link)
            }
            // An attempt that was given up came through, or another writer: the head tells at once.
            Err(SetError::Conflict) => {
                debug!(before = ?sent.before, "a condition of a transaction did not hold");
                let (kind, operation) = (ErrorKind::Busy, "Set");
                let error = immudb::Error { kind, operation, message: "the head has changed".to_owned() };
                let pause = match std::mem::replace(&mut self.conflicted, true) {
                    false => Pause::None,
                    true => Pause::Delay,
                };
                Err(Box::new(End::Failed { error, session: Some(session), pause }))
            }
            Err(SetError::NotWritten(mut error) | SetError::Unknown(mut error)) => {
                let pause = match error.kind {
                    ErrorKind::TooLarge if frame_count > 1 => {
                        self.log_smaller(|size| size.refused(record_bytes, Instant::now()), &error);
                        Pause::None
                    }
                    ErrorKind::TooLarge => {
                        let what = named(event_count, from.position, reached.position, record_bytes);
                        error.message = format!("{what} is more than it takes: {}", error.message);
                        Pause::Delay
                    }
                    // ImmuDB itself says why it is busy.
                    ErrorKind::Unreachable if frame_count > 1 => {
                        self.log_smaller(|size| size.failed(record_bytes, Instant::now()), &error);
                        Pause::Delay
                    }
                    ErrorKind::Unreachable if frame_count == 1 => {
                        if self.batch_size.failed_alone((reached.position, reached.snapshots), record_bytes) {
                            let what = named(event_count, from.position, reached.position, record_bytes);
                            let cut = "may be more than it, or a proxy before it, takes";
                            error.message = format!("{what} {cut}: {}", error.message);
                            if let Some(attempts) = self.cut_off.add(1) {
                                warn!(%error, attempts, "nothing behind it is forwarded to ImmuDB");
                            }
                        }
                        Pause::Delay
                    }
                    ErrorKind::Unreachable
                    | ErrorKind::Busy
                    | ErrorKind::Refused
                    | ErrorKind::SessionExpired
                    | ErrorKind::Configuration
                    | ErrorKind::Rejected
                    | ErrorKind::Corrupted => Pause::Delay,
                };
                Err(Box::new(failed(error, session, pause)))
            }
        }
    }

    /// Goes on with smaller transactions, if `change` says so. What became of the large one is for the head to tell.
    fn log_smaller(&mut self, change: impl FnOnce(&mut BatchSize) -> bool, error: &immudb::Error) {
        if change(&mut self.batch_size) {
            let bytes = self.batch_size.bytes();
            warn!(%error, bytes, "ImmuDB is sent smaller transactions from now on");
        }
    }

    /// Every transaction of ours writes `log:head`. So many of those behind `before` and up to `now` are ours; the others
    /// were written by somebody else.
    pub(super) fn look_for_foreign(&mut self, before: TxId, now: TxId, ours: u64) {
        let foreign = now.0.saturating_sub(before.0).saturating_sub(ours);
        if let Some(transactions) = self.foreign.add(foreign) {
            let (after, before) = (before.0, now.0);
            warn!(transactions, after, before, "somebody else writes to the database");
        }
    }

    fn committed(&mut self, link: &Link, sent: &Sent, took: Duration) {
        self.delays.reset();
        self.session_expired = false;
        self.conflicted = false;
        self.batch_size.taken(sent.record_bytes, Instant::now());
        self.standing.recovered();
        let rest = rest_behind(&self.standing, self.limits(), link.reached, self.sequencer.tip());
        let snapshots_before = self.standing.view().forwarded.snapshots;
        let mark = self.reach(link, link.reached, Learned::ByCommit);
        if sent.event_count > 0 || mark.snapshots > snapshots_before {
            self.sequencer.mark(mark);
        }
        let commit = Commit { rest, took, bytes: sent.bytes };
        self.last_was_quick = self.machine.is_quick(commit);
        self.happened(Happening::Committed(commit));
        match sent.event_count {
            0 => self.probes.written(self.last_was_quick),
            _ => self.probes.reset(),
        }
        self.note_slowness(commit);
    }

    /// ImmuDB has the log up to here.
    fn reach(&self, link: &Link, reached: Reached, learned: Learned) -> ForwardedMark {
        let mark = ForwardedMark {
            position: reached.position,
            snapshots: reached.snapshots,
            immudb_tx: link.head_tx.0,
        };
        self.standing.advance(mark, reached.place, learned);
        mark
    }
}

/// How much of the log lies behind here.
fn rest_behind(standing: &Standing, limits: BatchLimits, reached: Reached, tip: Tip) -> Rest {
    let events = tip.position.0.saturating_sub(reached.position.0);
    let snapshots = tip.snapshots.saturating_sub(reached.snapshots);
    // A lone event is two keys.
    let keys = events.saturating_mul(2).saturating_add(snapshots);
    let bytes = standing.distance(reached.place, tip.end);
    match keys < limits.keys_max as u64 && bytes <= limits.bytes_max as u64 {
        true => Rest::FitsOne,
        false => Rest::Backlog,
    }
}

/// What goes alone, for those who have to make room for it.
fn named(event_count: u64, from: Position, to: Position, bytes: usize) -> String {
    match event_count {
        0 => format!("a snapshot ({bytes} bytes)"),
        _ => format!("the append at positions {} to {} ({bytes} bytes)", from.next().0, to.0),
    }
}

/// The next transaction's contents. `None`: the runtime is going down.
async fn pack(mut packer: Packer, tip: Tip, lag_bytes: u64) -> Option<(Packer, Result<Batch, HistoryError>)> {
    /// What was written just now is in memory, and need not be waited for elsewhere.
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

/// A session lives on through an error that ImmuDB itself answered with.
fn failed(error: immudb::Error, session: Session, pause: Pause) -> End {
    let alive = match error.kind {
        ErrorKind::Busy | ErrorKind::Rejected | ErrorKind::TooLarge | ErrorKind::Corrupted => Some(session),
        ErrorKind::Refused
        | ErrorKind::Unreachable
        | ErrorKind::SessionExpired
        | ErrorKind::Configuration => None,
    };
    End::Failed { error, session: alive, pause }
}
