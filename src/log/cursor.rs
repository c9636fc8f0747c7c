//! Reads the log frame by frame, in order, and checks every byte of it on the way.
//!
//! It detects gaps between appends, even across segments. The caller must know where the log ends:
//! bytes after that may be changing.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    LogOffset, ReadError, Segments,
    frame::{self, Frame, HEADER_BYTES, Header},
    segment,
};
use crate::event::{ChainHash, Position};

/// The number of bytes read at once.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

pub(super) const CUT: &str = "the segment ends unexpectedly";

/// A reader of the whole log. It never reads past the end that it is given.
#[derive(Debug)]
pub struct Cursor {
    segments: Arc<Segments>,
    place: LogOffset,
    /// The bytes of the current segment from `place` on.
    buffer: Bytes,
    /// The position of the next append's first event, and the hash before it if that is known.
    expected: Option<(Position, Option<ChainHash>)>,
    /// The previous segment and its length, until an append of the current segment was read.
    behind: Option<(Arc<segment::Segment>, u64)>,
}

/// A frame and its location.
#[derive(Debug)]
pub struct ReadFrame {
    /// The contents of the frame.
    pub frame: Frame,
    /// Where the frame begins.
    pub start: LogOffset,
    /// Where the frame ends.
    pub end: LogOffset,
}

impl ReadFrame {
    /// Returns the length of the frame in its segment.
    pub fn byte_count(&self) -> u64 {
        if self.start.segment == self.end.segment {
            self.end.offset.saturating_sub(self.start.offset)
        } else {
            self.end.offset
        }
    }

    /// Returns the position of the last event of an append, or `None` for other kinds of frames.
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
    /// Creates a cursor at the start of a frame.
    pub fn new(segments: Arc<Segments>, place: LogOffset) -> Self {
        Self { segments, place, buffer: Bytes::new(), expected: None, behind: None }
    }

    /// Creates a cursor at the start of a frame. The next append must begin with position `first`.
    pub fn at(segments: Arc<Segments>, place: LogOffset, first: Position) -> Self {
        Self { expected: Some((first, None)), ..Self::new(segments, place) }
    }

    /// Creates a cursor at the start of a frame. The next append must continue the event at `last`
    /// with the given hash.
    pub fn after(segments: Arc<Segments>, place: LogOffset, last: Position, hash: ChainHash) -> Self {
        Self { expected: Some((last.next(), Some(hash))), ..Self::new(segments, place) }
    }

    /// Returns the offset from which the next frame is read.
    pub fn place(&self) -> LogOffset {
        self.place
    }

    /// Returns the next frame before `end`, or `None` if there is none.
    ///
    /// # Errors
    /// Returns an error if the frame is damaged, does not continue the previous one, or cannot be
    /// read.
    pub fn next(&mut self, end: LogOffset) -> Result<Option<ReadFrame>, ReadError> {
        while self.place < end {
            let file = self.segments.file_to_read(self.place.segment)?;
            // Bytes after `end` are still being written and may be removed again, so they are not
            // even buffered.
            let mut limit = end.offset;
            if self.place.segment < end.segment {
                limit = file.length().map_err(|source| file.io_error(source))?;
                if self.place.offset > limit {
                    return Err(file.damage(limit, CUT).into());
                }
                if self.place.offset == limit {
                    self.behind = Some((file, limit));
                    self.place = LogOffset {
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

    fn read(&mut self, file: &segment::Segment, limit: u64) -> Result<ReadFrame, ReadError> {
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
                // If whole frames were cut off the previous segment, only its end is wrong.
                return Err(match &self.behind {
                    Some((file, length)) => file.damage(*length, CUT).into(),
                    None => damage("the append does not continue the previous one").into(),
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

    fn continued_by(&self, first: Position, previous: ChainHash) -> bool {
        self.expected
            .is_none_or(|(position, hash)| position == first && hash.is_none_or(|hash| hash == previous))
    }
}

/// Reads at most `bytes` bytes, and none at or after `limit`.
pub(super) fn fill(
    file: &segment::Segment,
    offset: u64,
    bytes: usize,
    limit: u64,
) -> Result<Bytes, ReadError> {
    let bytes = limit.saturating_sub(offset).min(bytes as u64);
    let mut buffer = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut buffer, offset).map_err(|source| file.io_error(source))?;
    buffer.truncate(read);
    Ok(Bytes::from(buffer))
}
