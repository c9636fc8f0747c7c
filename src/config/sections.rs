//! The sections of the configuration with their defaults.
//!
//! The meaning of each key is documented in `conf/server.yml`, and its allowed values are in
//! `keys`. Checks that involve several keys are here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::event::NAME_BYTES_MAX;

mod access;
mod immudb;
mod listen;
mod proof;
mod server;

pub use access::AccessConfig;
pub use immudb::{ImmudbConfig, ImmudbTlsConfig, RequireContact};
pub use listen::{ListenAddress, ListenAddresses};
pub use proof::{AnchorConfig, AuditConfig, ProofConfig, WitnessConfig};
pub use server::{ClientCertificates, ServerConfig, TlsConfig};

/// The section `event_sourcing`: the event store, its local files and its clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventSourcingConfig {
    /// If false, writes are rejected. Reads are served.
    pub enabled: bool,
    /// The number of events since an aggregate's last snapshot at which a new one is due.
    pub snapshot_threshold: u64,
    /// The same by aggregate type, overriding `snapshot_threshold`.
    pub snapshot_thresholds: BTreeMap<String, u64>,
    /// The same by aggregate id, overriding both.
    pub snapshot_thresholds_by_id: BTreeMap<String, u64>,
    /// The directory of the event files.
    pub storage_path: PathBuf,
    /// The directory of the local log.
    pub log_path: PathBuf,
    /// The directory of the index.
    pub index_path: PathBuf,
    /// Whether pending events and snapshots are written to event files.
    pub event_files: bool,
    /// The maximum number of event files at a time. Further pending events are only in the log.
    pub event_files_max: u64,
    /// The size in bytes at which the log starts a new segment. The last group may exceed it.
    pub segment_bytes_max: u64,
    /// How long reads are served after the log was poisoned. Then the process exits.
    #[serde(with = "seconds")]
    pub log_failure_grace: Duration,
    /// The tolerance of the checks of the system clock.
    #[serde(with = "seconds")]
    pub clock_jump_max: Duration,
}

impl Default for EventSourcingConfig {
    fn default() -> EventSourcingConfig {
        EventSourcingConfig {
            enabled: false,
            snapshot_threshold: 100,
            snapshot_thresholds: BTreeMap::new(),
            snapshot_thresholds_by_id: BTreeMap::new(),
            storage_path: "storage/events".into(),
            log_path: "storage/log".into(),
            index_path: "storage/index".into(),
            event_files: true,
            event_files_max: 100_000,
            segment_bytes_max: 64 << 20,
            log_failure_grace: Duration::from_secs(10),
            clock_jump_max: Duration::from_secs(60 * 60),
        }
    }
}

/// The section `world`: the game world.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldConfig {
    /// If false, calls of the world return UNIMPLEMENTED, and its objects are not checked.
    pub enabled: bool,
    /// The policy for appends to objects of the world that do not come from a command.
    pub raw_appends: RawAppends,
    /// The rules for the names of players.
    pub player_names: PlayerNamesConfig,
    /// The directory of the cached object states and of `contents.sqlite`.
    pub states_path: PathBuf,
    /// The SQLite file of the read models.
    pub read_models_path: PathBuf,
    /// The mode of that file, of its `-wal` and of its `-shm`. If `None`, it is that of all new
    /// files.
    #[serde(with = "file_mode")]
    pub read_models_mode: Option<u32>,
    /// The size in bytes of an SQLite write-ahead log at which its tables are not updated.
    pub read_models_wal_max: usize,
}

impl Default for WorldConfig {
    fn default() -> WorldConfig {
        WorldConfig {
            enabled: true,
            raw_appends: RawAppends::Checked,
            player_names: PlayerNamesConfig::default(),
            states_path: "storage/states".into(),
            read_models_path: "storage/read_models.sqlite".into(),
            read_models_mode: None,
            read_models_wal_max: 256 << 20,
        }
    }
}

/// What happens to appends to objects of the world that do not come from a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawAppends {
    /// An event that is invalid for its object is rejected.
    Checked,
    /// All are rejected.
    Refused,
    /// All are stored. An invalid event damages its object.
    Unchecked,
}

/// The mapping `world.player_names`: the rules for the names of players.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlayerNamesConfig {
    /// Which names are unique.
    pub unique: UniqueNames,
}

/// Which names of players are unique.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UniqueNames {
    /// None.
    #[default]
    Off,
    /// All, compared byte by byte.
    Exact,
    /// All, compared in Unicode lowercase.
    Folded,
}

impl WorldConfig {
    /// Checks that names are not to be unique while raw appends are not checked: those may use any
    /// name.
    pub(super) fn check_player_names(&self) -> Result<(), ConfigError> {
        if self.player_names.unique == UniqueNames::Off || self.raw_appends != RawAppends::Unchecked {
            return Ok(());
        }
        Err(ConfigError::Invalid {
            key: "world.raw_appends".into(),
            variable: None,
            found: "\"unchecked\"".into(),
            expected: "checked or refused, because world.player_names.unique is set".into(),
        })
    }
}

/// The section `limits`: the limits on requests, stored and pending events, and concurrent work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// The maximum number of events in one append.
    pub append_events_max: usize,
    /// The maximum encoded size of all events of one append, in bytes.
    pub append_bytes_max: usize,
    /// The maximum size of the data of one event, in bytes.
    pub event_bytes_max: usize,
    /// The maximum size of the data of one snapshot, in bytes.
    pub snapshot_bytes_max: usize,
    /// The maximum size of an aggregate id, correlation id or causation id, in bytes.
    pub id_bytes_max: usize,
    /// The maximum size of an aggregate type or event type, in bytes.
    pub type_bytes_max: usize,
    /// The maximum number of metadata entries of one event or snapshot.
    pub metadata_entries_max: usize,
    /// The maximum size of one metadata value, in bytes.
    pub metadata_value_bytes_max: usize,
    /// The maximum number of expected sequence numbers in one append.
    pub expected_sequences_max: usize,
    /// The maximum number of event types, and of aggregate types, that `Stats` counts by name.
    pub types_max: u64,
    /// The maximum number of appends and snapshots that wait to be written to the log.
    pub calls_waiting_max: usize,
    /// The maximum size of the waiting appends and snapshots together, in bytes.
    pub calls_waiting_bytes_max: usize,
    /// The number of pending events at which writes are rejected.
    pub pending_events_max: u64,
    /// The size in bytes of the pending part of the log at which writes are rejected.
    pub pending_bytes_max: u64,
    /// The free bytes on the file system of the log below which writes are rejected.
    pub disk_free_min: u64,
    /// The maximum number of open streams.
    pub streams_open_max: usize,
    /// The maximum number of calls in progress, including streams but not `Check` of health.
    pub concurrent_calls_max: usize,
    /// The memory in bytes for arriving requests, reads in progress and unread responses.
    pub call_bytes_max: usize,
    /// The maximum number of open connections. It is lower if the limit on open files is too low.
    pub connections_max: usize,
    /// The maximum number of open connections from one address that is not a loopback address.
    pub connections_per_address_max: usize,
}

impl Default for LimitsConfig {
    fn default() -> LimitsConfig {
        LimitsConfig {
            append_events_max: 500,
            append_bytes_max: 8 << 20,
            event_bytes_max: 1_000_000,
            snapshot_bytes_max: 1_000_000,
            id_bytes_max: 255,
            type_bytes_max: 255,
            metadata_entries_max: 64,
            metadata_value_bytes_max: 4096,
            expected_sequences_max: 1000,
            types_max: 10_000,
            calls_waiting_max: 10_000,
            calls_waiting_bytes_max: 256 << 20,
            pending_events_max: 1_000_000,
            pending_bytes_max: 4 << 30,
            disk_free_min: 512 << 20,
            streams_open_max: 1000,
            concurrent_calls_max: 20_000,
            call_bytes_max: 384 << 20,
            connections_max: 10_000,
            connections_per_address_max: 1000,
        }
    }
}

impl LimitsConfig {
    /// Returns the size of the largest event or snapshot in bytes, with its ids, types and
    /// metadata.
    pub fn largest_record(&self) -> usize {
        const OWN_BYTES: usize = 4096;
        const KEY_BYTES: usize = NAME_BYTES_MAX + 16;
        let metadata = self.metadata_entries_max * (self.metadata_value_bytes_max + KEY_BYTES);
        self.event_bytes_max.max(self.snapshot_bytes_max) + metadata + OWN_BYTES
    }

    /// Returns the size of the largest request in bytes: an append or a snapshot, with everything
    /// that it may contain besides its data.
    pub fn largest_request(&self) -> usize {
        const OVERHEAD_BYTES: usize = 1024 * 1024;
        const EXPECTATION_BYTES: usize = 280;
        let expectations = self.expected_sequences_max.saturating_mul(EXPECTATION_BYTES);
        self.append_bytes_max.max(self.snapshot_bytes_max) + expectations + OVERHEAD_BYTES
    }

    /// Returns the memory that the largest request needs. A compressed request is in memory as
    /// received, and twice more while the buffer for the decompressed data grows.
    pub fn largest_request_in_memory(&self) -> usize {
        const COPIES: usize = 3;
        const UNPACKED_AT_ONCE: usize = 128 * 1024;
        self.largest_request() * COPIES + UNPACKED_AT_ONCE
    }

    /// Returns the smallest `call_bytes_max` with which a single client can send the largest
    /// request. The answer to it has its own part of the budget, which is always large enough.
    pub fn call_bytes_min(&self) -> usize {
        // Large requests may use three eighths of the budget. A client that is alone may use four
        // fifths of that. Fractions are rounded down.
        const ROUNDED: usize = 100;
        self.largest_request_in_memory().div_ceil(3) * 10 + ROUNDED
    }

    pub(super) fn check_call_bytes(&self) -> Result<(), ConfigError> {
        let needed = self.call_bytes_min();
        if needed <= self.call_bytes_max {
            return Ok(());
        }
        Err(ConfigError::Invalid {
            key: "limits.call_bytes_max".into(),
            variable: None,
            found: self.call_bytes_max.to_string(),
            expected: format!(
                "at least {needed}, because the largest request allowed by limits.append_bytes_max ({}), \
                 snapshot_bytes_max ({}) and expected_sequences_max ({}) must fit",
                self.append_bytes_max, self.snapshot_bytes_max, self.expected_sequences_max
            ),
        })
    }

    /// Checks that one event or snapshot, with its ids, types and metadata, fits into a message of
    /// 4 MiB, the maximum that clients accept by default.
    pub(super) fn check_message(&self) -> Result<(), ConfigError> {
        const MESSAGE_BYTES_MAX: usize = 4_000_000;
        let largest = self.largest_record();
        if largest <= MESSAGE_BYTES_MAX {
            return Ok(());
        }
        Err(ConfigError::Invalid {
            key: "limits.metadata_value_bytes_max".into(),
            variable: None,
            found: format!(
                "{} with metadata_entries_max {}",
                self.metadata_value_bytes_max, self.metadata_entries_max
            ),
            expected: format!(
                "lower limits: the largest event or snapshot would have {largest} bytes, and at most \
                 {MESSAGE_BYTES_MAX} are allowed"
            ),
        })
    }
}

/// The section `logging`: the log output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoggingConfig {
    /// The directory of `system.log`.
    pub path: PathBuf,
    /// The level, in the syntax of [`crate::telemetry::log_filter()`].
    pub level: String,
    /// The size in bytes after which `system.log` is rotated.
    pub file_bytes_max: usize,
    /// The maximum number of files, including `system.log` itself.
    pub files_max: usize,
}

impl Default for LoggingConfig {
    fn default() -> LoggingConfig {
        LoggingConfig { path: "logs".into(), level: "info".into(), file_bytes_max: 10 << 20, files_max: 5 }
    }
}

/// Serialization of a path that may be missing. In YAML, an empty string means that it is.
mod optional_path {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_deref().unwrap_or(Path::new("")).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        let path = PathBuf::deserialize(deserializer)?;
        Ok(Some(path).filter(|path| !path.as_os_str().is_empty()))
    }
}

/// Serialization of a text that may be missing. In YAML, an empty string means that it is.
mod optional_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
        text.as_deref().unwrap_or_default().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<String>, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }
}

/// Modes of files, as octal text. In YAML, an empty string means that there is none.
pub(super) mod file_mode {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    const OWNER: u32 = 0o600;
    const READABLE: u32 = 0o644;

    /// Returns the mode, if it lets the owner read and write, and others at most read.
    pub(in crate::config) fn parse(text: &str) -> Option<u32> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let is_octal = !digits.is_empty() && digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        let mode = is_octal.then(|| u32::from_str_radix(digits, 8).ok()).flatten()?;
        (mode & OWNER == OWNER && mode & !READABLE == 0).then_some(mode)
    }

    pub(super) fn serialize<S: Serializer>(mode: &Option<u32>, serializer: S) -> Result<S::Ok, S::Error> {
        mode.map(|mode| format!("{mode:04o}")).unwrap_or_default().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        parse(&text).map(Some).ok_or_else(|| D::Error::custom("not a mode"))
    }
}

/// Serialization of durations as seconds, with fractions. Used only in YAML.
mod seconds {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(time.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map_err(D::Error::custom)
    }
}
