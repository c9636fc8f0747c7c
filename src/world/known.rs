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

/// Aggregates as they are, and what lies in them, which they do not say themselves.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    aggregates: BTreeMap<AggregateId, One>,
    /// What was answered, until something happens.
    contents: BTreeMap<AggregateId, Vec<AggregateId>>,
    heights: BTreeMap<AggregateId, usize>,
}

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
    /// It depends on what lies in one.
    Unanswered(Question),
    Refused(Refusal),
}

/// What has to be known of what lies in an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// What lies directly in it, or some of that where it is more than may be moved.
    Contents(AggregateId),
    /// How many steps down things lie in it; 0: nothing does.
    Height(AggregateId),
}

/// Where an object is: what it lies in.
pub type Place<'k> = (&'k AggregateId, Option<&'k AggregateId>);

impl From<Refusal> for Undecided {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Known {
    pub fn learn(&mut self, id: AggregateId, aggregate: Option<Aggregate>) {
        let weight_at_most = aggregate.as_ref().map_or(0, weight::of);
        self.aggregates.insert(id, One { aggregate, weight_at_most });
    }

    /// What was found to lie in an object, by id.
    pub fn learn_contents(&mut self, id: AggregateId, contents: Vec<AggregateId>) {
        self.contents.insert(id, contents);
    }

    /// How far down things were found to lie in it.
    pub fn learn_height(&mut self, id: AggregateId, height: usize) {
        self.heights.insert(id, height);
    }

    /// Where everything is that is known. What was deleted lies nowhere.
    pub fn places(&self) -> impl Iterator<Item = Place<'_>> {
        self.aggregates.iter().map(|(id, one)| {
            let object = one.aggregate.as_ref().map(Aggregate::object).filter(|object| !object.deleted);
            (id, object.and_then(|object| object.container_id.as_ref()))
        })
    }

    /// Answers as if there were nothing but what is known.
    pub fn answer_alone(&mut self, question: Question) {
        let inside = |of: &AggregateId| -> Vec<AggregateId> {
            let here = self.places().filter(|(_, container)| *container == Some(of));
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

    /// What lies directly in an object.
    ///
    /// # Errors
    /// It is not known.
    pub fn contents(&self, id: &AggregateId) -> Result<&[AggregateId], Undecided> {
        let contents = self.contents.get(id).map(Vec::as_slice);
        contents.ok_or_else(|| Undecided::Unanswered(Question::Contents(id.clone())))
    }

    /// How many steps down things lie in it.
    ///
    /// # Errors
    /// It is not known.
    pub fn height(&self, id: &AggregateId) -> Result<usize, Undecided> {
        let height = self.heights.get(id).copied();
        height.ok_or_else(|| Undecided::Unanswered(Question::Height(id.clone())))
    }

    /// It weighs no more than that.
    pub fn weight_at_most(&self, id: &AggregateId) -> usize {
        self.aggregates.get(id).map_or(0, |one| one.weight_at_most)
    }

    pub fn ids(&self) -> impl Iterator<Item = &AggregateId> {
        self.aggregates.keys()
    }

    /// An aggregate, if it exists; it may be deleted.
    ///
    /// # Errors
    /// It is not known whether it does.
    pub fn find(&self, id: &AggregateId) -> Result<Option<&Aggregate>, Undecided> {
        let one = self.aggregates.get(id).map(|one| one.aggregate.as_ref());
        one.ok_or_else(|| Undecided::Unknown(id.clone()))
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
        self.contents.clear();
        self.heights.clear();
        let One { aggregate, weight_at_most } = self.aggregates.remove(id).unwrap_or_default();
        let aggregate = Some(Aggregate::apply(aggregate, kind, id, event)?);
        let weight_at_most = weight_at_most.saturating_add(weight::growth(event));
        self.aggregates.insert(id.clone(), One { aggregate, weight_at_most });
        Ok(())
    }
}
