//! Reads the log frame by frame, in order, and checks every byte of it on the way.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Place, ReadError, Segments,
    frame::{self, Frame, HEADER_BYTES, Header},
    segment,
};
use crate::event::{Hash, Position};

/// How much is read at once.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

pub(super) const CUT: &str = "the segment ends too early";

/// A reader of the whole log. It goes no further than it is told.
#[derive(Debug)]
pub struct Cursor {
    segments: Arc<Segments>,
    place: Place,
    /// Bytes of the present segment from `place` on.
    buffer: Bytes,
    /// Position of the next append's first event, and the hash before it if that is known.
    expected: Option<(Position, Option<Hash>)>,
    /// The segment before this one and its length, until a frame of this one was read.
    behind: Option<(Arc<segment::File>, u64)>,
}

/// A frame, and where it lies.
#[derive(Debug)]
pub struct ReadFrame {
    pub frame: Frame,
    pub start: Place,
    pub end: Place,
}

impl ReadFrame {
    /// As long as it is in its segment.
    pub fn byte_count(&self) -> u64 {
        match self.start.segment == self.end.segment {
            true => self.end.offset.saturating_sub(self.start.offset),
            false => self.end.offset,
        }
    }

    /// Position of the last event of an append; `None` for the other kinds.
    pub fn last_position(&self) -> Option<Position> {
        match &self.frame {
            Frame::Append { first, records, .. } => {
                Some(Position(first.0.saturating_add(records.len() as u64).saturating_sub(1)))
            }
            Frame::Snapshot { .. } | Frame::Mark(_) => None,
        }
    }
}

impl Cursor {
    /// A cursor at the start of a frame.
    pub fn new(segments: Arc<Segments>, place: Place) -> Self {
        Self { segments, place, buffer: Bytes::new(), expected: None, behind: None }
    }

    /// The same, where it is known with which position the next append begins.
    pub fn at(segments: Arc<Segments>, place: Place, first: Position) -> Self {
        Self { expected: Some((first, None)), ..Self::new(segments, place) }
    }

    /// The same, where it is known what the next append continues.
    pub fn after(segments: Arc<Segments>, place: Place, last: Position, hash: Hash) -> Self {
        Self { expected: Some((last.next(), Some(hash))), ..Self::new(segments, place) }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// The next frame before `end`; `None` when there is none.
    ///
    /// # Errors
    /// The frame is damaged, does not continue the one before, or can't be read.
    pub fn next(&mut self, end: Place) -> Result<Option<ReadFrame>, ReadError> {
        while self.place < end {
            let file = self.file()?;
            // What lies behind `end` is being written, and may be taken back: it is not even buffered.
            let mut limit = end.offset;
            if self.place.segment < end.segment {
                limit = file.length().map_err(|source| file.io_error(source))?;
                if self.place.offset > limit {
                    return Err(file.damage(limit, CUT).into());
                }
                if self.place.offset == limit {
                    self.behind = Some((file, limit));
                    self.place = Place {
                        segment: self.place.segment.saturating_add(1),
                        offset: segment::HEADER_BYTES,
                    };
                    self.buffer = Bytes::new();
                    continue;
                }
            }
            return self.read(&file, limit).map(Some);
        }
        Ok(None)
    }

    fn read(&mut self, file: &segment::File, limit: u64) -> Result<ReadFrame, ReadError> {
        let damage = |what| file.damage(self.place.offset, what);
        let start = self.place;
        if self.buffer.len() < HEADER_BYTES {
            self.buffer = fill(file, start.offset, CHUNK_BYTES, limit)?;
        }
        let wanted = Header::parse(&self.buffer).map_err(damage)?.frame_bytes();
        if self.buffer.len() < wanted {
            self.buffer = fill(file, start.offset, wanted.max(CHUNK_BYTES), limit)?;
        }
        let (header, frame) = frame::parse(file.salt(), start.offset, &self.buffer).map_err(damage)?;
        if let Frame::Append { first, previous, records } = &frame {
            if !self.continued_by(*first, *previous) {
                // Whole frames may be cut off a segment: then nothing is wrong but its end.
                return Err(match &self.behind {
                    Some((file, length)) => file.damage(*length, CUT).into(),
                    None => damage("the append does not continue the one before").into(),
                });
            }
            self.behind = None;
            let next = Position(first.0.saturating_add(records.len() as u64));
            self.expected = records.last().map(|record| (next, Some(record.hash)));
        }
        self.buffer = self.buffer.slice(header.frame_bytes()..);
        self.place.offset = start.offset.saturating_add(header.frame_bytes() as u64);
        Ok(ReadFrame { frame, start, end: self.place })
    }

    fn continued_by(&self, first: Position, previous: Hash) -> bool {
        self.expected
            .is_none_or(|(position, hash)| position == first && hash.is_none_or(|hash| hash == previous))
    }

    fn file(&self) -> Result<Arc<segment::File>, ReadError> {
        let segment = self.place.segment;
        self.segments
            .file(segment)
            .map_err(|source| ReadError::Io { file: format!("segment {segment}"), source })
    }
}

/// At most so many bytes, and none from `limit` on.
pub(super) fn fill(file: &segment::File, offset: u64, bytes: usize, limit: u64) -> Result<Bytes, ReadError> {
    let bytes = limit.saturating_sub(offset).min(bytes as u64);
    let mut buffer = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut buffer, offset).map_err(|source| file.io_error(source))?;
    buffer.truncate(read);
    Ok(Bytes::from(buffer))
}
