//! Why a lookup failed.
//!
//! An error names the unusable file and the reason why it has not been rebuilt.

use super::table::TableError;

/// Why a lookup failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexError {
    #[error("index: {table}; it has not been rebuilt from the log yet: {why}")]
    NotMadeYet { table: TableError, why: &'static str },
    #[error("index: {table}; it cannot be rebuilt from the log: {why}")]
    NotMade { table: TableError, why: String },
}

impl IndexError {
    /// Wraps an error of a layer in memory. It cannot happen; if it does, no older layer may
    /// answer.
    pub(super) fn of_memory(table: TableError) -> Self {
        Self::NotMade { table, why: "it is a part of the index in memory".to_owned() }
    }
}
