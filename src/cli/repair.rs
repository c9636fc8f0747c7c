//! `repair`: checks the whole local log and, if it is damaged, replaces it with a repaired copy.
//!
//! Every undamaged frame that continues the history before it is kept. A gap is filled from ImmuDB
//! and the event files, but only if their events lead to exactly the chain hash that the next
//! undamaged frame continues from. No stored event is discarded unless the operator accepts the
//! loss. The damaged log is kept.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tracing::{info, warn};

use super::Error;
use crate::{
    config::Config,
    event::{ChainHash, Position, record},
    index::{self, IndexScan, KnownLogEnd},
    log::{
        Access, Damaged, FolderOwner, Frame, FrameTooLarge, Group, Lock, Log, LogId, LogOffset, OpenError,
        OwnerFile, ReadFrame, Salvage, Tip, check_versions, recover, segment_numbers, writer_ids,
    },
    storage::{INDEX_PATH, StorageError},
    transparency::generations::{self, Generation},
};

mod error;
mod gap_fill;
mod snapshots;
mod sources;

use error::GapError;
pub(super) use error::RepairError;
use gap_fill::{GapFill, HistoryEnd};
use snapshots::Snapshots;
use sources::Sources;

/// What to do if missing events cannot be recovered from anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    Refused,
    Accepted,
}

/// Checks the local log and repairs it if it is damaged.
///
/// # Errors
/// Returns an error if the log cannot be read or replaced, or if events would be lost and `loss`
/// does not allow it.
pub(super) async fn run(config: Config, loss: Loss) -> Result<(), Error> {
    let folder = config.event_sourcing.log_path.clone();
    let _lock = Lock::take(&folder, Access::ReadWrite).map_err(StorageError::from)?;
    let log_id = LogId::find(&folder).map_err(Error::Io)?;
    let _index = FolderOwner::claim(&config.event_sourcing.index_path, OwnerFile::Within, log_id, INDEX_PATH)
        .map_err(StorageError::from)?;
    let known = known_end(&config);
    match recover(&folder, known.map(|known| known.end).filter(|end| *end > LogOffset::START)) {
        Ok(_) => info!("what a start would cut off is cut off"),
        // What this program does not know is not damage.
        Err(newer @ OpenError::Newer(_)) => return Err(StorageError::from(newer).into()),
        Err(_) => check_versions(&folder).map_err(|error| StorageError::from(OpenError::from(error)))?,
    }
    let (draft, mended) = (beside(&folder, "draft"), beside(&folder, "mended"));
    for leftover in [&draft, &mended] {
        if LogId::stored(leftover).map_err(Error::Io)?.is_some_and(|id| Some(id) != log_id) {
            return Err(RepairError::AnotherLog { folder: leftover.clone() }.into());
        }
    }
    if draft.exists() {
        fs::remove_dir_all(&draft).map_err(|error| Error::of_file(&draft, error))?;
    }
    if mended.exists() {
        // Left by an interrupted run: either the damaged log or a repaired one.
        keep(&folder, &mended)?;
    }
    let mut repair = Repair {
        log: new_log(&draft, config.event_sourcing.segment_bytes_max)?,
        numbers: HistoryEnd::new(),
        sources: Sources::new(&config),
        snapshots: Snapshots::new(&config),
        loss,
        marks: Vec::new(),
        doubt: None,
        damages: 0,
        filled: 0,
        flow: Flow::GoesOn,
        is_shortened: false,
        given_up: GivenUp::default(),
    };
    let numbers = segment_numbers(&folder).map_err(Error::Io)?;
    let last = numbers.last().copied().unwrap_or(0);
    for number in 1..=last {
        let salvage = if number == last { Salvage::open_last } else { Salvage::open };
        repair.segment(number, salvage(&folder, number)).await?;
    }
    if repair.flow == Flow::GoesOn {
        repair.end(known).await?;
    }
    if repair.damages > 0 {
        repair.write_lost_snapshots()?;
    }
    let Repair { damages, filled, given_up, log, is_shortened, .. } = repair;
    let position = log.tip().position.0;
    log.close()?;
    if damages == 0 {
        fs::remove_dir_all(&draft).map_err(Error::Io)?;
        info!(position, segments = last, "the local log is undamaged; nothing was changed");
        return Ok(());
    }
    if is_shortened {
        begin_generation(&folder, Position(position))?;
    }
    let kept = swap(&folder, &draft, &mended, &config.event_sourcing.index_path)?;
    let GivenUp { frames, events, snapshots } = given_up;
    if frames > 0 {
        warn!(frames, events, snapshots, "undamaged frames were discarded; see the warnings above");
    }
    info!(position, filled, kept = %kept.display(), "the local log was repaired; the damaged log is kept");
    Ok(())
}

/// Checkpoints of the events that are discarded must not count any longer.
fn begin_generation(log: &Path, agreed: Position) -> Result<(), Error> {
    let because = "the local log was damaged, and what followed the damage was discarded";
    let generation = Generation::by_operator(agreed, "repair --discard-after-damage", because);
    generations::begin(log, generation).map_err(|error| Error::of_file(&generations::path(log), error))
}

fn new_log(folder: &Path, segment_bytes_max: u64) -> Result<Log, Error> {
    let recovered = recover(folder, None).map_err(StorageError::from)?;
    Ok(Log::new(recovered, Tip::START, segment_bytes_max))
}

/// Returns how far the index has seen the log, or `None` if that is unknown. The log was once
/// synced at least up to there.
fn known_end(config: &Config) -> Option<KnownLogEnd> {
    match IndexScan::read_folder(&config.event_sourcing.index_path) {
        Ok(found) => found.seen(&config.event_sourcing.log_path),
        Err(error) => {
            warn!(%error, "the index cannot be read; the end of the log is unknown");
            None
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    GoesOn,
    /// The events in a gap were discarded, so nothing after it continues the log.
    Ended,
}

/// Counts of undamaged frames that are not in the repaired log.
#[derive(Debug, Default)]
struct GivenUp {
    frames: u64,
    events: u64,
    snapshots: u64,
}

struct Repair<'a> {
    log: Log,
    numbers: HistoryEnd,
    sources: Sources<'a>,
    snapshots: Snapshots,
    loss: Loss,
    /// Replication marks for positions that the repaired log has not reached yet.
    marks: Vec<(Position, Bytes)>,
    /// The start of damage in synced data that no later append accounts for. It may have contained
    /// events.
    doubt: Option<LogOffset>,
    damages: u64,
    filled: u64,
    flow: Flow,
    /// Events were discarded, or may have been.
    is_shortened: bool,
    given_up: GivenUp,
}

impl Repair<'_> {
    /// Keeps the undamaged frames of one segment. Logs everything that is damaged or discarded.
    async fn segment(&mut self, number: u32, opened: io::Result<Option<Salvage>>) -> Result<(), Error> {
        let salvage = match opened {
            Ok(salvage) => salvage,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(RepairError::Segment { number, source }.into()),
        };
        let Some(mut salvage) = salvage else {
            warn!(segment = number, "segment missing, or its header is damaged");
            self.damages += 1;
            self.doubt.get_or_insert(LogOffset { segment: number, offset: 0 });
            return Ok(());
        };
        while let Some(read) = salvage.next() {
            if self.flow == Flow::Ended {
                self.pass_over(&read, "it follows the discarded events");
                continue;
            }
            if let Some(damaged) = salvage.take_synced_damage() {
                self.doubt.get_or_insert(damaged);
            }
            match &read.frame {
                Frame::Mark(bytes) => {
                    let mark = record::decode_mark(bytes.clone()).map_err(RepairError::Mark)?;
                    self.marks.push((mark.position, bytes.clone()));
                    self.write_marks()?;
                }
                Frame::Snapshot { .. } if self.given_up.events > 0 => {
                    self.pass_over(&read, "it may belong to a discarded append");
                }
                Frame::Snapshot { record, .. } => {
                    self.snapshots.is_whole(&record.bytes);
                    self.write(|group| group.snapshot(&record.bytes).map(|_| ()))?;
                }
                Frame::Append { first, previous, records } => {
                    let records: Vec<Bytes> = records.iter().map(|stored| stored.bytes.clone()).collect();
                    self.take(&read, *first, *previous, &records).await?;
                }
            }
        }
        for Damaged { offset, bytes } in &salvage.damages {
            warn!(segment = number, offset, bytes, "damaged bytes");
            self.damages += 1;
        }
        Ok(())
    }

    /// Keeps an undamaged append, after filling the gap before it, if any.
    async fn take(
        &mut self,
        read: &ReadFrame,
        first: Position,
        previous: ChainHash,
        records: &[Bytes],
    ) -> Result<(), Error> {
        if first > self.numbers.position().next() {
            self.flow = self.fill_or_discard(first, Some(previous)).await?;
            if self.flow == Flow::Ended {
                self.pass_over(read, "it follows the discarded events");
                return Ok(());
            }
        }
        let position = self.numbers.position();
        let before = self.numbers.hash();
        let goes_on = if first <= position {
            Err("its positions are already in the log")
        } else if before != previous {
            Err("its chain hash does not match the history before it")
        } else {
            self.numbers.append(records, None)
        };
        match (goes_on, self.loss) {
            (Ok(()), _) => {
                self.doubt = None;
                self.write_append(records, before)
            }
            (Err(why), Loss::Accepted) => {
                self.damages += 1;
                self.is_shortened = true;
                self.pass_over(read, why);
                Ok(())
            }
            (Err(why), Loss::Refused) => {
                let events = records.len();
                Err(RepairError::DoesNotContinue { at: read.start, first, events, why }.into())
            }
        }
    }

    fn pass_over(&mut self, read: &ReadFrame, why: &str) {
        let LogOffset { segment, offset } = read.start;
        self.given_up.frames += 1;
        match &read.frame {
            Frame::Append { first, records, .. } => {
                let events = records.len() as u64;
                self.given_up.events += events;
                let last = first.0.saturating_add(events).saturating_sub(1);
                warn!(segment, offset, first = first.0, last, why, "append discarded");
            }
            Frame::Snapshot { record, .. } => {
                self.given_up.snapshots += 1;
                let snapshot = record::decode_snapshot(record.bytes.clone());
                let aggregate =
                    snapshot.map(|snapshot| snapshot.aggregate_id.to_string()).unwrap_or_default();
                warn!(segment, offset, %aggregate, why, "snapshot discarded");
            }
            Frame::Mark(_) => warn!(segment, offset, why, "replication mark discarded"),
        }
    }

    fn append(&mut self, records: &[Bytes]) -> Result<(), Error> {
        let before = self.numbers.hash();
        self.numbers.append(records, None).map_err(|why| RepairError::RecoveredElsewhere { why })?;
        self.write_append(records, before)
    }

    fn write_append(&mut self, records: &[Bytes], before: ChainHash) -> Result<(), Error> {
        self.snapshots.pass(records, before);
        self.write(|group| group.append(records).map(|_| ()))?;
        self.write_marks()
    }

    /// Recovers the events after the last undamaged append: those that the index or a replication
    /// mark has seen, and any others that the damage may have destroyed.
    async fn end(&mut self, known: Option<KnownLogEnd>) -> Result<(), Error> {
        let marked = self.marks.iter().map(|(position, _)| *position).max().unwrap_or(Position(0));
        let last = marked.max(known.map_or(Position(0), |known| known.position));
        let hash = known.filter(|known| last == known.position).map(|known| known.hash);
        if last > self.numbers.position() && self.fill_or_discard(last.next(), hash).await? == Flow::Ended {
            return Ok(());
        }
        if let Some(damaged) = self.doubt.filter(|damaged| known.is_none_or(|known| known.end <= *damaged)) {
            return self.go_beyond(damaged).await;
        }
        Ok(())
    }

    /// Recovers what it can of a damaged end of the log. Because the number of events in it is
    /// unknown, the operator must accept that more events may be lost.
    async fn go_beyond(&mut self, damaged: LogOffset) -> Result<(), Error> {
        self.damages += 1;
        let before = self.numbers.position();
        let run = self.search(Position(u64::MAX)).await;
        self.take_run(run)?;
        let found = self.numbers.position();
        if self.loss == Loss::Accepted {
            self.is_shortened = true;
            let LogOffset { segment, offset } = damaged;
            warn!(segment, offset, position = found.0, "anything else at the end of the log is discarded");
            return Ok(());
        }
        Err(RepairError::EndDamaged { damaged, before, found }.into())
    }

    async fn fill_or_discard(&mut self, until: Position, leads_to: Option<ChainHash>) -> Result<Flow, Error> {
        let first = self.numbers.position().next();
        let last = Position(until.0.saturating_sub(1));
        self.damages += 1;
        let run = self.search(until).await;
        let found = run.numbers.position();
        let why = match leads_to {
            _ if found.next() != until => GapError::FoundUpTo(found),
            Some(hash) if hash != run.numbers.hash() => GapError::AnotherHistory,
            Some(_) | None => {
                self.take_run(run)?;
                return Ok(Flow::GoesOn);
            }
        };
        if self.loss == Loss::Accepted {
            self.is_shortened = true;
            let missing = format!("positions {first} to {last}");
            warn!(%missing, %why, "discarding everything after the events that were found");
            if found.next() != until {
                self.take_run(run)?;
            }
            return Ok(Flow::Ended);
        }
        Err(RepairError::Lost { first, last, why }.into())
    }

    /// Searches ImmuDB and the event files for the appends that continue the history, up to `until`
    /// (exclusive) and without a gap.
    async fn search(&mut self, until: Position) -> GapFill {
        let mut run = GapFill::after(&self.numbers);
        let records = self.sources.in_immudb(run.numbers.position(), until).await;
        run.extend(records.into_iter().map(|bytes| (bytes, None)));
        let from = run.numbers.position();
        run.extend(self.sources.in_files(from, until));
        run
    }

    fn take_run(&mut self, run: GapFill) -> Result<(), Error> {
        for append in run.appends {
            self.filled = self.filled.saturating_add(append.len() as u64);
            self.append(&append)?;
        }
        Ok(())
    }

    fn write_lost_snapshots(&mut self) -> Result<(), Error> {
        for bytes in std::mem::take(&mut self.snapshots).lost() {
            self.write(|group| group.snapshot(&bytes).map(|_| ()))?;
        }
        Ok(())
    }

    /// Writes the replication marks whose positions the repaired log has reached.
    fn write_marks(&mut self) -> Result<(), Error> {
        let reached = self.numbers.position();
        let (ready, waiting) =
            std::mem::take(&mut self.marks).into_iter().partition(|(at, _)| *at <= reached);
        self.marks = waiting;
        let ready: Vec<(Position, Bytes)> = ready;
        for (_, bytes) in ready {
            self.write(|group| {
                group.mark(&bytes);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn write(&mut self, add: impl FnOnce(&mut Group) -> Result<(), FrameTooLarge>) -> Result<(), Error> {
        let mut group = self.log.begin()?;
        add(&mut group)?;
        Ok(self.log.write_unsynced(group)?)
    }
}

/// Atomically exchanges the damaged log for the repaired one, and keeps the damaged one. At no time
/// is there no log, or a log next to another log's index that a start would trust.
fn swap(folder: &Path, draft: &Path, mended: &Path, index_path: &Path) -> Result<PathBuf, Error> {
    writer_ids::copy(folder, draft).map_err(Error::Io)?;
    if let Some(id) = LogId::find(folder).map_err(Error::Io)? {
        id.write(draft).map_err(Error::Io)?;
    }
    fs::rename(draft, mended).map_err(Error::Io)?;
    sync_parent(folder)?;
    renameat_with(CWD, mended, CWD, folder, RenameFlags::EXCHANGE).map_err(|source| {
        RepairError::Exchange { mended: mended.to_owned(), log: folder.to_owned(), source }
    })?;
    sync_parent(folder)?;
    // If the process ends before this, a start refuses to use an index that has seen more than the
    // log contains.
    index::remove(index_path).map_err(Error::Io)?;
    keep(folder, mended)
}

/// Renames a log that is no longer in use, so that no later run touches it.
fn keep(folder: &Path, log: &Path) -> Result<PathBuf, Error> {
    let kept = (1u32..)
        .map(|number| beside(folder, &format!("damaged-{number}")))
        .find(|path| !path.exists())
        .ok_or_else(|| Error::Io(io::Error::other("no free name for the damaged log")))?;
    fs::rename(log, &kept).map_err(Error::Io)?;
    sync_parent(folder)?;
    Ok(kept)
}

/// Returns the path of a directory next to the log, such as `log.draft` for `log`. The name of the
/// log is kept as a whole: `log.a` and `log.b` must not share a draft, and no log is its own draft.
pub(super) fn beside(log: &Path, extension: &str) -> PathBuf {
    let mut name = log.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{extension}"));
    log.with_file_name(name)
}

pub(super) fn sync_parent(folder: &Path) -> Result<(), Error> {
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(Error::Io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_with_different_names_do_not_share_a_draft() {
        for (log, draft) in [
            ("storage/log", "storage/log.draft"),
            ("storage/log/", "storage/log.draft"),
            ("storage/world.log", "storage/world.log.draft"),
            ("storage.v2", "storage.v2.draft"),
            ("log.draft", "log.draft.draft"),
        ] {
            assert_eq!(beside(Path::new(log), "draft"), Path::new(draft));
        }
    }
}
