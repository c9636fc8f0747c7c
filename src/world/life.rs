//! An aggregate while its events are taken in, one by one. Numbers have no gap, every event is one that it can have, and what
//! repairs pass over does not count.

use std::collections::BTreeSet;

use super::{
    aggregate::{Aggregate, Kind},
    error::{Damage, Problem, WorldError},
    event::{EventError, WorldEvent},
    states::State,
};
use crate::event::{AggregateId, RecordedEvent, SequenceNumber};

/// Events that can't have happened to an aggregate, and why.
pub type Misfits = Vec<(SequenceNumber, Problem)>;

/// An aggregate while its events are taken in one by one.
#[derive(Debug)]
pub struct Life {
    kind: Kind,
    state: Option<State>,
    last: SequenceNumber,
    /// By repairs; looked up when an event does not fit.
    passed_over: Option<BTreeSet<SequenceNumber>>,
    /// Events that were passed over.
    skipped: BTreeSet<SequenceNumber>,
    /// A repair names an event that counted until then.
    begins_anew: bool,
    /// What no repair passes over is noted, and ends nothing.
    notes_misfits: bool,
    misfits: Misfits,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Happened,
    /// A repair says so.
    PassedOver,
}

impl Life {
    /// Goes on behind the event `last`, after which it is `state`.
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

    /// From the first event on, where it is known what repairs pass over. What does not fit besides is noted.
    pub fn to_be_repaired(kind: Kind, passed_over: BTreeSet<SequenceNumber>) -> Self {
        Self { notes_misfits: true, ..Self::knowing(kind, passed_over) }
    }

    /// The same; what does not fit is damage.
    pub fn knowing(kind: Kind, passed_over: BTreeSet<SequenceNumber>) -> Self {
        Self { passed_over: Some(passed_over), ..Self::behind(kind, None, SequenceNumber(0)) }
    }

    /// A repair names an event that counted before: what it is has to be found out from the first event on, by whoever
    /// knows all repairs.
    pub fn begins_anew(&self) -> bool {
        self.begins_anew
    }

    /// As it is after the last event; `None`: there is nothing, or all was passed over.
    pub fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// The last event, whatever became of it.
    pub fn last(&self) -> SequenceNumber {
        self.last
    }

    pub fn into_state(self) -> Option<State> {
        self.state
    }

    pub fn into_misfits(self) -> Misfits {
        self.misfits
    }

    /// Takes in one more event. `repairs` looks up what repairs of the aggregate pass over.
    ///
    /// # Errors
    /// The event can't have happened to it, or can't be read, and no repair passes it over.
    pub fn take(
        &mut self,
        recorded: &RecordedEvent,
        repairs: impl FnOnce(&AggregateId) -> Result<BTreeSet<SequenceNumber>, WorldError>,
    ) -> Result<Taken, WorldError> {
        self.take_what_happened(recorded, &WorldEvent::read(recorded), repairs)
    }

    /// The same, where it was read already.
    ///
    /// # Errors
    /// As [`Life::take`].
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
                    // It may fit where those before it do not count that are passed over.
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
