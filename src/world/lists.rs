//! Lists of objects, out of the read models.

use rusqlite::{Connection, Result, Row, types::Value as Sql};
use serde_json::Value;

use super::{event::Attributes, weight};

/// Which objects are wanted; what is empty lets everything through.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ObjectFilter {
    pub class: String,
    pub generic: String,
    pub container_id: String,
    pub name: String,
    /// A key, and the value that it has, if that counts.
    pub attribute: Option<(String, Option<Value>)>,
}

/// An object as a list shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub id: String,
    pub aggregate_type: String,
    pub class: String,
    pub name: String,
    pub generic: String,
    pub container_id: Option<String>,
    pub attributes: Attributes,
    /// How much these weigh.
    pub weight: usize,
    /// Steps below whatever was asked for; 0: it was not asked so.
    pub depth: u32,
}

/// Some of what was asked for, and whether there is more.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub objects: Vec<Listed>,
    pub more: bool,
}

/// A player that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPlayer {
    pub id: String,
    pub name: String,
    pub admin: bool,
    pub container_id: Option<String>,
}

/// A page ends before its attributes weigh more, unless those of a single object do.
const PAGE_WEIGHT: usize = 1024 * 1024;

const COLUMNS: &str = "id, aggregate_type, type, name, generic, container_id, attributes";

/// At most `count` objects behind the id `after`, by id.
///
/// # Errors
/// The database's.
pub fn game_objects(rows: &Connection, filter: &ObjectFilter, after: &str, count: usize) -> Result<Page> {
    let mut conditions = vec!["id > ?"];
    let mut values = vec![Sql::Text(after.to_owned())];
    let texts = [
        ("type = ?", &filter.class),
        ("generic = ?", &filter.generic),
        ("container_id = ?", &filter.container_id),
        ("name = ?", &filter.name),
    ];
    for (condition, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        conditions.push(condition);
        values.push(Sql::Text(text.clone()));
    }
    if let Some((key, _)) = &filter.attribute {
        conditions.push("EXISTS (SELECT 1 FROM json_each(attributes) WHERE key = ?)");
        values.push(Sql::Text(key.clone()));
    }
    let sql = format!("SELECT {COLUMNS}, 0 FROM game_objects WHERE {} ORDER BY id", conditions.join(" AND "));
    let matches = |listed: &Listed| match &filter.attribute {
        Some((key, Some(value))) => listed.attributes.get(key) == Some(value),
        Some((_, None)) | None => true,
    };
    page(rows, &sql, values, count, matches)
}

/// How far below an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What lies directly in it.
    One,
    /// What lies in that as well, and so on, over at most [`STEPS_MAX`] steps.
    All,
}

/// Steps below an object. What goes round in a circle, which only a broken history does, ends there.
pub const STEPS_MAX: i64 = 1000;

/// At most `count` of what lies in an object, behind the id `after`, by id.
///
/// # Errors
/// The database's.
pub fn contents(rows: &Connection, container: &str, depth: Depth, after: &str, count: usize) -> Result<Page> {
    let (container, after) = (Sql::Text(container.to_owned()), Sql::Text(after.to_owned()));
    match depth {
        Depth::One => {
            let sql = format!(
                "SELECT {COLUMNS}, 1 FROM game_objects WHERE container_id = ? AND id > ? ORDER BY id"
            );
            page(rows, &sql, vec![container, after], count, |_| true)
        }
        // What is reached on two ways, which only a broken history has, is listed once.
        Depth::All => {
            let sql = format!(
                "WITH RECURSIVE below (id, depth) AS (
                     SELECT id, 1 FROM game_objects WHERE container_id = ?
                     UNION
                     SELECT inner.id, below.depth + 1 FROM below
                     JOIN game_objects AS inner ON inner.container_id = below.id WHERE below.depth < ?
                 )
                 SELECT {COLUMNS}, depth FROM (SELECT id, min(depth) AS depth FROM below GROUP BY id)
                 JOIN game_objects USING (id) WHERE id > ? ORDER BY id"
            );
            page(rows, &sql, vec![container, Sql::Integer(STEPS_MAX), after], count, |_| true)
        }
    }
}

/// At most `count` players of a name, whatever the case of its (ASCII) letters.
///
/// # Errors
/// The database's.
pub fn players(rows: &Connection, name: &str, count: u32) -> Result<Vec<FoundPlayer>> {
    let mut query = rows
        .prepare("SELECT id, name, admin, container_id FROM players WHERE name = ?1 COLLATE NOCASE ORDER BY id LIMIT ?2")?;
    let found = query.query_map(rusqlite::params![name, count], |row| {
        Ok(FoundPlayer { id: row.get(0)?, name: row.get(1)?, admin: row.get(2)?, container_id: row.get(3)? })
    })?;
    found.collect()
}

fn page(
    rows: &Connection,
    sql: &str,
    values: Vec<Sql>,
    count: usize,
    matches: impl Fn(&Listed) -> bool,
) -> Result<Page> {
    let mut query = rows.prepare(sql)?;
    let (mut objects, mut weight) = (Vec::new(), 0usize);
    for found in query.query_map(rusqlite::params_from_iter(values), listed)? {
        let found = found?;
        if !matches(&found) {
            continue;
        }
        weight = weight.saturating_add(found.weight);
        if objects.len() >= count || (weight > PAGE_WEIGHT && !objects.is_empty()) {
            return Ok(Page { objects, more: true });
        }
        objects.push(found);
    }
    Ok(Page { objects, more: false })
}

fn listed(row: &Row<'_>) -> Result<Listed> {
    let json: String = row.get(6)?;
    let attributes: Attributes = serde_json::from_str(&json).unwrap_or_default();
    Ok(Listed {
        id: row.get(0)?,
        aggregate_type: row.get(1)?,
        class: row.get(2)?,
        name: row.get(3)?,
        generic: row.get(4)?,
        container_id: row.get(5)?,
        weight: weight::of_attributes(&attributes, json.len()),
        attributes,
        depth: row.get(7)?,
    })
}
