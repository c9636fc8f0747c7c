//! Repairs objects: excludes from replay the events that damage an object.
//!
//! A repair is appended as an event of the object, and nothing is removed from the log. Applying
//! and looking up repairs is left to `history`.

use std::{any::Any, collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    error::{Conflict, StoreError},
    event::{AggregateId, Content, ContentDigest, EventId, NewEvent, SequenceNumber},
    store::{Append, Origin},
    world::{
        error::WorldError,
        history::{
            life::{Life, Misfits},
            repairs,
            replay::{self, Source},
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

/// Excludes all invalid events of an object. `turn` keeps the object from being changed meanwhile,
/// and is held until the repair is decided. Returns the excluded events, or none if the object is
/// intact.
///
/// # Errors
/// Returns an error if there is no such object, or if the log cannot be read or written.
pub async fn repair(
    source: &Source,
    id: &AggregateId,
    actor: &str,
    turn: Arc<dyn Any + Send + Sync>,
) -> Result<Misfits, WorldError> {
    const TRIES_MAX: usize = 10;
    let mut repaired = Misfits::new();
    let mut tries = 0;
    while tries < TRIES_MAX {
        let (reading, its) = (source.clone(), id.clone());
        let looked = tokio::task::spawn_blocking(move || misfits(&reading, &its)).await;
        let aborted = |error| Err(StoreError::of_task(&error, "the check of an object").into());
        let (kind, last, mut misfits) = looked.unwrap_or_else(aborted)?;
        if misfits.is_empty() {
            return Ok(repaired);
        }
        misfits.truncate(NAMED_MAX);
        let event = event(id, kind, &misfits, actor)?;
        let digest = ContentDigest::of(&event);
        let append = Append { events: vec![(event, digest)], expected: vec![(id.clone(), last)] };
        let origin = Origin { kept: Some(turn.clone()), ..Origin::default() };
        match source.store.append_here(append, origin).await {
            // There may be more events than one repair can name.
            Ok(_) => repaired.extend(misfits),
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
fn misfits(source: &Source, id: &AggregateId) -> Result<(Kind, SequenceNumber, Misfits), WorldError> {
    let kind = match replay::kind(&source.store, id)? {
        Some(Some(kind)) => kind,
        Some(None) => return Err(Refusal::Foreign(id.clone()).into()),
        None => return Err(Refusal::NoSuchObject(id.clone()).into()),
    };
    let mut life = Life::to_be_repaired(kind, repairs::of(&source.store, id)?);
    replay::live(&source.store, id, &mut life)?;
    let last = life.last();
    Ok((kind, last, life.into_misfits()))
}

fn event(id: &AggregateId, kind: Kind, misfits: &Misfits, actor: &str) -> Result<NewEvent, WorldError> {
    /// The maximum number of events whose problem is described.
    const BECAUSE_MAX: usize = 10;
    let said = misfits.iter().take(BECAUSE_MAX).map(|(at, problem)| format!("event {at}: {problem}"));
    let mut because: Vec<String> = said.collect();
    if let Some(more) = misfits.len().checked_sub(BECAUSE_MAX).filter(|more| *more > 0) {
        because.push(format!("and {more} more"));
    }
    let repaired = WorldEvent::ObjectRepaired {
        passed_over: misfits.iter().map(|(at, _)| at.0).collect(),
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
