//! Why the world refuses a command.
//!
//! Each refusal has a text, a stable reason for clients, and the object that it is about.

use crate::event::{AggregateId, SequenceNumber};

/// A rule that the command would break. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The object does not exist, at present or at the requested moment.
    #[error("{0}: does not exist")]
    NoSuchObject(AggregateId),
    /// A state was requested as of a sequence number that the object has not reached.
    #[error("{id}: its last event has sequence number {last}")]
    NoSuchEvent {
        /// The object.
        id: AggregateId,
        /// The sequence number of its last event.
        last: SequenceNumber,
    },
    /// The command needs an object that is not deleted.
    #[error("{0}: has been deleted")]
    Deleted(AggregateId),
    /// The id of a new object has been used before, possibly by a deleted object.
    #[error("{0}: exists or has been deleted")]
    Exists(AggregateId),
    /// An aggregate of the game's own, with a type that is not one of the world's.
    #[error("{0}: is not an object of the world")]
    Foreign(AggregateId),
    /// The command or query is for players, and the object is of another kind.
    #[error("{0}: is not a player")]
    NotAPlayer(AggregateId),
    /// The command or query is for rooms, and the object is of another kind.
    #[error("{0}: is not a room")]
    NotARoom(AggregateId),
    /// The new container of an object lies in the object, at any depth.
    #[error("{id}: cannot be put into {container}, which is inside it")]
    ContainerCycle {
        /// The object to be put there.
        id: AggregateId,
        /// Its new container.
        container: AggregateId,
    },
    /// An object, or something in it, would be in too many nested containers.
    #[error(
        "{id}: cannot be put into {container}: it or its contents would be inside more than {max} nested \
         containers"
    )]
    ContainersTooDeep {
        /// The object to be put there.
        id: AggregateId,
        /// Its new container.
        container: AggregateId,
        /// The maximum number of nested containers.
        max: usize,
    },
    /// The object to be deleted is not empty, and its contents are neither to be moved nor left.
    #[error(
        "{id}: is not empty: it contains {item}{}; set `contents` or empty it first",
        others_text(*others)
    )]
    NotEmpty {
        /// The object to be deleted.
        id: AggregateId,
        /// One of the objects in it.
        item: AggregateId,
        /// The number of other objects in it. If there are very many, not all are counted.
        others: usize,
    },
    /// The object to be deleted has more contents than one command may move.
    #[error("{id}: contains more than {max} objects; move some of them first")]
    TooMuchInside {
        /// The object to be deleted.
        id: AggregateId,
        /// The maximum number of objects that are moved.
        max: usize,
    },
    /// The new container of an object is the object itself.
    #[error("{0}: cannot be put into itself")]
    Itself(AggregateId),
    /// The attribute `name` of a player would become empty, or something other than a string.
    #[error("{0}: the name of a player must be a non-empty string")]
    Nameless(AggregateId),
    /// Names of players are unique, and another player has the name.
    #[error("{id}: another player has the name {name:?}")]
    NameTaken {
        /// The player that was to get the name.
        id: AggregateId,
        /// The name.
        name: String,
    },
    /// The attribute `long_desc` of a room, which is its description, would be something other than
    /// a string.
    #[error("{0}: the attribute long_desc of a room is its description, and must be a string")]
    DescriptionNotText(AggregateId),
    /// The exit to be removed does not exist.
    #[error("{room}: has no exit {direction:?}")]
    NoSuchExit {
        /// The room.
        room: AggregateId,
        /// The direction of the exit.
        direction: String,
    },
    /// The item to be removed from an inventory is not in it. It may be worn.
    #[error("{holder}: {item} is not in its inventory")]
    NotInInventory {
        /// The object that has the inventory.
        holder: AggregateId,
        /// The item to be removed.
        item: AggregateId,
    },
    /// The item to be equipped is not in the inventory, and does not lie in the object.
    #[error("{holder}: does not carry {item}")]
    NotCarried {
        /// The object that was to wear the item.
        holder: AggregateId,
        /// The item to be equipped.
        item: AggregateId,
    },
    /// The item to be unequipped is not worn, or is worn in another slot.
    #[error("{holder}: does not wear {item} in this slot")]
    NotInSlot {
        /// The object that was to wear the item no longer.
        holder: AggregateId,
        /// The item to be unequipped.
        item: AggregateId,
    },
    /// The item to be equipped is already worn by the same object, in another slot.
    #[error("{holder}: already wears {item} in another slot")]
    AlreadyEquipped {
        /// The object that wears the item.
        holder: AggregateId,
        /// The item to be equipped.
        item: AggregateId,
    },
    /// The slot in which an item is to be equipped is in use.
    #[error("{holder}: already wears {item} in slot {slot:?}")]
    SlotTaken {
        /// The object that was to wear the item.
        holder: AggregateId,
        /// The other item, which is in the slot.
        item: AggregateId,
        /// The slot.
        slot: String,
    },
    /// The object would exceed one of the limits in [`capacity`](super::capacity).
    #[error("{id}: may hold at most {max} {what}")]
    Full {
        /// The object.
        id: AggregateId,
        /// What the limit counts: `attributes`, `items`, `slots`, `exits` or `bytes`.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// Another item has the position in the inventory.
    #[error("{holder}: {item} already has this position")]
    PositionTaken {
        /// The object that has the inventory.
        holder: AggregateId,
        /// The other item, which has the position.
        item: AggregateId,
    },
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
            Self::NameTaken { .. } => "NAME_TAKEN",
            Self::DescriptionNotText(_) => "DESCRIPTION_NOT_TEXT",
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
            | Self::DescriptionNotText(id)
            | Self::NoSuchEvent { id, .. }
            | Self::NameTaken { id, .. }
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
