//! Limits on the contents of one object.
//!
//! They bound what has to be loaded, returned and held in memory at once.

use super::{
    refusal::Refusal,
    world_view::{Decided, Undecided, WorldView},
};
use crate::{
    event::AggregateId,
    world::model::{aggregate::Aggregate, event::WorldEvent, size},
};

/// The maximum number of attributes of one object.
pub const ATTRIBUTES_MAX: usize = 1000;
/// The maximum number of items in one inventory. Unequipping an item may exceed it.
pub const ITEMS_MAX: usize = 10_000;
/// The maximum number of items that one object wears.
pub const SLOTS_MAX: usize = 1000;
/// The maximum number of exits of one room.
pub const EXITS_MAX: usize = 1000;

/// The maximum size of one object. In a response, it stays below the message size limit.
pub const SIZE_MAX: usize = 900_000;

/// Checks the events against the limits.
///
/// # Errors
/// Returns an error if the events would make an object exceed a limit.
pub fn check(known: &WorldView, decided: &[Decided]) -> Result<(), Undecided> {
    for one in decided {
        check_counts(known.find(&one.id)?, one)?;
        check_size(&one.id, known, decided)?;
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
        WorldEvent::GameObjectAttributeRemoved { .. }
        | WorldEvent::GameObjectContainerUpdated { .. }
        | WorldEvent::GameObjectDeleted {}
        | WorldEvent::PlayerCreated { .. }
        | WorldEvent::PlayerPasswordUpdated { .. }
        | WorldEvent::PlayerAdminStatusUpdated { .. }
        | WorldEvent::RoomCreated { .. }
        | WorldEvent::RoomDescriptionUpdated { .. }
        | WorldEvent::RoomExitRemoved { .. }
        | WorldEvent::ObjectRepaired { .. }
        | WorldEvent::ItemRemovedFromInventory { .. }
        // The item returns to the inventory. It was usually equipped from there, so it is not
        // counted again.
        | WorldEvent::ItemUnequipped { .. } => return Ok(()),
    };
    if held > max { Err(Refusal::Full { id: decided.id.clone(), what, max }.into()) } else { Ok(()) }
}

fn check_size(id: &AggregateId, known: &WorldView, decided: &[Decided]) -> Result<(), Undecided> {
    let its = || decided.iter().filter(|decided| decided.id == *id);
    // Most objects are far below the limit. The bound shows that without examining all they hold.
    let at_most = its().map(|its| size::growth(&its.event));
    if at_most.fold(known.size_bound(id), usize::saturating_add) <= SIZE_MAX {
        return Ok(());
    }
    let aggregate = known.find(id)?;
    let before = aggregate.map_or(0, size::of);
    let mut after = aggregate.cloned();
    for its in its() {
        // An invalid event is detected where it is applied.
        let Ok(state) = Aggregate::apply(after, its.kind, id, &its.event) else { return Ok(()) };
        after = Some(state);
    }
    let after = after.as_ref().map_or(0, size::of);
    // An object that exceeds the limit because of earlier limits may be changed if it does not
    // grow.
    if after > SIZE_MAX && after > before {
        Err(Refusal::Full { id: id.clone(), what: "bytes", max: SIZE_MAX }.into())
    } else {
        Ok(())
    }
}
