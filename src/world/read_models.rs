//! The read models: tables in a file of SQLite's, that projections keep.
//!
//! How far they are stands in the same transaction as the rows, so each event is in them exactly once, whenever the
//! process dies. They are derived: whatever is wrong with the file, it is made anew from the events, and where it can't be
//! opened the service goes on without. Others may read it at any time (it is in WAL mode), and should not write.

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

use super::projections::Projection;
use crate::event::Position;

mod error;
pub(super) mod files;
mod problems;
mod tables;
mod taking;
#[cfg(test)]
mod tests;

pub use error::ReadModelError;
use files::remove;
pub use files::{all as all_files, remove_those_of};
pub use problems::Problems;
use tables::READER_BUSY_MAX;
pub use tables::{Durability, Reached, Tables};
pub use taking::Panicked;

type Fits = Box<dyn Fn(Reached) -> bool + Send + Sync>;

/// The read models of a running service: one who writes, many who read.
pub struct ReadModels {
    path: PathBuf,
    /// The key of the configuration that says so.
    key: &'static str,
    /// The most that the write-ahead log may have while somebody else keeps an old state open.
    wal_bytes_max: u64,
    /// The id of the log that they are made from.
    log: Option<String>,
    /// A file of another log that nobody uses just now is replaced.
    replaces_others: bool,
    /// Whether rows that are so far are of this log's history.
    fits: Option<Fits>,
    projections: Vec<Box<dyn Projection>>,
    /// `None`: the file can't be opened or made. The service goes on without, and another try is made.
    writer: Mutex<Option<Tables>>,
    is_open: AtomicBool,
    /// Of the file that is open.
    identity: Mutex<Option<files::Identity>>,
    /// The claim on the file, from its first opening on.
    claim: OnceLock<File>,
    readers: Mutex<Vec<Connection>>,
    /// Raised with every file that takes the place of another, and when other rows do.
    generation: AtomicU64,
    /// They were made anew because of something wrong behind which they have not got yet: it is not done again for that.
    renewed_below: Mutex<Option<Position>>,
    /// Others are made beside these, and are to take their place.
    being_rebuilt: AtomicBool,
    /// There is work although no event has come.
    pub woken: Notify,
    looked_at: watch::Sender<LookedAt>,
    pub problems: Arc<Problems>,
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
    /// Nothing is opened yet; see [`ReadModels::be_there`].
    pub fn new(path: PathBuf, wal_bytes_max: u64, projections: Vec<Box<dyn Projection>>) -> Self {
        let looked_at = LookedAt { in_file: Reached::START, position: Position(0) };
        Self {
            path,
            key: files::KEY,
            wal_bytes_max,
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

    /// Another key of the configuration says where the file lies.
    pub fn of_key(mut self, key: &'static str) -> Self {
        self.key = key;
        self
    }

    /// Problems call it so.
    pub fn named(mut self, what: &'static str) -> Self {
        self.problems = Arc::new(Problems::of_these(what));
        self
    }

    /// The file names the log that it is made from, and is not touched if it names another.
    pub fn of_log(mut self, log: Option<String>) -> Self {
        self.log = log;
        self
    }

    /// Nobody else has a use for the file: one that is of another log is replaced.
    pub fn of_ours_alone(mut self) -> Self {
        self.replaces_others = true;
        self
    }

    /// A file that names another log is taken over all the same where its rows are of this log's history: the log was lost, and
    /// copied back.
    pub fn of_history(mut self, fits: impl Fn(Reached) -> bool + Send + Sync + 'static) -> Self {
        self.fits = Some(Box::new(fits));
        self
    }

    /// Whether a file is this log's, or nobody's, and may be replaced.
    ///
    /// # Errors
    /// It is not.
    pub fn check_owner(&self, path: &Path) -> Result<(), ReadModelError> {
        tables::check_owner(path, self.log.as_deref()).map_err(|error| error.of_key(self.key))
    }

    /// Writes the log down in tables.
    ///
    /// # Errors
    /// The database's.
    pub fn name_log(&self, tables: &Tables) -> Result<(), ReadModelError> {
        self.log.as_ref().map_or(Ok(()), |log| tables.belong_to(log))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn projections(&self) -> &[Box<dyn Projection>] {
        &self.projections
    }

    /// The one who writes.
    pub fn writer(&self) -> MutexGuard<'_, Option<Tables>> {
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

    /// Makes the file anew, empty, because something up to `until` can't be taken in; once for that, since a second time would
    /// change nothing. Says whether it did.
    ///
    /// # Errors
    /// The file can't be replaced.
    pub fn renew(&self, until: Position) -> Result<bool, ReadModelError> {
        let renewing = self.may_renew(until);
        if renewing {
            self.renew_with(&mut self.writer()).inspect_err(|_| self.may_renew_again())?;
        }
        Ok(renewing)
    }

    /// Something else is known now than when they were made anew.
    pub fn may_renew_again(&self) {
        *self.renewed_below.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn may_renew(&self, until: Position) -> bool {
        let mut renewed_below = self.renewed_below.lock().unwrap_or_else(PoisonError::into_inner);
        let may = renewed_below.is_none();
        renewed_below.get_or_insert(until);
        may
    }

    /// The events up to `position` were taken in. Says whether that is behind all that was wrong.
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
        // What is still open has no file behind it any more.
        self.is_open.store(false, Ordering::Release);
        *writer = None;
        self.reach(Reached::START, Position(0));
        remove(&self.path)?;
        self.problems.begin_anew();
        self.open(writer)
    }

    fn open(&self, writer: &mut Option<Tables>) -> Result<(), ReadModelError> {
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|source| ReadModelError::Io { path: folder.to_owned(), source })?;
        }
        if self.claim.get().is_none() {
            // Whoever opens it is alone: this one holds the place of who writes.
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
        match self.name_log(&tables) {
            // It can wait: a file that names no log is this one's.
            Err(error) if error.is_of_the_rows() => return Err(error),
            Ok(()) | Err(_) => {}
        }
        *self.identity() = files::Identity::of(&self.path);
        self.reach(tables.reached(), tables.reached().position);
        *writer = Some(tables);
        self.is_open.store(true, Ordering::Release);
        // Also for who opened an old file in between.
        self.changed();
        self.woken.notify_one();
        Ok(())
    }

    fn is_of_history(&self) -> Result<bool, ReadModelError> {
        let Some(fits) = &self.fits else { return Ok(false) };
        let reached = tables::reached_in_file(&self.path)?;
        Ok(reached.position > Position(0) && fits(reached))
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

    /// Opens the file if that was not possible before, and makes it anew if it is gone: what is still open nobody else
    /// can see.
    ///
    /// # Errors
    /// It can't be opened or made.
    pub fn be_there(&self) -> Result<(), ReadModelError> {
        match self.is_there() {
            true => Ok(()),
            false => self.be_there_with(&mut self.writer()),
        }
    }

    /// Others are made beside these, and are to take their place: there is no use in making these anew.
    pub fn is_being_rebuilt(&self) -> bool {
        self.being_rebuilt.load(Ordering::Acquire)
    }

    /// Says that it begins, or is over.
    pub fn set_being_rebuilt(&self, is_being_rebuilt: bool) {
        self.being_rebuilt.store(is_being_rebuilt, Ordering::Release);
    }

    fn is_there(&self) -> bool {
        self.is_open.load(Ordering::Acquire) && self.is_the_one_opened()
    }

    fn identity(&self) -> MutexGuard<'_, Option<files::Identity>> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No other file took its place.
    fn is_the_one_opened(&self) -> bool {
        self.identity().is_some_and(|opened| opened.is_at(&self.path))
    }

    /// Another file took the place of the one that is open.
    fn reopen(&self, writer: &mut Option<Tables>) -> Result<(), ReadModelError> {
        self.changed();
        self.is_open.store(false, Ordering::Release);
        *writer = None;
        self.reach(Reached::START, Position(0));
        if let Some(opened) = self.identity().take() {
            opened.remove_rest(&self.path)?;
        }
        self.open(writer)
    }

    fn be_there_with(&self, writer: &mut Option<Tables>) -> Result<(), ReadModelError> {
        match writer {
            // Others may have seen it first.
            Some(_) if self.is_the_one_opened() => Ok(()),
            Some(_) if self.path.exists() => self.reopen(writer),
            Some(_) => self.renew_with(writer),
            None => self.open(writer),
        }
    }

    /// The same for who asks: where somebody is trying to open the file just now, that may take long.
    fn be_there_for_reading(&self) -> Result<(), ReadModelError> {
        if self.is_open.load(Ordering::Acquire) {
            return self.be_there();
        }
        match self.writer.try_lock() {
            Ok(mut writer) => self.be_there_with(&mut writer),
            Err(TryLockError::Poisoned(poisoned)) => self.be_there_with(&mut poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(self.not_open()),
        }
    }

    /// Why nothing can be done with them.
    pub fn not_open(&self) -> ReadModelError {
        ReadModelError::NotOpen(self.problems.why_not().unwrap_or_else(|| "they are being opened".to_owned()))
    }

    /// Keeps the write-ahead log from growing without end where somebody keeps an old state of the file open: then no
    /// events are taken in.
    ///
    /// # Errors
    /// It has grown so much, and can't be cut.
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
        self.be_there_for_reading()?;
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
            self.problems.they_cannot_be_read(error);
        }
        if answer.as_ref().is_err_and(ReadModelError::is_damage) {
            let mut writer = self.writer();
            // Of many who see it the first is enough.
            if self.generation() == generation && self.may_renew(self.position()) {
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
        reader.busy_timeout(READER_BUSY_MAX)?;
        Ok(reader)
    }
}
