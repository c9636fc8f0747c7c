//! `places`: the container of each object that is not deleted; `exits`: the targets of the exits of
//! each room.
//!
//! Only the rules of the world query these tables; clients query those of the read models.

use rusqlite::{Connection, Result, params};

use crate::world::{
    model::event::WorldEvent,
    read_models::projections::{OF_THE_WORLD, ProjectedEvent, Projection},
};

pub(super) struct Places;

impl Projection for Places {
    fn name(&self) -> &'static str {
        "contents"
    }

    fn version(&self) -> u32 {
        1
    }

    fn aggregate_types(&self) -> &'static [&'static str] {
        OF_THE_WORLD
    }

    fn tables(&self) -> &'static [&'static str] {
        &["places", "exits"]
    }

    fn schema(&self) -> &'static str {
        "CREATE TABLE places (
             id TEXT NOT NULL PRIMARY KEY,
             aggregate_type TEXT NOT NULL,
             container_id TEXT
         ) WITHOUT ROWID;
         CREATE INDEX places_by_container ON places (container_id, id) WHERE container_id IS NOT NULL;
         CREATE TABLE exits (
             room_id TEXT NOT NULL,
             direction TEXT NOT NULL,
             target_room_id TEXT NOT NULL,
             PRIMARY KEY (room_id, direction)
         ) WITHOUT ROWID;
         CREATE INDEX exits_by_target ON exits (target_room_id, room_id, direction);"
    }

    fn apply(&self, rows: &Connection, event: &ProjectedEvent<'_>) -> Result<()> {
        let id = event.id();
        match event.happened {
            Some(WorldEvent::GameObjectCreated { container_id, .. }) => {
                rows.prepare_cached("INSERT OR IGNORE INTO places VALUES (?1, ?2, ?3)")?.execute(params![
                    id,
                    event.aggregate_type(),
                    container_id.as_ref().map(|id| id.as_str())
                ])?;
            }
            Some(WorldEvent::GameObjectContainerUpdated { container_id }) => {
                rows.prepare_cached("UPDATE places SET container_id = ?2 WHERE id = ?1")?
                    .execute(params![id, container_id.as_ref().map(|id| id.as_str())])?;
            }
            Some(WorldEvent::RoomExitAdded { direction, target_room_id }) => {
                rows.prepare_cached("INSERT OR REPLACE INTO exits VALUES (?1, ?2, ?3)")?.execute(params![
                    id,
                    direction,
                    target_room_id.as_str()
                ])?;
            }
            Some(WorldEvent::RoomExitRemoved { direction }) => {
                rows.prepare_cached("DELETE FROM exits WHERE room_id = ?1 AND direction = ?2")?
                    .execute(params![id, direction])?;
            }
            Some(WorldEvent::GameObjectDeleted {}) => {
                rows.prepare_cached("DELETE FROM places WHERE id = ?1")?.execute([id])?;
                rows.prepare_cached("DELETE FROM exits WHERE room_id = ?1")?.execute([id])?;
            }
            _ => {}
        }
        Ok(())
    }
}
