//! Bringing the index up to the end of the log: a few frames after a crash, everything after the index
//! was deleted.

use std::{ops::ControlFlow, sync::Arc};

use super::{Entries, Index, IndexError, IndexedEvent, IndexedSnapshot};
use crate::{
    crash_point::CrashPoint,
    event::record,
    log::{Cursor, Damage, Frame, Place, ReadError, ReadFrame, Segments, Tip},
};

/// So many events are applied at once.
const EVENTS_AT_ONCE: usize = 10_000;

/// Or events of so many bytes.
const BYTES_AT_ONCE: u64 = 64 * 1024 * 1024;

/// Why the index can't be brought up.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Log(#[from] ReadError),
    #[error("it was ended before the end of the log")]
    Stopped,
}

/// Reads the log from where the index is complete up to `end`, checking every frame on the way, and applies
/// what it finds. `progress` hears how far it is, and may end it: what is applied stays.
///
/// # Errors
/// The log is damaged or the index is unusable.
pub fn bring_up(
    index: &Index,
    segments: &Arc<Segments>,
    end: Place,
    progress: impl FnMut(Place) -> ControlFlow<()>,
) -> Result<(), RebuildError> {
    bring_up_by(BYTES_AT_ONCE, index, segments, end, progress)
}

pub(super) fn bring_up_by(
    bytes_at_once: u64,
    index: &Index,
    segments: &Arc<Segments>,
    end: Place,
    mut progress: impl FnMut(Place) -> ControlFlow<()>,
) -> Result<(), RebuildError> {
    let mut entries = Entries::new(index);
    let tip = entries.complete().tip;
    let mut cursor = Cursor::after(segments.clone(), tip.end, tip.position, tip.hash);
    let (mut frames, mut bytes) = (0usize, 0u64);
    while let Some(read) = cursor.next(end)? {
        bytes = bytes.saturating_add(read.byte_count());
        add_frame(index, &mut entries, read)?;
        frames = frames.saturating_add(1);
        if entries.event_count() >= EVENTS_AT_ONCE || frames >= EVENTS_AT_ONCE || bytes >= bytes_at_once {
            index.apply(entries)?;
            entries = Entries::new(index);
            (frames, bytes) = (0, 0);
            if progress(cursor.place()).is_break() {
                return Err(RebuildError::Stopped);
            }
            CrashPoint::IndexMidway.reached();
        }
    }
    let tip = Tip { end, ..entries.complete().tip };
    entries.reach(tip);
    index.apply(entries)?;
    Ok(())
}

pub(super) fn add_frame(index: &Index, entries: &mut Entries, read: ReadFrame) -> Result<(), RebuildError> {
    let start = read.start;
    let damage = |what| {
        ReadError::Damage(Damage { file: format!("segment {}", start.segment), offset: start.offset, what })
    };
    let mut tip = Tip { end: read.end, ..entries.complete().tip };
    match read.frame {
        Frame::Append { records, .. } => {
            let places: Vec<_> = records.iter().map(|stored| stored.place(start)).collect();
            let events = records
                .into_iter()
                .map(|stored| record::decode(stored.bytes, stored.hash))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| damage("what a frame holds is no event"))?;
            if !entries.continued_by(index, &events)? {
                return Err(damage("the numbers of the events have a gap").into());
            }
            if let Some(last) = events.last() {
                tip.position = last.position;
                tip.hash = last.hash;
            }
            let indexed = events.iter().zip(places).map(|(event, place)| IndexedEvent::new(event, place));
            entries.add_append(index, start, indexed.collect())?;
        }
        Frame::Snapshot { number, record: stored } => {
            let place = stored.place(start);
            let snapshot = record::decode_snapshot(stored.bytes)
                .map_err(|_| damage("what a frame holds is no snapshot"))?;
            tip.snapshots = number;
            let (aggregate_id, sequence) = (snapshot.aggregate_id, snapshot.sequence);
            entries.add_snapshot(index, IndexedSnapshot { aggregate_id, sequence, place })?;
        }
        Frame::Mark(bytes) => {
            let mark = record::decode_mark(bytes).map_err(|_| damage("what a frame holds is no mark"))?;
            entries.add_mark(mark);
        }
    }
    entries.reach(tip);
    Ok(())
}
