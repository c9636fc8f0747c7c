//! What a call is decided from: the stored events and the settings.
//!
//! It may be used on any thread. Nothing adds to the log or the index through it: that is left to
//! the worker.

use std::sync::Arc;

use super::settings::Settings;
use crate::{
    error::{StoreError, Unreadable},
    event::{AggregateId, ChainHash, SequenceNumber},
    index::{Head, Index, IndexError, WaitMode},
    log::Segments,
};

/// Looks up stored events. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Lookup {
    pub index: Arc<Index>,
    pub segments: Arc<Segments>,
    pub settings: Arc<Settings>,
}

impl Lookup {
    /// Returns the head of an aggregate, without the group that is being assembled.
    ///
    /// # Errors
    /// Returns an error if the index cannot tell at once.
    pub(super) fn head(&self, id: &AggregateId) -> Result<Option<Head>, IndexError> {
        self.index.head_with(id, WaitMode::AtOnce)
    }

    /// Returns the hash of an event in the log.
    ///
    /// # Errors
    /// Returns an error if the event cannot be found or read.
    pub(super) fn event_hash(
        &self,
        aggregate: &AggregateId,
        sequence: SequenceNumber,
    ) -> Result<ChainHash, StoreError> {
        let place = self.index.event_numbered(aggregate, sequence, WaitMode::AtOnce)?;
        let place = place.ok_or(Unreadable::EventMissing)?;
        Ok(self.segments.read(place)?.hash)
    }
}
