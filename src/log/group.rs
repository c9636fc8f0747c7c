//! Assembles the frames that one sync makes durable.
//!
//! A group exists only in memory until the log writes it. Its tip tells where the log will end, so
//! the addresses and hashes of its records are known before the write.

use bytes::Bytes;

use super::{
    LogOffset, RecordAddress, Tip,
    frame::{self, FrameKind, FramePlace, Salt},
};
use crate::event::{ChainHash, Position};

/// Frames for the end of the log, assembled in memory and written at once.
#[derive(Debug)]
pub struct Group {
    bytes: Vec<u8>,
    start: LogOffset,
    group_offset: u64,
    salt: Salt,
    tip: Tip,
}

/// The address of a stored record, and the chain hash up to and including it.
#[derive(Debug, Clone, Copy)]
pub struct StoredAt {
    /// The address of the record.
    pub place: RecordAddress,
    /// The chain hash. That of a snapshot covers its record alone.
    pub hash: ChainHash,
}

impl Group {
    pub(super) fn new(tip: Tip, unsynced_from: Option<u64>, salt: Salt) -> Self {
        Self {
            bytes: Vec::new(),
            start: tip.end,
            group_offset: unsynced_from.unwrap_or(tip.end.offset),
            salt,
            tip,
        }
    }

    /// Returns the tip of the log once this group is written.
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// Returns whether the group has no frames.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns the size of the frames added so far, in bytes.
    pub fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds all records of one append. The first has the position after the tip's.
    pub fn append(&mut self, records: &[Bytes]) -> Vec<StoredAt> {
        self.append_with(records.iter().map(|record| move |out: &mut Vec<u8>| out.extend_from_slice(record)))
    }

    /// Like [`Group::append`], without copying the records: each item appends one record to the
    /// frame.
    pub fn append_with(
        &mut self,
        records: impl ExactSizeIterator<Item: FnOnce(&mut Vec<u8>)>,
    ) -> Vec<StoredAt> {
        let (first, mut hash) = (self.tip.position.next(), self.tip.hash);
        let count = records.len();
        let mut stored = Vec::with_capacity(count);
        let segment = self.start.segment;
        let start = self.start.offset;
        let base = self.bytes.len();
        let place = self.frame_place();
        frame::write(&mut self.bytes, &self.salt, place, FrameKind::Append, |out| {
            out.extend_from_slice(&first.0.to_le_bytes());
            out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
            out.extend_from_slice(&hash.0);
            for put in records {
                let offset = start.saturating_add(out.len() as u64);
                let (length, after) = frame::put_entry(out, hash, put);
                hash = after;
                stored.push(StoredAt { place: RecordAddress { segment, offset, length }, hash });
            }
        });
        self.tip.position = Position(self.tip.position.0.saturating_add(count as u64));
        self.tip.hash = hash;
        self.grow(base);
        stored
    }

    /// Adds a snapshot and gives it the next number.
    pub fn snapshot(&mut self, record: &[u8]) -> StoredAt {
        let number = self.tip.snapshots.saturating_add(1);
        let base = self.bytes.len();
        let start = self.start.offset;
        let place = self.frame_place();
        let (mut offset, mut length, mut hash) = (0, 0, ChainHash::START);
        frame::write(&mut self.bytes, &self.salt, place, FrameKind::Snapshot, |out| {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&ChainHash::START.0);
            offset = start.saturating_add(out.len() as u64);
            (length, hash) = frame::put_entry(out, ChainHash::START, |out| out.extend_from_slice(record));
        });
        self.tip.snapshots = number;
        self.grow(base);
        let place = RecordAddress { segment: self.start.segment, offset, length };
        StoredAt { place, hash }
    }

    /// Adds a replication mark: how far ImmuDB has committed the log.
    pub fn mark(&mut self, mark: &[u8]) {
        let base = self.bytes.len();
        let place = self.frame_place();
        frame::write(&mut self.bytes, &self.salt, place, FrameKind::Mark, |out| out.extend_from_slice(mark));
        self.grow(base);
    }

    fn frame_place(&self) -> FramePlace {
        FramePlace { offset: self.tip.end.offset, group_offset: self.group_offset }
    }

    fn grow(&mut self, base: usize) {
        let added = self.bytes.len().saturating_sub(base) as u64;
        self.tip.end.offset = self.tip.end.offset.saturating_add(added);
    }
}
