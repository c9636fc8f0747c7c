//! `repair`: checks the whole local log, and writes it anew where it is damaged.
//!
//! Every frame that is whole and continues the history before it is taken as it is. A gap is filled from
//! ImmuDB and the event files, if what they have leads to just the hash that the next whole frame
//! continues. Nothing that was stored is given up unless a person says so. The damaged log is kept.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tracing::{info, warn};

use crate::{
    config::Config,
    event::{Hash, Position, record},
    index::{self, Found, Seen},
    log::{
        Access, Damaged, FolderOwner, Frame, Lock, Log, LogId, OwnerFile, Place, ReadFrame, Salvage, Tip,
        recover, segment_numbers, writer_ids,
    },
    storage::INDEX_PATH,
};

mod run;
mod snapshots;
mod sources;

use run::{Numbers, Run};
use snapshots::Snapshots;
use sources::Sources;

/// What happens where the missing events are nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    Refused,
    Accepted,
}

/// # Errors
/// The log can't be read, or what it lacks is nowhere.
pub async fn run(config: Config, loss: Loss) -> Result<(), String> {
    let folder = config.event_sourcing.log_path.clone();
    let _lock = Lock::take(&folder, Access::ReadWrite).map_err(|error| error.to_string())?;
    let log_id = LogId::find(&folder).map_err(|error| error.to_string())?;
    let _index = FolderOwner::claim(&config.event_sourcing.index_path, OwnerFile::Within, log_id, INDEX_PATH)
        .map_err(|error| error.to_string())?;
    let known = known_end(&config);
    if recover(&folder, known.map(|known| known.end).filter(|end| *end > Place::START)).is_ok() {
        info!("what a start would cut off is cut off");
    }
    let (draft, mended) = (folder.with_extension("draft"), folder.with_extension("mended"));
    if draft.exists() {
        fs::remove_dir_all(&draft).map_err(|error| format!("{}: {error}", draft.display()))?;
    }
    if mended.exists() {
        // Of a run that ended between two steps: the damaged log, or a mended one.
        keep(&folder, &mended)?;
    }
    let mut repair = Repair {
        log: new_log(&draft, config.event_sourcing.segment_bytes_max)?,
        numbers: Numbers::new(),
        sources: Sources::new(&config),
        snapshots: Snapshots::new(&config),
        loss,
        marks: Vec::new(),
        doubt: None,
        damages: 0,
        filled: 0,
        flow: Flow::GoesOn,
        given_up: GivenUp::default(),
    };
    let numbers = segment_numbers(&folder).map_err(|error| error.to_string())?;
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
    let Repair { damages, filled, given_up, log, .. } = repair;
    let position = log.tip().position.0;
    log.close().map_err(|error| error.to_string())?;
    if damages == 0 {
        fs::remove_dir_all(&draft).map_err(|error| error.to_string())?;
        info!(position, segments = last, "the local log is whole; nothing was changed");
        return Ok(());
    }
    let kept = swap(&folder, &draft, &mended, &config.event_sourcing.index_path)?;
    let GivenUp { frames, events, snapshots } = given_up;
    if frames > 0 {
        warn!(frames, events, snapshots, "whole frames were passed over; each is named above");
    }
    info!(position, filled, kept = %kept.display(), "the local log was mended; the damaged one is kept");
    Ok(())
}

fn new_log(folder: &Path, segment_bytes_max: u64) -> Result<Log, String> {
    let recovered = recover(folder, None).map_err(|error| error.to_string())?;
    Ok(Log::new(recovered, Tip::START, segment_bytes_max))
}

/// How far the index had the log: all of that was synced once.
fn known_end(config: &Config) -> Option<Seen> {
    match Found::look(&config.event_sourcing.index_path) {
        Ok(found) => found.seen(&config.event_sourcing.log_path),
        Err(error) => {
            warn!(%error, "the index can't tell how far the log went");
            None
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    GoesOn,
    /// A gap was given up: nothing behind it continues the log.
    Ended,
}

/// Whole frames that are not in the mended log.
#[derive(Debug, Default)]
struct GivenUp {
    frames: u64,
    events: u64,
    snapshots: u64,
}

struct Repair<'a> {
    log: Log,
    numbers: Numbers,
    sources: Sources<'a>,
    snapshots: Snapshots,
    loss: Loss,
    /// Notes of positions that the log does not reach yet.
    marks: Vec<(Position, Bytes)>,
    /// Damage to what was synced once, that no later append explains: events may have been there.
    doubt: Option<Place>,
    damages: u64,
    filled: u64,
    flow: Flow,
    given_up: GivenUp,
}

impl Repair<'_> {
    /// Takes over what is whole in one segment, or names it.
    async fn segment(&mut self, number: u32, opened: io::Result<Option<Salvage>>) -> Result<(), String> {
        let salvage = match opened {
            Ok(salvage) => salvage,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(format!("segment {number}: {error}")),
        };
        let Some(mut salvage) = salvage else {
            warn!(segment = number, "the segment is missing, or its header is damaged");
            self.damages += 1;
            self.doubt.get_or_insert(Place { segment: number, offset: 0 });
            return Ok(());
        };
        while let Some(read) = salvage.next() {
            if self.flow == Flow::Ended {
                self.pass_over(&read, "it lies behind what is given up");
                continue;
            }
            if let Some(damaged) = salvage.take_synced_damage() {
                self.doubt.get_or_insert(damaged);
            }
            match &read.frame {
                Frame::Mark(bytes) => {
                    let mark = record::decode_mark(bytes.clone()).map_err(|error| error.to_string())?;
                    self.marks.push((mark.position, bytes.clone()));
                    self.write_marks()?;
                }
                Frame::Snapshot { .. } if self.given_up.events > 0 => {
                    self.pass_over(&read, "it may be of an append that was passed over");
                }
                Frame::Snapshot { record, .. } => {
                    self.snapshots.is_whole(&record.bytes);
                    self.write(|group| _ = group.snapshot(&record.bytes))?;
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

    /// Takes over a whole append, after what is missing before it.
    async fn take(
        &mut self,
        read: &ReadFrame,
        first: Position,
        previous: Hash,
        records: &[Bytes],
    ) -> Result<(), String> {
        if first > self.numbers.position().next() {
            self.flow = self.fill_or_give_up(first, Some(previous)).await?;
            if self.flow == Flow::Ended {
                self.pass_over(read, "it lies behind what is given up");
                return Ok(());
            }
        }
        let position = self.numbers.position();
        let before = self.numbers.hash();
        let goes_on = match first <= position {
            true => Err("its positions are in the log already"),
            false if before != previous => Err("the history before it is another one"),
            false => self.numbers.go_on(records, None),
        };
        match (goes_on, self.loss) {
            (Ok(()), _) => {
                self.doubt = None;
                self.write_append(records, before)
            }
            (Err(why), Loss::Accepted) => {
                self.damages += 1;
                self.pass_over(read, why);
                Ok(())
            }
            (Err(why), Loss::Refused) => Err(format!(
                "segment {}, byte {}: an append of {} events from position {first} on does not continue the log: \
                 {why}. With --discard-after-damage it is passed over, like all others of this kind",
                read.start.segment,
                read.start.offset,
                records.len()
            )),
        }
    }

    fn pass_over(&mut self, read: &ReadFrame, why: &str) {
        let Place { segment, offset } = read.start;
        self.given_up.frames += 1;
        match &read.frame {
            Frame::Append { first, records, .. } => {
                let events = records.len() as u64;
                self.given_up.events += events;
                let last = first.0.saturating_add(events).saturating_sub(1);
                warn!(segment, offset, first = first.0, last, why, "passed over: an append");
            }
            Frame::Snapshot { record, .. } => {
                self.given_up.snapshots += 1;
                let snapshot = record::decode_snapshot(record.bytes.clone());
                let aggregate =
                    snapshot.map(|snapshot| snapshot.aggregate_id.to_string()).unwrap_or_default();
                warn!(segment, offset, %aggregate, why, "passed over: a snapshot");
            }
            Frame::Mark(_) => warn!(segment, offset, why, "passed over: a note of the forwarded position"),
        }
    }

    fn append(&mut self, records: &[Bytes]) -> Result<(), String> {
        let before = self.numbers.hash();
        self.numbers.go_on(records, None)?;
        self.write_append(records, before)
    }

    fn write_append(&mut self, records: &[Bytes], before: Hash) -> Result<(), String> {
        self.snapshots.pass(records, before);
        self.write(|group| _ = group.append(records))?;
        self.write_marks()
    }

    /// What lies behind the last whole append: as much as the index or a note has seen, and whatever else
    /// the damage may have hit.
    async fn end(&mut self, known: Option<Seen>) -> Result<(), String> {
        let marked = self.marks.iter().map(|(position, _)| *position).max().unwrap_or(Position(0));
        let last = marked.max(known.map_or(Position(0), |known| known.position));
        let hash = known.filter(|known| last == known.position).map(|known| known.hash);
        if last > self.numbers.position() && self.fill_or_give_up(last.next(), hash).await? == Flow::Ended {
            return Ok(());
        }
        if let Some(damaged) = self.doubt.filter(|damaged| known.is_none_or(|known| known.end <= *damaged)) {
            return self.go_beyond(damaged).await;
        }
        Ok(())
    }

    /// Nobody knows how many events the damaged end had: takes what can be had, and a person's word.
    async fn go_beyond(&mut self, damaged: Place) -> Result<(), String> {
        self.damages += 1;
        let before = self.numbers.position();
        let run = self.search(Position(u64::MAX)).await;
        self.take_run(run)?;
        let (found, Place { segment, offset }) = (self.numbers.position(), damaged);
        if self.loss == Loss::Accepted {
            warn!(segment, offset, position = found.0, "whatever else was at the end is given up");
            return Ok(());
        }
        Err(format!(
            "the end of the log is damaged from segment {segment}, byte {offset} on; behind position {before} \
             ImmuDB and the event files have events up to {found}, and nothing tells whether there were more. \
             With --discard-after-damage the log is mended with these, and ends there"
        ))
    }

    async fn fill_or_give_up(&mut self, until: Position, leads_to: Option<Hash>) -> Result<Flow, String> {
        let first = self.numbers.position().next();
        let missing = format!("positions {first} to {}", until.0.saturating_sub(1));
        self.damages += 1;
        let run = self.search(until).await;
        let found = run.numbers.position();
        let why = match leads_to {
            _ if found.next() != until => format!("found only up to position {found}"),
            Some(hash) if hash != run.numbers.hash() => "what was found is another history".to_owned(),
            Some(_) | None => {
                self.take_run(run)?;
                return Ok(Flow::GoesOn);
            }
        };
        if self.loss == Loss::Accepted {
            warn!(%missing, %why, "given up, with everything behind what was found");
            if found.next() != until {
                self.take_run(run)?;
            }
            return Ok(Flow::Ended);
        }
        Err(format!(
            "{missing} are damaged and can't be had again: {why}. \
             With --discard-after-damage everything from there on is given up"
        ))
    }

    /// What ImmuDB and the event files have of the history from here on, without a gap.
    async fn search(&mut self, until: Position) -> Run {
        let mut run = Run::behind(&self.numbers);
        let records = self.sources.in_immudb(run.numbers.position(), until).await;
        run.extend(records.into_iter().map(|bytes| (bytes, None)));
        let from = run.numbers.position();
        run.extend(self.sources.in_files(from, until));
        run
    }

    fn take_run(&mut self, run: Run) -> Result<(), String> {
        for append in run.appends {
            self.filled = self.filled.saturating_add(append.len() as u64);
            self.append(&append)?;
        }
        Ok(())
    }

    fn write_lost_snapshots(&mut self) -> Result<(), String> {
        for bytes in std::mem::take(&mut self.snapshots).lost() {
            self.write(|group| _ = group.snapshot(&bytes))?;
        }
        Ok(())
    }

    /// A note of a position is written once the log reaches that.
    fn write_marks(&mut self) -> Result<(), String> {
        let reached = self.numbers.position();
        let (ready, waiting) =
            std::mem::take(&mut self.marks).into_iter().partition(|(at, _)| *at <= reached);
        self.marks = waiting;
        let ready: Vec<(Position, Bytes)> = ready;
        for (_, bytes) in ready {
            self.write(|group| group.mark(&bytes))?;
        }
        Ok(())
    }

    fn write(&mut self, add: impl FnOnce(&mut crate::log::Group)) -> Result<(), String> {
        let mut group = self.log.begin().map_err(|error| error.to_string())?;
        add(&mut group);
        self.log.write_unsynced(group).map_err(|error| error.to_string())
    }
}

/// Puts the mended log in the place of the damaged one, in one step: at no time is there no log, or an index
/// of another one beside it that would be believed. The damaged one is kept.
fn swap(folder: &Path, draft: &Path, mended: &Path, index_path: &Path) -> Result<PathBuf, String> {
    let problem = |error: std::io::Error| error.to_string();
    writer_ids::copy(folder, draft).map_err(problem)?;
    if let Some(id) = LogId::find(folder).map_err(problem)? {
        id.write(draft).map_err(problem)?;
    }
    fs::rename(draft, mended).map_err(problem)?;
    sync_parent(folder)?;
    renameat_with(CWD, mended, CWD, folder, RenameFlags::EXCHANGE).map_err(|error| {
        format!("{} and {} can't change places: {error}", mended.display(), folder.display())
    })?;
    sync_parent(folder)?;
    // Whatever ends the process before this: an index that had seen more stays in the way of the start.
    index::remove(index_path).map_err(problem)?;
    keep(folder, mended)
}

/// Gives a log that is not in use any more a name under which nobody touches it.
fn keep(folder: &Path, log: &Path) -> Result<PathBuf, String> {
    let kept = (1u32..)
        .map(|number| folder.with_extension(format!("damaged-{number}")))
        .find(|path| !path.exists())
        .ok_or("no name is left for the damaged log")?;
    fs::rename(log, &kept).map_err(|error| error.to_string())?;
    sync_parent(folder)?;
    Ok(kept)
}

pub(super) fn sync_parent(folder: &Path) -> Result<(), String> {
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(|error| error.to_string())
}
