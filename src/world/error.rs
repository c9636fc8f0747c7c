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
    event::{AggregateId, NAME_BYTES_MAX, SequenceNumber},
};

/// An error of the world. Unless it is [`StoreError::OutcomeUnknown`] or [`StoreError::Internal`],
/// nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The event store refused the call or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A rule of the world forbids the call.
    #[error("{refusal}")]
    Refused {
        /// The index of the command in the call. `None` if the refusal is not about a command.
        command: Option<usize>,
        /// Why the call is refused, with the objects that this concerns.
        refusal: Refusal,
    },
    /// An aggregate does not have the sequence number that the client expects.
    #[error("{aggregate}: expected sequence number {expected}, actual {actual}")]
    WrongExpectedSequence {
        /// `None` if the call as a whole expects it.
        command: Option<usize>,
        /// The aggregate that the expectation is about.
        aggregate: AggregateId,
        /// The sequence number that the client expects.
        expected: SequenceNumber,
        /// The sequence number of the last event, or 0 if the aggregate does not exist.
        actual: SequenceNumber,
    },
    /// A raw append does not fit an object of the world, or all raw appends are refused.
    #[error(transparent)]
    InvalidRawAppend(#[from] Box<InvalidRawAppend>),
    /// A command has the id of a different command that was executed before.
    #[error("command id {id:?} belongs to a different command that has been executed")]
    CommandIdReused {
        /// The index of the command in the call.
        command: usize,
        /// The id of the command.
        id: String,
    },
    /// Every attempt to store the events lost a race to another call.
    #[error("other calls kept changing the same objects; nothing was stored")]
    Contention,
    /// The history of an object that the call depends on is damaged.
    #[error(transparent)]
    Damaged(#[from] AggregateDamage),
    /// The call exceeds a maximum number, for example that of changed objects in one comparison.
    #[error("too many {what}: at most {max} are allowed")]
    TooMany {
        /// What is counted, in the plural.
        what: &'static str,
        /// The maximum number.
        max: u64,
    },
    /// The differences in progress have exhausted the budget that they share.
    #[error("the DiffWorld calls in progress name too many objects (at most {max} bytes); retry later")]
    DifferencesFull {
        /// The share of the client, or the whole budget if that is exhausted, in bytes.
        max: u64,
    },
    /// The call was cancelled before it was answered.
    #[error("the call was canceled")]
    GivenUp,
    /// A rebuild was requested while another one is running.
    #[error("a rebuild of the world is already in progress")]
    RebuildRunning,
    /// The read models cannot be read or written, for this reason. They are above this module, so
    /// the type of their error is not known here.
    #[error("the read models are not available: {0}")]
    ReadModels(#[source] Box<dyn std::error::Error + Send + Sync>),
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
    /// The damaged aggregate.
    pub id: AggregateId,
    /// The invalid event, or the first one after a gap.
    pub sequence: SequenceNumber,
    /// Why the event is invalid.
    pub problem: Problem,
}

/// The reason why an event is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The event cannot be read, or it is not one of the world's.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The event breaks a rule of its aggregate.
    #[error(transparent)]
    Rule(#[from] BrokenRule),
    /// The sequence number is not one more than that of the previous event.
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
    /// The index of the event in the append.
    pub index: usize,
    /// The object that the event belongs to.
    pub id: AggregateId,
    /// The kind that the append names, or that of the existing object if it names none.
    pub kind: Kind,
    /// Why the event does not fit.
    pub problem: RawAppendProblem,
}

/// The reason why the event does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RawAppendProblem {
    /// The event cannot be read, or it is invalid for the object.
    #[error("{0}")]
    Event(Problem),
    /// Names of players are unique, and the event gives the player one that is too long to be
    /// reserved.
    #[error("the name of the player has {bytes} bytes; at most {NAME_BYTES_MAX} can be reserved")]
    NameTooLong {
        /// The length of the name.
        bytes: usize,
    },
    /// All such appends are refused, whether they fit or not.
    #[error("the configuration refuses such appends (world.raw_appends)")]
    Refused,
}
