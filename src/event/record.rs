//! Encodes events, snapshots and replication marks as protobuf bytes.
//!
//! A record is encoded once. From then on its bytes are copied, hashed and compared unchanged. The
//! field numbers are in `proto/aethyr/storage/v1/record.proto`.

use bytes::Bytes;
use prost::{
    Message,
    encoding::{self, WireType},
};
use serde::{Deserialize, Serialize};
use uuid::fmt::Hyphenated;

use super::{
    AggregateId, AppendBounds, ChainHash, Content, ContentDigest, EventId, NewEvent, Position, RecordedEvent,
    SequenceNumber, Snapshot, Timestamp, check_name,
};

mod stored;

pub use stored::{RecordHead, StoredEvent, recorded_by};

mod wire {
    #![allow(clippy::all, clippy::too_many_lines, missing_docs, unreachable_pub, reason = "generated")]
    tonic::include_proto!("aethyr.storage.v1");
}

/// The first bytes of values written by Aethyr's own event store: Ruby's Marshal format, version
/// 4.8.
pub const RUBY_MARSHAL: [u8; 2] = [4, 8];

/// Bytes that are not a valid record: they cannot be decoded, or a field is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid record: {what}")]
pub struct RecordError {
    what: &'static str,
}

const fn not(what: &'static str) -> RecordError {
    RecordError { what }
}

/// The values that the sequencer assigns to an event.
#[derive(Debug, Clone, Copy)]
pub struct EventNumbers {
    /// The number within the aggregate, from 1 on.
    pub sequence: SequenceNumber,
    /// The number in the order of all events, from 1 on.
    pub position: Position,
    /// When the event is stored.
    pub recorded_at: Timestamp,
    /// The positions of the append that contains the event.
    pub append: AppendBounds,
}

/// Encodes the record of a new event. `event` must already have its aggregate's type. `recorded_by`
/// is the name of the identity that appends it, or empty.
pub fn encode(event: &NewEvent, numbers: EventNumbers, digest: ContentDigest, recorded_by: &str) -> Bytes {
    const OTHER_BYTES: usize = 384;
    let mut record = Vec::with_capacity(event.content.byte_count().saturating_add(OTHER_BYTES));
    put(event, numbers, digest, recorded_by, &mut record);
    record.into()
}

/// Appends the bytes that [`encode`] returns to `out`. Building the protobuf message first would
/// copy the event.
pub fn put(
    event: &NewEvent,
    numbers: EventNumbers,
    digest: ContentDigest,
    recorded_by: &str,
    out: &mut Vec<u8>,
) {
    let mut id = [0; Hyphenated::LENGTH];
    put_text(1, event.id.0.hyphenated().encode_lower(&mut id), out);
    put_text(2, event.aggregate_id.as_str(), out);
    put_text(3, &event.aggregate_type, out);
    put_text(4, &event.event_type, out);
    match &event.content {
        Content::Absent => {}
        Content::Json(text) => put_bytes(5, text.as_bytes(), out),
        Content::Binary(bytes) => put_bytes(6, bytes, out),
    }
    put_text(7, &event.correlation_id, out);
    put_text(8, &event.causation_id, out);
    encoding::btree_map::encode(
        encoding::string::encode,
        encoding::string::encoded_len,
        encoding::string::encode,
        encoding::string::encoded_len,
        9,
        &event.metadata,
        out,
    );
    if let Some(at) = event.occurred_at {
        encoding::message::encode(10, &to_wire(at), out);
    }
    put_number(11, numbers.sequence.0, out);
    put_number(12, numbers.position.0, out);
    encoding::message::encode(13, &to_wire(numbers.recorded_at), out);
    put_text(15, recorded_by, out);
    put_number(100, numbers.append.first.0, out);
    put_number(101, numbers.append.last.0, out);
    put_bytes(102, &digest.0, out);
}

/// Writes a text field. Empty fields are omitted, except in a `oneof`.
fn put_text(tag: u32, text: &str, out: &mut Vec<u8>) {
    if !text.is_empty() {
        put_bytes(tag, text.as_bytes(), out);
    }
}

fn put_bytes(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encoding::encode_key(tag, WireType::LengthDelimited, out);
    encoding::encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_number(tag: u32, number: u64, out: &mut Vec<u8>) {
    if number > 0 {
        encoding::uint64::encode(tag, &number, out);
    }
}

/// Encodes a decoded event again, to the same bytes. `import` compares and hashes them.
pub fn encode_recorded(recorded: &RecordedEvent) -> Bytes {
    let numbers = EventNumbers {
        sequence: recorded.sequence,
        position: recorded.position,
        recorded_at: recorded.recorded_at,
        append: recorded.append,
    };
    encode(&recorded.event, numbers, recorded.digest, &recorded.recorded_by)
}

/// Decodes the record of an event.
///
/// # Errors
/// Returns an error if the bytes are not a record, or if a field is invalid.
pub fn decode(bytes: Bytes, hash: ChainHash) -> Result<RecordedEvent, RecordError> {
    let record =
        wire::Record::decode(bytes).map_err(|_| not("not a protobuf message of the expected type"))?;
    let append = AppendBounds {
        first: Position(record.append_first_position),
        last: Position(record.append_last_position),
    };
    if record.sequence_number == 0
        || record.position == 0
        || !(append.first.0..=append.last.0).contains(&record.position)
    {
        return Err(not("invalid sequence number or position"));
    }
    check_name(&record.event_type).map_err(|_| not("invalid event type"))?;
    check_name(&record.aggregate_type).map_err(|_| not("invalid aggregate type"))?;
    Ok(RecordedEvent {
        event: NewEvent {
            id: EventId::parse(&record.event_id).ok_or(not("invalid event id"))?,
            aggregate_id: AggregateId::new(&record.aggregate_id).map_err(|_| not("invalid aggregate id"))?,
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
        recorded_at: from_wire(record.recorded_at.ok_or(not("missing or invalid timestamp"))?)?,
        recorded_by: record.recorded_by.into(),
        append,
        digest: ContentDigest(
            record.content_digest.as_ref().try_into().map_err(|_| not("invalid content digest"))?,
        ),
        hash,
    })
}

/// Encodes the record of a snapshot.
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

/// Decodes the record of a snapshot.
///
/// # Errors
/// Returns an error if the bytes are not a snapshot, or if a field is invalid.
pub fn decode_snapshot(bytes: Bytes) -> Result<Snapshot, RecordError> {
    let record = wire::SnapshotRecord::decode(bytes).map_err(|_| {
        not("not a protobuf message of the \
     expected type")
    })?;
    if record.sequence_number == 0 {
        return Err(not("invalid sequence number or position"));
    }
    Ok(Snapshot {
        aggregate_id: AggregateId::new(&record.aggregate_id).map_err(|_| not("invalid aggregate id"))?,
        sequence: SequenceNumber(record.sequence_number),
        content: match record.data {
            None => Content::Absent,
            Some(wire::snapshot_record::Data::Json(text)) => Content::Json(text),
            Some(wire::snapshot_record::Data::Binary(bytes)) => Content::Binary(bytes),
        },
        schema_version: record.schema_version,
        metadata: record.metadata,
        recorded_at: from_wire(record.recorded_at.ok_or(not("missing or invalid timestamp"))?)?,
        event_hash: ChainHash::from_slice(&record.event_hash).ok_or(not("invalid event hash"))?,
    })
}

/// How far ImmuDB has committed the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReplicationMark {
    /// ImmuDB has every event up to this position.
    pub position: Position,
    /// The number of the log's snapshots that ImmuDB has, counted from the first.
    pub snapshots: u64,
    /// The transaction that committed the event at `position`; 0 if it is unknown, as in the
    /// record. See [`ReplicationMark::transaction`].
    pub immudb_tx: u64,
    /// ImmuDB's accumulated hash of that transaction, which was verified. `None` if it is not
    /// known.
    pub immudb_hash: Option<[u8; 32]>,
    /// The history in ImmuDB was changed. Nothing is replicated until an operator has decided.
    pub tampered: bool,
}

impl ReplicationMark {
    /// Returns the transaction that committed the event at `position`, if it is known.
    pub fn transaction(&self) -> Option<u64> {
        (self.immudb_tx > 0).then_some(self.immudb_tx)
    }
}

/// Encodes a replication mark.
pub fn encode_mark(mark: ReplicationMark) -> Bytes {
    let mark = wire::ForwardedMark {
        position: mark.position.0,
        snapshots: mark.snapshots,
        immudb_tx: mark.immudb_tx,
        immudb_hash: mark.immudb_hash.map(|hash| Bytes::copy_from_slice(&hash)),
        tampered: mark.tampered,
    };
    Bytes::from(mark.encode_to_vec())
}

/// Decodes a replication mark.
///
/// # Errors
/// Returns an error if the bytes are not a mark.
pub fn decode_mark(bytes: Bytes) -> Result<ReplicationMark, RecordError> {
    let mark = wire::ForwardedMark::decode(bytes).map_err(|_| {
        not("not a protobuf message of the \
     expected type")
    })?;
    let hash = mark.immudb_hash.map(|hash| <[u8; 32]>::try_from(hash.as_ref()));
    Ok(ReplicationMark {
        position: Position(mark.position),
        snapshots: mark.snapshots,
        immudb_tx: mark.immudb_tx,
        immudb_hash: hash.transpose().map_err(|_| not("invalid hash of a transaction"))?,
        tampered: mark.tampered,
    })
}

fn to_wire(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.seconds(), nanos: at.nanos() }
}

fn from_wire(at: prost_types::Timestamp) -> Result<Timestamp, RecordError> {
    Timestamp::new(at.seconds, at.nanos).ok_or(not("missing or invalid timestamp"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(
        event: NewEvent,
        numbers: EventNumbers,
        digest: ContentDigest,
        recorded_by: String,
    ) -> wire::Record {
        wire::Record {
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
            recorded_by,
            append_first_position: numbers.append.first.0,
            append_last_position: numbers.append.last.0,
            content_digest: Bytes::copy_from_slice(&digest.0),
        }
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![Just(String::new()), ".{0,200}"]
    }

    #[test]
    fn marks_come_back_and_those_of_earlier_versions_have_no_hash() {
        let mark = ReplicationMark {
            position: Position(7),
            snapshots: 2,
            immudb_tx: 9,
            immudb_hash: Some([3; 32]),
            tampered: true,
        };
        for mark in [mark, ReplicationMark { immudb_hash: None, tampered: false, ..mark }] {
            assert_eq!(decode_mark(encode_mark(mark)), Ok(mark));
        }
        // A mark of version 0.2.
        let old = decode_mark(Bytes::from_static(&[8, 7, 16, 2, 24, 9])).unwrap();
        assert_eq!(old, ReplicationMark { immudb_hash: None, tampered: false, ..mark });
        assert!(decode_mark(Bytes::from_static(&[8, 7, 34, 1, 0])).is_err(), "a hash of one byte");
    }

    // This test also detects changes of `prost::encoding`, which is not part of the API that prost
    // promises.
    proptest! {
        #[test]
        fn a_record_has_the_bytes_of_its_message(
            texts in proptest::array::uniform5(text()), id in "[a-zÄ-]{1,127}", kind in 0..3, content in text(),
            metadata in proptest::collection::btree_map("[a-z]{0,3}", text(), 0..4),
            seconds in proptest::option::of(prop_oneof![Just(0), -62_135_596_800i64..253_402_300_799]),
            nanos in prop_oneof![Just(0), 0..1_000_000_000i32],
            [sequence, position, first, last] in proptest::array::uniform4(prop_oneof![Just(0), 0..300u64, any::<u64>()]),
        ) {
            let [aggregate_type, event_type, correlation_id, causation_id, recorded_by] = texts;
            let event = NewEvent {
                id: EventId::random(),
                aggregate_id: AggregateId::new(&id).unwrap(),
                aggregate_type: aggregate_type.as_str().into(),
                event_type: event_type.as_str().into(),
                content: match kind {
                    0 => Content::Absent,
                    1 => Content::Json(content),
                    _ => Content::Binary(content.into()),
                },
                correlation_id,
                causation_id,
                metadata,
                occurred_at: seconds.and_then(|seconds| Timestamp::new(seconds, nanos)),
            };
            let numbers = EventNumbers {
                sequence: SequenceNumber(sequence),
                position: Position(position),
                recorded_at: Timestamp::new(seconds.unwrap_or_default(), nanos).unwrap(),
                append: AppendBounds { first: Position(first), last: Position(last) },
            };
            let digest = ContentDigest::of(&event);
            let record = encode(&event, numbers, digest, &recorded_by);
            prop_assert_eq!(super::recorded_by(&record), recorded_by.as_bytes());
            prop_assert_eq!(record, message(event, numbers, digest, recorded_by).encode_to_vec());
        }
    }
}
