//! Why stored data cannot be read back.

use crate::{
    event::{AggregateId, Position, SequenceNumber, record::RecordError},
    index::IndexError,
    log::{ReadError, RecordAddress},
};

/// Why stored data cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The index cannot answer a lookup.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The log is damaged or cannot be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The index has no address of the event, or the record there is of another event.
    #[error("{aggregate}: event {sequence} is missing or not what the index says")]
    Gap {
        /// The aggregate that was read.
        aggregate: AggregateId,
        /// The number of the missing event.
        sequence: SequenceNumber,
    },
    /// The log has no event at this position, or the event cannot be decoded.
    #[error("position {0} cannot be found")]
    Position(Position),
    /// A record matches its hash, but cannot be decoded.
    #[error("at {place:?}: {source}")]
    Record {
        /// The address of the record.
        place: RecordAddress,
        /// Why it cannot be decoded.
        source: RecordError,
    },
}
