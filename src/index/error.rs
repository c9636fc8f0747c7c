//! Why a lookup failed.
//!
//! An error names the unusable file and the reason why it has not been rebuilt.

use std::{io, path::PathBuf, sync::Arc};

use crate::log::ReadError;

/// A file that cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{file}: {fault}")]
pub struct TableError {
    /// The path of the file.
    pub file: PathBuf,
    /// Why it cannot be used.
    pub fault: TableFault,
}

/// Why a file cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TableFault {
    /// It is damaged, or has an unsupported version.
    #[error("{0}")]
    Invalid(&'static str),
    /// One of its blocks is damaged.
    #[error("damaged at byte {offset}: the block has a wrong checksum")]
    Block {
        /// The byte offset of the block in the file.
        offset: u64,
    },
    /// It cannot be read.
    #[error(transparent)]
    Io(Arc<io::Error>),
}

impl From<io::Error> for TableFault {
    fn from(source: io::Error) -> Self {
        Self::Io(Arc::new(source))
    }
}

/// Why a lookup failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexError {
    /// A file is unusable. A later attempt to rebuild it may succeed.
    #[error("index: {table}; it has not been rebuilt from the log yet: {why}")]
    NotMadeYet {
        /// The file, and why it is unusable.
        table: TableError,
        /// Why it has not been rebuilt yet.
        why: &'static str,
    },
    /// A file is unusable, and the log does not allow a rebuild.
    #[error("index: {table}; it cannot be rebuilt from the log: {why}")]
    NotMade {
        /// The file, and why it is unusable.
        table: TableError,
        /// Why it cannot be rebuilt.
        why: NotMadeReason,
    },
}

/// Why the log does not allow a rebuild.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotMadeReason {
    /// The part of the index was never in a file.
    #[error("it is a part of the index in memory")]
    InMemory,
    /// The log is damaged or cannot be read.
    #[error(transparent)]
    Log(Arc<ReadError>),
    /// The log does not have the events that the file was made from.
    #[error("the log has a different history")]
    AnotherHistory,
}

impl IndexError {
    /// Wraps an error of a layer in memory. It cannot happen; if it does, no older layer may
    /// answer.
    pub(super) fn of_memory(table: TableError) -> Self {
        Self::NotMade { table, why: NotMadeReason::InMemory }
    }
}
