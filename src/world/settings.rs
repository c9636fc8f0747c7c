//! The settings that the world is started with.
//!
//! They are plain values. Reading and validating the configuration is left to `config`.

use std::path::PathBuf;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The limits on the events of a call. They are the same as for any client's append.
#[derive(Debug, Clone, Copy)]
pub struct EventLimits {
    /// The maximum size of the data of one event.
    pub event_bytes_max: usize,
    /// The maximum total size of the events of an append, including ids and metadata.
    pub append_bytes_max: usize,
    /// The maximum number of events in an append.
    pub append_events_max: usize,
}

/// How appends to objects of the world that bypass the commands are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawAppendPolicy {
    /// Refused if an event is invalid for its object.
    Checked,
    /// Always refused.
    Refused,
    /// Always accepted. An invalid event damages its object.
    Unchecked,
}

/// Which names of players are unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UniqueNames {
    /// None. Players may share names.
    Off,
    /// All. Names are the same if they have the same bytes.
    Exact,
    /// All. Names are the same if they have the same Unicode lowercase.
    Folded,
}

impl UniqueNames {
    /// Returns the value in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Exact => "exact",
            Self::Folded => "folded",
        }
    }
}

/// The configuration of the world.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The SQLite file of the read models.
    pub read_models_path: PathBuf,
    /// The mode of that file, its -wal and its -shm. `None`: that of all new files.
    pub read_models_mode: Option<u32>,
    /// The directory of the stored states and of the container table.
    pub states_path: PathBuf,
    /// The maximum size of a write-ahead log in bytes. No events are applied while it is exceeded.
    pub read_models_wal_max: u64,
    /// The id of the log that the read models are built from.
    pub log_id: Option<String>,
    /// The limits on the events of a call.
    pub events: EventLimits,
    /// How appends to objects of the world that bypass the commands are treated.
    pub raw_appends: RawAppendPolicy,
    /// Which names of players are unique.
    pub unique_names: UniqueNames,
}

/// How the world's tasks are stopped.
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// Tracks the tasks, so that the service can wait for their end.
    pub tasks: TaskTracker,
    /// Cancelled when the service accepts no more calls. Whatever a client still waits for then
    /// ends.
    pub closing: CancellationToken,
    /// Cancelled when the last calls have ended.
    pub stopping: CancellationToken,
}
