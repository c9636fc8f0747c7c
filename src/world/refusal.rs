//! Why the world refuses a command.

use crate::event::{AggregateId, SequenceNumber};

/// A rule that the command would break. Nothing happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}: does not exist")]
    NoSuchObject(AggregateId),
    #[error("{id}: its last event has the number {last}")]
    NoSuchEvent { id: AggregateId, last: SequenceNumber },
    #[error("{0}: was deleted")]
    Deleted(AggregateId),
    #[error("{0}: exists already, or did")]
    Exists(AggregateId),
    /// An aggregate of the game's own, of a type that is none of the world's.
    #[error("{0}: is no object of the world")]
    Foreign(AggregateId),
    #[error("{0}: is no player")]
    NotAPlayer(AggregateId),
    #[error("{0}: is no room")]
    NotARoom(AggregateId),
    #[error("{id}: can't lie in {container}, which lies in it")]
    ContainerCycle { id: AggregateId, container: AggregateId },
    #[error("{id}: can't lie in {container}, below more than {max} others")]
    ContainersTooDeep { id: AggregateId, container: AggregateId, max: usize },
    #[error(
        "{id}: is not empty: {item} lies in it{}; say what becomes of that (contents)",
        others_text(*others)
    )]
    NotEmpty { id: AggregateId, item: AggregateId, others: usize },
    #[error("{id}: more than {max} things lie in it; move some of them first")]
    TooMuchInside { id: AggregateId, max: usize },
    #[error("{0}: can't be put into itself")]
    Itself(AggregateId),
    #[error("{0}: a player has a name, a text that is not empty")]
    Nameless(AggregateId),
    #[error("{room}: has no exit {direction:?}")]
    NoSuchExit { room: AggregateId, direction: String },
    #[error("{holder}: {item} is not in its inventory")]
    NotInInventory { holder: AggregateId, item: AggregateId },
    #[error("{holder}: does not carry {item}")]
    NotCarried { holder: AggregateId, item: AggregateId },
    #[error("{holder}: does not wear {item} there")]
    NotInSlot { holder: AggregateId, item: AggregateId },
    #[error("{holder}: wears {item} already, in another slot")]
    AlreadyEquipped { holder: AggregateId, item: AggregateId },
    #[error("{holder}: wears {item} in {slot:?}")]
    SlotTaken { holder: AggregateId, item: AggregateId, slot: String },
    #[error("{id}: holds no more than {max} {what}")]
    Full { id: AggregateId, what: &'static str, max: usize },
    #[error("{holder}: {item} is at this position")]
    PositionTaken { holder: AggregateId, item: AggregateId },
}

fn others_text(others: usize) -> &'static str {
    match others {
        0 => "",
        1 => ", and one thing more",
        _ => ", and others",
    }
}

impl Refusal {
    /// The reason in `ErrorInfo`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoSuchObject(_) => "NO_SUCH_OBJECT",
            Self::NoSuchEvent { .. } => "NO_SUCH_EVENT",
            Self::Deleted(_) => "OBJECT_DELETED",
            Self::Exists(_) => "OBJECT_EXISTS",
            Self::Foreign(_) => "NOT_OF_THE_WORLD",
            Self::NotAPlayer(_) => "NOT_A_PLAYER",
            Self::NotARoom(_) => "NOT_A_ROOM",
            Self::ContainerCycle { .. } => "CONTAINER_CYCLE",
            Self::ContainersTooDeep { .. } => "CONTAINERS_TOO_DEEP",
            Self::NotEmpty { .. } => "NOT_EMPTY",
            Self::TooMuchInside { .. } => "TOO_MUCH_INSIDE",
            Self::Itself(_) => "ITSELF",
            Self::Nameless(_) => "NAME_MISSING",
            Self::NoSuchExit { .. } => "NO_SUCH_EXIT",
            Self::NotInInventory { .. } => "NOT_IN_INVENTORY",
            Self::NotCarried { .. } => "NOT_CARRIED",
            Self::NotInSlot { .. } => "NOT_IN_SLOT",
            Self::AlreadyEquipped { .. } => "ALREADY_EQUIPPED",
            Self::SlotTaken { .. } => "SLOT_TAKEN",
            Self::Full { .. } => "OBJECT_FULL",
            Self::PositionTaken { .. } => "POSITION_TAKEN",
        }
    }

    /// The object that it is about.
    pub fn id(&self) -> &AggregateId {
        match self {
            Self::NoSuchObject(id)
            | Self::Deleted(id)
            | Self::Exists(id)
            | Self::Foreign(id)
            | Self::NotAPlayer(id)
            | Self::NotARoom(id)
            | Self::Itself(id)
            | Self::Nameless(id)
            | Self::NoSuchEvent { id, .. }
            | Self::Full { id, .. }
            | Self::NotEmpty { id, .. }
            | Self::TooMuchInside { id, .. }
            | Self::ContainerCycle { id, .. }
            | Self::ContainersTooDeep { id, .. }
            | Self::NoSuchExit { room: id, .. }
            | Self::NotInInventory { holder: id, .. }
            | Self::NotCarried { holder: id, .. }
            | Self::NotInSlot { holder: id, .. }
            | Self::AlreadyEquipped { holder: id, .. }
            | Self::SlotTaken { holder: id, .. }
            | Self::PositionTaken { holder: id, .. } => id,
        }
    }
}
