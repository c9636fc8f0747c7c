//! Reads the whole frames of a damaged log.
//!
//! It skips everything between them and reports it as damage. It also reports which damage had been
//! synced, and therefore is not a torn tail. It changes nothing; `repair` decides what to keep.

use std::{fs, io, path::Path};

use bytes::Bytes;

use super::{
    LogOffset, ReadFrame, frame,
    frame_search::FrameSearch,
    segment::{self, Segment},
};

/// A range of bytes that is not a whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged {
    /// The start of the range: a byte offset in the file of the segment.
    pub offset: u64,
    /// The length of the range.
    pub bytes: u64,
}

/// Iterates over all whole frames of one segment, whatever is between them.
#[derive(Debug)]
pub struct Salvage {
    salt: frame::Salt,
    bytes: Bytes,
    /// The end of the segment. A frame whose last bytes are zeros may extend further.
    end: u64,
    place: LogOffset,
    /// The damaged ranges found so far.
    pub damages: Vec<Damaged>,
    /// The start of the first damage that is not known to have been synced.
    damaged: Option<u64>,
    /// Created when the first damage is found.
    search: Option<FrameSearch>,
    synced_damage: Option<LogOffset>,
}

impl Salvage {
    /// Opens a segment. Returns `Ok(None)` if the header of the segment is damaged: without it, no
    /// checksum can be checked.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub fn open(folder: &Path, number: u32) -> io::Result<Option<Self>> {
        let bytes = Bytes::from(fs::read(segment::path(folder, number))?);
        let place = LogOffset { segment: number, offset: segment::HEADER_BYTES };
        Ok(Segment::salt_of(&bytes, number).map(|salt| Self {
            salt,
            end: bytes.len() as u64,
            bytes,
            place,
            damages: Vec::new(),
            damaged: None,
            search: None,
            synced_damage: None,
        }))
    }

    /// Opens the last segment, which may have preallocated space after its frames. See
    /// [`Self::open`].
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub fn open_last(folder: &Path, number: u32) -> io::Result<Option<Self>> {
        let opened = Self::open(folder, number)?;
        Ok(opened.map(|all| Self { end: segment::written(&all.bytes) as u64, ..all }))
    }

    /// Returns, once, the start of damage before the last frame read, if the damaged bytes had been
    /// synced. A group that began after the damage proves that.
    pub fn take_synced_damage(&mut self) -> Option<LogOffset> {
        self.synced_damage.take()
    }

    /// Returns the start of the next whole frame after the current offset, or the end of the
    /// segment.
    fn next_frame(&mut self) -> u64 {
        let end = self.end;
        let search = self.search.get_or_insert_with(|| FrameSearch::new(self.bytes.clone(), self.salt));
        let behind = self.place.offset.saturating_add(1);
        (behind..end).find(|offset| search.whole_frame(*offset).is_some()).unwrap_or(end)
    }

    fn frame_here(&self) -> Option<(ReadFrame, u64)> {
        let offset = usize::try_from(self.place.offset).ok().filter(|offset| *offset < self.bytes.len())?;
        let (header, frame) =
            frame::parse(&self.salt, self.place.offset, &self.bytes.slice(offset..)).ok()?;
        let end = self.place.offset.saturating_add(header.frame_bytes() as u64);
        let read = ReadFrame { frame, start: self.place, end: LogOffset { offset: end, ..self.place } };
        Some((read, header.group_offset))
    }
}

impl Iterator for Salvage {
    type Item = ReadFrame;

    fn next(&mut self) -> Option<ReadFrame> {
        while self.place.offset < self.end {
            if let Some((read, group)) = self.frame_here() {
                self.place = read.end;
                if let Some(offset) = self.damaged.filter(|damaged| group > *damaged) {
                    self.damaged = None;
                    self.synced_damage = Some(LogOffset { offset, ..read.start });
                }
                return Some(read);
            }
            self.damaged.get_or_insert(self.place.offset);
            let (offset, next) = (self.place.offset, self.next_frame());
            self.damages.push(Damaged { offset, bytes: next.saturating_sub(offset) });
            self.place.offset = next;
        }
        None
    }
}
