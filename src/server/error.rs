//! The reasons why the service cannot run.

use crate::{history::HistoryError, storage::StorageError};

/// The reason why the service cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
    #[error("server: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("server reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the local log is an incomplete copy from ImmuDB, and no ImmuDB is configured (section immudb)")]
    UnfinishedCopy,
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("{0} panicked")]
    Panicked(&'static str),
    #[error("cannot write the local log: {0}; restart the service to find out what is stored")]
    LogFailed(String),
}
