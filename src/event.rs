//! The values that all other modules use: ids, numbers, hashes, events, snapshots.
//!
//! They are valid by construction. Their limits are checked once, where a request, a file or a
//! record is read, and never again. [`record`] defines the stored bytes. Nothing here depends on
//! gRPC, the disk or ImmuDB.

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

/// The maximum number of events in one append. With their `sequence:` keys and the head they always
/// fit into one transaction of ImmuDB, which has at most 1024 keys.
pub const APPEND_EVENTS_MAX: usize = 500;

/// The maximum length of an id or a type, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// An event as sent by a client, after validation.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// The id, which a retry repeats.
    pub id: EventId,
    /// The aggregate that the event belongs to.
    pub aggregate_id: AggregateId,
    /// If empty, the type of the aggregate's first event applies.
    pub aggregate_type: Arc<str>,
    /// The type, for example `RoomCreated`. Never empty.
    pub event_type: Arc<str>,
    /// The data of the event.
    pub content: Content,
    /// Groups the events of one player request. Empty if not given.
    pub correlation_id: String,
    /// The command or event that caused this one. Empty if not given.
    pub causation_id: String,
    /// Metadata of the application, by key.
    pub metadata: BTreeMap<String, String>,
    /// The time in the game's own terms, stored as given.
    pub occurred_at: Option<Timestamp>,
}

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedEvent {
    /// The event as sent. Its aggregate type is never empty.
    pub event: NewEvent,
    /// The number within the aggregate, from 1 on.
    pub sequence: SequenceNumber,
    /// The number in the order of all events, from 1 on.
    pub position: Position,
    /// When the event was stored. Never decreases from one position to the next.
    pub recorded_at: Timestamp,
    /// The name of the identity that appended the event, as set by the service. Empty if access
    /// control was off. It does not distinguish a retry from another event.
    pub recorded_by: Arc<str>,
    /// The positions of the append that contains this event.
    pub append: AppendBounds,
    /// The digest of the data that the client sent.
    pub digest: ContentDigest,
    /// The chain hash up to and including this event.
    pub hash: ChainHash,
}

/// The state of an aggregate after one of its events, as computed by the game.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The aggregate that has this state.
    pub aggregate_id: AggregateId,
    /// The last event that the state includes.
    pub sequence: SequenceNumber,
    /// The state.
    pub content: Content,
    /// The version of the client's schema of the state.
    pub schema_version: u32,
    /// Metadata of the application, by key.
    pub metadata: BTreeMap<String, String>,
    /// When the snapshot was stored.
    pub recorded_at: Timestamp,
    /// The chain hash of the last event that the snapshot includes.
    pub event_hash: ChainHash,
}

/// The contents of an event or a snapshot. They are never interpreted, except to check that JSON is
/// valid.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Content {
    /// No contents were given.
    #[default]
    Absent,
    /// JSON text, exactly as sent.
    Json(String),
    /// Arbitrary bytes.
    Binary(Bytes),
}

impl Content {
    /// Returns the size in bytes; 0 if the contents are absent.
    pub fn byte_count(&self) -> usize {
        match self {
            Self::Absent => 0,
            Self::Json(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

impl fmt::Debug for Content {
    /// Shows only the kind and the size: contents must never appear in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Absent => "Absent",
            Self::Json(_) => "Json",
            Self::Binary(_) => "Binary",
        };
        write!(f, "{kind}({} bytes)", self.byte_count())
    }
}

/// The positions of the first and the last event of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendBounds {
    /// The position of the append's first event.
    pub first: Position,
    /// The position of the append's last event.
    pub last: Position,
}

impl AppendBounds {
    /// Returns the number of events in the append.
    pub fn event_count(self) -> u64 {
        self.last.0.saturating_sub(self.first.0).saturating_add(1)
    }
}

/// The id of an aggregate: 1 to 255 bytes of UTF-8 without control characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AggregateId(Arc<str>);

impl AggregateId {
    /// Ids that begin with this are reserved for the service. It records there, for example, what
    /// the operator decides (`aethyr:audit`).
    pub const RESERVED_PREFIX: &str = "aethyr:";

    /// The number of bytes before the dot in the encoded form of a long id.
    pub(crate) const ENCODED_PREFIX_BYTES: usize = 120;

    /// Creates an id from `text`.
    ///
    /// # Errors
    /// Returns an error that says what is wrong with `text`.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check_name(text).map(|()| Self(Arc::from(text)))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the id in the form used in file names and ImmuDB keys. All characters except ASCII
    /// letters, digits, `_` and `-` are percent-encoded. If the result is longer than 200 bytes, it
    /// is replaced by a prefix of it and the SHA-256 of the id.
    pub fn encoded(&self) -> String {
        const ENCODED_BYTES_MAX: usize = 200;
        const ESCAPED: &percent_encoding::AsciiSet =
            &percent_encoding::NON_ALPHANUMERIC.remove(b'_').remove(b'-');
        let encoded = percent_encoding::utf8_percent_encode(&self.0, ESCAPED).to_string();
        if encoded.len() <= ENCODED_BYTES_MAX {
            return encoded;
        }
        let digest = hex::encode(Sha256::digest(self.0.as_bytes()));
        let prefix: String = encoded.chars().take(Self::ENCODED_PREFIX_BYTES).collect();
        // The encoding never produces a dot, so no short id can look like this.
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

/// Why a text is not a valid id or type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("must not be empty")]
    Empty,
    /// The text is longer than `max`: [`NAME_BYTES_MAX`], or a lower limit of the configuration.
    #[error("has {bytes} bytes; at most {max} are allowed")]
    TooLong {
        /// The length of the text, in bytes.
        bytes: usize,
        /// The maximum length, in bytes.
        max: usize,
    },
    /// The text contains a control character.
    #[error("must not contain control characters")]
    ControlCharacter,
}

/// Checks the rule for ids and types: 1 to 255 bytes, no control characters.
///
/// # Errors
/// Returns an error that says which part of the rule `text` breaks.
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

/// The id of an event: a UUID, compared as 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Uuid);

impl EventId {
    /// Creates a random id: a UUID of version 4.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Parses a UUID in any of the usual text forms.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// Returns the bytes of the UUID, in the order of its text form.
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

/// The number of an event within its aggregate. The first is 1; 0 means that there is no event yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SequenceNumber(pub u64);

impl SequenceNumber {
    /// Returns the number of the aggregate's next event.
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

/// The number of an event in the order of all events. The first is 1; 0 means that there is no
/// event yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Position(pub u64);

impl Position {
    /// Returns the position of the next event in the order.
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

/// A chain hash: SHA-256 over the previous chain hash and the event's record. Its 32 bytes identify
/// the whole history up to that event.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChainHash(pub [u8; 32]);

impl ChainHash {
    /// The chain hash before the first event.
    pub const START: Self = Self([0; 32]);

    /// Returns the chain hash after `record`, where `self` is the chain hash before it.
    #[must_use]
    pub fn chain(self, record: &[u8]) -> Self {
        Self(Sha256::new().chain_update(self.0).chain_update(record).finalize().into())
    }

    /// Returns `None` unless there are exactly 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Returns `None` unless the text has exactly 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        hex::decode(text).ok().and_then(|bytes| Self::from_slice(&bytes))
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// SHA-256 of the data that a client sent for one event. It distinguishes a retry from a different
/// event with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentDigest(pub [u8; 32]);

impl ContentDigest {
    /// Covers every field except the id. Each field is preceded by its length, so that different
    /// events never produce the same input.
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

/// A time as in protobuf's `Timestamp`: seconds since 1970 (UTC) and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Timestamp {
    seconds: i64,
    nanos: u32,
}

impl Timestamp {
    const SECONDS_MIN: i64 = -62_135_596_800;
    const SECONDS_MAX: i64 = 253_402_300_799;

    /// Returns `None` if a value is out of range. The years 1 to 9999 are valid, as specified for
    /// `google.protobuf.Timestamp`.
    pub fn new(seconds: i64, nanos: i32) -> Option<Self> {
        let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
        (Self::SECONDS_MIN..=Self::SECONDS_MAX).contains(&seconds).then_some(Self { seconds, nanos })
    }

    /// Returns the time of the system's clock, but at least the start of 1970.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
    }

    /// Returns the whole seconds since 1970, rounded down; negative before 1970.
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    /// Returns the nanoseconds since 1970; negative before 1970.
    pub fn nanos_since_1970(self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos)
    }

    /// Returns the nearest time that can be represented.
    pub fn from_nanos_since_1970(nanos: i128) -> Self {
        let (seconds, nanos) = (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
        let seconds = seconds.clamp(Self::SECONDS_MIN.into(), Self::SECONDS_MAX.into());
        Self { seconds: i64::try_from(seconds).unwrap_or(0), nanos: u32::try_from(nanos).unwrap_or(0) }
    }

    /// Returns the nanoseconds after the whole seconds: 0 to 999,999,999.
    pub fn nanos(self) -> i32 {
        self.nanos.cast_signed()
    }
}

#[cfg(test)]
mod tests;
