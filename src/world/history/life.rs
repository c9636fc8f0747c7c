//! An aggregate while its events are applied one by one.
//!
//! Guarantees that the sequence numbers have no gap, that every counted event is valid for the
//! aggregate, and that events excluded by repairs do not count. Reading the events and looking up
//! the repairs are left to the caller.

use std::collections::BTreeSet;

use super::states::State;
use crate::{
    event::{AggregateId, RecordedEvent, SequenceNumber},
    world::{
        error::{Damage, Problem, WorldError},
        model::{
            aggregate::{Aggregate, Kind},
            event::{EventError, WorldEvent},
        },
    },
};

/// Events that are invalid for an aggregate, each with the reason.
pub type Misfits = Vec<(SequenceNumber, Problem)>;

/// An aggregate while its events are applied one by one.
#[derive(Debug)]
pub struct Life {
    kind: Kind,
    state: Option<State>,
    last: SequenceNumber,
    /// The events excluded by repairs. Looked up when an event does not fit.
    passed_over: Option<BTreeSet<SequenceNumber>>,
    /// The events that did not count.
    skipped: BTreeSet<SequenceNumber>,
    /// Whether a repair excludes an event that counted before.
    begins_anew: bool,
    /// Whether invalid events that no repair excludes are collected in `misfits`, instead of ending
    /// the replay.
    notes_misfits: bool,
    misfits: Misfits,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Happened,
    /// The event does not count. A repair excludes it, it was collected as a misfit, or the
    /// aggregate has to be replayed from the first event anyway.
    PassedOver,
}

impl Life {
    /// Continues after the event `last`, which led to `state`.
    pub fn behind(kind: Kind, state: Option<State>, last: SequenceNumber) -> Self {
        Self {
            kind,
            state,
            last,
            passed_over: None,
            skipped: BTreeSet::new(),
            begins_anew: false,
            notes_misfits: false,
            misfits: Misfits::new(),
        }
    }

    /// Starts at the first event, with the events excluded by repairs known. Other events that do
    /// not fit are collected as misfits.
    pub fn to_be_repaired(kind: Kind, passed_over: BTreeSet<SequenceNumber>) -> Self {
        Self { notes_misfits: true, ..Self::knowing(kind, passed_over) }
    }

    /// Starts at the first event, with the events excluded by repairs known. Other events that do
    /// not fit are damage.
    pub fn knowing(kind: Kind, passed_over: BTreeSet<SequenceNumber>) -> Self {
        Self { passed_over: Some(passed_over), ..Self::behind(kind, None, SequenceNumber(0)) }
    }

    /// Returns whether a repair excludes an event that counted before. The state must then be
    /// replayed from the first event, with all repairs known.
    pub fn begins_anew(&self) -> bool {
        self.begins_anew
    }

    /// Returns the state after the last event, or `None` if there are no events or all were
    /// excluded.
    pub fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// Returns the last event, whether it counted or not.
    pub fn last(&self) -> SequenceNumber {
        self.last
    }

    pub fn into_state(self) -> Option<State> {
        self.state
    }

    pub fn into_misfits(self) -> Misfits {
        self.misfits
    }

    /// Applies one more event. `repairs` looks up the events that repairs of the aggregate exclude.
    ///
    /// # Errors
    /// Returns an error if there is a gap in the sequence numbers, or if the event is unreadable or
    /// invalid for the aggregate and no repair excludes it.
    pub fn take(
        &mut self,
        recorded: &RecordedEvent,
        repairs: impl FnOnce(&AggregateId) -> Result<BTreeSet<SequenceNumber>, WorldError>,
    ) -> Result<Taken, WorldError> {
        self.take_what_happened(recorded, &WorldEvent::read(recorded), repairs)
    }

    /// Like [`Life::take`], for an event that has been read already.
    ///
    /// # Errors
    /// See [`Life::take`].
    pub fn take_what_happened(
        &mut self,
        recorded: &RecordedEvent,
        happened: &Result<WorldEvent, EventError>,
        repairs: impl FnOnce(&AggregateId) -> Result<BTreeSet<SequenceNumber>, WorldError>,
    ) -> Result<Taken, WorldError> {
        let damage = |problem| damage(recorded, problem);
        if recorded.sequence != self.last.next() {
            return Err(damage(Problem::Gap).into());
        }
        let sequence = recorded.sequence;
        let is_named = |passed_over: &BTreeSet<SequenceNumber>| passed_over.contains(&sequence);
        let taken = match self.passed_over.as_ref().is_some_and(is_named) {
            true => Taken::PassedOver,
            false => match self.fit(recorded, happened) {
                Ok(()) => Taken::Happened,
                Err(problem) => {
                    let passed_over = match self.passed_over.take() {
                        Some(looked_up) => looked_up,
                        None => repairs(&recorded.event.aggregate_id)?,
                    };
                    let is_named = is_named(&passed_over);
                    // The event may fit once the excluded events before it no longer count.
                    let counted = |named: &SequenceNumber| *named < sequence && !self.skipped.contains(named);
                    self.begins_anew |= passed_over.iter().any(counted);
                    self.passed_over = Some(passed_over);
                    match (is_named || self.begins_anew, self.notes_misfits) {
                        (true, _) => {}
                        (false, true) => self.misfits.push((sequence, problem)),
                        (false, false) => return Err(damage(problem).into()),
                    }
                    Taken::PassedOver
                }
            },
        };
        if taken == Taken::PassedOver {
            self.skipped.insert(sequence);
        }
        if let Ok(WorldEvent::ObjectRepaired { passed_over, .. }) = happened {
            let named = passed_over.iter().map(|named| SequenceNumber(*named));
            let mut before = named.filter(|named| *named < sequence);
            self.begins_anew |= before.any(|named| !self.skipped.contains(&named));
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
                self.state =
                    Some(State { aggregate, sequence: recorded.sequence.0, created_at: at, updated_at: at });
            }
        }
        Ok(())
    }
}

fn damage(recorded: &RecordedEvent, problem: Problem) -> Damage {
    Damage { id: recorded.event.aggregate_id.clone(), sequence: recorded.sequence, problem }
}
