//! `activity`: who did what, and when.
//!
//! Has one row for each readable event of the world, even if the event changes no other table.

use rusqlite::{Connection, Result, params};

use super::{OF_THE_WORLD, ProjectedEvent, Projection};
use crate::world::rules::command::ACTOR;

pub(super) struct Activity;

impl Projection for Activity {
    fn name(&self) -> &'static str {
        "activity"
    }

    fn version(&self) -> u32 {
        2
    }

    fn aggregate_types(&self) -> &'static [&'static str] {
        OF_THE_WORLD
    }

    fn tables(&self) -> &'static [&'static str] {
        &["activity"]
    }

    fn schema(&self) -> &'static str {
        "CREATE TABLE activity (
             position INTEGER NOT NULL PRIMARY KEY,
             recorded_at TEXT NOT NULL,
             actor TEXT NOT NULL,
             event_type TEXT NOT NULL,
             aggregate_type TEXT NOT NULL,
             aggregate_id TEXT NOT NULL,
             sequence_number INTEGER NOT NULL,
             command_id TEXT NOT NULL,
             correlation_id TEXT NOT NULL
         );
         CREATE INDEX activity_by_actor ON activity (actor, position) WHERE actor <> '';
         CREATE INDEX activity_by_aggregate ON activity (aggregate_id, position);"
    }

    fn apply(&self, rows: &Connection, event: &ProjectedEvent<'_>) -> Result<()> {
        // An event that only has an aggregate type of the world, but is not one of its events,
        // concerns the store alone.
        if event.happened.is_none() {
            return Ok(());
        }
        let recorded = &event.recorded.event;
        rows.prepare_cached("INSERT OR REPLACE INTO activity VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
            .execute(params![
            event.recorded.position.0.cast_signed(),
            event.time(),
            recorded.metadata.get(ACTOR).map_or("", String::as_str),
            &*recorded.event_type,
            event.aggregate_type(),
            event.id(),
            event.sequence(),
            recorded.causation_id,
            recorded.correlation_id,
        ])?;
        Ok(())
    }
}
