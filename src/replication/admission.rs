//! Decides whether writes, retries and reads are admitted, as far as that depends on ImmuDB.
//! Performs no I/O: the state and the tip are passed in.

use std::time::Duration;

use super::state::State;
use crate::{
    error::{FailedPrecondition, Limit, StoreError, Unavailable},
    event::Position,
    log::{LogOffset, Tip},
};

/// The limits on data that ImmuDB lacks.
#[derive(Debug, Clone, Copy)]
pub struct PendingLimits {
    pub events_max: u64,
    pub bytes_max: u64,
    /// Size of a segment, to compute the distance between two offsets.
    pub segment_bytes_max: u64,
}

impl PendingLimits {
    /// Returns the bytes of the log between two offsets, as if all segments between them were full.
    pub fn distance(&self, from: LogOffset, to: LogOffset) -> u64 {
        let segments = u64::from(to.segment.saturating_sub(from.segment));
        segments.saturating_mul(self.segment_bytes_max).saturating_add(to.offset).saturating_sub(from.offset)
    }
}

/// The conditions of admission, apart from the state.
#[derive(Debug)]
pub(super) struct Admission {
    limits: PendingLimits,
    /// No event is accepted before ImmuDB has been contacted.
    contact_missing: bool,
    shutting_down: bool,
}

impl Admission {
    pub(super) fn new(limits: PendingLimits, contact_missing: bool) -> Self {
        Self { limits, contact_missing, shutting_down: false }
    }

    pub(super) fn contacted(&mut self) {
        self.contact_missing = false;
    }

    pub(super) fn shut_down(&mut self) {
        self.shutting_down = true;
    }

    /// Checks whether a write is admitted, with this many pending events and ImmuDB at `forwarded`.
    pub(super) fn write(
        &self,
        state: State,
        tip: Tip,
        pending_events: u64,
        forwarded: LogOffset,
    ) -> Result<(), StoreError> {
        self.serves()?;
        match state {
            State::Starting | State::Copying => return Err(StoreError::Unavailable(Unavailable::Starting)),
            State::Fenced => return Err(FailedPrecondition::Fenced.into()),
            // The service would assign sequence numbers a second time.
            State::Suspect | State::Tampered if tip.position == Position(0) => {
                return Err(StoreError::Unavailable(Unavailable::EmptyLog));
            }
            State::LocalOnly => return Ok(()),
            State::Connected | State::Fallback | State::Migrating | State::Suspect | State::Tampered => {}
        }
        if self.contact_missing {
            return Err(StoreError::Unavailable(Unavailable::FirstContact));
        }
        let full =
            |limit, max| StoreError::Full { limit, max, share: None, retry_after: Duration::from_secs(1) };
        if pending_events >= self.limits.events_max {
            return Err(full(Limit::PendingEvents, self.limits.events_max));
        }
        if self.limits.distance(forwarded, tip.end) >= self.limits.bytes_max {
            return Err(full(Limit::PendingBytes, self.limits.bytes_max));
        }
        Ok(())
    }

    /// Checks whether a retry may be answered with the result of an earlier attempt.
    pub(super) fn retry(&self, state: State, tip: Tip) -> Result<(), StoreError> {
        self.serves()?;
        self.history_is_known(state, tip)
    }

    /// Checks whether reads are admitted.
    pub(super) fn read(&self, state: State, tip: Tip) -> Result<(), StoreError> {
        self.history_is_known(state, tip)?;
        match state {
            // What looks like an empty history is a lost disk, or belongs to another service.
            State::Suspect | State::Fenced | State::Tampered if tip.position == Position(0) => {
                Err(StoreError::Unavailable(Unavailable::EmptyLog))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn is_serving(&self, state: State) -> bool {
        !self.contact_missing && !matches!(state, State::Starting | State::Copying)
    }

    /// Returns whether so many events are pending that writes are throttled.
    pub(super) fn is_crowded(&self, pending_events: u64) -> bool {
        pending_events > self.limits.events_max / 2
    }

    fn serves(&self) -> Result<(), StoreError> {
        if self.shutting_down { Err(StoreError::Unavailable(Unavailable::ShuttingDown)) } else { Ok(()) }
    }

    /// Checks whether the local log may be taken for the history.
    fn history_is_known(&self, state: State, tip: Tip) -> Result<(), StoreError> {
        match state {
            State::Starting | State::Copying => Err(StoreError::Unavailable(Unavailable::Starting)),
            State::Fenced if tip.position == Position(0) => Ok(()),
            // What looks like an empty history may be a lost disk, and what looks complete may be
            // an older copy.
            State::Fallback | State::Fenced if self.contact_missing => {
                Err(StoreError::Unavailable(Unavailable::FirstContact))
            }
            _ => Ok(()),
        }
    }
}
