//! Commands: requested changes, validated as far as possible without knowing the world.
//!
//! Deciding them is left to `decide`. The ids of the resulting events are derived here.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    event::{AggregateId, EventId, SequenceNumber},
    world::model::{aggregate::Kind, event::Attributes, password::PasswordHash},
};

/// The maximum number of commands in one call.
pub const COMMANDS_MAX: usize = 100;

/// The metadata key for who caused the event. Absent if unknown.
pub const ACTOR: &str = "actor";
/// The metadata key for the name of the operation, or of the call that repaired the object.
pub const COMMAND: &str = "command";

/// The metadata key of the digest by which a retry of a command is recognized.
pub const COMMAND_DIGEST: &str = "command_digest";
/// The metadata key of the digest of all commands of a call.
pub const CALL_DIGEST: &str = "call_digest";

/// The last sequence number that the client saw of each object.
pub type ExpectedSequences = BTreeMap<AggregateId, SequenceNumber>;

/// The commands of one call, and what the client saw before it.
#[derive(Debug, Default)]
pub struct Commands {
    /// The commands, in the order in which they are decided.
    pub commands: Vec<Command>,
    /// The sequence numbers that the call as a whole expects. Commands may expect others.
    pub expected: ExpectedSequences,
}

/// One operation on one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Identifies the command permanently. Becomes the causation id of its events.
    pub id: String,
    /// Who issues the command. Empty if unknown.
    pub actor: String,
    /// Becomes the correlation id of its events.
    pub correlation_id: String,
    /// The last sequence numbers that the client saw of the object and of others.
    pub expected: ExpectedSequences,
    /// The object that the operation changes.
    pub target: AggregateId,
    /// The change to the object.
    pub operation: Operation,
}

/// The change to the target of a command.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Operation {
    /// Creates an object. Its class decides whether it is a player, a room or neither.
    CreateGameObject {
        /// The object's class in the game. See [`Kind::of_class`].
        #[serde(rename = "type")]
        class: String,
        /// Becomes the attribute `name`, unless it is empty.
        name: String,
        /// The name used by those who do not know the object's own name. May be empty.
        generic: String,
        /// The object that it lies in, or `None` if it lies nowhere.
        container_id: Option<AggregateId>,
        /// If `name` is set, an attribute of that name has the same value.
        attributes: Attributes,
    },
    /// Adds or replaces one attribute.
    UpdateGameObjectAttribute {
        /// The name of the attribute.
        key: String,
        /// The new value, which may be `null`.
        value: Value,
    },
    /// Adds or replaces several attributes, and leaves all others unchanged.
    UpdateGameObjectAttributes {
        /// The new values. At least one.
        attributes: Attributes,
    },
    /// Removes one attribute, if the object has it.
    RemoveGameObjectAttribute {
        /// The name of the attribute.
        key: String,
    },
    /// Moves the object.
    UpdateGameObjectContainer {
        /// The new container, or `None` if the object is to lie nowhere.
        container_id: Option<AggregateId>,
    },
    /// Deletes the object. Its history remains.
    DeleteGameObject {
        /// Omitted if it is the default, so that the digest is the same as in older services, which
        /// did not have this field.
        #[serde(skip_serializing_if = "ContentsPolicy::is_default")]
        contents: ContentsPolicy,
    },
    /// Creates a player without administrator rights.
    CreatePlayer {
        /// Becomes the attribute `name`. Not empty.
        name: String,
        /// `None` if the player has no password yet.
        password_hash: Option<PasswordHash>,
    },
    /// Sets or changes the password of a player.
    UpdatePlayerPassword {
        /// The hash of the new password.
        password_hash: PasswordHash,
    },
    /// Grants or revokes administrator rights.
    UpdatePlayerAdminStatus {
        /// Whether the player is to be an administrator.
        admin: bool,
    },
    /// Creates a room.
    CreateRoom {
        /// Becomes the attribute `name`, unless it is empty.
        name: String,
        /// May be empty.
        description: String,
    },
    /// Replaces the description of a room.
    UpdateRoomDescription {
        /// The new description. May be empty.
        description: String,
    },
    /// Adds an exit to a room, or changes where it leads.
    AddRoomExit {
        /// Identifies the exit within the room.
        direction: String,
        /// The room that the exit leads to. It need not exist.
        target_room_id: AggregateId,
    },
    /// Removes an exit, which must exist, from a room.
    RemoveRoomExit {
        /// Identifies the exit within the room.
        direction: String,
    },
    /// Puts an item into the inventory of the object, or changes its position there.
    AddItemToInventory {
        /// The item, which must exist.
        item_id: AggregateId,
        /// The place within the inventory, which must be free. `None` means no particular place.
        position: Option<Value>,
    },
    /// Takes an item out of the inventory of the object. The item then lies nowhere.
    RemoveItemFromInventory {
        /// The item, which must be in the inventory.
        item_id: AggregateId,
    },
    /// Makes the object wear an item.
    EquipItem {
        /// The item, which must be in the inventory or lie in the object.
        item_id: AggregateId,
        /// The slot, which must be free.
        slot: String,
    },
    /// Moves a worn item into the inventory of the object.
    UnequipItem {
        /// The item, which must be worn.
        item_id: AggregateId,
        /// `None` means the slot in which the item is worn.
        slot: Option<String>,
    },
}

/// What happens to the contents of a deleted object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum ContentsPolicy {
    /// The object must be empty.
    #[default]
    RefuseIfAny,
    /// The contents move to the container of the deleted object.
    MoveToContainer,
    /// The contents stay in the deleted object.
    Leave,
}

impl ContentsPolicy {
    /// The maximum number of objects that are moved out of a deleted object.
    pub const MOVED_MAX: usize = 400;

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The namespace of the ids of events that commands lead to. Must never change, because retries are
/// found by these ids.
const EVENT_IDS: Uuid = Uuid::from_u128(0x6b0d_5a5e_51f4_4f0e_9d0b_b5a2_3a8f_7c11);

impl Operation {
    /// Returns the name of the operation in the API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateGameObject { .. } => "CreateGameObject",
            Self::UpdateGameObjectAttribute { .. } => "UpdateGameObjectAttribute",
            Self::UpdateGameObjectAttributes { .. } => "UpdateGameObjectAttributes",
            Self::RemoveGameObjectAttribute { .. } => "RemoveGameObjectAttribute",
            Self::UpdateGameObjectContainer { .. } => "UpdateGameObjectContainer",
            Self::DeleteGameObject { .. } => "DeleteGameObject",
            Self::CreatePlayer { .. } => "CreatePlayer",
            Self::UpdatePlayerPassword { .. } => "UpdatePlayerPassword",
            Self::UpdatePlayerAdminStatus { .. } => "UpdatePlayerAdminStatus",
            Self::CreateRoom { .. } => "CreateRoom",
            Self::UpdateRoomDescription { .. } => "UpdateRoomDescription",
            Self::AddRoomExit { .. } => "AddRoomExit",
            Self::RemoveRoomExit { .. } => "RemoveRoomExit",
            Self::AddItemToInventory { .. } => "AddItemToInventory",
            Self::RemoveItemFromInventory { .. } => "RemoveItemFromInventory",
            Self::EquipItem { .. } => "EquipItem",
            Self::UnequipItem { .. } => "UnequipItem",
        }
    }

    /// Returns the kind of the object that the operation creates, or `None` if it creates none.
    pub fn creates(&self) -> Option<Kind> {
        match self {
            Self::CreateGameObject { class, .. } => Some(Kind::of_class(class)),
            Self::CreatePlayer { .. } => Some(Kind::Player),
            Self::CreateRoom { .. } => Some(Kind::Room),
            Self::UpdateGameObjectAttribute { .. }
            | Self::UpdateGameObjectAttributes { .. }
            | Self::RemoveGameObjectAttribute { .. }
            | Self::UpdateGameObjectContainer { .. }
            | Self::DeleteGameObject { .. }
            | Self::UpdatePlayerPassword { .. }
            | Self::UpdatePlayerAdminStatus { .. }
            | Self::UpdateRoomDescription { .. }
            | Self::AddRoomExit { .. }
            | Self::RemoveRoomExit { .. }
            | Self::AddItemToInventory { .. }
            | Self::RemoveItemFromInventory { .. }
            | Self::EquipItem { .. }
            | Self::UnequipItem { .. } => None,
        }
    }
}

impl Command {
    /// The maximum number of events that one command leads to. A deleted object is first unequipped
    /// and removed from the inventory, and each object in it is moved.
    pub const EVENTS_MAX: usize = ContentsPolicy::MOVED_MAX + 3;

    /// Returns the id of the command's event number `index`. It is the same in every attempt, so
    /// that at most one attempt can succeed.
    pub fn event_id(&self, index: usize) -> EventId {
        let name = format!("{}\n{index}", self.id);
        EventId::from(Uuid::new_v5(&EVENT_IDS, name.as_bytes()))
    }

    /// Returns the id of the event number `index` by which the command changes reservations of
    /// names.
    pub fn name_event_id(&self, index: usize) -> EventId {
        name_event_id(&self.id, index)
    }

    /// Returns the object that the command puts somewhere, and its new container. The inner `None`
    /// means that the object will have no container. Returns `None` for all other commands.
    pub fn puts(&self) -> Option<(&AggregateId, Option<&AggregateId>)> {
        match &self.operation {
            Operation::CreateGameObject { container_id, .. }
            | Operation::UpdateGameObjectContainer { container_id } => {
                Some((&self.target, container_id.as_ref()))
            }
            Operation::AddItemToInventory { item_id, .. } => Some((item_id, Some(&self.target))),
            Operation::UpdateGameObjectAttribute { .. }
            | Operation::UpdateGameObjectAttributes { .. }
            | Operation::RemoveGameObjectAttribute { .. }
            | Operation::DeleteGameObject { .. }
            | Operation::CreatePlayer { .. }
            | Operation::UpdatePlayerPassword { .. }
            | Operation::UpdatePlayerAdminStatus { .. }
            | Operation::CreateRoom { .. }
            | Operation::UpdateRoomDescription { .. }
            | Operation::AddRoomExit { .. }
            | Operation::RemoveRoomExit { .. }
            | Operation::RemoveItemFromInventory { .. }
            | Operation::EquipItem { .. }
            | Operation::UnequipItem { .. } => None,
        }
    }

    /// Returns a digest that distinguishes the command from a different one with the same id: the
    /// first half of a SHA-256.
    pub fn digest(&self) -> String {
        let operation = serde_json::to_vec(&(&self.target, &self.operation)).unwrap_or_default();
        hex::encode(Sha256::digest(operation)).chars().take(32).collect()
    }
}

/// Returns the id of the event number `index` by which a command, or an append, changes
/// reservations of names. It is the same in every attempt. `cause` is the id of the command, or
/// what identifies the append.
pub fn name_event_id(cause: &str, index: usize) -> EventId {
    let name = format!("{cause}\nname\n{index}");
    EventId::from(Uuid::new_v5(&EVENT_IDS, name.as_bytes()))
}
