//! The tables of all projections in one file, with the position that they have reached.
//!
//! Checks that a file belongs to this program and this log before changing it. Rows and position
//! change in one transaction; how a projection applies an event is left to `apply`.

use std::{path::Path, sync::Arc, time::Duration};

use rusqlite::{
    Connection, OpenFlags, OptionalExtension,
    backup::{Backup, StepResult},
    params,
};
use tracing::{info, warn};

use super::{
    Checkpoint, ReadModelError, apply,
    files::{self, claim, remove, set_aside},
    problems::Problems,
    projections::Projection,
};
use crate::event::{ChainHash, Position, RecordedEvent};

/// The tables of a set of projections in one file.
pub struct Tables {
    rows: Connection,
    reached: Checkpoint,
    /// Events excluded by repairs up to this position were never applied.
    repairs_until: Position,
    problems: Arc<Problems>,
}

/// Whether the file survives a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It does. Transactions lost in a power failure are applied again.
    Kept,
    /// It may not. The file is being built, and is built again if that ends early.
    Given,
}

impl Tables {
    /// Opens the file, and creates it if it does not exist. A file of other projections, or of
    /// other versions of them, is replaced. A file that cannot be read is renamed, and one of
    /// another program is left alone.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened, written or replaced.
    pub fn open(
        path: &Path,
        projections: &[Box<dyn Projection>],
        durability: Durability,
    ) -> Result<Self, ReadModelError> {
        match Self::try_open(path, projections, durability) {
            Ok(Some(tables)) => return Ok(tables),
            Ok(None) => remove(path)?,
            Err(error) if error.is_damage() => {
                let aside = set_aside(path)?;
                warn!(%error, aside = %aside.display(), "the read models are damaged; the file was renamed");
            }
            Err(error) => return Err(error),
        }
        info!(path = %path.display(), "rebuilding the read models");
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
        // Checked before anything is changed in the file.
        let is_new = match creator(&rows)? {
            Creator::Nobody => true,
            Creator::ThisService => false,
            Creator::AnotherProgram => {
                return Err(ReadModelError::Foreign { path: path.to_owned(), key: files::KEY });
            }
        };
        match durability {
            Durability::Kept => {
                rows.pragma_update(None, "journal_mode", "WAL")?;
                rows.pragma_update(None, "synchronous", "NORMAL")?;
            }
            Durability::Given => {
                // Kept in memory, because failed transactions are rolled back here as well.
                rows.pragma_update(None, "journal_mode", "MEMORY")?;
                rows.pragma_update(None, "synchronous", "OFF")?;
            }
        }
        rows.pragma_update(None, "cache_size", -CACHE_KIB)?;
        rows.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        apply::guard(&mut rows)?;
        if is_new {
            let making = rows.transaction()?;
            making.execute_batch(PROJECTIONS)?;
            for projection in projections {
                making.execute_batch(projection.schema())?;
                making.execute(
                    "INSERT INTO projections VALUES (?1, ?2, 0, ?3)",
                    params![projection.name(), projection.version(), ChainHash::START.0],
                )?;
            }
            making.commit()?;
        }
        let reached = match reached_by(&rows, projections).map_err(ReadModelError::from) {
            // The file is ours, but not as we left it.
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

    /// Records which log the tables are built from.
    ///
    /// # Errors
    /// Returns an error if the database fails.
    pub fn belong_to(&self, log: &str) -> Result<(), ReadModelError> {
        // Most files name a log already, and another program may hold the lock that a write needs.
        if owner_in(&self.rows)?.is_some() {
            return Ok(());
        }
        self.rows.execute_batch(BELONGS_TO)?;
        self.rows.execute("INSERT OR IGNORE INTO belongs_to VALUES (?1)", [log])?;
        Ok(())
    }

    /// Returns the position up to which events are in the tables.
    pub fn reached(&self) -> Checkpoint {
        self.reached
    }

    /// Returns the position up to which events excluded by repairs were never applied.
    pub fn repairs_until(&self) -> Position {
        self.repairs_until
    }

    /// Records that the tables are built from the start, with the repairs up to `until` known.
    pub fn know_repairs_until(&mut self, until: Position) {
        self.repairs_until = until;
    }

    /// Returns the connection that writes to the tables.
    pub fn rows(&self) -> &Connection {
        &self.rows
    }

    /// Replaces all rows with those of the other tables, at the same moment for all readers.
    ///
    /// # Errors
    /// Returns an error if the database fails or is in use. Nothing has changed then.
    pub fn restore_from(&mut self, others: &Self) -> Result<(), ReadModelError> {
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

    /// Applies events, in one transaction with the position reached. If a projection cannot apply
    /// an event, that projection skips it, and the skip is logged.
    ///
    /// # Errors
    /// Returns an error if the database fails. No event has been applied then.
    pub fn take(
        &mut self,
        projections: &[Box<dyn Projection>],
        events: &[RecordedEvent],
        reached: Checkpoint,
    ) -> Result<(), ReadModelError> {
        let after = self.reached.position;
        let problems = self.problems.clone();
        apply::apply_events(&mut self.rows, projections, events, (after, reached), &problems)?;
        self.reached = reached;
        Ok(())
    }

    /// Sets where problems with single events are recorded.
    pub(super) fn tell(&mut self, problems: Arc<Problems>) {
        self.problems = problems;
    }

    /// Moves the whole write-ahead log into the file and truncates it, unless a reader still uses
    /// an old snapshot.
    ///
    /// # Errors
    /// Returns an error if the database fails.
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

/// The log that the tables are built from. Files of older versions do not have this table.
const BELONGS_TO: &str =
    "CREATE TABLE IF NOT EXISTS belongs_to (log_id TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID;";

/// Checks that the file may be changed, replaced and deleted: it does not exist, names no log, or
/// belongs to this log. A file that is not a database is left to [`Tables::open`], which renames
/// it.
///
/// # Errors
/// Returns an error if the file belongs to another program or another log, or if it cannot be read.
pub(crate) fn check_owner(path: &Path, log: Option<&str>) -> Result<(), ReadModelError> {
    if !path.exists() {
        return Ok(());
    }
    let owner = || -> Result<Option<String>, ReadModelError> {
        let rows = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        rows.busy_timeout(WRITER_BUSY_MAX)?;
        if let Creator::AnotherProgram = creator(&rows)? {
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

/// Removes the read models of a log that was renamed. Those of other logs are left alone.
///
/// # Errors
/// Returns an error if a service uses them, or if one of the files cannot be deleted.
pub fn remove_those_of(path: &Path, log: Option<&str>) -> Result<(), ReadModelError> {
    if log.is_none() || !path.exists() {
        return Ok(());
    }
    let _claim = claim(path)?;
    match check_owner(path, log) {
        Ok(()) => remove(path),
        Err(ReadModelError::Foreign { .. } | ReadModelError::OfAnotherLog { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns the position of the rows in a file that is not open.
///
/// # Errors
/// Returns an error if the database fails.
pub(super) fn reached_in_file(path: &Path) -> Result<Checkpoint, ReadModelError> {
    let rows = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    rows.busy_timeout(WRITER_BUSY_MAX)?;
    Ok(reached_in(&rows)?)
}

/// Removes the name of the log from a file.
///
/// # Errors
/// Returns an error if the database fails.
pub(super) fn disown(path: &Path) -> Result<(), ReadModelError> {
    let rows = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    rows.busy_timeout(WRITER_BUSY_MAX)?;
    rows.execute("DELETE FROM belongs_to", [])?;
    Ok(())
}

/// Returns the log that the file names, or `None` if it names none.
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
        // A table of another shape names no log.
        Err(error) if !apply::is_of_the_environment(&error) => Ok(None),
        owner => owner,
    }
}

/// How long to wait for another writer, or for a reader that blocks a truncation. The operation is
/// retried later.
const WRITER_BUSY_MAX: Duration = Duration::from_secs(1);
/// How long a query waits for a program that has locked the file exclusively.
pub(super) const READER_BUSY_MAX: Duration = Duration::from_millis(250);
const STATEMENTS_MAX: usize = 64;
const CACHE_KIB: i64 = 64 * 1024;

/// Returns the position of the tables that a reader sees. All projections are at the same position.
pub(super) fn reached_in(rows: &Connection) -> rusqlite::Result<Checkpoint> {
    let sql = "SELECT position, hash FROM projections LIMIT 1";
    rows.prepare_cached(sql)?.query_row([], |row| {
        let (position, hash): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let hash = ChainHash::from_slice(&hash).unwrap_or_default();
        Ok(Checkpoint { position: Position(position.cast_unsigned()), hash })
    })
}

/// Which program created a file.
enum Creator {
    Nobody,
    ThisService,
    AnotherProgram,
}

/// Recognizes our files by the first table that we create, whose SQL text SQLite keeps. Its name is
/// not enough, because other programs may use the same one.
fn creator(rows: &Connection) -> Result<Creator, rusqlite::Error> {
    let words = |text: &str| text.split_whitespace().collect::<String>();
    let made: Option<String> = rows
        .query_row("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'projections'", [], |row| {
            row.get(0)
        })
        .optional()?;
    if let Some(made) = made {
        let ours = words(PROJECTIONS);
        return Ok(if words(&made) == ours.trim_end_matches(';') {
            Creator::ThisService
        } else {
            Creator::AnotherProgram
        });
    }
    let has_others = rows.query_row("SELECT count(*) > 0 FROM sqlite_master", [], |row| row.get(0))?;
    Ok(if has_others { Creator::AnotherProgram } else { Creator::Nobody })
}

/// Returns the position that all projections share, or `None` if the file has other projections or
/// other versions of them.
fn reached_by(
    rows: &Connection,
    projections: &[Box<dyn Projection>],
) -> Result<Option<Checkpoint>, rusqlite::Error> {
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
        let Some(hash) = ChainHash::from_slice(&hash) else { return Ok(None) };
        let its = Checkpoint { position: Position(position.cast_unsigned()), hash };
        if version != projection.version() || reached.is_some_and(|others| others != its) {
            return Ok(None);
        }
        reached = Some(its);
    }
    let expected = i64::try_from(projections.len()).unwrap_or(i64::MAX);
    Ok(reached.filter(|_| count == expected))
}
