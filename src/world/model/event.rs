//! The events of the world's aggregates, stored as JSON in the event store.
//!
//! The name of a variant is the event's type, and its fields are the event's data. Both are the
//! permanent storage format: a field may be added with a default, and nothing else may change.
//! Unknown fields are ignored, so that an older service can read what a newer one wrote.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::password::PasswordHash;
use crate::event::{AggregateId, Content, NewEvent, RecordedEvent};

/// The attributes of a game object: arbitrary JSON values by name.
pub type Attributes = BTreeMap<String, Value>;

/// An event of one aggregate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum WorldEvent {
    /// The first event of every aggregate of the world.
    GameObjectCreated {
        /// The object's class in the game.
        #[serde(rename = "type", default)]
        class: String,
        /// Becomes the attribute `name`, unless it is empty.
        #[serde(default)]
        name: String,
        #[serde(default)]
        generic: String,
        #[serde(default)]
        container_id: Option<AggregateId>,
        #[serde(default)]
        attributes: Attributes,
    },
    GameObjectAttributeUpdated {
        key: String,
        value: Value,
    },
    GameObjectAttributesUpdated {
        attributes: Attributes,
    },
    GameObjectContainerUpdated {
        #[serde(default)]
        container_id: Option<AggregateId>,
    },
    GameObjectDeleted {},
    PlayerCreated {
        #[serde(default)]
        password_hash: Option<PasswordHash>,
        #[serde(default)]
        admin: bool,
    },
    PlayerPasswordUpdated {
        password_hash: PasswordHash,
    },
    PlayerAdminStatusUpdated {
        admin: bool,
    },
    RoomCreated {
        #[serde(default)]
        description: String,
    },
    RoomDescriptionUpdated {
        description: String,
    },
    RoomExitAdded {
        direction: String,
        target_room_id: AggregateId,
    },
    RoomExitRemoved {
        direction: String,
    },
    ItemAddedToInventory {
        item_id: AggregateId,
        #[serde(default)]
        position: Option<Value>,
    },
    ItemRemovedFromInventory {
        item_id: AggregateId,
    },
    ItemEquipped {
        item_id: AggregateId,
        slot: String,
    },
    ItemUnequipped {
        item_id: AggregateId,
        slot: String,
    },
    /// Excludes earlier invalid events of the object from replay.
    ObjectRepaired {
        /// The sequence numbers of the excluded events.
        passed_over: Vec<u64>,
        #[serde(default)]
        because: String,
        #[serde(default)]
        actor: String,
    },
}

/// Why an event is not one of the world's, or cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error("unknown event type {0:?}")]
    UnknownType(String),
    #[error("its data is not valid JSON")]
    NotJson,
    /// Names the position in the data, but never the data itself.
    #[error("its data does not match its type (line {line}, column {column})")]
    Misfit { line: usize, column: usize },
    /// JSON cannot represent the data, for example an infinite number.
    #[error("its data cannot be represented as JSON")]
    Unwritable,
}

impl WorldEvent {
    pub const REPAIRED: &str = "ObjectRepaired";

    pub const TYPES: [&str; 17] = [
        "GameObjectCreated",
        "GameObjectAttributeUpdated",
        "GameObjectAttributesUpdated",
        "GameObjectContainerUpdated",
        "GameObjectDeleted",
        "PlayerCreated",
        "PlayerPasswordUpdated",
        "PlayerAdminStatusUpdated",
        "RoomCreated",
        "RoomDescriptionUpdated",
        "RoomExitAdded",
        "RoomExitRemoved",
        "ItemAddedToInventory",
        "ItemRemovedFromInventory",
        "ItemEquipped",
        "ItemUnequipped",
        Self::REPAIRED,
    ];

    /// Returns the type and the data of the event.
    ///
    /// # Errors
    /// Returns an error if JSON cannot represent the event.
    pub fn encode(&self) -> Result<(String, String), EventError> {
        match serde_json::to_value(self) {
            Ok(Value::Object(tagged)) => {
                let (event_type, data) = tagged.into_iter().next().ok_or(EventError::Unwritable)?;
                Ok((event_type, data.to_string()))
            }
            _ => Err(EventError::Unwritable),
        }
    }

    /// Decodes the world's event from a stored one.
    ///
    /// # Errors
    /// Returns an error if it is not an event of the world, or if its data is invalid.
    pub fn read(event: &RecordedEvent) -> Result<Self, EventError> {
        Self::of_new(&event.event)
    }

    /// Decodes the world's event from one that is to be stored.
    ///
    /// # Errors
    /// Returns an error if it is not an event of the world, or if its data is invalid.
    pub fn of_new(event: &NewEvent) -> Result<Self, EventError> {
        match &event.content {
            Content::Json(data) => Self::decode(&event.event_type, data),
            Content::Absent | Content::Binary(_) => {
                if Self::TYPES.contains(&&*event.event_type) {
                    Err(EventError::NotJson)
                } else {
                    Err(EventError::UnknownType(event.event_type.to_string()))
                }
            }
        }
    }

    /// Decodes the event with this type and this data.
    ///
    /// # Errors
    /// Returns an error if it is not an event of the world, or if its data is invalid.
    pub fn decode(event_type: &str, data: &str) -> Result<Self, EventError> {
        if !Self::TYPES.contains(&event_type) {
            return Err(EventError::UnknownType(event_type.to_owned()));
        }
        let tagged = format!("{{\"{event_type}\":{data}}}");
        serde_json::from_str(&tagged).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => {
                let tag = event_type.len().saturating_add(4);
                EventError::Misfit { line: error.line(), column: error.column().saturating_sub(tag) }
            }
            _ => EventError::NotJson,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_the_json_that_is_documented() {
        let event = WorldEvent::GameObjectCreated {
            class: "Weapon".into(),
            name: "sword".into(),
            generic: "weapon".into(),
            container_id: Some(AggregateId::new("room-1").unwrap()),
            attributes: Attributes::from([("weight".into(), 4.into())]),
        };
        let data = r#"{"attributes":{"weight":4},"container_id":"room-1","generic":"weapon","name":"sword","type":"Weapon"}"#;
        assert_eq!(event.encode().unwrap(), ("GameObjectCreated".into(), data.into()));
        assert_eq!(WorldEvent::decode("GameObjectCreated", data).unwrap(), event);
        let deleted = WorldEvent::GameObjectDeleted {};
        assert_eq!(deleted.encode().unwrap(), ("GameObjectDeleted".into(), "{}".into()));
        assert_eq!(WorldEvent::decode("GameObjectDeleted", "{}").unwrap(), deleted);
    }

    #[test]
    fn what_is_missing_has_its_default_and_what_is_new_is_passed_over() {
        let created = WorldEvent::decode("RoomCreated", r#"{"smell":"moss"}"#).unwrap();
        assert_eq!(created, WorldEvent::RoomCreated { description: String::new() });
    }

    #[test]
    fn what_is_no_event_of_the_world_is_named_without_its_data() {
        let unknown = WorldEvent::decode("QuestBegun", "{}").unwrap_err();
        assert_eq!(unknown.to_string(), "unknown event type \"QuestBegun\"");
        assert_eq!(WorldEvent::decode("RoomCreated", "{"), Err(EventError::NotJson));
        assert_eq!(WorldEvent::decode("RoomCreated", "{}} "), Err(EventError::NotJson));
        let misfit = WorldEvent::decode("RoomExitRemoved", r#"{"direction":12345}"#).unwrap_err();
        assert!(matches!(misfit, EventError::Misfit { .. }));
        assert!(!misfit.to_string().contains("12345"));
    }
}
