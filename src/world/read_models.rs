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
};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::projections::Projection;
use crate::event::Position;

mod tables;
#[cfg(test)]
mod tests;

use tables::BUSY_MAX;
pub use tables::{Durability, Reached, Tables, remove};

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
    looked_at: watch::Sender<LookedAt>,
}

/// How far the events were looked at. Those behind what is in the file change nothing in it: no projection wants them.
#[derive(Debug, Clone, Copy)]
struct LookedAt {
    in_file: Reached,
    position: Position,
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
        let in_file = tables.reached();
        let looked_at = watch::Sender::new(LookedAt { in_file, position: in_file.position });
        Ok(Self {
            path,
            projections,
            writer: Mutex::new(tables),
            readers: Mutex::default(),
            generation: AtomicU64::new(0),
            woken: Notify::new(),
            looked_at,
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
        self.looked_at.borrow().position
    }

    /// Everything up to `position` was looked at, and is in the file with what it has.
    pub fn reach(&self, in_file: Reached, position: Position) {
        self.looked_at.send_replace(LookedAt { in_file, position });
    }

    /// Up to where the events are in rows that are so far: exactly, no event less and none more.
    fn position_of(&self, rows: Reached) -> Position {
        let LookedAt { in_file, position } = *self.looked_at.borrow();
        if rows == in_file { position } else { rows.position }
    }

    /// Makes the file anew, empty.
    ///
    /// # Errors
    /// The file can't be replaced.
    pub fn renew(&self) -> Result<(), ReadModelError> {
        self.renew_with(&mut self.writer())
    }

    fn renew_with(&self, writer: &mut Tables) -> Result<(), ReadModelError> {
        self.changed();
        // What is still open has no file behind it any more.
        remove(&self.path)?;
        *writer = Tables::open(&self.path, &self.projections, Durability::Kept)?;
        self.reach(writer.reached(), writer.reached().position);
        // Also for who opened the old file in between.
        self.changed();
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

    /// Makes the file anew if it is gone: what is still open nobody else can see.
    ///
    /// # Errors
    /// It can't be made.
    pub fn be_there(&self) -> Result<(), ReadModelError> {
        if self.path.exists() {
            return Ok(());
        }
        let mut writer = self.writer();
        // Others may have seen it first.
        match self.path.exists() {
            true => Ok(()),
            false => self.renew_with(&mut writer),
        }
    }

    /// Asks the tables, as they are at one moment, and up to where the events are in them then. May wait for the disk.
    /// Ends early when the answer is given up.
    ///
    /// # Errors
    /// The database's.
    pub fn read<T>(
        &self,
        given_up: &CancellationToken,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<(T, Position), ReadModelError> {
        const READERS_KEPT: usize = 8;
        /// Steps of SQLite's machine between two looks at whether anybody waits.
        const STEPS: i32 = 10_000;
        self.be_there()?;
        let (kept, generation) = {
            let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            (readers.pop(), self.generation())
        };
        let mut reader = match kept {
            Some(reader) => reader,
            None => self.reader().or_else(|_| {
                // Perhaps it is just being replaced.
                drop(self.writer());
                self.reader()
            })?,
        };
        let given_up = given_up.clone();
        reader.progress_handler(STEPS, Some(move || given_up.is_cancelled()))?;
        let answer = reader.unchecked_transaction().and_then(|reading| {
            let answer = query(&reading)?;
            Ok((answer, self.position_of(tables::reached_in(&reading)?)))
        });
        reader.progress_handler(0, None::<fn() -> bool>)?;
        match &answer {
            Ok(_) => {
                let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
                if readers.len() < READERS_KEPT && self.generation() == generation {
                    readers.push(reader);
                }
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {}
            Err(error) => error!(%error, "the read models can't be read"),
        }
        let answer = answer.map_err(ReadModelError::from);
        if answer.as_ref().is_err_and(ReadModelError::is_damage) {
            let mut writer = self.writer();
            // Of many who see it the first is enough.
            if self.generation() == generation {
                self.renew_with(&mut writer)?;
            }
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
