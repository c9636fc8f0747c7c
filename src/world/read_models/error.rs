//! Why the read models can't be read or written.

use std::path::PathBuf;

use rusqlite::ErrorCode;

use super::taking;
use crate::world::error::WorldError;

/// The tables could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ReadModelError {
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    #[error("somebody else writes to them")]
    InUse,
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// Nothing in it is touched.
    #[error("{path} is a database of something else; {key} must name another place")]
    Foreign { path: PathBuf, key: &'static str },
    #[error("{path} is in use by another service: every service needs a file of its own ({key})")]
    OfAnotherService { path: PathBuf, key: &'static str },
    /// Nothing in it is touched.
    #[error(
        "{path} was made from another log ({owner}): give this service a file of its own ({key}), or delete that one if no service \
         uses it"
    )]
    OfAnotherLog { path: PathBuf, owner: String, key: &'static str },
    #[error("they are not open: {0}")]
    NotOpen(String),
    #[error(
        "somebody keeps an old state of the file open, so its write-ahead log has {bytes} bytes, and no more than {max} \
         (world.read_models_wal_max) are allowed; they take no events until that reader ends"
    )]
    WalFull { bytes: u64, max: u64 },
}

impl ReadModelError {
    /// Names another key of the configuration than that of the read models.
    pub(super) fn of_key(mut self, its: &'static str) -> Self {
        match &mut self {
            Self::Foreign { key, .. }
            | Self::OfAnotherService { key, .. }
            | Self::OfAnotherLog { key, .. } => {
                *key = its;
            }
            Self::Database(_) | Self::InUse | Self::Io { .. } | Self::NotOpen(_) | Self::WalFull { .. } => {}
        }
        self
    }

    /// The file is damaged, or none of a database.
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
            | Self::WalFull { .. } => false,
        }
    }

    /// Another try helps as little as a restart: the rows are not what the projections left.
    pub fn is_of_the_rows(&self) -> bool {
        match self {
            Self::Database(error) => self.is_damage() || !taking::is_of_the_environment(error),
            Self::InUse
            | Self::Io { .. }
            | Self::Foreign { .. }
            | Self::OfAnotherService { .. }
            | Self::OfAnotherLog { .. }
            | Self::NotOpen(_)
            | Self::WalFull { .. } => false,
        }
    }
}

impl From<ReadModelError> for WorldError {
    fn from(error: ReadModelError) -> Self {
        Self::ReadModels(error.to_string())
    }
}
