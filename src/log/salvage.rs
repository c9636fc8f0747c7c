//! Reading whatever is whole in a damaged log.

use std::{fs, io, path::Path};

use bytes::Bytes;

use super::{
    Place, ReadFrame, frame,
    frame_search::FrameSearch,
    segment::{self, File},
};

/// Bytes that were no whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged {
    pub offset: u64,
    pub bytes: u64,
}

/// All whole frames of one segment, whatever lies between them.
#[derive(Debug)]
pub struct Salvage {
    salt: frame::Salt,
    bytes: Bytes,
    /// Where the segment's end is; a frame whose last bytes are zeros may reach further.
    end: u64,
    place: Place,
    /// What was no whole frame, so far.
    pub damages: Vec<Damaged>,
    /// Where the last of them began, until it is known whether they were synced.
    damaged: Option<u64>,
    /// Made where the first of them is met.
    search: Option<FrameSearch>,
    synced_damage: Option<Place>,
}

impl Salvage {
    /// `Ok(None)`: the segment's header is damaged, and with it the key to all checksums.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn open(folder: &Path, number: u32) -> io::Result<Option<Self>> {
        let bytes = Bytes::from(fs::read(segment::path(folder, number))?);
        let place = Place { segment: number, offset: segment::HEADER_BYTES };
        Ok(File::salt_of(&bytes, number).map(|salt| Self {
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

    /// The same of the last segment, which may have space for more behind its frames.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn open_last(folder: &Path, number: u32) -> io::Result<Option<Self>> {
        let opened = Self::open(folder, number)?;
        Ok(opened.map(|all| Self { end: segment::written(&all.bytes) as u64, ..all }))
    }

    /// Damage before the frame that was read last, which a later group than the damaged one shows to have
    /// been synced once.
    pub fn take_synced_damage(&mut self) -> Option<Place> {
        self.synced_damage.take()
    }

    /// Where the next whole frame behind this place begins, or the segment ends.
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
        let read = ReadFrame { frame, start: self.place, end: Place { offset: end, ..self.place } };
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
                    self.synced_damage = Some(Place { offset, ..read.start });
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
