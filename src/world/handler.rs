//! The command handler: from commands to stored events and an answer.
//!
//! It loads what the commands depend on, has them decided, and appends all their events at once, under the
//! expectation that nothing it looked at has changed. If something has, it begins again. A command that was
//! executed before is found by the id of its first event, which comes from the command's own id.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use super::{
    command::Commands,
    contents::Contents,
    error::WorldError,
    executed::{CommandResult, Executed},
    planning::{EventLimits, Located, Plan, Planning},
    replay::Source,
    turns::{Turns, Wanted},
};
use crate::{
    event::{AggregateId, EventId, Position, SequenceNumber},
    sequencer::{Origin, Stored},
    shared_limit::Caller,
    store::{Attempt, Conflict, StoreError},
};

mod raw_appends;

pub use raw_appends::RawAppends;
use raw_appends::Told;

/// How often a call is decided before it gives up. Whoever loses a race has it lost to somebody who won.
const ATTEMPTS_MAX: u32 = 100;
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Calls that are decided at once. What they wait for is the processor, and the disk at times.
const DECIDING_MAX: usize = 32;

/// Executes commands. Shared by all calls.
#[derive(Debug)]
pub struct Handler {
    source: Source,
    contents: Contents,
    turns: Turns,
    /// Places of those who decide: what they look at is in memory.
    deciding: Arc<Semaphore>,
    limits: EventLimits,
    raw_appends: RawAppends,
    told: Arc<Told>,
}

impl Handler {
    pub fn new(source: Source, contents: Contents, limits: EventLimits, raw_appends: RawAppends) -> Self {
        Self {
            source,
            contents,
            turns: Turns::default(),
            deciding: Arc::new(Semaphore::new(DECIDING_MAX)),
            limits,
            raw_appends,
            told: Arc::default(),
        }
    }

    /// Executes the commands in their order, all or none.
    /// `reserve` is asked for the bytes of the answer before anything is stored.
    ///
    /// # Errors
    /// See [`WorldError`].
    pub async fn execute(
        &self,
        commands: Commands,
        caller: &Caller,
        reserve: impl Fn(usize) -> BoxFuture<'static, Result<(), StoreError>>,
    ) -> Result<Executed, WorldError> {
        let mut wanted = Wanted::by(&commands.commands);
        let mut turn = Arc::new(self.turns.take(&wanted).await);
        let commands = Arc::new(commands);
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 1 {
                tokio::time::sleep(pause(attempt)).await;
            }
            let Some(plan) = self.plan(commands.clone()).await? else { continue };
            let Plan { append, mut results, executed, put_into } = plan;
            if wanted.share(&put_into) {
                // Known only now. It may have changed before the turn comes.
                drop(turn);
                turn = Arc::new(self.turns.take(&wanted).await);
                continue;
            }
            reserve(results.iter().map(CommandResult::bytes_max).sum()).await?;
            if append.events.is_empty() {
                drop(turn);
                // It is as good as the first answer was, or is not known yet as that was.
                let stored_in = match executed {
                    Some(Located { end, last }) => {
                        Some(self.source.store.settle(end, last, Attempt::Repeated).await?)
                    }
                    None => None,
                };
                return Ok(Executed { results, stored_in });
            }
            // The commands stay in memory beside it, until this ends. Whoever has the turn next sees this append, also
            // where nobody waits for it any more.
            let origin = Origin { caller: caller.clone(), counted: None, kept: Some(turn.clone()) };
            match self.source.store.append_here(append, origin).await {
                Ok(stored) => {
                    drop(turn);
                    let stored_in = self
                        .source
                        .store
                        .settle(stored.end, stored.bounds.last, Attempt::of(&stored))
                        .await?;
                    number(&mut results, &stored);
                    return Ok(Executed { results, stored_in: Some(stored_in) });
                }
                // Of the ids: the same command was executed meanwhile. The next plan finds it.
                Err(StoreError::Conflict(
                    Conflict::WrongExpectedSequence { .. } | Conflict::EventIdReused(_),
                )) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(WorldError::Contention)
    }

    /// Loads and decides; may wait for the disk. `None`: what it looked at changed meanwhile.
    async fn plan(&self, commands: Arc<Commands>) -> Result<Option<Plan>, WorldError> {
        let (source, contents, limits) = (self.source.clone(), self.contents.clone(), self.limits);
        let decide = move || {
            let mut planning = Planning::new(&source, &contents, limits);
            let decided = planning.decide_all(&commands);
            if planning.saw_a_change() {
                return Ok(None);
            }
            // An append is refused where anything changed; without one it has to be looked at here.
            let stores_nothing = decided.is_err() || planning.stores_nothing();
            if stores_nothing && !planning.is_still_so()? {
                return Ok(None);
            }
            decided.and_then(|()| planning.finish()).map(Some)
        };
        self.in_a_place(decide).await
    }

    /// Does work that may wait for the disk.
    async fn in_a_place<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, WorldError> + Send + 'static,
    ) -> Result<T, WorldError> {
        let place = self.deciding.clone().acquire_owned().await;
        let worked = tokio::task::spawn_blocking(move || {
            // Held to the end, also where the caller has gone.
            let _place = place;
            work()
        });
        worked.await.unwrap_or_else(|_| Err(StoreError::Damaged("a decision was aborted".to_owned()).into()))
    }
}

/// A little, and not for all the same.
fn pause(attempt: u32) -> Duration {
    let random = u64::from(EventId::random().as_bytes().first().copied().unwrap_or_default());
    let max = Duration::from_millis(1).saturating_mul(attempt).min(PAUSE_MAX);
    max.mul_f64(random as f64 / 255.0)
}

/// Gives the new events their numbers, in the order in which they were appended.
fn number(results: &mut [CommandResult], stored: &Stored) {
    let mut next: BTreeMap<&AggregateId, SequenceNumber> =
        stored.aggregates.iter().map(|aggregate| (&aggregate.id, aggregate.first)).collect();
    let new = results.iter_mut().filter(|result| !result.already_executed);
    for (event, position) in new.flat_map(|result| &mut result.events).zip(stored.bounds.first.0..) {
        event.position = Position(position);
        if let Some(next) = next.get_mut(&event.aggregate_id) {
            event.sequence = *next;
            *next = next.next();
        }
    }
}
