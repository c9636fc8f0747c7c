//! Why the store refuses or fails: one type, from the sequencer to the caller's status.

use std::time::Duration;

use crate::{
    clock::Implausible,
    event::{AggregateId, EventId, SequenceNumber},
    index::IndexError,
    log::ReadError,
    refusals::Severity,
};

/// What went wrong. Every variant but [`StoreError::OutcomeUnknown`] of a write means that nothing was
/// written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The request itself is wrong, whatever is stored.
    #[error("{field}: {problem}")]
    Invalid { field: String, problem: String },
    /// What is stored forbids it.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    #[error("{0}: no snapshot")]
    NoSnapshot(AggregateId),
    /// The service is in no state to do it, and sending it again does not help.
    #[error(transparent)]
    Precondition(#[from] Precondition),
    #[error("{limit}: {}", reached(*max, *share))]
    Full {
        limit: Limit,
        max: u64,
        /// The caller's share of it, if that is what was reached.
        share: Option<u64>,
        retry_after: Duration,
    },
    #[error("{}", .0.message())]
    Unavailable(Unavailable),
    /// It may be stored or not; the same ids, sent again, tell.
    #[error("the outcome is not known; send the same events with the same ids again")]
    OutcomeUnknown,
    /// What is stored can't be read back as it was written.
    #[error("{0}")]
    Damaged(String),
}

/// What is stored forbids the write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    #[error("{aggregate}: expected sequence {expected}, actual {actual}")]
    WrongExpectedSequence { aggregate: AggregateId, expected: SequenceNumber, actual: SequenceNumber },
    #[error("event id {0} is stored already, with other content or other company")]
    EventIdReused(EventId),
}

/// A state of the service or of what it was given that only a person or another request changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Precondition {
    #[error("{aggregate}: snapshot at sequence {snapshot}, but the last event has {last}")]
    SnapshotAhead { aggregate: AggregateId, snapshot: SequenceNumber, last: SequenceNumber },
    #[error("event sourcing is off: set event_sourcing.enabled to true in {file}")]
    EventSourcingDisabled { file: String },
    #[error("another writer has the ImmuDB database; this service takes no events")]
    Fenced,
    #[error("the local log could not be written; the service takes nothing until it is restarted")]
    LocalLogFailed,
    #[error("the checkpoint belongs to another history: {0}")]
    HistoryChanged(&'static str),
}

/// A limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    CallsWaiting,
    CallsWaitingBytes,
    PendingEvents,
    PendingBytes,
    DiskFull,
    StreamsOpen,
    ConcurrentCalls,
    CallBytes,
}

impl Limit {
    /// The reason in `ErrorInfo`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::CallsWaiting => "CALLS_WAITING",
            Self::CallsWaitingBytes => "CALLS_WAITING_BYTES",
            Self::PendingEvents => "PENDING_EVENTS",
            Self::PendingBytes => "PENDING_BYTES",
            Self::DiskFull => "DISK_FULL",
            Self::StreamsOpen => "STREAMS_OPEN",
            Self::ConcurrentCalls => "CONCURRENT_CALLS",
            Self::CallBytes => "CALL_BYTES",
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CallsWaiting => "limits.calls_waiting_max",
            Self::CallsWaitingBytes => "limits.calls_waiting_bytes_max",
            Self::PendingEvents => "limits.pending_events_max",
            Self::PendingBytes => "limits.pending_bytes_max",
            Self::DiskFull => "limits.disk_free_min",
            Self::StreamsOpen => "limits.streams_open_max",
            Self::ConcurrentCalls => "limits.concurrent_calls_max",
            Self::CallBytes => "limits.call_bytes_max",
        })
    }
}

/// Why the service does nothing just now. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    Starting,
    ShuttingDown,
    FirstContact,
    /// ImmuDB has a history that this service may not continue, and the local log has none of it.
    EmptyLog,
    /// The time is not known: see [`crate::clock`].
    Clock,
    /// The local disk refused the write, and nothing of it is left.
    NotWritten,
    /// A file of the index has to be made again from the log first.
    Index,
}

impl Unavailable {
    /// The reason in `ErrorInfo`.
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
            Self::NotWritten => "the local log could not be written; nothing was written",
            Self::Index => "a part of the index can't be used until it is made again; nothing was written",
            Self::EmptyLog => {
                "the local log is empty, and the database has a history or belongs to another writer (see the \
                 service's system.log); nothing was written"
            }
            Self::Clock => {
                "the clock of the service's machine is not plausible (see the service's system.log); nothing was \
                 written"
            }
            Self::FirstContact => {
                "after this start immudb.require_contact demands that the log is compared with ImmuDB, which was not reached \
                 yet or belongs to another writer; nothing was written"
            }
        }
    }
}

impl StoreError {
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }

    /// The service failed, not the caller: what `store_failures` and `load_failures` count.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Invalid { .. } | Self::Conflict(_) | Self::NoSnapshot(_) => false,
            Self::Precondition(precondition) => match precondition {
                Precondition::SnapshotAhead { .. }
                | Precondition::EventSourcingDisabled { .. }
                | Precondition::HistoryChanged(_) => false,
                Precondition::Fenced | Precondition::LocalLogFailed => true,
            },
            Self::Full { .. } | Self::Unavailable(_) | Self::OutcomeUnknown | Self::Damaged(_) => true,
        }
    }

    /// The reason and the weight of a refusal that is the service's own, not the caller's.
    pub fn refusal(&self) -> Option<(&'static str, Severity)> {
        match self {
            Self::Invalid { .. } | Self::Conflict(_) | Self::NoSnapshot(_) => None,
            Self::Precondition(precondition) => match precondition {
                Precondition::SnapshotAhead { .. } | Precondition::HistoryChanged(_) => None,
                Precondition::EventSourcingDisabled { .. } => Some((precondition.reason(), Severity::Limit)),
                Precondition::Fenced | Precondition::LocalLogFailed => {
                    Some((precondition.reason(), Severity::Failure))
                }
            },
            Self::Full { limit, .. } => Some((limit.reason(), Severity::Limit)),
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
        }
    }
}

impl Precondition {
    /// The reason in `ErrorInfo`.
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

fn reached(max: u64, share: Option<u64>) -> String {
    match share {
        None => format!("the limit of {max} is reached"),
        Some(share) => format!("this connection has its share, {share} of {max}"),
    }
}

impl From<ReadError> for StoreError {
    fn from(error: ReadError) -> Self {
        Self::Damaged(error.to_string())
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
            IndexError::NotMade { .. } => Self::Damaged(error.to_string()),
        }
    }
}
