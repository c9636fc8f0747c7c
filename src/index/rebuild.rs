//! Brings the index up to the end of the log.
//!
//! After a crash, it adds the last few frames. It also fills the gap left by a missing file, and
//! rebuilds everything after the index was deleted. It reads the log and never changes it.

use std::ops::ControlFlow;

use super::{Index, IndexBatch, IndexError, IndexedEvent, IndexedSnapshot, Layer};
use crate::{
    crash_point::CrashPoint,
    event::record,
    log::{Cursor, Damage, Frame, LogOffset, ReadError, ReadFrame, Tip},
};

/// The number of events or frames after which entries are added to the index.
const EVENTS_AT_ONCE: usize = 10_000;

/// Why the index cannot be brought up to the end of the log.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// A file of the index is unusable.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The log is damaged or cannot be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// `progress` stopped the work.
    #[error("stopped before the end of the log")]
    Stopped,
}

/// Reads the log from where the index is complete up to `end`, except for the parts that its files
/// cover, and adds the entries it finds. Every frame that is read is checked. `progress` is called
/// with the offset reached so far and may stop the work; entries that were added stay.
///
/// # Errors
/// Returns an error if the log is damaged, if the index cannot be read, or if `progress` stops the
/// work.
pub fn catch_up(
    index: &Index,
    end: LogOffset,
    mut progress: impl FnMut(LogOffset) -> ControlFlow<()>,
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
    end: LogOffset,
    progress: &mut impl FnMut(LogOffset) -> ControlFlow<()>,
) -> Result<(), RebuildError> {
    let mut entries = IndexBatch::new(index);
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
            entries = IndexBatch::new(index);
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
    // Merging can wait.
    index.write_frozen();
    Ok(())
}

pub(super) fn add_frame(
    index: &Index,
    entries: &mut IndexBatch,
    read: ReadFrame,
) -> Result<(), RebuildError> {
    let start = read.start;
    let damage = |what| {
        let file = index.segments.path(start.segment);
        ReadError::Damage(Damage { file, offset: start.offset, what })
    };
    let mut tip = Tip { end: read.end, ..entries.complete().tip };
    match read.frame {
        Frame::Append { records, .. } => {
            let places: Vec<_> = records.iter().map(|stored| stored.place(start)).collect();
            let events = records
                .into_iter()
                .map(|stored| record::decode(stored.bytes, stored.hash))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| damage("a frame contains an invalid event"))?;
            if !entries.continued_by(index, &events)? {
                return Err(damage("the sequence numbers or positions of the events have a gap").into());
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
                .map_err(|_| damage("a frame contains an invalid snapshot"))?;
            tip.snapshots = number;
            let (aggregate_id, sequence) = (snapshot.aggregate_id, snapshot.sequence);
            entries.add_snapshot(index, IndexedSnapshot { aggregate_id, sequence, place })?;
        }
        Frame::Mark(bytes) => {
            let mark = record::decode_mark(bytes).map_err(|_| {
                damage(
                    "a frame contains an invalid \
             replication mark",
                )
            })?;
            entries.add_mark(mark);
        }
    }
    entries.reach(tip);
    Ok(())
}
