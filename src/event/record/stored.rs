//! A stored event for readers: locates the fields within the record's bytes without decoding them.
//!
//! Clients are sent a slice of these bytes.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes};

use super::{RecordError, not};
use crate::event::{AggregateId, ChainHash, Position, RecordedEvent, SequenceNumber, Timestamp};

/// Fields of `Record` from this number on are not visible to clients. They come last.
const INTERNAL_FROM: u64 = 100;

/// The number of the field `recorded_by`.
const RECORDED_BY: u64 = 15;

/// The numbers of fields of the message `RecordedEvent` that no record has. If a record had them,
/// its bytes would pass as something that the service says.
const CHAIN_HASH: u64 = 14;
const REDACTED: u64 = 16;

/// The start of the field `chain_hash`: its number, its wire type, and the length of a hash.
const HASH_FIELD: [u8; 2] = [(CHAIN_HASH << 3 | LENGTH_DELIMITED) as u8, 32];

const VARINT: u64 = 0;
const LENGTH_DELIMITED: u64 = 2;

/// A stored event. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    record: Bytes,
    /// The length of the part of the record that clients can see.
    visible: usize,
    /// The length of the part of the record that precedes `chain_hash` in responses.
    before_hash: usize,
    /// The chain hash up to and including this event.
    pub hash: ChainHash,
    /// The number within the aggregate, from 1 on.
    pub sequence: SequenceNumber,
    /// The number in the order of all events, from 1 on.
    pub position: Position,
    /// When the event was stored.
    pub recorded_at: Timestamp,
    aggregate_id: Range<usize>,
    aggregate_type: Range<usize>,
    event_type: Range<usize>,
    correlation_id: Range<usize>,
}

impl StoredEvent {
    /// Locates the fields of a record that was verified against its hash.
    ///
    /// # Errors
    /// Returns an error if the bytes are not a record.
    pub fn new(record: Bytes, hash: ChainHash) -> Result<Self, RecordError> {
        let mut event = Self {
            visible: record.len(),
            before_hash: record.len(),
            record: Bytes::new(),
            hash,
            sequence: SequenceNumber(0),
            position: Position(0),
            recorded_at: Timestamp::default(),
            aggregate_id: 0..0,
            aggregate_type: 0..0,
            event_type: 0..0,
            correlation_id: 0..0,
        };
        let mut fields = WireFields { bytes: &record, at: 0 };
        let mut last = 0;
        loop {
            let start = fields.at;
            let Some(field) = fields.next()? else { break };
            if field.number < last {
                return Err(not("fields are out of order"));
            }
            last = field.number;
            if field.number > CHAIN_HASH {
                event.before_hash = event.before_hash.min(start);
            }
            match (field.number, field.value) {
                (2, Value::Bytes(range)) => event.aggregate_id = range,
                (3, Value::Bytes(range)) => event.aggregate_type = range,
                (4, Value::Bytes(range)) => event.event_type = range,
                (7, Value::Bytes(range)) => event.correlation_id = range,
                (11, Value::Number(number)) => event.sequence = SequenceNumber(number),
                (12, Value::Number(number)) => event.position = Position(number),
                (13, Value::Bytes(range)) => event.recorded_at = timestamp(slice(&record, &range))?,
                (RECORDED_BY, Value::Number(_)) => return Err(not("unexpected wire type")),
                (CHAIN_HASH | REDACTED, _) => return Err(not("a field that only responses have")),
                (INTERNAL_FROM.., _) => event.visible = event.visible.min(start),
                (..INTERNAL_FROM, _) => {}
            }
        }
        if event.sequence.0 == 0 || event.position.0 == 0 {
            return Err(not("sequence number or position is 0"));
        }
        event.record = record;
        Ok(event)
    }

    /// Copies the event into memory of its own. Otherwise, its record is a slice that keeps all the
    /// bytes of a larger read in memory.
    #[must_use]
    pub fn detached(self) -> Self {
        Self { record: Bytes::copy_from_slice(&self.record), ..self }
    }

    /// Returns the fields at the start of the record.
    pub fn head(&self) -> RecordHead<'_> {
        RecordHead {
            aggregate_id: self.aggregate_id(),
            aggregate_type: self.aggregate_type(),
            event_type: self.event_type(),
        }
    }

    /// Returns the aggregate id as bytes, which are not validated.
    pub fn aggregate_id(&self) -> &[u8] {
        slice(&self.record, &self.aggregate_id)
    }

    /// Decodes the event.
    ///
    /// # Errors
    /// Returns an error if a field of the record is invalid.
    pub fn decode(&self) -> Result<RecordedEvent, RecordError> {
        super::decode(self.record.clone(), self.hash)
    }

    /// Returns the aggregate id as a value.
    ///
    /// # Errors
    /// Returns an error if the bytes are not a valid id.
    pub fn aggregate(&self) -> Result<AggregateId, RecordError> {
        let id = std::str::from_utf8(self.aggregate_id()).ok().and_then(|id| AggregateId::new(id).ok());
        id.ok_or(not("invalid aggregate id"))
    }

    /// Returns the aggregate's type as bytes, which are not validated.
    pub fn aggregate_type(&self) -> &[u8] {
        slice(&self.record, &self.aggregate_type)
    }

    /// Returns the event's type as bytes, which are not validated.
    pub fn event_type(&self) -> &[u8] {
        slice(&self.record, &self.event_type)
    }

    /// Returns the correlation id as bytes, or none if it was not given.
    pub fn correlation_id(&self) -> &[u8] {
        slice(&self.record, &self.correlation_id)
    }

    /// Returns the number of bytes that [`StoredEvent::put_recorded`] writes.
    pub fn recorded_bytes(&self) -> usize {
        self.visible.saturating_add(HASH_FIELD.len()).saturating_add(self.hash.0.len())
    }

    /// Writes the event as a `RecordedEvent` without its length prefix. Fields 1 to 13 and 15 are
    /// the same in both messages.
    pub fn put_recorded(&self, out: &mut impl BufMut) {
        out.put_slice(slice(&self.record, &(0..self.before_hash)));
        out.put_slice(&HASH_FIELD);
        out.put_slice(&self.hash.0);
        out.put_slice(slice(&self.record, &(self.before_hash..self.visible)));
    }
}

/// The fields at the start of a record: the aggregate and the types. Most readers can tell from
/// them whether they want the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordHead<'r> {
    /// The aggregate id as bytes, which are not validated.
    pub aggregate_id: &'r [u8],
    /// The aggregate's type as bytes, which are not validated.
    pub aggregate_type: &'r [u8],
    /// The event's type as bytes, which are not validated.
    pub event_type: &'r [u8],
}

impl<'r> RecordHead<'r> {
    /// Reads the start of a record. Returns `None` if the bytes are not a record.
    ///
    /// The rest of the record cannot have other values for these fields, because
    /// [`StoredEvent::new`] accepts only fields in ascending order.
    pub fn of(record: &'r [u8]) -> Option<Self> {
        let mut head = Self::default();
        let mut fields = WireFields { bytes: record, at: 0 };
        while let Some(field) = fields.next().ok()? {
            match (field.number, field.value) {
                (2, Value::Bytes(range)) => head.aggregate_id = slice(record, &range),
                (3, Value::Bytes(range)) => head.aggregate_type = slice(record, &range),
                (4, Value::Bytes(range)) => head.event_type = slice(record, &range),
                (..=4, _) => {}
                (5.., _) => break,
            }
        }
        Some(head)
    }
}

/// Returns the name of the identity that appended an event as bytes, which are not validated. Empty
/// if the record has none, or if the bytes are not a record.
pub fn recorded_by(record: &[u8]) -> &[u8] {
    let mut fields = WireFields { bytes: record, at: 0 };
    while let Ok(Some(field)) = fields.next() {
        match (field.number, field.value) {
            (RECORDED_BY, Value::Bytes(range)) => return slice(record, &range),
            (..RECORDED_BY, _) => {}
            (RECORDED_BY.., _) => break,
        }
    }
    &[]
}

fn slice<'b>(bytes: &'b [u8], range: &Range<usize>) -> &'b [u8] {
    bytes.get(range.clone()).unwrap_or_default()
}

/// Decodes a `google.protobuf.Timestamp`.
fn timestamp(bytes: &[u8]) -> Result<Timestamp, RecordError> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut fields = WireFields { bytes, at: 0 };
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Number(number)) => seconds = number.cast_signed(),
            (2, Value::Number(number)) => {
                nanos = i32::try_from(number).map_err(|_| not("invalid timestamp"))?
            }
            _ => {}
        }
    }
    Timestamp::new(seconds, nanos).ok_or(not("invalid timestamp"))
}

struct WireField {
    number: u64,
    value: Value,
}

/// The two wire types that a record uses.
enum Value {
    Number(u64),
    Bytes(Range<usize>),
}

/// Iterates over the fields of a protobuf message.
struct WireFields<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl WireFields<'_> {
    fn next(&mut self) -> Result<Option<WireField>, RecordError> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            VARINT => Value::Number(self.varint()?),
            LENGTH_DELIMITED => {
                let length = usize::try_from(self.varint()?).map_err(|_| {
                    not("a field extends beyond the \
                 end")
                })?;
                let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
                let range = self.at..end.ok_or(not("a field extends beyond the end"))?;
                self.at = range.end;
                Value::Bytes(range)
            }
            _ => return Err(not("unexpected wire type")),
        };
        Ok(Some(WireField { number: key >> 3, value }))
    }

    fn varint(&mut self) -> Result<u64, RecordError> {
        let mut rest = self.bytes.get(self.at..).unwrap_or_default();
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = rest.try_get_u8().map_err(|_| not("truncated"))?;
            self.at = self.at.saturating_add(1);
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(not("invalid varint"))
    }
}
