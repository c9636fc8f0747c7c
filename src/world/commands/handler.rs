//! The command handler: turns commands into stored events and a result.
//!
//! Loads what the commands depend on, has them decided, and appends all their events at once, on
//! condition that nothing it examined has changed. If something has, it starts over. A command that
//! was executed before is found by the id of its first event, which is derived from the command's
//! own id.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use super::{
    aggregate_locks::{AggregateLocks, LockRequest},
    executed::Executed,
    names::PlayerNames,
    planned::{PlannedResult, StoredNumbers},
    planning::{AppendEnd, ExaminedWorld, Plan, Planning},
};
use crate::{
    error::{Conflict, StoreError},
    event::EventId,
    store::{Attempt, Origin},
    world::{
        error::WorldError,
        history::replay::AggregateSource,
        read_models::contents::ContainerTable,
        rules::command::Commands,
        settings::{EventLimits, RawAppendPolicy, UniqueNames},
    },
};

mod raw_appends;
pub mod raw_names;
mod repairing;
pub mod reserving;

use raw_appends::ReportedDamage;

/// The maximum number of times that a call is decided. An attempt that loses a race always loses it
/// to a call that succeeded.
const ATTEMPTS_MAX: u32 = 100;
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// The maximum number of calls decided at once. Deciding needs the CPU, and sometimes the disk.
const DECIDING_MAX: usize = 32;

/// Executes commands. Shared by all calls.
#[derive(Debug)]
pub struct Handler {
    source: AggregateSource,
    contents: ContainerTable,
    turns: AggregateLocks,
    /// Permits for deciding. They limit the memory used for the objects that decisions examine.
    deciding: Arc<Semaphore>,
    limits: EventLimits,
    raw_appends: RawAppendPolicy,
    names: Arc<PlayerNames>,
    told: Arc<ReportedDamage>,
}

impl Handler {
    /// Creates a handler. `limits` apply to the events of each call.
    pub fn new(
        source: AggregateSource,
        contents: ContainerTable,
        limits: EventLimits,
        (raw_appends, unique_names): (RawAppendPolicy, UniqueNames),
    ) -> Self {
        Self {
            source,
            contents,
            turns: AggregateLocks::default(),
            deciding: Arc::new(Semaphore::new(DECIDING_MAX)),
            limits,
            raw_appends,
            names: Arc::new(PlayerNames::new(unique_names)),
            told: Arc::default(),
        }
    }

    /// Executes the commands in order, all or none. Their events get the name of the identity in
    /// `origin`. `reserve` is called with the size of the response before anything is stored.
    ///
    /// # Errors
    /// See [`WorldError`]. Also returns the errors of `reserve`.
    pub async fn execute(
        &self,
        commands: Commands,
        origin: Origin,
        reserve: impl Fn(usize) -> BoxFuture<'static, Result<(), StoreError>>,
    ) -> Result<Executed, WorldError> {
        let mut wanted = LockRequest::by(&commands.commands);
        let mut turn = Arc::new(self.turns.take(&wanted).await);
        let commands = Arc::new(commands);
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 1 {
                tokio::time::sleep(pause(attempt)).await;
            }
            let Some(plan) = self.plan(commands.clone()).await? else { continue };
            let Plan { append, results, executed, put_into } = plan;
            if wanted.share(&put_into) {
                // These containers are known only now. They may change before their locks are
                // acquired, so plan again.
                drop(turn);
                turn = Arc::new(self.turns.take(&wanted).await);
                continue;
            }
            reserve(results.iter().map(PlannedResult::bytes_max).sum()).await?;
            if append.events.is_empty() {
                drop(turn);
                // Wait for the commit, so that this answer is as reliable as the first one was.
                let stored_in = match executed {
                    Some(AppendEnd { end, last }) => {
                        Some(self.source.store.wait_for_commit(end, last, Attempt::Repeated).await?)
                    }
                    None => None,
                };
                return Ok(Executed { results: StoredNumbers::none().complete(results)?, stored_in });
            }
            // The memory of the call counts elsewhere: the commands stay in memory next to the
            // events until this call ends. The locks are kept until the append is decided, so that
            // the next call that acquires them sees this append even if the client is gone.
            let origin = origin.of_attempt(Some(turn.clone()));
            match self.source.store.append_here(append, origin).await {
                Ok(stored) => {
                    drop(turn);
                    let stored_in = self
                        .source
                        .store
                        .wait_for_commit(stored.end, stored.bounds.last, Attempt::of(&stored))
                        .await?;
                    let results = StoredNumbers::of(&stored).complete(results)?;
                    return Ok(Executed { results, stored_in: Some(stored_in) });
                }
                // If event ids were reused, the same command was executed meanwhile. The next plan
                // finds it.
                Err(StoreError::Conflict(
                    Conflict::WrongExpectedSequence { .. } | Conflict::EventIdReused(_),
                )) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(WorldError::Contention)
    }

    /// Loads the objects and decides the commands. May block on disk I/O. Returns `None` if
    /// something that it examined changed meanwhile.
    async fn plan(&self, commands: Arc<Commands>) -> Result<Option<Plan>, WorldError> {
        let (source, contents, limits) = (self.source.clone(), self.contents.clone(), self.limits);
        let names = self.names.clone();
        let decide = move || {
            let world = ExaminedWorld::new(&source, &contents, &names);
            let mut planning = Planning::new(world, limits, &commands);
            let decided = planning.decide_all();
            if planning.saw_a_change() {
                return Ok(None);
            }
            // The store rejects an append if anything has changed. Without an append, check that
            // here.
            let stores_nothing = decided.is_err() || planning.stores_nothing();
            if stores_nothing && !planning.is_still_valid()? {
                return Ok(None);
            }
            decided.and_then(|()| planning.finish()).map(Some)
        };
        self.in_a_place(decide).await
    }

    /// Waits for a permit, and runs work that may block on disk I/O.
    async fn in_a_place<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, WorldError> + Send + 'static,
    ) -> Result<T, WorldError> {
        let place = self.deciding.clone().acquire_owned().await;
        let worked = tokio::task::spawn_blocking(move || {
            // Held until the work ends, even if the client is gone.
            let _place = place;
            work()
        });
        worked.await.unwrap_or_else(|error| Err(StoreError::of_task(&error, "a decision").into()))
    }
}

/// Returns a short random pause, so that competing calls do not retry at the same time.
fn pause(attempt: u32) -> Duration {
    let random = u64::from(EventId::random().as_bytes().first().copied().unwrap_or_default());
    let max = Duration::from_millis(1).saturating_mul(attempt).min(PAUSE_MAX);
    max.mul_f64(random as f64 / 255.0)
}
