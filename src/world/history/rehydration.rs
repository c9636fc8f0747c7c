//! An aggregate while its events are applied one by one.
//!
//! Guarantees that the sequence numbers have no gap, that every counted event is valid for the
//! aggregate, and that events excluded by repairs do not count. Reading the events and looking up
//! the repairs are left to the caller.

use std::collections::BTreeSet;

use super::states::AggregateState;
use crate::{
    event::{AggregateId, RecordedEvent, SequenceNumber},
    world::{
        error::{AggregateDamage, Problem, WorldError},
        model::{
            aggregate::{Aggregate, Kind},
            event::{EventError, WorldEvent},
        },
    },
};

/// Events that are invalid for an aggregate, each with the reason.
pub type InvalidEvents = Vec<(SequenceNumber, Problem)>;

/// An aggregate while its events are applied one by one.
#[derive(Debug)]
pub struct Rehydration {
    kind: Kind,
    state: Option<AggregateState>,
    last: SequenceNumber,
    /// The events excluded by repairs. Looked up when an event does not fit.
    passed_over: Option<BTreeSet<SequenceNumber>>,
    /// The events that did not count.
    skipped: BTreeSet<SequenceNumber>,
    /// Whether a repair excludes an event that counted before.
    must_restart: bool,
    /// Whether invalid events that no repair excludes are collected in `invalid_events`, instead of
    /// ending the replay.
    collects_invalid_events: bool,
    invalid_events: InvalidEvents,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventOutcome {
    /// The event counts, and was applied.
    Happened,
    /// The event does not count. A repair excludes it, it was collected as invalid, or the
    /// aggregate has to be replayed from the first event anyway.
    PassedOver,
}

impl Rehydration {
    /// Continues after the event `last`, which led to `state`.
    pub fn after(kind: Kind, state: Option<AggregateState>, last: SequenceNumber) -> Self {
        Self {
            kind,
            state,
            last,
            passed_over: None,
            skipped: BTreeSet::new(),
            must_restart: false,
            collects_invalid_events: false,
            invalid_events: InvalidEvents::new(),
        }
    }

    /// Starts at the first event, with the events excluded by repairs known. Other events that do
    /// not fit are collected as invalid.
    pub fn for_repair(kind: Kind, passed_over: BTreeSet<SequenceNumber>) -> Self {
        Self { collects_invalid_events: true, ..Self::with_repairs(kind, passed_over) }
    }

    /// Starts at the first event, with the events excluded by repairs known. Other events that do
    /// not fit are damage.
    pub fn with_repairs(kind: Kind, passed_over: BTreeSet<SequenceNumber>) -> Self {
        Self { passed_over: Some(passed_over), ..Self::after(kind, None, SequenceNumber(0)) }
    }

    /// Returns whether a repair excludes an event that counted before. The state must then be
    /// replayed from the first event, with all repairs known.
    pub fn must_restart(&self) -> bool {
        self.must_restart
    }

    /// Returns the state after the last event, or `None` if there are no events or all were
    /// excluded.
    pub fn state(&self) -> Option<&AggregateState> {
        self.state.as_ref()
    }

    /// Returns the last event, whether it counted or not.
    pub fn last(&self) -> SequenceNumber {
        self.last
    }

    /// Returns the state after the last event. See [`Rehydration::state`].
    pub fn into_state(self) -> Option<AggregateState> {
        self.state
    }

    /// Returns the invalid events that were collected. See [`Rehydration::for_repair`].
    pub fn into_invalid_events(self) -> InvalidEvents {
        self.invalid_events
    }

    /// Applies one more event. `repairs` looks up the events that repairs of the aggregate exclude.
    ///
    /// # Errors
    /// Returns an error if there is a gap in the sequence numbers, or if the event is unreadable or
    /// invalid for the aggregate and no repair excludes it.
    pub fn apply(
        &mut self,
        recorded: &RecordedEvent,
        repairs: impl FnOnce(&AggregateId) -> Result<BTreeSet<SequenceNumber>, WorldError>,
    ) -> Result<EventOutcome, WorldError> {
        self.apply_decoded(recorded, &WorldEvent::read(recorded), repairs)
    }

    /// Like [`Rehydration::apply`], for an event that has been read already.
    ///
    /// # Errors
    /// See [`Rehydration::apply`].
    pub fn apply_decoded(
        &mut self,
        recorded: &RecordedEvent,
        happened: &Result<WorldEvent, EventError>,
        repairs: impl FnOnce(&AggregateId) -> Result<BTreeSet<SequenceNumber>, WorldError>,
    ) -> Result<EventOutcome, WorldError> {
        let damage = |problem| damage(recorded, problem);
        if recorded.sequence != self.last.next() {
            return Err(damage(Problem::Gap).into());
        }
        let sequence = recorded.sequence;
        let is_named = |passed_over: &BTreeSet<SequenceNumber>| passed_over.contains(&sequence);
        let taken = if self.passed_over.as_ref().is_some_and(is_named) {
            EventOutcome::PassedOver
        } else {
            match self.fit(recorded, happened) {
                Ok(()) => EventOutcome::Happened,
                Err(problem) => {
                    let passed_over = match self.passed_over.take() {
                        Some(looked_up) => looked_up,
                        None => repairs(&recorded.event.aggregate_id)?,
                    };
                    let is_named = is_named(&passed_over);
                    // The event may fit once the excluded events before it no longer count.
                    let counted = |named: &SequenceNumber| *named < sequence && !self.skipped.contains(named);
                    self.must_restart |= passed_over.iter().any(counted);
                    self.passed_over = Some(passed_over);
                    match (is_named || self.must_restart, self.collects_invalid_events) {
                        (true, _) => {}
                        (false, true) => self.invalid_events.push((sequence, problem)),
                        (false, false) => return Err(damage(problem).into()),
                    }
                    EventOutcome::PassedOver
                }
            }
        };
        if taken == EventOutcome::PassedOver {
            self.skipped.insert(sequence);
        }
        if let Ok(WorldEvent::ObjectRepaired { passed_over, .. }) = happened {
            let named = passed_over.iter().map(|named| SequenceNumber(*named));
            let mut before = named.filter(|named| *named < sequence);
            self.must_restart |= before.any(|named| !self.skipped.contains(&named));
        }
        self.last = recorded.sequence;
        if let Some(state) = &mut self.state {
            state.sequence = recorded.sequence.0;
            state.updated_at = recorded.recorded_at;
        }
        Ok(taken)
    }

    fn fit(
        &mut self,
        recorded: &RecordedEvent,
        happened: &Result<WorldEvent, EventError>,
    ) -> Result<(), Problem> {
        let happened = happened.as_ref().map_err(|error| error.clone())?;
        match (&mut self.state, happened) {
            (_, WorldEvent::ObjectRepaired { .. }) => {}
            (Some(state), happened) => state.aggregate.take(happened)?,
            (None, happened) => {
                let aggregate = Aggregate::apply(None, self.kind, &recorded.event.aggregate_id, happened)?;
                let at = recorded.recorded_at;
                self.state = Some(AggregateState {
                    aggregate,
                    sequence: recorded.sequence.0,
                    created_at: at,
                    updated_at: at,
                });
            }
        }
        Ok(())
    }
}

fn damage(recorded: &RecordedEvent, problem: Problem) -> AggregateDamage {
    AggregateDamage { id: recorded.event.aggregate_id.clone(), sequence: recorded.sequence, problem }
}
