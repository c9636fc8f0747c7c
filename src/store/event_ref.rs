//! Finds an event by its id, or by its aggregate and sequence number.

use super::EventStore;
use crate::{
    error::{NoProof, StoreError, Unreadable},
    event::{AggregateId, EventId, Position, SequenceNumber, record::StoredEvent},
    history::{History, HistoryError},
};

/// An event as a caller names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EventRef {
    /// By its id.
    Id(EventId),
    /// By its number within an aggregate.
    Numbered(AggregateId, SequenceNumber),
}

impl EventStore {
    /// Returns the position of an event.
    ///
    /// # Errors
    /// Returns an error if there is no such event, or if it is damaged; see [`StoreError`].
    pub(crate) fn position_of(&self, event: &EventRef) -> Result<Position, StoreError> {
        self.counted_load(|| {
            self.admit_read()?;
            match event {
                EventRef::Id(id) => self.position_of_id(*id),
                EventRef::Numbered(aggregate, sequence) => self.position_of_number(aggregate, *sequence),
            }
        })
    }

    fn position_of_id(&self, id: EventId) -> Result<Position, StoreError> {
        let place = self.history.index.event(id)?.ok_or(NoProof::NoEvent)?;
        let found = self.history.event(place)?;
        if found.event.id != id {
            return Err(Unreadable::EventMissing.into());
        }
        Ok(found.position)
    }

    fn position_of_number(
        &self,
        aggregate: &AggregateId,
        sequence: SequenceNumber,
    ) -> Result<Position, StoreError> {
        let History { index, wait_mode, segments } = &self.history;
        let last = index.head(aggregate)?.map_or(0, |head| head.last.0);
        if !(1..=last).contains(&sequence.0) {
            return Err(NoProof::NoEvent.into());
        }
        let place = index.event_numbered(aggregate, sequence, *wait_mode)?;
        let place = place.ok_or(Unreadable::EventMissing)?;
        let record = segments.read(place)?;
        let found = StoredEvent::new(record.bytes, record.hash)
            .map_err(|source| HistoryError::Record { place, source })?;
        if found.sequence != sequence || found.aggregate_id() != aggregate.as_str().as_bytes() {
            return Err(HistoryError::Gap { aggregate: aggregate.clone(), sequence }.into());
        }
        Ok(found.position)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;
    use crate::{
        sequencer::tests::{in_folder, one_event, start},
        store::tests::local_store,
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn an_event_is_found_by_its_id_and_by_its_number() {
        let folder = tempdir().unwrap();
        let running = start(&in_folder(&folder));
        let store = local_store(&running);
        let mut ids = Vec::new();
        for aggregate in ["room-1", "room-2", "room-1"] {
            ids.push(store.append(one_event(aggregate)).await.unwrap().stored.event_ids[0]);
        }
        let numbered = |aggregate: &str, sequence| {
            EventRef::Numbered(AggregateId::new(aggregate).unwrap(), SequenceNumber(sequence))
        };
        for (event, position) in [
            (numbered("room-1", 1), 1),
            (numbered("room-2", 1), 2),
            (numbered("room-1", 2), 3),
            (EventRef::Id(ids[1]), 2),
            (EventRef::Id(ids[2]), 3),
        ] {
            assert_eq!(store.position_of(&event).unwrap(), Position(position), "{event:?}");
        }
        for missing in [
            numbered("room-1", 3),
            numbered("room-1", 0),
            numbered("room-3", 1),
            EventRef::Id(EventId::random()),
        ] {
            let refused = store.position_of(&missing).unwrap_err();
            assert!(matches!(refused, StoreError::NoProof(NoProof::NoEvent)), "{refused:?}");
        }
        assert_eq!(store.counters.load_failures.get(), 0);
    }
}
