//! The settings that the world is started with.
//!
//! They are plain values. Reading and validating the configuration is left to `config`.

use std::path::PathBuf;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The limits on the events of a call. They are the same as for any client's append.
#[derive(Debug, Clone, Copy)]
pub struct EventLimits {
    pub event_bytes_max: usize,
    pub append_bytes_max: usize,
    pub append_events_max: usize,
}

/// How appends to objects of the world that bypass the commands are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawAppendPolicy {
    Checked,
    Refused,
    Unchecked,
}

/// The configuration of the world.
#[derive(Debug, Clone)]
pub struct Settings {
    pub read_models_path: PathBuf,
    pub states_path: PathBuf,
    pub read_models_wal_max: u64,
    /// The id of the log that the read models are built from.
    pub log_id: Option<String>,
    pub events: EventLimits,
    pub raw_appends: RawAppendPolicy,
}

/// How the world's tasks are stopped.
#[derive(Debug, Clone)]
pub struct Shutdown {
    pub tasks: TaskTracker,
    /// Cancelled when the service accepts no more calls. Whatever a client still waits for then
    /// ends.
    pub closing: CancellationToken,
    /// Cancelled when the last calls have ended.
    pub stopping: CancellationToken,
}
