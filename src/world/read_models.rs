//! The read models: tables in an SQLite file, maintained by projections.
//!
//! The position reached is stored in the same transaction as the rows, so each event is applied
//! exactly once, whenever the process dies. The tables are derived data: if anything is wrong with
//! the file it is rebuilt from the events, and if it cannot be opened the service continues without
//! it. Other programs may read the file at any time (it is in WAL mode), but should not write to
//! it.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::event::Position;

mod apply;
mod checkpoint;
pub mod contents;
pub mod dangling_references;
mod error;
pub mod files;
pub mod lists;
mod problems;
pub mod projections;
pub mod projector;
pub mod rebuild;
mod tables;
#[cfg(test)]
mod tests;

pub use apply::Panicked;
pub use checkpoint::Checkpoint;
pub use error::{NotOpenReason, ReadModelError};
pub use files::all as all_files;
use files::remove;
pub use problems::Problems;
use projections::Projection;
use tables::READER_BUSY_MAX;
pub use tables::{Durability, Tables, remove_those_of};

type Fits = Box<dyn Fn(Checkpoint) -> bool + Send + Sync>;

/// The read models of a running service, with one writer and many readers.
pub struct ReadModels {
    path: PathBuf,
    /// The configuration key of the path.
    key: &'static str,
    /// The maximum size of the write-ahead log while another program keeps an old snapshot open.
    wal_bytes_max: u64,
    /// The mode of the file and of those that SQLite keeps next to it, if it is not that of others.
    mode: Option<u32>,
    /// The id of the log that the tables are built from.
    log: Option<String>,
    /// Whether to replace a file of another log that is not in use.
    replaces_others: bool,
    /// Returns whether rows at this position belong to the history of the log.
    fits: Option<Fits>,
    projections: Vec<Box<dyn Projection>>,
    /// `None` if the file cannot be opened or created. The service continues without it, and
    /// retries.
    writer: Mutex<Option<Tables>>,
    is_open: AtomicBool,
    /// The identity of the open file.
    identity: Mutex<Option<files::Identity>>,
    /// The claim on the file, held from the first time it is opened.
    claim: OnceLock<File>,
    readers: Mutex<Vec<Connection>>,
    /// Incremented whenever another file or other rows replace the current ones.
    generation: AtomicU64,
    /// Set after the tables were rebuilt because of a fault, to the position up to which faults are
    /// known. Until the tables have passed it they are not rebuilt again for that.
    renewed_below: Mutex<Option<Position>>,
    /// Whether new tables are being built that are to replace these.
    being_rebuilt: AtomicBool,
    /// Notified when there is work although no event has arrived.
    pub woken: Notify,
    looked_at: watch::Sender<LookedAt>,
    /// What keeps the tables from following the events, and which events they skip.
    pub problems: Arc<Problems>,
}

/// How far the events have been examined. Events after the position in the file change nothing in
/// it, because no projection wants them.
#[derive(Debug, Clone, Copy)]
struct LookedAt {
    in_file: Checkpoint,
    position: Position,
}

impl std::fmt::Debug for ReadModels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadModels").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ReadModels {
    /// Creates the read models. Opens nothing yet; see [`ReadModels::ensure_exists`].
    pub fn new(path: PathBuf, wal_bytes_max: u64, projections: Vec<Box<dyn Projection>>) -> Self {
        let looked_at = LookedAt { in_file: Checkpoint::START, position: Position(0) };
        Self {
            path,
            key: files::KEY,
            wal_bytes_max,
            mode: None,
            projections,
            writer: Mutex::default(),
            is_open: AtomicBool::new(false),
            log: None,
            replaces_others: false,
            fits: None,
            identity: Mutex::default(),
            claim: OnceLock::new(),
            readers: Mutex::default(),
            generation: AtomicU64::new(0),
            renewed_below: Mutex::default(),
            being_rebuilt: AtomicBool::new(false),
            woken: Notify::new(),
            looked_at: watch::Sender::new(looked_at),
            problems: Arc::default(),
        }
    }

    /// Sets the configuration key of the path.
    pub fn of_key(mut self, key: &'static str) -> Self {
        self.key = key;
        self
    }

    /// Sets the mode of the file and of those that SQLite keeps next to it.
    pub fn of_mode(mut self, mode: Option<u32>) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the name that problem reports use.
    pub fn named(mut self, what: &'static str) -> Self {
        self.problems = Arc::new(Problems::of_tables(what));
        self
    }

    /// Sets the log that the file is built from and names. A file that names another log is not
    /// touched.
    pub fn of_log(mut self, log: Option<String>) -> Self {
        self.log = log;
        self
    }

    /// Replaces a file of another log, because nothing else uses this file.
    pub fn of_ours_alone(mut self) -> Self {
        self.replaces_others = true;
        self
    }

    /// Accepts a file that names another log if its rows belong to the history of this log. That is
    /// the case after the log was lost and restored from a copy.
    pub fn of_history(mut self, fits: impl Fn(Checkpoint) -> bool + Send + Sync + 'static) -> Self {
        self.fits = Some(Box::new(fits));
        self
    }

    /// Checks that a file belongs to this log or to none, and may be replaced.
    ///
    /// # Errors
    /// Returns an error if it may not be replaced.
    pub fn check_owner(&self, path: &Path) -> Result<(), ReadModelError> {
        tables::check_owner(path, self.log.as_deref()).map_err(|error| error.of_key(self.key))
    }

    /// Records the log in the tables.
    ///
    /// # Errors
    /// Returns an error if the database fails.
    pub fn name_log(&self, tables: &Tables) -> Result<(), ReadModelError> {
        self.log.as_ref().map_or(Ok(()), |log| tables.belong_to(log))
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the projections that maintain the tables.
    pub fn projections(&self) -> &[Box<dyn Projection>] {
        &self.projections
    }

    /// Locks the writer.
    pub fn writer(&self) -> MutexGuard<'_, Option<Tables>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the position up to which all events are applied.
    pub fn position(&self) -> Position {
        self.looked_at.borrow().position
    }

    /// Records that everything up to `position` was examined, and that the file reflects it at
    /// `in_file`.
    pub fn reach(&self, in_file: Checkpoint, position: Position) {
        self.looked_at.send_replace(LookedAt { in_file, position });
    }

    /// Returns the position that the rows at `rows` represent: they reflect exactly the events up
    /// to it.
    fn position_of(&self, rows: Checkpoint) -> Position {
        let LookedAt { in_file, position } = *self.looked_at.borrow();
        if rows == in_file { position } else { rows.position }
    }

    /// Replaces the file with an empty one, because something up to `until` cannot be applied. Does
    /// so only once for a fault, since a second time would change nothing. Returns whether it did.
    ///
    /// # Errors
    /// Returns an error if the file cannot be replaced.
    pub fn renew(&self, until: Position) -> Result<bool, ReadModelError> {
        let renewing = self.may_renew(until);
        if renewing {
            self.renew_with(&mut self.writer()).inspect_err(|_| self.may_renew_again())?;
        }
        Ok(renewing)
    }

    /// Allows another rebuild, because something is known now that was not known at the last one.
    pub fn may_renew_again(&self) {
        *self.renewed_below.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn may_renew(&self, until: Position) -> bool {
        let mut renewed_below = self.renewed_below.lock().unwrap_or_else(PoisonError::into_inner);
        let may = renewed_below.is_none();
        renewed_below.get_or_insert(until);
        may
    }

    /// Records that the events up to `position` were applied. Returns whether this is past all
    /// known faults.
    pub fn follow_to(&self, position: Position) -> bool {
        let mut renewed_below = self.renewed_below.lock().unwrap_or_else(PoisonError::into_inner);
        if renewed_below.is_some_and(|below| position >= below) {
            *renewed_below = None;
        }
        renewed_below.is_none()
    }

    fn renew_with(&self, writer: &mut Option<Tables>) -> Result<(), ReadModelError> {
        self.check_owner(&self.path)?;
        self.changed();
        // Connections that are still open no longer have a file.
        self.is_open.store(false, Ordering::Release);
        *writer = None;
        self.reach(Checkpoint::START, Position(0));
        remove(&self.path)?;
        self.problems.reset_skipped();
        self.open(writer)
    }

    fn open(&self, writer: &mut Option<Tables>) -> Result<(), ReadModelError> {
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|source| ReadModelError::Io { path: folder.to_owned(), source })?;
        }
        if self.claim.get().is_none() {
            // The caller holds the writer lock, so no other thread opens the file at the same time.
            _ = self.claim.set(files::claim(&self.path).map_err(|error| error.of_key(self.key))?);
        }
        match self.check_owner(&self.path) {
            Err(ReadModelError::OfAnotherLog { .. }) if self.replaces_others => remove(&self.path)?,
            Err(ReadModelError::OfAnotherLog { .. }) if self.is_of_history()? => tables::disown(&self.path)?,
            checked => checked?,
        }
        let tables = Tables::open(&self.path, &self.projections, Durability::Kept);
        let mut tables = tables.map_err(|error| error.of_key(self.key))?;
        tables.tell(self.problems.clone());
        if let Some(mode) = self.mode {
            files::set_mode(&self.path, mode)?;
        }
        match self.name_log(&tables) {
            // This can wait: a file that names no log counts as ours.
            Err(error) if error.is_of_the_rows() => return Err(error),
            Ok(()) | Err(_) => {}
        }
        *self.identity() = files::Identity::of(&self.path);
        self.reach(tables.reached(), tables.reached().position);
        *writer = Some(tables);
        self.is_open.store(true, Ordering::Release);
        // Also discards readers that opened an old file in between.
        self.changed();
        self.woken.notify_one();
        Ok(())
    }

    fn is_of_history(&self) -> Result<bool, ReadModelError> {
        let Some(fits) = &self.fits else { return Ok(false) };
        let reached = tables::reached_in_file(&self.path)?;
        Ok(reached.position > Position(0) && fits(reached))
    }

    /// Records that other rows have replaced the current ones, and closes the idle readers.
    pub fn changed(&self) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        readers.clear();
    }

    /// Identifies the current rows. Everything that follows the tables must start over when it
    /// changes.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Opens the file if it is not open, and creates a new one if it was deleted: other programs
    /// cannot see a deleted file that is still open here.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened or created.
    pub fn ensure_exists(&self) -> Result<(), ReadModelError> {
        if self.is_there() { Ok(()) } else { self.ensure_opened(&mut self.writer()) }
    }

    /// Returns whether new tables are being built that are to replace these. There is no use in
    /// rebuilding these then.
    pub fn is_being_rebuilt(&self) -> bool {
        self.being_rebuilt.load(Ordering::Acquire)
    }

    /// Records that such a rebuild starts or ends.
    pub fn set_being_rebuilt(&self, is_being_rebuilt: bool) {
        self.being_rebuilt.store(is_being_rebuilt, Ordering::Release);
    }

    fn is_there(&self) -> bool {
        self.is_open.load(Ordering::Acquire) && self.is_the_one_opened()
    }

    fn identity(&self) -> MutexGuard<'_, Option<files::Identity>> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the open file is still the one at the path.
    fn is_the_one_opened(&self) -> bool {
        self.identity().is_some_and(|opened| opened.is_at(&self.path))
    }

    /// Opens the file that has taken the place of the open one.
    fn reopen(&self, writer: &mut Option<Tables>) -> Result<(), ReadModelError> {
        self.changed();
        self.is_open.store(false, Ordering::Release);
        *writer = None;
        self.reach(Checkpoint::START, Position(0));
        if let Some(opened) = self.identity().take() {
            opened.remove_rest(&self.path)?;
        }
        self.open(writer)
    }

    fn ensure_opened(&self, writer: &mut Option<Tables>) -> Result<(), ReadModelError> {
        match writer {
            // Another thread may have noticed it first.
            Some(_) if self.is_the_one_opened() => Ok(()),
            Some(_) if self.path.exists() => self.reopen(writer),
            Some(_) => self.renew_with(writer),
            None => self.open(writer),
        }
    }

    /// Like [`ReadModels::ensure_exists`], but for readers: it does not wait for another thread
    /// that is opening the file, which may take long.
    fn ensure_open_to_read(&self) -> Result<(), ReadModelError> {
        if self.is_open.load(Ordering::Acquire) {
            return self.ensure_exists();
        }
        match self.writer.try_lock() {
            Ok(mut writer) => self.ensure_opened(&mut writer),
            Err(TryLockError::Poisoned(poisoned)) => self.ensure_opened(&mut poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(self.not_open()),
        }
    }

    /// Returns the error for a file that is not open, with the reason.
    pub fn not_open(&self) -> ReadModelError {
        self.problems.stalled_reason().map_or(NotOpenReason::Opening, NotOpenReason::Stalled).into()
    }

    /// Keeps the write-ahead log from growing without limit while another program keeps an old
    /// snapshot open. No events are applied then.
    ///
    /// # Errors
    /// Returns an error if the write-ahead log exceeds the limit and cannot be truncated.
    pub fn bound_wal(&self, tables: &Tables) -> Result<(), ReadModelError> {
        let (max, bytes) = (self.wal_bytes_max, || files::wal_bytes(&self.path));
        if bytes() <= max {
            return Ok(());
        }
        tables.truncate_wal()?;
        match bytes() {
            bytes if bytes > max => Err(ReadModelError::WalFull { bytes, max }),
            _ => Ok(()),
        }
    }

    /// Queries the tables as of one moment, and also returns the position that they represent. May
    /// block on disk I/O. Ends early when `given_up` is cancelled.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened, or if the query fails.
    pub fn read<T>(
        &self,
        given_up: &CancellationToken,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<(T, Position), ReadModelError> {
        const READERS_KEPT: usize = 8;
        /// The number of steps of the SQLite virtual machine between two checks for cancellation.
        const STEPS: i32 = 10_000;
        self.ensure_open_to_read()?;
        let (kept, generation) = {
            let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            (readers.pop(), self.generation())
        };
        let mut reader = match kept {
            Some(reader) => reader,
            None => self.reader().or_else(|_| {
                // Another thread may be replacing the file.
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
        let mut is_told = false;
        match &answer {
            Ok(_) => {
                let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
                if readers.len() < READERS_KEPT && self.generation() == generation {
                    readers.push(reader);
                }
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {}
            Err(_) => is_told = true,
        }
        let answer = answer.map_err(ReadModelError::from);
        if let (true, Err(error)) = (is_told, &answer) {
            self.problems.record_read_failure(error);
        }
        if answer.as_ref().is_err_and(ReadModelError::is_damage) {
            let mut writer = self.writer();
            // Only the first of many readers that see the damage rebuilds the file.
            if self.generation() == generation && self.may_renew(self.position()) {
                self.renew_with(&mut writer)?;
            }
        }
        answer
    }

    /// Opens a read-only connection.
    pub fn reader(&self) -> Result<Connection, ReadModelError> {
        let reader = Connection::open_with_flags(
            &self.path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        reader.busy_timeout(READER_BUSY_MAX)?;
        Ok(reader)
    }
}
