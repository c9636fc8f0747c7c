//! Reads consecutive records of one frame, in chunks.
//!
//! Each record is checked against the hash that was stored with it. The frame's own checksum is not
//! checked here; the cursors do that.

use std::{ops::Range, sync::Arc};

use bytes::{Buf, Bytes};

use super::{
    CheckedRecord, ReadError, RecordAddress, Segments,
    frame::{self, HASH_BYTES, PAYLOAD_BYTES_MAX},
    segment,
};

/// The number of bytes read at once. A larger record is read whole.
const CHUNK_BYTES: u64 = 64 * 1024;

const LENGTH_BYTES: u64 = 4;

/// A reader of consecutive records. The caller knows from the first record how many the frame has.
#[derive(Debug)]
pub struct RecordRun {
    file: Arc<segment::Segment>,
    segment: u32,
    /// The offset of the next record's length field.
    offset: u64,
    /// The bytes of the segment from `start` on.
    buffer: Bytes,
    start: u64,
}

impl RecordRun {
    /// Starts at the record at `first`.
    ///
    /// # Errors
    /// Returns an error if there is no such segment.
    pub fn new(segments: &Segments, first: RecordAddress) -> Result<Self, ReadError> {
        let segment = first.segment;
        let file = segments.file_to_read(segment)?;
        let buffer = Bytes::new();
        Ok(Self { file, segment, offset: first.offset, buffer, start: first.offset })
    }

    /// Returns the next record, checked against the hash that was stored with it.
    ///
    /// # Errors
    /// Returns an error if the record is damaged or cannot be read.
    pub fn read(&mut self) -> Result<(RecordAddress, CheckedRecord), ReadError> {
        let damaged = |run: &Self| run.file.damage(run.offset, "the record does not match its hash");
        let begin = self.offset.saturating_sub(HASH_BYTES as u64);
        let head = self.bytes(self.offset..self.offset.saturating_add(LENGTH_BYTES))?;
        let length = head.and_then(|mut head| head.try_get_u32_le().ok());
        let length = length.filter(|length| *length as usize <= PAYLOAD_BYTES_MAX);
        let place = match length {
            Some(length) => RecordAddress { segment: self.segment, offset: self.offset, length },
            None => return Err(damaged(self).into()),
        };
        let entry = self.bytes(begin..place.end().offset)?;
        let (bytes, hash) = entry.and_then(frame::parse_entry).ok_or_else(|| damaged(self))?;
        self.offset = place.end().offset;
        Ok((place, CheckedRecord { bytes, hash }))
    }

    /// Returns a part of the segment, or `None` if the segment is too short.
    fn bytes(&mut self, range: Range<u64>) -> Result<Option<Bytes>, ReadError> {
        let has = |run: &Self| {
            let from = usize::try_from(range.start.checked_sub(run.start)?).ok()?;
            let to = usize::try_from(range.end.checked_sub(run.start)?).ok()?;
            (to <= run.buffer.len()).then(|| run.buffer.slice(from..to))
        };
        if let Some(found) = has(self) {
            return Ok(Some(found));
        }
        // The hash before the next record is needed as well.
        let from = range.start.min(self.offset.saturating_sub(HASH_BYTES as u64));
        let wanted = range.end.saturating_sub(from).max(CHUNK_BYTES);
        let mut buffer = vec![0; usize::try_from(wanted).unwrap_or(usize::MAX)];
        let read = self.file.read_at(&mut buffer, from).map_err(|source| self.file.io_error(source))?;
        buffer.truncate(read);
        (self.buffer, self.start) = (Bytes::from(buffer), from);
        Ok(has(self))
    }
}
