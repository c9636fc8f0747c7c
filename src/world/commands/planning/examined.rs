//! The part of the world that the decisions of a call examine, including the effects of the
//! commands that were decided before.
//!
//! Records the last sequence number of each examined aggregate, so that nothing is stored if one of
//! them has changed since. The decisions themselves are left to `rules`.

use std::collections::BTreeMap;

use crate::{
    error::StoreError,
    event::{AggregateId, SequenceNumber},
    store::EventStore,
    world::{
        commands::names::{NameChange, NameReservations, OfReservation, PlayerNames, name_of},
        error::WorldError,
        history::replay::{self, AggregateSource},
        model::{
            aggregate::{Aggregate, Kind},
            rule::BrokenRule,
        },
        read_models::{contents::ContainerTable, dangling_references::DanglingReferences},
        rules::{
            capacity,
            command::{Command, ExpectedSequences},
            decide::decide,
            moving,
            refusal::Refusal,
            world_view::{Decided, Question, Undecided, WorldView},
        },
    },
};

/// The maximum number of objects that the commands of one call may depend on, and their maximum
/// total size.
const OBJECTS_MAX: usize = 1000;
const OBJECTS_SIZE_MAX: usize = 8_000_000;

/// What a call has examined so far. May block on disk I/O.
pub(in crate::world::commands) struct ExaminedWorld<'s> {
    source: &'s AggregateSource,
    contents: &'s ContainerTable,
    known: WorldView,
    /// The total size of the known objects.
    known_size: usize,
    /// The last sequence numbers of the examined aggregates before this call.
    heads: BTreeMap<AggregateId, SequenceNumber>,
    /// Whether one of them changed while it was examined.
    saw_a_change: bool,
    /// Objects whose events are all excluded by repairs. They can only be created again as the same
    /// kind.
    emptied: BTreeMap<AggregateId, Kind>,
    names: NameReservations<'s>,
}

impl<'s> ExaminedWorld<'s> {
    pub(in crate::world::commands) fn new(
        source: &'s AggregateSource,
        contents: &'s ContainerTable,
        names: &'s PlayerNames,
    ) -> Self {
        Self {
            source,
            contents,
            known: WorldView::default(),
            known_size: 0,
            heads: BTreeMap::new(),
            saw_a_change: false,
            emptied: BTreeMap::new(),
            names: NameReservations::new(&source.store, names),
        }
    }

    /// Returns the store that everything is loaded from.
    pub(super) fn store(&self) -> &'s EventStore {
        &self.source.store
    }

    /// Checks the sequence numbers that a command expects, or the call as a whole.
    ///
    /// # Errors
    /// Returns an error if an aggregate has a different one.
    pub(super) fn expect(
        &mut self,
        command: Option<usize>,
        expected: &ExpectedSequences,
    ) -> Result<(), WorldError> {
        for (id, expected) in expected {
            let actual = match self.heads.get(id) {
                Some(head) => *head,
                None => {
                    let head = replay::last_sequence(&self.source.store, id)?;
                    self.look_at(id, head);
                    head
                }
            };
            if actual != *expected {
                let (aggregate, expected) = (id.clone(), *expected);
                return Err(WorldError::WrongExpectedSequence { command, aggregate, expected, actual });
            }
        }
        Ok(())
    }

    /// Decides the command at `index`, and loads whatever the decision needs.
    ///
    /// # Errors
    /// Returns an error if a rule forbids the command, or if something that it depends on cannot be
    /// read.
    pub(super) fn decide(&mut self, index: usize, command: &Command) -> Result<Vec<Decided>, WorldError> {
        let refused = |refusal| WorldError::Refused { command: Some(index), refusal };
        let decided = loop {
            match decide(&self.known, command) {
                Ok(decided) => break decided,
                Err(Undecided::Unknown(id)) => self.learn(index, &id)?,
                Err(Undecided::Unanswered(question)) => self.answer(question)?,
                Err(Undecided::Refused(refusal)) => return Err(refused(refusal)),
            }
        };
        let is_of_another_kind =
            |one: &&Decided| self.emptied.get(&one.id).is_some_and(|was| *was != one.kind);
        match decided.iter().find(is_of_another_kind) {
            Some(other) => Err(refused(Refusal::Exists(other.id.clone()))),
            None => Ok(decided),
        }
    }

    /// Applies an event, so that the following decisions take it into account.
    ///
    /// # Errors
    /// Returns an error if the event is invalid. The aggregate is then no longer known.
    pub(super) fn apply(&mut self, decided: &Decided) -> Result<(), BrokenRule> {
        self.known.apply(&decided.id, decided.kind, &decided.event)
    }

    /// Returns the players that the events belong to, each with its name at present.
    pub(super) fn names_of_players(&self, decided: &[Decided]) -> BTreeMap<AggregateId, Option<String>> {
        let players = decided.iter().filter(|one| one.kind == Kind::Player).map(|one| one.id.clone());
        players.map(|id| (id.clone(), self.name(&id))).collect()
    }

    fn name(&self, player: &AggregateId) -> Option<String> {
        self.known.find(player).ok().flatten().and_then(name_of).map(str::to_owned)
    }

    /// Returns the events of reservations that follow from the events of the command at `index`,
    /// which have been applied. `before` has the names of the players before that.
    ///
    /// # Errors
    /// Returns an error if another player has a name, or if a reservation cannot be read.
    pub(super) fn change_names(
        &mut self,
        index: usize,
        before: BTreeMap<AggregateId, Option<String>>,
    ) -> Result<Vec<OfReservation>, WorldError> {
        let change = |(player, before)| NameChange { after: self.name(&player), player, before };
        let changes: Vec<NameChange> = before.into_iter().map(change).collect();
        let changed = self.names.change(&changes);
        // Also if it is refused, so that the refusal holds only while nothing changes.
        let heads: Vec<_> = self.names.heads().map(|(id, last)| (id.clone(), last)).collect();
        heads.into_iter().for_each(|(id, last)| self.look_at(&id, last));
        changed.map_err(|error| match error {
            WorldError::Refused { refusal, .. } => WorldError::Refused { command: Some(index), refusal },
            other => other,
        })
    }

    /// Returns the containers of an object, from the inside to the outside.
    pub(super) fn containers<'k>(&'k self, id: &'k AggregateId) -> impl Iterator<Item = &'k AggregateId> {
        moving::containers(&self.known, id)
    }

    /// Returns what a deleted room leaves behind. Anything that cannot be determined is omitted,
    /// and does not make the command fail.
    pub(super) fn dangling_references(&self, room: &AggregateId) -> DanglingReferences {
        let mut left = self.contents.dangling_references(room, &self.known).unwrap_or_default();
        for other in self.known.ids().filter(|id| *id != room) {
            let Ok(Some(other)) = self.known.find(other) else { continue };
            let object = other.object();
            if object.deleted {
                continue;
            }
            match other {
                Aggregate::Room(other) => {
                    let exits = other.exits.iter().filter(|(_, target)| *target == room);
                    let exits = exits.map(|(direction, _)| (object.id.to_string(), direction.clone()));
                    left.exits.extend(exits);
                }
                Aggregate::Player(_) if object.container_id.as_ref() == Some(room) => {
                    left.players.push(object.id.to_string());
                }
                Aggregate::Player(_) | Aggregate::GameObject(_) => {}
            }
        }
        left.in_order();
        left
    }

    /// Returns whether an aggregate changed while it was examined. The decisions then match no
    /// single moment.
    pub(super) fn saw_a_change(&self) -> bool {
        self.saw_a_change
    }

    /// Returns whether no examined aggregate has changed since. A single aggregate is not checked
    /// again, because it was read as of one moment.
    ///
    /// # Errors
    /// Returns an error if the index cannot be read.
    pub(super) fn is_unchanged(&self) -> Result<bool, WorldError> {
        if self.heads.len() > 1 {
            for (id, head) in &self.heads {
                if replay::last_sequence(&self.source.store, id)? != *head {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Returns the last sequence numbers of the examined aggregates before this call.
    pub(super) fn heads(&self) -> &BTreeMap<AggregateId, SequenceNumber> {
        &self.heads
    }

    pub(super) fn into_heads(self) -> BTreeMap<AggregateId, SequenceNumber> {
        self.heads
    }

    /// Records an examined aggregate. Nothing is stored unless it still has this sequence number
    /// then.
    fn look_at(&mut self, id: &AggregateId, head: SequenceNumber) {
        let before = self.heads.insert(id.clone(), head);
        self.saw_a_change |= before.is_some_and(|before| before != head);
    }

    fn learn(&mut self, index: usize, id: &AggregateId) -> Result<(), WorldError> {
        let loaded = replay::load_now(self.source, id).map_err(|error| match error {
            WorldError::Refused { refusal, .. } => WorldError::Refused { command: Some(index), refusal },
            other => other,
        })?;
        if let (None, Some(kind)) = (&loaded.state, loaded.kind) {
            self.emptied.insert(id.clone(), kind);
        }
        self.known.learn(id.clone(), loaded.state.map(|state| state.aggregate));
        // An object that exceeds the size limit counts only up to it, so that it can still be made
        // smaller.
        let size = self.known.size_bound(id).min(capacity::SIZE_MAX);
        self.known_size = self.known_size.saturating_add(size);
        self.look_at(id, loaded.last);
        refuse_more(self.known.ids().count(), "objects", OBJECTS_MAX)?;
        refuse_more(self.known_size, "bytes of objects", OBJECTS_SIZE_MAX)
    }

    fn answer(&mut self, question: Question) -> Result<(), WorldError> {
        match question {
            Question::Contents(id) => {
                let contents = self.contents.of(&id, &self.known)?;
                self.known.learn_contents(id, contents);
            }
            Question::Height(id) => {
                // Failing to read derived data must not prevent a move. Then only the containers
                // above are checked.
                let height = self.contents.height(&id, &self.known).unwrap_or_default();
                self.known.learn_height(id, height);
            }
        }
        Ok(())
    }
}

fn refuse_more(count: usize, what: &str, max: usize) -> Result<(), WorldError> {
    if count <= max {
        return Ok(());
    }
    let problem = format!(
        "depend on {count} {what}; at most {max} are allowed; send fewer \
     commands in one call"
    );
    Err(StoreError::invalid("commands", problem).into())
}
