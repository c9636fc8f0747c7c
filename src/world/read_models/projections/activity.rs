//! `activity`: who did what, and when, and which identity recorded it.
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
        3
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
             recorded_by TEXT NOT NULL,
             event_type TEXT NOT NULL,
             aggregate_type TEXT NOT NULL,
             aggregate_id TEXT NOT NULL,
             sequence_number INTEGER NOT NULL,
             command_id TEXT NOT NULL,
             correlation_id TEXT NOT NULL
         );
         CREATE INDEX activity_by_actor ON activity (actor, position) WHERE actor <> '';
         CREATE INDEX activity_by_identity ON activity (recorded_by, position) WHERE recorded_by <> '';
         CREATE INDEX activity_by_aggregate ON activity (aggregate_id, position);"
    }

    fn apply(&self, rows: &Connection, event: &ProjectedEvent<'_>) -> Result<()> {
        // An event that only has an aggregate type of the world, but is not one of its events,
        // concerns the store alone.
        if event.happened.is_none() {
            return Ok(());
        }
        let recorded = &event.recorded.event;
        rows.prepare_cached(
            "INSERT OR REPLACE INTO activity VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            event.recorded.position.0.cast_signed(),
            event.time(),
            recorded.metadata.get(ACTOR).map_or("", String::as_str),
            &*event.recorded.recorded_by,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        event::{
            AggregateId, AppendBounds, ChainHash, Content, ContentDigest, EventId, NewEvent, Position,
            RecordedEvent, SequenceNumber, Timestamp,
        },
        world::model::event::WorldEvent,
    };

    fn deletion(position: u64, recorded_by: &str, actor: &str) -> RecordedEvent {
        let event = NewEvent {
            id: EventId::random(),
            aggregate_id: AggregateId::new("sword").unwrap(),
            aggregate_type: "GameObject".into(),
            event_type: "GameObjectDeleted".into(),
            content: Content::Json("{}".into()),
            correlation_id: String::new(),
            causation_id: "c".into(),
            metadata: BTreeMap::from([(ACTOR.to_owned(), actor.to_owned())]),
            occurred_at: None,
        };
        RecordedEvent {
            digest: ContentDigest::of(&event),
            event,
            sequence: SequenceNumber(position),
            position: Position(position),
            recorded_at: Timestamp::default(),
            recorded_by: recorded_by.into(),
            append: AppendBounds { first: Position(position), last: Position(position) },
            hash: ChainHash::START,
        }
    }

    #[test]
    fn the_identity_has_a_column_of_its_own_beside_the_actor() {
        let rows = Connection::open_in_memory().unwrap();
        rows.execute_batch(Activity.schema()).unwrap();
        for (position, by) in [(1, "arena-1"), (2, "")] {
            let recorded = deletion(position, by, "alice");
            let happened = WorldEvent::GameObjectDeleted {};
            let event = ProjectedEvent { recorded: &recorded, happened: Some(&happened) };
            Activity.apply(&rows, &event).unwrap();
        }
        let columns = "SELECT actor, recorded_by, event_type, command_id FROM activity ORDER BY position";
        let mut found = rows.prepare(columns).unwrap();
        let found =
            found.query_map([], |row| Ok([0, 1, 2, 3].map(|column| row.get::<_, String>(column).unwrap())));
        let found: Vec<[String; 4]> = found.unwrap().map(Result::unwrap).collect();
        assert_eq!(found[0], ["alice", "arena-1", "GameObjectDeleted", "c"]);
        assert_eq!(found[1], ["alice", "", "GameObjectDeleted", "c"]);
    }
}
