//! Lists of objects and players, read from the read models.
//!
//! Lists of objects are paged, with limits on the number of objects and on the size of their
//! attributes. The snapshot to read from is left to the caller.

use rusqlite::{Connection, Result, Row, types::Value as Sql};
use serde_json::Value;

use crate::world::model::{aggregate::Kind, event::Attributes, size};

mod id_ranges;
mod recursive;
#[cfg(test)]
mod tests;

use id_ranges::{IdRange, ranges};
pub use recursive::page as below;

/// Selects objects. An empty field matches everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ObjectFilter {
    /// The class in the game. `Room` and `Player` also match all rooms and players, whatever their
    /// class.
    pub class: String,
    /// The generic name. `room` and `player` also match rooms and players that have none, as those
    /// of older services.
    pub generic: String,
    /// The id of the direct container.
    pub container_id: String,
    /// The name, in the same case.
    pub name: String,
    /// A key that the object must have, and its value if that matters.
    pub attribute: Option<(String, Option<Value>)>,
    /// The id starts with one of these prefixes.
    pub id_prefixes: Vec<String>,
}

/// Selects players.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlayerFilter {
    /// The name, ignoring the case of ASCII letters.
    pub name: String,
    /// The id starts with one of these prefixes. If empty, any id.
    pub id_prefixes: Vec<String>,
}

/// An object as it appears in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// The id of the object.
    pub id: String,
    /// `GameObject`, `Player` or `Room`.
    pub aggregate_type: String,
    /// The class in the game.
    pub class: String,
    /// The attribute `name`. Empty if there is none, or if it is not a string.
    pub name: String,
    /// The name used by those who do not know the object's own name. May be empty.
    pub generic: String,
    /// The direct container. `None` if there is none.
    pub container_id: Option<String>,
    /// All attributes, including `name`.
    pub attributes: Attributes,
    /// The size of the attributes.
    pub size: usize,
    /// The number of levels below the object whose contents are listed; 0 in other lists.
    pub depth: u32,
}

/// A page of objects. If there are more, `next` leads to the last one on the page: it is the id of
/// that object, preceded by the ids of its containers if the list is recursive.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The objects in order of id. In a recursive list, each is followed by its contents.
    pub objects: Vec<Listed>,
    /// `None` on the last page.
    pub next: Option<Vec<String>>,
}

/// A player found by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPlayer {
    /// The id of the player.
    pub id: String,
    /// The name, whose case may differ from the requested one.
    pub name: String,
    /// Whether the player is an administrator.
    pub admin: bool,
    /// The direct container. `None` if there is none.
    pub container_id: Option<String>,
}

/// The maximum size of the attributes on one page. Only a single object may exceed it.
const PAGE_SIZE_MAX: usize = 1024 * 1024;

const COLUMNS: &str = "id, aggregate_type, type, name, generic, container_id, attributes";

/// Returns at most `count` matching objects after the id `after`, in order of id.
///
/// # Errors
/// Returns an error if the query fails.
pub fn game_objects(rows: &Connection, filter: &ObjectFilter, after: &str, count: usize) -> Result<Page> {
    let matches = |listed: &Listed| match &filter.attribute {
        Some((key, Some(value))) => listed.attributes.get(key) == Some(value),
        Some((_, None)) | None => true,
    };
    let mut paging = Paging::new(count);
    // One range after the other, so that nothing between them is read.
    for range in ranges(&filter.id_prefixes) {
        let (conditions, values) = conditions(filter, &range, after);
        let sql = format!("SELECT {COLUMNS} FROM game_objects WHERE {conditions} ORDER BY id");
        if let Some(page) = add_all(rows, &sql, values, &mut paging, matches)? {
            return Ok(page);
        }
    }
    Ok(paging.last_page())
}

/// What the filter `type` compares if it names a kind: the class of an object, or the kind of a
/// room or player. Has an index.
const LISTED_TYPE: &str = "(CASE WHEN aggregate_type = 'GameObject' THEN type ELSE aggregate_type END)";

/// What the filter `generic` compares if it is that of a kind. Rooms and players of older services
/// have none.
const LISTED_GENERIC: &str = "(CASE WHEN generic = '' AND aggregate_type = 'Room' THEN 'room' \
     WHEN generic = '' AND aggregate_type = 'Player' THEN 'player' ELSE generic END)";

/// Returns what a filter compares: `listed` if it has the value of a kind, or else the column.
fn compared<'c>(column: &'c str, listed: &'c str, has_value: impl Fn(Kind) -> bool) -> &'c str {
    if [Kind::Room, Kind::Player].into_iter().any(has_value) { listed } else { column }
}

/// Returns the conditions of a query and their values.
fn conditions(filter: &ObjectFilter, range: &IdRange, after: &str) -> (String, Vec<Sql>) {
    let mut conditions = vec!["id > ?".to_owned()];
    let mut values = vec![Sql::Text(after.to_owned())];
    for (bound, condition) in [(&range.from, "id >= ?"), (&range.before, "id < ?")] {
        if let Some(id) = bound {
            conditions.push(condition.to_owned());
            values.push(Sql::Text(id.clone()));
        }
    }
    // Ordered by how few objects in the world are likely to have the same value. The first column
    // uses its index, and a plus sign keeps SQLite from choosing another one.
    let columns = [
        ("container_id", &filter.container_id),
        ("name", &filter.name),
        (compared("type", LISTED_TYPE, |kind| filter.class == kind.name()), &filter.class),
        (compared("generic", LISTED_GENERIC, |kind| filter.generic == kind.generic()), &filter.generic),
    ];
    for (nth, (column, text)) in columns.into_iter().filter(|(_, text)| !text.is_empty()).enumerate() {
        conditions.push(if nth == 0 { format!("{column} = ?") } else { format!("+{column} = ?") });
        values.push(Sql::Text(text.clone()));
    }
    if let Some((key, value)) = &filter.attribute {
        // Rules out nearly all other objects without parsing their attributes.
        conditions.push("instr(attributes, ?) > 0".to_owned());
        values.push(Sql::Text(as_written(key, value.as_ref())));
        conditions.push("EXISTS (SELECT 1 FROM json_each(attributes) WHERE key = ?)".to_owned());
        values.push(Sql::Text(key.clone()));
    }
    (conditions.join(" AND "), values)
}

/// Returns a text that occurs in the attributes of every object with this key and this value.
fn as_written(key: &str, value: Option<&Value>) -> String {
    let key = Value::from(key);
    match value {
        // Equal values have the same text. Numbers with a fraction may not, nor may values that
        // contain them.
        Some(value @ (Value::Null | Value::Bool(_) | Value::String(_))) => format!("{key}:{value}"),
        Some(Value::Number(_) | Value::Array(_) | Value::Object(_)) | None => format!("{key}:"),
    }
}

/// The maximum number of levels below an object. A cycle, which only a damaged history has, ends
/// there.
pub const STEPS_MAX: usize = 1000;

/// Returns at most `count` of the direct contents of an object after the id `after`, in order of
/// id.
///
/// # Errors
/// Returns an error if the query fails.
pub fn contents(rows: &Connection, container: &str, after: &str, count: usize) -> Result<Page> {
    let sql = format!("SELECT {COLUMNS} FROM game_objects WHERE container_id = ? AND id > ? ORDER BY id");
    let values = [container, after].map(|text| Sql::Text(text.to_owned()));
    let mut paging = Paging::new(count);
    let page = add_all(rows, &sql, values.into(), &mut paging, |_| true)?;
    let mut page = page.unwrap_or_else(|| paging.last_page());
    page.objects.iter_mut().for_each(|object| object.depth = 1);
    Ok(page)
}

/// Returns at most `count` matching players.
///
/// # Errors
/// Returns an error if the query fails.
pub fn players(rows: &Connection, filter: &PlayerFilter, count: u32) -> Result<Vec<FoundPlayer>> {
    let PlayerFilter { name, id_prefixes } = filter;
    let mut query = rows.prepare(
        "SELECT id, name, admin, container_id FROM players WHERE name = ?1 COLLATE NOCASE ORDER \
         BY id LIMIT ?2",
    )?;
    // Few players have the same name, so the prefixes are compared here. -1 is no limit.
    let read_max = if id_prefixes.is_empty() { i64::from(count) } else { -1 };
    let found = query.query_map(rusqlite::params![name, read_max], |row| {
        Ok(FoundPlayer { id: row.get(0)?, name: row.get(1)?, admin: row.get(2)?, container_id: row.get(3)? })
    })?;
    let matches = |found: &FoundPlayer| {
        id_prefixes.is_empty() || id_prefixes.iter().any(|prefix| found.id.starts_with(prefix))
    };
    let found = found.filter(|found| found.as_ref().map_or(true, matches));
    found.take(usize::try_from(count).unwrap_or(usize::MAX)).collect()
}

/// Adds the matching objects of a query. Returns the page once it is full, or `None` if there is
/// still room after the last object.
fn add_all(
    rows: &Connection,
    sql: &str,
    values: Vec<Sql>,
    paging: &mut Paging,
    matches: impl Fn(&Listed) -> bool,
) -> Result<Option<Page>> {
    let mut query = rows.prepare(sql)?;
    for found in query.query_map(rusqlite::params_from_iter(values), listed)? {
        let found = found?;
        if matches(&found)
            && let Err(objects) = paging.add(found)
        {
            let next = objects.last().map(|last| vec![last.id.clone()]);
            return Ok(Some(Page { objects, next }));
        }
    }
    Ok(None)
}

/// A page that is being filled.
struct Paging {
    objects: Vec<Listed>,
    count: usize,
    size: usize,
}

impl Paging {
    fn new(count: usize) -> Self {
        Self { objects: Vec::new(), count, size: 0 }
    }

    /// Adds an object. Returns the page as the error if there is no room.
    fn add(&mut self, found: Listed) -> std::result::Result<(), Vec<Listed>> {
        self.size = self.size.saturating_add(found.size);
        if self.objects.len() >= self.count || (self.size > PAGE_SIZE_MAX && !self.objects.is_empty()) {
            return Err(std::mem::take(&mut self.objects));
        }
        self.objects.push(found);
        Ok(())
    }

    /// Returns the page after the last object.
    fn last_page(self) -> Page {
        Page { objects: self.objects, next: None }
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
        size: size::of_attributes(&attributes, json.len()),
        attributes,
        depth: 0,
    })
}
