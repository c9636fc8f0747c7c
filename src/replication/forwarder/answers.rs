//! Handles ImmuDB's answers to transactions: publishes what was committed, and decides how to
//! continue after a failure.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    BatchSize, Forwarder, Learned, Link, LogPoint, Pause, StopReason,
    in_flight::{Answered, Sent},
    trust::TrustError,
};
use crate::{
    crash_point::CrashPoint,
    event::{Position, record::ReplicationMark},
    immudb::{self, ErrorKind, Session, SetError, TxHeader},
    log::Tip,
    replication::{
        BatchLimits,
        state::{Backlog, Commit, Signal},
        status::ReplicationStatus,
    },
};

impl Forwarder {
    /// Handles ImmuDB's answer to the oldest transaction in flight.
    pub(super) async fn answered(&mut self, link: Link, answered: Answered) -> Result<Link, Box<StopReason>> {
        let Answered { sent, answer, at, entries } = answered;
        let took = at.duration_since(sent.at);
        match answer {
            Ok(header) => {
                CrashPoint::AfterSet.reached();
                match self.judge(&link.session, &header, entries, sent.reached.tree).await {
                    Ok(()) => Ok(self.committed(link, &header, sent, took)),
                    Err(error) => Err(Box::new(distrusted(error, link.session))),
                }
            }
            Err(error) => {
                self.note_unanswered(entries);
                Err(Box::new(self.refused(link.session, &sent, error)))
            }
        }
    }

    /// Decides how to continue after an error. The outcome of the transaction is not known,
    /// whatever the error says.
    fn refused(&mut self, session: Session, sent: &Sent, error: SetError) -> StopReason {
        let Sent { reached, event_count, frame_count, record_bytes, .. } = *sent;
        let from = sent.before.reached;
        match error {
            // Either an earlier attempt with an unknown outcome was committed after all, or there
            // is another writer. The head tells which.
            SetError::Conflict => {
                debug!(before = ?sent.before, "a precondition of a transaction failed");
                let error = head_changed();
                let pause =
                    if std::mem::replace(&mut self.conflicted, true) { Pause::Delay } else { Pause::None };
                StopReason::Failed { error, session: Some(session), pause }
            }
            SetError::NotWritten(mut error) | SetError::Unknown(mut error) => {
                let pause = match error.kind {
                    ErrorKind::TooLarge if frame_count > 1 => {
                        self.log_smaller(|size| size.refused(record_bytes, Instant::now()), &error);
                        Pause::None
                    }
                    ErrorKind::TooLarge => {
                        let what = named(event_count, from.position, reached.position, record_bytes);
                        error.message =
                            format!("{what} exceeds the message size that ImmuDB accepts: {}", error.message);
                        Pause::Delay
                    }
                    // The size is suspected only for `Unreachable`: if ImmuDB is busy, it says why.
                    ErrorKind::Unreachable if frame_count > 1 => {
                        self.log_smaller(|size| size.failed(record_bytes, Instant::now()), &error);
                        Pause::Delay
                    }
                    ErrorKind::Unreachable if frame_count == 1 => {
                        if self.batch_size.failed_alone((reached.position, reached.snapshots), record_bytes) {
                            let what = named(event_count, from.position, reached.position, record_bytes);
                            let cut = "may exceed the message size that ImmuDB or a proxy accepts";
                            error.message = format!("{what} {cut}: {}", error.message);
                            if let Some(attempts) = self.cut_off.add(1) {
                                warn!(%error, attempts, "replication to ImmuDB is blocked by a large \
                                 append or snapshot");
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
                failed(error, session, pause)
            }
        }
    }

    /// Applies `change` to the transaction size, and logs the new size if `change` says so. The
    /// outcome of the large transaction is learned from the head.
    fn log_smaller(&mut self, change: impl FnOnce(&mut BatchSize) -> bool, error: &immudb::Error) {
        if change(&mut self.batch_size) {
            let bytes = self.batch_size.bytes();
            warn!(%error, bytes, "sending smaller transactions to ImmuDB from now on");
        }
    }

    /// Publishes a commit that was verified.
    fn committed(&mut self, link: Link, header: &TxHeader, sent: Sent, took: Duration) -> Link {
        self.alone = if header.id == sent.expected() {
            self.alone.saturating_sub(1)
        } else {
            Self::ALONE_AFTER_FAILURE
        };
        let Sent { reached, event_count, record_bytes, bytes, last_event, checkpoint, .. } = sent;
        let link = Link { session: link.session, head_tx: header.id, reached, last_event };
        self.delays.reset();
        self.session_expired = false;
        self.conflicted = false;
        self.trust.was_doubted = false;
        self.batch_size.taken(record_bytes, Instant::now());
        self.replication.recovered();
        let backlog = backlog_after(&self.replication, self.limits(), link.reached, self.sequencer.tip());
        let snapshots_before = self.replication.view().forwarded.snapshots;
        let mark = self.reach(&link, link.reached, Learned::ByCommit);
        if event_count > 0 || mark.snapshots > snapshots_before {
            self.sequencer.mark(mark);
        }
        let commit = Commit { backlog, took, bytes };
        self.last_was_quick = self.machine.is_quick(commit);
        self.apply_signal(Signal::Committed(commit));
        match event_count {
            0 => self.probes.written(self.last_was_quick),
            _ => self.probes.reset(),
        }
        self.note_slowness(commit);
        self.note_checkpoint(&link, checkpoint);
        link
    }

    /// Publishes that ImmuDB has the log up to `reached`.
    pub(super) fn reach(&self, link: &Link, reached: LogPoint, learned: Learned) -> ReplicationMark {
        let mark = ReplicationMark {
            position: reached.position,
            snapshots: reached.snapshots,
            immudb_tx: link.head_tx.0,
            immudb_hash: self.trust.hash_of(link.head_tx),
            tampered: false,
        };
        self.replication.advance(mark, reached.place, learned);
        mark
    }
}

/// Returns how much of the log is pending after `reached`.
pub(super) fn backlog_after(
    replication: &ReplicationStatus,
    limits: BatchLimits,
    reached: LogPoint,
    tip: Tip,
) -> Backlog {
    let events = tip.position.0.saturating_sub(reached.position.0);
    let snapshots = tip.snapshots.saturating_sub(reached.snapshots);
    // An event on its own takes two keys: its record and the sequence number of its aggregate.
    let keys = events.saturating_mul(2).saturating_add(snapshots);
    let bytes = replication.distance(reached.place, tip.end);
    if keys < limits.keys_max as u64 && bytes <= limits.bytes_max as u64 {
        Backlog::FitsOne
    } else {
        Backlog::Large
    }
}

/// Describes an append or a snapshot that is sent alone, for operators who have to raise a size
/// limit.
fn named(event_count: u64, from: Position, to: Position, bytes: usize) -> String {
    match event_count {
        0 => format!("a snapshot ({bytes} bytes)"),
        _ => format!("the append at positions {} to {} ({bytes} bytes)", from.next().0, to.0),
    }
}

/// Ends following the log because the history in ImmuDB does not go on as expected.
pub(super) fn distrusted(error: TrustError, session: Session) -> StopReason {
    match error {
        TrustError::Immudb(error) => failed(error, session, Pause::Delay),
        TrustError::Local(error) => StopReason::Unreadable(error),
        TrustError::HeadChanged => {
            let error = head_changed();
            StopReason::Failed { error, session: Some(session), pause: Pause::None }
        }
        TrustError::Wrong(evidence) => StopReason::Wrong(evidence),
    }
}

/// The error of an attempt that has to read the head first.
pub(super) fn head_changed() -> immudb::Error {
    let (kind, operation) = (ErrorKind::Busy, "Set");
    immudb::Error { kind, operation, message: "log:head has changed".to_owned() }
}

/// Ends following the log with an error. The session is kept if ImmuDB itself returned the error
/// and the session is still usable.
pub(super) fn failed(error: immudb::Error, session: Session, pause: Pause) -> StopReason {
    let alive = match error.kind {
        ErrorKind::Busy | ErrorKind::Rejected | ErrorKind::TooLarge | ErrorKind::Corrupted => Some(session),
        ErrorKind::Refused
        | ErrorKind::Unreachable
        | ErrorKind::SessionExpired
        | ErrorKind::Configuration => None,
    };
    StopReason::Failed { error, session: alive, pause }
}
