//! The part of the world that a decision examines.
//!
//! It grows as decisions need more. Loading the aggregates and answering the questions is left to
//! the caller.

use std::collections::BTreeMap;

use super::refusal::Refusal;
use crate::{
    event::AggregateId,
    world::model::{
        aggregate::{Aggregate, Kind},
        event::WorldEvent,
        player::Player,
        room::Room,
        rule::BrokenRule,
        size,
    },
};

/// Aggregates in their current state, and their contents, which they do not record themselves.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WorldView {
    aggregates: BTreeMap<AggregateId, KnownAggregate>,
    /// The answers to questions, until the next event is applied.
    contents: BTreeMap<AggregateId, Vec<AggregateId>>,
    heights: BTreeMap<AggregateId, usize>,
}

/// What is known about one aggregate.
#[derive(Debug, Clone, Default, PartialEq)]
struct KnownAggregate {
    /// `None` if it does not exist.
    aggregate: Option<Aggregate>,
    /// Its size when it was loaded, plus the maximum that its events since then can have added.
    size_bound: usize,
}

/// An event that a command leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// The aggregate that the event belongs to.
    pub id: AggregateId,
    /// The kind of the aggregate, which the event may create.
    pub kind: Kind,
    /// What is to be stored.
    pub event: WorldEvent,
}

/// Why there is no decision.
#[derive(Debug, Clone, PartialEq)]
pub enum Undecided {
    /// The decision depends on an aggregate that is not known yet.
    Unknown(AggregateId),
    /// The decision depends on the contents of an object.
    Unanswered(Question),
    /// A rule forbids the command.
    Refused(Refusal),
}

/// A question about the contents of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// The direct contents, or only some of them if there are more than may be moved.
    Contents(AggregateId),
    /// The number of levels below the object. 0 if it is empty.
    Height(AggregateId),
}

/// An object and its container.
pub type Containment<'k> = (&'k AggregateId, Option<&'k AggregateId>);

impl From<Refusal> for Undecided {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl WorldView {
    /// Records the current state of an aggregate, or `None` if it does not exist.
    pub fn learn(&mut self, id: AggregateId, aggregate: Option<Aggregate>) {
        let size_bound = aggregate.as_ref().map_or(0, size::of);
        self.aggregates.insert(id, KnownAggregate { aggregate, size_bound });
    }

    /// Records the direct contents of an object, in order of id.
    pub fn learn_contents(&mut self, id: AggregateId, contents: Vec<AggregateId>) {
        self.contents.insert(id, contents);
    }

    /// Records the number of levels below an object.
    pub fn learn_height(&mut self, id: AggregateId, height: usize) {
        self.heights.insert(id, height);
    }

    /// Returns all known objects with their containers. A deleted object has no container.
    pub fn containments(&self) -> impl Iterator<Item = Containment<'_>> {
        self.aggregates.iter().map(|(id, one)| {
            let object = one.aggregate.as_ref().map(Aggregate::object).filter(|object| !object.deleted);
            (id, object.and_then(|object| object.container_id.as_ref()))
        })
    }

    /// Answers a question as if only the known objects existed.
    pub fn answer_alone(&mut self, question: Question) {
        let inside = |of: &AggregateId| -> Vec<AggregateId> {
            let here = self.containments().filter(|(_, container)| *container == Some(of));
            here.map(|(id, _)| id.clone()).collect()
        };
        match question {
            Question::Contents(id) => {
                let contents = inside(&id);
                self.contents.insert(id, contents);
            }
            Question::Height(id) => {
                let (mut height, mut level) = (0, inside(&id));
                while !level.is_empty() && height <= self.aggregates.len() {
                    height += 1;
                    level = level.iter().flat_map(inside).collect();
                }
                self.heights.insert(id, height);
            }
        }
    }

    /// Returns the direct contents of an object.
    ///
    /// # Errors
    /// Returns an error if they are not known.
    pub fn contents(&self, id: &AggregateId) -> Result<&[AggregateId], Undecided> {
        let contents = self.contents.get(id).map(Vec::as_slice);
        contents.ok_or_else(|| Undecided::Unanswered(Question::Contents(id.clone())))
    }

    /// Returns the number of levels below an object.
    ///
    /// # Errors
    /// Returns an error if it is not known.
    pub fn height(&self, id: &AggregateId) -> Result<usize, Undecided> {
        let height = self.heights.get(id).copied();
        height.ok_or_else(|| Undecided::Unanswered(Question::Height(id.clone())))
    }

    /// Returns an upper bound for the size of an object.
    pub fn size_bound(&self, id: &AggregateId) -> usize {
        self.aggregates.get(id).map_or(0, |one| one.size_bound)
    }

    /// Returns the ids of all known aggregates in order, whether they exist or not.
    pub fn ids(&self) -> impl Iterator<Item = &AggregateId> {
        self.aggregates.keys()
    }

    /// Returns an aggregate, which may be deleted, or `None` if it does not exist.
    ///
    /// # Errors
    /// Returns an error if it is not known whether the aggregate exists.
    pub fn find(&self, id: &AggregateId) -> Result<Option<&Aggregate>, Undecided> {
        let one = self.aggregates.get(id).map(|one| one.aggregate.as_ref());
        one.ok_or_else(|| Undecided::Unknown(id.clone()))
    }

    /// Returns an aggregate that exists and is not deleted.
    ///
    /// # Errors
    /// Returns an error if the aggregate does not exist, is deleted, or is not known.
    pub fn living(&self, id: &AggregateId) -> Result<&Aggregate, Undecided> {
        match self.find(id)? {
            None => Err(Refusal::NoSuchObject(id.clone()).into()),
            Some(aggregate) if aggregate.object().deleted => Err(Refusal::Deleted(id.clone()).into()),
            Some(aggregate) => Ok(aggregate),
        }
    }

    /// Returns a player.
    ///
    /// # Errors
    /// Returns an error if the aggregate is not a player. See also [`WorldView::living`].
    pub fn player(&self, id: &AggregateId) -> Result<&Player, Undecided> {
        match self.living(id)? {
            Aggregate::Player(player) => Ok(player),
            Aggregate::GameObject(_) | Aggregate::Room(_) => Err(Refusal::NotAPlayer(id.clone()).into()),
        }
    }

    /// Returns a room.
    ///
    /// # Errors
    /// Returns an error if the aggregate is not a room. See also [`WorldView::living`].
    pub fn room(&self, id: &AggregateId) -> Result<&Room, Undecided> {
        match self.living(id)? {
            Aggregate::Room(room) => Ok(room),
            Aggregate::GameObject(_) | Aggregate::Player(_) => Err(Refusal::NotARoom(id.clone()).into()),
        }
    }

    /// Applies an event. `kind` only matters for the first event of an aggregate.
    ///
    /// # Errors
    /// Returns an error if the event is invalid. The aggregate is then no longer known.
    pub fn apply(&mut self, id: &AggregateId, kind: Kind, event: &WorldEvent) -> Result<(), BrokenRule> {
        self.contents.clear();
        self.heights.clear();
        let KnownAggregate { aggregate, size_bound } = self.aggregates.remove(id).unwrap_or_default();
        let aggregate = Some(Aggregate::apply(aggregate, kind, id, event)?);
        let size_bound = size_bound.saturating_add(size::growth(event));
        self.aggregates.insert(id.clone(), KnownAggregate { aggregate, size_bound });
        Ok(())
    }
}
