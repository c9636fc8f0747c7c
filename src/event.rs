//! The values that everything else speaks of: ids, numbers, events, snapshots.
//!
//! They are legal by construction: the bounds are checked once, where a request, a file or a record
//! comes in, and nobody checks again. [`record`] gives the bytes that are stored; nothing here knows
//! of gRPC, of the disk or of ImmuDB.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub mod record;
pub mod time;

/// The most events that one append may have: with their `sequence:` keys and the head they always fit
/// into one transaction of ImmuDB (1024 keys).
pub const APPEND_EVENTS_MAX: usize = 500;

/// The longest id or type, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// An event as a caller hands it in, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    pub id: EventId,
    pub aggregate_id: AggregateId,
    /// Empty: that of the aggregate's first event.
    pub aggregate_type: Arc<str>,
    pub event_type: Arc<str>,
    pub content: Content,
    pub correlation_id: String,
    pub causation_id: String,
    pub metadata: BTreeMap<String, String>,
    pub occurred_at: Option<Timestamp>,
}

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedEvent {
    pub event: NewEvent,
    pub sequence: SequenceNumber,
    pub position: Position,
    pub recorded_at: Timestamp,
    /// The events that were appended together with this one.
    pub append: AppendBounds,
    /// Of what the caller sent.
    pub digest: ContentDigest,
    pub hash: Hash,
}

/// The state of an aggregate after one of its events, as the game made it.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub aggregate_id: AggregateId,
    pub sequence: SequenceNumber,
    pub content: Content,
    pub schema_version: u32,
    pub metadata: BTreeMap<String, String>,
    pub recorded_at: Timestamp,
    /// Hash of the last event that is included.
    pub event_hash: Hash,
}

/// What an event or a snapshot holds. Never looked into, but for the check that JSON is JSON.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Content {
    #[default]
    Absent,
    Json(String),
    Binary(Bytes),
}

impl Content {
    pub fn byte_count(&self) -> usize {
        match self {
            Self::Absent => 0,
            Self::Json(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

impl fmt::Debug for Content {
    /// Only the kind and the size: content never reaches a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Absent => "Absent",
            Self::Json(_) => "Json",
            Self::Binary(_) => "Binary",
        };
        write!(f, "{kind}({} bytes)", self.byte_count())
    }
}

/// Positions of the first and the last event of one append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendBounds {
    pub first: Position,
    pub last: Position,
}

impl AppendBounds {
    pub fn event_count(self) -> u64 {
        self.last.0.saturating_sub(self.first.0).saturating_add(1)
    }
}

/// Id of an aggregate: 1 to 255 bytes of UTF-8 without control characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AggregateId(Arc<str>);

impl AggregateId {
    /// # Errors
    /// Says what is wrong with `text`.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check_name(text).map(|()| Self(Arc::from(text)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as file names and ImmuDB's keys carry it: all but ASCII letters, digits, `_` and `-`
    /// percent-encoded; above 200 bytes a prefix of it and the SHA-256 of the id.
    pub fn encoded(&self) -> String {
        const ENCODED_BYTES_MAX: usize = 200;
        const PREFIX_BYTES: usize = 120;
        const ESCAPED: &percent_encoding::AsciiSet =
            &percent_encoding::NON_ALPHANUMERIC.remove(b'_').remove(b'-');
        let encoded = percent_encoding::utf8_percent_encode(&self.0, ESCAPED).to_string();
        if encoded.len() <= ENCODED_BYTES_MAX {
            return encoded;
        }
        let digest = hex::encode(Sha256::digest(self.0.as_bytes()));
        let prefix: String = encoded.chars().take(PREFIX_BYTES).collect();
        // A dot never comes out of the encoding, so no short id looks like this.
        format!("{prefix}.{digest}")
    }
}

impl TryFrom<String> for AggregateId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(&text)
    }
}

impl From<AggregateId> for String {
    fn from(id: AggregateId) -> Self {
        id.as_str().to_owned()
    }
}

impl fmt::Display for AggregateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AggregateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

/// Why a text is no name of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("must not be empty")]
    Empty,
    #[error("has {bytes} bytes, {max} are allowed")]
    TooLong { bytes: usize, max: usize },
    #[error("must not contain control characters")]
    ControlCharacter,
}

/// The rule for ids and types: 1 to 255 bytes, no control characters.
///
/// # Errors
/// Says which part of the rule `text` breaks.
pub fn check_name(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong { bytes: text.len(), max: NAME_BYTES_MAX });
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::ControlCharacter);
    }
    Ok(())
}

/// Id of an event: a UUID, compared as 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Uuid);

impl EventId {
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl From<Uuid> for EventId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// Number of an event in its aggregate; the first is 1, and 0 stands for "none yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SequenceNumber(pub u64);

impl SequenceNumber {
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of an event in the whole order; the first is 1, and 0 stands for "none yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Position(pub u64);

impl Position {
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The whole history up to one event, in 32 bytes: SHA-256 over the hash before it and its record.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash before the first event.
    pub const START: Self = Self([0; 32]);

    /// The hash of the history that `record` continues.
    #[must_use]
    pub fn chain(self, record: &[u8]) -> Self {
        Self(Sha256::new().chain_update(self.0).chain_update(record).finalize().into())
    }

    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub fn from_hex(text: &str) -> Option<Self> {
        hex::decode(text).ok().and_then(|bytes| Self::from_slice(&bytes))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// SHA-256 of what a caller sent for one event: tells a resend from another event with its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentDigest(pub [u8; 32]);

impl ContentDigest {
    /// Over every field but the id, each behind its length, so that no two events run together.
    pub fn of(event: &NewEvent) -> Self {
        let mut digest = Sha256::new();
        let mut field = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        field(event.aggregate_id.as_str().as_bytes());
        field(event.aggregate_type.as_bytes());
        field(event.event_type.as_bytes());
        match &event.content {
            Content::Absent => field(b"absent"),
            Content::Json(text) => {
                field(b"json");
                field(text.as_bytes());
            }
            Content::Binary(bytes) => {
                field(b"binary");
                field(bytes);
            }
        }
        field(event.correlation_id.as_bytes());
        field(event.causation_id.as_bytes());
        match event.occurred_at {
            None => field(b"at no time"),
            Some(at) => {
                field(b"at");
                field(&at.seconds.to_le_bytes());
                field(&at.nanos.to_le_bytes());
            }
        }
        for (key, value) in &event.metadata {
            field(key.as_bytes());
            field(value.as_bytes());
        }
        Self(digest.finalize().into())
    }
}

/// A moment as protobuf's `Timestamp` has it: seconds since 1970 (UTC) and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Timestamp {
    seconds: i64,
    nanos: u32,
}

impl Timestamp {
    const SECONDS_MIN: i64 = -62_135_596_800;
    const SECONDS_MAX: i64 = 253_402_300_799;

    /// From the year 1 to 9999, as `google.protobuf.Timestamp` says.
    pub fn new(seconds: i64, nanos: i32) -> Option<Self> {
        let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
        (Self::SECONDS_MIN..=Self::SECONDS_MAX).contains(&seconds).then_some(Self { seconds, nanos })
    }

    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
    }

    pub fn seconds(self) -> i64 {
        self.seconds
    }

    pub fn nanos_since_1970(self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos)
    }

    /// The nearest there is.
    pub fn from_nanos_since_1970(nanos: i128) -> Self {
        let (seconds, nanos) = (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
        let seconds = seconds.clamp(Self::SECONDS_MIN.into(), Self::SECONDS_MAX.into());
        Self { seconds: i64::try_from(seconds).unwrap_or(0), nanos: u32::try_from(nanos).unwrap_or(0) }
    }

    pub fn nanos(self) -> i32 {
        self.nanos.cast_signed()
    }
}

#[cfg(test)]
mod tests;
