//! Events and snapshots as bytes: protobuf, encoded once, and from then on copied, hashed and compared
//! as they are. The field numbers are in `proto/aethyr/storage/v1/record.proto`.

use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::{
    AggregateId, AppendBounds, Content, ContentDigest, EventId, Hash, NewEvent, Position, RecordedEvent,
    SequenceNumber, Snapshot, Timestamp, check_name,
};

mod stored;

pub use stored::StoredEvent;

mod wire {
    #![allow(clippy::all, reason = "generated")]
    tonic::include_proto!("aethyr.storage.v1");
}

/// What begins with this was written by Aethyr's own event store, in Ruby's Marshal format, version 4.8.
pub const RUBY_MARSHAL: [u8; 2] = [4, 8];

/// Bytes that are no record of ours, or one that breaks the rules of its fields.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a record: {what}")]
pub struct RecordError {
    what: &'static str,
}

const fn not(what: &'static str) -> RecordError {
    RecordError { what }
}

/// What the sequencer gives to an event.
#[derive(Debug, Clone, Copy)]
pub struct Numbers {
    pub sequence: SequenceNumber,
    pub position: Position,
    pub recorded_at: Timestamp,
    pub append: AppendBounds,
}

/// The record of a new event; `event` has its aggregate's type by now.
pub fn encode(event: NewEvent, numbers: Numbers, digest: ContentDigest) -> Bytes {
    let record = wire::Record {
        event_id: event.id.to_string(),
        aggregate_id: event.aggregate_id.as_str().to_owned(),
        aggregate_type: event.aggregate_type.as_ref().to_owned(),
        event_type: event.event_type.as_ref().to_owned(),
        data: match event.content {
            Content::Absent => None,
            Content::Json(text) => Some(wire::record::Data::Json(text)),
            Content::Binary(bytes) => Some(wire::record::Data::Binary(bytes)),
        },
        correlation_id: event.correlation_id,
        causation_id: event.causation_id,
        metadata: event.metadata,
        occurred_at: event.occurred_at.map(to_wire),
        sequence_number: numbers.sequence.0,
        position: numbers.position.0,
        recorded_at: Some(to_wire(numbers.recorded_at)),
        append_first_position: numbers.append.first.0,
        append_last_position: numbers.append.last.0,
        content_digest: Bytes::copy_from_slice(&digest.0),
    };
    Bytes::from(record.encode_to_vec())
}

/// The same bytes again out of a decoded event; what `import` compares and hashes.
pub fn encode_recorded(recorded: RecordedEvent) -> Bytes {
    let numbers = Numbers {
        sequence: recorded.sequence,
        position: recorded.position,
        recorded_at: recorded.recorded_at,
        append: recorded.append,
    };
    encode(recorded.event, numbers, recorded.digest)
}

/// # Errors
/// The bytes are no record, or one that breaks the rules of its fields.
pub fn decode(bytes: Bytes, hash: Hash) -> Result<RecordedEvent, RecordError> {
    let record = wire::Record::decode(bytes).map_err(|_| not("no protobuf of that kind"))?;
    let append = AppendBounds {
        first: Position(record.append_first_position),
        last: Position(record.append_last_position),
    };
    if record.sequence_number == 0
        || record.position == 0
        || !(append.first.0..=append.last.0).contains(&record.position)
    {
        return Err(not("numbers"));
    }
    check_name(&record.event_type).map_err(|_| not("event type"))?;
    check_name(&record.aggregate_type).map_err(|_| not("aggregate type"))?;
    Ok(RecordedEvent {
        event: NewEvent {
            id: EventId::parse(&record.event_id).ok_or(not("event id"))?,
            aggregate_id: AggregateId::new(&record.aggregate_id).map_err(|_| not("aggregate id"))?,
            aggregate_type: record.aggregate_type.into(),
            event_type: record.event_type.into(),
            content: match record.data {
                None => Content::Absent,
                Some(wire::record::Data::Json(text)) => Content::Json(text),
                Some(wire::record::Data::Binary(bytes)) => Content::Binary(bytes),
            },
            correlation_id: record.correlation_id,
            causation_id: record.causation_id,
            metadata: record.metadata,
            occurred_at: record.occurred_at.map(from_wire).transpose()?,
        },
        sequence: SequenceNumber(record.sequence_number),
        position: Position(record.position),
        recorded_at: from_wire(record.recorded_at.ok_or(not("time"))?)?,
        append,
        digest: ContentDigest(record.content_digest.as_ref().try_into().map_err(|_| not("content digest"))?),
        hash,
    })
}

pub fn encode_snapshot(snapshot: Snapshot) -> Bytes {
    let record = wire::SnapshotRecord {
        aggregate_id: snapshot.aggregate_id.as_str().to_owned(),
        sequence_number: snapshot.sequence.0,
        data: match snapshot.content {
            Content::Absent => None,
            Content::Json(text) => Some(wire::snapshot_record::Data::Json(text)),
            Content::Binary(bytes) => Some(wire::snapshot_record::Data::Binary(bytes)),
        },
        schema_version: snapshot.schema_version,
        metadata: snapshot.metadata,
        recorded_at: Some(to_wire(snapshot.recorded_at)),
        event_hash: Bytes::copy_from_slice(&snapshot.event_hash.0),
    };
    Bytes::from(record.encode_to_vec())
}

/// # Errors
/// The bytes are no snapshot, or one that breaks the rules of its fields.
pub fn decode_snapshot(bytes: Bytes) -> Result<Snapshot, RecordError> {
    let record = wire::SnapshotRecord::decode(bytes).map_err(|_| not("no protobuf of that kind"))?;
    if record.sequence_number == 0 {
        return Err(not("numbers"));
    }
    Ok(Snapshot {
        aggregate_id: AggregateId::new(&record.aggregate_id).map_err(|_| not("aggregate id"))?,
        sequence: SequenceNumber(record.sequence_number),
        content: match record.data {
            None => Content::Absent,
            Some(wire::snapshot_record::Data::Json(text)) => Content::Json(text),
            Some(wire::snapshot_record::Data::Binary(bytes)) => Content::Binary(bytes),
        },
        schema_version: record.schema_version,
        metadata: record.metadata,
        recorded_at: from_wire(record.recorded_at.ok_or(not("time"))?)?,
        event_hash: Hash::from_slice(&record.event_hash).ok_or(not("hash"))?,
    })
}

/// How far ImmuDB has the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ForwardedMark {
    /// It has every event up to here.
    pub position: Position,
    /// It has so many of the log's snapshots, counted from the first.
    pub snapshots: u64,
    /// The transaction that took the event at `position`.
    pub immudb_tx: u64,
}

pub fn encode_mark(mark: ForwardedMark) -> Bytes {
    let mark = wire::ForwardedMark {
        position: mark.position.0,
        snapshots: mark.snapshots,
        immudb_tx: mark.immudb_tx,
    };
    Bytes::from(mark.encode_to_vec())
}

/// # Errors
/// The bytes are no mark.
pub fn decode_mark(bytes: Bytes) -> Result<ForwardedMark, RecordError> {
    let mark = wire::ForwardedMark::decode(bytes).map_err(|_| not("no protobuf of that kind"))?;
    Ok(ForwardedMark {
        position: Position(mark.position),
        snapshots: mark.snapshots,
        immudb_tx: mark.immudb_tx,
    })
}

fn to_wire(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.seconds(), nanos: at.nanos() }
}

fn from_wire(at: prost_types::Timestamp) -> Result<Timestamp, RecordError> {
    Timestamp::new(at.seconds, at.nanos).ok_or(not("time"))
}
