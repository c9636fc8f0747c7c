//! The format of a frame. All numbers are little-endian.
//!
//! ```text
//! 0   magic "AELF"
//! 4   CRC-32C of: the segment's salt, the frame's offset (u64), bytes 8..24, the payload
//! 8   length of the payload, u32
//! 12  kind: 1 append, 2 snapshot, 3 replication mark
//! 13  version: 1
//! 14  zero, u16
//! 16  offset in the segment at which the frame's group begins, u64
//! 24  the payload
//! ```
//!
//! The payload of an append is the position of its first event (u64), the number of records (u32),
//! the hash before them (32 bytes), and for each record its length (u32), its bytes and the hash
//! after it (32 bytes). The 32 bytes before the length of a record are always the hash before it,
//! so a single record can be read and checked without the rest of its frame. The payload of a
//! snapshot is the number of the snapshot (u64), 32 zero bytes, and one such entry. The payload of
//! a mark is the mark.
//!
//! The checksum covers the salt and the offset, so no bytes sent by a client can pass for a frame.

use bytes::{Buf, Bytes};

use super::{LogOffset, RecordAddress};
use crate::event::{ChainHash, Position};

pub(super) const HEADER_BYTES: usize = 24;
const MAGIC: &[u8; 4] = b"AELF";
const VERSION: u8 = 1;
const KIND_APPEND: u8 = 1;
const KIND_SNAPSHOT: u8 = 2;
const KIND_MARK: u8 = 3;
pub(super) const LENGTH_BYTES: usize = 4;
pub(super) const HASH_BYTES: usize = 32;

/// The maximum payload of a frame: no longer one is added to a group, and none is read. A request
/// has at most 8 MiB and 500 events. The rest is room for what the service adds to them.
pub(super) const PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The contents of one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// All events of one append.
    Append {
        /// The position of the first event.
        first: Position,
        /// The chain hash before the first event.
        previous: ChainHash,
        /// The records of the events, by position.
        records: Vec<StoredRecord>,
    },
    /// A snapshot, with its number among the log's snapshots.
    Snapshot {
        /// The number, from 1 on.
        number: u64,
        /// The record of the snapshot.
        record: StoredRecord,
    },
    /// A replication mark: how far ImmuDB has committed the log.
    Mark(Bytes),
}

/// A record in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// The record, without its length field and its hash.
    pub bytes: Bytes,
    /// The chain hash up to and including this record.
    pub hash: ChainHash,
    /// The offset of the record's entry, from the start of the frame.
    pub offset: u64,
}

impl StoredRecord {
    /// Returns the address of the record in a frame that begins at `frame`.
    pub fn place(&self, frame: LogOffset) -> RecordAddress {
        RecordAddress {
            segment: frame.segment,
            offset: frame.offset.saturating_add(self.offset),
            length: u32::try_from(self.bytes.len()).unwrap_or(u32::MAX),
        }
    }
}

/// Returns the number of bytes that a record occupies in a frame.
pub(super) fn entry_bytes(length: u32) -> u64 {
    u64::from(length) + (LENGTH_BYTES + HASH_BYTES) as u64
}

/// The random bytes of a segment, which are part of every checksum in it.
pub(super) type Salt = [u8; 16];

/// Appends one frame to `out`. `payload` writes its contents.
pub(super) fn write(
    out: &mut Vec<u8>,
    salt: &Salt,
    place: FramePlace,
    kind: FrameKind,
    payload: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[0; HEADER_BYTES - 4]);
    payload(out);
    let (_, frame) = out.split_at_mut(start);
    let Some((header, payload)) = frame.split_at_mut_checked(HEADER_BYTES) else { return };
    let fields = Header {
        length: u32::try_from(payload.len()).unwrap_or(u32::MAX),
        kind: kind as u8,
        group_offset: place.group_offset,
    };
    fields.put(header);
    let crc = checksum(salt, place.offset, header, payload);
    if let Some(slot) = header.get_mut(4..8) {
        slot.copy_from_slice(&crc.to_le_bytes());
    }
}

/// The offset of a frame in its segment, and the offset at which its group began.
#[derive(Debug, Clone, Copy)]
pub(super) struct FramePlace {
    pub offset: u64,
    pub group_offset: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum FrameKind {
    Append = KIND_APPEND as isize,
    Snapshot = KIND_SNAPSHOT as isize,
    Mark = KIND_MARK as isize,
}

/// Writes a record's entry: its length, its bytes, which `put` writes, and the hash after it.
/// Returns the length and the hash.
pub(super) fn put_entry(
    out: &mut Vec<u8>,
    previous: ChainHash,
    put: impl FnOnce(&mut Vec<u8>),
) -> (u32, ChainHash) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    put(out);
    let (_, entry) = out.split_at_mut(start);
    let Some((slot, record)) = entry.split_first_chunk_mut() else { return (0, previous) };
    let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
    *slot = length.to_le_bytes();
    let hash = previous.chain(record);
    out.extend_from_slice(&hash.0);
    (length, hash)
}

/// The part of a frame's header that a reader needs before the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub length: u32,
    pub kind: u8,
    pub group_offset: u64,
}

impl Header {
    fn put(self, header: &mut [u8]) {
        let mut fields = Vec::with_capacity(16);
        fields.extend_from_slice(&self.length.to_le_bytes());
        fields.extend_from_slice(&[self.kind, VERSION, 0, 0]);
        fields.extend_from_slice(&self.group_offset.to_le_bytes());
        if let Some(slot) = header.get_mut(8..HEADER_BYTES) {
            slot.copy_from_slice(&fields);
        }
    }

    /// Parses the header of a frame. The checksum is not checked yet.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let (version, header) = Self::of_any_version(bytes)?;
        if version != VERSION {
            return Err("unknown frame version");
        }
        if header.length as usize > PAYLOAD_BYTES_MAX {
            return Err("the frame has an invalid length");
        }
        Ok(header)
    }

    /// Returns the version of a frame, and its header.
    pub(super) fn of_any_version(bytes: &[u8]) -> Result<(u8, Self), &'static str> {
        let Some(mut header) = bytes.get(..HEADER_BYTES) else { return Err("the frame is truncated") };
        if !header.starts_with(MAGIC) {
            return Err("no frame starts here");
        }
        header.advance(8);
        let length = header.get_u32_le();
        let kind = header.get_u8();
        let version = header.get_u8();
        let _zero = header.get_u16_le();
        let group_offset = header.get_u64_le();
        Ok((version, Self { length, kind, group_offset }))
    }

    pub(super) fn is_append(self) -> bool {
        self.kind == KIND_APPEND
    }

    pub(super) fn frame_bytes(self) -> usize {
        HEADER_BYTES.saturating_add(self.length as usize)
    }
}

/// Checks and parses a whole frame (header and payload). `bytes` must begin with it.
pub(super) fn parse(salt: &Salt, offset: u64, bytes: &Bytes) -> Result<(Header, Frame), &'static str> {
    let header = Header::parse(bytes)?;
    if bytes.len() < header.frame_bytes() {
        return Err("the frame is truncated");
    }
    let bytes = bytes.slice(..header.frame_bytes());
    check(salt, offset, &bytes)?;
    let payload = bytes.slice(HEADER_BYTES..);
    let frame = match header.kind {
        KIND_APPEND => parse_append(payload),
        KIND_SNAPSHOT => parse_snapshot(payload),
        KIND_MARK => Some(Frame::Mark(payload)),
        _ => return Err("unknown frame kind"),
    };
    frame.map(|frame| (header, frame)).ok_or("the contents of the frame are inconsistent")
}

/// Returns which number of the frame at the start of `bytes` is unknown. Returns `None` if none is,
/// or if there is no frame with a correct checksum. Every version of a frame has the same header
/// and the same checksum.
pub(super) fn unknown_number(salt: &Salt, offset: u64, bytes: &[u8]) -> Option<(&'static str, u8)> {
    let (version, header) = Header::of_any_version(bytes).ok()?;
    let unknown = match (version, header.kind) {
        (VERSION, KIND_APPEND | KIND_SNAPSHOT | KIND_MARK) => return None,
        (VERSION, kind) if kind > KIND_MARK => ("frame kind", kind),
        (version, _) if version > VERSION => ("frame version", version),
        _ => return None,
    };
    check(salt, offset, bytes.get(..header.frame_bytes())?).ok()?;
    Some(unknown)
}

fn parse_append(mut payload: Bytes) -> Option<Frame> {
    let total = payload.len();
    let first = Position(payload.try_get_u64_le().ok()?);
    let count = payload.try_get_u32_le().ok()?;
    let previous = take_hash(&mut payload)?;
    let mut records = Vec::new();
    let mut hash = previous;
    for _ in 0..count {
        let offset = (HEADER_BYTES + total - payload.len()) as u64;
        let record = take_entry(&mut payload, hash, offset)?;
        hash = record.hash;
        records.push(record);
    }
    (payload.is_empty() && !records.is_empty()).then_some(Frame::Append { first, previous, records })
}

fn parse_snapshot(mut payload: Bytes) -> Option<Frame> {
    let number = payload.try_get_u64_le().ok()?;
    let start = take_hash(&mut payload)?;
    let record = take_entry(&mut payload, start, (HEADER_BYTES + 8 + HASH_BYTES) as u64)?;
    payload.is_empty().then_some(Frame::Snapshot { number, record })
}

fn take_hash(payload: &mut Bytes) -> Option<ChainHash> {
    (payload.len() >= HASH_BYTES)
        .then(|| payload.split_to(HASH_BYTES))
        .and_then(|hash| ChainHash::from_slice(&hash))
}

fn take_entry(payload: &mut Bytes, previous: ChainHash, offset: u64) -> Option<StoredRecord> {
    let length = payload.try_get_u32_le().ok()? as usize;
    if payload.len() < length {
        return None;
    }
    let bytes = payload.split_to(length);
    let hash = take_hash(payload)?;
    (previous.chain(&bytes) == hash).then_some(StoredRecord { bytes, hash, offset })
}

/// Checks the checksum of a whole frame.
pub(super) fn check(salt: &Salt, offset: u64, bytes: &[u8]) -> Result<(), &'static str> {
    let Some((head, payload)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err("the frame is truncated");
    };
    let stored = head.get(4..8).map(|mut crc| crc.get_u32_le());
    if stored != Some(checksum(salt, offset, head, payload)) {
        return Err("the frame has a wrong checksum");
    }
    Ok(())
}

/// Returns the checksum of a frame up to the end of `bytes`, which begin with the frame, and the
/// stored checksum.
pub(super) fn begin_checksum(salt: &Salt, offset: u64, bytes: &[u8]) -> Option<(u32, u32)> {
    let (head, payload) = bytes.split_at_checked(HEADER_BYTES)?;
    let stored = head.get(4..8).map(|mut crc| crc.get_u32_le())?;
    Some((checksum(salt, offset, head, payload), stored))
}

/// Continues a checksum with more bytes of the frame.
pub(super) fn go_on(checksum: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(checksum, bytes)
}

/// Splits the entry at the start of `bytes` from what follows it: its record, the hash after it,
/// and the rest. The hash is not checked.
pub(super) fn split_entry(bytes: &[u8]) -> Option<(&[u8], ChainHash, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (record, rest) = rest.split_at_checked(length)?;
    let (hash, rest) = rest.split_first_chunk()?;
    Some((record, ChainHash(*hash), rest))
}

/// Parses an entry if the hash before it is known.
pub(super) fn entry_after(mut bytes: Bytes, previous: ChainHash) -> Option<(Bytes, ChainHash)> {
    take_entry(&mut bytes, previous, 0).map(|record| (record.bytes, record.hash))
}

/// Parses a single entry that was read together with the 32 bytes before it.
pub(super) fn parse_entry(mut bytes: Bytes) -> Option<(Bytes, ChainHash)> {
    let previous = take_hash(&mut bytes)?;
    take_entry(&mut bytes, previous, 0).map(|record| (record.bytes, record.hash))
}

pub(super) fn checksum(salt: &Salt, offset: u64, header: &[u8], payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c(salt);
    let crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, header.get(8..).unwrap_or_default());
    crc32c::crc32c_append(crc, payload)
}
