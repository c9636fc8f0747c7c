//! The part of the world that a decision looks at.

use std::collections::BTreeMap;

use super::{
    aggregate::{Aggregate, Kind},
    event::WorldEvent,
    player::Player,
    refusal::Refusal,
    room::Room,
    rule::BrokenRule,
    weight,
};
use crate::event::AggregateId;

/// Aggregates as they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known(BTreeMap<AggregateId, One>);

/// What is known of one.
#[derive(Debug, Clone, Default, PartialEq)]
struct One {
    /// `None`: it does not exist.
    aggregate: Option<Aggregate>,
    /// What it weighed when it was learned, and what its events since can have added.
    weight_at_most: usize,
}

/// An event of one aggregate. The kind is that of the aggregate, which the event may create.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    pub id: AggregateId,
    pub kind: Kind,
    pub event: WorldEvent,
}

/// Why there is no decision.
#[derive(Debug, Clone, PartialEq)]
pub enum Undecided {
    /// It depends on an aggregate that is not known yet.
    Unknown(AggregateId),
    Refused(Refusal),
}

impl From<Refusal> for Undecided {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Known {
    pub fn learn(&mut self, id: AggregateId, aggregate: Option<Aggregate>) {
        let weight_at_most = aggregate.as_ref().map_or(0, weight::of);
        self.0.insert(id, One { aggregate, weight_at_most });
    }

    /// It weighs no more than that.
    pub fn weight_at_most(&self, id: &AggregateId) -> usize {
        self.0.get(id).map_or(0, |one| one.weight_at_most)
    }

    pub fn ids(&self) -> impl Iterator<Item = &AggregateId> {
        self.0.keys()
    }

    /// An aggregate, if it exists; it may be deleted.
    ///
    /// # Errors
    /// It is not known whether it does.
    pub fn find(&self, id: &AggregateId) -> Result<Option<&Aggregate>, Undecided> {
        self.0.get(id).map(|one| one.aggregate.as_ref()).ok_or_else(|| Undecided::Unknown(id.clone()))
    }

    /// An aggregate that exists and is not deleted.
    ///
    /// # Errors
    /// It does not, is, or is not known.
    pub fn living(&self, id: &AggregateId) -> Result<&Aggregate, Undecided> {
        match self.find(id)? {
            None => Err(Refusal::NoSuchObject(id.clone()).into()),
            Some(aggregate) if aggregate.object().deleted => Err(Refusal::Deleted(id.clone()).into()),
            Some(aggregate) => Ok(aggregate),
        }
    }

    /// # Errors
    /// It is no player, or as [`Known::living`].
    pub fn player(&self, id: &AggregateId) -> Result<&Player, Undecided> {
        match self.living(id)? {
            Aggregate::Player(player) => Ok(player),
            Aggregate::GameObject(_) | Aggregate::Room(_) => Err(Refusal::NotAPlayer(id.clone()).into()),
        }
    }

    /// # Errors
    /// It is no room, or as [`Known::living`].
    pub fn room(&self, id: &AggregateId) -> Result<&Room, Undecided> {
        match self.living(id)? {
            Aggregate::Room(room) => Ok(room),
            Aggregate::GameObject(_) | Aggregate::Player(_) => Err(Refusal::NotARoom(id.clone()).into()),
        }
    }

    /// What comes of an event. `kind` counts for the first of an aggregate.
    ///
    /// # Errors
    /// It can't happen; the aggregate is lost then.
    pub fn apply(&mut self, id: &AggregateId, kind: Kind, event: &WorldEvent) -> Result<(), BrokenRule> {
        let One { aggregate, weight_at_most } = self.0.remove(id).unwrap_or_default();
        let aggregate = Some(Aggregate::apply(aggregate, kind, id, event)?);
        let weight_at_most = weight_at_most.saturating_add(weight::growth(event));
        self.0.insert(id.clone(), One { aggregate, weight_at_most });
        Ok(())
    }
}
