//! A room: a game object with a description and exits.
//!
//! Applies the events of rooms. All other events are left to the game object. The attribute
//! [`LONG_DESC`] of a room is its description: whichever event sets either of them last counts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    event::{Attributes, WorldEvent},
    game_object::GameObject,
    rule::BrokenRule,
};
use crate::event::AggregateId;

/// The attribute that holds the description of a room. It is never among the attributes of the
/// state.
pub const LONG_DESC: &str = "long_desc";

/// The state of a room after some of its events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Room {
    /// The state that all objects have.
    pub object: GameObject,
    /// Whether `RoomCreated` has been applied. It is part of the append that creates the object.
    pub created: bool,
    /// The description, which is also the attribute [`LONG_DESC`]. May be empty.
    pub description: String,
    /// The target room of each exit, by direction.
    pub exits: BTreeMap<String, AggregateId>,
}

impl Room {
    /// The class of a room's game object.
    pub const CLASS: &str = "Room";

    /// Returns the state after `GameObjectCreated`, before `RoomCreated`.
    pub fn new(object: GameObject) -> Self {
        let mut room = Self { object, created: false, description: String::new(), exits: BTreeMap::new() };
        room.take_long_desc();
        room
    }

    /// Moves the description from the attributes to where it belongs.
    fn take_long_desc(&mut self) {
        if let Some(value) = self.object.attributes.remove(LONG_DESC) {
            self.description = description(&value);
        }
    }

    /// Applies an event.
    ///
    /// # Errors
    /// Returns an error if the event is invalid for this room.
    pub fn apply(&mut self, event: &WorldEvent) -> Result<(), BrokenRule> {
        match event {
            WorldEvent::RoomCreated { .. } if self.created => return Err(BrokenRule::CreatedTwice),
            WorldEvent::RoomCreated { description } => {
                self.created = true;
                // An event without a description leaves the one in the attributes.
                if !description.is_empty() {
                    self.description.clone_from(description);
                }
            }
            WorldEvent::RoomDescriptionUpdated { description } => self.description.clone_from(description),
            WorldEvent::RoomExitAdded { direction, target_room_id } => {
                self.exits.insert(direction.clone(), target_room_id.clone());
            }
            WorldEvent::RoomExitRemoved { direction } => {
                self.exits.remove(direction).ok_or(BrokenRule::NotThere("exit"))?;
            }
            WorldEvent::GameObjectAttributeRemoved { key } if key == LONG_DESC => {
                if self.description.is_empty() {
                    return Err(BrokenRule::NotThere("attribute"));
                }
                self.description.clear();
            }
            other => {
                self.object.apply(other)?;
                self.take_long_desc();
            }
        }
        Ok(())
    }

    /// Returns the event that replaces the description, or `None` if it is the same.
    pub fn update_description(&self, description: &str) -> Option<WorldEvent> {
        let changes = self.description != description;
        changes.then(|| WorldEvent::RoomDescriptionUpdated { description: description.to_owned() })
    }

    /// Returns the event that adds an exit or changes its target, or `None` if nothing changes.
    pub fn add_exit(&self, direction: &str, target: &AggregateId) -> Option<WorldEvent> {
        let changes = self.exits.get(direction) != Some(target);
        changes.then(|| WorldEvent::RoomExitAdded {
            direction: direction.to_owned(),
            target_room_id: target.clone(),
        })
    }

    /// Returns the event that removes an exit, or `None` if there is no such exit.
    pub fn remove_exit(&self, direction: &str) -> Option<WorldEvent> {
        let there = self.exits.contains_key(direction);
        there.then(|| WorldEvent::RoomExitRemoved { direction: direction.to_owned() })
    }
}

/// Returns the description of a room in attributes, or `None` if they have none.
pub fn description_in(attributes: &Attributes) -> Option<String> {
    attributes.get(LONG_DESC).map(description)
}

/// Returns the description for a value of [`LONG_DESC`]. Commands accept only text and `null`.
/// Other values in stored events keep their form as JSON, so that they are not lost.
pub fn description(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::world::model::aggregate::{Aggregate, Kind};

    fn created(attributes: &[(&str, Value)]) -> WorldEvent {
        let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        WorldEvent::GameObjectCreated {
            class: Room::CLASS.to_owned(),
            name: String::new(),
            generic: String::new(),
            container_id: None,
            attributes: attributes.collect(),
        }
    }

    fn attribute(key: &str, value: Value) -> WorldEvent {
        WorldEvent::GameObjectAttributeUpdated { key: key.to_owned(), value }
    }

    fn described(description: &str) -> WorldEvent {
        WorldEvent::RoomDescriptionUpdated { description: description.to_owned() }
    }

    fn is_room(description: &str) -> WorldEvent {
        WorldEvent::RoomCreated { description: description.to_owned() }
    }

    fn room_after(events: &[WorldEvent]) -> Result<Room, BrokenRule> {
        let id = AggregateId::new("r").unwrap();
        let mut state = None;
        for event in events {
            state = Some(Aggregate::apply(state, Kind::Room, &id, event)?);
        }
        match state {
            Some(Aggregate::Room(room)) => Ok(room),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_last_of_the_description_and_the_attribute_counts() {
        let several = WorldEvent::GameObjectAttributesUpdated {
            attributes: Attributes::from([
                (LONG_DESC.to_owned(), json!("Moss.")),
                ("light".to_owned(), json!(3)),
            ]),
        };
        let removed = WorldEvent::GameObjectAttributeRemoved { key: LONG_DESC.to_owned() };
        let trees = || created(&[(LONG_DESC, json!("Trees."))]);
        for (events, expected) in [
            (vec![trees()], "Trees."),
            (vec![trees(), is_room("")], "Trees."),
            (vec![trees(), is_room("Stumps.")], "Stumps."),
            (vec![created(&[]), is_room("A"), attribute(LONG_DESC, json!("B"))], "B"),
            (vec![created(&[]), is_room("A"), attribute(LONG_DESC, json!("B")), described("C")], "C"),
            (vec![created(&[]), is_room("A"), described("C"), several], "Moss."),
            (vec![trees(), is_room(""), attribute(LONG_DESC, Value::Null)], ""),
            (vec![trees(), is_room(""), removed.clone()], ""),
            (vec![trees(), is_room(""), attribute(LONG_DESC, json!(["a", 1]))], "[\"a\",1]"),
        ] {
            let room = room_after(&events).unwrap();
            assert_eq!(room.description, expected, "{events:?}");
            assert!(!room.object.attributes.contains_key(LONG_DESC), "{events:?}");
        }
        let missing = room_after(&[created(&[]), is_room(""), removed]);
        assert_eq!(missing, Err(BrokenRule::NotThere("attribute")));
    }

    #[test]
    fn other_attributes_stay_and_so_does_the_attribute_of_other_kinds() {
        let room = room_after(&[created(&[("light", json!(3)), (LONG_DESC, json!("x"))])]).unwrap();
        assert_eq!(room.object.attributes, Attributes::from([("light".to_owned(), json!(3))]));
        let id = AggregateId::new("p").unwrap();
        let player = Aggregate::apply(None, Kind::Player, &id, &created(&[(LONG_DESC, json!("x"))])).unwrap();
        assert_eq!(player.object().attributes.get(LONG_DESC), Some(&json!("x")));
    }
}
