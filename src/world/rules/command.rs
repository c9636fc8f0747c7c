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
    world::model::{event::Attributes, password::PasswordHash},
};

/// The maximum number of commands in one call.
pub const COMMANDS_MAX: usize = 100;

/// Metadata keys of an event.
pub const ACTOR: &str = "actor";
pub const COMMAND: &str = "command";

/// The last sequence number that the client saw of each object.
pub type ExpectedSequences = BTreeMap<AggregateId, SequenceNumber>;

/// The commands of one call, and what the client saw before it.
#[derive(Debug, Default)]
pub struct Commands {
    pub commands: Vec<Command>,
    pub expected: ExpectedSequences,
}

/// One operation on one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Identifies the command permanently. Becomes the causation id of its events.
    pub id: String,
    pub actor: String,
    pub correlation_id: String,
    /// The last sequence numbers that the client saw of the object and of others.
    pub expected: ExpectedSequences,
    /// The object that the operation changes.
    pub target: AggregateId,
    pub operation: Operation,
}

/// The change to the object.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Operation {
    CreateGameObject {
        #[serde(rename = "type")]
        class: String,
        name: String,
        generic: String,
        container_id: Option<AggregateId>,
        attributes: Attributes,
    },
    UpdateGameObjectAttribute {
        key: String,
        value: Value,
    },
    UpdateGameObjectAttributes {
        attributes: Attributes,
    },
    UpdateGameObjectContainer {
        container_id: Option<AggregateId>,
    },
    DeleteGameObject {
        /// Omitted if it is the default, so that the digest is the same as in older services, which
        /// did not have this field.
        #[serde(skip_serializing_if = "ContentsPolicy::is_default")]
        contents: ContentsPolicy,
    },
    CreatePlayer {
        name: String,
        password_hash: Option<PasswordHash>,
    },
    UpdatePlayerPassword {
        password_hash: PasswordHash,
    },
    UpdatePlayerAdminStatus {
        admin: bool,
    },
    CreateRoom {
        name: String,
        description: String,
    },
    UpdateRoomDescription {
        description: String,
    },
    AddRoomExit {
        direction: String,
        target_room_id: AggregateId,
    },
    RemoveRoomExit {
        direction: String,
    },
    AddItemToInventory {
        item_id: AggregateId,
        position: Option<Value>,
    },
    RemoveItemFromInventory {
        item_id: AggregateId,
    },
    EquipItem {
        item_id: AggregateId,
        slot: String,
    },
    UnequipItem {
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
