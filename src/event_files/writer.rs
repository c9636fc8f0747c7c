//! The thread that writes and removes the files. The files that exist are tracked by
//! `known_files`.

use std::{io, sync::Arc};

use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    folder::{self, EventFolder, Existing},
    format,
    known_files::{EventFile, KnownFile, KnownFiles},
    progress::{PublishedProgress, wants_files},
    settings::Settings,
};
use crate::{
    event::{
        RecordedEvent,
        record::{self, ReplicationMark},
    },
    history::{History, HistoryError},
    index::WaitMode,
    log::{Cursor, Frame, StoredRecord, Tip},
    replication::{state::State, status::ReplicationStatus},
    threads,
};

/// The state owned by the thread.
pub(super) struct EventFileWriter {
    pub folder: EventFolder,
    pub files: KnownFiles,
    files_max: u64,
    history: History,
    replication: Arc<ReplicationStatus>,
    progress: Arc<PublishedProgress>,
    /// The position in the log after the last frame processed. `None` if it must be determined
    /// again.
    cursor: Option<Cursor>,
    /// Snapshots up to this number have been examined.
    snapshots_seen: u64,
}

/// Why a pass over the files ended early. The next pass continues where it stopped.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    History(#[from] HistoryError),
}

impl EventFileWriter {
    /// About how many files one pass removes or writes. Between passes, the thread checks whether
    /// to stop.
    const FILES_AT_ONCE: usize = 256;

    /// Creates a writer that knows no files yet. After a panic of the thread, `progress` is that of
    /// the writer before.
    pub(super) fn new(
        settings: &Settings,
        history: History,
        replication: Arc<ReplicationStatus>,
        progress: Arc<PublishedProgress>,
    ) -> Self {
        Self {
            folder: EventFolder::new(&settings.folder),
            files: KnownFiles::default(),
            files_max: settings.files_max,
            history,
            replication,
            snapshots_seen: progress.get().map_or(0, |progress| progress.snapshots_seen),
            progress,
            cursor: None,
        }
    }

    /// Writes and removes files until `stopping` is cancelled.
    pub(super) fn run(
        mut self,
        handle: &Handle,
        mut tip: watch::Receiver<Tip>,
        stopping: &CancellationToken,
    ) {
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
        self.publish(forwarded);
        Ok(cleared == Self::FILES_AT_ONCE || written == Self::FILES_AT_ONCE)
    }

    pub(super) fn publish(&self, forwarded: ReplicationMark) {
        self.progress.publish(self.files.progress(forwarded, self.snapshots_seen));
    }

    /// Removes files whose contents ImmuDB has.
    pub(super) fn clear(&mut self, forwarded: ReplicationMark) -> io::Result<usize> {
        self.files.close_gap(forwarded.position);
        let mut cleared = 0;
        while cleared < Self::FILES_AT_ONCE
            && let Some(file) = self.files.first().filter(|file| file.is_over(forwarded))
        {
            self.remove(file)?;
            self.files.forget_first();
            cleared += 1;
        }
        Ok(cleared)
    }

    fn remove(&self, file: &KnownFile) -> io::Result<()> {
        match file {
            KnownFile::Event(file) => {
                self.folder.remove_event(&file.aggregate, file.sequence)?;
                if self.files.is_newest(file) {
                    self.folder.remove_aggregate(&file.aggregate)?;
                }
            }
            KnownFile::Snapshot { aggregate, number } => {
                // A newer snapshot may have replaced the file.
                if !self.files.has_newer_snapshot(aggregate, *number) {
                    self.folder.remove_snapshot(aggregate)?;
                }
            }
        }
        Ok(())
    }

    /// Writes files for contents that ImmuDB does not have, up to the limit on files.
    fn write(&mut self, tip: Tip, forwarded: ReplicationMark) -> Result<usize, PassError> {
        let mut done = 0;
        let written_to = self.files.written_to();
        if written_to < forwarded.position || self.cursor.is_none() {
            let from = written_to.max(forwarded.position);
            self.cursor = Some(self.history.cursor_before(from)?);
        }
        while done < Self::FILES_AT_ONCE && self.files.count() < self.files_max {
            let Some(cursor) = &mut self.cursor else { break };
            let Some(read) = cursor.next(tip.end).map_err(HistoryError::from)? else {
                self.snapshots_seen = tip.snapshots;
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
                        if event.position > self.files.written_to().max(forwarded.position) {
                            self.write_event(event)?;
                            done += 1;
                        }
                    }
                }
            }
        }
        Ok(done.min(Self::FILES_AT_ONCE))
    }

    pub(super) fn write_event(&mut self, event: RecordedEvent) -> io::Result<()> {
        let file = EventFile {
            position: event.position,
            aggregate: event.event.aggregate_id.clone(),
            sequence: event.sequence,
        };
        let found = self.folder.existing_event(&file.aggregate, file.sequence)?;
        if is_foreign(&found, |bytes| format::read_event(bytes).is_some_and(|found| found.hash == event.hash))
        {
            let kept = self.folder.set_event_aside(&file.aggregate, file.sequence)?;
            warn!(file = %kept.display(), "renamed a file that has the name of an event file but does not \
             belong to this log");
        }
        self.folder.write_event(event)?;
        self.files.add_event(file);
        Ok(())
    }

    fn write_snapshot(
        &mut self,
        number: u64,
        stored: &StoredRecord,
        forwarded: ReplicationMark,
    ) -> Result<bool, PassError> {
        if number <= forwarded.snapshots || self.files.has_snapshot(number) {
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
        self.files.add_snapshot(aggregate, number);
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
            let RecordedEvent { event, sequence, position, .. } = event;
            waiting.push(EventFile { position, aggregate: event.aggregate_id, sequence });
        }
        if foreign > 0 {
            warn!(files = foreign, "left event files unchanged whose events are not in the log");
        }
        waiting.sort_unstable();
        self.files.take_up(waiting.into(), forwarded.position);
        self.scan_snapshots()
    }

    /// Takes over snapshot files. The number of a file's snapshot is not known, so the file is
    /// removed when ImmuDB has all snapshots that exist now.
    fn scan_snapshots(&mut self) -> Result<(), PassError> {
        let number = self.history.index.complete().tip.snapshots;
        for path in self.folder.snapshot_paths()? {
            let snapshot = folder::read_file(&path).ok().filter(|bytes| self.is_snapshot_of_ours(bytes));
            if let Some(snapshot) = snapshot.and_then(|bytes| format::read_snapshot(&bytes)) {
                self.files.take_up_snapshot(snapshot.aggregate_id, number);
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

/// Returns whether there is something at the path of a file that was not written for it. An empty
/// file is not foreign: a power failure may leave one of ours empty.
fn is_foreign(found: &Existing, is_ours: impl FnOnce(&[u8]) -> bool) -> bool {
    match found {
        Existing::Nothing => false,
        Existing::File(bytes) => !bytes.is_empty() && !is_ours(bytes),
        Existing::Other => true,
    }
}
