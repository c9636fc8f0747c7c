//! Where things are: containers, inventories, equipment. The rules that hold over several aggregates.
//!
//! What is in an inventory or worn lies in whoever has it: its container says so. An item is in at most one
//! inventory or slot, so whoever loses it is told by an event of its own.

use serde_json::Value;

use super::{
    event::WorldEvent,
    game_object::GameObject,
    known::{Decided, Known, Undecided},
    refusal::Refusal,
};
use crate::event::AggregateId;

/// The most containers that one thing may lie in, one in the other.
pub const CONTAINERS_MAX: usize = 64;

/// Whether `id` may lie in `container`: that exists, and does not lie in `id` itself.
///
/// # Errors
/// It may not, or what the container lies in is not known.
pub fn check_container(known: &Known, id: &AggregateId, container: &AggregateId) -> Result<(), Undecided> {
    if container == id {
        return Err(Refusal::Itself(id.clone()).into());
    }
    let mut above = known.living(container)?.object().container_id.as_ref();
    for _ in 0..CONTAINERS_MAX {
        let Some(next) = above else { return Ok(()) };
        if next == id {
            return Err(Refusal::ContainerCycle { id: id.clone(), container: container.clone() }.into());
        }
        above = known.find(next)?.and_then(|aggregate| aggregate.object().container_id.as_ref());
    }
    let (id, container) = (id.clone(), container.clone());
    Err(Refusal::ContainersTooDeep { id, container, max: CONTAINERS_MAX }.into())
}

pub fn move_to(
    known: &Known,
    id: &AggregateId,
    container: Option<&AggregateId>,
) -> Result<Vec<Decided>, Undecided> {
    let object = known.living(id)?.object();
    if object.container_id.as_ref() == container {
        return Ok(Vec::new());
    }
    if let Some(container) = container {
        check_container(known, id, container)?;
    }
    let mut events = let_go(known, object)?;
    events.push(contained(known, id, container)?);
    Ok(events)
}

pub fn delete(known: &Known, id: &AggregateId) -> Result<Vec<Decided>, Undecided> {
    let mut events = let_go(known, known.living(id)?.object())?;
    events.push(decided(known, id, WorldEvent::GameObjectDeleted {})?);
    Ok(events)
}

pub fn add_item(
    known: &Known,
    id: &AggregateId,
    item_id: &AggregateId,
    position: Option<&Value>,
) -> Result<Vec<Decided>, Undecided> {
    let (holder, item) = (known.living(id)?.object(), known.living(item_id)?.object());
    let lies_here = item.container_id.as_ref() == Some(id);
    if !lies_here {
        check_container(known, item_id, id)?;
    }
    let is_there = holder.inventory.get(item_id);
    if is_there.is_some_and(|there| position.is_none() || there.as_ref() == position) {
        return Ok(Vec::new());
    }
    if let Some(position) = position
        && let Some((other, _)) = holder
            .inventory
            .iter()
            .find(|(other, there)| there.as_ref() == Some(position) && *other != item_id)
    {
        return Err(Refusal::PositionTaken { holder: id.clone(), item: other.clone() }.into());
    }
    let mut events = Vec::new();
    match holder.slot_of(item_id) {
        Some(slot) => {
            events.push(decided(known, id, unequipped(item_id, slot))?);
            // Taken off, it is in the inventory already.
            if position.is_none() {
                return Ok(events);
            }
        }
        None if !lies_here => events.extend(let_go(known, item)?),
        None => {}
    }
    let added = WorldEvent::ItemAddedToInventory { item_id: item_id.clone(), position: position.cloned() };
    events.push(decided(known, id, added)?);
    if !lies_here {
        events.push(contained(known, item_id, Some(id))?);
    }
    Ok(events)
}

pub fn remove_item(
    known: &Known,
    id: &AggregateId,
    item_id: &AggregateId,
) -> Result<Vec<Decided>, Undecided> {
    if !known.living(id)?.object().inventory.contains_key(item_id) {
        return Err(Refusal::NotInInventory { holder: id.clone(), item: item_id.clone() }.into());
    }
    let mut events =
        vec![decided(known, id, WorldEvent::ItemRemovedFromInventory { item_id: item_id.clone() })?];
    let item = known.find(item_id)?.map(|item| item.object());
    if item.is_some_and(|item| !item.deleted && item.container_id.as_ref() == Some(id)) {
        events.push(contained(known, item_id, None)?);
    }
    Ok(events)
}

pub fn equip(
    known: &Known,
    id: &AggregateId,
    item_id: &AggregateId,
    slot: &str,
) -> Result<Vec<Decided>, Undecided> {
    let (holder, item) = (known.living(id)?.object(), known.living(item_id)?.object());
    let here = || (id.clone(), item_id.clone());
    match holder.equipment.get(slot) {
        Some(worn) if worn == item_id => return Ok(Vec::new()),
        Some(worn) => {
            let (holder, item, slot) = (id.clone(), worn.clone(), slot.to_owned());
            return Err(Refusal::SlotTaken { holder, item, slot }.into());
        }
        None => {}
    }
    if holder.slot_of(item_id).is_some() {
        let (holder, item) = here();
        return Err(Refusal::AlreadyEquipped { holder, item }.into());
    }
    if !holder.inventory.contains_key(item_id) && item.container_id.as_ref() != Some(id) {
        let (holder, item) = here();
        return Err(Refusal::NotCarried { holder, item }.into());
    }
    let equipped = WorldEvent::ItemEquipped { item_id: item_id.clone(), slot: slot.to_owned() };
    Ok(vec![decided(known, id, equipped)?])
}

pub fn unequip(
    known: &Known,
    id: &AggregateId,
    item_id: &AggregateId,
    slot: Option<&str>,
) -> Result<Vec<Decided>, Undecided> {
    let worn_in = known.living(id)?.object().slot_of(item_id);
    match worn_in.filter(|worn_in| slot.is_none_or(|slot| slot == *worn_in)) {
        Some(slot) => Ok(vec![decided(known, id, unequipped(item_id, slot))?]),
        None => Err(Refusal::NotInSlot { holder: id.clone(), item: item_id.clone() }.into()),
    }
}

/// The events by which whoever carries or wears the object loses it.
fn let_go(known: &Known, object: &GameObject) -> Result<Vec<Decided>, Undecided> {
    let Some(holder_id) = &object.container_id else { return Ok(Vec::new()) };
    let Some(holder) = known.find(holder_id)?.map(|holder| holder.object()) else { return Ok(Vec::new()) };
    if holder.deleted {
        return Ok(Vec::new());
    }
    let removed = || WorldEvent::ItemRemovedFromInventory { item_id: object.id.clone() };
    match holder.slot_of(&object.id) {
        Some(slot) => Ok(vec![
            decided(known, holder_id, unequipped(&object.id, slot))?,
            decided(known, holder_id, removed())?,
        ]),
        None if holder.inventory.contains_key(&object.id) => Ok(vec![decided(known, holder_id, removed())?]),
        None => Ok(Vec::new()),
    }
}

fn unequipped(item: &AggregateId, slot: &str) -> WorldEvent {
    WorldEvent::ItemUnequipped { item_id: item.clone(), slot: slot.to_owned() }
}

fn contained(known: &Known, id: &AggregateId, container: Option<&AggregateId>) -> Result<Decided, Undecided> {
    decided(known, id, WorldEvent::GameObjectContainerUpdated { container_id: container.cloned() })
}

fn decided(known: &Known, id: &AggregateId, event: WorldEvent) -> Result<Decided, Undecided> {
    Ok(Decided { id: id.clone(), kind: known.living(id)?.kind(), event })
}
