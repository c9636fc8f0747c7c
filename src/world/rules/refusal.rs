//! Why the world refuses a command.
//!
//! Each refusal has a text, a stable reason for clients, and the object that it is about.

use crate::event::{AggregateId, SequenceNumber};

/// A rule that the command would break. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}: does not exist")]
    NoSuchObject(AggregateId),
    #[error("{id}: its last event has sequence number {last}")]
    NoSuchEvent { id: AggregateId, last: SequenceNumber },
    #[error("{0}: has been deleted")]
    Deleted(AggregateId),
    #[error("{0}: exists or has been deleted")]
    Exists(AggregateId),
    /// An aggregate of the game's own, with a type that is not one of the world's.
    #[error("{0}: is not an object of the world")]
    Foreign(AggregateId),
    #[error("{0}: is not a player")]
    NotAPlayer(AggregateId),
    #[error("{0}: is not a room")]
    NotARoom(AggregateId),
    #[error("{id}: cannot be put into {container}, which is inside it")]
    ContainerCycle { id: AggregateId, container: AggregateId },
    #[error(
        "{id}: cannot be put into {container}: it or its contents would be inside more than {max} nested \
         containers"
    )]
    ContainersTooDeep { id: AggregateId, container: AggregateId, max: usize },
    #[error(
        "{id}: is not empty: it contains {item}{}; set `contents` or empty it first",
        others_text(*others)
    )]
    NotEmpty { id: AggregateId, item: AggregateId, others: usize },
    #[error("{id}: contains more than {max} objects; move some of them first")]
    TooMuchInside { id: AggregateId, max: usize },
    #[error("{0}: cannot be put into itself")]
    Itself(AggregateId),
    #[error("{0}: the name of a player must be a non-empty string")]
    Nameless(AggregateId),
    #[error("{room}: has no exit {direction:?}")]
    NoSuchExit { room: AggregateId, direction: String },
    #[error("{holder}: {item} is not in its inventory")]
    NotInInventory { holder: AggregateId, item: AggregateId },
    #[error("{holder}: does not carry {item}")]
    NotCarried { holder: AggregateId, item: AggregateId },
    #[error("{holder}: does not wear {item} in this slot")]
    NotInSlot { holder: AggregateId, item: AggregateId },
    #[error("{holder}: already wears {item} in another slot")]
    AlreadyEquipped { holder: AggregateId, item: AggregateId },
    #[error("{holder}: already wears {item} in slot {slot:?}")]
    SlotTaken { holder: AggregateId, item: AggregateId, slot: String },
    #[error("{id}: may hold at most {max} {what}")]
    Full { id: AggregateId, what: &'static str, max: usize },
    #[error("{holder}: {item} already has this position")]
    PositionTaken { holder: AggregateId, item: AggregateId },
}

fn others_text(others: usize) -> &'static str {
    match others {
        0 => "",
        1 => " and one other object",
        _ => " and other objects",
    }
}

impl Refusal {
    /// Returns the reason in `ErrorInfo`.
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

    /// Returns the object that the refusal is about.
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
