//! What a start finds in the folder of the index, and what of it can be believed.

use std::{
    cmp::Reverse,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::warn;

use super::{
    Continued,
    folder::{EXTENSION, TIP},
    source,
    table::{Table, TableError},
};
use crate::{
    event::{Hash, Position},
    log::{Cursor, Frame, Place, ReadError, Segments, Tip, segment_salt},
};

/// How far the log certainly went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub end: Place,
    pub position: Position,
    /// Of the event at that position.
    pub hash: Hash,
    /// Segments and their salts.
    salts: [(u32, [u8; 16]); 2],
}

/// What is in the folder.
#[derive(Debug, Default)]
pub struct Found {
    pub(super) tables: Vec<Arc<Table>>,
    /// They may be as good as ever.
    pub(super) unopened: Vec<PathBuf>,
    /// By each of the files, and the note.
    seen: Vec<Seen>,
}

impl Found {
    /// Looks into the folder. What can't be used is made again later, and is only named here.
    ///
    /// # Errors
    /// The folder can't be read.
    pub fn look(folder: &Path) -> io::Result<Self> {
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
                    warn!(%error, file = %path.display(), "a file of the index can't be opened; it is made again");
                    found.unopened.push(path);
                    continue;
                }
            };
            match opened {
                Ok(table) => found.tables.push(Arc::new(table)),
                Err(error) => warn!(%error, "a file of the index can't be used; it is made again"),
            }
        }
        let of_table = |table: &Arc<Table>| {
            let ([first, last], Tip { end, position, hash, .. }) =
                (table.summary.salts, table.summary.complete.tip);
            Seen { end, position, hash, salts: [(table.summary.from.segment, first), (end.segment, last)] }
        };
        found.seen.extend(found.tables.iter().map(of_table));
        match fs::read_to_string(folder.join(TIP)) {
            Ok(text) => found.seen.extend(parse_tip(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(%error, file = TIP, "the index can't tell how far the log went"),
        }
        Ok(found)
    }

    /// How far the log in a folder certainly went; `None`: it can't be told, or the index is of another log.
    pub fn seen(&self, log: &Path) -> Option<Seen> {
        let contradicts = |seen: &Seen| {
            let other = |(segment, salt): &(u32, [u8; 16])| {
                segment_salt(log, *segment).is_some_and(|ours| ours != *salt)
            };
            seen.salts.iter().any(other)
        };
        let furthest = self.seen.iter().max_by_key(|seen| seen.end).copied();
        furthest.filter(|furthest| furthest.end > Place::START && !self.seen.iter().any(contradicts))
    }
}

/// `None`: a crash of the machine left none that is whole.
fn parse_tip(text: &str) -> Option<Seen> {
    let (text, checksum) = text.strip_suffix('\n')?.rsplit_once(' ')?;
    if u32::from_str_radix(checksum, 16).ok()? != crc32c::crc32c(text.as_bytes()) {
        return None;
    }
    let mut fields = text.split(' ');
    let end = Place { segment: fields.next()?.parse().ok()?, offset: fields.next()?.parse().ok()? };
    let salt = hex::decode(fields.next()?).ok()?.try_into().ok()?;
    let position = Position(fields.next()?.parse().ok()?);
    let hash = Hash::from_slice(&hex::decode(fields.next()?).ok()?)?;
    Some(Seen { end, position, hash, salts: [(end.segment, salt); 2] })
}

/// Those that were made from this log and know no more than it has, in its order, each going on from the one before. Of a
/// part that two know, as a crash leaves it between a merged file and those that it was made of, the larger counts.
pub(super) fn of_this_log(
    mut tables: Vec<Arc<Table>>,
    segments: &Segments,
    log_end: Place,
) -> Vec<Arc<Table>> {
    tables.sort_by_key(|table| {
        let (from, end) = table.range();
        (from, Reverse(end))
    });
    let mut seed = None;
    let (mut reached, mut before) = (Place::START, Continued::by(Tip::START));
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

/// Without those that have another history than the log. One that can't be asked is made again.
pub(super) fn of_its_history(
    tables: &[Arc<Table>],
    segments: &Arc<Segments>,
    log_end: Place,
) -> Vec<Arc<Table>> {
    let goes_on = |one: &Arc<Table>, next: &Arc<Table>| one.range().1 == next.range().0;
    // Each goes on from the one before, so the last of them answers for all.
    let believed = tables.chunk_by(goes_on).flat_map(|mut run| {
        while let Some((last, before)) = run.split_last() {
            run = match is_in_log(last, tables, segments, log_end) {
                Ok(true) => break,
                Ok(false) => {
                    warn!(file = %last.path().display(), "the index is of another history of the log; it is made again");
                    &[]
                }
                Err(error) => {
                    warn!(%error, "a file of the index can't be used; it is made again");
                    before
                }
            };
        }
        run
    });
    believed.cloned().collect()
}

/// Whether the log has at the file's end what the file says. All of them find the place.
fn is_in_log(
    table: &Table,
    all: &[Arc<Table>],
    segments: &Arc<Segments>,
    log_end: Place,
) -> Result<bool, TableError> {
    let tip = table.summary.complete.tip;
    let found = all.iter().rev().find_map(|table| source::frame_before(&**table, tip.position).transpose());
    let (first, place) = found.transpose()?.unwrap_or((Position(1), Place::START));
    let last = match last_hash(&mut Cursor::at(segments.clone(), place, first), tip.end) {
        Ok(last) => last.unwrap_or(Hash::START),
        Err(error) => {
            // Where the log is damaged, whoever reads it is told. What comes behind has the hash of what came before.
            let mut behind = Cursor::after(segments.clone(), tip.end, tip.position, tip.hash);
            let goes_on = next_append(&mut behind, log_end).is_ok_and(|next| next.is_some());
            warn!(%error, goes_on, "the log does not tell all that the index had of it");
            return Ok(goes_on);
        }
    };
    Ok(last == tip.hash)
}

/// The hash of the last event up to a place.
fn last_hash(cursor: &mut Cursor, end: Place) -> Result<Option<Hash>, ReadError> {
    let mut last = None;
    while let Some(hash) = next_append(cursor, end)? {
        last = Some(hash);
    }
    Ok(last)
}

/// The hash of the last event of the next append.
fn next_append(cursor: &mut Cursor, end: Place) -> Result<Option<Hash>, ReadError> {
    while let Some(read) = cursor.next(end)? {
        if let Frame::Append { records, .. } = read.frame {
            return Ok(records.last().map(|stored| stored.hash));
        }
    }
    Ok(None)
}

/// Takes those out that do not go on where the one before them ends.
pub(super) fn behind_the_first_gap(tables: &mut Vec<Arc<Table>>) -> Vec<Arc<Table>> {
    let mut reached = Place::START;
    let whole = tables.iter().take_while(|table| {
        let (from, end) = table.range();
        let goes_on = from == reached;
        reached = end;
        goes_on
    });
    let whole = whole.count();
    tables.split_off(whole)
}
