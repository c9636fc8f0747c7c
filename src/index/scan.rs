//! Finds the index files in a directory at startup, and decides which of them can be trusted.
//!
//! A file is used only if it was derived from this log and from its current history. The module
//! also tells how far the log has certainly gone, to detect an old or damaged log. Unusable files
//! are left to be rebuilt.

use std::{
    cmp::Reverse,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::warn;

use super::{
    Continued,
    error::TableError,
    folder::{EXTENSION, TIP},
    source,
    table::Table,
};
use crate::{
    event::{ChainHash, Position},
    log::{Cursor, Frame, LogOffset, ReadError, Segments, Tip, segment_salt},
};

/// How far the log has certainly gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownLogEnd {
    /// The log reached at least this offset.
    pub end: LogOffset,
    /// The position of the last event before that offset.
    pub position: Position,
    /// The chain hash of the event at that position.
    pub hash: ChainHash,
    /// Segments and their salts.
    salts: [(u32, [u8; 16]); 2],
}

/// The contents of the directory.
#[derive(Debug, Default)]
pub struct IndexScan {
    pub(super) tables: Vec<Arc<Table>>,
    /// Files that could not be opened. They may be intact, so they are not removed.
    pub(super) unopened: Vec<PathBuf>,
    /// How far the log went according to each file and to the note.
    seen: Vec<KnownLogEnd>,
}

impl IndexScan {
    /// Reads the directory. Unusable files are only logged here and are rebuilt later.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be read.
    pub fn read_folder(folder: &Path) -> io::Result<Self> {
        let mut found = Self::default();
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != EXTENSION) {
                continue;
            }
            let opened = match fs::File::open(&path) {
                Ok(file) => Table::of(&path, file),
                Err(error) => {
                    warn!(%error, file = %path.display(), "cannot open an index file; it is rebuilt");
                    found.unopened.push(path);
                    continue;
                }
            };
            match opened {
                Ok(table) => found.tables.push(Arc::new(table)),
                Err(error) => warn!(%error, "an index file is unusable; it is rebuilt"),
            }
        }
        let of_table = |table: &Arc<Table>| {
            let ([first, last], Tip { end, position, hash, .. }) =
                (table.summary.salts, table.summary.complete.tip);
            let salts = [(table.summary.from.segment, first), (end.segment, last)];
            KnownLogEnd { end, position, hash, salts }
        };
        found.seen.extend(found.tables.iter().map(of_table));
        match fs::read_to_string(folder.join(TIP)) {
            Ok(text) => found.seen.extend(parse_tip(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(%error, file = TIP, "cannot read the tip file of the index"),
        }
        Ok(found)
    }

    /// Returns how far the log in a directory has certainly gone, or `None` if that is unknown or
    /// if the index belongs to another log.
    pub fn seen(&self, log: &Path) -> Option<KnownLogEnd> {
        let contradicts = |seen: &KnownLogEnd| {
            let other = |(segment, salt): &(u32, [u8; 16])| {
                segment_salt(log, *segment).is_some_and(|ours| ours != *salt)
            };
            seen.salts.iter().any(other)
        };
        let furthest = self.seen.iter().max_by_key(|seen| seen.end).copied();
        furthest.filter(|furthest| furthest.end > LogOffset::START && !self.seen.iter().any(contradicts))
    }
}

/// Parses the note. Returns `None` if it is not intact, as after a crash of the machine.
fn parse_tip(text: &str) -> Option<KnownLogEnd> {
    let (text, checksum) = text.strip_suffix('\n')?.rsplit_once(' ')?;
    if u32::from_str_radix(checksum, 16).ok()? != crc32c::crc32c(text.as_bytes()) {
        return None;
    }
    let mut fields = text.split(' ');
    let end = LogOffset { segment: fields.next()?.parse().ok()?, offset: fields.next()?.parse().ok()? };
    let salt = hex::decode(fields.next()?).ok()?.try_into().ok()?;
    let position = Position(fields.next()?.parse().ok()?);
    let hash = ChainHash::from_slice(&hex::decode(fields.next()?).ok()?)?;
    Some(KnownLogEnd { end, position, hash, salts: [(end.segment, salt); 2] })
}

/// Returns the files that were derived from this log and cover no more than it has, in log order.
/// If nothing is missing between two of them, the second must continue the first.
///
/// If two files cover the same part, the larger one is used. A crash after a merge leaves the
/// merged file and the files that it was made from.
pub(super) fn of_this_log(
    mut tables: Vec<Arc<Table>>,
    segments: &Segments,
    log_end: LogOffset,
) -> Vec<Arc<Table>> {
    tables.sort_by_key(|table| {
        let (from, end) = table.range();
        (from, Reverse(end))
    });
    let mut seed = None;
    let (mut reached, mut before) = (LogOffset::START, Continued::by(Tip::START));
    tables.retain(|table| {
        let (from, end) = table.range();
        let [first, last] = table.summary.salts;
        let has = |segment, salt| segments.salt(segment).is_ok_and(|ours| ours == salt);
        let is_ours = has(from.segment, first) && has(end.segment, last) && end <= log_end;
        let goes_on = from > reached || (from == reached && table.summary.after == before);
        if !is_ours || !goes_on || *seed.get_or_insert(table.summary.seed) != table.summary.seed {
            return false;
        }
        (reached, before) = (end, Continued::by(table.summary.complete.tip));
        true
    });
    tables
}

/// Returns the files whose history is the log's. The others, and files that cannot be checked, are
/// rebuilt.
pub(super) fn of_its_history(
    tables: &[Arc<Table>],
    segments: &Arc<Segments>,
    log_end: LogOffset,
) -> Vec<Arc<Table>> {
    let goes_on = |one: &Arc<Table>, next: &Arc<Table>| one.range().1 == next.range().0;
    // Each file continues the one before, so the last of them vouches for all.
    let believed = tables.chunk_by(goes_on).flat_map(|mut run| {
        while let Some((last, before)) = run.split_last() {
            run = match is_in_log(last, tables, segments, log_end) {
                Ok(true) => break,
                Ok(false) => {
                    warn!(file = %last.path().display(), "an index file belongs to another history of the \
                     log; it is rebuilt");
                    &[]
                }
                Err(error) => {
                    warn!(%error, "an index file is unusable; it is rebuilt");
                    before
                }
            };
        }
        run
    });
    believed.cloned().collect()
}

/// Whether the log contains the last event of a file at the end of the file's part. All files are
/// used to find the offset.
fn is_in_log(
    table: &Table,
    all: &[Arc<Table>],
    segments: &Arc<Segments>,
    log_end: LogOffset,
) -> Result<bool, TableError> {
    let tip = table.summary.complete.tip;
    let found = all.iter().rev().find_map(|table| source::frame_before(&**table, tip.position).transpose());
    let (first, place) = found.transpose()?.unwrap_or((Position(1), LogOffset::START));
    let last = match last_hash(&mut Cursor::at(segments.clone(), place, first), tip.end) {
        Ok(last) => last.unwrap_or(ChainHash::START),
        Err(error) => {
            // The log cannot be read in this part, and its readers get that error. The next append
            // contains the hash of the event before it, so it shows whether the history is the
            // same.
            let mut behind = Cursor::after(segments.clone(), tip.end, tip.position, tip.hash);
            let goes_on = next_append(&mut behind, log_end).is_ok_and(|next| next.is_some());
            warn!(%error, goes_on, "cannot read the log within the range of an index file");
            return Ok(goes_on);
        }
    };
    Ok(last == tip.hash)
}

/// Returns the hash of the last event before an offset.
fn last_hash(cursor: &mut Cursor, end: LogOffset) -> Result<Option<ChainHash>, ReadError> {
    let mut last = None;
    while let Some(hash) = next_append(cursor, end)? {
        last = Some(hash);
    }
    Ok(last)
}

/// Returns the hash of the last event of the next append.
fn next_append(cursor: &mut Cursor, end: LogOffset) -> Result<Option<ChainHash>, ReadError> {
    while let Some(read) = cursor.next(end)? {
        if let Frame::Append { records, .. } = read.frame {
            return Ok(records.last().map(|stored| stored.hash));
        }
    }
    Ok(None)
}

/// Removes and returns the files from the first gap on.
pub(super) fn behind_the_first_gap(tables: &mut Vec<Arc<Table>>) -> Vec<Arc<Table>> {
    let mut reached = LogOffset::START;
    let whole = tables.iter().take_while(|table| {
        let (from, end) = table.range();
        let goes_on = from == reached;
        reached = end;
        goes_on
    });
    let whole = whole.count();
    tables.split_off(whole)
}
