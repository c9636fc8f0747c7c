//! `game_objects`: every object of the world that is not deleted, including players and rooms.
//!
//! `contents`: a view of the objects that have a container.

use rusqlite::{Connection, OptionalExtension, Result, params};
use serde_json::Value;

use super::{OF_THE_WORLD, ProjectedEvent, Projection};
use crate::world::model::{
    event::{Attributes, WorldEvent},
    game_object::NAME,
};

pub(super) struct GameObjects;

impl Projection for GameObjects {
    fn name(&self) -> &'static str {
        "game_objects"
    }

    fn version(&self) -> u32 {
        2
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
                let changed = Attributes::from([(key.clone(), value.clone())]);
                update_attributes(rows, event.id(), &changed)?;
            }
            WorldEvent::GameObjectAttributesUpdated { attributes } => {
                update_attributes(rows, event.id(), attributes)?;
            }
            WorldEvent::PlayerCreated { .. }
            | WorldEvent::PlayerPasswordUpdated { .. }
            | WorldEvent::PlayerAdminStatusUpdated { .. }
            | WorldEvent::RoomCreated { .. }
            | WorldEvent::RoomDescriptionUpdated { .. }
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

fn update_attributes(rows: &Connection, id: &str, changed: &Attributes) -> Result<()> {
    let stored: Option<String> = rows
        .prepare_cached("SELECT attributes FROM game_objects WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    let Some(mut attributes) = stored.and_then(|text| serde_json::from_str::<Attributes>(&text).ok()) else {
        return Ok(());
    };
    attributes.extend(changed.iter().map(|(key, value)| (key.clone(), value.clone())));
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
