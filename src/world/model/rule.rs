//! The rules that every history of an aggregate obeys.
//!
//! A history that breaks one of them is damaged.

/// The rule that an event breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BrokenRule {
    /// The first event is not `GameObjectCreated`.
    #[error("its first event does not create it")]
    NotCreated,
    /// `GameObjectCreated`, `PlayerCreated` or `RoomCreated` occurs a second time.
    #[error("it is created twice")]
    CreatedTwice,
    /// An event follows `GameObjectDeleted`.
    #[error("it has events after its deletion")]
    Deleted,
    /// For example, a room has an event of players.
    #[error("the event belongs to another kind of aggregate")]
    OfAnotherKind,
    /// The event moves the object into itself.
    #[error("it is inside itself")]
    InItself,
    /// The item or exit that the event removes is not there.
    #[error("the {0} to be removed does not exist")]
    NotThere(&'static str),
    /// The event equips an item in a slot that is in use.
    #[error("the slot is already in use")]
    SlotTaken,
    /// A client appends `ObjectRepaired`. Replay does not apply such events.
    #[error("only RebuildWorldState may append this event")]
    NoRepair,
}
