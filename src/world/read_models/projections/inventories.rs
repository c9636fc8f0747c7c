//! `inventories`: the items that are carried, and their positions; `equipment`: the items that are
//! worn.
//!
//! Equipping an item moves it from the first table to the second, and unequipping moves it back.

use rusqlite::{Connection, Result, params};

use super::{OF_THE_WORLD, ProjectedEvent, Projection};
use crate::world::model::event::WorldEvent;

pub(super) struct Inventories;

impl Projection for Inventories {
    fn name(&self) -> &'static str {
        "inventories"
    }

    fn version(&self) -> u32 {
        1
    }

    fn aggregate_types(&self) -> &'static [&'static str] {
        OF_THE_WORLD
    }

    fn tables(&self) -> &'static [&'static str] {
        &["inventories", "equipment"]
    }

    fn schema(&self) -> &'static str {
        "CREATE TABLE inventories (
             holder_id TEXT NOT NULL,
             item_id TEXT NOT NULL,
             position TEXT,
             PRIMARY KEY (holder_id, item_id)
         ) WITHOUT ROWID;
         CREATE TABLE equipment (
             holder_id TEXT NOT NULL,
             slot TEXT NOT NULL,
             item_id TEXT NOT NULL,
             PRIMARY KEY (holder_id, slot)
         ) WITHOUT ROWID;"
    }

    fn apply(&self, rows: &Connection, event: &ProjectedEvent<'_>) -> Result<()> {
        let id = event.id();
        let carries = |item: &str, position: Option<String>| {
            rows.prepare_cached("INSERT OR REPLACE INTO inventories VALUES (?1, ?2, ?3)")?
                .execute(params![id, item, position])
        };
        let carries_no_more = |item: &str| {
            rows.prepare_cached("DELETE FROM inventories WHERE holder_id = ?1 AND item_id = ?2")?
                .execute([id, item])
        };
        match event.happened {
            Some(WorldEvent::ItemAddedToInventory { item_id, position }) => {
                carries(item_id.as_str(), position.as_ref().map(ToString::to_string))?;
            }
            Some(WorldEvent::ItemRemovedFromInventory { item_id }) => {
                carries_no_more(item_id.as_str())?;
            }
            Some(WorldEvent::ItemEquipped { item_id, slot }) => {
                carries_no_more(item_id.as_str())?;
                rows.prepare_cached("INSERT OR REPLACE INTO equipment VALUES (?1, ?2, ?3)")?
                    .execute(params![id, slot, item_id.as_str()])?;
            }
            Some(WorldEvent::ItemUnequipped { item_id, slot }) => {
                rows.prepare_cached("DELETE FROM equipment WHERE holder_id = ?1 AND slot = ?2")?
                    .execute([id, slot])?;
                carries(item_id.as_str(), None)?;
            }
            Some(WorldEvent::GameObjectDeleted {}) => {
                rows.prepare_cached("DELETE FROM inventories WHERE holder_id = ?1")?.execute([id])?;
                rows.prepare_cached("DELETE FROM equipment WHERE holder_id = ?1")?.execute([id])?;
            }
            _ => {}
        }
        Ok(())
    }
}
