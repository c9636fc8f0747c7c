//! What can't have happened to an aggregate: a history that has it is damaged.

/// What can't have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BrokenRule {
    #[error("its first event does not create it")]
    NotCreated,
    #[error("it is created twice")]
    CreatedTwice,
    #[error("it goes on after it was deleted")]
    Deleted,
    #[error("the event is one of another kind of aggregate")]
    OfAnotherKind,
    #[error("it lies in itself")]
    InItself,
    #[error("the {0} that is removed is not there")]
    NotThere(&'static str),
    #[error("two items are in one slot")]
    SlotTaken,
    #[error("only RebuildWorldState repairs it")]
    NoRepair,
}
