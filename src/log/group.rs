//! Assembles the frames that one sync makes durable.
//!
//! A group exists only in memory until the log writes it. Its tip tells where the log will end, so
//! the addresses and hashes of its records are known before the write. A frame that could not be
//! read back is not added: the group stays as it was, with everything that others added to it.

use bytes::Bytes;

use super::{
    LogOffset, RecordAddress, Tip,
    frame::{self, FrameKind, FramePlace, HEADER_BYTES, PAYLOAD_BYTES_MAX, Salt},
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

/// A frame that would be too large to be read back. Nothing was added to the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("has {bytes} bytes in the log; at most {max} can be read back")]
pub struct FrameTooLarge {
    /// The size of the records with their framing, in bytes.
    pub bytes: usize,
    /// The maximum size.
    pub max: usize,
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
    ///
    /// # Errors
    /// Returns an error if the records are too large for a frame. Nothing is added then.
    pub fn append(&mut self, records: &[Bytes]) -> Result<Vec<StoredAt>, FrameTooLarge> {
        self.append_with(records.iter().map(|record| move |out: &mut Vec<u8>| out.extend_from_slice(record)))
    }

    /// Like [`Group::append`], without copying the records: each item appends one record to the
    /// frame.
    ///
    /// # Errors
    /// See [`Group::append`].
    pub fn append_with(
        &mut self,
        records: impl ExactSizeIterator<Item: FnOnce(&mut Vec<u8>)>,
    ) -> Result<Vec<StoredAt>, FrameTooLarge> {
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
        self.check_frame(base)?;
        self.tip.position = Position(self.tip.position.0.saturating_add(count as u64));
        self.tip.hash = hash;
        self.grow(base);
        Ok(stored)
    }

    /// Adds a snapshot and gives it the next number.
    ///
    /// # Errors
    /// Returns an error if the snapshot is too large for a frame. Nothing is added then.
    pub fn snapshot(&mut self, record: &[u8]) -> Result<StoredAt, FrameTooLarge> {
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
        self.check_frame(base)?;
        self.tip.snapshots = number;
        self.grow(base);
        let place = RecordAddress { segment: self.start.segment, offset, length };
        Ok(StoredAt { place, hash })
    }

    /// Adds a replication mark: how far ImmuDB has committed the log.
    pub fn mark(&mut self, mark: &[u8]) {
        let base = self.bytes.len();
        let place = self.frame_place();
        frame::write(&mut self.bytes, &self.salt, place, FrameKind::Mark, |out| out.extend_from_slice(mark));
        self.grow(base);
    }

    /// Removes the frame that begins at `base` if no reader would accept it.
    fn check_frame(&mut self, base: usize) -> Result<(), FrameTooLarge> {
        let bytes = self.bytes.len().saturating_sub(base).saturating_sub(HEADER_BYTES);
        if bytes <= PAYLOAD_BYTES_MAX {
            return Ok(());
        }
        self.bytes.truncate(base);
        // The next frames need no more memory than they would have without this one.
        self.bytes.shrink_to(base);
        Err(FrameTooLarge { bytes, max: PAYLOAD_BYTES_MAX })
    }

    fn frame_place(&self) -> FramePlace {
        FramePlace { offset: self.tip.end.offset, group_offset: self.group_offset }
    }

    fn grow(&mut self, base: usize) {
        let added = self.bytes.len().saturating_sub(base) as u64;
        self.tip.end.offset = self.tip.end.offset.saturating_add(added);
    }
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;
    use crate::log::{Cursor, Frame, Log, recover};

    /// What a frame has beside the bytes of its only record.
    const APPEND_FRAMING: usize = 8 + 4 + 32 + 4 + 32;
    const SNAPSHOT_FRAMING: usize = 8 + 32 + 4 + 32;

    #[test]
    fn a_frame_that_could_not_be_read_back_is_refused_and_the_others_of_its_group_are_written() {
        let folder = tempdir().unwrap();
        let mut log = Log::new(recover(folder.path(), None).unwrap(), Tip::START, u64::MAX);
        let record = |bytes: usize| Bytes::from(vec![7; bytes]);
        let mut group = log.begin().unwrap();
        group.append(&[record(10)]).unwrap();
        let before = (group.tip(), group.byte_count());
        let refused = FrameTooLarge { bytes: PAYLOAD_BYTES_MAX + 1, max: PAYLOAD_BYTES_MAX };
        let too_large = record(PAYLOAD_BYTES_MAX - APPEND_FRAMING + 1);
        assert_eq!(group.append(&[too_large]).unwrap_err(), refused);
        let too_large = record(PAYLOAD_BYTES_MAX - SNAPSHOT_FRAMING + 1);
        assert_eq!(group.snapshot(&too_large).unwrap_err(), refused);
        assert_eq!((group.tip(), group.byte_count()), before);
        // The largest that fit are read back.
        group.append(&[record(PAYLOAD_BYTES_MAX - APPEND_FRAMING)]).unwrap();
        group.snapshot(&record(PAYLOAD_BYTES_MAX - SNAPSHOT_FRAMING)).unwrap();
        group.append(&[record(20)]).unwrap();
        log.write(group).unwrap();
        let tip = log.tip();
        assert_eq!((tip.position, tip.snapshots), (Position(3), 1));
        let mut cursor = Cursor::new(log.segments().clone(), LogOffset::START);
        let mut lengths = Vec::new();
        while let Some(read) = cursor.next(tip.end).unwrap() {
            match read.frame {
                Frame::Append { records, .. } => lengths.push(records[0].bytes.len()),
                Frame::Snapshot { record, .. } => lengths.push(record.bytes.len()),
                Frame::Mark(_) => panic!("no mark was written"),
            }
        }
        let (append, snapshot) = (PAYLOAD_BYTES_MAX - APPEND_FRAMING, PAYLOAD_BYTES_MAX - SNAPSHOT_FRAMING);
        assert_eq!(lengths, [10, append, snapshot, 20]);
        log.close().unwrap();
        assert_eq!(recover(folder.path(), None).unwrap().end, tip.end);
    }
}
