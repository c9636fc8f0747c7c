//! What earlier attempts stored of a call.
//!
//! A command that was executed is found by the id of its first event. A command without effect left
//! no events, but those of the other commands tell whether the call was executed as a whole.

use std::time::Duration;

use crate::{
    error::StoreError,
    event::{EventId, Position, RecordedEvent},
    log::LogOffset,
    store::{EventStore, Tip},
    world::{
        commands::call::{CallDigest, CallMatch},
        error::WorldError,
        rules::command::{COMMAND_DIGEST, Command},
    },
};

/// The commands of a call, and what is stored of them.
pub(super) struct EarlierAttempts<'c> {
    commands: &'c [Command],
    /// The first event of each command, if it is stored.
    firsts: Vec<Option<RecordedEvent>>,
    relation: CallMatch,
}

/// What is known about an earlier execution of one command.
pub(super) enum EarlierExecution {
    /// As far as could be seen, there was none.
    NotFound,
    /// It stored this event, and perhaps more.
    Stored(Box<RecordedEvent>),
    /// It had no effect.
    WithoutEffect,
}

/// The end of an append.
#[derive(Debug, Clone, Copy)]
pub struct AppendEnd {
    /// Where the append ends in the log.
    pub end: LogOffset,
    /// The position of its last event.
    pub last: Position,
}

impl<'c> EarlierAttempts<'c> {
    /// Looks up the first event of each command.
    ///
    /// # Errors
    /// Returns an error if an event cannot be read.
    pub(super) fn find(
        store: &EventStore,
        call: &CallDigest,
        commands: &'c [Command],
    ) -> Result<Self, WorldError> {
        let firsts = commands.iter().map(|command| store.find(command.event_id(0)));
        let firsts: Vec<Option<RecordedEvent>> = firsts.collect::<Result<_, _>>()?;
        let relation = call.was(firsts.iter().flatten());
        Ok(Self { commands, firsts, relation })
    }

    /// Returns the ids of the first events that were not found.
    pub(super) fn not_found(&self) -> Vec<EventId> {
        let ids = self.commands.iter().map(|command| command.event_id(0)).zip(&self.firsts);
        ids.filter(|(_, first)| first.is_none()).map(|(id, _)| id).collect()
    }

    /// Refuses a command whose id belongs to a different command. Called before anything is
    /// decided.
    ///
    /// # Errors
    /// Returns an error if there is such a command.
    pub(super) fn refuse_others(&self) -> Result<(), WorldError> {
        let is_another = |(command, first): (&Command, &Option<RecordedEvent>)| {
            first.as_ref().is_some_and(|first| {
                first.event.causation_id != command.id
                    || first.event.metadata.get(COMMAND_DIGEST) != Some(&command.digest())
            })
        };
        let another = self.commands.iter().zip(&self.firsts).position(is_another);
        // All commands that have events match, so a command without events is the different one.
        let without_effect = || {
            let without_events = self.firsts.iter().position(Option::is_none);
            without_events.filter(|_| self.relation == CallMatch::Another)
        };
        let reused =
            another.or_else(without_effect).and_then(|index| Some((index, self.commands.get(index)?)));
        match reused {
            Some((command, reused)) => Err(WorldError::CommandIdReused { command, id: reused.id.clone() }),
            None => Ok(()),
        }
    }

    /// Returns the end of the newest append with events of these commands.
    ///
    /// # Errors
    /// Returns an error if the log cannot be read.
    pub(super) fn newest_append(&self, store: &EventStore) -> Result<Option<AppendEnd>, WorldError> {
        let Some(last) = self.firsts.iter().flatten().map(|first| first.append.last).max() else {
            return Ok(None);
        };
        let located = store.history().locate(last, tip_behind(store, last)?);
        let end = located.map_err(StoreError::from)?.append_end;
        Ok(Some(AppendEnd { end, last }))
    }

    /// Returns whether some of the commands have not been executed yet.
    pub(super) fn are_incomplete(&self) -> bool {
        self.relation != CallMatch::Executed && self.firsts.iter().any(Option::is_none)
    }

    /// Returns the commands in order, each with its index.
    pub(super) fn into_commands(self) -> impl Iterator<Item = (usize, &'c Command, EarlierExecution)> {
        let relation = self.relation;
        let commands = self.commands.iter().enumerate().zip(self.firsts);
        commands.map(move |((index, command), first)| {
            let earlier = match first {
                Some(first) => EarlierExecution::Stored(Box::new(first)),
                // A command that had no effect then has none now.
                None if relation == CallMatch::Executed => EarlierExecution::WithoutEffect,
                None => EarlierExecution::NotFound,
            };
            (index, command, earlier)
        })
    }
}

/// Returns the events of a command that was executed before, with `first` as its first event. Looks
/// them up one by one, because the append may contain those of many other commands.
///
/// # Errors
/// Returns an error if an event cannot be read.
pub(super) fn events(
    store: &EventStore,
    command: &Command,
    first: RecordedEvent,
) -> Result<Vec<RecordedEvent>, WorldError> {
    let mut events = vec![first];
    for nth in 1..Command::EVENTS_MAX {
        let Some(event) = store.find(command.event_id(nth))? else { break };
        events.push(event);
    }
    Ok(events)
}

/// Returns the tip as soon as it includes `position`. Events can be found a moment before they may
/// be read.
fn tip_behind(store: &EventStore, position: Position) -> Result<Tip, WorldError> {
    const LOOKS_MAX: usize = 5000;
    const BETWEEN: Duration = Duration::from_millis(1);
    for _ in 0..LOOKS_MAX {
        let tip = store.tip();
        if tip.position >= position {
            return Ok(tip);
        }
        std::thread::sleep(BETWEEN);
    }
    Err(StoreError::OutcomeUnknown.into())
}
