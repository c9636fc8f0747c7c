//! A room: a game object with a description and exits.
//!
//! Applies the events of rooms. All other events are left to the game object.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{event::WorldEvent, game_object::GameObject, rule::BrokenRule};
use crate::event::AggregateId;

/// The state of a room after some of its events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Room {
    /// The state that all objects have.
    pub object: GameObject,
    /// Whether `RoomCreated` has been applied. It is part of the append that creates the object.
    pub created: bool,
    /// May be empty.
    pub description: String,
    /// The target room of each exit, by direction.
    pub exits: BTreeMap<String, AggregateId>,
}

impl Room {
    /// The class of a room's game object.
    pub const CLASS: &str = "Room";

    /// Returns the state after `GameObjectCreated`, before `RoomCreated`.
    pub fn new(object: GameObject) -> Self {
        Self { object, created: false, description: String::new(), exits: BTreeMap::new() }
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
                self.description.clone_from(description);
            }
            WorldEvent::RoomDescriptionUpdated { description } => self.description.clone_from(description),
            WorldEvent::RoomExitAdded { direction, target_room_id } => {
                self.exits.insert(direction.clone(), target_room_id.clone());
            }
            WorldEvent::RoomExitRemoved { direction } => {
                self.exits.remove(direction).ok_or(BrokenRule::NotThere("exit"))?;
            }
            other => return self.object.apply(other),
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
