//! A file of the index: immutable, and derived from a part of the log.
//!
//! The file begins with blocks of 4096 bytes. A block holds entries, then zeros, and in its last
//! four bytes the CRC-32C of the file's salt, the block's offset and the bytes before. An entry is
//! the lengths of its key and its value (varints), the key and the value. After the blocks come the
//! words of a Bloom filter, a `Footer` in the format of `postcard`, and 24 bytes: the footer's
//! length, its CRC-32C, the format version, the CRC-32C of these three (each u32), and the magic
//! `AETHYRIX`. These numbers are little-endian.

use std::{
    fs,
    io::{self, Write},
    iter,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::{Buf, BufMut, Bytes};
use fastbloom::BloomFilter;
use prost::encoding::{decode_varint, encode_varint};
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use super::{
    Complete, Continued, Totals,
    entry::{Entry, filtered},
    error::{TableError, TableFault},
    source::EntrySource,
};
use crate::{event::Position, log::LogOffset};

const MAGIC: &[u8; 8] = b"AETHYRIX";
/// Must also be increased if the filter library sets different bits for a key.
const VERSION: u32 = 2;
const TAIL_BYTES: usize = 24;
const BLOCK_BYTES: usize = 4096;
/// The size of a block without its checksum.
const PAYLOAD_BYTES: usize = BLOCK_BYTES - 4;

/// The filter's bits for each key, and the number of bits that a key sets. This gives about one
/// false positive per 300 absent keys.
const FILTER_BITS: usize = 12;
const FILTER_HASHES: u32 = 8;

/// The key of all hashes of an index. Clients choose the ids, and must not be able to choose ids
/// whose hashes collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seed(pub [u8; 16]);

impl Seed {
    pub(super) fn random() -> Self {
        Self(*uuid::Uuid::new_v4().as_bytes())
    }

    pub(super) fn hash(&self, bytes: &[u8]) -> u64 {
        SipHasher13::new_with_key(&self.0).hash(bytes)
    }
}

/// Describes the contents of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Summary {
    /// The file covers the frames from here up to the end of `complete`.
    pub from: LogOffset,
    /// The last event before `from`.
    pub after: Continued,
    pub complete: Complete,
    /// The totals up to the end of `complete`.
    pub totals: Totals,
    /// The salts of the segments in which the file's part begins and ends.
    pub salts: [[u8; 16]; 2],
    pub seed: Seed,
    /// The number of events in the file.
    pub events: u64,
    /// The transactions of earlier files after this position are no longer valid.
    pub transactions_lost: Option<Position>,
}

/// The metadata at the end of a file.
#[derive(Serialize, Deserialize)]
struct Footer {
    summary: Summary,
    /// Part of every checksum in the file.
    salt: u64,
    /// The first key of each block.
    fences: Vec<Box<[u8]>>,
    /// The number of 64-bit words of the filter.
    filter_words: u64,
    filter_checksum: u32,
}

type KeyAndValue<'b> = (&'b [u8], &'b [u8]);

/// An open file.
#[derive(Debug)]
pub(super) struct Table {
    path: PathBuf,
    file: fs::File,
    pub summary: Summary,
    salt: u64,
    fences: Vec<Box<[u8]>>,
    filter: BloomFilter,
}

impl Table {
    /// Opens a file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, is damaged, or has an unsupported version.
    pub(super) fn of(path: &Path, file: fs::File) -> Result<Self, TableError> {
        let faulty = |fault| TableError { file: path.to_owned(), fault };
        let error = |what| faulty(TableFault::Invalid(what));
        let bytes = file.metadata().map_err(|source| faulty(source.into()))?.len();
        // Reads the last `length` bytes before an offset, and never more than the file has, even if
        // a damaged length says so.
        let read_before = |end: u64, length: u64| {
            let start = end.checked_sub(length).ok_or(error("the file is truncated"))?;
            let mut buffer = vec![0; usize::try_from(length).map_err(|_| error("the file is truncated"))?];
            file.read_exact_at(&mut buffer, start).map_err(|source| faulty(source.into()))?;
            Ok::<_, TableError>((start, buffer))
        };
        let (tail_offset, tail) = read_before(bytes, TAIL_BYTES as u64)?;
        let mut tail = tail.strip_suffix(MAGIC).ok_or(error("not an index file"))?;
        let tail_checksum = tail.get(..12).map(crc32c::crc32c);
        let (length, checksum, version) = (tail.get_u32_le(), tail.get_u32_le(), tail.get_u32_le());
        if tail_checksum != Some(tail.get_u32_le()) {
            return Err(error("the trailer has a wrong checksum"));
        }
        if version != VERSION {
            return Err(error("unsupported file version"));
        }
        let (footer_offset, footer) = read_before(tail_offset, length.into())?;
        if crc32c::crc32c(&footer) != checksum {
            return Err(error("the footer has a wrong checksum"));
        }
        let no_footer = |_| error("the footer is invalid");
        let Footer { summary, salt, fences, filter_words, filter_checksum } =
            postcard::from_bytes(&footer).map_err(no_footer)?;
        let (_, filter) = read_before(footer_offset, filter_words.saturating_mul(8))?;
        if crc32c::crc32c(&filter) != filter_checksum || filter.is_empty() {
            return Err(error("the Bloom filter has a wrong checksum"));
        }
        let words = filter.chunks_exact(8).map(|mut word| word.get_u64_le()).collect();
        let filter = BloomFilter::from_vec(words).hashes(FILTER_HASHES);
        Ok(Self { path: path.to_owned(), file, summary, salt, fences, filter })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of keys for which the filter was sized, or slightly more.
    pub(super) fn filtered_max(&self) -> u64 {
        (self.filter.num_bits() / FILTER_BITS) as u64
    }

    pub(super) fn byte_count(&self) -> u64 {
        (self.fences.len() as u64).saturating_mul(BLOCK_BYTES as u64)
    }

    /// Returns the part of the log that the file covers: its start and its end.
    pub(super) fn range(&self) -> (LogOffset, LogOffset) {
        (self.summary.from, self.summary.complete.tip.end)
    }

    /// Returns all entries. Reads many blocks at once.
    pub(super) fn all(&self) -> impl Iterator<Item = Result<Entry, TableError>> + use<'_> {
        const AT_ONCE: usize = 64;
        let runs = (0..self.fences.len()).step_by(AT_ONCE);
        runs.flat_map(move |first| {
            let count = self.fences.len().saturating_sub(first).min(AT_ONCE);
            match self.blocks(first, count) {
                Ok(blocks) => blocks.into_iter().flat_map(|block| self.entries(Ok(block))).collect(),
                Err(error) => vec![Err(error)],
            }
        })
    }

    /// Returns the last block whose first key is not greater than `key`.
    fn block_with(&self, key: &[u8]) -> Option<usize> {
        self.fences.partition_point(|fence| **fence <= *key).checked_sub(1)
    }

    /// Returns a block without its checksum.
    fn block(&self, number: usize) -> Result<Bytes, TableError> {
        Ok(self.blocks(number, 1)?.pop().unwrap_or_default())
    }

    fn blocks(&self, first: usize, count: usize) -> Result<Vec<Bytes>, TableError> {
        let mut bytes = vec![0; count.saturating_mul(BLOCK_BYTES)];
        let start = (first as u64).saturating_mul(BLOCK_BYTES as u64);
        self.file.read_exact_at(&mut bytes, start).map_err(|source| self.faulty(source.into()))?;
        let mut bytes = Bytes::from(bytes);
        let checked = (start..).step_by(BLOCK_BYTES).take(count).map(|offset| {
            let mut block = bytes.split_to(BLOCK_BYTES.min(bytes.len()));
            let mut stored = block.split_off(PAYLOAD_BYTES.min(block.len()));
            if stored.try_get_u32_le() == Ok(checksum(self.salt, offset, &block)) {
                Ok(block)
            } else {
                Err(self.faulty(TableFault::Block { offset }))
            }
        });
        checked.collect()
    }

    fn entries(&self, block: Result<Bytes, TableError>) -> Vec<Result<Entry, TableError>> {
        let block = match block {
            Ok(block) => block,
            Err(error) => return vec![Err(error)],
        };
        let mut rest = &*block;
        let entries = iter::from_fn(|| {
            let entry = self.next_entry(&mut rest).transpose()?;
            Some(entry.map(|(key, value)| Entry { key: block.slice_ref(key), value: block.slice_ref(value) }))
        });
        entries.collect()
    }

    /// Returns the key and the value of the next entry in a block, or `None` at its end.
    fn next_entry<'b>(&self, rest: &mut &'b [u8]) -> Result<Option<KeyAndValue<'b>>, TableError> {
        if rest.first().is_none_or(|length| *length == 0) {
            return Ok(None);
        }
        take_entry(rest).map(Some).ok_or_else(|| self.error("an entry is invalid"))
    }

    fn faulty(&self, fault: TableFault) -> TableError {
        TableError { file: self.path.clone(), fault }
    }
}

impl EntrySource for Table {
    fn may_have(&self, hash: u64) -> bool {
        self.filter.contains_hash(hash)
    }

    fn last_up_to(&self, key: &[u8]) -> Result<Option<Entry>, TableError> {
        let Some(number) = self.block_with(key) else { return Ok(None) };
        let block = self.block(number)?;
        let (mut rest, mut found) = (&*block, None);
        while let Some(entry) = self.next_entry(&mut rest)?.filter(|(found, _)| *found <= key) {
            found = Some(entry);
        }
        Ok(found.map(|(key, value)| Entry { key: block.slice_ref(key), value: block.slice_ref(value) }))
    }

    fn entries_from<'s>(&'s self, key: &[u8]) -> Box<dyn Iterator<Item = Result<Entry, TableError>> + 's> {
        let first = self.block_with(key).unwrap_or(0);
        let key = key.to_vec();
        let entries = (first..self.fences.len()).flat_map(|number| self.entries(self.block(number)));
        Box::new(entries.skip_while(move |entry| entry.as_ref().is_ok_and(|entry| *entry.key < *key)))
    }

    fn transactions_lost(&self) -> Option<Position> {
        self.summary.transactions_lost
    }

    fn error(&self, what: &'static str) -> TableError {
        self.faulty(TableFault::Invalid(what))
    }
}

fn take_entry<'b>(rest: &mut &'b [u8]) -> Option<KeyAndValue<'b>> {
    let [key, value] = [decode_varint(rest).ok()?, decode_varint(rest).ok()?];
    let (key, behind) = rest.split_at_checked(usize::try_from(key).ok()?)?;
    let (value, behind) = behind.split_at_checked(usize::try_from(value).ok()?)?;
    *rest = behind;
    Some((key, value))
}

fn checksum(salt: u64, offset: u64, payload: &[u8]) -> u32 {
    let checksum = crc32c::crc32c(&salt.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(checksum, &offset.to_le_bytes()), payload)
}

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum TableWriteError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file from which it is made cannot be used.
    #[error(transparent)]
    Source(#[from] TableError),
    #[error("interrupted by a task of higher priority")]
    Ended,
}

/// Writes a whole file. The entries must be sorted by key. At most `filtered_max` of them may go
/// into the filter.
///
/// # Errors
/// Returns an error if the file cannot be written, or if the files from which it is made cannot be
/// read.
pub(super) fn write(
    summary: &Summary,
    filtered_max: u64,
    entries: impl Iterator<Item = Result<Entry, TableWriteError>>,
    mut out: impl Write,
) -> Result<(), TableWriteError> {
    let salt = uuid::Uuid::new_v4().as_u64_pair().0;
    let bits = usize::try_from(filtered_max).unwrap_or(usize::MAX).saturating_mul(FILTER_BITS).max(64);
    let mut filter = BloomFilter::with_num_bits(bits).hashes(FILTER_HASHES);
    let (mut fences, mut block) = (Vec::new(), Vec::with_capacity(BLOCK_BYTES));
    let mut offset = 0u64;
    let mut end_block = |block: &mut Vec<u8>| {
        block.resize(PAYLOAD_BYTES, 0);
        block.put_u32_le(checksum(salt, offset, block));
        offset = offset.saturating_add(BLOCK_BYTES as u64);
        out.write_all(block)?;
        block.clear();
        Ok::<_, io::Error>(())
    };
    let mut bytes = Vec::new();
    for entry in entries {
        let Entry { key, value } = entry?;
        if let Some(filtered) = filtered(&key) {
            filter.insert_hash(summary.seed.hash(filtered));
        }
        bytes.clear();
        encode_varint(key.len() as u64, &mut bytes);
        encode_varint(value.len() as u64, &mut bytes);
        bytes.extend_from_slice(&key);
        bytes.extend_from_slice(&value);
        if block.len().saturating_add(bytes.len()) > PAYLOAD_BYTES {
            end_block(&mut block)?;
        }
        if block.is_empty() {
            fences.push(Box::from(&*key));
        }
        block.extend_from_slice(&bytes);
    }
    if !block.is_empty() {
        end_block(&mut block)?;
    }
    let words: Vec<u8> = filter.as_slice().iter().flat_map(|word| word.to_le_bytes()).collect();
    out.write_all(&words)?;
    let (filter_words, filter_checksum) = (filter.as_slice().len() as u64, crc32c::crc32c(&words));
    let summary = summary.clone();
    let footer = Footer { summary, salt, fences, filter_words, filter_checksum };
    let footer = postcard::to_stdvec(&footer).map_err(io::Error::other)?;
    let (length, checksum) = (u32::try_from(footer.len()).unwrap_or(u32::MAX), crc32c::crc32c(&footer));
    out.write_all(&footer)?;
    let mut tail = Vec::with_capacity(TAIL_BYTES);
    [length, checksum, VERSION].into_iter().for_each(|number| tail.put_u32_le(number));
    tail.put_u32_le(crc32c::crc32c(&tail));
    tail.put_slice(MAGIC);
    out.write_all(&tail)?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{ChainHash, ContentDigest, EventId},
        index::StoredId,
        log::RecordAddress,
    };

    /// Later programs must be able to read files written by earlier ones. If a library changes its
    /// output, the version of the format must be increased.
    #[test]
    fn a_file_of_this_version_is_read_by_each_program_of_it() {
        let seed = Seed(*b"sixteen bytes...");
        let summary = Summary {
            from: LogOffset::START,
            after: Continued { position: Position(4), hash: ChainHash([5; 32]) },
            complete: Complete { aggregates: 7, ..Complete::default() },
            totals: Totals { event_types: [("Type".into(), 3)].into(), ..Totals::default() },
            salts: [[1; 16], [2; 16]],
            seed,
            events: 3,
            transactions_lost: Some(Position(5)),
        };
        let place = RecordAddress { segment: 1, offset: 64, length: 300 };
        let ids = (0..100u8).map(|number| EventId::from(uuid::Uuid::from_bytes([number; 16])));
        let entries = ids.map(|id| Ok(StoredId::new(place, ContentDigest([3; 32])).entry(id)));
        let mut bytes = Vec::new();
        write(&summary, 100, entries, &mut bytes).unwrap();
        let filter = crc32c::crc32c(&bytes[4096..4096 + 152]);
        let summary = crc32c::crc32c(&postcard::to_stdvec(&summary).unwrap());
        assert_eq!(
            (filter, seed.hash(b"room-1"), summary),
            (2_753_800_213, 7_193_334_595_656_419_926, 383_466_837)
        );
    }
}
