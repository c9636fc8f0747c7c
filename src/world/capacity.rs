//! How much one object may hold. What is loaded, answered and kept as a snapshot at once has to be bounded.

use super::{
    aggregate::Aggregate,
    event::WorldEvent,
    known::{Decided, Known, Undecided},
    refusal::Refusal,
    weight::{self, VALUE_BYTES, bytes, values},
};
use crate::event::AggregateId;

pub const ATTRIBUTES_MAX: usize = 1000;
pub const ITEMS_MAX: usize = 10_000;
pub const SLOTS_MAX: usize = 1000;
pub const EXITS_MAX: usize = 1000;

/// How much one object may weigh: as a snapshot and as an answer it stays below the limits of both.
pub const WEIGHT_MAX: usize = 900_000;

/// # Errors
/// The events would have an object hold more than it may.
pub fn check(known: &Known, decided: &[Decided]) -> Result<(), Undecided> {
    for one in decided {
        check_counts(known.find(&one.id)?, one)?;
        check_weight(&one.id, known.find(&one.id)?, decided)?;
    }
    Ok(())
}

fn check_counts(aggregate: Option<&Aggregate>, decided: &Decided) -> Result<(), Undecided> {
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

fn check_weight(
    id: &AggregateId,
    aggregate: Option<&Aggregate>,
    decided: &[Decided],
) -> Result<(), Undecided> {
    let (mut added, mut replaced) = (0usize, 0usize);
    for its in decided.iter().filter(|decided| decided.id == *id) {
        let (more, less) = growth(aggregate, &its.event);
        added = added.saturating_add(more);
        replaced = replaced.saturating_add(less);
    }
    // One that is too heavy, by other limits once, may become lighter.
    if added <= replaced {
        return Ok(());
    }
    let before = aggregate.map_or(0, weight::of);
    match before.saturating_sub(replaced).saturating_add(added) > WEIGHT_MAX {
        true => Err(Refusal::Full { id: id.clone(), what: "bytes", max: WEIGHT_MAX }.into()),
        false => Ok(()),
    }
}

/// What an event adds to the weight of its object at most, and what that takes the place of.
fn growth(aggregate: Option<&Aggregate>, event: &WorldEvent) -> (usize, usize) {
    let attribute = |key: &String| aggregate.and_then(|known| known.object().attributes.get(key));
    let (values, replaced) = match event {
        WorldEvent::GameObjectCreated { attributes, .. } => (attributes.values().map(values).sum(), 0),
        WorldEvent::GameObjectAttributeUpdated { key, value } => {
            (values(value), attribute(key).map_or(0, weight::of_value))
        }
        WorldEvent::GameObjectAttributesUpdated { attributes } => (
            attributes.values().map(values).sum(),
            attributes.keys().filter_map(attribute).map(weight::of_value).sum(),
        ),
        WorldEvent::RoomDescriptionUpdated { .. } => match aggregate {
            Some(Aggregate::Room(room)) => (0, bytes(&room.description)),
            Some(Aggregate::GameObject(_) | Aggregate::Player(_)) | None => (0, 0),
        },
        WorldEvent::ItemAddedToInventory { position, .. } => (position.as_ref().map_or(1, values), 0),
        WorldEvent::RoomExitAdded { .. } | WorldEvent::ItemEquipped { .. } => (1, 0),
        WorldEvent::PlayerCreated { .. } | WorldEvent::RoomCreated { .. } => (0, 0),
        // They change little, or make it lighter.
        WorldEvent::GameObjectContainerUpdated { .. }
        | WorldEvent::GameObjectDeleted {}
        | WorldEvent::PlayerPasswordUpdated { .. }
        | WorldEvent::PlayerAdminStatusUpdated { .. }
        | WorldEvent::RoomExitRemoved { .. }
        | WorldEvent::ItemRemovedFromInventory { .. }
        | WorldEvent::ItemUnequipped { .. } => return (0, 0),
    };
    (bytes(event).saturating_add(values.saturating_mul(VALUE_BYTES)), replaced)
}
