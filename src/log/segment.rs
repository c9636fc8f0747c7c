//! Segment files: their names, their headers, and the open handles that readers share.
//!
//! A segment is named `{number, 10 digits}.segment`. Numbers start at 1 and have no gaps. The first
//! 64 bytes are the magic `AETHYRLG`, the format version (u32), the number (u32), a random salt (16
//! bytes), the CRC-32C of these (u32), and zeros. The frames follow. In the last segment, more
//! zeros may follow the frames: preallocated space.

use std::{
    collections::BTreeMap,
    fs, io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use bytes::{Buf, Bytes};
use rustix::fs::FallocateFlags;
use uuid::Uuid;

use super::{
    CheckedRecord, Damage, LogOffset, NewerFormat, ReadError, RecordAddress,
    frame::{self, HASH_BYTES, Salt},
};

pub(super) const HEADER_BYTES: u64 = 64;
const MAGIC: &[u8; 8] = b"AETHYRLG";
const VERSION: u32 = 1;
const CHECKED_BYTES: usize = 32;

/// The mode in which a log is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The log is created if it is missing, and can be written.
    ReadWrite,
    /// The disk cannot be written: nothing is created, truncated or removed.
    ReadOnly,
}

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    file: fs::File,
    path: PathBuf,
    salt: Salt,
}

impl Segment {
    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    pub(super) fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    /// Allocates disk space for these bytes, which read as zeros until they are written.
    pub(super) fn allocate(&self, bytes: Range<u64>) -> io::Result<()> {
        let length = bytes.end.saturating_sub(bytes.start);
        let allocate = || rustix::fs::fallocate(&self.file, FallocateFlags::empty(), bytes.start, length);
        Ok(rustix::io::retry_on_intr(allocate)?)
    }

    pub(super) fn length(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len())
    }

    pub(super) fn salt(&self) -> &Salt {
        &self.salt
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads from `offset` until `buffer` is full or the file ends. Returns the number of bytes
    /// read.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(read) => filled = filled.saturating_add(read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    pub(super) fn damage(&self, offset: u64, what: &'static str) -> Damage {
        Damage { file: self.path.clone(), offset, what }
    }

    pub(super) fn newer(&self, offset: u64, what: &'static str, found: u32) -> NewerFormat {
        NewerFormat { file: self.path.clone(), offset, what, found }
    }

    pub(super) fn io_error(&self, source: io::Error) -> ReadError {
        ReadError::Io { file: self.path.clone(), source }
    }

    /// Returns the salt of a whole segment in memory, or `None` if its header is not intact.
    pub(super) fn salt_of(bytes: &[u8], number: u32) -> Option<Salt> {
        parse_header(bytes.get(..HEADER_BYTES as usize)?, number).ok()
    }

    fn create(path: PathBuf, number: u32) -> io::Result<Self> {
        let salt = *Uuid::new_v4().as_bytes();
        let file = fs::File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        file.write_all_at(&header(number, &salt), 0)?;
        Ok(Self { file, path, salt })
    }

    /// Makes the file, its length and its name durable.
    pub(super) fn make_durable(&self) -> io::Result<()> {
        self.file.sync_all()?;
        sync_folder(&self.path)
    }

    /// Like `make_durable`, but with a directory that is already open: only a sync can fail.
    pub(super) fn make_durable_in(&self, folder: &fs::File) -> io::Result<()> {
        self.file.sync_all()?;
        folder.sync_all()
    }

    /// Opens a segment. Returns `Ok(None)` if the file ends within its header, or after a header
    /// that is not intact. A crash during its creation leaves such a file.
    fn open(path: PathBuf, number: u32, access: Access) -> Result<Option<Self>, ReadError> {
        let io_error = |source| ReadError::Io { file: path.clone(), source };
        let writes = access == Access::ReadWrite;
        let file = fs::File::options().read(true).write(writes).open(&path).map_err(io_error)?;
        let mut opened = Self { file, path: path.clone(), salt: [0; 16] };
        let mut bytes = [0; HEADER_BYTES as usize];
        let read = opened.read_at(&mut bytes, 0).map_err(io_error)?;
        // The header was made durable before anything was written after it. If nothing follows, the
        // header may contain anything.
        let ends_here = opened.length().map_err(io_error)? <= HEADER_BYTES;
        if read < bytes.len() || (ends_here && !is_whole(&bytes)) {
            return Ok(None);
        }
        if let Some(version) = newer_version(&bytes) {
            return Err(opened.newer(0, "segment version", version).into());
        }
        opened.salt = parse_header(&bytes, number).map_err(|what| opened.damage(0, what))?;
        Ok(Some(opened))
    }
}

pub(super) fn header(number: u32, salt: &Salt) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES as usize);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(salt);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes.resize(HEADER_BYTES as usize, 0);
    bytes
}

/// Returns the number of bytes of a last segment that may be frames. The bytes after them are
/// zeros, like preallocated space. A frame whose last bytes are zeros extends further.
pub(super) fn written(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1))
}

fn is_whole(header: &[u8]) -> bool {
    header
        .split_at_checked(CHECKED_BYTES)
        .is_some_and(|(checked, mut rest)| rest.try_get_u32_le() == Ok(crc32c::crc32c(checked)))
}

/// Looks for a segment that a newer version of the program has written. Unlike opening the log,
/// this examines all segments, even if some are damaged.
///
/// # Errors
/// Returns an error if there is one, or if a file cannot be read.
pub fn check_versions(folder: &Path) -> Result<(), ReadError> {
    for number in numbers(folder).map_err(|source| ReadError::Io { file: folder.to_owned(), source })? {
        match Segment::open(path(folder, number), number, Access::ReadOnly) {
            Err(error @ (ReadError::Newer(_) | ReadError::Io { .. })) => return Err(error),
            Err(ReadError::Damage(_)) | Ok(_) => {}
        }
    }
    Ok(())
}

/// Returns the format version of an intact header if only a newer version of the program knows it.
fn newer_version(header: &[u8]) -> Option<u32> {
    let mut fields = header.get(..CHECKED_BYTES).filter(|_| is_whole(header))?.strip_prefix(MAGIC)?;
    fields.try_get_u32_le().ok().filter(|version| *version > VERSION)
}

fn parse_header(bytes: &[u8], number: u32) -> Result<Salt, &'static str> {
    let Some((checked, _)) = bytes.split_at_checked(CHECKED_BYTES) else {
        return Err("the segment has no \
     header");
    };
    if !is_whole(bytes) {
        return Err("the segment header has a wrong checksum");
    }
    let mut fields = checked.strip_prefix(MAGIC).ok_or("not a log segment")?;
    if fields.get_u32_le() != VERSION {
        return Err("unknown segment version");
    }
    if fields.get_u32_le() != number {
        return Err("the segment number differs from the file name");
    }
    fields.try_into().map_err(|_| "the segment has no header")
}

/// Syncs the parent directory of a file, which makes the file's name durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_entries)
}

/// Makes the entries of a directory durable.
fn sync_entries(folder: &Path) -> io::Result<()> {
    open_folder(folder)?.sync_all()
}

/// Opens a directory. The empty path is the working directory.
pub(super) fn open_folder(folder: &Path) -> io::Result<fs::File> {
    fs::File::open(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

/// All segments of the log, open for any number of readers.
#[derive(Debug, Default)]
pub struct Segments {
    folder: PathBuf,
    files: RwLock<BTreeMap<u32, Arc<Segment>>>,
}

impl Segments {
    /// Opens the segments in a directory. Creates the directory if it is missing. The last segment
    /// may be unfinished because of a crash during its creation. It never held a frame, and is
    /// removed.
    pub(super) fn open(folder: &Path, access: Access) -> Result<Self, ReadError> {
        let io_error = |source| ReadError::Io { file: folder.to_owned(), source };
        if access == Access::ReadWrite {
            fs::create_dir_all(folder).map_err(io_error)?;
        }
        let numbers = numbers(folder).map_err(io_error)?;
        if numbers.is_empty() && access == Access::ReadWrite {
            // The directory itself and its parents may be new.
            folder.ancestors().take(3).try_for_each(sync_entries).map_err(io_error)?;
        }
        let mut files = BTreeMap::new();
        for (expected, number) in (1..).zip(&numbers) {
            let path = path(folder, *number);
            if expected != *number {
                let what = "a preceding segment is missing";
                return Err(Damage { file: path, offset: 0, what }.into());
            }
            match Segment::open(path.clone(), *number, access)? {
                Some(file) => _ = files.insert(*number, Arc::new(file)),
                None if *number as usize == numbers.len() => match access {
                    Access::ReadWrite => fs::remove_file(&path).map_err(io_error)?,
                    Access::ReadOnly => {}
                },
                None => {
                    let what = "the segment ends within its header";
                    return Err(Damage { file: path, offset: 0, what }.into());
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), files: RwLock::new(files) })
    }

    /// Creates a segment. It must not be written to before it is durable.
    pub(super) fn create(&self, number: u32) -> io::Result<Arc<Segment>> {
        let file = Arc::new(Segment::create(self.path(number), number)?);
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(number, file.clone());
        Ok(file)
    }

    pub(super) fn last_number(&self) -> Option<u32> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).keys().next_back().copied()
    }

    /// Returns the path of a segment, whether it exists or not.
    pub fn path(&self, number: u32) -> PathBuf {
        path(&self.folder, number)
    }

    pub(super) fn file(&self, number: u32) -> io::Result<Arc<Segment>> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let missing =
            || io::Error::new(io::ErrorKind::NotFound, format!("segment {number} of the local log"));
        files.get(&number).cloned().ok_or_else(missing)
    }

    /// Same as [`Self::file`], for a reader: the error names the path.
    pub(super) fn file_to_read(&self, number: u32) -> Result<Arc<Segment>, ReadError> {
        self.file(number).map_err(|source| ReadError::Io { file: self.path(number), source })
    }

    /// Returns the random bytes that only this segment has.
    ///
    /// # Errors
    /// Returns an error if there is no such segment.
    pub fn salt(&self, number: u32) -> io::Result<Salt> {
        self.file(number).map(|file| file.salt)
    }

    /// Returns the total size of the segments in bytes.
    ///
    /// # Errors
    /// Returns an error if the size of a file cannot be determined.
    pub fn byte_count(&self) -> io::Result<u64> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.values().map(|file| file.length()).sum()
    }

    /// Returns the number of bytes of the log before an offset.
    ///
    /// # Errors
    /// Returns an error if the size of a file cannot be determined.
    pub fn bytes_before(&self, place: LogOffset) -> io::Result<u64> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let whole: u64 =
            files.range(..place.segment).map(|(_, file)| file.length()).sum::<io::Result<_>>()?;
        Ok(whole.saturating_add(place.offset))
    }

    /// Reads one record and checks it against the hash that was stored with it.
    ///
    /// # Errors
    /// Returns an error if the record is damaged or cannot be read.
    pub fn read(&self, place: RecordAddress) -> Result<CheckedRecord, ReadError> {
        let run = ReadRange { segment: place.segment, bytes: entry_range(place) };
        self.read_run(run.segment, run.bytes)?.record(place)
    }

    /// Reads records and checks each against the hash that was stored with it. Records that are
    /// close to each other are read together.
    ///
    /// # Errors
    /// Returns an error if one of the records is damaged or cannot be read.
    pub fn read_each(&self, places: &[RecordAddress]) -> Result<Vec<CheckedRecord>, ReadError> {
        let mut records = Vec::with_capacity(places.len());
        let mut rest = places;
        while let Some(first) = rest.first() {
            let mut run = ReadRange { segment: first.segment, bytes: entry_range(*first) };
            let length =
                rest.iter().skip(1).take_while(|place| run.extend(**place)).count().saturating_add(1);
            let (together, behind) = rest.split_at(length);
            let read = self.read_run(run.segment, run.bytes)?;
            for place in together {
                records.push(read.record(*place)?);
            }
            rest = behind;
        }
        Ok(records)
    }

    fn read_run(&self, segment: u32, range: Range<u64>) -> Result<ReadChunk, ReadError> {
        let file = self.file_to_read(segment)?;
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let mut buffer = vec![0; length];
        let read = file.read_at(&mut buffer, range.start).map_err(|source| file.io_error(source))?;
        buffer.truncate(read);
        Ok(ReadChunk { file, start: range.start, bytes: Bytes::from(buffer) })
    }
}

/// Returns the range of a record's entry, including the hash before it.
fn entry_range(place: RecordAddress) -> Range<u64> {
    place.offset.saturating_sub(HASH_BYTES as u64)..place.end().offset
}

/// A part of a segment that is read at once.
struct ReadRange {
    segment: u32,
    bytes: Range<u64>,
}

impl ReadRange {
    /// Extends the run by an entry that begins shortly after its end, or that overlaps it and would
    /// otherwise be read twice. Returns false if the entry is too far away or makes the run too
    /// long.
    fn extend(&mut self, place: RecordAddress) -> bool {
        const GAP_BYTES_MAX: u64 = 4 * 1024;
        const BYTES_MAX: u64 = 256 * 1024;
        let entry = entry_range(place);
        let near = self.bytes.start <= entry.start
            && entry.start <= self.bytes.end.saturating_add(GAP_BYTES_MAX)
            && entry.end.saturating_sub(self.bytes.start) <= BYTES_MAX;
        if place.segment != self.segment || !near {
            return false;
        }
        self.bytes.end = self.bytes.end.max(entry.end);
        true
    }
}

struct ReadChunk {
    file: Arc<Segment>,
    start: u64,
    bytes: Bytes,
}

impl ReadChunk {
    fn record(&self, place: RecordAddress) -> Result<CheckedRecord, ReadError> {
        let entry = entry_range(place);
        let at = |offset: u64| usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let whole =
            (at(entry.end) <= self.bytes.len()).then(|| self.bytes.slice(at(entry.start)..at(entry.end)));
        let (bytes, hash) = whole
            .and_then(frame::parse_entry)
            .ok_or_else(|| self.file.damage(place.offset, "the record does not match its hash"))?;
        Ok(CheckedRecord { bytes, hash })
    }
}

pub(super) fn path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:010}.segment"))
}

/// Returns the salt of a segment in a directory, or `None` if the segment does not exist or its
/// header is not intact.
pub fn salt_in(folder: &Path, number: u32) -> Option<Salt> {
    let mut header = [0; HEADER_BYTES as usize];
    fs::File::open(path(folder, number)).and_then(|file| file.read_exact_at(&mut header, 0)).ok()?;
    Segment::salt_of(&header, number)
}

/// Whether a directory contains segments of a log.
pub fn is_there(folder: &Path) -> bool {
    numbers(folder).is_ok_and(|numbers| !numbers.is_empty())
}

/// Returns the numbers of the segments in a directory, in ascending order.
///
/// # Errors
/// Returns an error if the directory cannot be read.
pub fn numbers(folder: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".segment"));
        numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
