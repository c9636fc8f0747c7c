//! How much one object may hold. What is loaded, answered and kept as a snapshot at once has to be bounded.

use super::{
    aggregate::Aggregate,
    event::WorldEvent,
    known::{Decided, Known, Undecided},
    refusal::Refusal,
};

pub const ATTRIBUTES_MAX: usize = 1000;
pub const ITEMS_MAX: usize = 10_000;
pub const SLOTS_MAX: usize = 1000;
pub const EXITS_MAX: usize = 1000;

/// # Errors
/// The event would have its object hold more than it may.
pub fn check(known: &Known, decided: &Decided) -> Result<(), Undecided> {
    let aggregate = known.find(&decided.id)?;
    let object = aggregate.map(Aggregate::object);
    let (what, held, max) = match &decided.event {
        WorldEvent::GameObjectCreated { attributes, .. } => ("attributes", attributes.len(), ATTRIBUTES_MAX),
        WorldEvent::GameObjectAttributeUpdated { key, .. } => {
            let new = object.is_some_and(|object| !object.attributes.contains_key(key));
            let held = object.map_or(0, |object| object.attributes.len());
            ("attributes", held.saturating_add(usize::from(new)), ATTRIBUTES_MAX)
        }
        WorldEvent::GameObjectAttributesUpdated { attributes } => {
            let has = |key: &&String| object.is_some_and(|object| object.attributes.contains_key(*key));
            let new = attributes.keys().filter(|key| !has(key)).count();
            let held = object.map_or(0, |object| object.attributes.len());
            ("attributes", held.saturating_add(new), ATTRIBUTES_MAX)
        }
        WorldEvent::ItemAddedToInventory { item_id, .. } => {
            let new = object.is_some_and(|object| !object.inventory.contains_key(item_id));
            let held = object.map_or(0, |object| object.inventory.len());
            ("items", held.saturating_add(usize::from(new)), ITEMS_MAX)
        }
        WorldEvent::ItemEquipped { .. } => {
            ("slots", object.map_or(0, |object| object.equipment.len()).saturating_add(1), SLOTS_MAX)
        }
        WorldEvent::RoomExitAdded { direction, .. } => match aggregate {
            Some(Aggregate::Room(room)) => {
                let new = usize::from(!room.exits.contains_key(direction));
                ("exits", room.exits.len().saturating_add(new), EXITS_MAX)
            }
            Some(Aggregate::GameObject(_) | Aggregate::Player(_)) | None => return Ok(()),
        },
        WorldEvent::GameObjectContainerUpdated { .. }
        | WorldEvent::GameObjectDeleted {}
        | WorldEvent::PlayerCreated { .. }
        | WorldEvent::PlayerPasswordUpdated { .. }
        | WorldEvent::PlayerAdminStatusUpdated { .. }
        | WorldEvent::RoomCreated { .. }
        | WorldEvent::RoomDescriptionUpdated { .. }
        | WorldEvent::RoomExitRemoved { .. }
        | WorldEvent::ItemRemovedFromInventory { .. }
        // It goes back into the inventory that it was taken out of, or that has room for what is worn.
        | WorldEvent::ItemUnequipped { .. } => return Ok(()),
    };
    match held > max {
        true => Err(Refusal::Full { id: decided.id.clone(), what, max }.into()),
        false => Ok(()),
    }
}
