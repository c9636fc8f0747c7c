//! Plans what a call stores.
//!
//! Decides the commands of the call in order, and loads the parts of the world that they depend on
//! when they turn out to be needed. Appending the events and retrying are left to the handler.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    call::{CallDigest, CallMatch},
    executed::{CommandEvent, CommandResult},
};
use crate::{
    error::StoreError,
    event::{
        AggregateId, Content, ContentDigest, EventId, NewEvent, Position, RecordedEvent, SequenceNumber,
    },
    log::LogOffset,
    store::{Append, Tip},
    world::{
        error::{AggregateDamage, Problem, WorldError},
        history::replay::{self, AggregateSource},
        model::{
            aggregate::{Aggregate, Kind},
            event::WorldEvent,
        },
        read_models::{contents::ContainerTable, dangling_references::DanglingReferences},
        rules::{
            capacity,
            command::{
                ACTOR, COMMAND, Command, Commands, ContentsPolicy as Deleted, ExpectedSequences, Operation,
            },
            decide::decide,
            moving,
            refusal::Refusal,
            world_view::{Decided, Question, Undecided, WorldView},
        },
        settings::EventLimits,
    },
};

/// The metadata key of the digest by which a retry is recognized.
const COMMAND_DIGEST: &str = "command_digest";

/// The maximum number of objects that the commands of one call may depend on, and their maximum
/// total size.
const OBJECTS_MAX: usize = 1000;
const OBJECTS_SIZE_MAX: usize = 8_000_000;

/// What a call appends and returns.
pub struct Plan {
    pub append: Append,
    pub results: Vec<CommandResult>,
    /// The newest append with events of commands that were executed before.
    pub executed: Option<AppendEnd>,
    /// The objects that something is put into, and all containers above them.
    pub put_into: BTreeSet<AggregateId>,
}

/// The end of an append.
#[derive(Debug, Clone, Copy)]
pub struct AppendEnd {
    pub end: LogOffset,
    pub last: Position,
}

/// A plan in progress. May block on disk I/O.
pub struct Planning<'s> {
    source: &'s AggregateSource,
    contents: &'s ContainerTable,
    limits: EventLimits,
    call: CallDigest,
    executed: Option<AppendEnd>,
    /// The ids of the first events of commands that were not executed before, as far as could be
    /// seen.
    not_found: Vec<EventId>,
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
    put_into: BTreeSet<AggregateId>,
    events: Vec<(NewEvent, ContentDigest)>,
    results: Vec<CommandResult>,
}

impl<'s> Planning<'s> {
    pub fn new(source: &'s AggregateSource, contents: &'s ContainerTable, limits: EventLimits) -> Self {
        Self {
            source,
            contents,
            limits,
            call: CallDigest::default(),
            executed: None,
            not_found: Vec::new(),
            known: WorldView::default(),
            known_size: 0,
            heads: BTreeMap::new(),
            saw_a_change: false,
            emptied: BTreeMap::new(),
            put_into: BTreeSet::new(),
            events: Vec::new(),
            results: Vec::new(),
        }
    }

    /// Decides the commands in order. Each decision takes the effects of the previous commands into
    /// account.
    ///
    /// # Errors
    /// Returns an error if a rule forbids a command, or if something that it depends on cannot be
    /// read.
    pub fn decide_all(&mut self, call: &Commands) -> Result<(), WorldError> {
        let Commands { commands, expected } = call;
        self.call = CallDigest::of(commands);
        let firsts = commands.iter().map(|command| self.source.store.find(command.event_id(0)));
        let firsts: Vec<Option<RecordedEvent>> = firsts.collect::<Result<_, _>>()?;
        let ids = commands.iter().map(|command| command.event_id(0)).zip(&firsts);
        self.not_found = ids.filter(|(_, first)| first.is_none()).map(|(id, _)| id).collect();
        let was = self.call.was(firsts.iter().flatten());
        refuse_others(commands, &firsts, was)?;
        self.locate(firsts.iter().flatten().map(|first| first.append.last).max())?;
        if was != CallMatch::Executed && firsts.iter().any(Option::is_none) {
            self.expect(None, expected)?;
        }
        for ((index, command), first) in commands.iter().enumerate().zip(firsts) {
            match first {
                Some(first) => {
                    let result = self.executed(command, first)?;
                    self.results.push(result);
                }
                // A command that had no effect then has none now.
                None if was == CallMatch::Executed => self.results.push(CommandResult {
                    command_id: command.id.clone(),
                    events: Vec::new(),
                    already_executed: true,
                    dangling_references: DanglingReferences::default(),
                }),
                None => self.add(index, command)?,
            }
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
        self.saw_a_change
    }

    /// Returns whether nothing that was examined has changed since, and none of the commands was
    /// executed meanwhile. A single aggregate is not checked again, because it was read as of one
    /// moment.
    ///
    /// # Errors
    /// Returns an error if the index cannot be read.
    pub fn is_still_valid(&self) -> Result<bool, WorldError> {
        for id in &self.not_found {
            if self.source.store.find(*id)?.is_some() {
                return Ok(false);
            }
        }
        if self.heads.len() > 1 {
            for (id, head) in &self.heads {
                if replay::last_sequence(&self.source.store, id)? != *head {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn add(&mut self, index: usize, command: &Command) -> Result<(), WorldError> {
        self.expect(Some(index), &command.expected)?;
        let decided = loop {
            match decide(&self.known, command) {
                Ok(decided) => break decided,
                Err(Undecided::Unknown(id)) => self.learn(index, &id)?,
                Err(Undecided::Unanswered(question)) => self.answer(question)?,
                Err(Undecided::Refused(refusal)) => {
                    return Err(WorldError::Refused { command: Some(index), refusal });
                }
            }
        };
        if let Some(other) =
            decided.iter().find(|one| self.emptied.get(&one.id).is_some_and(|was| *was != one.kind))
        {
            let refusal = Refusal::Exists(other.id.clone());
            return Err(WorldError::Refused { command: Some(index), refusal });
        }
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
            Some((WorldEvent::GameObjectDeleted {}, Kind::Room)) => self.dangling_references(&command.target),
            _ => DanglingReferences::default(),
        };
        let mut events = Vec::with_capacity(decided.len());
        for (nth, decided) in decided.into_iter().enumerate() {
            let event = self.event(index, command, nth, &decided)?;
            events.push(CommandEvent {
                id: event.id,
                aggregate_id: event.aggregate_id.clone(),
                event_type: event.event_type.clone(),
                // Both are known once the event is stored.
                sequence: SequenceNumber(0),
                position: Position(0),
            });
            let sequence = SequenceNumber(0);
            let Decided { id, kind, event: happened } = decided;
            self.known.apply(&id, kind, &happened).map_err(|rule| AggregateDamage {
                id,
                sequence,
                problem: Problem::Rule(rule),
            })?;
            self.events.push((event.clone(), ContentDigest::of(&event)));
        }
        self.note_containers(command);
        let command_id = command.id.clone();
        self.results.push(CommandResult { command_id, events, already_executed: false, dangling_references });
        Ok(())
    }

    fn note_containers(&mut self, command: &Command) {
        if let Some((what, _)) = command.puts() {
            self.put_into.extend(moving::containers(&self.known, what).cloned());
        }
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

    /// Returns what a deleted room leaves behind. Anything that cannot be determined is omitted,
    /// and does not make the command fail.
    fn dangling_references(&self, room: &AggregateId) -> DanglingReferences {
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

    fn expect(&mut self, command: Option<usize>, expected: &ExpectedSequences) -> Result<(), WorldError> {
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

    fn event(
        &self,
        index: usize,
        command: &Command,
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

    /// Returns the first answer to a command that was executed before, with `first` as its first
    /// event. Looks up the events one by one, because the append may contain those of many other
    /// commands.
    fn executed(&self, command: &Command, first: RecordedEvent) -> Result<CommandResult, WorldError> {
        let mut events = vec![first];
        for nth in 1..Command::EVENTS_MAX {
            let Some(event) = self.source.store.find(command.event_id(nth))? else { break };
            events.push(event);
        }
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
                let mut left = self.dangling_references(&room.aggregate_id);
                left.players.extend(moved);
                left.in_order();
                left
            }
            _ => DanglingReferences::default(),
        };
        let events = events.into_iter().map(|event| CommandEvent {
            id: event.event.id,
            aggregate_id: event.event.aggregate_id,
            event_type: event.event.event_type,
            sequence: event.sequence,
            position: event.position,
        });
        Ok(CommandResult {
            command_id: command.id.clone(),
            events: events.collect(),
            already_executed: true,
            dangling_references,
        })
    }

    /// Records the end of the append with the newest events of commands that were executed before.
    fn locate(&mut self, newest: Option<Position>) -> Result<(), WorldError> {
        let Some(last) = newest else { return Ok(()) };
        let located = self.source.store.history().locate(last, self.tip_behind(last)?);
        let end = located.map_err(StoreError::from)?.append_end;
        self.executed = Some(AppendEnd { end, last });
        Ok(())
    }

    /// Returns the tip as soon as it includes `position`. Events can be found a moment before they
    /// may be read.
    fn tip_behind(&self, position: Position) -> Result<Tip, WorldError> {
        const LOOKS_MAX: usize = 5000;
        const BETWEEN: Duration = Duration::from_millis(1);
        for _ in 0..LOOKS_MAX {
            let tip = self.source.store.tip();
            if tip.position >= position {
                return Ok(tip);
            }
            std::thread::sleep(BETWEEN);
        }
        Err(StoreError::OutcomeUnknown.into())
    }

    /// Returns the finished plan.
    ///
    /// # Errors
    /// Returns an error if the events exceed the limits of an append.
    pub fn finish(self) -> Result<Plan, WorldError> {
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
        let expected = if self.events.is_empty() { Vec::new() } else { self.heads.into_iter().collect() };
        let append = Append { events: self.events, expected };
        let Self { results, executed, put_into, .. } = self;
        Ok(Plan { append, results, executed, put_into })
    }
}

fn refuse_more(count: usize, what: &str, max: usize) -> Result<(), WorldError> {
    match count > max {
        true => {
            let problem = format!(
                "depend on {count} {what}; at most {max} are allowed; send fewer \
             commands in one call"
            );
            Err(StoreError::invalid("commands", problem).into())
        }
        false => Ok(()),
    }
}

/// Returns an upper bound for the size of an event in an append.
fn byte_count(event: &NewEvent) -> usize {
    const FIELDS_BYTES: usize = 128;
    let metadata = event.metadata.iter().map(|(key, value)| key.len() + value.len() + 8);
    let texts = [&event.correlation_id, &event.causation_id].map(String::len);
    let names = event.aggregate_id.as_str().len() + event.aggregate_type.len() + event.event_type.len();
    event.content.byte_count() + metadata.sum::<usize>() + texts.iter().sum::<usize>() + names + FIELDS_BYTES
}

/// Refuses a command whose id belongs to a different command. Called before anything is decided.
fn refuse_others(
    commands: &[Command],
    firsts: &[Option<RecordedEvent>],
    was: CallMatch,
) -> Result<(), WorldError> {
    let is_another = |(command, first): (&Command, &Option<RecordedEvent>)| {
        first.as_ref().is_some_and(|first| {
            first.event.causation_id != command.id
                || first.event.metadata.get(COMMAND_DIGEST) != Some(&command.digest())
        })
    };
    let another = commands.iter().zip(firsts).position(is_another);
    // All commands that have events match, so a command without events is the different one.
    let without_effect = || firsts.iter().position(Option::is_none).filter(|_| was == CallMatch::Another);
    match another.or_else(without_effect).and_then(|index| Some((index, commands.get(index)?))) {
        Some((index, command)) => Err(WorldError::CommandIdReused { command: index, id: command.id.clone() }),
        None => Ok(()),
    }
}
