//! The new events of a call: encodes them, marks each with its command, and checks that they fit
//! into one append.

use std::collections::BTreeMap;

use crate::{
    error::StoreError,
    event::{AggregateId, Content, ContentDigest, NewEvent},
    world::{
        commands::{call::CallDigest, names::OfReservation},
        error::WorldError,
        rules::{
            command::{ACTOR, COMMAND, COMMAND_DIGEST, Command},
            world_view::Decided,
        },
        settings::EventLimits,
    },
};

/// The new events of a call, in the order in which they are appended.
pub(super) struct NewEvents {
    call: CallDigest,
    limits: EventLimits,
    events: Vec<(NewEvent, ContentDigest)>,
}

impl NewEvents {
    pub(super) fn new(call: CallDigest, limits: EventLimits) -> Self {
        Self { call, limits, events: Vec::new() }
    }

    pub(super) fn call(&self) -> &CallDigest {
        &self.call
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Returns the number of events of an aggregate.
    pub(super) fn count_of(&self, id: &AggregateId) -> u64 {
        self.events.iter().filter(|(event, _)| event.aggregate_id == *id).count() as u64
    }

    /// Encodes the event number `nth` of the command at `index`.
    ///
    /// # Errors
    /// Returns an error if the event is too large.
    pub(super) fn encode(
        &self,
        (index, command): (usize, &Command),
        nth: usize,
        decided: &Decided,
    ) -> Result<NewEvent, WorldError> {
        let invalid = |problem| StoreError::invalid(format!("commands[{index}]"), problem);
        let (event_type, data) = decided.event.encode().map_err(|error| invalid(error.to_string()))?;
        if data.len() > self.limits.event_bytes_max {
            let max = self.limits.event_bytes_max;
            let problem = format!("leads to an event of {} bytes; at most {max} are allowed", data.len());
            return Err(invalid(problem).into());
        }
        let mut metadata = BTreeMap::from([
            (COMMAND.to_owned(), command.operation.name().to_owned()),
            (COMMAND_DIGEST.to_owned(), command.digest()),
        ]);
        self.call.mark(&mut metadata);
        if !command.actor.is_empty() {
            metadata.insert(ACTOR.to_owned(), command.actor.clone());
        }
        Ok(NewEvent {
            id: command.event_id(nth),
            aggregate_id: decided.id.clone(),
            aggregate_type: decided.kind.name().into(),
            event_type: event_type.into(),
            content: Content::Json(data),
            correlation_id: command.correlation_id.clone(),
            causation_id: command.id.clone(),
            metadata,
            occurred_at: None,
        })
    }

    /// Encodes an event of a reservation, the number `nth` of the command at `index`. Its metadata
    /// has no digests, because they would tell about the password of a player.
    ///
    /// # Errors
    /// Returns an error if JSON cannot represent the event.
    pub(super) fn encode_name(
        &self,
        (index, command): (usize, &Command),
        nth: usize,
        (reservation, event): OfReservation,
    ) -> Result<NewEvent, WorldError> {
        let event = event.encode(command.name_event_id(nth), reservation);
        let event =
            event.map_err(|error| StoreError::invalid(format!("commands[{index}]"), error.to_string()))?;
        let mut metadata = BTreeMap::from([(COMMAND.to_owned(), command.operation.name().to_owned())]);
        if !command.actor.is_empty() {
            metadata.insert(ACTOR.to_owned(), command.actor.clone());
        }
        let (correlation_id, causation_id) = (command.correlation_id.clone(), command.id.clone());
        Ok(NewEvent { correlation_id, causation_id, metadata, ..event })
    }

    pub(super) fn push(&mut self, event: NewEvent) {
        let digest = ContentDigest::of(&event);
        self.events.push((event, digest));
    }

    /// Returns the events for the append.
    ///
    /// # Errors
    /// Returns an error if they exceed the limits of an append.
    pub(super) fn into_append(self) -> Result<Vec<(NewEvent, ContentDigest)>, WorldError> {
        let bytes: usize = self.events.iter().map(|(event, _)| byte_count(event)).sum();
        for (what, count, max) in [
            ("events", self.events.len(), self.limits.append_events_max),
            ("bytes of events", bytes, self.limits.append_bytes_max),
        ] {
            if count > max {
                let problem = format!(
                    "lead to {count} {what}; at most {max} are allowed; send fewer \
                 commands in one call"
                );
                return Err(StoreError::invalid("commands", problem).into());
            }
        }
        Ok(self.events)
    }
}

/// Returns an upper bound for the size of an event in an append.
pub(in crate::world::commands) fn byte_count(event: &NewEvent) -> usize {
    const FIELDS_BYTES: usize = 128;
    let metadata = event.metadata.iter().map(|(key, value)| key.len() + value.len() + 8);
    let texts = [&event.correlation_id, &event.causation_id].map(String::len);
    let names = event.aggregate_id.as_str().len() + event.aggregate_type.len() + event.event_type.len();
    event.content.byte_count() + metadata.sum::<usize>() + texts.iter().sum::<usize>() + names + FIELDS_BYTES
}
