//! Decides commands: the rules of the world.
//!
//! Pure: examines what is known, and returns the events, what else it needs to know, or why it
//! refuses. The caller must make sure that nothing examined changes before the events are stored.

use super::{
    attributes::{self, Creation},
    capacity,
    command::{Command, Operation},
    moving::{self, Put, check_container},
    refusal::Refusal,
    world_view::{Decided, Undecided, WorldView},
};
use crate::{
    event::AggregateId,
    world::model::{aggregate::Kind, event::WorldEvent},
};

/// Returns the events that the command leads to, in order. Empty if the command changes nothing.
///
/// # Errors
/// Returns an error if something is not known yet, or if a rule forbids the command.
pub fn decide(known: &WorldView, command: &Command) -> Result<Vec<Decided>, Undecided> {
    let decided = rules(known, command)?;
    capacity::check(known, &decided)?;
    Ok(decided)
}

fn rules(known: &WorldView, command: &Command) -> Result<Vec<Decided>, Undecided> {
    let id = &command.target;
    match &command.operation {
        Operation::CreateGameObject { class, name, generic, container_id, attributes: initial } => {
            let created = WorldEvent::GameObjectCreated {
                class: class.clone(),
                name: name.clone(),
                generic: generic.clone(),
                container_id: container_id.clone(),
                attributes: initial.clone(),
            };
            let Creation { kind, events } = attributes::creation(id, created)?;
            create(known, id, kind, events)
        }
        Operation::CreatePlayer { name, password_hash } => {
            let player = WorldEvent::PlayerCreated { password_hash: password_hash.clone(), admin: false };
            create(known, id, Kind::Player, vec![attributes::named(Kind::Player, name), player])
        }
        Operation::CreateRoom { name, description } => {
            let room = WorldEvent::RoomCreated { description: description.clone() };
            create(known, id, Kind::Room, vec![attributes::named(Kind::Room, name), room])
        }
        Operation::UpdateGameObjectAttribute { key, value } => attributes::update(known, id, key, value),
        Operation::UpdateGameObjectAttributes { attributes: changed } => {
            attributes::update_all(known, id, changed)
        }
        Operation::RemoveGameObjectAttribute { key } => attributes::remove(known, id, key),
        Operation::UpdateGameObjectContainer { container_id } => {
            moving::move_to(known, id, container_id.as_ref())
        }
        Operation::DeleteGameObject { contents } => moving::delete(known, id, *contents),
        Operation::UpdatePlayerPassword { password_hash } => {
            one(known, id, known.player(id)?.update_password(password_hash))
        }
        Operation::UpdatePlayerAdminStatus { admin } => {
            one(known, id, known.player(id)?.update_admin_status(*admin))
        }
        Operation::UpdateRoomDescription { description } => {
            one(known, id, known.room(id)?.update_description(description))
        }
        Operation::AddRoomExit { direction, target_room_id } => {
            one(known, id, known.room(id)?.add_exit(direction, target_room_id))
        }
        Operation::RemoveRoomExit { direction } => match known.room(id)?.remove_exit(direction) {
            Some(event) => one(known, id, Some(event)),
            None => Err(Refusal::NoSuchExit { room: id.clone(), direction: direction.clone() }.into()),
        },
        Operation::AddItemToInventory { item_id, position } => {
            moving::add_item(known, id, item_id, position.as_ref())
        }
        Operation::RemoveItemFromInventory { item_id } => moving::remove_item(known, id, item_id),
        Operation::EquipItem { item_id, slot } => moving::equip(known, id, item_id, slot),
        Operation::UnequipItem { item_id, slot } => moving::unequip(known, id, item_id, slot.as_deref()),
    }
}

fn create(
    known: &WorldView,
    id: &AggregateId,
    kind: Kind,
    events: Vec<WorldEvent>,
) -> Result<Vec<Decided>, Undecided> {
    if known.find(id)?.is_some() {
        return Err(Refusal::Exists(id.clone()).into());
    }
    if let Some(WorldEvent::GameObjectCreated { container_id: Some(container), .. }) = events.first() {
        check_container(known, id, container, Put::New)?;
    }
    Ok(events.into_iter().map(|event| Decided { id: id.clone(), kind, event }).collect())
}

/// Returns the event of an existing aggregate, if there is one.
fn one(known: &WorldView, id: &AggregateId, event: Option<WorldEvent>) -> Result<Vec<Decided>, Undecided> {
    let kind = known.living(id)?.kind();
    Ok(event.into_iter().map(|event| Decided { id: id.clone(), kind, event }).collect())
}

#[cfg(test)]
mod tests;
