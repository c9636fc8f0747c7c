//! `pending`: lists the local events that ImmuDB does not have, or exports them as event files.
//!
//! Changes nothing except the directory of the export. If ImmuDB can be contacted, the pending
//! events are those that it lacks. Otherwise they are the events after the forwarded position.
//! Event data is never printed.

use std::{collections::HashSet, io::Write, path::Path};

use bytes::Bytes;
use tracing::{info, warn};

use super::Error;
use crate::{
    config::Config,
    event::{AggregateId, Position, RecordedEvent, Snapshot, Timestamp, record, time},
    history::{History, HistoryError},
    immudb::Session,
    log::{Cursor, Frame, LogOffset, ReadFrame, StoredRecord, Tip, writer_ids},
    printable::escaped,
    replication::{
        comparison::{Comparison, ComparisonError, HistoryRelation},
        head::LogHead,
    },
    server::settings,
    storage::Storage,
};

mod export;

pub(super) use export::ExportError;
pub(super) use export::write;

/// Whether the local log is compared with ImmuDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ComparisonMode {
    Wanted,
    Offline,
}

/// Lists the pending events on standard output.
///
/// # Errors
/// Returns an error if the storage cannot be used, or if standard output is closed.
pub(super) async fn list(config: Config, mode: ComparisonMode) -> Result<(), Error> {
    let storage = Storage::open(&settings::storage(&config.event_sourcing, &config.limits))?;
    let answer = ask(&config, mode, &storage).await;
    let pending = Pending::of(&storage, answer.comparison());
    let mut lines = std::io::BufWriter::new(std::io::stdout().lock());
    let counts = pending.walk(|found| match found {
        PendingItem::Event { event, .. } => write_line(&mut lines, &event).map_err(Error::Output),
        PendingItem::Snapshot { .. } => Ok(()),
    })?;
    let ids = writer_ids::load(&config.event_sourcing.log_path).map_err(Error::Io)?;
    for line in answer.lines(&ids) {
        writeln!(lines, "{line}").map_err(Error::Output)?;
    }
    let Counts { events, aggregates, appends, snapshots } = counts;
    writeln!(
        lines,
        "pending after position {}: events {events}, aggregates {aggregates}, appends {appends}, snapshots \
         {snapshots}",
        pending.behind
    )
    .and_then(|()| lines.flush())
    .map_err(Error::Output)
}

/// Exports the pending events and snapshots to `folder`.
///
/// # Errors
/// Returns an error if the storage cannot be used, or if the directory contains other files.
pub(super) async fn export(config: Config, mode: ComparisonMode, folder: &Path) -> Result<(), Error> {
    let storage = Storage::open(&settings::storage(&config.event_sourcing, &config.limits))?;
    let answer = ask(&config, mode, &storage).await;
    if let ComparisonOutcome::Failed(why) = &answer {
        warn!(%why, "ImmuDB cannot be compared; exporting the events after the forwarded position");
    }
    let pending = Pending::of(&storage, answer.comparison());
    if pending.is_empty()? {
        info!(behind = pending.behind.0, "no pending events");
        return Ok(());
    }
    write(&config, &pending, folder).map(|_| ())
}

/// Writes an event as one line. The fields are separated by tabs, which no escaped name contains.
fn write_line(lines: &mut impl Write, event: &RecordedEvent) -> std::io::Result<()> {
    let RecordedEvent { event: new, sequence, position, recorded_at, .. } = event;
    let (aggregate, event_type) = (escaped(new.aggregate_id.as_str()), escaped(&new.event_type));
    let at = time::format(*recorded_at);
    writeln!(lines, "{position}\t{aggregate}\t{sequence}\t{event_type}\t{at}\t{}", new.id)
}

/// Compares the local log with ImmuDB. Returns an error if ImmuDB is not configured or cannot be
/// compared.
pub(super) async fn compare(config: &Config, storage: &Storage) -> Result<Comparison, Error> {
    let immudb = config.immudb.as_ref().ok_or(Error::NoImmudb)?;
    let settings = settings::immudb(immudb);
    let session = Session::open_existing(&settings).await.map_err(ComparisonError::from)?;
    let compared = Comparison::ask(&session, &storage.history(), storage.log.tip()).await;
    session.close().await;
    Ok(compared?)
}

/// The result of the comparison with ImmuDB.
enum ComparisonOutcome {
    NotConfigured,
    NotAsked,
    Failed(Error),
    Compared(Comparison),
}

async fn ask(config: &Config, mode: ComparisonMode, storage: &Storage) -> ComparisonOutcome {
    match (&config.immudb, mode) {
        (None, _) => ComparisonOutcome::NotConfigured,
        (Some(_), ComparisonMode::Offline) => ComparisonOutcome::NotAsked,
        (Some(_), ComparisonMode::Wanted) => match compare(config, storage).await {
            Ok(comparison) => ComparisonOutcome::Compared(comparison),
            Err(why) => ComparisonOutcome::Failed(why),
        },
    }
}

impl ComparisonOutcome {
    fn comparison(&self) -> Option<&Comparison> {
        match self {
            Self::Compared(comparison) => Some(comparison),
            Self::NotConfigured | Self::NotAsked | Self::Failed(_) => None,
        }
    }

    fn lines(&self, ours: &[uuid::Uuid]) -> Vec<String> {
        match self {
            Self::NotConfigured => vec!["ImmuDB: not configured".to_owned()],
            Self::NotAsked => vec!["ImmuDB: not contacted (--offline)".to_owned()],
            Self::Failed(why) => vec![format!("ImmuDB: comparison failed: {why}")],
            Self::Compared(comparison) => {
                vec![head_line(comparison.head.as_ref(), ours), fit_line(comparison)]
            }
        }
    }
}

fn head_line(head: Option<&LogHead>, ours: &[uuid::Uuid]) -> String {
    let Some(LogHead { position, writer, written_at, released, .. }) = head else {
        return "ImmuDB: log:head is missing".to_owned();
    };
    let whose = if ours.contains(writer) { "this log" } else { "another log" };
    let at = Timestamp::new(*written_at, 0).map_or_else(|| written_at.to_string(), time::format);
    let released = if *released { "released" } else { "not released" };
    format!("ImmuDB: log:head is at position {position}, writer {writer} ({whose}), {at}, {released}")
}

fn fit_line(Comparison { common, fit, .. }: &Comparison) -> String {
    let then = match fit {
        HistoryRelation::Empty => "the database is empty",
        HistoryRelation::HeadMissing => "the database has events, but no log:head",
        HistoryRelation::Behind => "later local events can be replicated",
        HistoryRelation::Whole => "all local events are replicated",
        HistoryRelation::Diverged => "the database continues with different events",
    };
    format!("ImmuDB: same history up to position {common}; {then}")
}

/// The local events and snapshots that ImmuDB does not have.
pub(super) struct Pending {
    history: History,
    tip: Tip,
    /// ImmuDB has the events up to this position.
    pub behind: Position,
    /// ImmuDB has the snapshots up to this number.
    snapshots: u64,
    /// The forwarded position recorded in the local log.
    forwarded: Position,
}

/// Numbers of pending events and snapshots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub events: u64,
    pub aggregates: u64,
    pub appends: u64,
    pub snapshots: u64,
}

/// A pending event or snapshot, with its record as stored.
pub(super) enum PendingItem {
    Event { event: RecordedEvent, record: Bytes },
    Snapshot { snapshot: Snapshot, record: Bytes },
}

impl Pending {
    /// Determines what is pending. If ImmuDB was restored from a backup, it may lack events before
    /// the forwarded position. Then it may lack snapshots as well, so all of them count as pending.
    pub(super) fn of(storage: &Storage, comparison: Option<&Comparison>) -> Self {
        let known = storage.index.complete().forwarded;
        let tip = storage.log.tip();
        let forwarded = known.position.min(tip.position);
        let behind = comparison.map_or(forwarded, |comparison| comparison.common);
        let snapshots = if behind < forwarded { 0 } else { known.snapshots };
        Self { history: storage.history(), tip, behind, snapshots, forwarded }
    }

    pub(super) fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.walk(|_| Ok(()))? == Counts::default())
    }

    /// Passes every pending event and snapshot to `each`, in the order of the log, and counts them.
    /// Only the newest snapshot of each aggregate is pending.
    pub(super) fn walk(
        &self,
        mut each: impl FnMut(PendingItem) -> Result<(), Error>,
    ) -> Result<Counts, Error> {
        let (mut counts, mut aggregates) = (Counts::default(), HashSet::<AggregateId>::new());
        let mut cursor = Cursor::new(self.history.segments.clone(), self.start()?);
        while let Some(read) = cursor.next(self.tip.end).map_err(HistoryError::from)? {
            let mut appended = 0;
            for found in self.in_frame(read)? {
                match &found {
                    PendingItem::Event { event, .. } => {
                        appended = 1;
                        counts.events = counts.events.saturating_add(1);
                        aggregates.insert(event.event.aggregate_id.clone());
                    }
                    PendingItem::Snapshot { .. } => counts.snapshots = counts.snapshots.saturating_add(1),
                }
                each(found)?;
            }
            counts.appends = counts.appends.saturating_add(appended);
        }
        Ok(Counts { aggregates: aggregates.len() as u64, ..counts })
    }

    /// Returns the offset at which the walk starts. ImmuDB may have more events than the forwarded
    /// position says. It may still lack snapshots between the two, so the walk starts at the
    /// smaller position.
    fn start(&self) -> Result<LogOffset, HistoryError> {
        Ok(self.history.locate(self.behind.min(self.forwarded), self.tip)?.append_end)
    }

    fn in_frame(&self, read: ReadFrame) -> Result<Vec<PendingItem>, HistoryError> {
        let start = read.start;
        let decoded = |stored: StoredRecord| {
            let (place, record) = (stored.place(start), stored.bytes.clone());
            let event = record::decode(stored.bytes, stored.hash)
                .map_err(|source| HistoryError::Record { place, source })?;
            Ok(PendingItem::Event { event, record })
        };
        match read.frame {
            Frame::Mark(_) => Ok(Vec::new()),
            Frame::Append { first, records, .. } => {
                let had = usize::try_from(self.behind.next().0.saturating_sub(first.0)).unwrap_or(usize::MAX);
                records.into_iter().skip(had).map(decoded).collect()
            }
            Frame::Snapshot { number, record: stored } => {
                let place = stored.place(start);
                let snapshot = record::decode_snapshot(stored.bytes.clone())
                    .map_err(|source| HistoryError::Record { place, source })?;
                let newest = self.history.index.head(&snapshot.aggregate_id)?.and_then(|head| head.snapshot);
                let wanted = number > self.snapshots && newest.is_some_and(|newest| newest.place == place);
                Ok(Vec::from_iter(wanted.then_some(PendingItem::Snapshot { snapshot, record: stored.bytes })))
            }
        }
    }
}
