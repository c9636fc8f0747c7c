//! The three aggregates of the world as one type: the kind of each, and how events change it.
//!
//! Pure: states and events in, states out.

use serde::{Deserialize, Serialize};

use super::{event::WorldEvent, game_object::GameObject, player::Player, room::Room, rule::BrokenRule};
use crate::event::AggregateId;

/// The kind of an aggregate, which is its aggregate type in the event store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Any object that is neither a player nor a room.
    GameObject,
    /// A player.
    Player,
    /// A room.
    Room,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::GameObject, Self::Player, Self::Room];

    /// Returns the aggregate type.
    pub fn name(self) -> &'static str {
        match self {
            Self::GameObject => "GameObject",
            Self::Player => "Player",
            Self::Room => "Room",
        }
    }

    /// Returns the kind for an aggregate type, or `None` if it is not one of the world's.
    pub fn of(aggregate_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == aggregate_type)
    }

    /// Returns the kind of a new object of a class in the game. Classes of other modules, such as
    /// `Aethyr::Core::Objects::Room`, count by the last part of their name.
    pub fn of_class(class: &str) -> Self {
        match class.rsplit("::").next() {
            Some(Player::CLASS) => Self::Player,
            Some(Room::CLASS) => Self::Room,
            Some(_) | None => Self::GameObject,
        }
    }

    /// Returns the generic name of a new object that is created without one. Empty if there is
    /// none.
    pub fn generic(self) -> &'static str {
        match self {
            Self::GameObject => "",
            Self::Player => "player",
            Self::Room => "room",
        }
    }
}

/// The state of an aggregate after some of its events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Aggregate {
    /// An aggregate of [`Kind::GameObject`].
    GameObject(GameObject),
    /// An aggregate of [`Kind::Player`].
    Player(Player),
    /// An aggregate of [`Kind::Room`].
    Room(Room),
}

impl Aggregate {
    /// Returns the state after one more event. `state` is the state before it, or `None` before the
    /// first event.
    ///
    /// # Errors
    /// Returns an error if the event is invalid for the aggregate.
    pub fn apply(
        state: Option<Self>,
        kind: Kind,
        id: &AggregateId,
        event: &WorldEvent,
    ) -> Result<Self, BrokenRule> {
        let Some(mut state) = state else {
            let object = GameObject::create(id, event)?;
            return Ok(match kind {
                Kind::GameObject => Self::GameObject(object),
                Kind::Player => Self::Player(Player::new(object)),
                Kind::Room => Self::Room(Room::new(object)),
            });
        };
        state.take(event)?;
        Ok(state)
    }

    /// Applies an event other than the first.
    ///
    /// # Errors
    /// Returns an error if the event is invalid for the aggregate. The state is then unchanged.
    pub fn take(&mut self, event: &WorldEvent) -> Result<(), BrokenRule> {
        if self.object().deleted {
            return Err(BrokenRule::Deleted);
        }
        match self {
            Self::GameObject(object) => object.apply(event),
            Self::Player(player) => player.apply(event),
            Self::Room(room) => room.apply(event),
        }
    }

    /// Returns the state that aggregates of all kinds have.
    pub fn object(&self) -> &GameObject {
        match self {
            Self::GameObject(object) => object,
            Self::Player(player) => &player.object,
            Self::Room(room) => &room.object,
        }
    }

    /// Returns the kind of the aggregate.
    pub fn kind(&self) -> Kind {
        match self {
            Self::GameObject(_) => Kind::GameObject,
            Self::Player(_) => Kind::Player,
            Self::Room(_) => Kind::Room,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_of_a_kind_by_the_last_part_of_its_name() {
        for (class, kind) in [
            ("Room", Kind::Room),
            ("Player", Kind::Player),
            ("Aethyr::Core::Objects::Room", Kind::Room),
            ("::Player", Kind::Player),
            ("GameObject", Kind::GameObject),
            ("", Kind::GameObject),
            ("room", Kind::GameObject),
            ("BathRoom", Kind::GameObject),
            ("Game:Room", Kind::GameObject),
            ("Room::Door", Kind::GameObject),
            ("Room::", Kind::GameObject),
        ] {
            assert_eq!(Kind::of_class(class), kind, "{class}");
        }
    }
}
