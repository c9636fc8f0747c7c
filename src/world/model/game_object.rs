//! A game object: the state that every object of the world has, including rooms and players.
//!
//! Its rules concern this one object only. Rules across several objects are left to `rules`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    event::{Attributes, WorldEvent},
    rule::BrokenRule,
};
use crate::event::AggregateId;

/// The attribute that holds the name.
pub const NAME: &str = "name";

/// The state of a game object after some of its events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GameObject {
    /// The id of the aggregate.
    pub id: AggregateId,
    /// The object's class in the game.
    #[serde(rename = "type")]
    pub class: String,
    /// The name used by those who do not know the object's own name. May be empty.
    pub generic: String,
    /// The object that it lies in, or that carries or wears it. `None` if it lies nowhere.
    pub container_id: Option<AggregateId>,
    /// All attributes, including [`NAME`].
    pub attributes: Attributes,
    /// The items that it carries, each with its position.
    pub inventory: BTreeMap<AggregateId, Option<Value>>,
    /// The items that it wears, by slot. An item is never worn and in the inventory at the same
    /// time.
    pub equipment: BTreeMap<String, AggregateId>,
    /// Whether it has been deleted. A deleted object carries and wears nothing.
    pub deleted: bool,
}

impl GameObject {
    /// The class of an object that is created without one.
    pub const CLASS: &str = "GameObject";

    /// Returns the state after the first event.
    ///
    /// # Errors
    /// Returns an error if the event does not create an object.
    pub fn create(id: &AggregateId, event: &WorldEvent) -> Result<Self, BrokenRule> {
        let (class, name, generic, container_id, attributes) = match event {
            WorldEvent::GameObjectCreated { class, name, generic, container_id, attributes } => {
                (class, name, generic, container_id, attributes)
            }
            WorldEvent::ObjectRepaired { .. } => return Err(BrokenRule::NoRepair),
            _ => return Err(BrokenRule::NotCreated),
        };
        let mut attributes = attributes.clone();
        if !name.is_empty() {
            attributes.insert(NAME.to_owned(), Value::String(name.clone()));
        }
        Ok(Self {
            id: id.clone(),
            class: class.clone(),
            generic: generic.clone(),
            container_id: container_id.clone(),
            attributes,
            inventory: BTreeMap::new(),
            equipment: BTreeMap::new(),
            deleted: false,
        })
    }

    /// Returns the name, or an empty string if there is none or it is not a string.
    pub fn name(&self) -> &str {
        self.attributes.get(NAME).and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns the slot in which an item is worn, or `None` if it is not worn.
    pub fn slot_of(&self, item: &AggregateId) -> Option<&str> {
        self.equipment.iter().find(|(_, worn)| *worn == item).map(|(slot, _)| slot.as_str())
    }

    /// Applies an event.
    ///
    /// # Errors
    /// Returns an error if the event is invalid for this object.
    pub fn apply(&mut self, event: &WorldEvent) -> Result<(), BrokenRule> {
        match event {
            WorldEvent::GameObjectCreated { .. } => return Err(BrokenRule::CreatedTwice),
            WorldEvent::GameObjectAttributeUpdated { key, value } => {
                self.attributes.insert(key.clone(), value.clone());
            }
            WorldEvent::GameObjectAttributesUpdated { attributes } => {
                self.attributes.extend(attributes.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
            WorldEvent::GameObjectAttributeRemoved { key } => {
                self.attributes.remove(key).ok_or(BrokenRule::NotThere("attribute"))?;
            }
            WorldEvent::GameObjectContainerUpdated { container_id } => {
                if container_id.as_ref() == Some(&self.id) {
                    return Err(BrokenRule::InItself);
                }
                self.container_id.clone_from(container_id);
            }
            WorldEvent::GameObjectDeleted {} => {
                self.deleted = true;
                // Other objects may take its items, and no later event would remove them here.
                self.inventory.clear();
                self.equipment.clear();
            }
            WorldEvent::ItemAddedToInventory { item_id, position } => {
                self.inventory.insert(item_id.clone(), position.clone());
            }
            WorldEvent::ItemRemovedFromInventory { item_id } => {
                self.inventory.remove(item_id).ok_or(BrokenRule::NotThere("item"))?;
            }
            WorldEvent::ItemEquipped { item_id, slot } => {
                if self.equipment.contains_key(slot) {
                    return Err(BrokenRule::SlotTaken);
                }
                self.inventory.remove(item_id);
                self.equipment.insert(slot.clone(), item_id.clone());
            }
            WorldEvent::ItemUnequipped { item_id, slot } => {
                if self.equipment.get(slot) != Some(item_id) {
                    return Err(BrokenRule::NotThere("worn item"));
                }
                self.equipment.remove(slot);
                self.inventory.insert(item_id.clone(), None);
            }
            WorldEvent::ObjectRepaired { .. } => return Err(BrokenRule::NoRepair),
            WorldEvent::PlayerCreated { .. }
            | WorldEvent::PlayerPasswordUpdated { .. }
            | WorldEvent::PlayerAdminStatusUpdated { .. }
            | WorldEvent::RoomCreated { .. }
            | WorldEvent::RoomDescriptionUpdated { .. }
            | WorldEvent::RoomExitAdded { .. }
            | WorldEvent::RoomExitRemoved { .. } => return Err(BrokenRule::OfAnotherKind),
        }
        Ok(())
    }

    /// Returns the event that sets an attribute, or `None` if it already has this value.
    pub fn update_attribute(&self, key: &str, value: &Value) -> Option<WorldEvent> {
        let changes = self.attributes.get(key) != Some(value);
        changes.then(|| WorldEvent::GameObjectAttributeUpdated { key: key.to_owned(), value: value.clone() })
    }

    /// Returns the event that sets several attributes, without those that already have their value.
    /// Returns `None` if nothing changes.
    pub fn update_attributes(&self, attributes: &Attributes) -> Option<WorldEvent> {
        let changed = attributes.iter().filter(|(key, value)| self.attributes.get(*key) != Some(*value));
        let attributes: Attributes = changed.map(|(key, value)| (key.clone(), value.clone())).collect();
        (!attributes.is_empty()).then_some(WorldEvent::GameObjectAttributesUpdated { attributes })
    }

    /// Returns the event that removes an attribute, or `None` if there is no such attribute.
    pub fn remove_attribute(&self, key: &str) -> Option<WorldEvent> {
        let there = self.attributes.contains_key(key);
        there.then(|| WorldEvent::GameObjectAttributeRemoved { key: key.to_owned() })
    }
}
