//! `repair`: checks the whole local log, and writes it anew where it is damaged.
//!
//! Every frame that is whole and continues the history before it is taken as it is. A gap is filled from
//! ImmuDB, or from the event files, if what they have leads to just the hash that the next whole frame
//! continues. The damaged log is kept.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tracing::{info, warn};

use crate::{
    config::Config,
    event::{Hash, Position, record},
    event_files::folder::Folder,
    forwarder::copy::records_between,
    immudb::Session,
    index::Index,
    log::{Frame, Lock, Log, Salvage, Tip, recover, segment_numbers, writer_ids},
    server::immudb_settings,
};

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
    let lock = Lock::take(&folder).map_err(|error| error.to_string())?;
    let mended = folder.with_extension("mended");
    if mended.exists() {
        fs::remove_dir_all(&mended).map_err(|error| format!("{}: {error}", mended.display()))?;
    }
    let mut repair = Repair {
        log: new_log(&mended, config.event_sourcing.segment_bytes_max)?,
        config: &config,
        loss,
        damages: 0,
        filled: 0,
        files: None,
    };
    let numbers = segment_numbers(&folder).map_err(|error| error.to_string())?;
    let last = numbers.last().copied().unwrap_or(0);
    let mut flow = Flow::GoesOn;
    for number in 1..=last {
        if flow == Flow::GoesOn {
            flow = repair.segment(&folder, number).await?;
        }
    }
    if flow == Flow::GoesOn {
        repair.end(known_end(&config)).await?;
    }
    repair.log.sync().map_err(|error| error.to_string())?;
    let Repair { damages, filled, log, .. } = repair;
    let position = log.tip().position.0;
    drop(log);
    if damages == 0 {
        fs::remove_dir_all(&mended).map_err(|error| error.to_string())?;
        info!(position, segments = last, "the local log is whole; nothing was changed");
        return Ok(());
    }
    let kept = swap(&folder, &mended, &config.event_sourcing.index_path)?;
    drop(lock);
    info!(position, filled, kept = %kept.display(), "the local log was mended; the damaged one is kept");
    Ok(())
}

fn new_log(folder: &Path, segment_bytes_max: u64) -> Result<Log, String> {
    let recovered = recover(folder, None).map_err(|error| error.to_string())?;
    Ok(Log::new(recovered, Tip::START, segment_bytes_max))
}

/// How far the index had the log: all of that was synced once.
fn known_end(config: &Config) -> Tip {
    match Index::open(&config.event_sourcing.index_path) {
        Ok(index) => index.complete().tip,
        Err(error) => {
            warn!(%error, "the index can't tell how far the log went");
            Tip::START
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    GoesOn,
    Ended,
}

struct Repair<'a> {
    log: Log,
    config: &'a Config,
    loss: Loss,
    damages: u64,
    filled: u64,
    /// The event files, once they were needed.
    files: Option<BTreeMap<Position, Bytes>>,
}

impl Repair<'_> {
    /// Takes over what is whole in one segment.
    async fn segment(&mut self, folder: &Path, number: u32) -> Result<Flow, String> {
        let salvage = match Salvage::open(folder, number) {
            Ok(salvage) => salvage,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(format!("segment {number}: {error}")),
        };
        let Some(mut salvage) = salvage else {
            warn!(segment = number, "the segment is missing, or its header is damaged");
            self.damages += 1;
            return Ok(Flow::GoesOn);
        };
        for read in salvage.by_ref() {
            let offset = read.start.offset;
            match read.frame {
                Frame::Mark(bytes) => self.write(|group| group.mark(&bytes))?,
                Frame::Snapshot { record, .. } => {
                    self.write(|group| _ = group.snapshot(&record.bytes))?;
                }
                Frame::Append { first, previous, records } => {
                    let records: Vec<Bytes> = records.into_iter().map(|stored| stored.bytes).collect();
                    if self.take(number, offset, first, previous, &records).await? == Flow::Ended {
                        return Ok(Flow::Ended);
                    }
                }
            }
        }
        if salvage.skipped > 0 {
            warn!(segment = number, bytes = salvage.skipped, "damaged bytes");
            self.damages += 1;
        }
        Ok(Flow::GoesOn)
    }

    /// Takes over a whole append, after what is missing before it.
    async fn take(
        &mut self,
        segment: u32,
        offset: u64,
        first: Position,
        previous: Hash,
        records: &[Bytes],
    ) -> Result<Flow, String> {
        let tip = self.log.tip();
        if first <= tip.position {
            return Err(format!("segment {segment}, byte {offset}: position {first} stands there twice"));
        }
        if first > tip.position.next() && self.fill_or_give_up(first).await? == Flow::Ended {
            return Ok(Flow::Ended);
        }
        if self.log.tip().hash != previous {
            return Err(format!("segment {segment}, byte {offset}: the history before it is another one"));
        }
        self.write(|group| _ = group.append(records))?;
        Ok(Flow::GoesOn)
    }

    /// What the index had seen behind the last whole frame.
    async fn end(&mut self, known: Tip) -> Result<(), String> {
        if known.position <= self.log.tip().position {
            return Ok(());
        }
        let flow = self.fill_or_give_up(known.position.next()).await?;
        if flow == Flow::GoesOn && self.log.tip().hash != known.hash {
            return Err("what could be had of the end is another history".to_owned());
        }
        Ok(())
    }

    async fn fill_or_give_up(&mut self, until: Position) -> Result<Flow, String> {
        let missing =
            format!("positions {} to {}", self.log.tip().position.next(), until.0.saturating_sub(1));
        self.damages += 1;
        let Err(why) = self.fill(until).await else { return Ok(Flow::GoesOn) };
        if self.loss == Loss::Accepted {
            warn!(%missing, %why, "given up, with everything behind them");
            return Ok(Flow::Ended);
        }
        Err(format!(
            "{missing} are damaged and can't be had again: {why}. \
             With --discard-after-damage everything from there on is given up"
        ))
    }

    /// Fills the gap before `until` from ImmuDB or the event files.
    async fn fill(&mut self, until: Position) -> Result<(), String> {
        let from = self.log.tip().position;
        let records = match self.ask_immudb(from, until).await {
            Ok(records) => records,
            Err(why) => {
                warn!(%why, "ImmuDB can't help; the event files are asked");
                self.ask_files(from, until)?
            }
        };
        let mut append: Vec<Bytes> = Vec::new();
        for bytes in records {
            let event = record::decode(bytes.clone(), Hash::START).map_err(|error| error.to_string())?;
            append.push(bytes);
            if event.position == event.append.last {
                let whole = std::mem::take(&mut append);
                self.filled = self.filled.saturating_add(whole.len() as u64);
                self.write(|group| _ = group.append(&whole))?;
            }
        }
        match self.log.tip().position.next() == until {
            true => Ok(()),
            false => Err(format!("found only up to position {}", self.log.tip().position)),
        }
    }

    async fn ask_immudb(&self, from: Position, until: Position) -> Result<Vec<Bytes>, String> {
        let immudb = self.config.immudb.as_ref().ok_or("no ImmuDB is configured")?;
        let session = Session::open(&immudb_settings(immudb)).await.map_err(|error| error.to_string())?;
        let records = records_between(&session, from, until).await;
        session.close().await;
        records.map_err(|error| error.to_string())
    }

    fn ask_files(&mut self, from: Position, until: Position) -> Result<Vec<Bytes>, String> {
        if self.files.is_none() {
            let folder = Folder::new(&self.config.event_sourcing.storage_path);
            let mut files = BTreeMap::new();
            for path in folder.event_paths().map_err(|error| error.to_string())? {
                if let Some(event) = Folder::read_event(&path).map_err(|error| error.to_string())? {
                    files.insert(event.position, record::encode_recorded(event));
                }
            }
            self.files = Some(files);
        }
        let files = self.files.iter().flatten();
        Ok(files.filter(|(at, _)| **at > from && **at < until).map(|(_, bytes)| bytes.clone()).collect())
    }

    fn write(&mut self, add: impl FnOnce(&mut crate::log::Group)) -> Result<(), String> {
        let mut group = self.log.begin().map_err(|error| error.to_string())?;
        add(&mut group);
        self.log.write_unsynced(group).map_err(|error| error.to_string())
    }
}

/// Puts the mended log in the place of the damaged one, which is kept, and removes the index.
fn swap(folder: &Path, mended: &Path, index: &Path) -> Result<PathBuf, String> {
    let problem = |error: std::io::Error| error.to_string();
    writer_ids::copy(folder, mended).map_err(problem)?;
    let kept = (1u32..)
        .map(|number| folder.with_extension(format!("damaged-{number}")))
        .find(|path| !path.exists())
        .ok_or("no name is left for the damaged log")?;
    if index.exists() {
        fs::remove_dir_all(index).map_err(problem)?;
    }
    fs::rename(folder, &kept).map_err(problem)?;
    fs::rename(mended, folder).map_err(problem)?;
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(problem)?;
    }
    Ok(kept)
}
