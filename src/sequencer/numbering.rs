//! Gives the events of an append their sequence numbers and positions, and adds them to the group.
//!
//! The append was checked before. The write is left to the worker.

use super::{
    append::{Append, StoredAppend},
    existing::{Aggregates, ExistingEvent},
    expectations::AggregateHeads,
    group::OpenGroup,
    lookup::Lookup,
};
use crate::{
    error::StoreError,
    event::{
        AppendBounds, ContentDigest, NewEvent, Position, SequenceNumber, Timestamp,
        record::{self, EventNumbers},
    },
    index::IndexedEvent,
};

type NumberedEvent = (NewEvent, EventNumbers, ContentDigest);

/// Numbers the events at the positions `bounds`. `heads` has the aggregates as they were before.
fn number_events(
    append: Append,
    heads: &AggregateHeads,
    bounds: AppendBounds,
    recorded_at: Timestamp,
) -> (Vec<NumberedEvent>, Aggregates) {
    let mut aggregates = Aggregates::default();
    let mut numbered = Vec::with_capacity(append.events.len());
    for (position, (event, digest)) in (bounds.first.0..).zip(append.events) {
        let (before, aggregate_type) = heads.get(&event.aggregate_id).map_or_else(
            || (SequenceNumber(0), event.aggregate_type.clone()),
            |(last, kind)| (*last, kind.clone()),
        );
        let sequence = aggregates.next(&event.aggregate_id, before);
        let numbers = EventNumbers { sequence, position: Position(position), recorded_at, append: bounds };
        numbered.push((NewEvent { aggregate_type, ..event }, numbers, digest));
    }
    (numbered, aggregates)
}

impl OpenGroup {
    /// Adds an append to the group. `heads` has its aggregates, including what this group has added
    /// so far. Each event gets the name of the identity that appends it.
    pub(super) fn number(
        &mut self,
        lookup: &Lookup,
        append: Append,
        heads: &AggregateHeads,
        recorded_by: &str,
    ) -> Result<StoredAppend, StoreError> {
        let before = self.frames.tip();
        let bounds = AppendBounds {
            first: before.position.next(),
            last: Position(before.position.0.saturating_add(append.events.len() as u64)),
        };
        let (numbered, mut aggregates) = number_events(append, heads, bounds, self.now);
        let places = self.frames.append_with(numbered.iter().map(|(event, numbers, digest)| {
            move |out: &mut Vec<u8>| record::put(event, *numbers, *digest, recorded_by, out)
        }));
        let mut indexed = Vec::with_capacity(numbered.len());
        let mut event_ids = Vec::with_capacity(numbered.len());
        for ((event, numbers, digest), stored) in numbered.into_iter().zip(places) {
            event_ids.push(event.id);
            let existing = ExistingEvent {
                id: event.id,
                aggregate_id: event.aggregate_id.clone(),
                sequence: numbers.sequence,
                position: numbers.position,
                bounds,
                digest,
                place: stored.place,
            };
            self.events.insert(event.id, existing);
            indexed.push(IndexedEvent {
                id: event.id,
                aggregate_id: event.aggregate_id,
                aggregate_type: event.aggregate_type,
                event_type: event.event_type,
                sequence: numbers.sequence,
                position: numbers.position,
                recorded_at: numbers.recorded_at,
                place: stored.place,
                digest,
            });
        }
        if let Err(error) = self.entries.add_append(&lookup.index, before.end, indexed) {
            // The frame has already been added. Without its index entries the group must not be
            // written.
            self.broken = true;
            return Err(error.into());
        }
        for aggregate in &mut aggregates.list {
            let head = self.head(lookup, &aggregate.id)?;
            let thresholds = &lookup.settings.thresholds;
            aggregate.snapshot_due = head.is_some_and(|head| thresholds.is_due(&aggregate.id, &head));
        }
        let end = self.frames.tip().end;
        Ok(StoredAppend { aggregates: aggregates.list, event_ids, bounds, end, already: false })
    }
}
