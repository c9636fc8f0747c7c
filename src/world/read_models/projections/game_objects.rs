//! `game_objects`: every object of the world that is not deleted, including players and rooms.
//!
//! `contents`: a view of the objects that have a container.
//!
//! The description of a room is its attribute `long_desc`.

use rusqlite::{Connection, OptionalExtension, Result, params};
use serde_json::Value;

use super::{OF_THE_WORLD, ProjectedEvent, Projection};
use crate::world::model::{
    aggregate::Kind,
    event::{Attributes, WorldEvent},
    game_object::NAME,
    room::{self, LONG_DESC},
};

pub(super) struct GameObjects;

impl Projection for GameObjects {
    fn name(&self) -> &'static str {
        "game_objects"
    }

    fn version(&self) -> u32 {
        3
    }

    fn aggregate_types(&self) -> &'static [&'static str] {
        OF_THE_WORLD
    }

    fn tables(&self) -> &'static [&'static str] {
        &["game_objects"]
    }

    fn schema(&self) -> &'static str {
        "CREATE TABLE game_objects (
             id TEXT NOT NULL PRIMARY KEY,
             aggregate_type TEXT NOT NULL,
             type TEXT NOT NULL,
             name TEXT NOT NULL,
             generic TEXT NOT NULL,
             container_id TEXT,
             attributes TEXT NOT NULL,
             sequence_number INTEGER NOT NULL,
             created_at TEXT NOT NULL,
             updated_at TEXT NOT NULL
         ) WITHOUT ROWID;
         CREATE INDEX game_objects_by_container ON game_objects (container_id, id) WHERE container_id IS NOT NULL;
         CREATE INDEX game_objects_by_type ON game_objects (type, id);
         CREATE INDEX game_objects_by_listed_type ON game_objects (
             (CASE WHEN aggregate_type = 'GameObject' THEN type ELSE aggregate_type END), id);
         CREATE INDEX game_objects_by_name ON game_objects (name, id);
         CREATE VIEW contents AS
             SELECT container_id, id, type, name, generic FROM game_objects WHERE container_id IS NOT NULL;"
    }

    fn apply(&self, rows: &Connection, event: &ProjectedEvent<'_>) -> Result<()> {
        let Some(happened) = event.happened else { return Ok(()) };
        match happened {
            WorldEvent::GameObjectCreated { class, name, generic, container_id, attributes } => {
                let mut attributes = attributes.clone();
                if !name.is_empty() {
                    attributes.insert(NAME.to_owned(), name.as_str().into());
                }
                put_description_right(&mut attributes, event);
                let container = container_id.as_ref().map(|id| id.as_str());
                // A second creation, which only a damaged history has, changes nothing.
                rows.prepare_cached(
                    "INSERT OR IGNORE INTO game_objects VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9)",
                )?
                .execute(params![
                    event.id(),
                    event.aggregate_type(),
                    class,
                    name_in(&attributes),
                    generic,
                    container,
                    json(&attributes),
                    event.sequence(),
                    event.time()
                ])?;
                return Ok(());
            }
            WorldEvent::GameObjectDeleted {} => {
                rows.prepare_cached("DELETE FROM game_objects WHERE id = ?1")?.execute([event.id()])?;
                return Ok(());
            }
            WorldEvent::GameObjectContainerUpdated { container_id } => {
                rows.prepare_cached("UPDATE game_objects SET container_id = ?2 WHERE id = ?1")?
                    .execute(params![event.id(), container_id.as_ref().map(|id| id.as_str())])?;
            }
            WorldEvent::GameObjectAttributeUpdated { key, value } => {
                change_attributes(rows, event, |its| _ = its.insert(key.clone(), value.clone()))?;
            }
            WorldEvent::GameObjectAttributesUpdated { attributes } => {
                let changed = attributes.iter().map(|(key, value)| (key.clone(), value.clone()));
                change_attributes(rows, event, |its| its.extend(changed))?;
            }
            WorldEvent::GameObjectAttributeRemoved { key } => {
                change_attributes(rows, event, |its| _ = its.remove(key))?;
            }
            // An event without a description leaves the one in the attributes.
            WorldEvent::RoomCreated { description } if description.is_empty() => {}
            WorldEvent::RoomCreated { description } | WorldEvent::RoomDescriptionUpdated { description } => {
                let description = description.as_str();
                change_attributes(rows, event, |its| {
                    _ = its.insert(LONG_DESC.to_owned(), description.into())
                })?;
            }
            WorldEvent::PlayerCreated { .. }
            | WorldEvent::PlayerPasswordUpdated { .. }
            | WorldEvent::PlayerAdminStatusUpdated { .. }
            | WorldEvent::RoomExitAdded { .. }
            | WorldEvent::RoomExitRemoved { .. }
            | WorldEvent::ItemAddedToInventory { .. }
            | WorldEvent::ItemRemovedFromInventory { .. }
            | WorldEvent::ItemEquipped { .. }
            | WorldEvent::ItemUnequipped { .. }
            | WorldEvent::ObjectRepaired { .. } => {}
        }
        rows.prepare_cached("UPDATE game_objects SET sequence_number = ?2, updated_at = ?3 WHERE id = ?1")?
            .execute(params![event.id(), event.sequence(), event.time()])?;
        Ok(())
    }
}

/// Makes `long_desc` of a room what the state of the room has: text, or absent if it is empty.
fn put_description_right(attributes: &mut Attributes, event: &ProjectedEvent<'_>) {
    if event.aggregate_type() != Kind::Room.name() {
        return;
    }
    if let Some(description) = room::description_in(attributes) {
        if description.is_empty() {
            attributes.remove(LONG_DESC);
        } else {
            attributes.insert(LONG_DESC.to_owned(), description.into());
        }
    }
}

fn change_attributes(
    rows: &Connection,
    event: &ProjectedEvent<'_>,
    change: impl FnOnce(&mut Attributes),
) -> Result<()> {
    let id = event.id();
    let stored: Option<String> = rows
        .prepare_cached("SELECT attributes FROM game_objects WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    let Some(mut attributes) = stored.and_then(|text| serde_json::from_str::<Attributes>(&text).ok()) else {
        return Ok(());
    };
    change(&mut attributes);
    put_description_right(&mut attributes, event);
    rows.prepare_cached("UPDATE game_objects SET attributes = ?2, name = ?3 WHERE id = ?1")?
        .execute(params![id, json(&attributes), name_in(&attributes)])?;
    Ok(())
}

fn name_in(attributes: &Attributes) -> &str {
    attributes.get(NAME).and_then(Value::as_str).unwrap_or_default()
}

fn json(attributes: &Attributes) -> String {
    serde_json::to_string(attributes).unwrap_or_default()
}
