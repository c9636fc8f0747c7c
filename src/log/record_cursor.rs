//! Reads the log record by record.
//!
//! However large a frame is, only a small part of it is in memory, and between two reads the caller
//! can release even that.
//!
//! Everything is checked as [`Cursor`] does it. A frame that fits into the buffer is checked before
//! the first of its records is returned. A larger frame is checked on the way: each record against
//! the hash chain, and the frame's checksum at its end.

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
    /// The bytes of the current segment from `at` on.
    buffer: Bytes,
    /// The previous segment and its length, until an append of the current segment was read.
    behind: Option<(Arc<segment::Segment>, u64)>,
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
    /// A frame without events, and its length in bytes.
    Other(u64),
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

impl RecordCursor {
    /// Creates a cursor at the start of a frame. The next append must begin with position `first`.
    pub fn at(segments: Arc<Segments>, place: LogOffset, first: Position) -> Self {
        let at = CursorState { place, expected: Some((first, None)), open: None };
        Self { segments, at, buffer: Bytes::new(), behind: None }
    }

    /// Returns the offset from which the next record is read.
    pub fn place(&self) -> LogOffset {
        self.at.place
    }

    /// Whether some records of an append were taken, and others were not.
    pub fn is_within_append(&self) -> bool {
        self.at.open.is_some_and(|open| open.begun)
    }

    /// Releases the buffer. The next read goes to the disk again.
    pub fn forget(&mut self) {
        self.buffer = Bytes::new();
    }

    /// Moves past a record that was found.
    pub fn take(&mut self, found: &FoundRecord) {
        let bytes = found.after.place.offset.saturating_sub(self.at.place.offset);
        self.at = found.after;
        self.skip_buffered(bytes);
    }

    /// Returns the next record before `end`, or a frame without events, or `None` if there is
    /// neither. A record stays the next one until it is taken.
    ///
    /// # Errors
    /// Returns an error if the log is damaged or cannot be read.
    pub fn find(&mut self, end: LogOffset) -> Result<Option<CursorItem>, ReadError> {
        while self.at.place < end {
            let file = self.file()?;
            if let Some(open) = self.at.open {
                return self.record(&file, open).map(|found| Some(CursorItem::Record(found)));
            }
            let mut limit = end.offset;
            if self.at.place.segment < end.segment {
                limit = file.length().map_err(|source| file.io_error(source))?;
                if self.at.place.offset > limit {
                    return Err(file.damage(limit, CUT).into());
                }
                if self.at.place.offset == limit {
                    self.behind = Some((file, limit));
                    let segment = self.at.place.segment.saturating_add(1);
                    self.at.place = LogOffset { segment, offset: segment::HEADER_BYTES };
                    self.forget();
                    continue;
                }
            }
            if let Some(bytes) = self.open(&file, limit)? {
                return Ok(Some(CursorItem::Other(bytes)));
            }
        }
        Ok(None)
    }

    /// Opens the frame that begins here. A frame without events is checked and skipped, and its
    /// length is returned.
    fn open(&mut self, file: &Arc<segment::Segment>, limit: u64) -> Result<Option<u64>, ReadError> {
        let start = self.at.place.offset;
        self.want(file, HEADER_BYTES, limit)?;
        let header = Header::parse(&self.buffer).map_err(|what| file.damage(start, what))?;
        let end = start.saturating_add(header.frame_bytes() as u64);
        if end > limit || !header.is_append() {
            return self.whole_frame(limit).map(Some);
        }
        let head = HEADER_BYTES.saturating_add(APPEND_HEAD_BYTES);
        self.want(file, header.frame_bytes().min(CHUNK_BYTES).max(head), limit)?;
        let whole = self.buffer.len() >= header.frame_bytes();
        if whole {
            let bytes = self.buffer.slice(..header.frame_bytes());
            if frame::check(file.salt(), start, &bytes).is_err() {
                return Err(self.damage(file, start));
            }
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
        self.at.open = Some(OpenFrame {
            start,
            end,
            records_left: count,
            begun: false,
            next: first,
            hash: previous,
            checksum,
        });
        self.at.place.offset = start.saturating_add(head as u64);
        self.buffer.advance(head);
        Ok(None)
    }

    fn record(&mut self, file: &Arc<segment::Segment>, open: OpenFrame) -> Result<FoundRecord, ReadError> {
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
            self.buffer = fill(file, self.at.place.offset, bytes.max(CHUNK_BYTES), limit)?;
        }
        Ok(())
    }

    fn skip_buffered(&mut self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.buffer.len());
        self.buffer.advance(bytes);
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

    fn file(&self) -> Result<Arc<segment::Segment>, ReadError> {
        let segment = self.at.place.segment;
        self.segments
            .file(segment)
            .map_err(|source| ReadError::Io { file: format!("segment {segment}"), source })
    }
}

#[cfg(test)]
mod tests;
