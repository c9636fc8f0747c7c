//! Why a lookup failed.
//!
//! An error names the unusable file and the reason why it has not been rebuilt.

use std::path::PathBuf;

/// A file that cannot be used: it is damaged, cannot be read, or has an unsupported version.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {what}", file.display())]
pub struct TableError {
    pub file: PathBuf,
    pub what: String,
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
        why: String,
    },
}

impl IndexError {
    /// Wraps an error of a layer in memory. It cannot happen; if it does, no older layer may
    /// answer.
    pub(super) fn of_memory(table: TableError) -> Self {
        Self::NotMade { table, why: "it is a part of the index in memory".to_owned() }
    }
}
