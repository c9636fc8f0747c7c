//! Segment files: their names, their headers, and the open handles that readers share.
//!
//! A segment is `{number, 10 digits}.segment`, numbered from 1 without a gap. Its first 64 bytes are
//! the magic `AETHYRLG`, the format version (u32), the number (u32), a random salt (16 bytes), the CRC-32C
//! of these (u32), and zeros. The frames follow. Behind those of the last segment there may be more zeros: space that is
//! allocated already.

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
    CheckedRecord, Damage, Place, ReadError, RecordPlace,
    frame::{self, HASH_BYTES, Salt},
};

pub(super) const HEADER_BYTES: u64 = 64;
const MAGIC: &[u8; 8] = b"AETHYRLG";
const VERSION: u32 = 1;
const CHECKED_BYTES: usize = 32;

/// What a log is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    ReadWrite,
    /// The disk can't be written: nothing is made, cut or removed.
    ReadOnly,
}

/// An open segment.
#[derive(Debug)]
pub(super) struct File {
    file: fs::File,
    path: PathBuf,
    salt: Salt,
}

impl File {
    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    pub(super) fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    /// Has space for these bytes on the disk, which read as zeros until they are written.
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

    /// Fills as much of `buffer` from `offset` on as the file has.
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
        Damage { file: self.path.display().to_string(), offset, what }
    }

    pub(super) fn io_error(&self, source: io::Error) -> ReadError {
        ReadError::Io { file: self.path.display().to_string(), source }
    }

    /// The salt of a whole segment in memory, if its header is whole.
    pub(super) fn salt_of(bytes: &[u8], number: u32) -> Option<Salt> {
        parse_header(bytes.get(..HEADER_BYTES as usize)?, number).ok()
    }

    fn create(path: PathBuf, number: u32) -> io::Result<Self> {
        let salt = *Uuid::new_v4().as_bytes();
        let file = fs::File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        file.write_all_at(&header(number, &salt), 0)?;
        Ok(Self { file, path, salt })
    }

    /// The file, its length and its name.
    pub(super) fn make_durable(&self) -> io::Result<()> {
        self.file.sync_all()?;
        sync_folder(&self.path)
    }

    /// The same with its folder, which is open: nothing fails but a sync.
    pub(super) fn make_durable_in(&self, folder: &fs::File) -> io::Result<()> {
        self.file.sync_all()?;
        folder.sync_all()
    }

    /// `Ok(None)`: the file ends within the header, as a crash while it was made leaves it.
    fn open(path: PathBuf, number: u32, access: Access) -> Result<Option<Self>, ReadError> {
        let io_error = |source| ReadError::Io { file: path.display().to_string(), source };
        let writes = access == Access::ReadWrite;
        let file = fs::File::options().read(true).write(writes).open(&path).map_err(io_error)?;
        let mut opened = Self { file, path: path.clone(), salt: [0; 16] };
        let mut bytes = [0; HEADER_BYTES as usize];
        let read = opened.read_at(&mut bytes, 0).map_err(io_error)?;
        // The header was durable before anything was written behind it: where nothing is, it may be anything.
        let ends_here = opened.length().map_err(io_error)? <= HEADER_BYTES;
        if read < bytes.len() || (ends_here && !is_whole(&bytes)) {
            return Ok(None);
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

/// How many bytes of a last segment may be frames: those behind are zeros, as space that was allocated for more reads.
/// A frame whose last bytes are zeros reaches further.
pub(super) fn written(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1))
}

fn is_whole(header: &[u8]) -> bool {
    header
        .split_at_checked(CHECKED_BYTES)
        .is_some_and(|(checked, mut rest)| rest.try_get_u32_le() == Ok(crc32c::crc32c(checked)))
}

fn parse_header(bytes: &[u8], number: u32) -> Result<Salt, &'static str> {
    let Some((checked, _)) = bytes.split_at_checked(CHECKED_BYTES) else { return Err("no header") };
    if !is_whole(bytes) {
        return Err("the header's checksum is wrong");
    }
    let mut fields = checked.strip_prefix(MAGIC).ok_or("no segment of a local log")?;
    if fields.get_u32_le() != VERSION {
        return Err("a segment of an unknown version");
    }
    if fields.get_u32_le() != number {
        return Err("the segment has another number than its name says");
    }
    fields.try_into().map_err(|_| "no header")
}

/// A file's name becomes durable with its folder.
fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_entries)
}

/// Makes durable what a folder contains.
fn sync_entries(folder: &Path) -> io::Result<()> {
    open_folder(folder)?.sync_all()
}

/// The empty path is the working directory.
pub(super) fn open_folder(folder: &Path) -> io::Result<fs::File> {
    fs::File::open(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

/// All segments of the log, open for any number of readers.
#[derive(Debug, Default)]
pub struct Segments {
    files: RwLock<BTreeMap<u32, Arc<File>>>,
}

impl Segments {
    /// Opens what is in the folder, which is made if it is missing. The last segment may be one that
    /// a crash kept from being made whole: it never held a frame, and is removed.
    pub(super) fn open(folder: &Path, access: Access) -> Result<Self, ReadError> {
        let io_error = |source| ReadError::Io { file: folder.display().to_string(), source };
        if access == Access::ReadWrite {
            fs::create_dir_all(folder).map_err(io_error)?;
        }
        let numbers = numbers(folder).map_err(io_error)?;
        if numbers.is_empty() && access == Access::ReadWrite {
            // The folder itself may be new, and those above it.
            folder.ancestors().take(3).try_for_each(sync_entries).map_err(io_error)?;
        }
        let mut files = BTreeMap::new();
        for (expected, number) in (1..).zip(&numbers) {
            let path = path(folder, *number);
            if expected != *number {
                let what = "a segment before this one is missing";
                return Err(Damage { file: path.display().to_string(), offset: 0, what }.into());
            }
            match File::open(path.clone(), *number, access)? {
                Some(file) => _ = files.insert(*number, Arc::new(file)),
                None if *number as usize == numbers.len() => match access {
                    Access::ReadWrite => fs::remove_file(&path).map_err(io_error)?,
                    Access::ReadOnly => {}
                },
                None => {
                    let what = "the segment ends in its header";
                    return Err(Damage { file: path.display().to_string(), offset: 0, what }.into());
                }
            }
        }
        Ok(Self { files: RwLock::new(files) })
    }

    /// Makes a segment. It may only be written to once it was made durable.
    pub(super) fn create(&self, folder: &Path, number: u32) -> io::Result<Arc<File>> {
        let file = Arc::new(File::create(path(folder, number), number)?);
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(number, file.clone());
        Ok(file)
    }

    pub(super) fn last_number(&self) -> Option<u32> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).keys().next_back().copied()
    }

    pub(super) fn file(&self, number: u32) -> io::Result<Arc<File>> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let missing =
            || io::Error::new(io::ErrorKind::NotFound, format!("segment {number} of the local log"));
        files.get(&number).cloned().ok_or_else(missing)
    }

    /// The random bytes that only this segment has.
    ///
    /// # Errors
    /// There is no such segment.
    pub fn salt(&self, number: u32) -> io::Result<Salt> {
        self.file(number).map(|file| file.salt)
    }

    /// Bytes of the segments up to the last.
    ///
    /// # Errors
    /// A file can't be asked.
    pub fn byte_count(&self) -> io::Result<u64> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.values().map(|file| file.length()).sum()
    }

    /// Bytes of the log that lie before a place.
    ///
    /// # Errors
    /// A file can't be asked.
    pub fn bytes_before(&self, place: Place) -> io::Result<u64> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let whole: u64 =
            files.range(..place.segment).map(|(_, file)| file.length()).sum::<io::Result<_>>()?;
        Ok(whole.saturating_add(place.offset))
    }

    /// Reads one record and checks it against the hash that was stored with it.
    ///
    /// # Errors
    /// It is damaged, or can't be read.
    pub fn read(&self, place: RecordPlace) -> Result<CheckedRecord, ReadError> {
        let run = Run { segment: place.segment, bytes: entry_range(place) };
        self.read_run(run.segment, run.bytes)?.record(place)
    }

    /// Reads records and checks each against the hash that was stored with it. Neighbours are read at once.
    ///
    /// # Errors
    /// One of them is damaged, or can't be read.
    pub fn read_each(&self, places: &[RecordPlace]) -> Result<Vec<CheckedRecord>, ReadError> {
        let mut records = Vec::with_capacity(places.len());
        let mut rest = places;
        while let Some(first) = rest.first() {
            let mut run = Run { segment: first.segment, bytes: entry_range(*first) };
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

    fn read_run(&self, segment: u32, range: Range<u64>) -> Result<ReadRun, ReadError> {
        let file = self
            .file(segment)
            .map_err(|source| ReadError::Io { file: format!("segment {segment}"), source })?;
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let mut buffer = vec![0; length];
        let read = file.read_at(&mut buffer, range.start).map_err(|source| file.io_error(source))?;
        buffer.truncate(read);
        Ok(ReadRun { file, start: range.start, bytes: Bytes::from(buffer) })
    }
}

/// Where a record's entry lies, with the hash before it.
fn entry_range(place: RecordPlace) -> Range<u64> {
    place.offset.saturating_sub(HASH_BYTES as u64)..place.end().offset
}

/// A part of a segment that is read at once.
struct Run {
    segment: u32,
    bytes: Range<u64>,
}

impl Run {
    /// Takes in an entry that begins close behind the end, or would be read twice.
    fn extend(&mut self, place: RecordPlace) -> bool {
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

struct ReadRun {
    file: Arc<File>,
    start: u64,
    bytes: Bytes,
}

impl ReadRun {
    fn record(&self, place: RecordPlace) -> Result<CheckedRecord, ReadError> {
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

/// The salt of a segment in a folder; `None`: it is not there, or its header is not whole.
pub fn salt_in(folder: &Path, number: u32) -> Option<Salt> {
    let mut header = [0; HEADER_BYTES as usize];
    fs::File::open(path(folder, number)).and_then(|file| file.read_exact_at(&mut header, 0)).ok()?;
    File::salt_of(&header, number)
}

/// Whether a folder has segments of a log.
pub fn is_there(folder: &Path) -> bool {
    numbers(folder).is_ok_and(|numbers| !numbers.is_empty())
}

/// The numbers of the segments in a folder, in order.
///
/// # Errors
/// The folder can't be read.
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
