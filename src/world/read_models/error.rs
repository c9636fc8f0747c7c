//! Errors of the read models.
//!
//! Also tells what an error means for the file: whether it is damaged, and whether only a rebuild
//! helps.

use std::path::PathBuf;

use rusqlite::ErrorCode;

use super::apply;
use crate::world::error::WorldError;

/// An error while reading or writing the tables.
#[derive(Debug, thiserror::Error)]
pub enum ReadModelError {
    /// SQLite returned an error, or the tables are not as expected.
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    /// Another process kept the file locked while all rows were to be replaced.
    #[error("another process is writing to the file")]
    InUse,
    /// A file or directory cannot be accessed.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The file is left untouched.
    #[error("{path} is a database of another program; set {key} to another path")]
    Foreign {
        /// The path of the file.
        path: PathBuf,
        /// The configuration key of the path.
        key: &'static str,
    },
    /// Another process holds the claim on the file.
    #[error("{path} is in use by another service; each service needs its own file ({key})")]
    OfAnotherService {
        /// The path of the file.
        path: PathBuf,
        /// The configuration key of the path.
        key: &'static str,
    },
    /// The file is left untouched.
    #[error(
        "{path} was created from another log ({owner}); give this service its own file ({key}), or delete {path} if no \
         service uses it"
    )]
    OfAnotherLog {
        /// The path of the file.
        path: PathBuf,
        /// The id of the log that the file names.
        owner: String,
        /// The configuration key of the path.
        key: &'static str,
    },
    /// The tables are not available at present, for this reason.
    #[error("the file is not open: {0}")]
    NotOpen(#[from] NotOpenReason),
    /// Other tables replaced these at each attempt to read them.
    #[error("they are being rebuilt repeatedly")]
    RebuiltRepeatedly,
    /// The write-ahead log exceeds its limit and cannot be truncated.
    #[error(
        "another program keeps a read transaction open, and the write-ahead log has grown to {bytes} bytes \
         (at most {max}, world.read_models_wal_max); no events are applied until that transaction ends"
    )]
    WalFull {
        /// The size of the write-ahead log.
        bytes: u64,
        /// The maximum size in bytes.
        max: u64,
    },
}

/// Why tables are not available at present.
#[derive(Debug, thiserror::Error)]
pub enum NotOpenReason {
    /// They do not follow the events, because of the problem that is recorded for them.
    #[error("{0}")]
    Stalled(String),
    /// Another thread is opening the file.
    #[error("the file is being opened")]
    Opening,
    /// Other tables are replacing them.
    #[error("{tables} is being rebuilt")]
    Rebuilding {
        /// Their name in reports.
        tables: &'static str,
    },
    /// They lack too many events to wait for.
    #[error("{tables} is {events} events behind")]
    Behind {
        /// Their name in reports.
        tables: &'static str,
        /// The number of events that they lack.
        events: u64,
    },
}

impl ReadModelError {
    /// Names another configuration key than that of the read models.
    pub(super) fn of_key(mut self, its: &'static str) -> Self {
        match &mut self {
            Self::Foreign { key, .. }
            | Self::OfAnotherService { key, .. }
            | Self::OfAnotherLog { key, .. } => {
                *key = its;
            }
            Self::Database(_)
            | Self::InUse
            | Self::Io { .. }
            | Self::NotOpen(_)
            | Self::RebuiltRepeatedly
            | Self::WalFull { .. } => {}
        }
        self
    }

    /// Returns whether the file is damaged or not a database.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Database(error) => {
                matches!(
                    error.sqlite_error_code(),
                    Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                )
            }
            Self::InUse
            | Self::Io { .. }
            | Self::Foreign { .. }
            | Self::OfAnotherService { .. }
            | Self::OfAnotherLog { .. }
            | Self::NotOpen(_)
            | Self::RebuiltRepeatedly
            | Self::WalFull { .. } => false,
        }
    }

    /// Returns whether the rows are not as the projections left them. Neither a retry nor a restart
    /// helps then.
    pub fn is_of_the_rows(&self) -> bool {
        match self {
            Self::Database(error) => self.is_damage() || !apply::is_of_the_environment(error),
            Self::InUse
            | Self::Io { .. }
            | Self::Foreign { .. }
            | Self::OfAnotherService { .. }
            | Self::OfAnotherLog { .. }
            | Self::NotOpen(_)
            | Self::RebuiltRepeatedly
            | Self::WalFull { .. } => false,
        }
    }
}

impl From<ReadModelError> for WorldError {
    fn from(error: ReadModelError) -> Self {
        Self::ReadModels(error.into())
    }
}
