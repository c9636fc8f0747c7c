//! History that comes from ImmuDB or from event files, and why it cannot be restored.

use bytes::Bytes;

use super::group_error::GroupError;
use crate::{
    error::StoreError,
    event::{
        Position,
        record::{RecordError, ReplicationMark},
    },
    index::IndexError,
    log::FrameTooLarge,
};

/// Whole appends that ImmuDB committed in one transaction. If `mark` names no transaction, they
/// come from another source.
#[derive(Debug, Default)]
pub struct RestoredTransaction {
    /// The records of each append, by position.
    pub appends: Vec<Vec<Bytes>>,
    /// Stored after the appends if it names a transaction.
    pub mark: ReplicationMark,
}

/// Why records cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The records do not follow those of the log.
    #[error(transparent)]
    DoesNotContinue(#[from] Discontinuity),
    /// The index cannot be read, or cannot take the records.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The event of a snapshot cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk is too full.
    #[error("the disk has less than limits.disk_free_min free")]
    DiskFull,
    /// The group with the records was not stored. Its error says whether a part of it may be found
    /// later.
    #[error(transparent)]
    NotStored(#[from] GroupError),
    /// The thread of the sequencer has ended.
    #[error("the service is shutting down")]
    Stopped,
}

/// Why records do not continue the log.
#[derive(Debug, thiserror::Error)]
pub enum Discontinuity {
    /// A record is invalid.
    #[error("the records do not continue the local log: {0}")]
    Record(#[from] RecordError),
    /// The numbers of an append do not follow those of the log. The position is that of its first
    /// event.
    #[error("the records do not continue the local log: the append at position {0}")]
    Append(Position),
    /// The records of an append are too large for the log. None of this service's appends is.
    #[error("the local log cannot hold the append at position {first}, which {too_large}")]
    TooLarge {
        /// The position of its first event.
        first: Position,
        /// How large it is.
        too_large: FrameTooLarge,
    },
}
