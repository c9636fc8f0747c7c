//! Following the log: one transaction after the other, until something ends it.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::warn;

use super::{
    BatchSize, End, Forwarder, Learned, Link, Pause, Reached, Released, State,
    batch::{Batch, Packer},
    state::{Commit, Happening, Rest},
    unchanged_since,
};
use crate::{
    crash_point::CrashPoint,
    event::{Position, record::ForwardedMark},
    history::HistoryError,
    immudb::{self, ErrorKind, Precondition, Session, SetError, TxId},
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

/// A transaction that was committed.
struct Carried {
    event_count: u64,
    record_bytes: usize,
    /// Of the request.
    bytes: usize,
    took: Duration,
}

impl Forwarder {
    /// Carries the log over until something ends it.
    pub(super) async fn follow(&mut self, mut link: Link) -> End {
        let mut packer = Packer::new(self.history.clone(), self.settings.batch, link.reached);
        let mut tip = self.sequencer.watch_tip();
        let mut keep_alive = Instant::now() + self.settings.keep_alive;
        let mut probe = Instant::now();
        loop {
            packer.limit_bytes(self.batch_size.bytes());
            let now = *tip.borrow_and_update();
            let lag_bytes = self.standing.distance(link.reached.place, now.end);
            let batch = match pack(packer, now, lag_bytes).await {
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
                let (began, event_count) = (Instant::now(), batch.event_count);
                let waiting;
                (link, waiting) = match self.send(link, batch).await {
                    Ok(sent) => sent,
                    Err(end) => return end,
                };
                let pending = tip.borrow().position.0.saturating_sub(link.reached.position.0);
                let busy = began.elapsed();
                self.give_way(busy, pending).await;
                let company = Company { reached: link.reached.position, waiting, event_count };
                self.await_company(&mut tip, company, busy).await;
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
                    self.look_for_foreign(link.head_tx, link.head_tx.next());
                    keep_alive = Instant::now() + self.settings.keep_alive;
                }
            }
        }
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

    /// One transaction: the batch and the head, on the condition that the head is as we saw it.
    async fn send(&mut self, link: Link, batch: Batch) -> Result<(Link, Position), End> {
        let Link { session, head_tx, last_event, reached: from } = link;
        let (reached, next_event) = (batch.reached, batch.last_event.or_else(|| last_event.clone()));
        let (event_count, frame_count, record_bytes) = (batch.event_count, batch.frame_count, batch.bytes);
        let mut entries = batch.entries;
        entries.push(self.head_entry(reached, Released::No));
        let bytes = entries.iter().map(|entry| entry.key.len().saturating_add(entry.value.len())).sum();
        let sent = Instant::now();
        let result = {
            let mut conditions = unchanged_since(head_tx);
            // That alone would pass on an ImmuDB that was put back below this session.
            conditions.extend(last_event.map(Precondition::KeyMustExist));
            CrashPoint::BeforeSet.reached();
            self.sequencer.unhurried(self.machine.state() == State::Connected);
            self.sent = Some(sent);
            let set = session.set(entries, conditions);
            self.unless_overdue(set).await
        };
        self.sent = None;
        self.sequencer.unhurried(false);
        match result {
            Ok(header) if header.id <= head_tx => Err(End::Suspect),
            Ok(header) => {
                CrashPoint::AfterSet.reached();
                self.own_tx = Some(header.id);
                self.look_for_foreign(head_tx, header.id);
                let link = Link { session, head_tx: header.id, reached, last_event: next_event };
                let waiting = self.sequencer.tip().position;
                let carried = Carried { event_count, record_bytes, bytes, took: sent.elapsed() };
                self.committed(&link, carried);
                Ok((link, waiting))
            }
            // An attempt that was given up came through, or another writer: the head tells at once.
            Err(SetError::Conflict) => {
                let (kind, operation) = (ErrorKind::Busy, "Set");
                let error = immudb::Error { kind, operation, message: "the head has changed".to_owned() };
                let pause = match std::mem::replace(&mut self.conflicted, true) {
                    false => Pause::None,
                    true => Pause::Delay,
                };
                Err(End::Failed { error, session: Some(session), pause })
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
                Err(failed(error, session, pause))
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

    /// Every transaction of ours writes `log:head`, so what lies between two of them was written by somebody else.
    pub(super) fn look_for_foreign(&mut self, before: TxId, now: TxId) {
        let foreign = now.0.saturating_sub(before.0).saturating_sub(1);
        if let Some(transactions) = self.foreign.add(foreign) {
            let (after, before) = (before.0, now.0);
            warn!(transactions, after, before, "somebody else writes to the database");
        }
    }

    fn committed(&mut self, link: &Link, carried: Carried) {
        let Carried { event_count, record_bytes, bytes, took } = carried;
        self.delays.reset();
        self.session_expired = false;
        self.conflicted = false;
        self.batch_size.taken(record_bytes, Instant::now());
        self.standing.recovered();
        let tip = self.sequencer.tip();
        let events = tip.position.0.saturating_sub(link.reached.position.0);
        let snapshots = tip.snapshots.saturating_sub(link.reached.snapshots);
        // A lone event is two keys.
        let keys = events.saturating_mul(2).saturating_add(snapshots);
        let bytes_left = self.standing.distance(link.reached.place, tip.end);
        let (keys_max, bytes_max) = (self.settings.batch.keys_max, self.batch_size.bytes());
        let fits = keys < keys_max as u64 && bytes_left <= bytes_max as u64;
        let snapshots_before = self.standing.view().forwarded.snapshots;
        let mark = self.reach(link, link.reached, Learned::ByCommit);
        if event_count > 0 || mark.snapshots > snapshots_before {
            self.sequencer.mark(mark);
        }
        let rest = if fits { Rest::FitsOne } else { Rest::Backlog };
        let commit = Commit { rest, took, bytes };
        self.happened(Happening::Committed(commit));
        match event_count {
            0 => self.probes.written(self.machine.is_quick(commit)),
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
