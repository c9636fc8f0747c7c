//! Has what damages an object passed over from then on.

use std::{any::Any, collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    aggregate::Kind,
    command::{ACTOR, COMMAND},
    error::WorldError,
    event::{EventError, WorldEvent},
    life::{Life, Misfits},
    refusal::Refusal,
    repairs,
    replay::{self, Source},
};
use crate::{
    event::{AggregateId, Content, ContentDigest, EventId, NewEvent, SequenceNumber},
    sequencer::{Append, Origin},
    store::{Conflict, StoreError},
};

/// What was asked for, as the event's metadata name it.
const REBUILD: &str = "RebuildWorldState";

/// One event names no more.
const NAMED_MAX: usize = 10_000;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(10);

/// Has all events of an object passed over that can't have happened to it, while nobody changes it: `turn` is kept until
/// that is decided. Gives what they are; none: it is whole.
///
/// # Errors
/// There is no such object, or the log can't be read or written.
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
        let aborted = |_| Err(StoreError::Damaged("a look at an object was aborted".to_owned()).into());
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
            // There may be more than one event names.
            Ok(_) => repaired.extend(misfits),
            // It went on meanwhile, by somebody who is not checked.
            Err(StoreError::Conflict(Conflict::WrongExpectedSequence { .. })) => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(WorldError::Contention)
}

/// What an object is, its last event, and those that can't have happened and are not passed over yet.
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
    /// So many are said to be what they are.
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
