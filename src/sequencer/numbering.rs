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
    ///
    /// # Errors
    /// Returns an error, and adds nothing, if the append is too large to be read back. Also returns
    /// an error if the index is unusable.
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
        // Nothing of it is in the group, so the other appends are not affected.
        let places = places.map_err(|too_large| StoreError::invalid("events", too_large.to_string()))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{AggregateId, Content},
        sequencer::{
            Origin, RestoreError, RestoredTransaction,
            tests::{in_folder, one_event, start},
        },
    };

    fn of_bytes(count: usize) -> Append {
        let Append { mut events, expected } = one_event("a");
        for (event, digest) in &mut events {
            event.content = Content::Json(format!("{:?}", "x".repeat(count)));
            *digest = ContentDigest::of(event);
        }
        Append { events, expected }
    }

    #[tokio::test]
    async fn an_append_that_could_not_be_read_back_is_refused_and_harms_no_other() {
        const TOO_LARGE: usize = 17 << 20;
        let folder = tempfile::tempdir().unwrap();
        let running = start(&in_folder(&folder));
        let sequencer = &running.sequencer;
        let append = |append| sequencer.append(append, Origin::default());
        // All three are in one group unless the thread is very fast.
        let (first, refused, second) =
            tokio::join!(append(one_event("a")), append(of_bytes(TOO_LARGE)), append(one_event("a")));
        let refused = refused.unwrap_err();
        let StoreError::Invalid { field, problem } = &refused else { panic!("{refused:?}") };
        assert!(field == "events" && problem.contains("at most 16777216 can be read back"), "{refused}");
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!((first.bounds.last, second.bounds.last), (Position(1), Position(2)));
        assert_eq!(second.aggregates[0].last, SequenceNumber(2));
        // What follows continues the log, and a restart finds all of it.
        assert_eq!(append(of_bytes(1000)).await.unwrap().bounds.last, Position(3));
        let tip = sequencer.tip();
        drop(running);
        let running = start(&in_folder(&folder));
        assert_eq!(running.sequencer.tip(), tip);
        let head = running.history.index.head(&AggregateId::new("a").unwrap()).unwrap();
        assert_eq!(head.unwrap().last, SequenceNumber(3));
    }

    #[tokio::test]
    async fn a_restored_append_that_could_not_be_read_back_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let running = start(&in_folder(&folder));
        let numbers = EventNumbers {
            sequence: SequenceNumber(1),
            position: Position(1),
            recorded_at: Timestamp::now(),
            append: AppendBounds { first: Position(1), last: Position(1) },
        };
        let mut record = Vec::new();
        let Append { events, .. } = of_bytes(17 << 20);
        record::put(&events[0].0, numbers, events[0].1, "", &mut record);
        let restored = RestoredTransaction { appends: vec![vec![record.into()]], ..Default::default() };
        let refused = running.sequencer.restore(vec![restored]).await.unwrap_err();
        assert!(matches!(refused, RestoreError::DoesNotContinue(_)), "{refused:?}");
        assert!(refused.to_string().contains("cannot hold the append at position 1"), "{refused}");
        let stored = running.sequencer.append(one_event("a"), Origin::default()).await.unwrap();
        assert_eq!(stored.bounds.last, Position(1));
    }
}
