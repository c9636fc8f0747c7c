//! Plans what a call stores.
//!
//! Decides the commands of the call in order, and loads the parts of the world that they depend on
//! when they turn out to be needed. Appending the events and retrying are left to the handler.

use std::collections::BTreeSet;

use super::{
    call::CallDigest,
    executed::CommandEvent,
    planned::{EventDraft, PlannedEvents, PlannedResult},
};
use crate::{
    event::{AggregateId, EventId, NewEvent, RecordedEvent, SequenceNumber},
    store::{Append, EventStore},
    world::{
        error::{AggregateDamage, Problem, WorldError},
        model::{aggregate::Kind, event::WorldEvent},
        read_models::dangling_references::DanglingReferences,
        rules::{
            command::{Command, Commands, ContentsPolicy as Deleted, Operation},
            refusal::Refusal,
            world_view::Decided,
        },
        settings::EventLimits,
    },
};

mod earlier;
mod examined;
mod new_events;

pub use earlier::AppendEnd;
use earlier::{EarlierAttempts, EarlierExecution};
pub(super) use examined::ExaminedWorld;
use new_events::NewEvents;
pub(super) use new_events::byte_count;

/// What a call appends and returns.
pub struct Plan {
    /// The new events, if any, and the sequence numbers that they depend on.
    pub append: Append,
    /// One result for each command, in the order of the commands.
    pub results: Vec<PlannedResult>,
    /// The newest append with events of commands that were executed before.
    pub executed: Option<AppendEnd>,
    /// The objects that something is put into, and all containers above them.
    pub put_into: BTreeSet<AggregateId>,
}

/// A plan in progress. May block on disk I/O.
pub struct Planning<'c> {
    store: &'c EventStore,
    commands: &'c Commands,
    limits: EventLimits,
    world: ExaminedWorld<'c>,
    executed: Option<AppendEnd>,
    /// The ids of the first events of commands that were not executed before, as far as could be
    /// seen.
    not_found: Vec<EventId>,
    put_into: BTreeSet<AggregateId>,
    events: NewEvents,
    /// The events by which the names of players are reserved and released. They come last.
    names: Vec<NewEvent>,
    results: Vec<PlannedResult>,
}

impl<'c> Planning<'c> {
    /// Creates an empty plan. Nothing is read yet.
    pub(super) fn new(world: ExaminedWorld<'c>, limits: EventLimits, commands: &'c Commands) -> Self {
        Self {
            store: world.store(),
            commands,
            limits,
            world,
            executed: None,
            not_found: Vec::new(),
            put_into: BTreeSet::new(),
            events: NewEvents::new(CallDigest::of(&commands.commands), limits),
            names: Vec::new(),
            results: Vec::new(),
        }
    }

    /// Decides the commands in order. Each decision takes the effects of the previous commands into
    /// account.
    ///
    /// # Errors
    /// Returns an error if a rule forbids a command, or if something that it depends on cannot be
    /// read.
    pub fn decide_all(&mut self) -> Result<(), WorldError> {
        let Commands { commands, expected } = self.commands;
        let earlier = EarlierAttempts::find(self.store, self.events.call(), commands)?;
        self.not_found = earlier.not_found();
        earlier.refuse_others()?;
        self.executed = earlier.newest_append(self.store)?;
        if earlier.are_incomplete() {
            self.world.expect(None, expected)?;
        }
        for (index, command, earlier) in earlier.into_commands() {
            let result = match earlier {
                EarlierExecution::NotFound => self.execute(index, command)?,
                EarlierExecution::Stored(first) => self.executed(command, *first)?,
                EarlierExecution::WithoutEffect => PlannedResult {
                    command_id: command.id.clone(),
                    events: PlannedEvents::Stored(Vec::new()),
                    dangling_references: DanglingReferences::default(),
                },
            };
            self.results.push(result);
        }
        Ok(())
    }

    /// Returns whether the plan stores nothing.
    pub fn stores_nothing(&self) -> bool {
        self.events.is_empty()
    }

    /// Returns whether an object changed while it was examined. The decisions then match no single
    /// moment.
    pub fn saw_a_change(&self) -> bool {
        self.world.saw_a_change()
    }

    /// Returns whether nothing that was examined has changed since, and none of the commands was
    /// executed meanwhile.
    ///
    /// # Errors
    /// Returns an error if the index cannot be read.
    pub fn is_still_valid(&self) -> Result<bool, WorldError> {
        for id in &self.not_found {
            if self.store.find(*id)?.is_some() {
                return Ok(false);
            }
        }
        self.world.is_unchanged()
    }

    /// Decides a command that was not executed before.
    fn execute(&mut self, index: usize, command: &Command) -> Result<PlannedResult, WorldError> {
        self.world.expect(Some(index), &command.expected)?;
        let decided = self.world.decide(index, command)?;
        if let Operation::DeleteGameObject { .. } = command.operation
            && decided.len() > self.limits.append_events_max
        {
            let max = self.limits.append_events_max.saturating_sub(Command::EVENTS_MAX - Deleted::MOVED_MAX);
            let refusal = Refusal::TooMuchInside { id: command.target.clone(), max };
            return Err(WorldError::Refused { command: Some(index), refusal });
        }
        // Determine this before the events are applied, because they may move the contents out of
        // the room.
        let dangling_references = match decided.last().map(|last| (&last.event, last.kind)) {
            Some((WorldEvent::GameObjectDeleted {}, Kind::Room)) => {
                self.world.dangling_references(&command.target)
            }
            _ => DanglingReferences::default(),
        };
        let named = self.world.names_of_players(&decided);
        let mut drafts = Vec::with_capacity(decided.len());
        for (nth, decided) in decided.iter().enumerate() {
            drafts.push(self.add((index, command), nth, decided)?);
        }
        for (nth, event) in self.world.change_names(index, named)?.into_iter().enumerate() {
            self.names.push(self.events.encode_name((index, command), nth, event)?);
        }
        if let Some((what, _)) = command.puts() {
            self.put_into.extend(self.world.containers(what).cloned());
        }
        let events = PlannedEvents::New(drafts);
        Ok(PlannedResult { command_id: command.id.clone(), events, dangling_references })
    }

    /// Adds the event number `nth` of a command.
    fn add(
        &mut self,
        command: (usize, &Command),
        nth: usize,
        decided: &Decided,
    ) -> Result<EventDraft, WorldError> {
        let event = self.events.encode(command, nth, decided)?;
        if let Err(rule) = self.world.apply(decided) {
            let (id, sequence) = (decided.id.clone(), self.next_sequence(&decided.id));
            return Err(AggregateDamage { id, sequence, problem: Problem::Rule(rule) }.into());
        }
        let draft = EventDraft::of(&event);
        self.events.push(event);
        Ok(draft)
    }

    /// Returns the sequence number that the next event of an aggregate gets if the aggregate does
    /// not change meanwhile.
    fn next_sequence(&self, id: &AggregateId) -> SequenceNumber {
        let stored = self.world.heads().get(id).map_or(0, |head| head.0);
        SequenceNumber(stored.saturating_add(self.events.count_of(id))).next()
    }

    /// Returns the first answer to a command that was executed before, with `first` as its first
    /// event.
    fn executed(&self, command: &Command, first: RecordedEvent) -> Result<PlannedResult, WorldError> {
        let events = earlier::events(self.store, command, first)?;
        let is_player = |event: &&RecordedEvent| {
            Kind::of(&event.event.aggregate_type) == Some(Kind::Player)
                && matches!(WorldEvent::read(event), Ok(WorldEvent::GameObjectContainerUpdated { .. }))
        };
        let players = events.iter().filter(is_player);
        let moved: Vec<String> = players.map(|event| event.event.aggregate_id.to_string()).collect();
        let dangling_references = match events.last().map(|last| (WorldEvent::read(last), &last.event)) {
            Some((Ok(WorldEvent::GameObjectDeleted {}), room))
                if Kind::of(&room.aggregate_type) == Some(Kind::Room) =>
            {
                let mut left = self.world.dangling_references(&room.aggregate_id);
                left.players.extend(moved);
                left.in_order();
                left
            }
            _ => DanglingReferences::default(),
        };
        let events = events.into_iter().map(|event| CommandEvent {
            id: event.event.id,
            aggregate_id: event.event.aggregate_id,
            aggregate_type: event.event.aggregate_type,
            event_type: event.event.event_type,
            sequence: event.sequence,
            position: event.position,
        });
        let events = PlannedEvents::Stored(events.collect());
        Ok(PlannedResult { command_id: command.id.clone(), events, dangling_references })
    }

    /// Returns the finished plan.
    ///
    /// # Errors
    /// Returns an error if the events exceed the limits of an append.
    pub fn finish(self) -> Result<Plan, WorldError> {
        let Self { world, mut events, names, results, executed, put_into, .. } = self;
        names.into_iter().for_each(|event| events.push(event));
        let events = events.into_append()?;
        let expected = if events.is_empty() { Vec::new() } else { world.into_heads().into_iter().collect() };
        Ok(Plan { append: Append { events, expected }, results, executed, put_into })
    }
}
