//! The tables of all projections in one file, with how far they are.

use std::{path::Path, sync::Arc, time::Duration};

use rusqlite::{
    Connection, OpenFlags, OptionalExtension,
    backup::{Backup, StepResult},
    params,
};
use tracing::{info, warn};

use super::{
    ReadModelError,
    files::{self, put_aside, remove},
    problems::Problems,
    taking,
};
use crate::{
    event::{Hash, Position, RecordedEvent},
    world::projections::Projection,
};

/// Up to where the events are in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    pub position: Position,
    pub hash: Hash,
}

impl Reached {
    pub const START: Self = Self { position: Position(0), hash: Hash::START };
}

/// Tables of some projections in one file.
pub struct Tables {
    rows: Connection,
    reached: Reached,
    /// What repairs up to here pass over was never taken in.
    repairs_until: Position,
    problems: Arc<Problems>,
}

/// Whether a crash may leave the file unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    Kept,
    /// It is being made, and made again if that ends early.
    Given,
}

impl Tables {
    /// Opens the file, which is made when it is not there. One of other projections, or of other versions of
    /// them, is replaced; one that can't be read is put aside, and one that is another program's stays.
    ///
    /// # Errors
    /// The file can't be opened, written or replaced.
    pub fn open(
        path: &Path,
        projections: &[Box<dyn Projection>],
        durability: Durability,
    ) -> Result<Self, ReadModelError> {
        match Self::try_open(path, projections, durability) {
            Ok(Some(tables)) => return Ok(tables),
            Ok(None) => remove(path)?,
            Err(error) if error.is_damage() => {
                let aside = put_aside(path)?;
                warn!(%error, aside = %aside.display(), "the read models are damaged, and were put aside");
            }
            Err(error) => return Err(error),
        }
        info!(path = %path.display(), "the read models are made anew");
        match Self::try_open(path, projections, durability)? {
            Some(tables) => Ok(tables),
            None => Err(rusqlite::Error::InvalidQuery.into()),
        }
    }

    fn try_open(
        path: &Path,
        projections: &[Box<dyn Projection>],
        durability: Durability,
    ) -> Result<Option<Self>, ReadModelError> {
        let mut rows = Connection::open(path)?;
        rows.busy_timeout(WRITER_BUSY_MAX)?;
        // Before anything is changed in it.
        let is_new = match whose(&rows)? {
            Whose::Nobodys => true,
            Whose::Ours => false,
            Whose::AnotherPrograms => {
                return Err(ReadModelError::Foreign { path: path.to_owned(), key: files::KEY });
            }
        };
        match durability {
            Durability::Kept => {
                rows.pragma_update(None, "journal_mode", "WAL")?;
                rows.pragma_update(None, "synchronous", "NORMAL")?;
            }
            Durability::Given => {
                // Kept in memory: what fails is taken back here as well.
                rows.pragma_update(None, "journal_mode", "MEMORY")?;
                rows.pragma_update(None, "synchronous", "OFF")?;
            }
        }
        rows.pragma_update(None, "cache_size", -CACHE_KIB)?;
        rows.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        taking::guard(&mut rows)?;
        if is_new {
            let making = rows.transaction()?;
            making.execute_batch(PROJECTIONS)?;
            for projection in projections {
                making.execute_batch(projection.schema())?;
                making.execute(
                    "INSERT INTO projections VALUES (?1, ?2, 0, ?3)",
                    params![projection.name(), projection.version(), Hash::START.0],
                )?;
            }
            making.commit()?;
        }
        let reached = match reached_by(&rows, projections).map_err(ReadModelError::from) {
            // Ours, and not as we left it.
            Err(error) if error.is_of_the_rows() && !error.is_damage() => None,
            reached => reached?,
        };
        Ok(reached.map(|reached| Self {
            rows,
            reached,
            repairs_until: Position(0),
            problems: Arc::default(),
        }))
    }

    /// Writes down which log they were made from.
    ///
    /// # Errors
    /// The database's.
    pub fn belong_to(&self, log: &str) -> Result<(), ReadModelError> {
        // Most files are named already, and another program may keep the lock that a write needs.
        if owner_in(&self.rows)?.is_some() {
            return Ok(());
        }
        self.rows.execute_batch(BELONGS_TO)?;
        self.rows.execute("INSERT OR IGNORE INTO belongs_to VALUES (?1)", [log])?;
        Ok(())
    }

    pub fn reached(&self) -> Reached {
        self.reached
    }

    pub fn repairs_until(&self) -> Position {
        self.repairs_until
    }

    /// They are begun now, by whoever knows the repairs up to here.
    pub fn know_repairs_until(&mut self, until: Position) {
        self.repairs_until = until;
    }

    pub fn rows(&self) -> &Connection {
        &self.rows
    }

    /// Takes over all rows of the others, at once for everybody who reads.
    ///
    /// # Errors
    /// The database's; nothing has changed then.
    pub fn become_like(&mut self, others: &Self) -> Result<(), ReadModelError> {
        const ALL_PAGES: i32 = -1;
        const TRIES_MAX: usize = 5;
        let copying = Backup::new(&others.rows, &mut self.rows)?;
        let mut tries = 0;
        while copying.step(ALL_PAGES)? != StepResult::Done {
            tries += 1;
            if tries >= TRIES_MAX {
                return Err(ReadModelError::InUse);
            }
        }
        drop(copying);
        (self.reached, self.repairs_until) = (others.reached, others.repairs_until);
        Ok(())
    }

    /// Takes events in, in one transaction with how far that is. What a projection can't make rows of is passed over
    /// by that projection, and logged.
    ///
    /// # Errors
    /// The database's; nothing was taken in then.
    pub fn take(
        &mut self,
        projections: &[Box<dyn Projection>],
        events: &[RecordedEvent],
        reached: Reached,
    ) -> Result<(), ReadModelError> {
        let after = self.reached.position;
        let problems = self.problems.clone();
        taking::take(&mut self.rows, projections, events, (after, reached), &problems)?;
        self.reached = reached;
        Ok(())
    }

    /// Where what is said of single events is kept.
    pub(super) fn tell(&mut self, problems: Arc<Problems>) {
        self.problems = problems;
    }

    /// Takes all of the write-ahead log into the file and cuts it, unless somebody still reads an old state.
    ///
    /// # Errors
    /// The database's.
    pub fn truncate_wal(&self) -> Result<(), ReadModelError> {
        Ok(self.rows.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
    }
}

const PROJECTIONS: &str = "CREATE TABLE projections (
    name TEXT NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    position INTEGER NOT NULL,
    hash BLOB NOT NULL
) WITHOUT ROWID;";

/// The log that they were made from. Files of older versions have no such table.
const BELONGS_TO: &str =
    "CREATE TABLE IF NOT EXISTS belongs_to (log_id TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID;";

/// Whether the file may be changed, replaced and deleted: it is none, or is of this log. What is no database at all is for
/// [`Tables::open`] to put aside.
///
/// # Errors
/// It is another program's or another log's, or can't be read.
pub(in crate::world) fn check_owner(path: &Path, log: Option<&str>) -> Result<(), ReadModelError> {
    if !path.exists() {
        return Ok(());
    }
    let owner = || -> Result<Option<String>, ReadModelError> {
        let rows = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        rows.busy_timeout(WRITER_BUSY_MAX)?;
        if let Whose::AnotherPrograms = whose(&rows)? {
            return Err(ReadModelError::Foreign { path: path.to_owned(), key: files::KEY });
        }
        Ok(owner_in(&rows)?)
    };
    match owner() {
        Ok(Some(owner)) if log.is_some_and(|log| log != owner) => {
            Err(ReadModelError::OfAnotherLog { path: path.to_owned(), owner, key: files::KEY })
        }
        Err(error) if !error.is_damage() => Err(error),
        _ => Ok(()),
    }
}

/// How far the rows in a file are that is not opened.
///
/// # Errors
/// The database's.
pub(super) fn reached_in_file(path: &Path) -> Result<Reached, ReadModelError> {
    let rows = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    rows.busy_timeout(WRITER_BUSY_MAX)?;
    Ok(reached_in(&rows)?)
}

/// The file names no log any more.
///
/// # Errors
/// The database's.
pub(super) fn disown(path: &Path) -> Result<(), ReadModelError> {
    let rows = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    rows.busy_timeout(WRITER_BUSY_MAX)?;
    rows.execute("DELETE FROM belongs_to", [])?;
    Ok(())
}

/// The log that the rows name; `None` where they name none.
fn owner_in(rows: &Connection) -> rusqlite::Result<Option<String>> {
    let is_named: bool = rows.query_row(
        "SELECT count(*) > 0 FROM sqlite_schema WHERE type = 'table' AND name = 'belongs_to'",
        [],
        |row| row.get(0),
    )?;
    if !is_named {
        return Ok(None);
    }
    match rows.query_row("SELECT log_id FROM belongs_to LIMIT 1", [], |row| row.get(0)).optional() {
        // A table of another shape names nobody.
        Err(error) if !taking::is_of_the_environment(&error) => Ok(None),
        owner => owner,
    }
}

/// How long to wait for somebody else who writes, or reads what is to be cut; then another try is made later.
const WRITER_BUSY_MAX: Duration = Duration::from_secs(1);
/// How long a question waits for somebody else who has the file for himself.
pub(super) const READER_BUSY_MAX: Duration = Duration::from_millis(250);
const STATEMENTS_MAX: usize = 64;
const CACHE_KIB: i64 = 64 * 1024;

/// How far the tables are that a reader sees: all projections stand at one position.
pub(super) fn reached_in(rows: &Connection) -> rusqlite::Result<Reached> {
    let sql = "SELECT position, hash FROM projections LIMIT 1";
    rows.prepare_cached(sql)?.query_row([], |row| {
        let (position, hash): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let hash = Hash::from_slice(&hash).unwrap_or_default();
        Ok(Reached { position: Position(position.cast_unsigned()), hash })
    })
}

/// `None`: they are other projections, or other versions of them.
enum Whose {
    Nobodys,
    Ours,
    AnotherPrograms,
}

/// Told by the table that we make first, whose text SQLite keeps: other programs have one of that name, too.
fn whose(rows: &Connection) -> Result<Whose, rusqlite::Error> {
    let words = |text: &str| text.split_whitespace().collect::<String>();
    let made: Option<String> = rows
        .query_row("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'projections'", [], |row| {
            row.get(0)
        })
        .optional()?;
    if let Some(made) = made {
        let ours = words(PROJECTIONS);
        return Ok(match words(&made) == ours.trim_end_matches(';') {
            true => Whose::Ours,
            false => Whose::AnotherPrograms,
        });
    }
    let has_others = rows.query_row("SELECT count(*) > 0 FROM sqlite_master", [], |row| row.get(0))?;
    Ok(if has_others { Whose::AnotherPrograms } else { Whose::Nobodys })
}

fn reached_by(
    rows: &Connection,
    projections: &[Box<dyn Projection>],
) -> Result<Option<Reached>, rusqlite::Error> {
    let count: i64 = rows.query_row("SELECT count(*) FROM projections", [], |row| row.get(0))?;
    let mut reached = None;
    for projection in projections {
        let row: Option<(u32, i64, Vec<u8>)> = rows
            .query_row(
                "SELECT version, position, hash FROM projections WHERE name = ?1",
                [projection.name()],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .optional()?;
        let Some((version, position, hash)) = row else { return Ok(None) };
        let Some(hash) = Hash::from_slice(&hash) else { return Ok(None) };
        let its = Reached { position: Position(position.cast_unsigned()), hash };
        if version != projection.version() || reached.is_some_and(|others| others != its) {
            return Ok(None);
        }
        reached = Some(its);
    }
    let expected = i64::try_from(projections.len()).unwrap_or(i64::MAX);
    Ok(reached.filter(|_| count == expected))
}
