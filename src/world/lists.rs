//! Lists of objects, out of the read models.

use rusqlite::{Connection, Result, Row, types::Value as Sql};
use serde_json::Value;

use super::{event::Attributes, weight};

mod below;
#[cfg(test)]
mod tests;

pub use below::page as below;

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

/// Some of what was asked for, and the way to its last if there is more: what that lies in, where that is part of the
/// question, and itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub objects: Vec<Listed>,
    pub next: Option<Vec<String>>,
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
    let mut conditions = vec!["id > ?".to_owned()];
    let mut values = vec![Sql::Text(after.to_owned())];
    // In the order of how few of the world's objects have the same, as far as can be known. The first has the index, and
    // a plus sign keeps the database from taking another.
    let columns = [
        ("container_id", &filter.container_id),
        ("name", &filter.name),
        ("type", &filter.class),
        ("generic", &filter.generic),
    ];
    for (nth, (column, text)) in columns.into_iter().filter(|(_, text)| !text.is_empty()).enumerate() {
        conditions.push(if nth == 0 { format!("{column} = ?") } else { format!("+{column} = ?") });
        values.push(Sql::Text(text.clone()));
    }
    if let Some((key, value)) = &filter.attribute {
        // Nearly all that do not have it are told apart without being taken apart.
        conditions.push("instr(attributes, ?) > 0".to_owned());
        values.push(Sql::Text(as_written(key, value.as_ref())));
        conditions.push("EXISTS (SELECT 1 FROM json_each(attributes) WHERE key = ?)".to_owned());
        values.push(Sql::Text(key.clone()));
    }
    let sql = format!("SELECT {COLUMNS} FROM game_objects WHERE {} ORDER BY id", conditions.join(" AND "));
    let matches = |listed: &Listed| match &filter.attribute {
        Some((key, Some(value))) => listed.attributes.get(key) == Some(value),
        Some((_, None)) | None => true,
    };
    page(rows, &sql, values, count, matches)
}

/// What is in the text of all attributes of which one has this key, and this value.
fn as_written(key: &str, value: Option<&Value>) -> String {
    let key = Value::from(key);
    match value {
        // Equal ones are written alike. Numbers with a fraction need not be, nor what has such in it.
        Some(value @ (Value::Null | Value::Bool(_) | Value::String(_))) => format!("{key}:{value}"),
        Some(Value::Number(_) | Value::Array(_) | Value::Object(_)) | None => format!("{key}:"),
    }
}

/// Steps below an object. What goes round in a circle, which only a broken history does, ends there.
pub const STEPS_MAX: usize = 1000;

/// At most `count` of what lies directly in an object, behind the id `after`, by id.
///
/// # Errors
/// The database's.
pub fn contents(rows: &Connection, container: &str, after: &str, count: usize) -> Result<Page> {
    let sql = format!("SELECT {COLUMNS} FROM game_objects WHERE container_id = ? AND id > ? ORDER BY id");
    let values = [container, after].map(|text| Sql::Text(text.to_owned()));
    let mut page = page(rows, &sql, values.into(), count, |_| true)?;
    page.objects.iter_mut().for_each(|object| object.depth = 1);
    Ok(page)
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
    let mut paging = Paging::new(count);
    for found in query.query_map(rusqlite::params_from_iter(values), listed)? {
        let found = found?;
        if matches(&found)
            && let Err(objects) = paging.add(found)
        {
            let next = objects.last().map(|last| vec![last.id.clone()]);
            return Ok(Page { objects, next });
        }
    }
    Ok(Page { objects: paging.objects, next: None })
}

/// A page that is being filled.
struct Paging {
    objects: Vec<Listed>,
    count: usize,
    weight: usize,
}

impl Paging {
    fn new(count: usize) -> Self {
        Self { objects: Vec::new(), count, weight: 0 }
    }

    /// The page as it is, when there is no room.
    fn add(&mut self, found: Listed) -> std::result::Result<(), Vec<Listed>> {
        self.weight = self.weight.saturating_add(found.weight);
        if self.objects.len() >= self.count || (self.weight > PAGE_WEIGHT && !self.objects.is_empty()) {
            return Err(std::mem::take(&mut self.objects));
        }
        self.objects.push(found);
        Ok(())
    }
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
        depth: 0,
    })
}
