//! The errors of `repair`.
//!
//! Those that the operator can accept name the option for it.

use std::{io, path::PathBuf};

use rustix::io::Errno;

use crate::{
    event::{Position, record::RecordError},
    log::LogOffset,
};

/// Why a log is not repaired.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RepairError {
    #[error("segment {number}: {source}")]
    Segment { number: u32, source: io::Error },
    /// A replication mark cannot be decoded.
    #[error(transparent)]
    Mark(#[from] RecordError),
    /// An undamaged append of the log does not continue the history before it.
    #[error(
        "segment {}, byte {}: an append of {events} events at position {first} does not continue the \
         log: {why}. With --discard-after-damage this and all similar appends are discarded",
        at.segment,
        at.offset
    )]
    DoesNotContinue { at: LogOffset, first: Position, events: usize, why: &'static str },
    /// A recovered append does not continue the repaired log.
    #[error("{why}")]
    RecoveredElsewhere { why: &'static str },
    #[error(
        "positions {first} to {last} are damaged and cannot be recovered: {why}. With \
         --discard-after-damage everything from there on is discarded"
    )]
    Lost { first: Position, last: Position, why: GapError },
    #[error(
        "the end of the log is damaged from segment {}, byte {}: ImmuDB and the event files have the \
         events after position {before} up to {found}, but there may have been more. With \
         --discard-after-damage the log is repaired up to there",
        damaged.segment,
        damaged.offset
    )]
    EndDamaged { damaged: LogOffset, before: Position, found: Position },
    #[error("{folder} holds another log, and `repair` needs the name; move that log")]
    AnotherLog { folder: PathBuf },
    #[error("cannot exchange {mended} and {log}: {source}")]
    Exchange { mended: PathBuf, log: PathBuf, source: Errno },
}

/// Why a gap cannot be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GapError {
    #[error("events were found only up to position {0}")]
    FoundUpTo(Position),
    #[error("the events that were found belong to a different history")]
    AnotherHistory,
}
