//! The rules that every history of an aggregate obeys.
//!
//! A history that breaks one of them is damaged.

/// The rule that an event breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BrokenRule {
    #[error("its first event does not create it")]
    NotCreated,
    #[error("it is created twice")]
    CreatedTwice,
    #[error("it has events after its deletion")]
    Deleted,
    #[error("the event belongs to another kind of aggregate")]
    OfAnotherKind,
    #[error("it is inside itself")]
    InItself,
    #[error("the {0} to be removed does not exist")]
    NotThere(&'static str),
    #[error("the slot is already in use")]
    SlotTaken,
    #[error("only RebuildWorldState may append this event")]
    NoRepair,
}
