//! Follows the order of events, and has the projections take them in.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::{runtime::Handle, sync::oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    error::WorldError,
    projections::Projection,
    read_models::{Durability, Panicked, Problems, Reached, ReadModelError, ReadModels, Tables, files},
    repairs::PassedOver,
};
use crate::{
    event::{AggregateId, Position, RecordedEvent},
    log::Tip,
    priority,
    store::{EventStore, Filter, OrderChunk, OrderReader, OrderStart, Precondition, StoreError},
};

/// Between two transactions: what comes meanwhile shares the next, so that a load makes few large ones.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_UNDER_LOAD: Duration = Duration::from_millis(200);

/// Events that come in one pause, if that is a load.
const LOAD: u64 = 100;

/// After something failed, and after it failed again and again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// Events of one transaction, and what the append has beyond that in which they end.
const READ_BYTES: usize = 1024 * 1024;

/// Where nothing is wanted, how far it is is written down now and then.
const PASSED_OVER_MAX: u64 = 100_000;

/// Why the projections do not follow.
#[derive(Debug, thiserror::Error)]
pub enum ProjectorError {
    #[error(transparent)]
    ReadModels(#[from] ReadModelError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0} was repaired, and they have what is passed over now")]
    Repaired(AggregateId),
}

impl From<ProjectorError> for WorldError {
    fn from(error: ProjectorError) -> Self {
        match error {
            ProjectorError::ReadModels(error) => error.into(),
            ProjectorError::Store(error) => error.into(),
            ProjectorError::Repaired(_) => Self::ReadModels(error.to_string()),
        }
    }
}

/// Reads the events that some projections want, and has tables take them in.
#[derive(Debug)]
pub struct Follower {
    reader: OrderReader,
    reached: Reached,
    /// By repairs up to here.
    passed_over: PassedOver,
    repairs_until: Position,
}

impl Follower {
    /// Goes on where the tables are.
    ///
    /// # Errors
    /// They belong to another history, or nothing can be read.
    pub fn behind(
        store: &EventStore,
        tables: &mut Tables,
        projections: &[Box<dyn Projection>],
    ) -> Result<Self, StoreError> {
        let (reached, tip) = (tables.reached(), store.sequencer().tip());
        let types = projections.iter().flat_map(|projection| projection.aggregate_types());
        let filter = Filter {
            aggregate_types: types.map(|name| name.as_bytes().to_vec()).collect(),
            ..Filter::default()
        };
        let start = OrderStart::After(reached.position, Some(reached.hash));
        let reader = store.read(start, filter)?;
        // What rows have already can't be passed over any more: only those that are begun know all repairs.
        if reached == Reached::START {
            tables.know_repairs_until(tip.position);
        }
        let repairs_until = tables.repairs_until().max(reached.position);
        let passed_over = match repairs_until > reached.position {
            true => PassedOver::by_repairs(store, start, (repairs_until, tip))?,
            false => PassedOver::default(),
        };
        Ok(Self { reader, reached, passed_over, repairs_until })
    }

    /// How far it has read.
    pub fn reached(&self) -> Reached {
        self.reached
    }

    /// Takes some more in, up to the tip at most; says whether that was all. It ends where an append ends: nobody sees
    /// half of a call.
    ///
    /// # Errors
    /// Something can't be read or written; the follower is of no use then.
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
        self.reached = Reached { position: reached, hash };
        let passed_over = reached.0.saturating_sub(tables.reached().position.0);
        if !events.is_empty() || passed_over >= PASSED_OVER_MAX {
            let decoded: Result<Vec<RecordedEvent>, _> = events.iter().map(|event| event.decode()).collect();
            let mut decoded = decoded.map_err(|error| StoreError::Damaged(error.to_string()))?;
            let is_repair =
                |event: &RecordedEvent| event.position > self.repairs_until && PassedOver::is_repair(event);
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

/// Keeps the read models up to date until `stopping`, by a thread of its own, of the lowest priority: whoever appends
/// goes first. The future ends with it.
pub fn start(
    store: Arc<EventStore>,
    read_models: Arc<ReadModels>,
    stopping: CancellationToken,
) -> impl Future<Output = ()> {
    let (handle, problems, ends) = (Handle::current(), read_models.problems.clone(), stopping.clone());
    let spawn = move || {
        let (ended, end) = oneshot::channel::<()>();
        let (store, read_models, stopping) = (store.clone(), read_models.clone(), stopping.clone());
        let handle = handle.clone();
        thread::Builder::new().name("projector".into()).spawn(move || {
            priority::lowest();
            // Whatever panics in it, it begins again.
            while let Err(panic) =
                catch_unwind(AssertUnwindSafe(|| handle.block_on(run(&store, &read_models, &stopping))))
            {
                let panicked = format!("the projector: {}", Panicked::with(&*panic));
                read_models.problems.they_do_not_follow(&panicked);
                handle.block_on(stopping.run_until_cancelled(tokio::time::sleep(RETRY_AFTER_MAX)));
            }
            _ = ended.send(());
        })?;
        Ok(end)
    };
    keep_running(spawn, problems, ends)
}

/// Has a thread for them until `stopping`, also where none could be started, or one ended.
async fn keep_running(
    mut spawn: impl FnMut() -> io::Result<oneshot::Receiver<()>>,
    problems: Arc<Problems>,
    stopping: CancellationToken,
) {
    loop {
        match spawn() {
            Ok(end) => _ = end.await,
            Err(error) => problems.they_do_not_follow(&format!("there is no thread for them: {error}")),
        }
        if stopping.is_cancelled()
            || stopping.run_until_cancelled(tokio::time::sleep(RETRY_AFTER_MAX)).await.is_none()
        {
            return;
        }
    }
}

/// Waits for the disk where it stands, so it wants a thread of its own.
async fn run(store: &EventStore, read_models: &ReadModels, stopping: &CancellationToken) {
    let mut tip = store.sequencer().watch_tip();
    let (mut follower, mut retry_after) = (None, RETRY_AFTER);
    while !stopping.is_cancelled() {
        let until = *tip.borrow_and_update();
        let before = read_models.position();
        let next = match follow(store, read_models, follower.take(), until) {
            Ok((kept, at_end)) => {
                read_models.problems.they_follow();
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
            // While the service starts or copies nothing can be read yet.
            Err(ProjectorError::Store(StoreError::Unavailable(_))) => Next::After(RETRY_AFTER),
            Err(error) => {
                _ = mend(&error, read_models, until.position);
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

/// When to go on.
#[derive(Debug, Clone, Copy)]
enum Next {
    AtOnce,
    After(Duration),
    /// So long after something comes.
    AfterMore(Duration),
}

/// Takes some more events in, by whoever did so before if the rows are still the same. Says whether that was all.
///
/// # Errors
/// Something can't be read or written.
pub fn follow(
    store: &EventStore,
    read_models: &ReadModels,
    kept: Option<(Follower, u64)>,
    until: Tip,
) -> Result<((Follower, u64), bool), ProjectorError> {
    // Asked here, it counts as no failure.
    store.admit_read()?;
    let projections = read_models.projections();
    read_models.be_there()?;
    let mut writer = read_models.writer();
    let Some(tables) = writer.as_mut() else { return Err(read_models.not_open().into()) };
    read_models.bound_wal(tables)?;
    let generation = read_models.generation();
    // Others may have put other tables in, or brought these further.
    let kept =
        kept.filter(|(kept, its)| *its == generation && kept.reached.position >= tables.reached().position);
    let mut follower = match kept {
        Some((follower, _)) => follower,
        None => Follower::behind(store, tables, projections)?,
    };
    let at_end = follower.step(tables, projections, until)?;
    read_models.reach(tables.reached(), follower.reached.position);
    Ok(((follower, generation), at_end))
}

/// What another try does not mend, a new file does. Says whether there is one.
pub fn mend(error: &ProjectorError, read_models: &ReadModels, until: Position) -> bool {
    let of_no_use = match error {
        ProjectorError::Repaired(_) => !read_models.is_being_rebuilt(),
        ProjectorError::ReadModels(error) => error.is_of_the_rows(),
        ProjectorError::Store(error) => {
            matches!(error, StoreError::Precondition(Precondition::HistoryChanged(_)))
        }
    };
    read_models.problems.they_do_not_follow(&error.to_string());
    if !of_no_use {
        return false;
    }
    if let ProjectorError::Repaired(_) = error {
        read_models.may_renew_again();
    }
    let renewed = read_models.renew(until);
    if let Err(error) = &renewed {
        read_models.problems.they_do_not_follow(&format!("they can't be made anew: {error}"));
    }
    renewed.unwrap_or(false)
}

/// Tables made anew in a file of their own, from all events. `done` is told how far it is, and may end it.
///
/// # Errors
/// Something can't be read or written.
pub fn project_anew(
    store: &EventStore,
    path: &std::path::Path,
    projections: &[Box<dyn Projection>],
    mut done: impl FnMut(Position) -> Result<(), StoreError>,
) -> Result<(Tables, Follower), ProjectorError> {
    files::remove(path)?;
    let mut tables = Tables::open(path, projections, Durability::Given)?;
    let mut follower = Follower::behind(store, &mut tables, projections)?;
    let tip = store.sequencer().tip();
    while !follower.step(&mut tables, projections, tip)? {
        done(follower.reached.position)?;
    }
    Ok((tables, follower))
}

#[cfg(test)]
mod tests {
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
                // One that ends without a word.
                2 => {
                    assert!(seen.why_not().unwrap().contains("no more threads"));
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
