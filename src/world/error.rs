//! Why the world refuses a call, or fails.
//!
//! One error type is used from the aggregates up to the status that a client receives. Converting
//! it to that status is left to `grpc`.

use super::{
    model::{aggregate::Kind, event::EventError, rule::BrokenRule},
    rules::refusal::Refusal,
};
use crate::{
    error::StoreError,
    event::{AggregateId, SequenceNumber},
};

/// An error of the world. Unless it is [`StoreError::OutcomeUnknown`] or [`StoreError::Internal`],
/// nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A rule of the world forbids the call.
    #[error("{refusal}")]
    Refused { command: Option<usize>, refusal: Refusal },
    #[error("{aggregate}: expected sequence number {expected}, actual {actual}")]
    WrongExpectedSequence {
        /// `None` if the call as a whole expects it.
        command: Option<usize>,
        aggregate: AggregateId,
        expected: SequenceNumber,
        actual: SequenceNumber,
    },
    #[error(transparent)]
    InvalidRawAppend(#[from] Box<InvalidRawAppend>),
    #[error("command id {id:?} belongs to a different command that has been executed")]
    CommandIdReused { command: usize, id: String },
    #[error("other calls kept changing the same objects; nothing was stored")]
    Contention,
    #[error(transparent)]
    Damaged(#[from] AggregateDamage),
    #[error("too many {what}: at most {max} are allowed")]
    TooMany { what: &'static str, max: u64 },
    /// The differences in progress have exhausted the budget that they share.
    #[error("the DiffWorld calls in progress name too many objects (at most {max} bytes); retry later")]
    DifferencesFull { max: u64 },
    #[error("the call was canceled")]
    GivenUp,
    #[error("a rebuild of the world is already in progress")]
    RebuildRunning,
    #[error("the read models are not available: {0}")]
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
pub struct AggregateDamage {
    pub id: AggregateId,
    pub sequence: SequenceNumber,
    pub problem: Problem,
}

/// The reason why an event is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error(transparent)]
    Event(#[from] EventError),
    #[error(transparent)]
    Rule(#[from] BrokenRule),
    #[error("its sequence number does not follow the previous event")]
    Gap,
}

/// An append that is not a command, and that does not fit an object of the world.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "events[{index}]: {id} is a {} of the world: {problem}. Use ExecuteCommands, or another aggregate \
     type, or set world.enabled to false",
    kind.name()
)]
pub struct InvalidRawAppend {
    pub index: usize,
    pub id: AggregateId,
    pub kind: Kind,
    pub problem: RawAppendProblem,
}

/// The reason why the event does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RawAppendProblem {
    #[error("{0}")]
    Event(Problem),
    #[error("the configuration refuses such appends (world.raw_appends)")]
    Refused,
}
