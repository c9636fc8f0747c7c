//! Follows the order of events, and has the projections apply them.
//!
//! Runs on a thread of its own with the lowest priority, so that appends come first. Failures are
//! retried, and the file is rebuilt if a retry cannot help. The transactions are left to the
//! tables.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    Checkpoint, Durability, Panicked, Problems, ReadModelError, ReadModels, Tables, files,
    projections::Projection,
};
use crate::{
    error::{FailedPrecondition, StoreError},
    event::{AggregateId, Position, RecordedEvent},
    store::{EventStore, Filter, OrderChunk, OrderReader, OrderStart, Tip},
    threads::{self, ThreadEnd},
    world::{error::WorldError, history::repairs::ExcludedEvents},
};

/// The pause between two transactions. Events that arrive meanwhile share the next one, so that a
/// high load leads to few large transactions.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_UNDER_LOAD: Duration = Duration::from_millis(200);

/// The number of events in one pause that counts as a high load.
const LOAD: u64 = 100;

/// The delay after a failure, and the maximum after repeated failures.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// The size of the events in one transaction, not counting the rest of the append in which they
/// end.
const READ_BYTES: usize = 1024 * 1024;

/// The number of unwanted events after which the position is stored anyway.
const PASSED_OVER_MAX: u64 = 100_000;

/// Why the projections do not follow the events.
#[derive(Debug, thiserror::Error)]
pub enum ProjectorError {
    /// The tables cannot be read or written.
    #[error(transparent)]
    ReadModels(#[from] ReadModelError),
    /// The log cannot be read, or it does not continue the history of the rows.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A repair excludes events of this object that may have been applied already.
    #[error("{0} was repaired; the rows still include events that are now excluded")]
    Repaired(AggregateId),
}

impl From<ProjectorError> for WorldError {
    fn from(error: ProjectorError) -> Self {
        match error {
            ProjectorError::ReadModels(error) => error.into(),
            ProjectorError::Store(error) => error.into(),
            ProjectorError::Repaired(_) => Self::ReadModels(error.into()),
        }
    }
}

/// Reads the events that a set of projections wants, and has the tables apply them.
#[derive(Debug)]
pub struct Follower {
    reader: OrderReader,
    reached: Checkpoint,
    /// The events excluded by repairs up to `repairs_until`.
    passed_over: ExcludedEvents,
    repairs_until: Position,
}

impl Follower {
    /// Continues where the tables are.
    ///
    /// # Errors
    /// Returns an error if the tables belong to another history, or if the log cannot be read.
    pub fn after(
        store: &EventStore,
        tables: &mut Tables,
        projections: &[Box<dyn Projection>],
    ) -> Result<Self, StoreError> {
        let (reached, tip) = (tables.reached(), store.tip());
        let types = projections.iter().flat_map(|projection| projection.aggregate_types());
        let filter = Filter {
            aggregate_types: types.map(|name| name.as_bytes().to_vec()).collect(),
            ..Filter::default()
        };
        let start = OrderStart::After(reached.position, Some(reached.hash));
        let reader = store.read(start, filter)?;
        // Events that are already in the rows can no longer be excluded. Only new tables know all
        // repairs.
        if reached == Checkpoint::START {
            tables.know_repairs_until(tip.position);
        }
        let repairs_until = tables.repairs_until().max(reached.position);
        let passed_over = if repairs_until > reached.position {
            ExcludedEvents::by_repairs(store, start, (repairs_until, tip))?
        } else {
            ExcludedEvents::default()
        };
        Ok(Self { reader, reached, passed_over, repairs_until })
    }

    /// Returns how far the follower has read.
    pub fn reached(&self) -> Checkpoint {
        self.reached
    }

    /// Applies some more events, up to the tip at most. Returns whether those were all. Stops only
    /// where an append ends, so that readers never see half of a call.
    ///
    /// # Errors
    /// Returns an error if something cannot be read or written. The follower must not be used after
    /// that.
    pub fn step(
        &mut self,
        tables: &mut Tables,
        projections: &[Box<dyn Projection>],
        tip: Tip,
    ) -> Result<bool, ProjectorError> {
        let OrderChunk { mut events, mut reached, mut hash, mut at_end } =
            self.reader.next(tip, READ_BYTES)?;
        while self.reader.is_within_append() {
            let rest = self.reader.next(tip, READ_BYTES)?;
            events.extend(rest.events);
            (reached, hash, at_end) = (rest.reached, rest.hash, rest.at_end);
        }
        self.reached = Checkpoint { position: reached, hash };
        let passed_over = reached.0.saturating_sub(tables.reached().position.0);
        if !events.is_empty() || passed_over >= PASSED_OVER_MAX {
            let decoded: Result<Vec<RecordedEvent>, _> = events.iter().map(|event| event.decode()).collect();
            let mut decoded = decoded.map_err(|error| StoreError::Damaged(error.into()))?;
            let is_repair = |event: &RecordedEvent| {
                event.position > self.repairs_until && ExcludedEvents::is_repair(event)
            };
            if let Some(repair) = decoded.iter().find(|event| is_repair(event)) {
                return Err(ProjectorError::Repaired(repair.event.aggregate_id.clone()));
            }
            if !self.passed_over.is_empty() {
                decoded.retain(|event| !self.passed_over.names(event));
            }
            tables.take(projections, &decoded, self.reached)?;
        }
        Ok(at_end)
    }
}

/// Keeps the read models up to date until `stopping` is cancelled, on a thread of its own with the
/// lowest priority: appends come first. The future completes when the thread ends.
pub fn start(
    store: Arc<EventStore>,
    read_models: Arc<ReadModels>,
    stopping: CancellationToken,
) -> impl Future<Output = ()> {
    let (handle, problems, ends) = (Handle::current(), read_models.problems.clone(), stopping.clone());
    let spawn = move || {
        let (store, read_models, stopping) = (store.clone(), read_models.clone(), stopping.clone());
        let handle = handle.clone();
        let (_, end) = threads::spawn("projector", move || {
            threads::lower_priority();
            // Start over after any panic.
            while let Err(panic) =
                catch_unwind(AssertUnwindSafe(|| handle.block_on(run(&store, &read_models, &stopping))))
            {
                let panicked = format!("the projector thread: {}", Panicked::with(&*panic));
                read_models.problems.record_stalled(&panicked);
                handle.block_on(stopping.run_until_cancelled(tokio::time::sleep(RETRY_AFTER_MAX)));
            }
        })?;
        Ok(end)
    };
    keep_running(spawn, problems, ends)
}

/// Keeps a thread running until `stopping` is cancelled. Starts a new one if none could be started,
/// or if one ended.
async fn keep_running(
    mut spawn: impl FnMut() -> io::Result<ThreadEnd<()>>,
    problems: Arc<Problems>,
    stopping: CancellationToken,
) {
    loop {
        match spawn() {
            Ok(end) => _ = end.await,
            Err(error) => problems.record_stalled(&format!("cannot start the projector thread: {error}")),
        }
        if stopping.is_cancelled()
            || stopping.run_until_cancelled(tokio::time::sleep(RETRY_AFTER_MAX)).await.is_none()
        {
            return;
        }
    }
}

/// Runs the projector. Blocks on disk I/O, so it needs a thread of its own.
async fn run(store: &EventStore, read_models: &ReadModels, stopping: &CancellationToken) {
    let mut tip = store.watch_tip();
    let (mut follower, mut retry_after) = (None, RETRY_AFTER);
    while !stopping.is_cancelled() {
        let until = *tip.borrow_and_update();
        let before = read_models.position();
        let next = match follow(store, read_models, follower.take(), until) {
            Ok((kept, at_end)) => {
                read_models.problems.record_following();
                follower = Some(kept);
                if read_models.follow_to(read_models.position()) {
                    retry_after = RETRY_AFTER;
                }
                let came = read_models.position().0.saturating_sub(before.0);
                match (at_end, came >= LOAD) {
                    (true, true) => Next::AfterMore(PAUSE_UNDER_LOAD),
                    (true, false) => Next::AfterMore(PAUSE),
                    (false, _) => Next::AtOnce,
                }
            }
            // Nothing can be read yet while the service starts or restores the log.
            Err(ProjectorError::Store(StoreError::Unavailable(_))) => Next::After(RETRY_AFTER),
            Err(error) => {
                _ = rebuild_if_needed(&error, read_models, until.position);
                let this_time = retry_after;
                retry_after = retry_after.saturating_mul(2).min(RETRY_AFTER_MAX);
                Next::After(this_time)
            }
        };
        let wait = async {
            match next {
                Next::AtOnce => {}
                Next::After(pause) => tokio::time::sleep(pause).await,
                Next::AfterMore(pause) => {
                    tokio::select! {
                        _ = tip.changed() => {}
                        () = read_models.woken.notified() => {}
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        };
        stopping.run_until_cancelled(wait).await;
    }
}

/// When to continue.
#[derive(Debug, Clone, Copy)]
enum Next {
    AtOnce,
    After(Duration),
    /// This long after the next event or wake-up.
    AfterMore(Duration),
}

/// Applies some more events, with the existing follower if the rows are still the same. Returns
/// whether those were all.
///
/// # Errors
/// Returns an error if something cannot be read or written.
pub fn follow(
    store: &EventStore,
    read_models: &ReadModels,
    kept: Option<(Follower, u64)>,
    until: Tip,
) -> Result<((Follower, u64), bool), ProjectorError> {
    // Checked here, so that an unavailable store does not count as a failure.
    store.admit_read()?;
    let projections = read_models.projections();
    read_models.ensure_exists()?;
    let mut writer = read_models.writer();
    let Some(tables) = writer.as_mut() else { return Err(read_models.not_open().into()) };
    read_models.bound_wal(tables)?;
    let generation = read_models.generation();
    // Another thread may have replaced the tables, or applied more events to them.
    let kept =
        kept.filter(|(kept, its)| *its == generation && kept.reached.position >= tables.reached().position);
    let mut follower = match kept {
        Some((follower, _)) => follower,
        None => Follower::after(store, tables, projections)?,
    };
    let at_end = follower.step(tables, projections, until)?;
    read_models.reach(tables.reached(), follower.reached.position);
    Ok(((follower, generation), at_end))
}

/// Rebuilds the file if a retry cannot repair it. Returns whether there is a new file.
pub fn rebuild_if_needed(error: &ProjectorError, read_models: &ReadModels, until: Position) -> bool {
    let of_no_use = match error {
        ProjectorError::Repaired(_) => !read_models.is_being_rebuilt(),
        ProjectorError::ReadModels(error) => error.is_of_the_rows(),
        ProjectorError::Store(error) => {
            matches!(error, StoreError::Precondition(FailedPrecondition::HistoryChanged(_)))
        }
    };
    read_models.problems.record_stalled(&error.to_string());
    if !of_no_use {
        return false;
    }
    if let ProjectorError::Repaired(_) = error {
        read_models.may_renew_again();
    }
    let renewed = read_models.renew(until);
    if let Err(error) = &renewed {
        read_models.problems.record_stalled(&format!("cannot rebuild the file: {error}"));
    }
    renewed.unwrap_or(false)
}

/// Tables that were built from all events, and the follower that continues them.
pub struct BuiltTables {
    /// The tables.
    pub tables: Tables,
    /// The follower, which is where the tables are.
    pub follower: Follower,
}

/// Builds tables from all events, in a file of their own. `done` receives the position reached, and
/// may end the build with an error.
///
/// # Errors
/// Returns an error if something cannot be read or written.
pub fn build_tables(
    store: &EventStore,
    path: &std::path::Path,
    projections: &[Box<dyn Projection>],
    mut done: impl FnMut(Position) -> Result<(), StoreError>,
) -> Result<BuiltTables, ProjectorError> {
    files::remove(path)?;
    let mut tables = Tables::open(path, projections, Durability::Given)?;
    let mut follower = Follower::after(store, &mut tables, projections)?;
    let tip = store.tip();
    while !follower.step(&mut tables, projections, tip)? {
        done(follower.reached.position)?;
    }
    Ok(BuiltTables { tables, follower })
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn where_there_is_no_thread_another_try_is_made() {
        let (problems, stopping) = (Arc::new(Problems::default()), CancellationToken::new());
        let (mut tries, seen, stop) = (0, problems.clone(), stopping.clone());
        let spawn = move || {
            tries += 1;
            let (ended, end) = oneshot::channel();
            match tries {
                1 => Err(io::Error::other("no more threads")),
                // A thread that ends without a signal.
                2 => {
                    assert!(seen.stalled_reason().unwrap().contains("no more threads"));
                    Ok(end)
                }
                _ => {
                    stop.cancel();
                    _ = ended.send(());
                    Ok(end)
                }
            }
        };
        keep_running(spawn, problems, stopping.clone()).await;
        assert!(stopping.is_cancelled());
    }
}
