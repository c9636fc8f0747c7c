//! Reserves the names of players in the append that creates, renames or deletes them.
//!
//! A reservation is read when a name changes, and its sequence number becomes a condition of the
//! append. So of several calls that take one name at the same time, one stores its events.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    error::{StoreError, Unavailable},
    event::{AggregateId, NAME_BYTES_MAX, SequenceNumber},
    store::{EventStore, LoadRequest},
    world::{
        error::WorldError,
        model::{
            aggregate::Aggregate,
            player_name::{NameEvent, reservation},
        },
        rules::refusal::Refusal,
        settings::UniqueNames,
    },
};

const READ_BYTES: usize = 64 * 1024;

/// Which names of players are unique, and whether all players have theirs reserved.
#[derive(Debug)]
pub(super) struct PlayerNames {
    pub unique: UniqueNames,
    are_reserved: AtomicBool,
}

impl PlayerNames {
    /// Until [`PlayerNames::set_reserved`] is called, no name can change.
    pub(super) fn new(unique: UniqueNames) -> Self {
        Self { unique, are_reserved: AtomicBool::new(unique == UniqueNames::Off) }
    }

    pub(super) fn are_reserved(&self) -> bool {
        self.are_reserved.load(Ordering::Acquire)
    }

    pub(super) fn set_reserved(&self) {
        self.are_reserved.store(true, Ordering::Release);
    }
}

/// The last event of a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reservation {
    /// 0 if the name was never reserved.
    pub last: SequenceNumber,
    /// The player that has the name.
    pub holder: Option<AggregateId>,
    /// The name as the player of the last event has or had it.
    pub name: String,
}

impl Reservation {
    /// Reads a reservation. May block on disk I/O.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub(super) fn load(store: &EventStore, id: &AggregateId) -> Result<Self, WorldError> {
        let none = Self { last: SequenceNumber(0), holder: None, name: String::new() };
        let Some(head) = store.head(id)? else { return Ok(none) };
        let mut reader = store.load(LoadRequest { from: head.last, ..LoadRequest::all_of(id.clone()) })?;
        let mut found = Self { last: reader.last_sequence(), ..none };
        loop {
            let events = reader.next(READ_BYTES)?;
            let Some(newest) = events.last() else { return Ok(found) };
            let newest = newest.decode().map_err(|error| StoreError::Damaged(error.into()))?;
            let event = NameEvent::decode(&newest.event);
            (found.holder, found.name) = event.map(NameEvent::into_holder).unwrap_or_default();
        }
    }
}

/// A player whose name an append changes. `None` is a player that does not exist, or no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NameChange {
    pub player: AggregateId,
    pub before: Option<String>,
    pub after: Option<String>,
}

/// An event of a reservation.
pub(super) type OfReservation = (AggregateId, NameEvent);

/// The reservations that a call examines, including its own changes to them.
pub(super) struct NameReservations<'s> {
    store: &'s EventStore,
    names: &'s PlayerNames,
    known: BTreeMap<AggregateId, Reservation>,
}

impl<'s> NameReservations<'s> {
    pub(super) fn new(store: &'s EventStore, names: &'s PlayerNames) -> Self {
        Self { store, names, known: BTreeMap::new() }
    }

    /// Returns the events that release the former names, and then those that reserve the new ones.
    ///
    /// # Errors
    /// Returns an error if another player has a name, or if a reservation cannot be read.
    pub(super) fn change(&mut self, changes: &[NameChange]) -> Result<Vec<OfReservation>, WorldError> {
        let unique = self.names.unique;
        let at = |name: &Option<String>| name.as_deref().and_then(|name| reservation(unique, name));
        let changed: Vec<_> = changes
            .iter()
            .map(|change| (change, at(&change.before), at(&change.after)))
            .filter(|(_, before, after)| before != after)
            .collect();
        if !changed.is_empty() && !self.names.are_reserved() {
            // If no writes are accepted at all, the client has to know that first.
            self.store.writes_taken()?;
            // Players of before may still have no reservation.
            return Err(StoreError::Unavailable(Unavailable::Starting).into());
        }
        let mut events = Vec::new();
        for (change, before, _) in &changed {
            if let (Some(id), Some(name)) = (before, &change.before) {
                events.extend(self.release(id, &change.player, name)?);
            }
        }
        for (change, _, after) in &changed {
            if let (Some(id), Some(name)) = (after, &change.after) {
                events.extend(self.reserve(id, &change.player, name)?);
            }
        }
        Ok(events)
    }

    /// Returns the examined reservations with their last sequence numbers before this call.
    pub(super) fn heads(&self) -> impl Iterator<Item = (&AggregateId, SequenceNumber)> {
        self.known.iter().map(|(id, known)| (id, known.last))
    }

    fn release(
        &mut self,
        id: &AggregateId,
        player: &AggregateId,
        name: &str,
    ) -> Result<Option<OfReservation>, WorldError> {
        let its = self.learn(id)?;
        if its.holder.as_ref() != Some(player) {
            return Ok(None);
        }
        its.holder = None;
        let (name, player_id) = (name.to_owned(), player.clone());
        Ok(Some((id.clone(), NameEvent::PlayerNameReleased { name, player_id })))
    }

    fn reserve(
        &mut self,
        id: &AggregateId,
        player: &AggregateId,
        name: &str,
    ) -> Result<Option<OfReservation>, WorldError> {
        let its = self.learn(id)?;
        match &its.holder {
            Some(holder) if holder == player => return Ok(None),
            Some(_) => {
                return Err(Refusal::NameTaken { id: player.clone(), name: beginning(name) }.into());
            }
            None => its.holder = Some(player.clone()),
        }
        let (name, player_id) = (name.to_owned(), player.clone());
        Ok(Some((id.clone(), NameEvent::PlayerNameReserved { name, player_id })))
    }

    fn learn(&mut self, id: &AggregateId) -> Result<&mut Reservation, WorldError> {
        use std::collections::btree_map::Entry;
        match self.known.entry(id.clone()) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => Ok(new.insert(Reservation::load(self.store, id)?)),
        }
    }
}

/// Returns as much of a name as a command may set. Other names may be longer than an error should
/// be.
fn beginning(name: &str) -> String {
    let end = (0..=name.len().min(NAME_BYTES_MAX)).rev().find(|end| name.is_char_boundary(*end));
    let end = end.unwrap_or_default();
    name.get(..end).unwrap_or_default().to_owned()
}

/// Returns the name of a player that exists.
pub(super) fn name_of(aggregate: &Aggregate) -> Option<&str> {
    match aggregate {
        Aggregate::Player(player) if !player.object.deleted => Some(player.object.name()),
        Aggregate::Player(_) | Aggregate::GameObject(_) | Aggregate::Room(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_only_the_beginning_of_a_long_name() {
        assert_eq!(beginning("Alice"), "Alice");
        assert_eq!(beginning(""), "");
        assert_eq!(beginning(&"x".repeat(900_000)), "x".repeat(NAME_BYTES_MAX));
        // Not in the middle of a character of two bytes.
        assert_eq!(beginning(&"ä".repeat(200)), "ä".repeat(127));
    }
}
