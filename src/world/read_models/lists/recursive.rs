//! The recursive contents of an object: each object is followed by its own contents.
//!
//! A page continues where the previous one ended and reads nothing else, so its cost depends only
//! on what it returns. All that is kept in between is the path to the last object. It leads back to
//! the same place even if objects have moved meanwhile: an object that stays where it is, in
//! containers that stay where they are, is listed exactly once.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::{COLUMNS, Listed, Page, Paging, STEPS_MAX, listed};

/// Returns at most `count` objects after the one that `after` leads to. `after` names the
/// containers of that object, the outermost first, and the object itself last.
pub fn page(rows: &Connection, top: &str, after: &[String], count: usize) -> Result<Page> {
    let mut walk = Walk { rows, top, way: after.to_vec(), descends: true };
    walk.find_back()?;
    let mut paging = Paging::new(count);
    let mut last = Vec::new();
    while let Some(found) = walk.next()? {
        if let Err(objects) = paging.add(found) {
            return Ok(Page { objects, next: Some(last) });
        }
        last.clone_from(&walk.way);
    }
    Ok(Page { objects: paging.objects, next: None })
}

struct Walk<'w> {
    rows: &'w Connection,
    top: &'w str,
    /// The path to the last object found, which is its last element.
    way: Vec<String>,
    /// Whether the contents of the last object come next.
    descends: bool,
}

impl Walk<'_> {
    /// Finds the place where the previous page ended. The path is cut after the first object that
    /// has moved since: its contents no longer belong here, but the objects after it do.
    fn find_back(&mut self) -> Result<()> {
        let mut container = self.top;
        for (step, id) in self.way.iter().enumerate() {
            let sql = "SELECT container_id FROM game_objects WHERE id = ?1";
            let found: Option<Option<String>> =
                self.rows.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?;
            if found.flatten().as_deref() != Some(container) {
                self.way.truncate(step.saturating_add(1));
                self.descends = false;
                return Ok(());
            }
            container = id;
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Listed>> {
        let container = self.way.last().map_or(self.top, String::as_str);
        // A cycle, which only a damaged history has, returns to where it began.
        let goes_round = !self.way.is_empty() && container == self.top;
        let descends = self.descends && !goes_round && self.way.len() < STEPS_MAX;
        if descends && let Some(found) = self.first_in(container, "")? {
            return Ok(Some(self.go_to(found)));
        }
        while let Some(before) = self.way.pop() {
            let container = self.way.last().map_or(self.top, String::as_str);
            if let Some(found) = self.first_in(container, &before)? {
                return Ok(Some(self.go_to(found)));
            }
        }
        Ok(None)
    }

    fn go_to(&mut self, mut found: Listed) -> Listed {
        self.way.push(found.id.clone());
        self.descends = true;
        found.depth = u32::try_from(self.way.len()).unwrap_or(u32::MAX);
        found
    }

    fn first_in(&self, container: &str, after: &str) -> Result<Option<Listed>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM game_objects WHERE container_id = ?1 AND id > ?2 ORDER BY id LIMIT 1"
        );
        self.rows.prepare_cached(&sql)?.query_row(params![container, after], listed).optional()
    }
}
