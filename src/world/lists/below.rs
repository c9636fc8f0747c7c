//! All that lies below an object: each thing is followed by what lies in it.
//!
//! A page goes on where the one before ended, and looks at nothing else, so it costs what it returns. What is kept in
//! between is the way to the last thing, by which the place is found again although things have moved meanwhile: what
//! stays where it is, in what stays where it is, is listed exactly once.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::{COLUMNS, Listed, Page, Paging, STEPS_MAX, listed};

/// At most `count` things behind the one that `after` leads to, which names what that lies in, the outermost first, and
/// itself last.
///
/// # Errors
/// The database's.
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
    /// To the last thing that was found, which is itself the last.
    way: Vec<String>,
    /// What lies in it comes next.
    descends: bool,
}

impl Walk<'_> {
    /// Whatever is not where it was when the way was taken ends it: nothing of what lies in it is wanted there any more,
    /// and what comes behind it is.
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
        // What goes round in a circle, which only a broken history does, comes back to where it began.
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
