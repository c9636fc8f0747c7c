//! Commands: what is to happen, checked as far as that goes without knowing the world.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{event::Attributes, password::PasswordHash};
use crate::event::{AggregateId, EventId, SequenceNumber};

/// The most commands in one call.
pub const COMMANDS_MAX: usize = 100;

/// Keys in the metadata of an event.
pub const ACTOR: &str = "actor";
pub const COMMAND: &str = "command";

/// The last sequence number of each object that a caller saw.
pub type Expected = BTreeMap<AggregateId, SequenceNumber>;

/// The commands of one call, and what the caller saw before it.
#[derive(Debug, Default)]
pub struct Commands {
    pub commands: Vec<Command>,
    pub expected: Expected,
}

/// One operation on one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Names it for good; becomes the cause of its events.
    pub id: String,
    pub actor: String,
    pub correlation_id: String,
    /// What the caller saw last of the object, and of others.
    pub expected: Expected,
    /// The object.
    pub target: AggregateId,
    pub operation: Operation,
}

/// What is to happen to the object.
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
        /// Left out where it is the default: older services knew nothing else to write.
        #[serde(skip_serializing_if = "Contents::is_default")]
        contents: Contents,
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
        /// `None`: whichever it is.
        slot: Option<String>,
    },
}

/// What becomes of what lies in an object that is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Contents {
    /// Nothing may lie in it.
    #[default]
    RefuseIfAny,
    /// It lies then where the object lay.
    MoveToContainer,
    /// It stays in what was deleted.
    Leave,
}

impl Contents {
    /// The most things that are moved out of what is deleted.
    pub const MOVED_MAX: usize = 400;

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Namespace of the ids of events that commands lead to. Never changes: a resend is found by them.
const EVENT_IDS: Uuid = Uuid::from_u128(0x6b0d_5a5e_51f4_4f0e_9d0b_b5a2_3a8f_7c11);

impl Operation {
    /// As the contract names it.
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
    /// The most events that one command leads to: what is deleted is taken off and taken out before, and each thing in it
    /// is moved.
    pub const EVENTS_MAX: usize = Contents::MOVED_MAX + 3;

    /// Id of its event number `index`. The same for every attempt, so that no attempt can succeed beside another.
    pub fn event_id(&self, index: usize) -> EventId {
        let name = format!("{}\n{index}", self.id);
        EventId::from(Uuid::new_v5(&EVENT_IDS, name.as_bytes()))
    }

    /// What it puts somewhere, if it does, and into what; `None` as the second: nowhere.
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

    /// Tells the command from another with the same id: the first half of a SHA-256.
    pub fn digest(&self) -> String {
        let operation = serde_json::to_vec(&(&self.target, &self.operation)).unwrap_or_default();
        hex::encode(Sha256::digest(operation)).chars().take(32).collect()
    }
}
