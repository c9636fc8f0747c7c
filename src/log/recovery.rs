//! Opens a log after a crash, a damaged disk, or any other change to its files.
//!
//! Only the group that was being written when the machine stopped may be torn: every group before
//! it was synced before the next began. Bytes that are not a whole frame are a torn tail if no
//! later group follows them, and are truncated after the last whole frame. If a later group
//! follows, or if the index has seen frames there, they are damage, and nothing is changed. A whole
//! log that ends before the point that the index has seen is an older copy, and is not changed
//! either. Neither is a log that continues with a frame of a newer version of the program.

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use tracing::{info, warn};

use super::{
    Access, LogOffset, NewerFormat, OpenError, ReadError, Segments,
    frame::{self, Header},
    frame_search::FrameSearch,
    lock, segment,
};
use crate::crash_point::CrashPoint;

/// An open log whose end is known and durable.
#[derive(Debug)]
pub struct Recovered {
    pub(super) folder: PathBuf,
    pub(super) segments: Arc<Segments>,
    /// The end of the last whole frame.
    pub end: LogOffset,
}

impl Recovered {
    /// Returns the segments, which readers share.
    pub fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }
}

/// Opens the log in `folder`, or creates one. `seen` is the end of the log as the index has seen
/// it: everything before it was synced.
///
/// # Errors
/// Returns an error if the log is damaged, older than `seen` or written by a newer version of the
/// program (no frame is changed then), if `folder` contains something else, or if a file cannot be
/// read or written.
pub fn recover(folder: &Path, seen: Option<LogOffset>) -> Result<Recovered, OpenError> {
    let segments = Segments::open(folder, Access::ReadWrite)?;
    let recovered =
        |segments, end| Recovered { folder: folder.to_owned(), segments: Arc::new(segments), end };
    let io_error = |source| OpenError::of_folder(folder, source);
    let Some(last) = segments.last_number() else {
        if let Some(seen) = seen.filter(|seen| *seen > LogOffset::START) {
            return Err(missing(folder, seen));
        }
        if let Some(found) = something_else(folder).map_err(io_error)? {
            return Err(OpenError::NotEmpty { folder: folder.to_owned(), found });
        }
        let first = segments.create(LogOffset::START.segment).map_err(io_error)?;
        first.make_durable().map_err(io_error)?;
        return Ok(recovered(segments, LogOffset::START));
    };
    let file = segments.file(last).map_err(io_error)?;
    let bytes = read_whole(&file)?;
    let IntactEnd { end, last_group, written } = find_end(&file, &bytes)?;
    let seen_here = seen.filter(|seen| seen.segment >= last);
    if let Some(seen) = seen_here.filter(|seen| *seen > (LogOffset { segment: last, offset: end })) {
        let ends_before = seen.segment > last || seen.offset > written;
        // The torn tail of a copy may have been under way when the copy was made.
        if end == written || ends_before && !later_group(&file, &bytes, end) {
            return Err(OpenError::Older { folder: folder.to_owned() });
        }
        if seen.segment > last {
            return Err(missing(folder, seen));
        }
        return Err(file.damage(end, "frames that the index has seen are missing or damaged").into());
    }
    if end < written {
        if later_group(&file, &bytes, end) {
            return Err(file.damage(end, "a frame is damaged and is followed by later groups").into());
        }
        keep_torn(&file, &bytes, end..written)?;
    }
    if end < bytes.len() as u64 {
        let space = (bytes.len() as u64).saturating_sub(written);
        info!(file = %file.path().display(), offset = end, bytes = space, "released unused preallocated \
         space of the local log");
        file.set_len(end).map_err(|source| OpenError::from(file.io_error(source)))?;
        CrashPoint::TornTailTruncated.reached();
    }
    // The accepted frames may not have been synced before a crash, so they must become durable
    // before anything relies on them. They are written again: after a failed sync, the operating
    // system may consider them written already.
    let group = bytes.get(offset(last_group)..offset(end)).unwrap_or_default();
    file.write_all_at(group, last_group)
        .and_then(|()| file.make_durable())
        .map_err(|source| OpenError::from(file.io_error(source)))?;
    Ok(recovered(segments, LogOffset { segment: last, offset: end }))
}

/// Whether the next start creates a new log in `folder`.
pub fn is_new_log(folder: &Path) -> bool {
    match something_else(folder) {
        Ok(found) => found.is_none() && !segment::is_there(folder),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Returns the name of a file that rules out a new log in the directory: either the segments of a
/// log were lost, or the directory belongs to something else. Returns `None` if there is no such
/// file.
fn something_else(folder: &Path) -> io::Result<Option<String>> {
    /// Created by file systems.
    const LOST_AND_FOUND: &str = "lost+found";
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let may_be = name == lock::WITHIN || name == LOST_AND_FOUND || name.starts_with('.');
        // Left over from a first segment that was torn.
        if !may_be && !name.contains(".torn-") {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Opens a log that cannot be written. A torn tail is left unchanged and is not read. Also returns
/// the start of the last group, which may be in memory only after a failed sync.
///
/// # Errors
/// Returns an error if there is no log, if it is damaged, or if a file cannot be read.
pub fn recover_read_only(folder: &Path) -> Result<(Recovered, LogOffset), OpenError> {
    let segments = Segments::open(folder, Access::ReadOnly)?;
    let Some(last) = segments.last_number() else { return Err(missing(folder, LogOffset::START)) };
    let file = segments.file(last).map_err(|source| OpenError::of_folder(folder, source))?;
    let bytes = read_whole(&file)?;
    let IntactEnd { end, last_group, written } = find_end(&file, &bytes)?;
    if end < written && later_group(&file, &bytes, end) {
        return Err(file.damage(end, "a frame is damaged and is followed by later groups").into());
    }
    let [end, last_group] = [end, last_group].map(|offset| LogOffset { segment: last, offset });
    Ok((Recovered { folder: folder.to_owned(), segments: Arc::new(segments), end }, last_group))
}

fn missing(folder: &Path, seen: LogOffset) -> OpenError {
    let file = segment::path(folder, seen.segment);
    super::Damage { file, offset: 0, what: "the segment is missing" }.into()
}

fn read_whole(file: &segment::Segment) -> Result<Bytes, ReadError> {
    let length = file.length().map_err(|source| file.io_error(source))?;
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut bytes, 0).map_err(|source| file.io_error(source))?;
    bytes.truncate(read);
    Ok(Bytes::from(bytes))
}

/// The end of the intact part of a segment.
struct IntactEnd {
    /// The end of the last whole frame in the unbroken sequence of frames from the start.
    end: u64,
    /// The start of that frame's group.
    last_group: u64,
    /// The end of the bytes that may be more than preallocated space. A frame after `end` that ends
    /// in zeros extends further.
    written: u64,
}

/// Returns an error if the program does not know the frame at the end, although it is whole.
fn find_end(file: &segment::Segment, bytes: &Bytes) -> Result<IntactEnd, NewerFormat> {
    let mut ended = IntactEnd { end: segment::HEADER_BYTES, last_group: segment::HEADER_BYTES, written: 0 };
    while let Some(header) = whole_frame(file, bytes, ended.end) {
        ended.last_group = header.group_offset.min(ended.end);
        ended.end = ended.end.saturating_add(header.frame_bytes() as u64);
    }
    let rest = bytes.get(offset(ended.end)..).unwrap_or_default();
    if let Some((what, found)) = frame::unknown_number(file.salt(), ended.end, rest) {
        return Err(file.newer(ended.end, what, found.into()));
    }
    ended.written = ended.end.max(segment::written(bytes) as u64);
    Ok(ended)
}

fn offset(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

fn whole_frame(file: &segment::Segment, bytes: &Bytes, offset: u64) -> Option<Header> {
    let start = usize::try_from(offset).ok().filter(|start| *start <= bytes.len())?;
    frame::parse(file.salt(), offset, &bytes.slice(start..)).ok().map(|(header, _)| header)
}

/// Whether a frame follows whose group began after `damaged`. If so, the bytes at `damaged` had
/// been synced.
fn later_group(file: &segment::Segment, bytes: &Bytes, damaged: u64) -> bool {
    let could_be = |offset: &u64| {
        let rest = usize::try_from(*offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        Header::of_any_version(rest)
            .is_ok_and(|(_, header)| header.group_offset > damaged && header.group_offset <= *offset)
    };
    let mut candidates = (damaged.saturating_add(1)..bytes.len() as u64).filter(could_be).peekable();
    if candidates.peek().is_none() {
        return false;
    }
    let search = FrameSearch::new(bytes.clone(), *file.salt());
    candidates.any(|offset| search.checked_header(offset).is_some())
}

/// Saves the torn tail in a file next to the segment before it is truncated: an operator may want
/// to inspect it.
fn keep_torn(file: &segment::Segment, bytes: &Bytes, torn: Range<u64>) -> Result<(), OpenError> {
    let end = torn.start;
    let torn = bytes.get(offset(torn.start)..offset(torn.end)).unwrap_or_default();
    warn!(file = %file.path().display(), offset = end, bytes = torn.len(), "removed the torn tail of the \
     local log");
    let kept = file.path().with_extension(format!("torn-{end}"));
    fs::write(&kept, torn).map_err(|source| OpenError::Io { path: kept, source })?;
    CrashPoint::TornTailSaved.reached();
    Ok(())
}
