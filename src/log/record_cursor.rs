//! Reads the log record by record. It has a small part of a frame in memory, however large the frame is, and none of
//! it between two reads.
//!
//! Everything is checked as [`Cursor`] does: a frame that fits into the buffer before the first of its records is
//! given out, a larger one along the way: each record against the hash chain, the frame's checksum at its end.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::{
    Place, ReadError, RecordPlace, Segments,
    cursor::{CHUNK_BYTES, CUT, Cursor, fill},
    frame::{self, HASH_BYTES, HEADER_BYTES, Header, LENGTH_BYTES, PAYLOAD_BYTES_MAX},
    segment,
};
use crate::event::{Hash, Position};

/// Position and number of an append's records, and the hash before them.
const APPEND_HEAD_BYTES: usize = 8 + 4 + HASH_BYTES;

/// A reader of all records of appends.
#[derive(Debug)]
pub struct RecordCursor {
    segments: Arc<Segments>,
    at: At,
    /// Bytes of the present segment from `at` on.
    buffer: Bytes,
    /// The segment before this one and its length, until a frame of this one was read.
    behind: Option<(Arc<segment::File>, u64)>,
}

/// Where the next record is looked for.
#[derive(Debug, Clone, Copy)]
struct At {
    place: Place,
    /// Position of the next record, and the hash before it, if they are known.
    expected: Option<(Position, Option<Hash>)>,
    /// The append that is being read.
    open: Option<OpenFrame>,
}

#[derive(Debug, Clone, Copy)]
struct OpenFrame {
    start: u64,
    end: u64,
    records_left: u32,
    /// Some of its records were taken.
    begun: bool,
    next: Position,
    hash: Hash,
    /// The checksum up to here and the stored one, unless the whole frame was checked.
    checksum: Option<(u32, u32)>,
}

/// What was found.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and a box for each record costs more")]
pub enum Found {
    Record(FoundRecord),
    /// A frame without events, of so many bytes.
    Other(u64),
}

/// A record that is not taken yet.
#[derive(Debug)]
pub struct FoundRecord {
    pub bytes: Bytes,
    pub hash: Hash,
    pub position: Position,
    pub place: RecordPlace,
    /// Behind the append that the record belongs to.
    pub append_end: Place,
    after: At,
}

impl RecordCursor {
    /// A cursor at the start of a frame, where it is known with which position the next append begins.
    pub fn at(segments: Arc<Segments>, place: Place, first: Position) -> Self {
        let at = At { place, expected: Some((first, None)), open: None };
        Self { segments, at, buffer: Bytes::new(), behind: None }
    }

    pub fn place(&self) -> Place {
        self.at.place
    }

    /// Some records of an append were taken, and others were not.
    pub fn is_within_append(&self) -> bool {
        self.at.open.is_some_and(|open| open.begun)
    }

    /// Drops what is in memory. The next read is from the disk again.
    pub fn forget(&mut self) {
        self.buffer = Bytes::new();
    }

    /// Goes behind a record that was found.
    pub fn take(&mut self, found: &FoundRecord) {
        let bytes = found.after.place.offset.saturating_sub(self.at.place.offset);
        self.at = found.after;
        self.skip_buffered(bytes);
    }

    /// The next record before `end`, which stays the next one until it is taken; `None` when there is none.
    ///
    /// # Errors
    /// The log is damaged, or can't be read.
    pub fn find(&mut self, end: Place) -> Result<Option<Found>, ReadError> {
        while self.at.place < end {
            let file = self.file()?;
            if let Some(open) = self.at.open {
                return self.record(&file, open).map(|found| Some(Found::Record(found)));
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
                    self.at.place = Place { segment, offset: segment::HEADER_BYTES };
                    self.forget();
                    continue;
                }
            }
            if let Some(bytes) = self.open(&file, limit)? {
                return Ok(Some(Found::Other(bytes)));
            }
        }
        Ok(None)
    }

    /// Opens the frame that begins here. One without events is checked and left behind: the answer is its length.
    fn open(&mut self, file: &Arc<segment::File>, limit: u64) -> Result<Option<u64>, ReadError> {
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
        let Some(previous) = Hash::from_slice(fields) else { return Err(self.damage(file, start)) };
        let continues = self
            .at
            .expected
            .is_none_or(|(position, hash)| position == first && hash.is_none_or(|hash| hash == previous));
        if !continues || count == 0 {
            // Whole frames may be cut off a segment: then nothing is wrong but its end.
            return Err(match &self.behind {
                Some((file, length)) if !continues => file.damage(*length, CUT).into(),
                _ if continues => self.damage(file, start),
                _ => file.damage(start, "the append does not continue the one before").into(),
            });
        }
        self.behind = None;
        let checksum = match whole {
            true => None,
            false => frame::begin_checksum(file.salt(), start, self.buffer.get(..head).unwrap_or_default()),
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

    fn record(&mut self, file: &Arc<segment::File>, open: OpenFrame) -> Result<FoundRecord, ReadError> {
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
        let after = At {
            place: Place { segment, offset: behind },
            expected: Some((next, Some(hash))),
            open: (!last).then_some(left),
        };
        Ok(FoundRecord {
            bytes,
            hash,
            position: open.next,
            place: RecordPlace { segment, offset, length },
            append_end: Place { segment, offset: open.end },
            after,
        })
    }

    /// Has so many bytes from the present place on in the buffer, if there are as many before `limit`.
    fn want(&mut self, file: &segment::File, bytes: usize, limit: u64) -> Result<(), ReadError> {
        if self.buffer.len() < bytes {
            // What is there goes first: the two would be in memory together.
            self.forget();
            self.buffer = fill(file, self.at.place.offset, bytes.max(CHUNK_BYTES), limit)?;
        }
        Ok(())
    }

    fn skip_buffered(&mut self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.buffer.len());
        self.buffer.advance(bytes);
    }

    /// Reads the frame at the present place at once, and goes behind it.
    fn whole_frame(&mut self, limit: u64) -> Result<u64, ReadError> {
        let start = self.at.place;
        let end = Place { offset: limit, ..start };
        let Some(read) = Cursor::new(self.segments.clone(), start).next(end)? else { return Ok(0) };
        let bytes = read.end.offset.saturating_sub(start.offset);
        self.at.place = read.end;
        self.skip_buffered(bytes);
        Ok(bytes)
    }

    /// What is wrong with the frame at `start`, in the words of a check of the whole frame.
    fn damage(&self, file: &segment::File, start: u64) -> ReadError {
        let place = Place { offset: start, ..self.at.place };
        let end = Place { segment: place.segment, offset: u64::MAX };
        let whole = file.length().map_err(|source| file.io_error(source));
        let whole = whole.and_then(|length| {
            Cursor::new(self.segments.clone(), place).next(Place { offset: length.min(end.offset), ..place })
        });
        match whole {
            Err(error) => error,
            Ok(_) => file.damage(start, "the frame's contents don't add up").into(),
        }
    }

    fn file(&self) -> Result<Arc<segment::File>, ReadError> {
        let segment = self.at.place.segment;
        self.segments
            .file(segment)
            .map_err(|source| ReadError::Io { file: format!("segment {segment}"), source })
    }
}

#[cfg(test)]
mod tests;
