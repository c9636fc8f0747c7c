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
        /// The name used by those who do not know the object's own name. May be empty.
        #[serde(default)]
        generic: String,
        /// The object that it lies in, or `None` if it lies nowhere.
        #[serde(default)]
        container_id: Option<AggregateId>,
        /// The field `name`, if set, takes precedence over an attribute of that name.
        #[serde(default)]
        attributes: Attributes,
    },
    /// One attribute was added or replaced.
    GameObjectAttributeUpdated {
        /// The name of the attribute.
        key: String,
        /// The new value, which may be `null`.
        value: Value,
    },
    /// Several attributes were added or replaced. All others are unchanged.
    GameObjectAttributesUpdated {
        /// The new values.
        attributes: Attributes,
    },
    /// One attribute was removed.
    GameObjectAttributeRemoved {
        /// The name of the attribute.
        key: String,
    },
    /// The object was moved.
    GameObjectContainerUpdated {
        /// The new container, or `None` if the object lies nowhere from then on.
        #[serde(default)]
        container_id: Option<AggregateId>,
    },
    /// The object was deleted. No event follows, except repairs.
    GameObjectDeleted {},
    /// Follows `GameObjectCreated` in the history of a player.
    PlayerCreated {
        /// `None` if the player has no password yet.
        #[serde(default)]
        password_hash: Option<PasswordHash>,
        /// Whether the player is an administrator.
        #[serde(default)]
        admin: bool,
    },
    /// The password was set or changed.
    PlayerPasswordUpdated {
        /// The hash of the new password.
        password_hash: PasswordHash,
    },
    /// Administrator rights were granted or revoked.
    PlayerAdminStatusUpdated {
        /// Whether the player is an administrator from then on.
        admin: bool,
    },
    /// Follows `GameObjectCreated` in the history of a room.
    RoomCreated {
        /// May be empty.
        #[serde(default)]
        description: String,
    },
    /// The description was replaced.
    RoomDescriptionUpdated {
        /// The new description. May be empty.
        description: String,
    },
    /// An exit was added, or leads to another room from then on.
    RoomExitAdded {
        /// Identifies the exit within the room.
        direction: String,
        /// The room that the exit leads to. It need not exist.
        target_room_id: AggregateId,
    },
    /// An exit was removed.
    RoomExitRemoved {
        /// Identifies the exit within the room.
        direction: String,
    },
    /// An item was put into the inventory of the object, or has another position there.
    ItemAddedToInventory {
        /// The item that is carried.
        item_id: AggregateId,
        /// The place within the inventory, or `None` if it has no particular one.
        #[serde(default)]
        position: Option<Value>,
    },
    /// An item was taken out of the inventory of the object.
    ItemRemovedFromInventory {
        /// The item that is no longer carried.
        item_id: AggregateId,
    },
    /// The object wears an item from then on. The item is no longer in the inventory.
    ItemEquipped {
        /// The item that is worn.
        item_id: AggregateId,
        /// The slot, which was free.
        slot: String,
    },
    /// The object no longer wears an item. The item is in the inventory, without a position.
    ItemUnequipped {
        /// The item that was worn.
        item_id: AggregateId,
        /// The slot, which is free from then on.
        slot: String,
    },
    /// Excludes earlier invalid events of the object from replay.
    ObjectRepaired {
        /// The sequence numbers of the excluded events.
        passed_over: Vec<u64>,
        /// Describes what is wrong with the first few of them.
        #[serde(default)]
        because: String,
        /// Who requested the repair. Empty if unknown.
        #[serde(default)]
        actor: String,
    },
}

/// Why an event is not one of the world's, or cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The type is not in [`WorldEvent::TYPES`].
    #[error("unknown event type {0:?}")]
    UnknownType(String),
    /// The data is absent, binary, or not valid JSON.
    #[error("its data is not valid JSON")]
    NotJson,
    /// Names the position in the data, but never the data itself.
    #[error("its data does not match its type (line {line}, column {column})")]
    Misfit {
        /// The line in the data, from 1.
        line: usize,
        /// The bytes of that line up to where the mismatch was found.
        column: usize,
    },
    /// JSON cannot represent the data, for example an infinite number.
    #[error("its data cannot be represented as JSON")]
    Unwritable,
}

impl WorldEvent {
    /// The type of [`WorldEvent::ObjectRepaired`].
    pub const REPAIRED: &str = "ObjectRepaired";

    /// All types of events of the world, in the order of the variants.
    pub const TYPES: [&str; 18] = [
        "GameObjectCreated",
        "GameObjectAttributeUpdated",
        "GameObjectAttributesUpdated",
        "GameObjectAttributeRemoved",
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
                // The tag precedes the data on the first line.
                let tag = if error.line() == 1 { event_type.len().saturating_add(4) } else { 0 };
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
        let removed = WorldEvent::GameObjectAttributeRemoved { key: "weight".into() };
        let data = r#"{"key":"weight"}"#;
        assert_eq!(removed.encode().unwrap(), ("GameObjectAttributeRemoved".into(), data.into()));
        assert_eq!(WorldEvent::decode("GameObjectAttributeRemoved", data).unwrap(), removed);
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

    #[test]
    fn the_place_of_a_misfit_is_that_in_the_data() {
        let misfit = |data| WorldEvent::decode("RoomExitRemoved", data).unwrap_err();
        // The last digit of the number.
        assert_eq!(misfit(r#"{"direction":12345}"#), EventError::Misfit { line: 1, column: 18 });
        assert_eq!(misfit("{\n\"direction\":12345}"), EventError::Misfit { line: 2, column: 17 });
    }
}
