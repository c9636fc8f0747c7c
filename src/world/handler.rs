//! The command handler: from commands to stored events and an answer.
//!
//! It loads what the commands depend on, has them decided, and appends all their events at once, under the
//! expectation that nothing it looked at has changed. If something has, it begins again. A command that was
//! executed before is found by the id of its first event, which comes from the command's own id.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest, Sha256};

use super::{
    command::Command,
    decide::{Decided, decide},
    error::{Damage, Problem, WorldError},
    known::{Known, Undecided},
    replay::{self, Moment},
    turns::Turns,
};
use crate::{
    event::{
        AggregateId, AppendBounds, Content, ContentDigest, EventId, NewEvent, Position, RecordedEvent,
        SequenceNumber,
    },
    log::{Place, Tip},
    sequencer::{Append, Stored},
    store::{Conflict, EventStore, Filter, OrderStart, StoreError, StoredIn},
};

/// The most commands in one call: with all their events they fit into one append.
pub const COMMANDS_MAX: usize = 100;

/// Keys in the metadata of an event.
pub const ACTOR: &str = "actor";
pub const COMMAND: &str = "command";
const COMMAND_DIGEST: &str = "command_digest";
const CALL: &str = "call";

/// How often a call is decided before it gives up. Whoever loses a race has it lost to somebody who won.
const ATTEMPTS_MAX: u32 = 100;
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    pub results: Vec<CommandResult>,
    /// Where the events lie; `None`: there are none.
    pub stored_in: Option<StoredIn>,
}

/// What one command led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandResult {
    pub command_id: String,
    pub events: Vec<CommandEvent>,
    pub already_executed: bool,
}

/// An event that a command led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandEvent {
    pub id: EventId,
    pub aggregate_id: AggregateId,
    pub event_type: Arc<str>,
    pub sequence: SequenceNumber,
    pub position: Position,
}

/// What the events of a call may be; as an append of any caller.
#[derive(Debug, Clone, Copy)]
pub struct EventLimits {
    pub event_bytes_max: usize,
    pub append_bytes_max: usize,
    pub append_events_max: usize,
}

/// Executes commands. Shared by all calls.
#[derive(Debug)]
pub struct Handler {
    store: Arc<EventStore>,
    turns: Turns,
    limits: EventLimits,
}

impl Handler {
    pub fn new(store: Arc<EventStore>, limits: EventLimits) -> Self {
        Self { store, turns: Turns::default(), limits }
    }

    /// Executes the commands in their order, all or none. Also says which aggregates are due for a snapshot.
    ///
    /// # Errors
    /// See [`WorldError`].
    pub async fn execute(&self, commands: Vec<Command>) -> Result<(Executed, Vec<AggregateId>), WorldError> {
        let turn = self.turns.take(commands.iter().map(|command| &command.target)).await;
        let commands = Arc::new(commands);
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 1 {
                tokio::time::sleep(pause(attempt)).await;
            }
            let Some(plan) = self.plan(commands.clone()).await? else { continue };
            let Plan { append, mut results, executed } = plan;
            if append.events.is_empty() {
                drop(turn);
                // It is as good as the first answer was, or is not known yet as that was.
                let stored_in = match executed {
                    Some(Located { end, last }) => Some(self.store.settle(end, last).await?),
                    None => None,
                };
                return Ok((Executed { results, stored_in }, Vec::new()));
            }
            match self.store.append_here(append).await {
                Ok(stored) => {
                    drop(turn);
                    let stored_in = self.store.settle(stored.end, stored.bounds.last).await?;
                    number(&mut results, &stored);
                    let due = stored.aggregates.into_iter().filter(|aggregate| aggregate.snapshot_due);
                    let due = due.map(|aggregate| aggregate.id).collect();
                    return Ok((Executed { results, stored_in: Some(stored_in) }, due));
                }
                // Of the ids: the same command was executed meanwhile. The next plan finds it.
                Err(StoreError::Conflict(
                    Conflict::WrongExpectedSequence { .. } | Conflict::EventIdReused(_),
                )) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(WorldError::Contention)
    }

    /// Loads and decides; may wait for the disk. `None`: what it looked at changed meanwhile.
    async fn plan(&self, commands: Arc<Vec<Command>>) -> Result<Option<Plan>, WorldError> {
        let (store, limits) = (self.store.clone(), self.limits);
        let planned = tokio::task::spawn_blocking(move || {
            let mut planning = Planning::new(&store, limits);
            let decided = planning.decide_all(&commands);
            // An append is refused where anything changed; without one it has to be looked at here.
            let stores_nothing = decided.is_err() || planning.events.is_empty();
            if stores_nothing && !planning.is_still_so()? {
                return Ok(None);
            }
            decided.and_then(|()| planning.finish()).map(Some)
        });
        planned.await.unwrap_or_else(|_| Err(StoreError::Damaged("a decision was aborted".to_owned()).into()))
    }
}

/// A little, and not for all the same.
fn pause(attempt: u32) -> Duration {
    let random = u64::from(EventId::random().as_bytes().first().copied().unwrap_or_default());
    let max = Duration::from_millis(1).saturating_mul(attempt).min(PAUSE_MAX);
    max.mul_f64(random as f64 / 255.0)
}

/// What would be appended, and what would be answered.
struct Plan {
    append: Append,
    results: Vec<CommandResult>,
    /// The newest append of commands that were executed before.
    executed: Option<Located>,
}

/// Where an append ends.
#[derive(Clone, Copy)]
struct Located {
    end: Place,
    last: Position,
}

struct Planning<'s> {
    store: &'s EventStore,
    limits: EventLimits,
    /// Tells this call from another with some of the same commands.
    call: String,
    executed: Option<Located>,
    known: Known,
    /// Last numbers of what was looked at, before this call.
    heads: BTreeMap<AggregateId, SequenceNumber>,
    events: Vec<(NewEvent, ContentDigest)>,
    results: Vec<CommandResult>,
}

impl<'s> Planning<'s> {
    fn new(store: &'s EventStore, limits: EventLimits) -> Self {
        Self {
            store,
            limits,
            call: String::new(),
            executed: None,
            known: Known::default(),
            heads: BTreeMap::new(),
            events: Vec::new(),
            results: Vec::new(),
        }
    }

    fn decide_all(&mut self, commands: &[Command]) -> Result<(), WorldError> {
        self.call = call_digest(commands);
        let firsts = commands.iter().map(|command| self.store.find(command.event_id(0)));
        let firsts: Vec<Option<RecordedEvent>> = firsts.collect::<Result<_, _>>()?;
        let is_of_this_call = |first: &RecordedEvent| first.event.metadata.get(CALL) == Some(&self.call);
        // It was executed as a whole: what had no effect then has none now.
        let whole = firsts.iter().flatten().any(is_of_this_call);
        for ((index, command), first) in commands.iter().enumerate().zip(firsts) {
            match first {
                Some(first) => {
                    let result = self.executed(index, command, &first)?;
                    self.results.push(result);
                }
                None if whole => self.results.push(CommandResult {
                    command_id: command.id.clone(),
                    events: Vec::new(),
                    already_executed: true,
                }),
                None => self.add(index, command)?,
            }
        }
        Ok(())
    }

    /// Nothing that was looked at has changed since. One aggregate alone was as it was at one moment.
    fn is_still_so(&self) -> Result<bool, WorldError> {
        if self.heads.len() > 1 {
            for (id, head) in &self.heads {
                if replay::last_sequence(self.store, id)? != *head {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn add(&mut self, index: usize, command: &Command) -> Result<(), WorldError> {
        if let Some(expected) = command.expected {
            self.expect(index, &command.target, expected)?;
        }
        let decided = loop {
            match decide(&self.known, command) {
                Ok(decided) => break decided,
                Err(Undecided::Unknown(id)) => self.learn(index, &id)?,
                Err(Undecided::Refused(refusal)) => {
                    return Err(WorldError::Refused { command: Some(index), refusal });
                }
            }
        };
        let mut events = Vec::with_capacity(decided.len());
        for (nth, decided) in decided.into_iter().enumerate() {
            let event = self.event(index, command, nth, &decided)?;
            events.push(CommandEvent {
                id: event.id,
                aggregate_id: event.aggregate_id.clone(),
                event_type: event.event_type.clone(),
                // Both are known when it is stored.
                sequence: SequenceNumber(0),
                position: Position(0),
            });
            let sequence = SequenceNumber(0);
            let Decided { id, kind, event: happened } = decided;
            self.known.apply(&id, kind, &happened).map_err(|rule| Damage {
                id,
                sequence,
                problem: Problem::Rule(rule),
            })?;
            self.events.push((event.clone(), ContentDigest::of(&event)));
        }
        self.results.push(CommandResult { command_id: command.id.clone(), events, already_executed: false });
        Ok(())
    }

    fn expect(
        &mut self,
        index: usize,
        target: &AggregateId,
        expected: SequenceNumber,
    ) -> Result<(), WorldError> {
        if !self.heads.contains_key(target) {
            self.learn(index, target)?;
        }
        let actual = self.heads.get(target).copied().unwrap_or_default();
        match actual == expected {
            true => Ok(()),
            false => Err(WorldError::WrongExpectedSequence {
                command: index,
                aggregate: target.clone(),
                expected,
                actual,
            }),
        }
    }

    fn learn(&mut self, index: usize, id: &AggregateId) -> Result<(), WorldError> {
        let state = replay::load(self.store, id, Moment::Now).map_err(|error| match error {
            WorldError::Refused { refusal, .. } => WorldError::Refused { command: Some(index), refusal },
            other => other,
        })?;
        let sequence = state.as_ref().map_or(0, |state| state.sequence);
        self.heads.insert(id.clone(), SequenceNumber(sequence));
        self.known.learn(id.clone(), state.map(|state| state.aggregate));
        Ok(())
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
            let problem = format!("makes an event of {} bytes, {max} are allowed", data.len());
            return Err(invalid(problem).into());
        }
        let mut metadata = BTreeMap::from([
            (COMMAND.to_owned(), command.operation.name().to_owned()),
            (COMMAND_DIGEST.to_owned(), command.digest()),
        ]);
        if !self.call.is_empty() {
            metadata.insert(CALL.to_owned(), self.call.clone());
        }
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

    /// The first answer to a command that was executed before, with this first event.
    fn executed(
        &mut self,
        index: usize,
        command: &Command,
        first: &RecordedEvent,
    ) -> Result<CommandResult, WorldError> {
        let is_same = first.event.causation_id == command.id
            && first.event.metadata.get(COMMAND_DIGEST) == Some(&command.digest());
        if !is_same {
            return Err(WorldError::CommandIdReused { command: index, id: command.id.clone() });
        }
        let ids: HashSet<EventId> = (0..Command::EVENTS_MAX).map(|nth| command.event_id(nth)).collect();
        let last = first.append.last;
        let events = self.append_of(first.append)?;
        let located = self.store.history().locate(last, self.store.sequencer().tip());
        let end = located.map_err(StoreError::from)?.append_end;
        if self.executed.is_none_or(|known| known.last < last) {
            self.executed = Some(Located { end, last });
        }
        let events = events.into_iter().filter(|event| ids.contains(&event.event.id));
        let events = events.map(|event| CommandEvent {
            id: event.event.id,
            aggregate_id: event.event.aggregate_id,
            event_type: event.event.event_type,
            sequence: event.sequence,
            position: event.position,
        });
        Ok(CommandResult { command_id: command.id.clone(), events: events.collect(), already_executed: true })
    }

    /// All events of an append.
    fn append_of(&self, bounds: AppendBounds) -> Result<Vec<RecordedEvent>, WorldError> {
        const READ_BYTES: usize = 1024 * 1024;
        let tip = self.tip_behind(bounds.last)?;
        let mut reader = self.store.read(OrderStart::At(bounds.first), Filter::default())?;
        let mut events = Vec::new();
        while reader.reached() < bounds.last {
            let chunk = reader.next(tip, READ_BYTES)?;
            for event in chunk.events.into_iter().filter(|event| event.position <= bounds.last) {
                events.push(event.decode().map_err(|error| StoreError::Damaged(error.to_string()))?);
            }
            if chunk.at_end {
                break;
            }
        }
        Ok(events)
    }

    /// The tip, as soon as it includes this position: events are found a moment before they may be read.
    fn tip_behind(&self, position: Position) -> Result<Tip, WorldError> {
        const LOOKS_MAX: usize = 5000;
        const BETWEEN: Duration = Duration::from_millis(1);
        for _ in 0..LOOKS_MAX {
            let tip = self.store.sequencer().tip();
            if tip.position >= position {
                return Ok(tip);
            }
            std::thread::sleep(BETWEEN);
        }
        Err(StoreError::OutcomeUnknown.into())
    }

    /// # Errors
    /// The events are more than an append may have.
    fn finish(self) -> Result<Plan, WorldError> {
        let bytes: usize = self.events.iter().map(|(event, _)| byte_count(event)).sum();
        for (what, count, max) in [
            ("events", self.events.len(), self.limits.append_events_max),
            ("bytes of events", bytes, self.limits.append_bytes_max),
        ] {
            if count > max {
                let problem = format!("make {count} {what}, {max} are allowed; send fewer in one call");
                return Err(StoreError::invalid("commands", problem).into());
            }
        }
        let expected = match self.events.is_empty() {
            true => Vec::new(),
            false => self.heads.into_iter().collect(),
        };
        let append = Append { events: self.events, expected };
        Ok(Plan { append, results: self.results, executed: self.executed })
    }
}

/// At least as much as an event takes in an append.
fn byte_count(event: &NewEvent) -> usize {
    const FIELDS_BYTES: usize = 128;
    let metadata = event.metadata.iter().map(|(key, value)| key.len() + value.len() + 8);
    let texts = [&event.correlation_id, &event.causation_id].map(String::len);
    let names = event.aggregate_id.as_str().len() + event.aggregate_type.len() + event.event_type.len();
    event.content.byte_count() + metadata.sum::<usize>() + texts.iter().sum::<usize>() + names + FIELDS_BYTES
}

/// Names a call by its commands; empty where there is one, which names itself.
fn call_digest(commands: &[Command]) -> String {
    if commands.len() < 2 {
        return String::new();
    }
    let mut digest = Sha256::new();
    for command in commands {
        digest.update((command.id.len() as u64).to_le_bytes());
        digest.update(&command.id);
    }
    hex::encode(digest.finalize()).chars().take(32).collect()
}

/// Gives the new events their numbers, in the order in which they were appended.
fn number(results: &mut [CommandResult], stored: &Stored) {
    let mut next: BTreeMap<&AggregateId, SequenceNumber> =
        stored.aggregates.iter().map(|aggregate| (&aggregate.id, aggregate.first)).collect();
    let new = results.iter_mut().filter(|result| !result.already_executed);
    for (event, position) in new.flat_map(|result| &mut result.events).zip(stored.bounds.first.0..) {
        event.position = Position(position);
        if let Some(next) = next.get_mut(&event.aggregate_id) {
            event.sequence = *next;
            *next = next.next();
        }
    }
}
