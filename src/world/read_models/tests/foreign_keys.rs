//! Tests of projections whose rows refer to rows of another projection.
//!
//! A violation shows only at the commit, when it is unknown which event caused it.

use std::sync::Arc;

use rusqlite::Connection;

use super::{super::Problems, Durability, Tables, event, reached};
use crate::world::read_models::projections::{ProjectedEvent, Projection};

/// A projection with one table, and a function that runs for each event.
struct Doing {
    name: &'static str,
    table: &'static [&'static str],
    schema: &'static str,
    apply: fn(&Connection, u64) -> rusqlite::Result<usize>,
}

impl Projection for Doing {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> u32 {
        1
    }

    fn aggregate_types(&self) -> &'static [&'static str] {
        &["Room"]
    }

    fn tables(&self) -> &'static [&'static str] {
        self.table
    }

    fn schema(&self) -> &'static str {
        self.schema
    }

    fn apply(&self, rows: &Connection, event: &ProjectedEvent<'_>) -> rusqlite::Result<()> {
        (self.apply)(rows, event.recorded.position.0).map(|_| ())
    }
}

/// The projection whose rows refer to the other can be skipped, but that is not enough.
#[test]
fn a_row_removed_under_the_rows_of_another_projection_ends_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("read_models.sqlite");
    let projections: Vec<Box<dyn Projection>> = vec![
        Box::new(Doing {
            name: "parents",
            table: &["parents"],
            schema: "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
            apply: |rows, position| match position {
                2 => rows.execute("DELETE FROM parents", []),
                _ => rows.execute("INSERT INTO parents VALUES (?1)", [position.cast_signed()]),
            },
        }),
        Box::new(Doing {
            name: "children",
            table: &["children"],
            schema: "CREATE TABLE children (parent INTEGER REFERENCES parents DEFERRABLE INITIALLY DEFERRED)",
            apply: |rows, position| match position {
                1 => rows.execute("INSERT INTO children VALUES (?1)", [position.cast_signed()]),
                _ => Ok(0),
            },
        }),
    ];
    let problems = Arc::new(Problems::default());
    let mut tables = Tables::open(&path, &projections, Durability::Kept).unwrap();
    tables.tell(problems.clone());
    tables.take(&projections, &[event(1)], reached(1)).unwrap();
    tables.take(&projections, &[event(2)], reached(2)).unwrap();
    tables.take(&projections, &[event(3)], reached(3)).unwrap();
    let parents: i64 = tables.rows().query_row("SELECT count(*) FROM parents", [], |row| row.get(0)).unwrap();
    assert_eq!((parents, tables.reached()), (2, reached(3)));
    assert!(problems.of("parents").starts_with("skipped 1 events, the last at position 2: "));
}
