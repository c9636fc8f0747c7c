//! Opening a log after anything may have happened to it.
//!
//! Only the group that was being written when the machine stopped may be torn: every group before it was
//! synced before the next began. So bytes that are no whole frame are the torn end if no later group
//! follows them, and are cut back to the last whole frame; if one follows, or if the index had seen frames
//! there, they are damage, and nothing is touched. A log that is whole, but ends before what the index had seen, is an
//! older copy, and is not touched either.

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use tracing::{info, warn};

use super::{
    Access, OpenError, Place, ReadError, Segments,
    frame::{self, Header},
    frame_search::FrameSearch,
    lock, segment,
};
use crate::crash_point::CrashPoint;

/// An opened log whose end is known and durable.
#[derive(Debug)]
pub struct Recovered {
    pub(super) folder: PathBuf,
    pub(super) segments: Arc<Segments>,
    pub end: Place,
}

impl Recovered {
    pub fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }
}

/// Opens the log in `folder`, or begins one. `seen` is how far the index had it: it was synced up to there.
///
/// # Errors
/// The log is damaged (nothing is changed then), or a file can't be read or written.
pub fn recover(folder: &Path, seen: Option<Place>) -> Result<Recovered, OpenError> {
    let segments = Segments::open(folder, Access::ReadWrite)?;
    let recovered =
        |segments, end| Recovered { folder: folder.to_owned(), segments: Arc::new(segments), end };
    let io_error = |source| OpenError::Io { path: folder.display().to_string(), source };
    let Some(last) = segments.last_number() else {
        if let Some(seen) = seen.filter(|seen| *seen > Place::START) {
            return Err(missing(folder, seen));
        }
        if let Some(found) = something_else(folder).map_err(io_error)? {
            return Err(OpenError::NotEmpty { folder: folder.display().to_string(), found });
        }
        let first = segments.create(folder, Place::START.segment).map_err(io_error)?;
        first.make_durable().map_err(io_error)?;
        return Ok(recovered(segments, Place::START));
    };
    let file = segments.file(last).map_err(io_error)?;
    let bytes = read_whole(&file)?;
    let Ended { end, last_group, written } = find_end(&file, &bytes);
    let seen_here = seen.filter(|seen| seen.segment >= last);
    if let Some(seen) = seen_here.filter(|seen| *seen > (Place { segment: last, offset: end })) {
        let ends_before = seen.segment > last || seen.offset > written;
        // What is torn at the end of a copy may have been written just then.
        if end == written || ends_before && !later_group(&file, &bytes, end) {
            return Err(OpenError::Older { folder: folder.display().to_string() });
        }
        if seen.segment > last {
            return Err(missing(folder, seen));
        }
        return Err(file.damage(end, "frames that were there are gone or damaged").into());
    }
    if end < written {
        if later_group(&file, &bytes, end) {
            return Err(file.damage(end, "a frame is damaged, and later groups follow it").into());
        }
        keep_torn(&file, &bytes, end..written)?;
    }
    if end < bytes.len() as u64 {
        let space = (bytes.len() as u64).saturating_sub(written);
        info!(file = %file.path().display(), offset = end, bytes = space, "unused space of the local log given back");
        file.set_len(end).map_err(|source| OpenError::from(file.io_error(source)))?;
        CrashPoint::TornEndCut.reached();
    }
    // What a crash left unsynced is taken over here, so it has to be durable before anything relies on it.
    // It is written once more: after a sync that failed, the system may take it for written already.
    let group = bytes.get(offset(last_group)..offset(end)).unwrap_or_default();
    file.write_all_at(group, last_group)
        .and_then(|()| file.make_durable())
        .map_err(|source| OpenError::from(file.io_error(source)))?;
    Ok(recovered(segments, Place { segment: last, offset: end }))
}

/// Whether the next start begins a new log here.
pub fn begins_anew(folder: &Path) -> bool {
    match something_else(folder) {
        Ok(found) => found.is_none() && !segment::is_there(folder),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// The name of something in the folder that no log was begun beside: the segments of a log were lost, or it is another's
/// folder.
fn something_else(folder: &Path) -> io::Result<Option<String>> {
    /// Of a file system.
    const LOST_AND_FOUND: &str = "lost+found";
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let may_be = name == lock::WITHIN || name == LOST_AND_FOUND || name.starts_with('.');
        // What is left of a first segment that was torn.
        if !may_be && !name.contains(".torn-") {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Opens a log that can't be written. What is torn at its end is left where it is, and not read.
/// Also says where the last group begins: it may be in memory only, after a sync that failed.
///
/// # Errors
/// There is no log, it is damaged, or a file can't be read.
pub fn recover_read_only(folder: &Path) -> Result<(Recovered, Place), OpenError> {
    let segments = Segments::open(folder, Access::ReadOnly)?;
    let Some(last) = segments.last_number() else { return Err(missing(folder, Place::START)) };
    let file = segments.file(last).map_err(|source| OpenError::of_folder(folder, source))?;
    let bytes = read_whole(&file)?;
    let Ended { end, last_group, written } = find_end(&file, &bytes);
    if end < written && later_group(&file, &bytes, end) {
        return Err(file.damage(end, "a frame is damaged, and later groups follow it").into());
    }
    let [end, last_group] = [end, last_group].map(|offset| Place { segment: last, offset });
    Ok((Recovered { folder: folder.to_owned(), segments: Arc::new(segments), end }, last_group))
}

fn missing(folder: &Path, seen: Place) -> OpenError {
    let file = folder.join(format!("{:010}.segment", seen.segment)).display().to_string();
    super::Damage { file, offset: 0, what: "the segment is missing" }.into()
}

fn read_whole(file: &segment::File) -> Result<Bytes, ReadError> {
    let length = file.length().map_err(|source| file.io_error(source))?;
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut bytes, 0).map_err(|source| file.io_error(source))?;
    bytes.truncate(read);
    Ok(Bytes::from(bytes))
}

/// What is whole of a segment.
struct Ended {
    /// Where the last whole frame ends that all frames before lead to.
    end: u64,
    /// Where the group of that frame begins.
    last_group: u64,
    /// Where the bytes end that may be more than allocated space. A frame behind `end` that ends in zeros reaches further.
    written: u64,
}

fn find_end(file: &segment::File, bytes: &Bytes) -> Ended {
    let mut ended = Ended { end: segment::HEADER_BYTES, last_group: segment::HEADER_BYTES, written: 0 };
    while let Some(header) = whole_frame(file, bytes, ended.end) {
        ended.last_group = header.group_offset.min(ended.end);
        ended.end = ended.end.saturating_add(header.frame_bytes() as u64);
    }
    ended.written = ended.end.max(segment::written(bytes) as u64);
    ended
}

fn offset(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

fn whole_frame(file: &segment::File, bytes: &Bytes, offset: u64) -> Option<Header> {
    let start = usize::try_from(offset).ok().filter(|start| *start <= bytes.len())?;
    frame::parse(file.salt(), offset, &bytes.slice(start..)).ok().map(|(header, _)| header)
}

/// Whether a frame follows whose group began after `damaged`: then what lies at `damaged` was synced.
fn later_group(file: &segment::File, bytes: &Bytes, damaged: u64) -> bool {
    let could_be = |offset: &u64| {
        let rest = usize::try_from(*offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        Header::parse(rest)
            .is_ok_and(|header| header.group_offset > damaged && header.group_offset <= *offset)
    };
    let mut candidates = (damaged.saturating_add(1)..bytes.len() as u64).filter(could_be).peekable();
    if candidates.peek().is_none() {
        return false;
    }
    let search = FrameSearch::new(bytes.clone(), *file.salt());
    candidates.any(|offset| search.whole_frame(offset).is_some())
}

/// Keeps the torn end beside the segment before it is cut off: a person may want to look at it.
fn keep_torn(file: &segment::File, bytes: &Bytes, torn: Range<u64>) -> Result<(), OpenError> {
    let end = torn.start;
    let torn = bytes.get(offset(torn.start)..offset(torn.end)).unwrap_or_default();
    warn!(file = %file.path().display(), offset = end, bytes = torn.len(), "torn end of the local log cut off");
    let kept = file.path().with_extension(format!("torn-{end}"));
    let io_error = |source| OpenError::Io { path: kept.display().to_string(), source };
    fs::write(&kept, torn).map_err(io_error)?;
    CrashPoint::TornEndKept.reached();
    Ok(())
}
