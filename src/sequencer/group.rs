//! A group that is being assembled: its frames, its index entries and its events.
//!
//! A group is written with one sync, and its contents become findable in one step. Until then, it
//! exists only in memory. The calls of a group see the effects of the calls before them in it.

use std::collections::HashMap;

use super::{
    existing::{ExistingAppend, ExistingEvent, SentEvent},
    lookup::Lookup,
};
use crate::{
    clock::Implausible,
    error::{Conflict, StoreError},
    event::{
        AggregateId, EventId, Timestamp,
        record::{self, ReplicationMark},
    },
    index::{AbsentUpTo, Head, IndexBatch, IndexError},
    log::Group,
};

/// A group that is being assembled.
pub(super) struct OpenGroup {
    pub frames: Group,
    pub entries: IndexBatch,
    /// The recorded time of everything in the group.
    pub now: Timestamp,
    /// Checked once, together with `now`: the clock may be adjusted while the group is assembled.
    pub time_is_known: Result<(), Implausible>,
    /// Events of this group, which cannot be looked up in the log yet.
    pub events: HashMap<EventId, ExistingEvent>,
    /// Set if frames were added but cannot be made findable. Nothing of the group may then be
    /// written.
    pub broken: bool,
    /// The replication marks that the group includes.
    pub marks: Vec<ReplicationMark>,
}

impl OpenGroup {
    /// Starts a group with the waiting replication marks.
    pub(super) fn new(frames: Group, lookup: &Lookup, marks: Vec<ReplicationMark>) -> Self {
        let entries = IndexBatch::new(&lookup.index);
        // The clock may be set back, but recorded times never decrease.
        let (time, newest) = (lookup.settings.clock.time(), entries.complete().recorded_at);
        let now = time.unwrap_or(newest).max(newest);
        let time_is_known = time.map(|_| ());
        let (events, broken) = (HashMap::new(), false);
        let mut group = Self { frames, entries, now, time_is_known, events, broken, marks: Vec::new() };
        for mark in &marks {
            group.add_mark(*mark);
        }
        group.marks = marks;
        group
    }

    pub(super) fn add_mark(&mut self, mark: ReplicationMark) {
        self.frames.mark(&record::encode_mark(mark));
        self.entries.add_mark(mark);
    }

    /// Returns the aggregate's head, including what this group has added so far.
    ///
    /// # Errors
    /// Returns an error if the index is unusable.
    pub(super) fn head(&mut self, lookup: &Lookup, id: &AggregateId) -> Result<Option<Head>, IndexError> {
        self.entries.head(&lookup.index, id)
    }

    /// Finds the append that stored these events, in this group or before it.
    ///
    /// # Errors
    /// See [`Lookup::find`].
    pub(super) fn existing(
        &self,
        lookup: &Lookup,
        sent: &[SentEvent],
        absent_up_to: Option<AbsentUpTo>,
    ) -> Result<Option<ExistingAppend>, StoreError> {
        let in_group = |event: &SentEvent| self.events.get(&event.id);
        if let Some(reused) = sent.iter().find(|event| in_group(event).is_some()) {
            // An append is in this group with all of its events or with none.
            let stored = sent.iter().map_while(in_group).cloned().map(Ok);
            return match ExistingAppend::matching(sent, stored) {
                Err(StoreError::Conflict(_)) => Err(Conflict::EventIdReused(reused.id).into()),
                found => found.map(Some),
            };
        }
        lookup.find_since(absent_up_to, sent)
    }
}
