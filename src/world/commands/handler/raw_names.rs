//! The names of players in raw appends: they are reserved in the same append, as for commands.
//!
//! The events of reservations come after those of the client, which sees neither them nor their
//! numbers. A retry is recognized with them, because the store compares whole appends. That holds
//! even if names, or the world, no longer have any rules when it comes.

use std::{collections::BTreeMap, iter};

use super::{Handler, raw_appends::LastSequences};
use crate::{
    error::StoreError,
    event::{APPEND_EVENTS_MAX, AggregateId, ContentDigest, EventId, NewEvent, Position, SequenceNumber},
    index::Presence,
    store::{Append, EventStore, StoredAppend},
    world::{
        commands::{
            names::{NameChange, NameReservations, OfReservation, PlayerNames},
            planning::byte_count,
        },
        error::WorldError,
        model::{aggregate::Kind, player_name},
        rules::command::{ACTOR, name_event_id},
        settings::EventLimits,
    },
};

/// An event for the store.
pub(super) type SentEvent = (NewEvent, ContentDigest);

/// Adds the events of reservations to `heads` and returns them. `append` is that of the client.
///
/// # Errors
/// Returns an error if another player has a name, or if the events would exceed the limits of an
/// append.
pub(super) fn reserve(
    (store, names): (&EventStore, &PlayerNames),
    append: &Append,
    changes: &[NameChange],
    heads: &mut LastSequences,
    limits: EventLimits,
) -> Result<Vec<SentEvent>, WorldError> {
    let mut reservations = NameReservations::new(store, names);
    let changed = reservations.change(changes)?;
    let Some((first, _)) = append.events.first() else { return Ok(Vec::new()) };
    let events = changed.into_iter().enumerate().map(|(nth, event)| caused_by(first, nth, event));
    let events = events.collect::<Result<Vec<_>, _>>()?;
    check_limits(append, &events, limits)?;
    heads.extend(reservations.heads().map(|(id, last)| (id.clone(), last)));
    Ok(events)
}

/// Checks that an append is within the limits with the events of reservations. The former name of a
/// player may be much longer than the event that changes it.
fn check_limits(append: &Append, more: &[SentEvent], limits: EventLimits) -> Result<(), StoreError> {
    if more.is_empty() {
        return Ok(());
    }
    let bytes = |events: &[SentEvent]| events.iter().map(|(event, _)| byte_count(event)).sum::<usize>();
    for (what, sent, added, max) in [
        ("events", append.events.len(), more.len(), limits.append_events_max),
        ("bytes of events", bytes(&append.events), bytes(more), limits.append_bytes_max),
    ] {
        if sent.saturating_add(added) > max {
            let problem = format!(
                "has {sent} {what}, and {added} more would reserve names of players; at most {max} are \
                 allowed"
            );
            return Err(StoreError::invalid("events", problem));
        }
    }
    Ok(())
}

/// Returns what identifies the append with this first event. It is not the id of a command, because
/// those have no control characters.
fn cause(first: EventId) -> String {
    format!("event\n{first}")
}

/// Returns an event of a reservation that the append with this first event leads to.
fn caused_by(
    first: &NewEvent,
    nth: usize,
    (reservation, event): OfReservation,
) -> Result<SentEvent, WorldError> {
    let event = event.encode(name_event_id(&cause(first.id), nth), reservation);
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

/// Returns the first event of the append if an earlier attempt may have reserved names.
fn first_of_player(append: &Append) -> Option<EventId> {
    let may_be_player = |event: &NewEvent| {
        event.aggregate_type.is_empty() || Kind::of(&event.aggregate_type) == Some(Kind::Player)
    };
    let (first, _) = append.events.first()?;
    append.events.iter().any(|(event, _)| may_be_player(event)).then_some(first.id)
}

/// Returns the events of reservations that an earlier attempt stored, after the event `first`.
fn reserved_after(store: &EventStore, first: EventId) -> Result<Vec<SentEvent>, StoreError> {
    let (cause, mut found) = (cause(first), Vec::new());
    for nth in 0..APPEND_EVENTS_MAX {
        let Some(event) = store.find(name_event_id(&cause, nth))? else { break };
        found.push((event.event, event.digest));
    }
    Ok(found)
}

/// Returns whether an earlier attempt at the append may have reserved names. Reads only memory.
pub fn may_have_reserved(store: &EventStore, append: &Append) -> bool {
    // An empty store may be unable to answer reads, and has no earlier attempt.
    let first = first_of_player(append).filter(|_| store.tip().position > Position(0));
    first.is_some_and(|first| {
        let id = name_event_id(&cause(first), 0);
        !matches!(store.history().index.presence(iter::once(id)), Presence::Absent(_))
    })
}

/// Returns the append with the events of reservations that an earlier attempt stored, if any. May
/// block on disk I/O.
///
/// # Errors
/// Returns an error if the index or such an event cannot be read.
pub fn as_stored_before(store: &EventStore, append: Append) -> Result<Append, StoreError> {
    let Some(first) = first_of_player(&append) else { return Ok(append) };
    let mut append = append;
    append.events.extend(reserved_after(store, first)?);
    Ok(append)
}

impl Handler {
    /// Returns the append with the events of reservations that an earlier attempt stored, or `None`
    /// if it stored none.
    ///
    /// # Errors
    /// Returns an error if the index cannot be read.
    pub(super) async fn as_stored_before(&self, append: &Append) -> Result<Option<Append>, WorldError> {
        let Some(first) = first_of_player(append) else { return Ok(None) };
        let source = self.source.clone();
        let found = self.in_a_place(move || Ok(reserved_after(&source.store, first)?)).await?;
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
