//! Keys and values of the index. Numbers in keys are big-endian, so that their order is the numbers'.

use bytes::{Buf, BufMut};

use super::{Head, IndexError, SnapshotHead, digest::Digest};
use crate::{
    event::{Hash, Position, SequenceNumber, Timestamp, record::ForwardedMark},
    log::{Place, RecordPlace, Tip},
};

/// How far in the log everything is known, and what holds there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Complete {
    pub tip: Tip,
    /// When the last event was recorded.
    pub recorded_at: Timestamp,
    pub aggregates: u64,
    /// Aggregates that have a snapshot.
    pub snapshots: u64,
    pub forwarded: ForwardedMark,
    /// The last frame that can be found by its position.
    pub(super) last_findable: Place,
    /// Of all entries.
    pub(super) digest: Digest,
}

impl Default for Complete {
    fn default() -> Self {
        Self {
            tip: Tip::START,
            recorded_at: Timestamp::default(),
            aggregates: 0,
            snapshots: 0,
            forwarded: ForwardedMark::default(),
            last_findable: Place { segment: 0, offset: 0 },
            digest: Digest::default(),
        }
    }
}

impl Complete {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(176);
        put_frame_place(&mut out, self.tip.end);
        out.put_u64(self.tip.position.0);
        out.put_slice(&self.tip.hash.0);
        out.put_u64(self.tip.snapshots);
        out.put_i64(self.recorded_at.seconds());
        out.put_i32(self.recorded_at.nanos());
        out.put_u64(self.aggregates);
        out.put_u64(self.snapshots);
        out.put_u64(self.forwarded.position.0);
        out.put_u64(self.forwarded.snapshots);
        out.put_u64(self.forwarded.immudb_tx);
        put_frame_place(&mut out, self.last_findable);
        out.put_u64(self.digest.entries);
        out.put_u64(self.digest.sum);
        out
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        Some(Self {
            tip: Tip {
                end: take_frame_place(bytes)?,
                position: Position(bytes.try_get_u64().ok()?),
                hash: take_hash(bytes)?,
                snapshots: bytes.try_get_u64().ok()?,
            },
            recorded_at: Timestamp::new(bytes.try_get_i64().ok()?, bytes.try_get_i32().ok()?)?,
            aggregates: bytes.try_get_u64().ok()?,
            snapshots: bytes.try_get_u64().ok()?,
            forwarded: ForwardedMark {
                position: Position(bytes.try_get_u64().ok()?),
                snapshots: bytes.try_get_u64().ok()?,
                immudb_tx: bytes.try_get_u64().ok()?,
            },
            last_findable: take_frame_place(bytes)?,
            digest: Digest { entries: bytes.try_get_u64().ok()?, sum: bytes.try_get_u64().ok()? },
        })
    }
}

fn take_hash(bytes: &mut &[u8]) -> Option<Hash> {
    let (hash, rest) = bytes.split_at_checked(32)?;
    *bytes = rest;
    Hash::from_slice(hash)
}

fn put_frame_place(out: &mut Vec<u8>, place: Place) {
    out.put_u32(place.segment);
    out.put_u64(place.offset);
}

fn take_frame_place(bytes: &mut &[u8]) -> Option<Place> {
    Some(Place { segment: bytes.try_get_u32().ok()?, offset: bytes.try_get_u64().ok()? })
}

pub(super) fn encode_frame_place(place: Place) -> Vec<u8> {
    let mut out = Vec::with_capacity(12);
    put_frame_place(&mut out, place);
    out
}

pub(super) fn decode_frame_place(mut bytes: &[u8]) -> Result<Place, IndexError> {
    take_frame_place(&mut bytes).ok_or(IndexError::Entry("positions"))
}

fn put_place(out: &mut Vec<u8>, place: RecordPlace) {
    out.put_u32(place.segment);
    out.put_u64(place.offset);
    out.put_u32(place.length);
}

fn take_place(bytes: &mut &[u8]) -> Option<RecordPlace> {
    Some(RecordPlace {
        segment: bytes.try_get_u32().ok()?,
        offset: bytes.try_get_u64().ok()?,
        length: bytes.try_get_u32().ok()?,
    })
}

pub(super) fn encode_place(place: RecordPlace) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    put_place(&mut out, place);
    out
}

pub(super) fn decode_place(mut bytes: &[u8]) -> Result<RecordPlace, IndexError> {
    take_place(&mut bytes).ok_or(IndexError::Entry("events"))
}

pub(super) fn encode_head(head: &Head) -> Vec<u8> {
    let mut out = Vec::with_capacity(48 + head.aggregate_type.len());
    out.put_u64(head.number);
    out.put_u64(head.last.0);
    match head.snapshot {
        None => out.put_u8(0),
        Some(snapshot) => {
            out.put_u8(1);
            out.put_u64(snapshot.sequence.0);
            put_place(&mut out, snapshot.place);
        }
    }
    out.put_slice(head.aggregate_type.as_bytes());
    out
}

pub(super) fn decode_head(mut bytes: &[u8]) -> Result<Head, IndexError> {
    take_head(&mut bytes).ok_or(IndexError::Entry("aggregates"))
}

fn take_head(bytes: &mut &[u8]) -> Option<Head> {
    let number = bytes.try_get_u64().ok()?;
    let last = SequenceNumber(bytes.try_get_u64().ok()?);
    let snapshot = match bytes.try_get_u8().ok()? {
        0 => None,
        _ => Some(SnapshotHead {
            sequence: SequenceNumber(bytes.try_get_u64().ok()?),
            place: take_place(bytes)?,
        }),
    };
    Some(Head { number, last, aggregate_type: std::str::from_utf8(bytes).ok()?.into(), snapshot })
}

pub(super) fn event_key(aggregate: u64, sequence: u64) -> [u8; 16] {
    ((u128::from(aggregate) << 64) | u128::from(sequence)).to_be_bytes()
}

pub(super) fn decode_u64(mut bytes: &[u8]) -> Result<u64, IndexError> {
    bytes.try_get_u64().map_err(|_| IndexError::Entry("totals"))
}

/// What a total is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TotalKind {
    EventType,
    AggregateType,
}

pub(super) fn total_key(kind: TotalKind, name: &str) -> Vec<u8> {
    let kind = match kind {
        TotalKind::EventType => b'e',
        TotalKind::AggregateType => b'a',
    };
    [&[kind], name.as_bytes()].concat()
}

pub(super) fn decode_total_key(key: &[u8]) -> Option<(TotalKind, &str)> {
    let (kind, name) = key.split_first()?;
    let kind = match kind {
        b'e' => TotalKind::EventType,
        b'a' => TotalKind::AggregateType,
        _ => return None,
    };
    std::str::from_utf8(name).ok().map(|name| (kind, name))
}
