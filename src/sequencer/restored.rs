//! History that comes from ImmuDB or from event files, and why it cannot be restored.

use bytes::Bytes;

use crate::{event::record::ReplicationMark, index::IndexError};

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
    /// A record is invalid, or its numbers do not follow those of the log.
    #[error("the records do not continue the local log: {0}")]
    DoesNotContinue(String),
    /// Nothing was written.
    #[error("{0}")]
    NotWritten(String),
    /// The local log or the index accepts no more writes.
    #[error("{0}")]
    Failed(String),
    /// The thread of the sequencer has ended.
    #[error("the service is shutting down")]
    Stopped,
}

impl From<IndexError> for RestoreError {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::NotMadeYet { .. } => Self::NotWritten(error.to_string()),
            IndexError::NotMade { .. } => Self::Failed(error.to_string()),
        }
    }
}
