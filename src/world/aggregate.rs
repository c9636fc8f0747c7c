//! The three aggregates of the world as one: which kind a history makes, and how each event changes it.
//!
//! Pure: states and events in, states out.

use serde::{Deserialize, Serialize};

use super::{event::WorldEvent, game_object::GameObject, player::Player, room::Room, rule::BrokenRule};
use crate::event::AggregateId;

/// Which aggregate it is: the aggregate type in the event store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    GameObject,
    Player,
    Room,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::GameObject, Self::Player, Self::Room];

    /// The aggregate type.
    pub fn name(self) -> &'static str {
        match self {
            Self::GameObject => "GameObject",
            Self::Player => "Player",
            Self::Room => "Room",
        }
    }

    /// `None`: an aggregate that is none of the world's.
    pub fn of(aggregate_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == aggregate_type)
    }
}

/// The state of an aggregate after some of its events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Aggregate {
    GameObject(GameObject),
    Player(Player),
    Room(Room),
}

impl Aggregate {
    /// The state after one more event; `state` is that before it, `None` before the first.
    ///
    /// # Errors
    /// The event can't have happened.
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

    /// Takes an event in that is not the first.
    ///
    /// # Errors
    /// The event can't have happened. Nothing has changed then.
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

    pub fn object(&self) -> &GameObject {
        match self {
            Self::GameObject(object) => object,
            Self::Player(player) => &player.object,
            Self::Room(room) => &room.object,
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Self::GameObject(_) => Kind::GameObject,
            Self::Player(_) => Kind::Player,
            Self::Room(_) => Kind::Room,
        }
    }
}
