//! The names of players in raw appends: they are reserved in the same append, as for commands.
//!
//! The events of reservations come after those of the client, which sees neither them nor their
//! numbers. A retry is recognized with them, because the store compares whole appends.

use std::collections::BTreeMap;

use super::{Handler, raw_appends::LastSequences};
use crate::{
    error::StoreError,
    event::{APPEND_EVENTS_MAX, AggregateId, ContentDigest, NewEvent, SequenceNumber},
    store::{Append, EventStore, StoredAppend},
    world::{
        commands::names::{NameChange, NameReservations, OfReservation, PlayerNames},
        error::WorldError,
        model::{aggregate::Kind, player_name},
        rules::command::{ACTOR, name_event_id},
    },
};

/// An event for the store.
pub(super) type SentEvent = (NewEvent, ContentDigest);

/// Adds the events of reservations to `heads` and returns them. `append` is that of the client.
///
/// # Errors
/// Returns an error if another player has a name, or if there would be more events than allowed.
pub(super) fn reserve(
    (store, names): (&EventStore, &PlayerNames),
    append: &Append,
    changes: &[NameChange],
    heads: &mut LastSequences,
    events_max: usize,
) -> Result<Vec<SentEvent>, WorldError> {
    let mut reservations = NameReservations::new(store, names);
    let events = reservations.change(changes)?;
    let count = append.events.len().saturating_add(events.len());
    if !events.is_empty() && count > events_max {
        let problem = format!(
            "has {} events, and {} more would reserve names of players; at most {events_max} are allowed",
            append.events.len(),
            events.len()
        );
        return Err(StoreError::invalid("events", problem).into());
    }
    heads.extend(reservations.heads().map(|(id, last)| (id.clone(), last)));
    let Some((first, _)) = append.events.first() else { return Ok(Vec::new()) };
    events.into_iter().enumerate().map(|(nth, event)| caused_by(first, nth, event)).collect()
}

/// Returns what identifies the append with this first event. It is not the id of a command, because
/// those have no control characters.
fn cause(first: &NewEvent) -> String {
    format!("event\n{}", first.id)
}

/// Returns an event of a reservation that the append with this first event leads to.
fn caused_by(
    first: &NewEvent,
    nth: usize,
    (reservation, event): OfReservation,
) -> Result<SentEvent, WorldError> {
    let event = event.encode(name_event_id(&cause(first), nth), reservation);
    let event = event.map_err(|error| StoreError::invalid("events", error.to_string()))?;
    let actor = first.metadata.get_key_value(ACTOR).map(|(key, actor)| (key.clone(), actor.clone()));
    let event = NewEvent {
        correlation_id: first.correlation_id.clone(),
        causation_id: first.causation_id.clone(),
        metadata: actor.into_iter().collect::<BTreeMap<_, _>>(),
        ..event
    };
    let digest = ContentDigest::of(&event);
    Ok((event, digest))
}

impl Handler {
    /// Returns the append with the events of reservations that an earlier attempt stored, or `None`
    /// if it stored none.
    ///
    /// # Errors
    /// Returns an error if the index cannot be read.
    pub(super) async fn as_stored_before(&self, append: &Append) -> Result<Option<Append>, WorldError> {
        let may_be_player = |event: &NewEvent| {
            event.aggregate_type.is_empty() || Kind::of(&event.aggregate_type) == Some(Kind::Player)
        };
        let first = append.events.first().filter(|_| append.events.iter().any(|(one, _)| may_be_player(one)));
        let Some((first, _)) = first else { return Ok(None) };
        let (source, cause) = (self.source.clone(), cause(first));
        let found = self.in_a_place(move || {
            let mut found: Vec<SentEvent> = Vec::new();
            for nth in 0..APPEND_EVENTS_MAX {
                let Some(event) = source.store.find(name_event_id(&cause, nth))? else { break };
                found.push((event.event, event.digest));
            }
            Ok(found)
        });
        let found = found.await?;
        Ok((!found.is_empty()).then(|| with(append, found, append.expected.clone())))
    }
}

/// Returns the append with more events, and with other expected sequence numbers.
pub(super) fn with(
    append: &Append,
    more: Vec<SentEvent>,
    expected: Vec<(AggregateId, SequenceNumber)>,
) -> Append {
    Append { events: append.events.iter().cloned().chain(more).collect(), expected }
}

/// Returns the answer to an append of `sent` events without the reservations that were stored with
/// them.
pub fn without_reservations(stored: StoredAppend, sent: usize) -> StoredAppend {
    let StoredAppend { mut aggregates, mut event_ids, mut bounds, end, already } = stored;
    let more = event_ids.len().saturating_sub(sent) as u64;
    if more > 0 {
        event_ids.truncate(sent);
        aggregates.retain(|aggregate| !player_name::is_reservation(&aggregate.id));
        bounds.last.0 = bounds.last.0.saturating_sub(more);
    }
    StoredAppend { aggregates, event_ids, bounds, end, already }
}
