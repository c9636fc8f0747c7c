//! The report: what was imported, what was left out and why, and what the operator has to do next.

use tracing::warn;

use super::{Error, ImportAethyrError, appender::RecordedTimes, source::SourceError};
use crate::{
    aethyr_import::{LeftOutField, ReadError},
    cli::client::print,
    event::SequenceNumber,
    printable::escaped,
    world::model::{event::EventError, rule::BrokenRule},
};

/// The maximum number of lines of each kind. The log has all of them.
const LINES_MAX: usize = 100;

/// Why an aggregate, or a file, is left out.
#[derive(Debug, thiserror::Error)]
pub(super) enum Reason {
    #[error("its name is not that of an event")]
    Name,
    #[error("event {0} is missing")]
    Gap(u64),
    #[error("event {number}: {source}")]
    Source { number: u64, source: SourceError },
    #[error("event {number}: {source}")]
    Event { number: u64, source: ReadError },
    #[error("event {0}: has the id or the number of another event")]
    Misplaced(u64),
    #[error("event {number}: has {bytes} bytes of data; at most {max} are allowed (limits.event_bytes_max)")]
    TooLarge { number: u64, bytes: usize, max: usize },
    #[error("the log has a different event with the sequence number {0}")]
    Differs(SequenceNumber),
    #[error("event {0}: its id is that of another event")]
    IdUsed(u64),
    #[error("its id begins with aethyr:, which the service reserves")]
    Reserved,
}

/// What was not carried over of an aggregate that was imported.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("event {number}: {source}")]
    LeftOut { number: u64, source: LeftOutField },
    #[error("event {number}: the game world cannot read it: {source}")]
    Event { number: u64, source: EventError },
    #[error("event {number}: the game world cannot read it: {source}")]
    Rule { number: u64, source: BrokenRule },
}

/// What was found while the events were read.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub snapshots: u64,
    left_out: Lines,
    problems: Lines,
}

/// The first lines of one kind, and their number.
#[derive(Debug, Default)]
struct Lines {
    count: u64,
    first: Vec<String>,
}

/// What is in the log now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    pub events: u64,
    pub already: u64,
    pub times: RecordedTimes,
    /// Nothing was stored; `events` would have been.
    pub dry: bool,
}

/// What has to be done before the service is started.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Next {
    /// The directory is the one in which the service writes its event files.
    pub folder_in_use: bool,
    /// The database is the one to which the service replicates.
    pub database_in_use: bool,
    /// The newest event is so old that the next start does not trust the clock.
    pub clock_doubted: bool,
}

impl Lines {
    fn add(&mut self, line: String) {
        self.count = self.count.saturating_add(1);
        if self.first.len() < LINES_MAX {
            self.first.push(line);
        }
    }

    fn print(&self, heading: &str) -> Result<(), Error> {
        if self.count == 0 {
            return Ok(());
        }
        print(&format!("{heading}: {}", self.count))?;
        self.first.iter().try_for_each(|line| print(&format!("  {line}")))?;
        let more = self.count.saturating_sub(self.first.len() as u64);
        if more > 0 { print(&format!("  and {more} more; see the log")) } else { Ok(()) }
    }
}

impl Report {
    pub(super) fn leave_out(&mut self, name: &str, reason: Reason) {
        warn!(aggregate = %escaped(name), %reason, "left out");
        self.left_out.add(format!("{name}: {reason}"));
    }

    pub(super) fn note(&mut self, name: &str, problem: Problem) {
        warn!(aggregate = %escaped(name), %problem, "not carried over completely");
        self.problems.add(format!("{name}: {problem}"));
    }

    pub(super) fn left_out_count(&self) -> u64 {
        self.left_out.count
    }

    /// Prints the report.
    ///
    /// # Errors
    /// Returns an error if something could not be carried over, or if standard output is closed.
    pub(super) fn finish(self, stored: &Stored, next: &Next) -> Result<(), Error> {
        let verb = if stored.dry { "events to import" } else { "events imported" };
        print(&format!("{verb}: {}", stored.events))?;
        print(&format!("events that the log already had: {}", stored.already))?;
        if stored.events > 0 {
            print(match stored.times {
                RecordedTimes::Original => "recorded times: the original ones",
                RecordedTimes::OfImport => {
                    "recorded times: that of the import, because the log has other events; the original ones \
                     are in occurred_at"
                }
            })?;
        }
        self.left_out.print("left out")?;
        self.problems.print("not carried over completely")?;
        if self.snapshots > 0 {
            let count = self.snapshots;
            print(&format!("snapshots not imported: {count}; they are objects of Ruby, and not needed"))?;
        }
        if !stored.dry {
            next.lines().into_iter().try_for_each(print)?;
        }
        match (self.left_out.count, self.problems.count) {
            (0, 0) => Ok(()),
            (left_out, problems) => Err(ImportAethyrError::Incomplete { left_out, problems }.into()),
        }
    }
}

impl Next {
    fn lines(self) -> Vec<&'static str> {
        let all = [
            (
                self.folder_in_use,
                "before the service starts: move the directory away, or set event_sourcing.storage_path to \
                 another one",
            ),
            (
                self.database_in_use,
                "before the service starts: set immudb.database to another database, because this one has \
                 the events of Aethyr",
            ),
            (
                self.clock_doubted,
                "at the next start: use `serve --accept-clock`, because the newest event is more than 400 \
                 days old",
            ),
        ];
        all.into_iter().filter(|(applies, _)| *applies).map(|(_, line)| line).collect()
    }
}
