//! The read models: tables in a file of SQLite's, that projections keep.
//!
//! How far they are stands in the same transaction as the rows, so each event is in them exactly once, whenever the
//! process dies. They are derived: whatever is wrong with the file, it is made anew from the events. Others may
//! read it at any time (it is in WAL mode), and should not write.

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension,
    backup::{Backup, StepResult},
    params,
};
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

use super::{
    projections::{ProjectedEvent, Projection},
    replay,
};
use crate::event::{Hash, Position, RecordedEvent};

/// The tables could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ReadModelError {
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    #[error("somebody else writes to them")]
    InUse,
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

impl ReadModelError {
    /// The file is damaged, or none of a database.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Database(error) => {
                matches!(
                    error.sqlite_error_code(),
                    Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                )
            }
            Self::InUse | Self::Io { .. } => false,
        }
    }

    /// Another try helps as little as a restart: the rows are not what the projections left.
    pub fn is_of_the_rows(&self) -> bool {
        use ErrorCode::{
            CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, OutOfMemory, PermissionDenied, ReadOnly,
            SystemIoFailure,
        };
        match self {
            Self::Database(error) => !matches!(
                error.sqlite_error_code(),
                Some(
                    CannotOpen
                        | DatabaseBusy
                        | DatabaseLocked
                        | DiskFull
                        | OutOfMemory
                        | PermissionDenied
                        | ReadOnly
                        | SystemIoFailure
                )
            ),
            Self::InUse | Self::Io { .. } => false,
        }
    }
}

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
    /// them, is replaced.
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
            Ok(None) => {}
            Err(error) if error.is_damage() => warn!(%error, "the read models are damaged"),
            Err(error) => return Err(error),
        }
        info!(path = %path.display(), "the read models are made anew");
        remove(path)?;
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
        rows.busy_timeout(BUSY_MAX)?;
        match durability {
            Durability::Kept => {
                rows.pragma_update(None, "journal_mode", "WAL")?;
                rows.pragma_update(None, "synchronous", "NORMAL")?;
            }
            Durability::Given => {
                rows.pragma_update(None, "journal_mode", "OFF")?;
                rows.pragma_update(None, "synchronous", "OFF")?;
            }
        }
        rows.pragma_update(None, "cache_size", -CACHE_KIB)?;
        rows.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        let is_new = !rows.table_exists(None, "projections")?;
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
        let reached = reached_by(&rows, projections)?;
        Ok(reached.map(|reached| Self { rows, reached }))
    }

    pub fn reached(&self) -> Reached {
        self.reached
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
        self.reached = others.reached;
        Ok(())
    }

    /// Takes events in, in one transaction with how far that is.
    ///
    /// # Errors
    /// The database's; nothing was taken in then.
    pub fn take(
        &mut self,
        projections: &[Box<dyn Projection>],
        events: &[RecordedEvent],
        reached: Reached,
    ) -> Result<(), ReadModelError> {
        let taking = self.rows.transaction()?;
        for recorded in events.iter().filter(|event| event.position > self.reached.position) {
            let happened = replay::read(recorded).ok();
            let event = ProjectedEvent { recorded, happened: happened.as_ref() };
            let wanted = projections
                .iter()
                .filter(|projection| projection.aggregate_types().contains(&event.aggregate_type()));
            for projection in wanted {
                projection.apply(&taking, &event)?;
            }
        }
        taking
            .prepare_cached("UPDATE projections SET position = ?1, hash = ?2")?
            .execute(params![reached.position.0.cast_signed(), reached.hash.0])?;
        taking.commit()?;
        self.reached = reached;
        Ok(())
    }
}

const PROJECTIONS: &str = "CREATE TABLE projections (
    name TEXT NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    position INTEGER NOT NULL,
    hash BLOB NOT NULL
) WITHOUT ROWID;";

/// How long to wait for somebody else who writes, or who has the file for himself.
const BUSY_MAX: Duration = Duration::from_secs(5);
const STATEMENTS_MAX: usize = 64;
const CACHE_KIB: i64 = 64 * 1024;

/// `None`: they are other projections, or other versions of them.
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

/// The file and what SQLite keeps beside it.
pub fn remove(path: &Path) -> Result<(), ReadModelError> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(ReadModelError::Io { path: name.into(), source: error });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The read models of a running service: one who writes, many who read.
pub struct ReadModels {
    path: PathBuf,
    projections: Vec<Box<dyn Projection>>,
    writer: Mutex<Tables>,
    readers: Mutex<Vec<Connection>>,
    /// Raised with every file that takes the place of another, and when other rows do.
    generation: AtomicU64,
    /// There is work although no event has come.
    pub woken: Notify,
    /// Also what was passed over, and is not in the file.
    position: watch::Sender<Position>,
}

impl std::fmt::Debug for ReadModels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadModels").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ReadModels {
    /// # Errors
    /// The file can't be opened or made.
    pub fn open(path: PathBuf, projections: Vec<Box<dyn Projection>>) -> Result<Self, ReadModelError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|source| ReadModelError::Io { path: folder.to_owned(), source })?;
        }
        let tables = Tables::open(&path, &projections, Durability::Kept)?;
        let position = watch::Sender::new(tables.reached().position);
        Ok(Self {
            path,
            projections,
            writer: Mutex::new(tables),
            readers: Mutex::default(),
            generation: AtomicU64::new(0),
            woken: Notify::new(),
            position,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn projections(&self) -> &[Box<dyn Projection>] {
        &self.projections
    }

    /// The one who writes.
    pub fn writer(&self) -> MutexGuard<'_, Tables> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All events up to here are in.
    pub fn position(&self) -> Position {
        *self.position.borrow()
    }

    /// Everything up to here was looked at.
    pub fn reach(&self, position: Position) {
        self.position.send_replace(position);
    }

    /// Makes the file anew, empty.
    ///
    /// # Errors
    /// The file can't be replaced.
    pub fn renew(&self) -> Result<(), ReadModelError> {
        let mut writer = self.writer();
        self.changed();
        // What is still open has no file behind it any more.
        remove(&self.path)?;
        *writer = Tables::open(&self.path, &self.projections, Durability::Kept)?;
        drop(writer);
        self.reach(Position(0));
        self.woken.notify_one();
        Ok(())
    }

    /// Other rows took the place of those that were there.
    pub fn changed(&self) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        readers.clear();
    }

    /// Which rows these are: whoever followed others has to begin again.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Asks the tables, as they are at one moment. May wait for the disk.
    ///
    /// # Errors
    /// The database's.
    pub fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReadModelError> {
        const READERS_KEPT: usize = 8;
        let (kept, generation) = {
            let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            (readers.pop(), self.generation())
        };
        let reader = match kept {
            Some(reader) => reader,
            None => self.reader()?,
        };
        let answer = reader.unchecked_transaction().and_then(|reading| query(&reading));
        match &answer {
            Ok(_) => {
                let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
                if readers.len() < READERS_KEPT && self.generation() == generation {
                    readers.push(reader);
                }
            }
            Err(error) => error!(%error, "the read models can't be read"),
        }
        let answer = answer.map_err(ReadModelError::from);
        if answer.as_ref().is_err_and(ReadModelError::is_damage) {
            self.renew()?;
        }
        answer
    }

    /// A connection that only reads.
    pub fn reader(&self) -> Result<Connection, ReadModelError> {
        let reader = Connection::open_with_flags(
            &self.path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        reader.busy_timeout(BUSY_MAX)?;
        Ok(reader)
    }
}
