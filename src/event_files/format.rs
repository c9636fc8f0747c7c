//! Events and snapshots as readable JSON files.
//!
//! A file contains everything that the record holds, so that the same bytes can be restored from
//! it.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::event::{
    AggregateId, AppendBounds, ChainHash, Content, ContentDigest, EventId, NewEvent, Position, RecordedEvent,
    SequenceNumber, Snapshot, check_name, time,
};

/// The contents of `{sequence_number}.event`.
#[derive(Debug, Serialize, Deserialize)]
struct EventFile {
    event_id: String,
    aggregate_id: String,
    aggregate_type: String,
    event_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    json: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    json_text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    binary_base64: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    correlation_id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    causation_id: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    occurred_at: Option<String>,
    sequence_number: u64,
    position: u64,
    recorded_at: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    recorded_by: String,
    append_first_position: u64,
    append_last_position: u64,
    content_digest: String,
    hash: String,
}

/// The contents of `{aggregate_id}.snapshot`.
#[derive(Debug, Serialize, Deserialize)]
struct SnapshotFile {
    aggregate_id: String,
    sequence_number: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    json: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    json_text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    binary_base64: Option<String>,
    schema_version: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    recorded_at: String,
    event_hash: String,
}

/// At most one of the three is set. JSON is embedded in the file unchanged if that preserves every
/// byte. Otherwise it is stored as text: if it is surrounded by white space, or if it is `null`,
/// which would be read as absent.
type ContentFields = (Option<Box<RawValue>>, Option<String>, Option<String>);

fn to_fields(content: Content) -> ContentFields {
    match content {
        Content::Absent => (None, None, None),
        Content::Binary(bytes) => (None, None, Some(STANDARD.encode(&bytes))),
        Content::Json(text) if text.trim_ascii().len() != text.len() || text == "null" => {
            (None, Some(text), None)
        }
        Content::Json(text) => match RawValue::from_string(text.clone()) {
            Ok(json) => (Some(json), None, None),
            Err(_) => (None, Some(text), None),
        },
    }
}

fn from_fields(fields: ContentFields) -> Option<Content> {
    match fields {
        (None, None, None) => Some(Content::Absent),
        (Some(json), None, None) => Some(Content::Json(json.get().to_owned())),
        (None, Some(text), None) => Some(Content::Json(text)),
        (None, None, Some(text)) => STANDARD.decode(text).ok().map(|bytes| Content::Binary(bytes.into())),
        _ => None,
    }
}

/// Formats the contents of an event file.
pub fn write_event(recorded: RecordedEvent) -> Vec<u8> {
    let event = recorded.event;
    let (json, json_text, binary_base64) = to_fields(event.content);
    let file = EventFile {
        event_id: event.id.to_string(),
        aggregate_id: event.aggregate_id.to_string(),
        aggregate_type: event.aggregate_type.to_string(),
        event_type: event.event_type.to_string(),
        json,
        json_text,
        binary_base64,
        correlation_id: event.correlation_id,
        causation_id: event.causation_id,
        metadata: event.metadata,
        occurred_at: event.occurred_at.map(time::format),
        sequence_number: recorded.sequence.0,
        position: recorded.position.0,
        recorded_at: time::format(recorded.recorded_at),
        recorded_by: recorded.recorded_by.to_string(),
        append_first_position: recorded.append.first.0,
        append_last_position: recorded.append.last.0,
        content_digest: hex::encode(recorded.digest.0),
        hash: recorded.hash.to_string(),
    };
    to_lines(&file)
}

/// Parses an event file. Returns `None` if it is not a valid one.
pub fn read_event(bytes: &[u8]) -> Option<RecordedEvent> {
    let file: EventFile = serde_json::from_slice(bytes).ok()?;
    check_name(&file.event_type).ok()?;
    Some(RecordedEvent {
        event: NewEvent {
            id: EventId::parse(&file.event_id)?,
            aggregate_id: AggregateId::new(&file.aggregate_id).ok()?,
            aggregate_type: file.aggregate_type.into(),
            event_type: file.event_type.into(),
            content: from_fields((file.json, file.json_text, file.binary_base64))?,
            correlation_id: file.correlation_id,
            causation_id: file.causation_id,
            metadata: file.metadata,
            occurred_at: match file.occurred_at {
                None => None,
                Some(text) => Some(time::parse(&text)?),
            },
        },
        sequence: SequenceNumber(file.sequence_number),
        position: Position(file.position),
        recorded_at: time::parse(&file.recorded_at)?,
        recorded_by: file.recorded_by.into(),
        append: AppendBounds {
            first: Position(file.append_first_position),
            last: Position(file.append_last_position),
        },
        digest: ContentDigest(hex::decode(file.content_digest).ok()?.try_into().ok()?),
        hash: ChainHash::from_hex(&file.hash)?,
    })
}

/// Formats the contents of a snapshot file.
pub fn write_snapshot(snapshot: Snapshot) -> Vec<u8> {
    let (json, json_text, binary_base64) = to_fields(snapshot.content);
    let file = SnapshotFile {
        aggregate_id: snapshot.aggregate_id.to_string(),
        sequence_number: snapshot.sequence.0,
        json,
        json_text,
        binary_base64,
        schema_version: snapshot.schema_version,
        metadata: snapshot.metadata,
        recorded_at: time::format(snapshot.recorded_at),
        event_hash: snapshot.event_hash.to_string(),
    };
    to_lines(&file)
}

/// Parses a snapshot file. Returns `None` if it is not a valid one.
pub fn read_snapshot(bytes: &[u8]) -> Option<Snapshot> {
    let file: SnapshotFile = serde_json::from_slice(bytes).ok()?;
    Some(Snapshot {
        aggregate_id: AggregateId::new(&file.aggregate_id).ok()?,
        sequence: SequenceNumber(file.sequence_number),
        content: from_fields((file.json, file.json_text, file.binary_base64))?,
        schema_version: file.schema_version,
        metadata: file.metadata,
        recorded_at: time::parse(&file.recorded_at)?,
        event_hash: ChainHash::from_hex(&file.event_hash)?,
    })
}

fn to_lines(file: &impl Serialize) -> Vec<u8> {
    // Serializing these types cannot fail.
    let mut lines = serde_json::to_vec_pretty(file).unwrap_or_default();
    lines.push(b'\n');
    lines
}
