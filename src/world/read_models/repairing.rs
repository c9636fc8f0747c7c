//! Repairs objects: excludes from replay the events that damage an object.
//!
//! A repair is appended as an event of the object, and nothing is removed from the log. Applying
//! and looking up repairs is left to `history`.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    error::{Conflict, StoreError},
    event::{AggregateId, Content, ContentDigest, EventId, NewEvent, SequenceNumber},
    store::{Append, Origin},
    world::{
        error::WorldError,
        history::{
            rehydration::{InvalidEvents, Rehydration},
            repairs,
            replay::{self, AggregateSource},
        },
        model::{
            aggregate::Kind,
            event::{EventError, WorldEvent},
        },
        rules::{
            command::{ACTOR, COMMAND},
            refusal::Refusal,
        },
    },
};

/// The command that the metadata of the event names.
const REBUILD: &str = "RebuildWorldState";

/// The maximum number of events that one repair names.
const NAMED_MAX: usize = 10_000;

/// The pause before a retry.
const PAUSE: Duration = Duration::from_millis(10);

/// Excludes all invalid events of an object. What `origin` keeps is held until the repair is
/// decided, and has to prevent other changes of the object. Returns the excluded events, or none if
/// the object is intact.
///
/// # Errors
/// Returns an error if there is no such object, or if the log cannot be read or written.
pub async fn repair(
    source: &AggregateSource,
    id: &AggregateId,
    actor: &str,
    origin: Origin,
) -> Result<InvalidEvents, WorldError> {
    const TRIES_MAX: usize = 10;
    let mut repaired = InvalidEvents::new();
    let mut tries = 0;
    while tries < TRIES_MAX {
        let (reading, its) = (source.clone(), id.clone());
        let looked = tokio::task::spawn_blocking(move || invalid_events(&reading, &its)).await;
        let aborted = |error| Err(StoreError::of_writing_task(&error, "the check of an object").into());
        let (kind, last, mut invalid_events) = looked.unwrap_or_else(aborted)?;
        if invalid_events.is_empty() {
            return Ok(repaired);
        }
        invalid_events.truncate(NAMED_MAX);
        let event = event(id, kind, &invalid_events, actor)?;
        let digest = ContentDigest::of(&event);
        let append = Append { events: vec![(event, digest)], expected: vec![(id.clone(), last)] };
        let origin = origin.of_attempt(origin.kept.clone());
        match source.store.append_here(append, origin).await {
            // There may be more events than one repair can name.
            Ok(_) => repaired.extend(invalid_events),
            // The object got more events meanwhile, from a client whose appends are not checked.
            Err(StoreError::Conflict(Conflict::WrongExpectedSequence { .. })) => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(WorldError::Contention)
}

/// Returns the kind of an object, its last event, and the invalid events that are not excluded yet.
fn invalid_events(
    source: &AggregateSource,
    id: &AggregateId,
) -> Result<(Kind, SequenceNumber, InvalidEvents), WorldError> {
    let kind = match replay::kind(&source.store, id)? {
        Some(Some(kind)) => kind,
        Some(None) => return Err(Refusal::Foreign(id.clone()).into()),
        None => return Err(Refusal::NoSuchObject(id.clone()).into()),
    };
    let mut rehydration = Rehydration::for_repair(kind, repairs::of(&source.store, id)?);
    replay::rehydrate(&source.store, id, &mut rehydration)?;
    let last = rehydration.last();
    Ok((kind, last, rehydration.into_invalid_events()))
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
