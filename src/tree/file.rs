//! The file of the tree: a header, and a record for each node.
//!
//! The header has 48 bytes: the magic `AETHYRTR`, the format version (u32), the id of the log (16
//! bytes), a random salt (16 bytes) and the CRC-32C of these (u32). It is durable before the file
//! has its name. A record has 36 bytes: the hash, and the CRC-32C of the salt, the number of the
//! record (u64) and the hash. The numbers are little-endian.
//!
//! Records are appended without a sync: `layout` says which node a record has.

use std::{
    fs,
    io::{self, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::{Buf, BufMut};
use tracing::{info, warn};
use uuid::Uuid;

use super::error::TreeFileError;
use crate::merkle::Hash;

const MAGIC: &[u8; 8] = b"AETHYRTR";
/// Version 1 had no nodes below 256 leaves.
const VERSION: u32 = 2;
pub(super) const HEADER_BYTES: u64 = 48;
const CHECKED_BYTES: usize = 44;
pub(super) const RECORD_BYTES: u64 = 36;

/// Part of all checksums, so that no record of a former file passes for one of this file.
type Salt = [u8; 16];

/// The open file.
#[derive(Debug)]
pub(super) struct TreeFile {
    file: fs::File,
    path: PathBuf,
    salt: Salt,
}

/// What the beginning of a file says.
#[derive(Debug, PartialEq, Eq)]
enum Header {
    /// A file of this version.
    Known { log: Uuid, salt: Salt },
    /// A file of an earlier version, which has other nodes.
    Older { version: u32 },
    /// A file of a newer version.
    Newer { version: u32 },
    /// A file with a damaged or incomplete header.
    Damaged,
    /// A file of something else.
    Foreign,
}

impl Header {
    fn parse(bytes: &[u8]) -> Self {
        if !bytes.iter().zip(MAGIC).all(|(found, expected)| found == expected) {
            return Self::Foreign;
        }
        let Some((checked, mut checksum)) = bytes.split_at_checked(CHECKED_BYTES) else {
            return Self::Damaged;
        };
        if checksum.try_get_u32_le() != Ok(crc32c::crc32c(checked)) {
            return Self::Damaged;
        }
        let mut fields = checked.get(MAGIC.len()..).unwrap_or_default();
        let version = fields.get_u32_le();
        let [mut log, mut salt] = [[0; 16]; 2];
        fields.copy_to_slice(&mut log);
        fields.copy_to_slice(&mut salt);
        match version {
            0 => Self::Damaged,
            VERSION => Self::Known { log: Uuid::from_bytes(log), salt },
            version if version < VERSION => Self::Older { version },
            version => Self::Newer { version },
        }
    }
}

impl TreeFile {
    /// Opens the file of the log with this id. Creates it if it is missing, if its header is
    /// damaged or if it is of an earlier version.
    pub(super) fn open(path: &Path, log: Uuid) -> Result<Self, TreeFileError> {
        let io_error = |source| TreeFileError::Io { file: path.to_owned(), source };
        let file = match fs::File::options().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Self::create(path, log).map_err(io_error);
            }
            Err(error) => return Err(io_error(error)),
        };
        let mut header = [0; HEADER_BYTES as usize];
        let length = file.metadata().map_err(io_error)?.len().min(HEADER_BYTES);
        let header = header.get_mut(..usize::try_from(length).unwrap_or(0)).unwrap_or_default();
        file.read_exact_at(header, 0).map_err(io_error)?;
        match Header::parse(header) {
            Header::Known { log: found, salt } if found == log => {
                Ok(Self { file, path: path.to_owned(), salt })
            }
            Header::Known { log: found, .. } => {
                Err(TreeFileError::AnotherLog { file: path.to_owned(), expected: log, found })
            }
            Header::Newer { version } => Err(TreeFileError::Newer { file: path.to_owned(), found: version }),
            Header::Foreign => Err(TreeFileError::NotATree { file: path.to_owned() }),
            Header::Older { version } => {
                info!(file = %path.display(), version, "the tree file is of an earlier version; the tree is \
                      rebuilt");
                Self::create(path, log).map_err(io_error)
            }
            Header::Damaged => {
                warn!(file = %path.display(), "the header of the tree file is damaged; the tree is rebuilt");
                Self::create(path, log).map_err(io_error)
            }
        }
    }

    /// Creates the file, in one step, in the place of a damaged one.
    fn create(path: &Path, log: Uuid) -> io::Result<Self> {
        let salt = *Uuid::new_v4().as_bytes();
        let mut header = Vec::with_capacity(HEADER_BYTES as usize);
        header.put_slice(MAGIC);
        header.put_u32_le(VERSION);
        header.put_slice(log.as_bytes());
        header.put_slice(&salt);
        header.put_u32_le(crc32c::crc32c(&header));
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let mut file =
            fs::File::options().read(true).write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all(&header)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        Ok(Self { file, path: path.to_owned(), salt })
    }

    /// Returns the path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of whole records, by the length of the file.
    pub(super) fn record_count(&self) -> Result<u64, TreeFileError> {
        let length = self.file.metadata().map_err(|source| self.io_error(source))?.len();
        Ok(length.saturating_sub(HEADER_BYTES) / RECORD_BYTES)
    }

    /// Returns whether none of these records is damaged.
    pub(super) fn has_all(&self, mut records: Range<u64>) -> Result<bool, TreeFileError> {
        records.try_fold(true, |has_all, record| Ok(has_all && self.read(record)?.is_some()))
    }

    /// Returns the hash in a record, or `None` if the record is damaged or missing.
    pub(super) fn read(&self, record: u64) -> Result<Option<Hash>, TreeFileError> {
        let mut bytes = [0; RECORD_BYTES as usize];
        match self.file.read_exact_at(&mut bytes, offset(record)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(source) => return Err(self.io_error(source)),
        }
        let Some((hash, mut checksum)) = bytes.split_first_chunk::<32>() else { return Ok(None) };
        Ok((checksum.try_get_u32_le() == Ok(self.checksum(record, hash))).then_some(*hash))
    }

    /// Writes records from this number on.
    pub(super) fn write(&self, first: u64, hashes: &[Hash]) -> Result<(), TreeFileError> {
        let mut bytes = Vec::with_capacity(hashes.len().saturating_mul(RECORD_BYTES as usize));
        for (record, hash) in (first..).zip(hashes) {
            bytes.put_slice(hash);
            bytes.put_u32_le(self.checksum(record, hash));
        }
        self.file.write_all_at(&bytes, offset(first)).map_err(|source| self.io_error(source))
    }

    /// Removes everything behind this number of records, durably: after a power cut, none of it may
    /// be between newer records.
    pub(super) fn truncate(&self, record_count: u64) -> Result<(), TreeFileError> {
        let end = offset(record_count);
        let length = self.file.metadata().map_err(|source| self.io_error(source))?.len();
        if length <= end {
            return Ok(());
        }
        let truncated = self.file.set_len(end).and_then(|()| self.file.sync_all());
        truncated.map_err(|source| self.io_error(source))
    }

    fn checksum(&self, record: u64, hash: &Hash) -> u32 {
        let checksum = crc32c::crc32c(&self.salt);
        crc32c::crc32c_append(crc32c::crc32c_append(checksum, &record.to_le_bytes()), hash)
    }

    fn io_error(&self, source: io::Error) -> TreeFileError {
        TreeFileError::Io { file: self.path.clone(), source }
    }
}

/// Returns the byte offset of a record.
pub(super) fn offset(record: u64) -> u64 {
    record.saturating_mul(RECORD_BYTES).saturating_add(HEADER_BYTES)
}
