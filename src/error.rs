//! The errors of the store: one type, from the sequencer to the status that a client receives.
//!
//! Each error knows its reason, its severity, and whether the client or the service is the cause.

use std::{path::PathBuf, time::Duration};

use tokio::task::JoinError;

use crate::{
    clock::Implausible,
    event::{AggregateId, EventId, NameError, Position, SequenceNumber, record::RecordError},
    history::error::HistoryError,
    index::IndexError,
    log::ReadError,
    merkle::Hash,
    refusals::{self, Severity},
    tree::TreeError,
};

mod no_proof;
mod over_share;

pub use no_proof::NoProof;
pub use over_share::{OverShare, ShareLimit};

/// What went wrong. For a write, every variant except [`StoreError::OutcomeUnknown`] and
/// [`StoreError::Internal`] means that nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The request itself is invalid, whatever is stored.
    #[error("{field}: {problem}")]
    Invalid {
        /// The path of the field in the request.
        field: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// The request conflicts with stored events.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The aggregate has no snapshot, or does not exist.
    #[error("{0}: has no snapshot")]
    NoSnapshot(AggregateId),
    /// The service is in a state that does not allow the call, and a retry does not help.
    #[error(transparent)]
    Precondition(#[from] FailedPrecondition),
    /// There is no proof, or nothing to verify a load with.
    #[error(transparent)]
    NoProof(#[from] NoProof),
    /// A limit is reached. A later retry may succeed.
    #[error("{limit}: {}", reached(*limit, *max, *share))]
    Full {
        /// The limit that is reached.
        limit: Limit,
        /// The value of the limit, in its unit: a number or bytes. For [`Limit::DiskFull`], it is a
        /// minimum.
        max: u64,
        /// The client's share of the limit, if the share was reached.
        share: Option<u64>,
        /// How long the client should wait before a retry.
        retry_after: Duration,
    },
    /// The identity that calls has used up its share of a limit, or a limit of its own.
    #[error(transparent)]
    Share(#[from] OverShare),
    /// The service does not accept the call at the moment.
    #[error("{}", .0.message())]
    Unavailable(Unavailable),
    /// The append may or may not be stored. A retry with the same ids resolves that.
    #[error("the outcome is unknown; retry the same events with the same ids")]
    OutcomeUnknown,
    /// Stored data cannot be read back as it was written.
    #[error(transparent)]
    Damaged(#[from] Unreadable),
    /// A bug: a task of the service panicked. The text says what it was doing. The outcome of a
    /// write is not known.
    #[error("internal error: {0} panicked; see standard error of the service")]
    Internal(&'static str),
}

/// Why stored data cannot be read back as it was written.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The log or the index is damaged, or cannot be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A record matches its hash, but cannot be decoded.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A record has an invalid aggregate id.
    #[error(transparent)]
    AggregateId(#[from] NameError),
    /// The index has no address of an event that it counts.
    #[error("index: an event is missing")]
    EventMissing,
    /// The log does not have the tree that was made from it.
    #[error(transparent)]
    Tree(#[from] TreeError<HistoryError>),
    /// The record of an event is not the one that the tree has.
    #[error(
        "position {position}: the record is not the one in the tree over the events: the log was changed"
    )]
    NotInTree {
        /// The position of the event.
        position: Position,
    },
    /// The log has another tree than ImmuDB has confirmed.
    #[error(
        "the first {size} events have the root {}, but ImmuDB has confirmed {}: the log was changed",
        hex::encode(.found),
        hex::encode(.expected)
    )]
    OtherTree {
        /// The number of events.
        size: u64,
        /// The root that ImmuDB has confirmed.
        expected: Hash,
        /// The root of the tree over the log.
        found: Hash,
    },
}

/// Why a write conflicts with stored events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// An aggregate's last event does not have the expected number.
    #[error("{aggregate}: expected sequence number {expected}, actual {actual}")]
    WrongExpectedSequence {
        /// An aggregate that does not meet its expectation.
        aggregate: AggregateId,
        /// The number that the client expects its last event to have.
        expected: SequenceNumber,
        /// The number of its last event; 0 if it does not exist.
        actual: SequenceNumber,
    },
    /// The id belongs to a different event, or to an event of another append.
    #[error("event id {0} is already stored with different content or as part of another append")]
    EventIdReused(EventId),
}

/// A state of the service or of its input that only an operator or a different request can change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FailedPrecondition {
    /// A snapshot to save claims to include events that are not stored.
    #[error("{aggregate}: the snapshot has sequence number {snapshot}, but the last event has {last}")]
    SnapshotAhead {
        /// The aggregate of the snapshot.
        aggregate: AggregateId,
        /// The sequence number of the snapshot.
        snapshot: SequenceNumber,
        /// The number of the aggregate's last event; 0 if it does not exist.
        last: SequenceNumber,
    },
    /// The configuration disables writes.
    #[error("event sourcing is disabled; set event_sourcing.enabled to true in {file}")]
    EventSourcingDisabled {
        /// The path of the configuration file.
        file: PathBuf,
    },
    /// Another writer has the ImmuDB database, or its history differs from the local log.
    #[error(
        "this service is fenced: another writer has the ImmuDB database, or its history differs from \
     the local log; writes are refused"
    )]
    Fenced,
    /// The local log is poisoned, or was opened read-only.
    #[error(
        "the local log cannot be written; writes are refused until the service has been restarted, or \
     until it has opened the log again after a start without a writable disk"
    )]
    LocalLogFailed,
    /// A reader's checkpoint is not in the stored history. The text says why.
    #[error("the checkpoint belongs to another history: {0}")]
    HistoryChanged(&'static str),
}

/// A limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The number of appends and snapshots that wait for the sequencer.
    CallsWaiting,
    /// The estimated memory of these calls, in bytes.
    CallsWaitingBytes,
    /// The number of events that ImmuDB does not have yet.
    PendingEvents,
    /// The bytes of the local log that ImmuDB does not have yet.
    PendingBytes,
    /// The free bytes on the disk of the local log. This limit is a minimum.
    DiskFull,
    /// The number of open streams.
    StreamsOpen,
    /// The number of calls in progress, including streams.
    ConcurrentCalls,
    /// The number of open connections.
    Connections,
    /// The bytes in memory for requests, reads in progress and responses.
    CallBytes,
    /// The number of verifications in progress.
    Verifications,
}

impl Limit {
    /// Returns the reason for `ErrorInfo`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::CallsWaiting => "CALLS_WAITING",
            Self::CallsWaitingBytes => "CALLS_WAITING_BYTES",
            Self::PendingEvents => "PENDING_EVENTS",
            Self::PendingBytes => "PENDING_BYTES",
            Self::DiskFull => "DISK_FULL",
            Self::StreamsOpen => "STREAMS_OPEN",
            Self::ConcurrentCalls => "CONCURRENT_CALLS",
            Self::Connections => "CONNECTIONS",
            Self::CallBytes => "CALL_BYTES",
            Self::Verifications => "VERIFYING",
        }
    }

    /// Returns the key of the limit in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::CallsWaiting => "limits.calls_waiting_max",
            Self::CallsWaitingBytes => "limits.calls_waiting_bytes_max",
            Self::PendingEvents => "limits.pending_events_max",
            Self::PendingBytes => "limits.pending_bytes_max",
            Self::DiskFull => "limits.disk_free_min",
            Self::StreamsOpen => "limits.streams_open_max",
            Self::ConcurrentCalls => "limits.concurrent_calls_max",
            Self::Connections => "limits.connections_max",
            Self::CallBytes => "limits.call_bytes_max",
            // A fixed limit, without a key.
            Self::Verifications => "verifications in progress",
        }
    }
}

impl StoreError {
    /// Returns the error of a task that writes nothing and did not end by itself: it panicked, or
    /// the service is shutting down and cancelled it.
    pub fn of_task(error: &JoinError, what: &'static str) -> Self {
        if error.is_panic() { Self::Internal(what) } else { Self::Unavailable(Unavailable::ShuttingDown) }
    }

    /// Like [`StoreError::of_task`], for work that may have stored events before it was cancelled.
    pub fn of_writing_task(error: &JoinError, what: &'static str) -> Self {
        if error.is_panic() { Self::Internal(what) } else { Self::OutcomeUnknown }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why the service does not accept the call at the moment. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// The service is starting, or is copying history from ImmuDB.
    Starting,
    /// The service is shutting down.
    ShuttingDown,
    /// The configuration requires a comparison with ImmuDB first, which has not succeeded yet.
    FirstContact,
    /// ImmuDB has a history that this service may not continue, and the local log is empty.
    EmptyLog,
    /// The time is not known. See `crate::clock`.
    Clock,
    /// The local disk rejected the write, and no part of it remains.
    NotWritten,
    /// A file of the index must be rebuilt from the log first.
    Index,
}

impl Unavailable {
    /// Returns the reason for `ErrorInfo`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Starting => "STARTING",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::FirstContact => "FIRST_CONTACT",
            Self::EmptyLog => "EMPTY_LOG",
            Self::Clock => "CLOCK",
            Self::NotWritten => "NOT_WRITTEN",
            Self::Index => "INDEX",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Starting => "the service is starting; nothing was written",
            Self::ShuttingDown => "the service is shutting down; nothing was written",
            Self::NotWritten => "cannot write to the local log; nothing was written",
            Self::Index => "a part of the index is unusable until it has been rebuilt; nothing was written",
            Self::EmptyLog => {
                "the local log is empty, but the ImmuDB database has a history or belongs to another \
                 writer (see system.log of the service); nothing was written"
            }
            Self::Clock => {
                "the clock of the service's machine is not plausible (see system.log of the service); \
                 nothing was written"
            }
            Self::FirstContact => {
                "immudb.require_contact requires a comparison of the local log with ImmuDB, which has not \
                 been reached yet or belongs to another writer; nothing was written"
            }
        }
    }
}

impl StoreError {
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }

    /// Returns whether the service failed, as opposed to the client. `store_failures` and
    /// `load_failures` count these errors. A client that has used up its share is no failure.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Invalid { .. } | Self::Conflict(_) | Self::NoSnapshot(_) | Self::Share(_) => false,
            Self::NoProof(why) => why.is_failure(),
            Self::Precondition(precondition) => match precondition {
                FailedPrecondition::SnapshotAhead { .. }
                | FailedPrecondition::EventSourcingDisabled { .. }
                | FailedPrecondition::HistoryChanged(_) => false,
                FailedPrecondition::Fenced | FailedPrecondition::LocalLogFailed => true,
            },
            Self::Full { .. }
            | Self::Unavailable(_)
            | Self::OutcomeUnknown
            | Self::Damaged(_)
            | Self::Internal(_) => true,
        }
    }

    /// Returns the reason and the severity of a rejection caused by the service and not by the
    /// client.
    pub fn refusal(&self) -> Option<(&'static str, Severity)> {
        match self {
            Self::Invalid { .. } | Self::Conflict(_) | Self::NoSnapshot(_) => None,
            Self::NoProof(why) => why.severity().map(|severity| (why.reason(), severity)),
            Self::Precondition(precondition) => match precondition {
                FailedPrecondition::SnapshotAhead { .. } | FailedPrecondition::HistoryChanged(_) => None,
                FailedPrecondition::EventSourcingDisabled { .. } => {
                    Some((precondition.reason(), Severity::Limit))
                }
                FailedPrecondition::Fenced | FailedPrecondition::LocalLogFailed => {
                    Some((precondition.reason(), Severity::Failure))
                }
            },
            Self::Full { limit, .. } => Some((limit.reason(), Severity::Limit)),
            Self::Share(_) => Some((OverShare::REASON, Severity::Limit)),
            Self::Unavailable(why) => Some((
                why.reason(),
                match why {
                    Unavailable::Starting | Unavailable::ShuttingDown => Severity::Passing,
                    Unavailable::FirstContact | Unavailable::NotWritten | Unavailable::Index => {
                        Severity::Limit
                    }
                    Unavailable::EmptyLog | Unavailable::Clock => Severity::Failure,
                },
            )),
            Self::OutcomeUnknown => Some(("OUTCOME_UNKNOWN", Severity::Failure)),
            Self::Damaged(_) => Some(("DAMAGED", Severity::Failure)),
            Self::Internal(_) => Some(("INTERNAL", Severity::Failure)),
        }
    }

    /// Records this error if it is a rejection caused by the service. `message` is the text sent to
    /// the client.
    pub fn record(&self, message: &str) {
        if let Some((reason, severity)) = self.refusal() {
            refusals::refused(reason, severity, message);
        }
    }
}

impl FailedPrecondition {
    /// Returns the reason for `ErrorInfo`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::SnapshotAhead { .. } => "SNAPSHOT_AHEAD",
            Self::EventSourcingDisabled { .. } => "EVENT_SOURCING_DISABLED",
            Self::Fenced => "FENCED",
            Self::LocalLogFailed => "LOCAL_LOG_FAILED",
            Self::HistoryChanged(_) => "HISTORY_CHANGED",
        }
    }
}

fn reached(limit: Limit, max: u64, share: Option<u64>) -> String {
    if limit == Limit::DiskFull {
        let full = "the disk of the local log is full";
        return match max {
            0 => full.to_owned(),
            // The disk may also have rejected a write although more was free, because of a quota.
            _ => format!("{full}, or has less than {max} bytes free"),
        };
    }
    match share {
        None => format!("the limit of {max} has been reached"),
        Some(share) => format!("this connection has reached its share of {share} of {max}"),
    }
}

impl From<HistoryError> for StoreError {
    fn from(error: HistoryError) -> Self {
        Self::Damaged(error.into())
    }
}

impl From<ReadError> for StoreError {
    fn from(error: ReadError) -> Self {
        HistoryError::from(error).into()
    }
}

impl From<TreeError<HistoryError>> for StoreError {
    fn from(error: TreeError<HistoryError>) -> Self {
        match error {
            TreeError::Leaves(error) => error.into(),
            TreeError::TooSmall { expected, found } => {
                NoProof::TreeBuilding { size: found, of: expected }.into()
            }
            TreeError::File(error) => NoProof::Failed { reason: error.to_string() }.into(),
            other @ (TreeError::LeafCount { .. } | TreeError::OtherLeaves { .. } | TreeError::Proof(_)) => {
                Self::Damaged(other.into())
            }
        }
    }
}

impl From<Implausible> for StoreError {
    fn from(_: Implausible) -> Self {
        Self::Unavailable(Unavailable::Clock)
    }
}

impl From<IndexError> for StoreError {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::NotMadeYet { .. } => Self::Unavailable(Unavailable::Index),
            IndexError::NotMade { .. } => HistoryError::from(error).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_limit_says_whether_it_is_a_maximum_or_a_minimum() {
        let message = |limit, share| {
            StoreError::Full { limit, max: 500, share, retry_after: Duration::from_secs(1) }.to_string()
        };
        assert_eq!(
            message(Limit::PendingEvents, None),
            "limits.pending_events_max: the limit of 500 has been reached"
        );
        assert_eq!(
            message(Limit::CallsWaiting, Some(400)),
            "limits.calls_waiting_max: this connection has reached its share of 400 of 500"
        );
        assert_eq!(
            message(Limit::Verifications, None),
            "verifications in progress: the limit of 500 has been reached"
        );
        assert_eq!(
            message(Limit::DiskFull, None),
            "limits.disk_free_min: the disk of the local log is full, or has less than 500 bytes free"
        );
    }
}
