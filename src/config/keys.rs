//! The table of all keys with their allowed values, and the check of a parsed file against it.
//!
//! The check works on parsed YAML, before it becomes a `Config`. Only there are the path and the
//! value of an error still known, and values from the environment follow the same rules as values
//! from the file. Values that pass the check fit the types of the sections.

use std::fmt;
use std::net::Ipv6Addr;

use serde_yaml::{Mapping, Value};

use super::{ConfigError, sections::file_mode};
use crate::{proof::is_key_name, telemetry::log_filter};

mod anchors;
mod listen;
mod player_names;
mod tls;

pub(super) struct Key {
    /// Section and name, such as `server.listen`.
    pub path: &'static str,
    pub kind: ValueKind,
}

pub(super) enum ValueKind {
    Flag,
    Count { min: u64, max: u64 },
    Bytes { min: u64, max: u64 },
    Seconds { min: f64, max: f64 },
    Thresholds,
    Text,
    Password,
    Folder,
    File,
    OptionalFile,
    FileMode,
    Listen,
    ServerTls,
    ImmudbTls,
    ClientCertificates,
    Role,
    Host,
    Database,
    Contact,
    RawAppends,
    PlayerNames,
    LogLevel,
    Origin,
    Anchors,
}

const THRESHOLD_MAX: u64 = 1_000_000_000;
/// The longest path on Linux, without the terminating NUL.
const PATH_BYTES_MAX: usize = 4095;
/// Leaves room for the number of a generation.
const ORIGIN_BYTES_MAX: usize = 200;
const ROLE_BYTES_MAX: usize = 64;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

pub(super) const KEYS: &[Key] = &[
    key("server.listen", ValueKind::Listen),
    key("server.tls", ValueKind::ServerTls),
    key("server.shutdown_grace", seconds(0.0, 3600.0)),
    key("server.first_call_max", seconds(0.5, 3600.0)),
    key("server.request_max", seconds(0.5, 3600.0)),
    key("server.unread_max", seconds(0.5, 86_400.0)),
    key("server.group_readable", ValueKind::Flag),
    key("server.core_dumps", ValueKind::Flag),
    key("access.file", ValueKind::OptionalFile),
    key("access.anonymous", ValueKind::Role),
    key("access.allow_cleartext", ValueKind::Flag),
    key("access.log_writes", ValueKind::Flag),
    key("access.log_reads", ValueKind::Flag),
    key("event_sourcing.enabled", ValueKind::Flag),
    key("event_sourcing.snapshot_threshold", count(1, THRESHOLD_MAX)),
    key("event_sourcing.snapshot_thresholds", ValueKind::Thresholds),
    key("event_sourcing.snapshot_thresholds_by_id", ValueKind::Thresholds),
    key("event_sourcing.storage_path", ValueKind::Folder),
    key("event_sourcing.log_path", ValueKind::Folder),
    key("event_sourcing.index_path", ValueKind::Folder),
    key("event_sourcing.event_files", ValueKind::Flag),
    key("event_sourcing.event_files_max", count(0, 10_000_000)),
    key("event_sourcing.segment_bytes_max", bytes(MIB, GIB)),
    key("event_sourcing.log_failure_grace", seconds(0.0, 3600.0)),
    key("event_sourcing.clock_jump_max", seconds(1.0, 31_536_000.0)),
    key("world.enabled", ValueKind::Flag),
    key("world.raw_appends", ValueKind::RawAppends),
    key("world.player_names", ValueKind::PlayerNames),
    key("world.states_path", ValueKind::Folder),
    key("world.read_models_path", ValueKind::File),
    key("world.read_models_mode", ValueKind::FileMode),
    key("world.read_models_wal_max", bytes(MIB, GIB)),
    key("immudb.address", ValueKind::Host),
    key("immudb.port", count(1, 65_535)),
    key("immudb.tls", ValueKind::ImmudbTls),
    key("immudb.username", ValueKind::Text),
    key("immudb.password", ValueKind::Password),
    key("immudb.password_file", ValueKind::OptionalFile),
    key("immudb.database", ValueKind::Database),
    key("immudb.public_key_file", ValueKind::OptionalFile),
    key("immudb.require_contact", ValueKind::Contact),
    key("immudb.require_first_contact", ValueKind::Flag),
    key("immudb.retry_count", count(1, 1000)),
    key("immudb.retry_delay", seconds(0.001, 60.0)),
    key("immudb.retry_delay_max", seconds(0.001, 3600.0)),
    key("immudb.fallback_after", seconds(0.05, 60.0)),
    key("immudb.connect_timeout", seconds(0.1, 60.0)),
    key("immudb.request_timeout", seconds(0.1, 600.0)),
    // ImmuDB closes a session after 100 seconds of silence.
    key("immudb.keep_alive", seconds(1.0, 99.0)),
    // An event takes two keys, and every transaction also contains the head.
    key("immudb.batch_keys_max", count(3, 1000)),
    key("immudb.batch_bytes_max", bytes(1, 16 * MIB)),
    // At least the size of ImmuDB's largest transaction, so that everything stored can be read
    // back.
    key("immudb.response_bytes_max", bytes(32 * MIB, GIB)),
    key("proof.origin", ValueKind::Origin),
    key("proof.key_file", ValueKind::File),
    key("proof.new_key", ValueKind::Flag),
    key("proof.checkpoint_every", seconds(0.0, 86_400.0)),
    key("proof.anchors", ValueKind::Anchors),
    key("audit.events_per_second", count(0, 10_000_000)),
    key("limits.append_events_max", count(1, 500)),
    key("limits.append_bytes_max", bytes(1, 8 * MIB)),
    key("limits.event_bytes_max", bytes(1, 3 * MIB)),
    key("limits.snapshot_bytes_max", bytes(1, 3 * MIB)),
    key("limits.id_bytes_max", bytes(1, 255)),
    key("limits.type_bytes_max", bytes(1, 255)),
    key("limits.metadata_entries_max", count(0, 500)),
    key("limits.metadata_value_bytes_max", bytes(0, 32 * KIB)),
    key("limits.expected_sequences_max", count(1, 100_000)),
    key("limits.types_max", count(1, 1_000_000)),
    key("limits.calls_waiting_max", count(1, 1_000_000)),
    key("limits.calls_waiting_bytes_max", bytes(1, 16 * GIB)),
    key("limits.pending_events_max", count(1, 1_000_000_000)),
    key("limits.pending_bytes_max", bytes(1, TIB)),
    key("limits.disk_free_min", bytes(0, 1024 * TIB)),
    key("limits.streams_open_max", count(1, 100_000)),
    key("limits.concurrent_calls_max", count(1, 1_000_000)),
    // The largest request must fit. That depends on other keys and is checked separately.
    key("limits.call_bytes_max", bytes(64 * MIB, 16 * GIB)),
    key("limits.connections_max", count(1, 1_000_000)),
    key("limits.connections_per_address_max", count(1, 1_000_000)),
    key("logging.path", ValueKind::Folder),
    key("logging.level", ValueKind::LogLevel),
    key("logging.file_bytes_max", bytes(4 * KIB, GIB)),
    key("logging.files_max", count(1, 1000)),
];

/// Keys of earlier versions, and the keys that replace them.
pub(super) const REMOVED: &[(&str, &str)] = &[
    ("limits.receiving_bytes_max", "limits.call_bytes_max"),
    ("limits.unread_bytes_max", "limits.call_bytes_max"),
];

const fn key(path: &'static str, kind: ValueKind) -> Key {
    Key { path, kind }
}

const fn count(min: u64, max: u64) -> ValueKind {
    ValueKind::Count { min, max }
}

const fn bytes(min: u64, max: u64) -> ValueKind {
    ValueKind::Bytes { min, max }
}

const fn seconds(min: f64, max: f64) -> ValueKind {
    ValueKind::Seconds { min, max }
}

/// Checks that every key is known and that its value is allowed.
pub(super) fn check(file: &Mapping) -> Result<(), ConfigError> {
    for (section, keys) in file {
        if section.as_str() == Some("<<") {
            return Err(ConfigError::MergeKey);
        }
        check_section(section, keys)?;
    }
    Ok(())
}

fn check_section(section: &Value, keys: &Value) -> Result<(), ConfigError> {
    let known = KEYS.iter().filter_map(|key| key.path.split_once('.'));
    let Some(section) = section.as_str().filter(|name| known.clone().any(|(section, _)| section == *name))
    else {
        let mut sections: Vec<_> = known.map(|(section, _)| section).collect();
        sections.dedup();
        return Err(ConfigError::UnknownKey { key: shown_name(section), known: sections });
    };
    let Value::Mapping(keys) = keys else {
        return Err(ConfigError::Invalid {
            key: section.into(),
            variable: None,
            // Not shown: it may be a password that was indented incorrectly.
            found: shape(keys).into(),
            expected: "a mapping of keys to values".into(),
        });
    };
    for (name, value) in keys {
        if name.as_str() == Some("<<") {
            return Err(ConfigError::MergeKey);
        }
        let path = name.as_str().map(|name| format!("{section}.{name}"));
        if let Some((key, instead)) = REMOVED.iter().find(|(key, _)| Some(*key) == path.as_deref()) {
            return Err(ConfigError::RemovedKey { key: (*key).to_owned(), instead: (*instead).to_owned() });
        }
        let Some(key) = KEYS.iter().find(|key| Some(key.path) == path.as_deref()) else {
            return Err(ConfigError::UnknownKey {
                key: shown_key(section, name, value),
                known: known.filter(|(other, _)| *other == section).map(|(_, name)| name).collect(),
            });
        };
        key.check(value)?;
    }
    Ok(())
}

impl Key {
    fn check(&self, value: &Value) -> Result<(), ConfigError> {
        if let (ValueKind::Thresholds, Value::Mapping(thresholds)) = (&self.kind, value) {
            return self.check_thresholds(thresholds);
        }
        if let (ValueKind::Anchors, Value::Sequence(anchors)) = (&self.kind, value) {
            return anchors::check(self.path, anchors);
        }
        match self.kind {
            ValueKind::Listen => return listen::check(self.path, value),
            ValueKind::ServerTls => return tls::check(self.path, &tls::SERVER, value),
            ValueKind::ImmudbTls => return tls::check(self.path, &tls::IMMUDB, value),
            ValueKind::PlayerNames => return player_names::check(self.path, value),
            _ => {}
        }
        if self.kind.accepts(value) {
            return Ok(());
        }
        Err(self.invalid(self.path.into(), value, self.kind.to_string()))
    }

    fn check_thresholds(&self, thresholds: &Mapping) -> Result<(), ConfigError> {
        let kind = count(1, THRESHOLD_MAX);
        for (name, threshold) in thresholds {
            let Value::String(name) = name else {
                let expected = "names (quote names that look like numbers)".into();
                return Err(self.invalid(self.path.into(), name, expected));
            };
            if !kind.accepts(threshold) {
                let path = format!("{}.{name}", self.path);
                return Err(self.invalid(path, threshold, kind.to_string()));
            }
        }
        Ok(())
    }

    fn invalid(&self, key: String, value: &Value, expected: String) -> ConfigError {
        let found = match self.kind {
            ValueKind::Password => shape(value).into(),
            _ => shown_value(value),
        };
        ConfigError::Invalid { key, variable: None, found, expected }
    }
}

impl ValueKind {
    /// Returns whether a value from the environment is taken as text and not parsed as YAML.
    pub(super) fn is_text(&self) -> bool {
        match self {
            ValueKind::Flag
            | ValueKind::Count { .. }
            | ValueKind::Bytes { .. }
            | ValueKind::Seconds { .. }
            | ValueKind::Thresholds
            | ValueKind::ServerTls
            | ValueKind::ImmudbTls
            | ValueKind::PlayerNames
            | ValueKind::Anchors => false,
            ValueKind::Text
            | ValueKind::Password
            | ValueKind::Folder
            | ValueKind::File
            | ValueKind::OptionalFile
            | ValueKind::FileMode
            | ValueKind::Listen
            | ValueKind::ClientCertificates
            | ValueKind::Role
            | ValueKind::Host
            | ValueKind::Database
            | ValueKind::Contact
            | ValueKind::RawAppends
            | ValueKind::LogLevel
            | ValueKind::Origin => true,
        }
    }

    fn accepts(&self, value: &Value) -> bool {
        match (self, value) {
            (ValueKind::Flag, Value::Bool(_)) => true,
            (ValueKind::Count { min, max } | ValueKind::Bytes { min, max }, Value::Number(number)) => {
                number.as_u64().is_some_and(|number| (*min..=*max).contains(&number))
            }
            (ValueKind::Seconds { min, max }, Value::Number(number)) => {
                number.as_f64().is_some_and(|number| (*min..=*max).contains(&number))
            }
            (kind, Value::String(text)) => kind.accepts_text(text),
            _ => false,
        }
    }

    fn accepts_text(&self, text: &str) -> bool {
        // The value in the environment was not valid UTF-8.
        if text.contains(char::REPLACEMENT_CHARACTER) {
            return false;
        }
        match self {
            ValueKind::Text => !text.is_empty(),
            // A trailing newline probably comes from a file that was read without trimming it.
            ValueKind::Password => !text.is_empty() && !text.ends_with(['\n', '\r']),
            ValueKind::Folder | ValueKind::File => {
                (1..=PATH_BYTES_MAX).contains(&text.len()) && !text.contains('\0')
            }
            // An empty text means that there is no file.
            ValueKind::OptionalFile => text.len() <= PATH_BYTES_MAX && !text.contains('\0'),
            ValueKind::FileMode => text.is_empty() || file_mode::parse(text).is_some(),
            ValueKind::ClientCertificates => ["optional", "required"].contains(&text),
            ValueKind::Role => text.is_empty() || is_role(text),
            ValueKind::Host => is_host(text),
            ValueKind::Database => is_database(text),
            ValueKind::Contact => ["never", "empty", "unclean"].contains(&text),
            ValueKind::RawAppends => ["checked", "refused", "unchecked"].contains(&text),
            ValueKind::LogLevel => log_filter(text).is_some(),
            // An empty text means that the service makes a name.
            ValueKind::Origin => text.is_empty() || (text.len() <= ORIGIN_BYTES_MAX && is_key_name(text)),
            ValueKind::Flag
            | ValueKind::Count { .. }
            | ValueKind::Bytes { .. }
            | ValueKind::Seconds { .. }
            | ValueKind::Thresholds
            | ValueKind::Listen
            | ValueKind::ServerTls
            | ValueKind::ImmudbTls
            | ValueKind::PlayerNames
            | ValueKind::Anchors => false,
        }
    }
}

impl fmt::Display for ValueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueKind::Flag => f.write_str("true or false"),
            ValueKind::Count { min, max } => write!(f, "a whole number from {min} to {max}"),
            ValueKind::Bytes { min, max } => write!(f, "a number of bytes from {min} to {max}"),
            ValueKind::Seconds { min, max } => write!(f, "a number of seconds from {min} to {max}"),
            ValueKind::Thresholds => f.write_str("a mapping of names to numbers, for example { Room: 500 }"),
            ValueKind::Text => f.write_str("text (quote it if it looks like a number or a flag)"),
            ValueKind::Password => {
                f.write_str("text without a trailing newline (quote it if it looks like a number or a flag)")
            }
            ValueKind::Folder => write!(f, "a directory path of at most {PATH_BYTES_MAX} bytes"),
            ValueKind::File => write!(f, "a file path of at most {PATH_BYTES_MAX} bytes"),
            ValueKind::OptionalFile => {
                write!(f, "a file path of at most {PATH_BYTES_MAX} bytes, or an empty string for none")
            }
            ValueKind::FileMode => f.write_str(
                "an octal mode that lets the owner read and write and others at most read, for example \
                 \"0644\", or an empty string",
            ),
            ValueKind::Listen => f.write_str(listen::EXPECTED),
            ValueKind::ServerTls | ValueKind::ImmudbTls => f.write_str(tls::EXPECTED),
            ValueKind::ClientCertificates => f.write_str("optional or required"),
            ValueKind::Role => write!(
                f,
                "the name of a role (at most {ROLE_BYTES_MAX} letters, digits, hyphens and underscores), or \
                 an empty string"
            ),
            ValueKind::Host => f.write_str("a host name or IP address without a port"),
            ValueKind::Database => {
                f.write_str("1 to 128 lowercase letters, digits and underscores; not defaultdb or systemdb")
            }
            ValueKind::Contact => f.write_str("never, empty or unclean"),
            ValueKind::RawAppends => f.write_str("checked, refused or unchecked"),
            ValueKind::PlayerNames => f.write_str(player_names::EXPECTED),
            ValueKind::LogLevel => {
                f.write_str("off, error, warn, info, debug or trace, or a list such as info,tonic=warn")
            }
            ValueKind::Origin => write!(
                f,
                "at most {ORIGIN_BYTES_MAX} bytes without spaces, plus signs and control characters, or an \
                 empty string"
            ),
            ValueKind::Anchors => f.write_str("a list, for example [{ file: /mnt/anchors/checkpoints }]"),
        }
    }
}

fn is_host(text: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    text.parse::<Ipv6Addr>().is_ok() || (1..=255).contains(&text.len()) && text.bytes().all(is_name)
}

fn is_role(text: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    text.len() <= ROLE_BYTES_MAX && text.bytes().all(is_name)
}

fn is_database(text: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=128).contains(&text.len()) && text.bytes().all(is_name) && !["defaultdb", "systemdb"].contains(&text)
}

/// Returns the path of an unknown key. An unquoted password that contains a comma or a colon is
/// parsed as keys, so a name that may be part of a password is hidden.
fn shown_key(section: &str, name: &Value, value: &Value) -> String {
    let holds_secrets = KEYS.iter().any(|key| {
        matches!(key.kind, ValueKind::Password)
            && key.path.split_once('.').map(|(section, _)| section) == Some(section)
    });
    match value {
        Value::Null if holds_secrets => format!("{section}.***"),
        _ => format!("{section}.{}", shown_name(name)),
    }
}

fn shown_name(name: &Value) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match name {
        Value::String(name) if name.len() <= 64 && name.bytes().all(is_plain) => name.clone(),
        _ => "***".into(),
    }
}

/// Formats a value for an error message. Text with an `@` is hidden, because an address may be a
/// URL that contains a password.
fn shown_value(value: &Value) -> String {
    match value {
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.len() <= 100 && !text.contains('@') => format!("{text:?}"),
        _ => shape(value).into(),
    }
}

fn shape(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a flag",
        Value::Number(_) => "a number",
        Value::String(text) if text.is_empty() => "an empty string",
        Value::String(_) => "a string",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a mapping",
        Value::Tagged(_) => "a tagged value",
    }
}

#[cfg(test)]
mod tests;
