//! Why the world refuses or fails: one type, from the aggregates to the caller's status.

use super::{aggregate::Kind, event::EventError, refusal::Refusal, rule::BrokenRule};
use crate::{
    event::{AggregateId, SequenceNumber},
    store::StoreError,
};

/// What went wrong. Unless the store says that the outcome is unknown, nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A rule of the world.
    #[error("{refusal}")]
    Refused { command: Option<usize>, refusal: Refusal },
    #[error("{aggregate}: expected sequence {expected}, actual {actual}")]
    WrongExpectedSequence {
        /// `None`: the call as a whole expects it.
        command: Option<usize>,
        aggregate: AggregateId,
        expected: SequenceNumber,
        actual: SequenceNumber,
    },
    #[error(transparent)]
    Unfitting(#[from] Box<Unfitting>),
    #[error("the command id {id:?} belongs to another command that was executed")]
    CommandIdReused { command: usize, id: String },
    #[error("others changed the same objects first, again and again; nothing was done")]
    Contention,
    #[error(transparent)]
    Damaged(#[from] Damage),
    #[error("{what}: the limit of {max} is reached")]
    TooMany { what: &'static str, max: u64 },
    /// Differences that are under way hold as much as they may.
    #[error(
        "the differences that are read just now name too many objects; {max} bytes are allowed; try again"
    )]
    DifferencesFull { max: u64 },
    #[error("nobody waits for the answer any more")]
    GivenUp,
    #[error("the world is being rebuilt already")]
    RebuildRunning,
    #[error("the read models can't be read: {0}")]
    ReadModels(String),
}

impl From<Refusal> for WorldError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused { command: None, refusal }
    }
}

/// A history that breaks the rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{id}: event {sequence}: {problem}")]
pub struct Damage {
    pub id: AggregateId,
    pub sequence: SequenceNumber,
    pub problem: Problem,
}

/// What is wrong with an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error(transparent)]
    Event(#[from] EventError),
    #[error(transparent)]
    Rule(#[from] BrokenRule),
    #[error("its number does not follow that of the event before")]
    Gap,
}

/// An append that is no command, and does not fit an object of the world.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "events[{index}]: {id} is a {} of the world, and {problem}. ExecuteCommands does what the rules allow; an aggregate of \
     another type is not held to them; with world.enabled: false there is no world",
    kind.name()
)]
pub struct Unfitting {
    pub index: usize,
    pub id: AggregateId,
    pub kind: Kind,
    pub problem: Misfit,
}

/// What is wrong with the event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    #[error("{0}")]
    Event(Problem),
    #[error("such appends are refused (world.raw_appends)")]
    Refused,
}
