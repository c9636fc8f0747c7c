//! Why there is no proof.

use crate::refusals::Severity;

/// Why there is no proof or no checkpoint, or why a load cannot be verified. Nothing is wrong with
/// the stored events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoProof {
    /// The tree does not have all events yet.
    #[error("the tree over the events has {size} of {of} events; there are no proofs until it has all")]
    TreeBuilding {
        /// The number of events that the tree has.
        size: u64,
        /// The number of events that it has to have.
        of: u64,
    },
    /// There are no proofs until the reason is gone: the tree cannot be used, or no checkpoint can
    /// be kept.
    #[error("no proof can be made: {reason}")]
    Failed {
        /// What has failed.
        reason: String,
    },
    /// No event has this id, or this sequence number.
    #[error("there is no such event")]
    NoEvent,
    /// The log is shorter than the requested tree.
    #[error("the log has {events} events, not {size}")]
    TooFewEvents {
        /// The requested number of events.
        size: u64,
        /// The number of events of the log.
        events: u64,
    },
    /// No checkpoint of this size is kept. 0 stands for the newest one.
    #[error("{}", missing_checkpoint(*size))]
    NoCheckpoint {
        /// The requested number of events.
        size: u64,
    },
    /// No checkpoint may be signed, or there is no key to sign it with.
    #[error("no checkpoint is signed: {reason}")]
    NoKey {
        /// Why none is signed.
        reason: String,
    },
    /// The service makes no checkpoints.
    #[error(
        "the service makes no checkpoints: its log cannot be written or has no id, or \
         proof.checkpoint_every is 0"
    )]
    Disabled,
    /// ImmuDB has not confirmed a tree that has the event.
    #[error("{}", unverified(*position, *verified))]
    NotVerified {
        /// The position of the event; 0 if no event was read yet.
        position: u64,
        /// The number of events of the tree that ImmuDB has confirmed; 0 if there is none.
        verified: u64,
    },
}

impl NoProof {
    /// Returns the reason for `ErrorInfo`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TreeBuilding { .. } | Self::Failed { .. } => "TREE",
            Self::NoEvent | Self::TooFewEvents { .. } => "NO_EVENT",
            Self::NoCheckpoint { .. } => "NO_CHECKPOINT",
            Self::NoKey { .. } => "NO_KEY",
            Self::Disabled => "PROOFS_DISABLED",
            Self::NotVerified { .. } => "NOT_VERIFIED",
        }
    }

    /// Returns whether the service failed, as opposed to the client.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::TreeBuilding { .. } | Self::Failed { .. } | Self::NoKey { .. } => true,
            Self::NoEvent
            | Self::TooFewEvents { .. }
            | Self::NoCheckpoint { .. }
            | Self::Disabled
            | Self::NotVerified { .. } => false,
        }
    }

    /// Returns the severity of a rejection caused by the service and not by the client.
    pub fn severity(&self) -> Option<Severity> {
        match self {
            Self::NoEvent | Self::TooFewEvents { .. } | Self::NoCheckpoint { .. } => None,
            Self::TreeBuilding { .. } => Some(Severity::Passing),
            Self::Disabled | Self::NotVerified { .. } => Some(Severity::Limit),
            Self::Failed { .. } | Self::NoKey { .. } => Some(Severity::Failure),
        }
    }
}

fn missing_checkpoint(size: u64) -> String {
    match size {
        0 => "no checkpoint was made yet".to_owned(),
        _ => format!("no checkpoint of {size} events is kept"),
    }
}

fn unverified(position: u64, verified: u64) -> String {
    match (position, verified) {
        (_, 0) => "ImmuDB has not confirmed the tree over the events".to_owned(),
        (0, _) => format!("ImmuDB has confirmed the tree of {verified} events"),
        _ => format!("ImmuDB has confirmed the tree of {verified} events, but not yet event {position}"),
    }
}
