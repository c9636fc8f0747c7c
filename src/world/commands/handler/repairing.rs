//! Repairs objects: excludes from replay the events that damage an object.
//!
//! A repair is appended as an event of the object, and nothing is removed from the log. If it gives
//! a player another name, that is reserved in the same append. Applying and looking up repairs is
//! left to `history`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Handler, raw_appends::LastSequences, raw_names};
use crate::{
    error::{Conflict, StoreError},
    event::{AggregateId, Content, ContentDigest, EventId, NewEvent, SequenceNumber},
    store::{Append, Origin},
    world::{
        commands::{
            aggregate_locks::LockRequest,
            names::{NameChange, PlayerNames, name_of},
        },
        error::WorldError,
        history::{
            rehydration::{InvalidEvents, Rehydration},
            repairs,
            replay::{self, AggregateSource, Moment},
        },
        model::{
            aggregate::Kind,
            event::{EventError, WorldEvent},
            player_name::reservation,
        },
        rules::{
            command::{ACTOR, COMMAND},
            refusal::Refusal,
        },
        settings::EventLimits,
    },
};

/// The command that the metadata of the event names.
const REBUILD: &str = "RebuildWorldState";

/// The maximum number of events that one repair names.
const NAMED_MAX: usize = 10_000;

/// The pause before a retry.
const PAUSE: Duration = Duration::from_millis(10);

/// What a repair stores.
struct Repair {
    append: Append,
    invalid_events: InvalidEvents,
}

impl Handler {
    /// Excludes the events that damage an object from replay. Appends to it are checked again from
    /// then on. `recorded_by` is the name of the identity that requested it, or empty. Returns the
    /// excluded events, or none if the object is intact.
    ///
    /// # Errors
    /// Returns an error if there is no such object, if the log cannot be read or written, or if
    /// another player has the name that a player would have.
    pub async fn repair(
        &self,
        id: &AggregateId,
        actor: &str,
        recorded_by: Arc<str>,
    ) -> Result<InvalidEvents, WorldError> {
        let turn = Arc::new(self.turns.take(&LockRequest::alone(std::iter::once(id))).await);
        let origin = Origin { kept: Some(turn.clone()), recorded_by, ..Origin::default() };
        let repaired = self.exclude_invalid_events(id, actor, origin).await;
        // Must happen before another call can acquire the lock. An object that is still damaged is
        // detected again.
        self.told.forget(id);
        drop(turn);
        repaired
    }

    async fn exclude_invalid_events(
        &self,
        id: &AggregateId,
        actor: &str,
        origin: Origin,
    ) -> Result<InvalidEvents, WorldError> {
        const TRIES_MAX: usize = 10;
        let mut repaired = InvalidEvents::new();
        let mut tries = 0;
        while tries < TRIES_MAX {
            let (source, names, limits) = (self.source.clone(), self.names.clone(), self.limits);
            let (its, by) = (id.clone(), actor.to_owned());
            let planned =
                tokio::task::spawn_blocking(move || plan(&source, (&names, limits), &its, &by)).await;
            let aborted = |error| Err(StoreError::of_writing_task(&error, "the check of an object").into());
            let Some(Repair { append, invalid_events }) = planned.unwrap_or_else(aborted)? else {
                return Ok(repaired);
            };
            let origin = origin.of_attempt(origin.kept.clone());
            match self.source.store.append_here(append, origin).await {
                // There may be more events than one repair can name.
                Ok(_) => repaired.extend(invalid_events),
                // The object got more events meanwhile, from a client whose appends are not
                // checked, or the reservation of a name has changed.
                Err(StoreError::Conflict(Conflict::WrongExpectedSequence { .. })) => {
                    tries += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(WorldError::Contention)
    }
}

/// Plans the repair of an object, or returns `None` if it is intact. May block on disk I/O.
fn plan(
    source: &AggregateSource,
    (names, limits): (&PlayerNames, EventLimits),
    id: &AggregateId,
    actor: &str,
) -> Result<Option<Repair>, WorldError> {
    let kind = match replay::kind(&source.store, id)? {
        Some(Some(kind)) => kind,
        Some(None) => return Err(Refusal::Foreign(id.clone()).into()),
        None => return Err(Refusal::NoSuchObject(id.clone()).into()),
    };
    let mut rehydration = Rehydration::for_repair(kind, repairs::of(&source.store, id)?);
    replay::rehydrate(&source.store, id, &mut rehydration)?;
    let last = rehydration.last();
    let name = rehydration.state().and_then(|state| name_of(&state.aggregate)).map(str::to_owned);
    let mut invalid_events = rehydration.into_invalid_events();
    let Some((damaged, _)) = invalid_events.first() else { return Ok(None) };
    // A damaged player has no name until the last of its repairs.
    let is_last = invalid_events.len() <= NAMED_MAX;
    let change = if is_last { Some(name_change(source, names, id, (*damaged, name))?) } else { None };
    invalid_events.truncate(NAMED_MAX);
    let event = event(id, kind, &invalid_events, actor)?;
    let digest = ContentDigest::of(&event);
    let mut append = Append { events: vec![(event, digest)], expected: Vec::new() };
    let mut heads = LastSequences::from([(id.clone(), last)]);
    let reserved =
        raw_names::reserve((&source.store, names), &append, change.as_slice(), &mut heads, limits)?;
    append.events.extend(reserved);
    append.expected.extend(heads);
    Ok(Some(Repair { append, invalid_events }))
}

/// Returns how a repair changes the name of a player, compared with what may be reserved for it:
/// the name that it had before the first invalid event.
fn name_change(
    source: &AggregateSource,
    names: &PlayerNames,
    id: &AggregateId,
    (damaged, after): (SequenceNumber, Option<String>),
) -> Result<NameChange, WorldError> {
    let last_intact = Moment::Sequence(SequenceNumber(damaged.0.saturating_sub(1)));
    let intact = match replay::load(source, id, last_intact) {
        Err(WorldError::Damaged(_)) => None,
        loaded => loaded?,
    };
    let before = intact.as_ref().and_then(|state| name_of(&state.aggregate)).map(str::to_owned);
    let reserved = |name: &Option<String>| name.as_deref().and_then(|name| reservation(names.unique, name));
    // The name may belong to somebody else by now, although it is the same.
    let is_same = reserved(&before) == reserved(&after);
    Ok(NameChange { player: id.clone(), before: before.filter(|_| !is_same), after })
}

fn event(id: &AggregateId, kind: Kind, invalid: &InvalidEvents, actor: &str) -> Result<NewEvent, WorldError> {
    /// The maximum number of events whose problem is described.
    const BECAUSE_MAX: usize = 10;
    let said = invalid.iter().take(BECAUSE_MAX).map(|(at, problem)| format!("event {at}: {problem}"));
    let mut because: Vec<String> = said.collect();
    if let Some(more) = invalid.len().checked_sub(BECAUSE_MAX).filter(|more| *more > 0) {
        because.push(format!("and {more} more"));
    }
    let repaired = WorldEvent::ObjectRepaired {
        passed_over: invalid.iter().map(|(at, _)| at.0).collect(),
        because: because.join("; "),
        actor: actor.to_owned(),
    };
    let unwritable = |error: EventError| StoreError::invalid("repair", error.to_string());
    let (event_type, data) = repaired.encode().map_err(unwritable)?;
    let mut metadata = BTreeMap::from([(COMMAND.to_owned(), REBUILD.to_owned())]);
    if !actor.is_empty() {
        metadata.insert(ACTOR.to_owned(), actor.to_owned());
    }
    Ok(NewEvent {
        id: EventId::random(),
        aggregate_id: id.clone(),
        aggregate_type: kind.name().into(),
        event_type: event_type.into(),
        content: Content::Json(data),
        correlation_id: String::new(),
        causation_id: String::new(),
        metadata,
        occurred_at: None,
    })
}
