//! The thread that brings the event tree up to the end of the log and then follows the log.
//!
//! It owns the tree and its file `log.tree`. The tree is derived from the log: whatever happens to
//! it or to its file, appends and reads go on, and only proofs are missing.
//!
//! Per event, the thread reads the chain hash that the log has behind the record, and hashes one
//! leaf and one node on average. The records themselves are neither hashed nor decoded.

use std::{
    fs, io, mem,
    ops::Range,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::{runtime, sync::watch, time};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{
    crash_point::CrashPoint,
    durable_file,
    event::Position,
    history::{ChainHashes, History, HistoryError},
    log::Tip,
    merkle::Hash,
    refusals, threads,
    tree::{EventTree, Leaves, TreeError, TreeFileError, TreeState, TreeWatch},
};

/// Where the file of the tree is, and to which log it belongs.
#[derive(Debug, Clone)]
pub(crate) struct FollowerSettings {
    /// The path of the file.
    pub path: PathBuf,
    /// The id of the log.
    pub log: Uuid,
}

/// Starts the thread "tree" with the lowest priority. It ends when `stopping` is cancelled or the
/// tip's sender is gone, and the future resolves then. The storage must stay locked until that.
///
/// # Errors
/// Returns an error if the thread cannot be started.
pub(crate) fn follow(
    settings: FollowerSettings,
    history: History,
    tip: watch::Receiver<Tip>,
    stopping: CancellationToken,
) -> io::Result<(TreeWatch, impl Future<Output = ()> + Send + use<>)> {
    let (follower, tree) = Follower::new(settings, history, tip, stopping);
    Ok((tree, follower.start()?))
}

/// How often the thread does what it repeats.
#[derive(Debug, Clone, Copy)]
struct Intervals {
    /// The pause after each round.
    round: Duration,
    /// The time for which a round reads before its result is published.
    publish: Duration,
    /// The minimum time between two writes to the file.
    write: Duration,
    /// The pause after a failure.
    retry: Duration,
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            round: Duration::from_millis(20),
            publish: Duration::from_millis(100),
            write: Duration::from_secs(1),
            retry: Duration::from_secs(10),
        }
    }
}

/// Why the tree cannot be opened or continued.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Tree(#[from] TreeError<LeavesError>),
    #[error(transparent)]
    Log(#[from] HistoryError),
    #[error("the file of the event tree cannot be renamed: {0}")]
    SetAside(#[source] io::Error),
    #[error("the thread of the tree cannot wait: {0}")]
    Runtime(#[source] io::Error),
}

/// Why leaves are not read.
#[derive(Debug, thiserror::Error)]
enum LeavesError {
    #[error(transparent)]
    Log(#[from] HistoryError),
    #[error("the service is stopping")]
    Stopping,
}

/// The leaves of the log until the stop: a damaged file may take many of them.
struct UntilStop<'f> {
    history: &'f History,
    stopping: &'f CancellationToken,
}

impl Leaves for UntilStop<'_> {
    type Error = LeavesError;

    fn leaves(&self, range: Range<u64>) -> Result<Vec<Hash>, LeavesError> {
        if self.stopping.is_cancelled() {
            return Err(LeavesError::Stopping);
        }
        Ok(self.history.leaves(range)?)
    }
}

/// Limits log lines of one kind.
#[derive(Debug, Default)]
struct LineLimit {
    logged: Option<Instant>,
}

impl LineLimit {
    /// Returns whether a line may be logged now, if there is none within `interval` before it.
    fn is_due(&mut self, interval: Duration) -> bool {
        let is_due = self.logged.is_none_or(|logged| logged.elapsed() >= interval);
        if is_due {
            self.logged = Some(Instant::now());
        }
        is_due
    }
}

/// The state that the thread owns.
struct Follower {
    settings: FollowerSettings,
    history: History,
    tip: watch::Receiver<Tip>,
    stopping: CancellationToken,
    states: watch::Sender<TreeState>,
    intervals: Intervals,
    /// `None` until the tree could be opened.
    tree: Option<EventTree>,
    /// Reads the events behind those of the tree. `None` if the place has to be found again.
    hashes: Option<ChainHashes>,
    /// Whether the tree has reached the tip since it was opened or has failed.
    is_ready: bool,
    /// Whether the log says when it is ready.
    is_late: bool,
    /// Whether the last round failed.
    has_failed: bool,
    /// When the file was last written.
    written_at: Instant,
    /// Whether the last write failed, and its lines in the log.
    write_failed: bool,
    write_lines: LineLimit,
    progress_lines: LineLimit,
}

impl Follower {
    fn new(
        settings: FollowerSettings,
        history: History,
        tip: watch::Receiver<Tip>,
        stopping: CancellationToken,
    ) -> (Self, TreeWatch) {
        let (states, tree) = TreeWatch::channel();
        let of = tip.borrow().position.0;
        states.send_replace(TreeState::Building { size: 0, of });
        let follower = Self {
            settings,
            history,
            tip,
            stopping,
            states,
            intervals: Intervals::default(),
            tree: None,
            hashes: None,
            is_ready: false,
            is_late: false,
            has_failed: false,
            written_at: Instant::now(),
            write_failed: false,
            write_lines: LineLimit::default(),
            // A short build logs no progress.
            progress_lines: LineLimit { logged: Some(Instant::now()) },
        };
        (follower, tree)
    }

    fn start(self) -> io::Result<impl Future<Output = ()> + Send + use<>> {
        let states = self.states.clone();
        let (_, end) = threads::spawn("tree", move || self.run())?;
        Ok(async move {
            if end.await.is_err() {
                error!("the thread of the event tree panicked; there are no proofs until a restart");
                let reason = "its thread panicked; restart the service".to_owned();
                states.send_replace(TreeState::Failed { reason });
            }
        })
    }

    fn run(mut self) {
        threads::lower_priority();
        let runtime = match runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime,
            Err(source) => return self.fail(&FollowError::Runtime(source)),
        };
        while !self.stopping.is_cancelled() {
            match self.round() {
                Ok(()) => self.has_failed = false,
                Err(_) if self.stopping.is_cancelled() => break,
                Err(error) => self.fail(&error),
            }
            if !runtime.block_on(self.wait()) {
                break;
            }
        }
        if let Some(mut tree) = self.tree.take() {
            self.write(&mut tree);
        }
    }

    /// Waits until there is something to do. Returns false if the thread has to end.
    async fn wait(&mut self) -> bool {
        let write_due = self.tree.as_ref().filter(|tree| !tree.is_written()).map(|_| self.until_write());
        let pause = match (self.has_failed, self.write_failed) {
            (true, _) => self.intervals.retry,
            // Each view has a copy of all nodes that are not in the file.
            (false, true) => self.intervals.write,
            (false, false) => self.intervals.round,
        };
        let Self { stopping, tip, has_failed, .. } = self;
        let work = async {
            time::sleep(pause).await;
            if *has_failed {
                return tip.has_changed().is_ok();
            }
            match write_due {
                None => tip.changed().await.is_ok(),
                Some(due) => time::timeout(due, tip.changed()).await.map_or(true, |changed| changed.is_ok()),
            }
        };
        stopping.run_until_cancelled(work).await.unwrap_or(false)
    }

    /// Brings the tree up to the tip.
    fn round(&mut self) -> Result<(), FollowError> {
        let tip = *self.tip.borrow_and_update();
        let mut tree = match self.tree.take() {
            Some(tree) => tree,
            None => self.open(tip)?,
        };
        let grown = self.grow(&mut tree, tip);
        self.tree = Some(tree);
        Ok(grown?)
    }

    /// Opens the file. One that is damaged, or that of another log, is set aside: its name follows
    /// from the directory of the log, so it is that of a log that was in this directory before.
    fn open(&self, tip: Tip) -> Result<EventTree, FollowError> {
        let FollowerSettings { path, log } = &self.settings;
        let leaves = UntilStop { history: &self.history, stopping: &self.stopping };
        match EventTree::open(path, *log, tip.position.0, &leaves) {
            Err(TreeError::File(
                error @ (TreeFileError::AnotherLog { .. } | TreeFileError::NotATree { .. }),
            )) => {
                let old = durable_file::extended(path, "old");
                warn!(%error, moved_to = %old.display(), "replacing the file of the event tree");
                fs::rename(path, old).map_err(FollowError::SetAside)?;
                Ok(EventTree::open(path, *log, tip.position.0, &leaves)?)
            }
            opened => Ok(opened?),
        }
    }

    /// Appends the events up to `tip`, and publishes the tree from time to time and at the end.
    /// What was appended stays, also after an error.
    fn grow(&mut self, tree: &mut EventTree, tip: Tip) -> Result<(), HistoryError> {
        let mut hashes = match self.hashes.take() {
            Some(hashes) => hashes,
            None => self.history.chain_hashes_from(Position(tree.size()).next())?,
        };
        while tree.size() < tip.position.0 && !self.stopping.is_cancelled() {
            self.push(tree, &mut hashes, tip)?;
            self.publish(tree, tip);
            if self.until_write().is_zero() {
                self.write(tree);
            }
        }
        if !self.is_ready {
            self.publish(tree, tip);
        }
        if !tree.is_written() && self.until_write().is_zero() {
            self.write(tree);
        }
        hashes.forget();
        self.hashes = Some(hashes);
        Ok(())
    }

    /// Appends events until the tip is reached or the time for it has passed.
    fn push(&self, tree: &mut EventTree, hashes: &mut ChainHashes, tip: Tip) -> Result<(), HistoryError> {
        /// The number of events after which the time is looked at: it costs about as much as one.
        const EVENTS: u64 = 16;
        let began = Instant::now();
        while tree.size() < tip.position.0 {
            let position = Position(tree.size()).next();
            let hash = hashes.next(tip.end)?.ok_or(HistoryError::Position(position))?;
            tree.push(hash);
            if tree.size().is_multiple_of(EVENTS)
                && (began.elapsed() >= self.intervals.publish || self.stopping.is_cancelled())
            {
                break;
            }
        }
        Ok(())
    }

    /// Publishes where the tree is. Once it has reached the tip, it stays ready while it follows.
    fn publish(&mut self, tree: &EventTree, tip: Tip) {
        const PROGRESS: Duration = Duration::from_secs(5);
        let (size, of) = (tree.size(), tip.position.0);
        if self.is_ready || size >= of {
            if mem::take(&mut self.is_late) {
                info!(events = size, "the event tree is ready");
            }
            self.is_ready = true;
            self.states.send_replace(TreeState::Ready(tree.view()));
            return;
        }
        // Not as `Progress`: no caller waits for this, and it runs beside work that callers wait
        // for.
        if self.progress_lines.is_due(PROGRESS) {
            info!(done = size, of, "updating the event tree");
            self.is_late = true;
        }
        self.states.send_replace(TreeState::Building { size, of });
    }

    /// Returns the time until the file may be written.
    fn until_write(&self) -> Duration {
        self.intervals.write.saturating_sub(self.written_at.elapsed())
    }

    fn write(&mut self, tree: &mut EventTree) {
        let written = tree.write();
        CrashPoint::TreeWritten.reached();
        (self.written_at, self.write_failed) = (Instant::now(), written.is_err());
        if let Err(error) = written
            && self.write_lines.is_due(refusals::LOG_EVERY)
        {
            warn!(%error, "cannot write the file of the event tree; its nodes stay in memory");
        }
    }

    fn fail(&mut self, error: &FollowError) {
        refusals::failed("the event tree cannot be continued; there are no proofs", error);
        (self.is_ready, self.is_late, self.has_failed, self.hashes) = (false, true, true, None);
        self.states.send_replace(TreeState::Failed { reason: error.to_string() });
    }
}

#[cfg(test)]
mod tests;
