//! The entries of an index file: key and value, sorted by key.
//!
//! Fixed-size numbers are big-endian, all others are protobuf varints. The kinds of entries:
//!
//! - `a`, an aggregate's id, 0, the sequence number of an event (u64): a run of events. The value
//!   is the number of events from that one on (u8), the aggregate's type (after its length, u8),
//!   its newest snapshot (0, or 1 with sequence number and address), and the addresses of the
//!   events.
//! - `i`, an event's id: the event's address, and the first bytes of the digest of its content as
//!   the client sent it (u32).
//! - `p`, a position (u64): the segment and offset of the frame that begins with it (varints).
//! - `t`, a position (u64): the ImmuDB transaction that ends with it (varint).
//!
//! An address is the segment, the offset in it and the record's length (varints). The sequence
//! number of a snapshot is a varint, too.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{decode_varint, encode_varint};

use super::{Head, SnapshotHead};
use crate::{
    event::{AggregateId, ContentDigest, EventId, Position, SequenceNumber},
    log::{LogOffset, RecordAddress},
};

/// The maximum number of events in one entry. The largest entry has about 3,100 bytes and fits into
/// a block.
pub(super) const RUN_MAX: usize = 128;

/// The lower bound of the keys of event ids.
pub(super) const IDS_FROM: &[u8] = b"i";

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub key: Bytes,
    pub value: Bytes,
}

/// The address of an event, and a part of its digest. The digest shows, without a read, whether the
/// event can be the one that a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredId {
    /// The address of the event's record.
    pub place: RecordAddress,
    /// The first bytes of the digest of the content as the client sent it.
    digest: u32,
}

/// Consecutive events of an aggregate, possibly none, and the rest of its head at that point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventRun {
    pub id: AggregateId,
    /// The sequence number of the first of these events or, if there are none, of the next event.
    pub first: u64,
    pub places: Vec<RecordAddress>,
    pub aggregate_type: Arc<str>,
    pub snapshot: Option<SnapshotHead>,
}

pub(super) fn aggregate_key(id: &str, sequence: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(id.len().saturating_add(10));
    key.put_u8(b'a');
    key.put_slice(id.as_bytes());
    // Occurs in no id.
    key.put_u8(0);
    key.put_u64(sequence);
    key
}

/// Returns the lower bound of the keys of aggregates whose id starts with `start` or sorts after
/// it.
pub(super) fn aggregates_from(start: &str) -> Vec<u8> {
    [b"a", start.as_bytes()].concat()
}

/// Returns the aggregate's id in a key, or `None` if the key is of another kind.
pub(super) fn aggregate_in(key: &[u8]) -> Option<&[u8]> {
    const BEHIND_BYTES: usize = 9;
    let id = key.strip_prefix(b"a")?;
    id.get(..id.len().checked_sub(BEHIND_BYTES)?)
}

/// Returns the sequence number of the event with which a run begins.
fn first_in(key: &[u8]) -> Option<u64> {
    key.last_chunk().map(|first| u64::from_be_bytes(*first))
}

pub(super) fn id_key(id: EventId) -> Vec<u8> {
    [b"i", id.as_bytes().as_slice()].concat()
}

/// Returns the event's id in a key, or `None` if the key is of another kind.
pub(super) fn event_id_in(key: &[u8]) -> Option<EventId> {
    let id = key.strip_prefix(b"i")?;
    id.try_into().ok().map(|id| uuid::Uuid::from_bytes(id).into())
}

pub(super) fn position_key(position: Position) -> Vec<u8> {
    [b"p".as_slice(), &position.0.to_be_bytes()].concat()
}

pub(super) fn transaction_key(position: Position) -> Vec<u8> {
    [b"t".as_slice(), &position.0.to_be_bytes()].concat()
}

/// Returns the part of a key that goes into the filter, or `None` if the filter ignores the key.
pub(super) fn filtered(key: &[u8]) -> Option<&[u8]> {
    aggregate_in(key).or_else(|| key.strip_prefix(b"i"))
}

impl StoredId {
    /// Combines an address with a part of the digest.
    pub fn new(place: RecordAddress, digest: ContentDigest) -> Self {
        let [first, second, third, fourth, ..] = digest.0;
        Self { place, digest: u32::from_be_bytes([first, second, third, fourth]) }
    }

    /// Whether the event can have the content that was sent. If false, it certainly differs.
    pub fn may_be(&self, sent: ContentDigest) -> bool {
        *self == Self::new(self.place, sent)
    }

    /// Returns the entry of the event with this id.
    pub fn entry(&self, id: EventId) -> Entry {
        let mut value = Vec::with_capacity(16);
        put_place(self.place, &mut value);
        value.put_u32(self.digest);
        Entry { key: id_key(id).into(), value: value.into() }
    }

    /// Parses the value of an entry. Returns `None` if it is malformed.
    pub fn take(entry: &Entry) -> Option<Self> {
        let mut value = &*entry.value;
        let place = take_place(&mut value)?;
        Some(Self { place, digest: value.try_get_u32().ok()? })
    }
}

impl EventRun {
    /// Returns the sequence number of the last of these events or, if there are none, of the last
    /// event before them.
    pub(super) fn last(&self) -> u64 {
        self.first.saturating_add(self.places.len() as u64).saturating_sub(1)
    }

    pub(super) fn head(&self) -> Head {
        let (aggregate_type, snapshot) = (self.aggregate_type.clone(), self.snapshot);
        Head { last: SequenceNumber(self.last()), aggregate_type, snapshot }
    }

    pub(super) fn entry(&self) -> Entry {
        let mut value = Vec::with_capacity(64);
        value.put_u8(u8::try_from(self.places.len()).unwrap_or(u8::MAX));
        value.put_u8(u8::try_from(self.aggregate_type.len()).unwrap_or(u8::MAX));
        value.put_slice(self.aggregate_type.as_bytes());
        value.put_u8(u8::from(self.snapshot.is_some()));
        if let Some(snapshot) = self.snapshot {
            encode_varint(snapshot.sequence.0, &mut value);
            put_place(snapshot.place, &mut value);
        }
        self.places.iter().for_each(|place| put_place(*place, &mut value));
        Entry { key: aggregate_key(self.id.as_str(), self.first).into(), value: value.into() }
    }

    pub(super) fn take(entry: &Entry) -> Option<Self> {
        let id = AggregateId::new(std::str::from_utf8(aggregate_in(&entry.key)?).ok()?).ok()?;
        let (count, aggregate_type, snapshot, mut places) = Self::fields(&entry.value)?;
        let places = (0..count).map(|_| take_place(&mut places)).collect::<Option<_>>()?;
        Some(Self {
            id,
            first: first_in(&entry.key)?,
            places,
            aggregate_type: aggregate_type.into(),
            snapshot,
        })
    }

    /// Returns the runs of the last events of an aggregate. If `places` is empty, returns one empty
    /// run, to store the rest of the head.
    pub(super) fn all_of(id: &AggregateId, head: &Head, places: Vec<RecordAddress>) -> Vec<Self> {
        let run = |first, places: &[RecordAddress]| {
            let Head { aggregate_type, snapshot, .. } = head.clone();
            Self { id: id.clone(), first, places: places.to_vec(), aggregate_type, snapshot }
        };
        let first = head.last.0.saturating_sub(places.len() as u64).saturating_add(1);
        if places.is_empty() {
            vec![run(first, &[])]
        } else {
            (first..)
                .step_by(RUN_MAX)
                .zip(places.chunks(RUN_MAX))
                .map(|(first, few)| run(first, few))
                .collect()
        }
    }

    /// Parses a value: the number of addresses, the type, the snapshot, and the encoded addresses.
    fn fields(mut value: &[u8]) -> Option<(u8, &str, Option<SnapshotHead>, &[u8])> {
        let (count, length) = (value.try_get_u8().ok()?, value.try_get_u8().ok()?);
        let (aggregate_type, mut value) = value.split_at_checked(length.into())?;
        let mut snapshot = None;
        if value.try_get_u8().ok()? > 0 {
            let sequence = SequenceNumber(decode_varint(&mut value).ok()?);
            snapshot = Some(SnapshotHead { sequence, place: take_place(&mut value)? });
        }
        Some((count, std::str::from_utf8(aggregate_type).ok()?, snapshot, value))
    }

    /// Joins a run with the next one. Returns `None` if they are not adjacent runs of one
    /// aggregate, or if together they have too many events. The encoded addresses are copied as
    /// they are.
    pub(super) fn join(one: &Entry, next: &Entry) -> Option<Entry> {
        if aggregate_in(&one.key)? != aggregate_in(&next.key)? {
            return None;
        }
        let (count, _, _, places) = Self::fields(&one.value)?;
        let (next_count, _, _, next_places) = Self::fields(&next.value)?;
        let both = count.checked_add(next_count).filter(|both| usize::from(*both) <= RUN_MAX)?;
        if first_in(&next.key)? != first_in(&one.key)?.saturating_add(count.into()) {
            return None;
        }
        let header = next.value.get(1..next.value.len().checked_sub(next_places.len())?)?;
        let value = [&[both], header, places, next_places].concat();
        Some(Entry { key: one.key.clone(), value: value.into() })
    }
}

pub(super) fn frame_entry((position, place): (Position, LogOffset)) -> Entry {
    let mut value = Vec::new();
    encode_varint(place.segment.into(), &mut value);
    encode_varint(place.offset, &mut value);
    Entry { key: position_key(position).into(), value: value.into() }
}

pub(super) fn take_frame(entry: &Entry) -> Option<(Position, LogOffset)> {
    let mut value = &*entry.value;
    let segment = take_u32(&mut value)?;
    Some((position(entry, b'p')?, LogOffset { segment, offset: decode_varint(&mut value).ok()? }))
}

pub(super) fn transaction_entry((position, transaction): (Position, u64)) -> Entry {
    let mut value = Vec::new();
    encode_varint(transaction, &mut value);
    Entry { key: transaction_key(position).into(), value: value.into() }
}

pub(super) fn take_transaction(entry: &Entry) -> Option<(Position, u64)> {
    Some((position(entry, b't')?, decode_varint(&mut &*entry.value).ok()?))
}

fn position(entry: &Entry, kind: u8) -> Option<Position> {
    let mut position = entry.key.strip_prefix(&[kind])?;
    position.try_get_u64().ok().map(Position)
}

fn put_place(place: RecordAddress, out: &mut Vec<u8>) {
    encode_varint(place.segment.into(), out);
    encode_varint(place.offset, out);
    encode_varint(place.length.into(), out);
}

fn take_place(bytes: &mut &[u8]) -> Option<RecordAddress> {
    let (segment, offset) = (take_u32(bytes)?, decode_varint(bytes).ok()?);
    Some(RecordAddress { segment, offset, length: take_u32(bytes)? })
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    u32::try_from(decode_varint(bytes).ok()?).ok()
}
