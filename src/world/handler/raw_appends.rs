//! Appends of callers that decide for themselves what happens to objects of the world: each event must be one that its
//! object can have, for an object with any other is damaged for good. That gives no rights, and containers and holders are
//! not looked at.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use tracing::warn;

use super::{ATTEMPTS_MAX, Handler, pause};
use crate::{
    event::{AggregateId, NewEvent, SequenceNumber},
    refusals::{self, Severity},
    sequencer::{Append, Origin, Stored},
    store::{Conflict, StoreError},
    world::{
        aggregate::{Aggregate, Kind},
        error::{Damage, Misfit, Problem, Unfitting, WorldError},
        refusal::Refusal,
        replay::{self, Moment, Source},
    },
};

/// What becomes of appends to objects of the world that are no commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawAppends {
    Checked,
    Refused,
    Unchecked,
}

/// The last number of each object, as it was when its events were found to fit.
type Heads = BTreeMap<AggregateId, SequenceNumber>;

/// Objects that were damaged before. Each is told of once, and no more than so many.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashSet<AggregateId>>);

impl Told {
    const MAX: usize = 1000;

    fn once(&self, damage: &Damage) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < Self::MAX && told.insert(damage.id.clone()) {
            warn!(%damage, "an append to an object that is damaged is not checked");
        }
    }
}

impl Handler {
    /// Stores the events, all or none, if they fit the objects of the world that they are of. Ids first, then what the
    /// caller expects, then the rules.
    ///
    /// # Errors
    /// An event does not fit, or as the store.
    pub async fn append_raw(&self, append: Append, origin: Origin) -> Result<Stored, WorldError> {
        let may_be_of_the_world = |event: &NewEvent| {
            // An aggregate that exists has its type already.
            event.aggregate_type.is_empty() || Kind::of(&event.aggregate_type).is_some()
        };
        let of_the_world =
            append.events.iter().map(|(event, _)| event).filter(|event| may_be_of_the_world(event));
        let ids: BTreeSet<AggregateId> = of_the_world.map(|event| event.aggregate_id.clone()).collect();
        if ids.is_empty() || self.raw_appends == RawAppends::Unchecked {
            return Ok(self.source.store.append_here(append, origin).await?);
        }
        let _turn = self.turns.take(ids.iter()).await;
        let append = Arc::new(append);
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 1 {
                tokio::time::sleep(pause(attempt)).await;
            }
            let heads = match self.check(append.clone(), ids.clone()).await {
                Ok(heads) => heads,
                Err(error) => return self.unless_stored(&append, error).await,
            };
            let expected_by_caller: BTreeSet<&AggregateId> =
                append.expected.iter().map(|(id, _)| id).collect();
            let others = heads.into_iter().filter(|(id, _)| !expected_by_caller.contains(id));
            let expected = append.expected.iter().cloned().chain(others).collect();
            // The events stay in memory beside these, until this ends.
            let origin = Origin { caller: origin.caller.clone(), counted: None };
            let events = append.events.clone();
            match self.source.store.append_here(Append { events, expected }, origin).await {
                Err(StoreError::Conflict(Conflict::WrongExpectedSequence { aggregate, .. }))
                    if !expected_by_caller.contains(&aggregate) => {}
                result => return Ok(result?),
            }
        }
        Err(WorldError::Contention)
    }

    /// What was stored before is answered, whatever stands against it now.
    async fn unless_stored(&self, append: &Append, error: WorldError) -> Result<Stored, WorldError> {
        if let Some(stored) = self.source.store.sequencer().stored_before(append).await? {
            return Ok(stored);
        }
        if let WorldError::Unfitting(unfitting) = &error {
            refusals::refused("WORLD_RULE", Severity::Limit, &unfitting.to_string());
        }
        Err(error)
    }

    /// Loads and decides; may wait for the disk.
    async fn check(&self, append: Arc<Append>, ids: BTreeSet<AggregateId>) -> Result<Heads, WorldError> {
        let (source, raw_appends, told) = (self.source.clone(), self.raw_appends, self.told.clone());
        let place = self.deciding.clone().acquire_owned().await;
        let checked = tokio::task::spawn_blocking(move || {
            // Held to the end, also where the caller has gone.
            let _place = place;
            let checking = Checking { source: &source, append: &append, raw_appends, told: &told };
            let mut heads = Heads::new();
            for id in ids {
                if let Some(head) = checking.object(&id)? {
                    heads.insert(id, head);
                }
            }
            Ok(heads)
        });
        checked.await.unwrap_or_else(|_| Err(StoreError::Damaged("a check was aborted".to_owned()).into()))
    }
}

struct Checking<'c> {
    source: &'c Source,
    append: &'c Append,
    raw_appends: RawAppends,
    told: &'c Told,
}

impl Checking<'_> {
    /// Whether the events fit one object, and after which of its own. `None`: it is none of the world's, or damaged.
    fn object(&self, id: &AggregateId) -> Result<Option<SequenceNumber>, WorldError> {
        let events = self.append.events.iter().enumerate().map(|(index, (event, _))| (index, event));
        let events: Vec<(usize, &NewEvent)> = events.filter(|(_, event)| event.aggregate_id == *id).collect();
        let state = match replay::load(self.source, id, Moment::Now) {
            Ok(state) => state,
            Err(WorldError::Damaged(damage)) => {
                self.told.once(&damage);
                return Ok(None);
            }
            Err(WorldError::Refused { refusal: Refusal::Foreign(_), .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let given = || events.iter().find_map(|(_, event)| Kind::of(&event.aggregate_type));
        let Some(kind) = state.as_ref().map(|state| state.aggregate.kind()).or_else(given) else {
            return Ok(None);
        };
        let head = SequenceNumber(state.as_ref().map_or(0, |state| state.sequence));
        let mut aggregate = state.map(|state| state.aggregate);
        for (index, event) in events {
            let after = match self.raw_appends {
                RawAppends::Refused => Err(Misfit::Refused),
                RawAppends::Checked | RawAppends::Unchecked => {
                    after(aggregate.take(), kind, event).map_err(Misfit::Event)
                }
            };
            aggregate = Some(
                after
                    .map_err(|problem| self.unfitting(Unfitting { index, id: id.clone(), kind, problem }))?,
            );
        }
        match self.append.expected.iter().find(|(expecting, _)| expecting == id) {
            // It was decided on another number than the caller saw.
            Some((_, expected)) if *expected != head => Err(self.conflict(id, *expected, head)),
            Some(_) | None => Ok(Some(head)),
        }
    }

    /// What the caller expects goes before.
    fn unfitting(&self, unfitting: Unfitting) -> WorldError {
        for (id, expected) in &self.append.expected {
            match replay::last_sequence(&self.source.store, id) {
                Ok(actual) if actual != *expected => return self.conflict(id, *expected, actual),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
        WorldError::Unfitting(Box::new(unfitting))
    }

    fn conflict(&self, id: &AggregateId, expected: SequenceNumber, actual: SequenceNumber) -> WorldError {
        let aggregate = id.clone();
        StoreError::from(Conflict::WrongExpectedSequence { aggregate, expected, actual }).into()
    }
}

fn after(before: Option<Aggregate>, kind: Kind, event: &NewEvent) -> Result<Aggregate, Problem> {
    let happened = replay::of_new(event)?;
    Ok(Aggregate::apply(before, kind, &event.aggregate_id, &happened)?)
}
