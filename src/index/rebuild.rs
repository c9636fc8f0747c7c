//! Bringing the index up to the end of the log: a few frames after a crash, the part that a missing file knew, everything
//! after the index was deleted.

use std::ops::ControlFlow;

use super::{Entries, Index, IndexError, IndexedEvent, IndexedSnapshot, Layer};
use crate::{
    crash_point::CrashPoint,
    event::record,
    log::{Cursor, Damage, Frame, Place, ReadError, ReadFrame, Tip},
};

/// So many events or frames are added at once at most.
const EVENTS_AT_ONCE: usize = 10_000;

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

/// Reads the log from where the index is complete up to `end`, but for what its files know, checking every frame on the
/// way, and adds what it finds. `progress` hears how far it is, and may end it: what was added stays.
///
/// # Errors
/// The log is damaged, or the index can't be read.
pub fn bring_up(
    index: &Index,
    end: Place,
    mut progress: impl FnMut(Place) -> ControlFlow<()>,
) -> Result<(), RebuildError> {
    while let Some(next) = index.next_file() {
        let from = next.summary.from;
        read_up_to(index, from, &mut progress)?;
        index.write_all();
        index.layers_mut().go_on_with(Layer::File(next));
        index.heads.clear();
    }
    read_up_to(index, end, &mut progress)
}

fn read_up_to(
    index: &Index,
    end: Place,
    progress: &mut impl FnMut(Place) -> ControlFlow<()>,
) -> Result<(), RebuildError> {
    let mut entries = Entries::new(index);
    let tip = entries.complete().tip;
    if tip.end == end {
        return Ok(());
    }
    let mut cursor = Cursor::after(index.segments.clone(), tip.end, tip.position, tip.hash);
    let (mut frames, mut bytes) = (0usize, 0u64);
    while let Some(read) = cursor.next(end)? {
        bytes = bytes.saturating_add(read.byte_count());
        add_frame(index, &mut entries, read)?;
        frames = frames.saturating_add(1);
        let many = entries.event_count() >= EVENTS_AT_ONCE || frames >= EVENTS_AT_ONCE;
        if many || bytes >= index.options.bytes_at_once {
            index.add(entries, || {});
            index.keep_up();
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
    index.add(entries, || {});
    // What there is to be merged can wait.
    index.write_frozen();
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
