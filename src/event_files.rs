//! The readable files under `storage/events`: every event and snapshot that ImmuDB does not have
//! yet, for operators to read, copy and restore from.
//!
//! They are a printout of the log. A background thread of the lowest priority writes them in every
//! state that leaves events pending, and removes them once ImmuDB has committed the events. It
//! never delays an append. A file whose event is not in the log is never changed or removed; it is
//! renamed if it occupies the name of a file to be written.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    config::EventSourcingConfig,
    event::{
        AggregateId, Position, RecordedEvent, SequenceNumber,
        record::{self, ReplicationMark},
    },
    history::{History, HistoryError},
    index::WaitMode,
    log::{Cursor, Frame, Tip},
    replication::{state::State, status::ReplicationStatus},
    storage::StorageError,
    threads,
};

pub mod folder;
pub mod format;
mod restart;

use folder::{EventFolder, Existing};
use restart::in_a_thread;

/// The state of the files as seen by other modules.
#[derive(Debug)]
pub struct EventFiles {
    files_max: u64,
    replication: Arc<ReplicationStatus>,
    tip: watch::Receiver<Tip>,
    /// Files exist for the events after this position …
    cleared_to: AtomicU64,
    /// … up to and including this one.
    written_to: AtomicU64,
    /// Snapshots up to this number have been examined.
    snapshots_seen: AtomicU64,
    /// The first file after a gap left by a crash, outside the range above; `u64::MAX` if none.
    behind_from: AtomicU64,
    /// The number of existing files, of events and snapshots.
    files: AtomicU64,
    /// The number of files of snapshots that ImmuDB has, as of the last pass.
    snapshots_over: AtomicU64,
}

/// Why a pass over the files ended early. The next pass continues where it stopped.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    History(#[from] HistoryError),
}

impl EventFiles {
    /// Returns the number of files still to be written or removed.
    pub fn pending(&self) -> u64 {
        let (cleared_to, written_to) =
            (self.cleared_to.load(Ordering::Acquire), self.written_to.load(Ordering::Acquire));
        let view = self.replication.view();
        let forwarded = view.forwarded.position.0;
        let behind = u64::from(self.behind_from.load(Ordering::Acquire) <= forwarded);
        let to_clear = written_to.min(forwarded).saturating_sub(cleared_to).saturating_add(behind);
        let room = self.files_max.saturating_sub(self.files.load(Ordering::Acquire));
        let tip = *self.tip.borrow();
        let snapshots_seen = self.snapshots_seen.load(Ordering::Acquire).max(view.forwarded.snapshots);
        let unwritten = tip.position.0.saturating_sub(written_to.max(forwarded));
        let to_write = if wants_files(view.state) {
            unwritten.saturating_add(tip.snapshots.saturating_sub(snapshots_seen)).min(room)
        } else {
            0
        };
        self.snapshots_over.load(Ordering::Acquire).saturating_add(to_clear).saturating_add(to_write)
    }

    /// Rejects an empty log beside event files: a disk was lost, or the directory is the wrong one,
    /// and no new history may begin there.
    ///
    /// # Errors
    /// Returns an error if this is the case, or if the directory cannot be read.
    pub fn refuse_without_log(config: &EventSourcingConfig, log_ends: Position) -> Result<(), StorageError> {
        let path = config.storage_path.display().to_string();
        let io_error = |source| StorageError::EventFiles { path: path.clone(), source };
        if log_ends == Position(0) && EventFolder::new(&config.storage_path).has_events().map_err(io_error)? {
            return Err(if EventFolder::new(&config.storage_path).is_of_aethyr().map_err(io_error)? {
                StorageError::EventFilesOfAethyr { path }
            } else {
                StorageError::EventFilesWithoutLog { path }
            });
        }
        Ok(())
    }

    /// Returns whether there is certainly no event file.
    pub fn are_none(config: &EventSourcingConfig) -> bool {
        EventFolder::new(&config.storage_path).has_events().is_ok_and(|any| !any)
    }

    /// Starts the thread. The future resolves when the thread has ended, after `stopping` is
    /// cancelled.
    pub fn start(
        config: &EventSourcingConfig,
        history: History,
        replication: Arc<ReplicationStatus>,
        tip: watch::Receiver<Tip>,
        stopping: CancellationToken,
    ) -> (Arc<Self>, impl Future<Output = ()> + use<>) {
        let files = Arc::new(Self {
            files_max: config.event_files_max,
            replication: replication.clone(),
            tip: tip.clone(),
            cleared_to: AtomicU64::new(0),
            written_to: AtomicU64::new(0),
            snapshots_seen: AtomicU64::new(0),
            behind_from: AtomicU64::new(u64::MAX),
            files: AtomicU64::new(0),
            // Files left by an earlier run are not known before the first pass.
            snapshots_over: AtomicU64::new(1),
        });
        let (folder, files_max, shared) =
            (config.storage_path.clone(), config.event_files_max, files.clone());
        let writer = move || EventFileWriter {
            folder: EventFolder::new(&folder),
            files_max,
            history: history.clone(),
            replication: replication.clone(),
            shared: shared.clone(),
            cursor: None,
            written_to: Position(0),
            written: VecDeque::new(),
            behind: VecDeque::new(),
            newest_of: HashMap::new(),
        };
        let handle = Handle::current();
        let stop = stopping.clone();
        let run = move || writer().run(&handle, tip.clone(), &stop);
        let watched = in_a_thread(run, stopping);
        (files, watched)
    }
}

/// An existing file.
#[derive(Debug)]
enum WrittenFile {
    Event { aggregate: AggregateId, sequence: SequenceNumber, position: Position },
    Snapshot { aggregate: AggregateId, number: u64 },
}

/// The state owned by the thread.
struct EventFileWriter {
    folder: EventFolder,
    files_max: u64,
    history: History,
    replication: Arc<ReplicationStatus>,
    shared: Arc<EventFiles>,
    /// The position in the log after the last frame processed. `None` if it must be determined
    /// again.
    cursor: Option<Cursor>,
    written_to: Position,
    /// In log order.
    written: VecDeque<WrittenFile>,
    /// Event files after a gap left by a crash, by position, until the gap is closed.
    behind: VecDeque<(Position, AggregateId, SequenceNumber)>,
    /// The newest file of each aggregate. Its removal also removes the aggregate's directory.
    newest_of: HashMap<AggregateId, SequenceNumber>,
}

impl EventFileWriter {
    /// About how many files one pass removes or writes. Between passes, the thread checks whether
    /// to stop.
    const FILES_AT_ONCE: usize = 256;

    fn run(mut self, handle: &Handle, mut tip: watch::Receiver<Tip>, stopping: &CancellationToken) {
        threads::lower_priority();
        if let Err(error) = self.scan_files() {
            warn!(%error, "cannot scan the event files; files of an earlier run are not removed");
        }
        let mut forwarded = self.replication.watch_forwarded();
        let mut state = self.replication.watch_state();
        let mut warned = false;
        while !stopping.is_cancelled() {
            let now = *tip.borrow_and_update();
            let (mark, present) = (*forwarded.borrow_and_update(), *state.borrow_and_update());
            let more = match self.pass(now, mark, present) {
                Ok(more) => {
                    warned = false;
                    more
                }
                Err(error) => {
                    // The log has everything; the files are only a printout.
                    if !warned {
                        warn!(%error, "cannot update the event files; they lag behind the log");
                    }
                    (warned, self.cursor) = (true, None);
                    false
                }
            };
            if more {
                continue;
            }
            handle.block_on(async {
                tokio::select! {
                    _ = tip.changed() => {}
                    _ = forwarded.changed() => {}
                    _ = state.changed() => {}
                    () = stopping.cancelled() => {}
                }
            });
        }
    }

    /// Removes and writes a batch of files. Returns whether there is more to do immediately.
    fn pass(&mut self, tip: Tip, forwarded: ReplicationMark, state: State) -> Result<bool, PassError> {
        let cleared = self.clear(forwarded)?;
        let written = if wants_files(state) { self.write(tip, forwarded)? } else { 0 };
        self.count(forwarded);
        Ok(cleared == Self::FILES_AT_ONCE || written == Self::FILES_AT_ONCE)
    }

    fn count(&self, forwarded: ReplicationMark) {
        let first = self.written.iter().find_map(|written| match written {
            WrittenFile::Event { position, .. } => Some(position.0.saturating_sub(1)),
            WrittenFile::Snapshot { .. } => None,
        });
        let is_over = |written: &&WrittenFile| written.is_over(forwarded);
        let snapshots = self.written.iter().take_while(is_over).filter(|written| written.is_a_snapshot());
        self.shared.snapshots_over.store(snapshots.count() as u64, Ordering::Release);
        self.shared.cleared_to.store(first.unwrap_or(self.written_to.0), Ordering::Release);
        self.shared.written_to.store(self.written_to.0, Ordering::Release);
        let behind = self.behind.front().map_or(u64::MAX, |(position, ..)| position.0);
        self.shared.behind_from.store(behind, Ordering::Release);
        self.shared.files.store(self.file_count(), Ordering::Release);
    }

    fn file_count(&self) -> u64 {
        self.written.len().saturating_add(self.behind.len()) as u64
    }

    /// Removes files whose contents ImmuDB has.
    fn clear(&mut self, forwarded: ReplicationMark) -> io::Result<usize> {
        self.close_gap(forwarded.position);
        let mut cleared = 0;
        while cleared < Self::FILES_AT_ONCE
            && self.written.front().is_some_and(|file| file.is_over(forwarded))
        {
            match self.written.front() {
                Some(WrittenFile::Event { aggregate, sequence, .. }) => {
                    self.folder.remove_event(aggregate, *sequence)?;
                    if self.newest_of.get(aggregate) == Some(sequence) {
                        self.folder.remove_aggregate(aggregate)?;
                        self.newest_of.remove(aggregate);
                    }
                }
                Some(WrittenFile::Snapshot { aggregate, number }) => {
                    // A newer snapshot may have replaced the file.
                    let newer =
                        self.written.iter().skip(1).any(|file| file.is_snapshot_of(aggregate, *number));
                    if !newer {
                        self.folder.remove_snapshot(aggregate)?;
                    }
                }
                None => {}
            }
            self.written.pop_front();
            cleared += 1;
        }
        Ok(cleared)
    }

    /// Writes files for contents that ImmuDB does not have, up to the limit on files.
    fn write(&mut self, tip: Tip, forwarded: ReplicationMark) -> Result<usize, PassError> {
        let mut done = 0;
        if self.written_to < forwarded.position || self.cursor.is_none() {
            let from = self.written_to.max(forwarded.position);
            self.cursor = Some(self.history.cursor_before(from)?);
        }
        while done < Self::FILES_AT_ONCE && self.file_count() < self.files_max {
            let Some(cursor) = &mut self.cursor else { break };
            let Some(read) = cursor.next(tip.end).map_err(HistoryError::from)? else {
                self.shared.snapshots_seen.store(tip.snapshots, Ordering::Release);
                break;
            };
            match read.frame {
                Frame::Mark(_) => {}
                Frame::Snapshot { number, record: stored } => {
                    done += usize::from(self.write_snapshot(number, &stored, forwarded)?);
                }
                Frame::Append { records, .. } => {
                    for stored in records {
                        let place = stored.place(read.start);
                        let event = record::decode(stored.bytes, stored.hash)
                            .map_err(|source| HistoryError::Record { place, source })?;
                        if event.position > self.written_to.max(forwarded.position) {
                            self.write_event(event)?;
                            done += 1;
                        }
                    }
                }
            }
        }
        Ok(done.min(Self::FILES_AT_ONCE))
    }

    fn write_event(&mut self, event: RecordedEvent) -> io::Result<()> {
        let (aggregate, sequence, position) =
            (event.event.aggregate_id.clone(), event.sequence, event.position);
        let found = self.folder.existing_event(&aggregate, sequence)?;
        if is_foreign(&found, |bytes| format::read_event(bytes).is_some_and(|found| found.hash == event.hash))
        {
            let kept = self.folder.set_event_aside(&aggregate, sequence)?;
            warn!(file = %kept.display(), "renamed a file that has the name of an event file but does not \
             belong to this log");
        }
        self.folder.write_event(event)?;
        self.remember_event(aggregate, sequence, position);
        self.close_gap(Position(0));
        Ok(())
    }

    /// Takes over files after a gap: those that come next, and those whose events ImmuDB has.
    fn close_gap(&mut self, forwarded: Position) {
        while let Some((position, aggregate, sequence)) = self.behind.pop_front() {
            if position > self.written_to.next().max(forwarded) {
                self.behind.push_front((position, aggregate, sequence));
                return;
            }
            // Files that were written again in the meantime are already known.
            if position > self.written_to {
                self.remember_event(aggregate, sequence, position);
            }
        }
    }

    fn remember_event(&mut self, aggregate: AggregateId, sequence: SequenceNumber, position: Position) {
        self.will_be_newest(&aggregate, sequence);
        self.written.push_back(WrittenFile::Event { aggregate, sequence, position });
        self.written_to = position;
    }

    fn will_be_newest(&mut self, aggregate: &AggregateId, sequence: SequenceNumber) {
        let newest = self.newest_of.entry(aggregate.clone()).or_insert(sequence);
        *newest = sequence.max(*newest);
    }

    fn write_snapshot(
        &mut self,
        number: u64,
        stored: &crate::log::StoredRecord,
        forwarded: ReplicationMark,
    ) -> Result<bool, PassError> {
        let known = self.written.iter().any(|file| file.is_snapshot(number));
        if number <= forwarded.snapshots || known {
            return Ok(false);
        }
        let Ok(snapshot) = record::decode_snapshot(stored.bytes.clone()) else { return Ok(false) };
        let aggregate = snapshot.aggregate_id.clone();
        let found = self.folder.existing_snapshot(&aggregate)?;
        if is_foreign(&found, |bytes| self.is_snapshot_of_ours(bytes)) {
            let kept = self.folder.set_snapshot_aside(&aggregate)?;
            warn!(file = %kept.display(), "renamed a file that has the name of a snapshot file but does \
             not belong to this log");
        }
        self.folder.write_snapshot(snapshot)?;
        // The file has replaced the previous snapshot of the aggregate.
        self.written.retain(|file| !file.is_snapshot_of(&aggregate, 0));
        self.written.push_back(WrittenFile::Snapshot { aggregate, number });
        Ok(true)
    }

    /// Examines the files of an earlier run. Files whose events ImmuDB has will be removed, files
    /// whose events it lacks are kept, and files whose events are not in the log are left alone.
    fn scan_files(&mut self) -> Result<(), PassError> {
        self.folder.sweep()?;
        let forwarded = self.replication.view().forwarded;
        let mut waiting = Vec::new();
        let mut foreign = 0u64;
        for path in self.folder.event_paths()? {
            let found = EventFolder::read_event(&path).ok().flatten();
            let Some(event) = found.filter(|event| self.is_in_log(event).unwrap_or(false)) else {
                foreign += 1;
                continue;
            };
            let (aggregate, sequence, position) = (event.event.aggregate_id, event.sequence, event.position);
            waiting.push((position, aggregate, sequence));
        }
        if foreign > 0 {
            warn!(files = foreign, "left event files unchanged whose events are not in the log");
        }
        waiting.sort_unstable();
        self.take_up(waiting.into(), forwarded.position);
        self.scan_snapshots()
    }

    /// Takes over existing files. Only those that continue the forwarded position without a gap
    /// need not be written again. The rest wait until the gap before them is closed.
    fn take_up(
        &mut self,
        mut waiting: VecDeque<(Position, AggregateId, SequenceNumber)>,
        forwarded: Position,
    ) {
        for (_, aggregate, sequence) in &waiting {
            self.will_be_newest(aggregate, *sequence);
        }
        let over = waiting.partition_point(|(position, ..)| *position <= forwarded);
        for (position, aggregate, sequence) in waiting.drain(..over) {
            self.written.push_back(WrittenFile::Event { aggregate, sequence, position });
        }
        (self.written_to, self.behind) = (forwarded, waiting);
        self.close_gap(Position(0));
    }

    /// Takes over snapshot files. The number of a file's snapshot is not known, so the file is
    /// removed when ImmuDB has all snapshots that exist now.
    fn scan_snapshots(&mut self) -> Result<(), PassError> {
        let number = self.history.index.complete().tip.snapshots;
        for path in self.folder.snapshot_paths()? {
            let snapshot = folder::read_file(&path).ok().filter(|bytes| self.is_snapshot_of_ours(bytes));
            if let Some(snapshot) = snapshot.and_then(|bytes| format::read_snapshot(&bytes)) {
                self.written.push_back(WrittenFile::Snapshot { aggregate: snapshot.aggregate_id, number });
            }
        }
        Ok(())
    }

    /// Returns whether the snapshot was made from this history.
    fn is_snapshot_of_ours(&self, bytes: &[u8]) -> bool {
        let Some(snapshot) = format::read_snapshot(bytes) else { return false };
        let index = &self.history.index;
        let place = index.event_numbered(&snapshot.aggregate_id, snapshot.sequence, WaitMode::Waits);
        let event = place.ok().flatten().and_then(|place| self.history.event(place).ok());
        event.is_some_and(|event| event.hash == snapshot.event_hash)
    }

    fn is_in_log(&self, event: &RecordedEvent) -> Result<bool, PassError> {
        let place = self.history.index.event(event.event.id).map_err(HistoryError::from)?;
        let Some(place) = place else { return Ok(false) };
        let ours = self.history.event(place)?;
        Ok(ours.hash == event.hash && ours.position == event.position)
    }
}

impl WrittenFile {
    /// Returns whether ImmuDB has the contents of the file.
    fn is_over(&self, forwarded: ReplicationMark) -> bool {
        match self {
            Self::Event { position, .. } => *position <= forwarded.position,
            Self::Snapshot { number, .. } => *number <= forwarded.snapshots,
        }
    }

    fn is_a_snapshot(&self) -> bool {
        matches!(self, Self::Snapshot { .. })
    }

    fn is_snapshot(&self, wanted: u64) -> bool {
        matches!(self, Self::Snapshot { number, .. } if *number == wanted)
    }

    fn is_snapshot_of(&self, wanted: &AggregateId, behind: u64) -> bool {
        matches!(self, Self::Snapshot { aggregate, number } if aggregate == wanted && *number > behind)
    }
}

/// Returns whether there is something at the path of a file that was not written for it. An empty
/// file is not foreign: a power failure may leave one of ours empty.
fn is_foreign(found: &Existing, is_ours: impl FnOnce(&[u8]) -> bool) -> bool {
    match found {
        Existing::Nothing => false,
        Existing::File(bytes) => !bytes.is_empty() && !is_ours(bytes),
        Existing::Other => true,
    }
}

/// In these states, events wait for ImmuDB for longer than a moment, or forever.
fn wants_files(state: State) -> bool {
    match state {
        State::Connected | State::Starting | State::Copying => false,
        State::Fallback | State::Migrating | State::LocalOnly | State::Suspect | State::Fenced => true,
    }
}

#[cfg(test)]
mod tests;
