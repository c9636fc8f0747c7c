//! Reads the log record by record.
//!
//! However large a frame is, only a small part of it is in memory, and between two reads the caller
//! can release even that.
//!
//! Everything is checked as [`Cursor`] does it, except records that the caller does not want. A
//! frame that fits into the buffer is checked before the first of its records is returned or
//! skipped. A larger frame is checked on the way: each record against the hash chain, and the
//! frame's checksum at its end.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::{
    LogOffset, ReadError, RecordAddress, Segments,
    cursor::{CHUNK_BYTES, CUT, Cursor, fill},
    frame::{self, HASH_BYTES, HEADER_BYTES, Header, LENGTH_BYTES, PAYLOAD_BYTES_MAX},
    segment,
};
use crate::event::{ChainHash, Position};

/// The position of an append's first record, the number of its records, and the hash before them.
const APPEND_HEAD_BYTES: usize = 8 + 4 + HASH_BYTES;

/// A reader of all records of appends.
#[derive(Debug)]
pub struct RecordCursor {
    segments: Arc<Segments>,
    at: CursorState,
    /// The segment that was read last, and its number.
    file: Option<(u32, Arc<segment::Segment>)>,
    /// The bytes of the current segment from `at` on.
    buffer: Bytes,
    /// Up to this offset, the buffer has only frames whose checksums were checked.
    checked_until: u64,
    /// The previous segment and its length, until an append of the current segment was read.
    behind: Option<(Arc<segment::Segment>, u64)>,
    /// The number of bytes that are read at once.
    read_bytes: usize,
}

/// The state in which the next record is looked for.
#[derive(Debug, Clone, Copy)]
struct CursorState {
    place: LogOffset,
    /// The position of the next record, and the hash before it, if they are known.
    expected: Option<(Position, Option<ChainHash>)>,
    /// The append that is being read.
    open: Option<OpenFrame>,
}

#[derive(Debug, Clone, Copy)]
struct OpenFrame {
    start: u64,
    end: u64,
    records_left: u32,
    /// Whether some of its records were taken.
    begun: bool,
    next: Position,
    hash: ChainHash,
    /// The checksum so far and the stored one, unless the whole frame was checked already.
    checksum: Option<(u32, u32)>,
}

/// The result of a search.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and a box for each record costs more")]
pub enum CursorItem {
    /// The next record of an append.
    Record(FoundRecord),
    /// The number of bytes that were skipped: records that are not wanted, or a frame without
    /// events.
    Skipped(u64),
}

/// A record that has not been taken yet.
#[derive(Debug)]
pub struct FoundRecord {
    /// The record.
    pub bytes: Bytes,
    /// The chain hash up to and including the record.
    pub hash: ChainHash,
    /// The position of the event.
    pub position: Position,
    /// The address of the record.
    pub place: RecordAddress,
    /// The end of the append that contains the record.
    pub append_end: LogOffset,
    after: CursorState,
}

/// The frame that begins at the current offset.
enum OpenedFrame {
    Append(OpenFrame),
    /// A frame without events. It was skipped, and this is its length in bytes.
    Skipped(u64),
}

impl RecordCursor {
    /// Creates a cursor at the start of a frame. The next append must begin with position `first`.
    pub fn at(segments: Arc<Segments>, place: LogOffset, first: Position) -> Self {
        let at = CursorState { place, expected: Some((first, None)), open: None };
        Self {
            segments,
            at,
            file: None,
            buffer: Bytes::new(),
            checked_until: 0,
            behind: None,
            read_bytes: CHUNK_BYTES,
        }
    }

    /// Reads this number of bytes at once, instead of 256 KiB: for a few records. A larger frame is
    /// read whole, if it is one that is checked before its records are returned.
    pub fn reading_at_once(self, bytes: usize) -> Self {
        Self { read_bytes: bytes.min(CHUNK_BYTES), ..self }
    }

    /// Returns the offset from which the next record is read.
    pub fn place(&self) -> LogOffset {
        self.at.place
    }

    /// Returns the position of the last record that was taken or skipped, and the chain hash up to
    /// and including it.
    pub fn last(&self) -> Option<(Position, ChainHash)> {
        let (next, hash) = self.at.expected?;
        Some((Position(next.0.saturating_sub(1)), hash?))
    }

    /// Whether some records of an append were taken or skipped, and others were not.
    pub fn is_within_append(&self) -> bool {
        self.at.open.is_some_and(|open| open.begun)
    }

    /// Releases the buffer. The next read goes to the disk again.
    pub fn forget(&mut self) {
        self.buffer = Bytes::new();
        self.checked_until = 0;
    }

    /// Moves past a record that was found.
    pub fn take(&mut self, found: &FoundRecord) {
        let bytes = found.after.place.offset.saturating_sub(self.at.place.offset);
        self.at = found.after;
        self.skip_buffered(bytes);
    }

    /// Returns the next record before `end`. Skips a frame without events instead, if that is what
    /// comes next. Returns `None` if there is neither. A record stays the next one until it is
    /// taken.
    ///
    /// # Errors
    /// Returns an error if the log is damaged or cannot be read.
    pub fn find(&mut self, end: LogOffset) -> Result<Option<CursorItem>, ReadError> {
        self.find_wanted(end, |_, _| true)
    }

    /// Same as [`RecordCursor::find`], but also skips records that `is_wanted` rejects by their
    /// position and bytes.
    ///
    /// A skipped record is not hashed. The checksum of its frame, which was checked before, covers
    /// all of its bytes, and its hash would cost more than everything else that is done with it.
    /// Records of a frame that is not checked as a whole are returned even if they are not wanted.
    ///
    /// # Errors
    /// Returns an error if the log is damaged or cannot be read.
    pub fn find_wanted(
        &mut self,
        end: LogOffset,
        is_wanted: impl Fn(Position, &[u8]) -> bool,
    ) -> Result<Option<CursorItem>, ReadError> {
        while self.at.place < end {
            let file = self.file()?;
            let open = match self.at.open {
                Some(open) => open,
                None => {
                    let Some(limit) = self.limit(&file, end)? else { continue };
                    match self.open(&file, limit)? {
                        OpenedFrame::Append(open) => open,
                        OpenedFrame::Skipped(bytes) => return Ok(Some(CursorItem::Skipped(bytes))),
                    }
                }
            };
            return match self.skip(&file, open, &is_wanted)? {
                0 => self.record(&file, open).map(|found| Some(CursorItem::Record(found))),
                bytes => Ok(Some(CursorItem::Skipped(bytes))),
            };
        }
        Ok(None)
    }

    /// Returns the end of the bytes that may be read in the current segment. At the end of a
    /// segment that is not the last, moves to the next one, and returns `None`.
    fn limit(&mut self, file: &Arc<segment::Segment>, end: LogOffset) -> Result<Option<u64>, ReadError> {
        let place = self.at.place;
        if place.segment >= end.segment {
            return Ok(Some(end.offset));
        }
        let length = file.length().map_err(|source| file.io_error(source))?;
        if place.offset > length {
            return Err(file.damage(length, CUT).into());
        }
        if place.offset < length {
            return Ok(Some(length));
        }
        self.behind = Some((file.clone(), length));
        let segment = place.segment.saturating_add(1);
        self.at.place = LogOffset { segment, offset: segment::HEADER_BYTES };
        self.forget();
        Ok(None)
    }

    /// Opens the frame that begins here. A frame without events is checked and skipped.
    fn open(&mut self, file: &segment::Segment, limit: u64) -> Result<OpenedFrame, ReadError> {
        let start = self.at.place.offset;
        self.want(file, HEADER_BYTES, limit)?;
        let header = Header::parse(&self.buffer).map_err(|what| file.damage(start, what))?;
        let end = start.saturating_add(header.frame_bytes() as u64);
        if end > limit {
            return self.whole_frame(limit).map(OpenedFrame::Skipped);
        }
        if !header.is_append() {
            return self.skip_other(file, header.frame_bytes(), limit).map(OpenedFrame::Skipped);
        }
        let head = HEADER_BYTES.saturating_add(APPEND_HEAD_BYTES);
        self.want(file, header.frame_bytes().min(CHUNK_BYTES).max(head), limit)?;
        let whole = self.buffer.get(..header.frame_bytes());
        if whole.is_some_and(|bytes| frame::check(file.salt(), start, bytes).is_err()) {
            return Err(self.damage(file, start));
        }
        let whole = whole.is_some();
        if whole {
            self.checked_until = end;
        }
        let Some(mut fields) = self.buffer.get(HEADER_BYTES..head) else {
            return Err(self.damage(file, start));
        };
        let (first, count) = (Position(fields.get_u64_le()), fields.get_u32_le());
        let Some(previous) = ChainHash::from_slice(fields) else { return Err(self.damage(file, start)) };
        let continues = self
            .at
            .expected
            .is_none_or(|(position, hash)| position == first && hash.is_none_or(|hash| hash == previous));
        if !continues || count == 0 {
            // If whole frames were cut off the previous segment, only its end is wrong.
            return Err(match &self.behind {
                Some((file, length)) if !continues => file.damage(*length, CUT).into(),
                _ if continues => self.damage(file, start),
                _ => file.damage(start, "the append does not continue the previous one").into(),
            });
        }
        self.behind = None;
        let checksum = if whole {
            None
        } else {
            frame::begin_checksum(file.salt(), start, self.buffer.get(..head).unwrap_or_default())
        };
        let open = OpenFrame {
            start,
            end,
            records_left: count,
            begun: false,
            next: first,
            hash: previous,
            checksum,
        };
        self.at.open = Some(open);
        self.at.place.offset = start.saturating_add(head as u64);
        self.buffer.advance(head);
        Ok(OpenedFrame::Append(open))
    }

    /// Skips the next records of a frame that are not wanted, if the buffer has them as they were
    /// when the frame was checked. Returns their length in bytes.
    fn skip(
        &mut self,
        file: &segment::Segment,
        mut open: OpenFrame,
        is_wanted: impl Fn(Position, &[u8]) -> bool,
    ) -> Result<u64, ReadError> {
        let place = self.at.place;
        let length = usize::try_from(open.end.saturating_sub(place.offset)).unwrap_or(usize::MAX);
        let left = self.buffer.get(..length).filter(|_| open.end <= self.checked_until);
        let Some(mut left) = left else { return Ok(0) };
        while open.records_left > 0 {
            let Some((record, hash, behind)) = frame::split_entry(left) else {
                return Err(self.damage(file, open.start));
            };
            if is_wanted(open.next, record) {
                break;
            }
            open.records_left = open.records_left.saturating_sub(1);
            (open.begun, open.next, open.hash) = (true, open.next.next(), hash);
            left = behind;
        }
        let is_ended = open.records_left == 0;
        if is_ended && !left.is_empty() {
            return Err(self.damage(file, open.start));
        }
        let skipped = length.saturating_sub(left.len());
        if skipped > 0 {
            self.at = CursorState {
                place: LogOffset { offset: place.offset.saturating_add(skipped as u64), ..place },
                expected: Some((open.next, Some(open.hash))),
                open: (!is_ended).then_some(open),
            };
            self.buffer.advance(skipped);
        }
        Ok(skipped as u64)
    }

    fn record(&mut self, file: &segment::Segment, open: OpenFrame) -> Result<FoundRecord, ReadError> {
        let offset = self.at.place.offset;
        self.want(file, LENGTH_BYTES, open.end)?;
        let length = self.buffer.get(..LENGTH_BYTES).map_or(0, |mut length| length.get_u32_le());
        let entry = frame::entry_bytes(length);
        let behind = offset.saturating_add(entry);
        let last = open.records_left == 1;
        if length as usize > PAYLOAD_BYTES_MAX || behind > open.end || last != (behind == open.end) {
            return Err(self.damage(file, open.start));
        }
        let entry = usize::try_from(entry).unwrap_or(usize::MAX);
        self.want(file, entry, open.end)?;
        let bytes = self.buffer.slice(..entry.min(self.buffer.len()));
        let checksum = open.checksum.map(|(sum, stored)| (frame::go_on(sum, &bytes), stored));
        let record = frame::entry_after(bytes, open.hash);
        let checked = !last || checksum.is_none_or(|(sum, stored)| sum == stored);
        let Some((bytes, hash)) = record.filter(|_| checked) else {
            return Err(self.damage(file, open.start));
        };
        let (segment, next) = (self.at.place.segment, open.next.next());
        let left = OpenFrame {
            records_left: open.records_left.saturating_sub(1),
            begun: true,
            next,
            hash,
            checksum,
            ..open
        };
        let after = CursorState {
            place: LogOffset { segment, offset: behind },
            expected: Some((next, Some(hash))),
            open: (!last).then_some(left),
        };
        Ok(FoundRecord {
            bytes,
            hash,
            position: open.next,
            place: RecordAddress { segment, offset, length },
            append_end: LogOffset { segment, offset: open.end },
            after,
        })
    }

    /// Ensures that the buffer has this many bytes from the current offset on, if there are as many
    /// before `limit`.
    fn want(&mut self, file: &segment::Segment, bytes: usize, limit: u64) -> Result<(), ReadError> {
        if self.buffer.len() < bytes {
            // The old buffer is released first, so that both are never in memory together.
            self.forget();
            self.buffer = fill(file, self.at.place.offset, bytes.max(self.read_bytes), limit)?;
        }
        Ok(())
    }

    fn skip_buffered(&mut self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.buffer.len());
        self.buffer.advance(bytes);
    }

    /// Checks the frame without events at the current offset, and moves past it. Returns its
    /// length.
    fn skip_other(&mut self, file: &segment::Segment, bytes: usize, limit: u64) -> Result<u64, ReadError> {
        // Such frames are many and small, so they are not read again.
        if bytes <= CHUNK_BYTES {
            self.want(file, bytes, limit)?;
            if frame::parse(file.salt(), self.at.place.offset, &self.buffer).is_ok() {
                self.at.place.offset = self.at.place.offset.saturating_add(bytes as u64);
                self.buffer.advance(bytes);
                return Ok(bytes as u64);
            }
        }
        self.whole_frame(limit)
    }

    /// Reads the whole frame at the current offset, and moves past it.
    fn whole_frame(&mut self, limit: u64) -> Result<u64, ReadError> {
        let start = self.at.place;
        let end = LogOffset { offset: limit, ..start };
        let Some(read) = Cursor::new(self.segments.clone(), start).next(end)? else { return Ok(0) };
        let bytes = read.end.offset.saturating_sub(start.offset);
        self.at.place = read.end;
        self.skip_buffered(bytes);
        Ok(bytes)
    }

    /// Returns what is wrong with the frame at `start`, as reported by a check of the whole frame.
    fn damage(&self, file: &segment::Segment, start: u64) -> ReadError {
        let place = LogOffset { offset: start, ..self.at.place };
        let end = LogOffset { segment: place.segment, offset: u64::MAX };
        let whole = file.length().map_err(|source| file.io_error(source));
        let whole = whole.and_then(|length| {
            Cursor::new(self.segments.clone(), place)
                .next(LogOffset { offset: length.min(end.offset), ..place })
        });
        match whole {
            Err(error) => error,
            Ok(_) => file.damage(start, "the contents of the frame are inconsistent").into(),
        }
    }

    /// Returns the current segment. It is looked up only when the cursor enters it, because readers
    /// that look it up for each record contend for the lock of all segments.
    fn file(&mut self) -> Result<Arc<segment::Segment>, ReadError> {
        let segment = self.at.place.segment;
        if let Some((number, file)) = &self.file
            && *number == segment
        {
            return Ok(file.clone());
        }
        let file = self.segments.file_to_read(segment)?;
        self.file = Some((segment, file.clone()));
        Ok(file)
    }
}

#[cfg(test)]
mod tests;
