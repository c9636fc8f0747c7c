//! The reasons why the service cannot run.

use crate::{
    access::LoadError, history::HistoryError, sequencer::PoisonedBy, storage::StorageError,
    world::commands::handler::reserving::SharedNames,
};

/// The reason why the service cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The storage cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The file of access control cannot be used.
    #[error(transparent)]
    Access(#[from] LoadError),
    /// The files of TLS cannot be used.
    #[error("server.tls: {0}")]
    Tls(#[from] super::tls::TlsError),
    /// Players share names, although names are to be unique.
    #[error(transparent)]
    PlayerNames(#[from] SharedNames),
    /// A thread cannot be started, or the forwarder cannot run.
    #[error("{what}: {source}")]
    Io {
        /// What failed, as a clause for the message.
        what: &'static str,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The gRPC server failed.
    #[error("server: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// Server reflection cannot be set up.
    #[error("server reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The restore of the log from ImmuDB is unfinished, and no ImmuDB is configured.
    #[error("the local log is an incomplete copy from ImmuDB, and no ImmuDB is configured (section immudb)")]
    UnfinishedCopy,
    /// The place in the log up to which events are in ImmuDB cannot be determined.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The named part of the service panicked.
    #[error("{0} panicked")]
    Panicked(&'static str),
    /// The log was poisoned by a failed write or sync, for the reason given.
    #[error("cannot write the local log: {0}; restart the service to find out what is stored")]
    LogFailed(#[source] PoisonedBy),
}
