//! The thread that derives the figures from the log and then follows the log.
//!
//! It reads the records as they are, and neither hashes nor decodes them: the checksums of their
//! frames cover them.

use std::{
    cell::RefCell,
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::{runtime, sync::watch, time};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Usage,
    derived::{Batch, Derived},
    kept::Kept,
};
use crate::{
    event::Position,
    history::{History, HistoryError},
    log::{CursorItem, LogOffset, RecordCursor, Tip},
    refusals, threads,
};

/// Where the file is, and what is attributed.
#[derive(Debug, Clone)]
pub(crate) struct UsageSettings {
    /// The path of the file.
    pub path: PathBuf,
    /// The maximum number of event types that are counted by name.
    pub types_max: u64,
}

/// Starts the thread "usage" with the lowest priority. It ends when `stopping` is cancelled or the
/// tip's sender is gone, and the future resolves then. The storage must stay locked until that.
///
/// # Errors
/// Returns an error if the thread cannot be started.
pub(crate) fn follow(
    settings: UsageSettings,
    usage: Usage,
    history: History,
    tip: watch::Receiver<Tip>,
    stopping: CancellationToken,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let known = usage.clone();
    let follower = Follower::new(settings, usage, history, tip, stopping);
    let (_, end) = threads::spawn("usage", move || follower.run())?;
    Ok(async move {
        if end.await.is_err() {
            error!("the thread of the usage by identity panicked; its limits no longer apply to new types");
        }
        known.fall_behind();
    })
}

/// How often the thread does what it repeats.
#[derive(Debug, Clone, Copy)]
struct Intervals {
    /// The pause after each round.
    round: Duration,
    /// The time for which a batch of records is read before it is added.
    batch: Duration,
    /// The minimum time between two writes to the file.
    write: Duration,
    /// The pause after a failure.
    retry: Duration,
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            round: Duration::from_millis(20),
            batch: Duration::from_millis(50),
            write: Duration::from_secs(10),
            retry: Duration::from_secs(10),
        }
    }
}

/// Why the figures cannot be continued.
#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error(transparent)]
    Log(#[from] HistoryError),
    #[error("the thread of the usage by identity cannot wait: {0}")]
    Runtime(#[source] io::Error),
}

/// The state that the thread owns.
struct Follower {
    settings: UsageSettings,
    usage: Usage,
    history: History,
    tip: watch::Receiver<Tip>,
    stopping: CancellationToken,
    intervals: Intervals,
    /// The same figures as those of `usage`, to be written without its lock.
    derived: Derived,
    /// Whether the file was read.
    is_open: bool,
    /// Reads the records behind those of `derived`. `None` if the place has to be found again.
    records: Option<RecordCursor>,
    has_failed: bool,
    /// The position of the figures that the file has.
    written: Position,
    written_at: Instant,
}

impl Follower {
    fn new(
        settings: UsageSettings,
        usage: Usage,
        history: History,
        tip: watch::Receiver<Tip>,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            settings,
            usage,
            history,
            tip,
            stopping,
            intervals: Intervals::default(),
            derived: Derived::default(),
            is_open: false,
            records: None,
            has_failed: false,
            written: Position::default(),
            written_at: Instant::now(),
        }
    }

    fn run(mut self) {
        threads::lower_priority();
        let runtime = match runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime,
            Err(source) => return self.fail(&UsageError::Runtime(source)),
        };
        while !self.stopping.is_cancelled() {
            match self.round() {
                Ok(()) => self.has_failed = false,
                Err(error) => self.fail(&error),
            }
            if !runtime.block_on(self.wait()) {
                break;
            }
        }
        self.write();
    }

    /// Waits until there is something to do. Returns false if the thread has to end.
    async fn wait(&mut self) -> bool {
        let pause = if self.has_failed { self.intervals.retry } else { self.intervals.round };
        let write_due = (self.written < self.derived.position).then(|| self.until_write());
        let Self { stopping, tip, has_failed, .. } = self;
        let work = async {
            time::sleep(pause).await;
            match write_due {
                _ if *has_failed => tip.has_changed().is_ok(),
                None => tip.changed().await.is_ok(),
                Some(due) => time::timeout(due, tip.changed()).await.map_or(true, |changed| changed.is_ok()),
            }
        };
        stopping.run_until_cancelled(work).await.unwrap_or(false)
    }

    /// Brings the figures up to the tip.
    fn round(&mut self) -> Result<(), UsageError> {
        let tip = *self.tip.borrow_and_update();
        if !self.is_open {
            self.open(tip)?;
        }
        let mut records = match self.records.take() {
            Some(records) => records,
            None => self.history.records_before(self.derived.position.next())?,
        };
        while self.derived.position < tip.position && !self.stopping.is_cancelled() {
            let batch = self.read(&mut records, tip.end)?;
            self.derived.add(&batch, self.settings.types_max);
            self.usage.add(&batch);
            if self.until_write().is_zero() {
                self.write();
            }
        }
        records.forget();
        self.records = Some(records);
        if self.derived.position >= tip.position {
            self.usage.follow(&self.tip);
        }
        if self.until_write().is_zero() {
            self.write();
        }
        Ok(())
    }

    /// Reads the file, and publishes its figures if they are of this history.
    fn open(&mut self, tip: Tip) -> Result<(), UsageError> {
        const LONG: u64 = 1_000_000;
        let UsageSettings { path, types_max } = &self.settings;
        let kept = Kept::load(path).unwrap_or_else(|error| {
            warn!(%error, path = %path.display(), "replacing the file of the usage by identity");
            None
        });
        let kept = match kept {
            Some(kept) if kept.types_max == *types_max && self.is_of_log(&kept.derived, tip)? => kept.derived,
            Some(_) | None => Derived::default(),
        };
        if tip.position.0.saturating_sub(kept.position.0) >= LONG {
            info!(from = kept.position.0, to = tip.position.0, "reading the usage by identity from the log");
        }
        self.usage.begin(kept.clone(), *types_max);
        (self.written, self.derived, self.is_open) = (kept.position, kept, true);
        Ok(())
    }

    /// Returns whether the figures are those of the beginning of this log.
    fn is_of_log(&self, derived: &Derived, tip: Tip) -> Result<bool, HistoryError> {
        if derived.position > tip.position {
            return Ok(false);
        }
        Ok(self.history.locate(derived.position, tip)?.hash == derived.hash)
    }

    /// Reads the next records before `end`: at least one, and more while there is time.
    fn read(&self, records: &mut RecordCursor, end: LogOffset) -> Result<Batch, HistoryError> {
        let (next, until) = (self.derived.position.next(), Instant::now() + self.intervals.batch);
        let batch = RefCell::new(Batch::default());
        let add = |position: Position, record: &[u8]| {
            if position >= next {
                batch.borrow_mut().add(record);
            }
        };
        loop {
            // Every record is skipped, because skipped records are not hashed.
            let found = records.find_wanted(end, |position, record| {
                add(position, record);
                false
            })?;
            match found {
                Some(CursorItem::Record(found)) => {
                    add(found.position, &found.bytes);
                    records.take(&found);
                }
                Some(CursorItem::Skipped(_)) => {}
                None => break,
            }
            let reached = records.last().filter(|(position, _)| *position >= next);
            if reached.is_some() && Instant::now() >= until {
                break;
            }
        }
        let mut batch = batch.into_inner();
        batch.reached = records.last().filter(|(position, _)| *position >= next);
        if batch.reached.is_none() { Err(HistoryError::Position(next)) } else { Ok(batch) }
    }

    /// Returns the time until the file may be written.
    fn until_write(&self) -> Duration {
        self.intervals.write.saturating_sub(self.written_at.elapsed())
    }

    /// Writes the file, unless it has these figures.
    fn write(&mut self) {
        if self.written >= self.derived.position {
            return;
        }
        self.written_at = Instant::now();
        match Kept::new(self.derived.clone(), self.settings.types_max).save(&self.settings.path) {
            Ok(()) => self.written = self.derived.position,
            Err(error) => refusals::failed("cannot write the file of the usage by identity", &error),
        }
    }

    fn fail(&mut self, error: &UsageError) {
        refusals::failed("the usage by identity cannot be continued", error);
        self.usage.fall_behind();
        (self.records, self.has_failed) = (None, true);
    }
}

#[cfg(test)]
mod tests;
