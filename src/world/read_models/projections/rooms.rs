//! `rooms`: every room that is not deleted; `room_exits`: the targets of their exits.
//!
//! A target need not exist. Only a rebuild checks that, and warns.

use rusqlite::{Connection, Result, params};
use serde_json::Value;

use super::{ProjectedEvent, Projection};
use crate::world::model::{
    event::WorldEvent,
    game_object::NAME,
    room::{self, LONG_DESC},
};

pub(super) struct Rooms;

impl Projection for Rooms {
    fn name(&self) -> &'static str {
        "rooms"
    }

    fn version(&self) -> u32 {
        3
    }

    fn aggregate_types(&self) -> &'static [&'static str] {
        &["Room"]
    }

    fn tables(&self) -> &'static [&'static str] {
        &["rooms", "room_exits"]
    }

    fn schema(&self) -> &'static str {
        "CREATE TABLE rooms (
             id TEXT NOT NULL PRIMARY KEY,
             name TEXT NOT NULL,
             description TEXT NOT NULL
         ) WITHOUT ROWID;
         CREATE TABLE room_exits (
             room_id TEXT NOT NULL,
             direction TEXT NOT NULL,
             target_room_id TEXT NOT NULL,
             PRIMARY KEY (room_id, direction)
         ) WITHOUT ROWID;
         CREATE INDEX room_exits_by_target ON room_exits (target_room_id);"
    }

    fn apply(&self, rows: &Connection, event: &ProjectedEvent<'_>) -> Result<()> {
        let id = event.id();
        let named = |name: &Value| {
            rows.prepare_cached("UPDATE rooms SET name = ?2 WHERE id = ?1")?
                .execute(params![id, name.as_str().unwrap_or_default()])
        };
        let described = |description: &str| {
            rows.prepare_cached("UPDATE rooms SET description = ?2 WHERE id = ?1")?
                .execute(params![id, description])
        };
        match event.happened {
            Some(WorldEvent::GameObjectCreated { name, attributes, .. }) => {
                let name = match name.as_str() {
                    "" => attributes.get(NAME).and_then(Value::as_str).unwrap_or_default(),
                    name => name,
                };
                let description = room::description_in(attributes).unwrap_or_default();
                rows.prepare_cached("INSERT OR IGNORE INTO rooms VALUES (?1, ?2, ?3)")?.execute(params![
                    id,
                    name,
                    description
                ])?;
            }
            // An event without a description leaves the one in the attributes.
            Some(WorldEvent::RoomCreated { description }) if description.is_empty() => {}
            Some(
                WorldEvent::RoomCreated { description } | WorldEvent::RoomDescriptionUpdated { description },
            ) => {
                described(description)?;
            }
            Some(WorldEvent::RoomExitAdded { direction, target_room_id }) => {
                rows.prepare_cached("INSERT OR REPLACE INTO room_exits VALUES (?1, ?2, ?3)")?
                    .execute(params![id, direction, target_room_id.as_str()])?;
            }
            Some(WorldEvent::RoomExitRemoved { direction }) => {
                rows.prepare_cached("DELETE FROM room_exits WHERE room_id = ?1 AND direction = ?2")?
                    .execute(params![id, direction])?;
            }
            Some(WorldEvent::GameObjectAttributeUpdated { key, value }) if key == NAME => {
                named(value)?;
            }
            Some(WorldEvent::GameObjectAttributeUpdated { key, value }) if key == LONG_DESC => {
                described(&room::description(value))?;
            }
            Some(WorldEvent::GameObjectAttributesUpdated { attributes }) => {
                if let Some(name) = attributes.get(NAME) {
                    named(name)?;
                }
                if let Some(description) = room::description_in(attributes) {
                    described(&description)?;
                }
            }
            Some(WorldEvent::GameObjectAttributeRemoved { key }) if key == NAME => {
                named(&Value::Null)?;
            }
            Some(WorldEvent::GameObjectAttributeRemoved { key }) if key == LONG_DESC => {
                described("")?;
            }
            Some(WorldEvent::GameObjectDeleted {}) => {
                rows.prepare_cached("DELETE FROM rooms WHERE id = ?1")?.execute([id])?;
                rows.prepare_cached("DELETE FROM room_exits WHERE room_id = ?1")?.execute([id])?;
            }
            _ => {}
        }
        Ok(())
    }
}
