//! `players`: every player who is not deleted.
//!
//! Contains neither passwords nor their hashes, because other programs read it.

use rusqlite::{Connection, Result, params};
use serde_json::Value;

use super::{ProjectedEvent, Projection};
use crate::world::model::{event::WorldEvent, game_object::NAME};

pub(super) struct Players;

impl Projection for Players {
    fn name(&self) -> &'static str {
        "players"
    }

    fn version(&self) -> u32 {
        3
    }

    fn aggregate_types(&self) -> &'static [&'static str] {
        &["Player"]
    }

    fn tables(&self) -> &'static [&'static str] {
        &["players"]
    }

    fn schema(&self) -> &'static str {
        "CREATE TABLE players (
             id TEXT NOT NULL PRIMARY KEY,
             name TEXT NOT NULL,
             admin INTEGER NOT NULL,
             container_id TEXT
         ) WITHOUT ROWID;
         CREATE INDEX players_by_name ON players (name COLLATE NOCASE, id);"
    }

    fn apply(&self, rows: &Connection, event: &ProjectedEvent<'_>) -> Result<()> {
        let id = event.id();
        let named = |name: &Value| {
            rows.prepare_cached("UPDATE players SET name = ?2 WHERE id = ?1")?
                .execute(params![id, name.as_str().unwrap_or_default()])
        };
        match event.happened {
            Some(WorldEvent::GameObjectCreated { name, container_id, attributes, .. }) => {
                let name = match name.as_str() {
                    "" => attributes.get(NAME).and_then(Value::as_str).unwrap_or_default(),
                    name => name,
                };
                rows.prepare_cached("INSERT OR IGNORE INTO players VALUES (?1, ?2, 0, ?3)")?
                    .execute(params![id, name, container_id.as_ref().map(|id| id.as_str())])?;
            }
            Some(
                WorldEvent::PlayerCreated { admin, .. } | WorldEvent::PlayerAdminStatusUpdated { admin },
            ) => {
                rows.prepare_cached("UPDATE players SET admin = ?2 WHERE id = ?1")?
                    .execute(params![id, admin])?;
            }
            Some(WorldEvent::GameObjectAttributeUpdated { key, value }) if key == NAME => {
                named(value)?;
            }
            Some(WorldEvent::GameObjectAttributesUpdated { attributes }) => {
                if let Some(name) = attributes.get(NAME) {
                    named(name)?;
                }
            }
            Some(WorldEvent::GameObjectAttributeRemoved { key }) if key == NAME => {
                named(&Value::Null)?;
            }
            Some(WorldEvent::GameObjectContainerUpdated { container_id }) => {
                rows.prepare_cached("UPDATE players SET container_id = ?2 WHERE id = ?1")?
                    .execute(params![id, container_id.as_ref().map(|id| id.as_str())])?;
            }
            Some(WorldEvent::GameObjectDeleted {}) => {
                rows.prepare_cached("DELETE FROM players WHERE id = ?1")?.execute([id])?;
            }
            _ => {}
        }
        Ok(())
    }
}
