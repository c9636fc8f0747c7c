//! Where objects are: containers, inventories and equipment. These rules span several aggregates.
//!
//! The container of an item that is carried or worn is its holder. An item is in at most one
//! inventory or slot, so a holder that loses an item gets an event of its own.

use serde_json::Value;

use super::{
    command::ContentsPolicy,
    refusal::Refusal,
    world_view::{Decided, Undecided, WorldView},
};
use crate::{
    event::AggregateId,
    world::model::{aggregate::Aggregate, event::WorldEvent, game_object::GameObject},
};

/// The maximum number of nested containers that an object may be in.
pub const CONTAINERS_MAX: usize = 64;

/// Objects may already be nested more deeply, because of older rules or raw appends. Walking up
/// their containers ends after this many.
const CONTAINERS_WALKED_MAX: usize = 500;

/// What is put into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object is created there, and is empty.
    New,
    /// The object brings its contents along.
    Moved,
}

/// Checks whether `id` may be put into `container`. The container must exist and must not be inside
/// `id`, and nothing may end up in more than [`CONTAINERS_MAX`] containers. Containers that already
/// exceed this stay usable: empty objects may be put there, and other objects may be moved there if
/// they end up no deeper than before.
///
/// # Errors
/// Returns an error if `id` may not be put there, or if one of the containers above is not known.
pub fn check_container(
    known: &WorldView,
    id: &AggregateId,
    container: &AggregateId,
    put: Put,
) -> Result<(), Undecided> {
    if container == id {
        return Err(Refusal::Itself(id.clone()).into());
    }
    let holder = known.living(container)?.object();
    let too_deep = || {
        let (id, container) = (id.clone(), container.clone());
        Undecided::from(Refusal::ContainersTooDeep { id, container, max: CONTAINERS_MAX })
    };
    let mut above = 0;
    for next in chain(known, holder.container_id.as_ref()) {
        if next? == id {
            return Err(Refusal::ContainerCycle { id: id.clone(), container: container.clone() }.into());
        }
        above += 1;
    }
    if above >= CONTAINERS_WALKED_MAX {
        return Err(too_deep());
    }
    let containers = above + 1;
    // Most moves lead no deeper, so the contents need not be examined. Only containers that are
    // already known count here.
    if put == Put::Moved {
        let before = chain(known, known.living(id)?.object().container_id.as_ref());
        if before.map_while(Result::ok).take(containers).count() == containers {
            return Ok(());
        }
    }
    let height = match put {
        Put::New => 0,
        Put::Moved => known.height(id)?,
    };
    if containers + height <= CONTAINERS_MAX || (height == 0 && above > CONTAINERS_MAX) {
        return Ok(());
    }
    Err(too_deep())
}

/// Iterates over a container, its own container, and so on. An object that does not exist or is
/// deleted has no container.
fn chain<'k>(
    known: &'k WorldView,
    first: Option<&'k AggregateId>,
) -> impl Iterator<Item = Result<&'k AggregateId, Undecided>> {
    let mut next = Ok(first);
    let walk = std::iter::from_fn(move || match std::mem::replace(&mut next, Ok(None)) {
        Ok(None) => None,
        Ok(Some(id)) => {
            let found = known.find(id);
            let living = |found: &&Aggregate| !found.object().deleted;
            next = found.map(|found| found.filter(living)?.object().container_id.as_ref());
            Some(Ok(id))
        }
        Err(unknown) => Some(Err(unknown)),
    });
    walk.take(CONTAINERS_WALKED_MAX)
}

/// Iterates over the containers of an object that was put somewhere, as far as they are known: its
/// container, that container's own container, and so on.
pub fn containers<'k>(known: &'k WorldView, id: &'k AggregateId) -> impl Iterator<Item = &'k AggregateId> {
    chain(known, Some(id)).skip(1).map_while(Result::ok)
}

/// Returns the events that put an object into a container, or nowhere if it is `None`. Empty if the
/// object is there already.
pub(super) fn move_to(
    known: &WorldView,
    id: &AggregateId,
    container: Option<&AggregateId>,
) -> Result<Vec<Decided>, Undecided> {
    let object = known.living(id)?.object();
    if object.container_id.as_ref() == container {
        return Ok(Vec::new());
    }
    if let Some(container) = container {
        check_container(known, id, container, Put::Moved)?;
    }
    let mut events = let_go(known, object)?;
    events.push(contained(known, id, container)?);
    Ok(events)
}

/// Returns the events that delete an object. Before that, its contents are moved if `contents`
/// requests it, and the holder that carries or wears the object loses it.
pub(super) fn delete(
    known: &WorldView,
    id: &AggregateId,
    contents: ContentsPolicy,
) -> Result<Vec<Decided>, Undecided> {
    let object = known.living(id)?.object();
    let mut events = match contents {
        ContentsPolicy::Leave => Vec::new(),
        ContentsPolicy::RefuseIfAny => match known.contents(id)? {
            [] => Vec::new(),
            [item, others @ ..] => {
                let (id, item) = (id.clone(), item.clone());
                return Err(Refusal::NotEmpty { id, item, others: others.len() }.into());
            }
        },
        ContentsPolicy::MoveToContainer => move_out(known, object)?,
    };
    events.extend(let_go(known, object)?);
    events.push(decided(known, id, WorldEvent::GameObjectDeleted {})?);
    Ok(events)
}

/// Moves the contents of an object to its own container, or to no container if that was deleted.
/// There are no events for the items that the object stops carrying or wearing, because its
/// deletion implies that.
fn move_out(known: &WorldView, object: &GameObject) -> Result<Vec<Decided>, Undecided> {
    let contents = known.contents(&object.id)?;
    if contents.len() > ContentsPolicy::MOVED_MAX {
        let (id, max) = (object.id.clone(), ContentsPolicy::MOVED_MAX);
        return Err(Refusal::TooMuchInside { id, max }.into());
    }
    let to = match &object.container_id {
        Some(container) => {
            known.find(container)?.map(Aggregate::object).filter(|container| !container.deleted)
        }
        None => None,
    };
    let mut events = Vec::with_capacity(contents.len());
    for id in contents {
        let item = known.find(id)?.map(Aggregate::object);
        // The object may have been taken out meanwhile.
        let lies_here = |item: &&GameObject| !item.deleted && item.container_id.as_ref() == Some(&object.id);
        if item.filter(lies_here).is_some() {
            events.push(contained(known, id, to.map(|to| &to.id))?);
        }
    }
    Ok(events)
}

/// Returns the events that put an item into the inventory of `id`, wherever it is now. Empty if it
/// is there already, unless `position` is another position.
pub(super) fn add_item(
    known: &WorldView,
    id: &AggregateId,
    item_id: &AggregateId,
    position: Option<&Value>,
) -> Result<Vec<Decided>, Undecided> {
    let (holder, item) = (known.living(id)?.object(), known.living(item_id)?.object());
    let lies_here = item.container_id.as_ref() == Some(id);
    if !lies_here {
        check_container(known, item_id, id, Put::Moved)?;
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
            // Unequipping already puts the item into the inventory.
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

/// Returns the events that take an item out of the inventory of `id`. The item then lies nowhere.
pub(super) fn remove_item(
    known: &WorldView,
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

/// Returns the event by which `id` wears an item that it carries or contains. Empty if it already
/// wears the item in this slot.
pub(super) fn equip(
    known: &WorldView,
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

/// Returns the event by which `id` no longer wears an item, and carries it instead. `slot` is the
/// slot that the item must be in, or `None` for any.
pub(super) fn unequip(
    known: &WorldView,
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

/// Returns the events by which the holder that carries or wears the object loses it.
fn let_go(known: &WorldView, object: &GameObject) -> Result<Vec<Decided>, Undecided> {
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

fn contained(
    known: &WorldView,
    id: &AggregateId,
    container: Option<&AggregateId>,
) -> Result<Decided, Undecided> {
    decided(known, id, WorldEvent::GameObjectContainerUpdated { container_id: container.cloned() })
}

fn decided(known: &WorldView, id: &AggregateId, event: WorldEvent) -> Result<Decided, Undecided> {
    Ok(Decided { id: id.clone(), kind: known.living(id)?.kind(), event })
}
