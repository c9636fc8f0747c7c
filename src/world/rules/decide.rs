//! Decides commands: the rules of the world.
//!
//! Pure: examines what is known, and returns the events, what else it needs to know, or why it
//! refuses. The caller must make sure that nothing examined changes before the events are stored.

use serde_json::Value;

use super::{
    capacity,
    command::{Command, Operation},
    moving::{self, Put, check_container},
    refusal::Refusal,
    world_view::{Decided, Undecided, WorldView},
};
use crate::{
    event::AggregateId,
    world::model::{
        aggregate::Kind,
        event::{Attributes, WorldEvent},
        game_object::NAME,
        player::Player,
        room::Room,
    },
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
        Operation::CreateGameObject { class, name, generic, container_id, attributes } => {
            let created = WorldEvent::GameObjectCreated {
                class: class.clone(),
                name: name.clone(),
                generic: generic.clone(),
                container_id: container_id.clone(),
                attributes: attributes.clone(),
            };
            create(known, id, Kind::GameObject, vec![created])
        }
        Operation::CreatePlayer { name, password_hash } => {
            let player = WorldEvent::PlayerCreated { password_hash: password_hash.clone(), admin: false };
            create(known, id, Kind::Player, vec![named(Player::CLASS, name), player])
        }
        Operation::CreateRoom { name, description } => {
            let room = WorldEvent::RoomCreated { description: description.clone() };
            create(known, id, Kind::Room, vec![named(Room::CLASS, name), room])
        }
        Operation::UpdateGameObjectAttribute { key, value } => {
            if key == NAME {
                check_name(known, id, value)?;
            }
            one(known, id, known.living(id)?.object().update_attribute(key, value))
        }
        Operation::UpdateGameObjectAttributes { attributes } => {
            if let Some(name) = attributes.get(NAME) {
                check_name(known, id, name)?;
            }
            one(known, id, known.living(id)?.object().update_attributes(attributes))
        }
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

/// Checks that a player has a name, because players are found by it. All other requirements on
/// names were checked before, for all objects alike.
fn check_name(known: &WorldView, id: &AggregateId, name: &Value) -> Result<(), Undecided> {
    let is_empty = name.as_str().is_none_or(str::is_empty);
    match known.living(id)?.kind() {
        Kind::Player if is_empty => Err(Refusal::Nameless(id.clone()).into()),
        Kind::Player | Kind::GameObject | Kind::Room => Ok(()),
    }
}

/// Returns the event that creates the game object of a player or a room.
fn named(class: &str, name: &str) -> WorldEvent {
    WorldEvent::GameObjectCreated {
        class: class.to_owned(),
        name: name.to_owned(),
        generic: String::new(),
        container_id: None,
        attributes: Attributes::new(),
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
