//! Finds out whether the events of an append are already stored.
//!
//! A retry gets the answer of the first attempt again, whatever the state of the service. An id
//! that was used for a different event is rejected. The client determines how much there is to
//! read, so the search stops at the first event that does not match. The events of a retry are read
//! as one run of records: all events of an append are in one frame.

use std::collections::HashMap;

use super::{
    append::{Append, StoredAggregate, StoredAppend},
    lookup::Lookup,
    thresholds::SnapshotThresholds,
};
use crate::{
    error::{Conflict, StoreError, Unreadable},
    event::{AggregateId, AppendBounds, ContentDigest, EventId, Position, SequenceNumber, record},
    index::{AbsentUpTo, Head, IndexError, Presence, StoredId, WaitMode},
    log::{LogOffset, RecordAddress, RecordRun},
    refusals,
};

/// An event that is already stored, or that will be stored with the group being assembled.
#[derive(Debug, Clone)]
pub(super) struct ExistingEvent {
    pub id: EventId,
    pub aggregate_id: AggregateId,
    pub sequence: SequenceNumber,
    pub position: Position,
    pub bounds: AppendBounds,
    pub digest: ContentDigest,
    pub place: RecordAddress,
}

/// The outcome of earlier attempts at an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EarlierAttempt {
    /// An earlier attempt stored all of its events.
    Stored(StoredAppend),
    /// No stored append was found. An attempt may still be under way.
    NotFound {
        /// The position up to which none of its events is stored. `None` if nothing is known for
        /// certain.
        absent_up_to: Option<AbsentUpTo>,
    },
}

impl EarlierAttempt {
    /// Returns the stored append, or `None` if none was found.
    pub fn stored(self) -> Option<StoredAppend> {
        match self {
            Self::Stored(stored) => Some(stored),
            Self::NotFound { .. } => None,
        }
    }
}

/// The values that identify a retry: the event's id and a digest of the client's data.
#[derive(Debug, Clone, Copy)]
pub(super) struct SentEvent {
    pub id: EventId,
    pub digest: ContentDigest,
}

impl SentEvent {
    pub(super) fn all_of(append: &Append) -> Vec<Self> {
        append.events.iter().map(|(event, digest)| Self { id: event.id, digest: *digest }).collect()
    }
}

/// The stored events of an append.
#[derive(Debug)]
pub(super) struct ExistingAppend {
    pub aggregates: Aggregates,
    pub bounds: AppendBounds,
    pub end: LogOffset,
}

impl Lookup {
    /// See [`Index::presence`](crate::index::Index::presence).
    pub(super) fn presence(&self, sent: &[SentEvent]) -> Presence {
        self.index.presence(sent.iter().map(|event| event.id))
    }

    /// Returns up to where none of these events is stored, or `None` if one may be. Reads only
    /// memory.
    pub(super) fn absent_up_to(&self, sent: &[SentEvent]) -> Option<AbsentUpTo> {
        match self.presence(sent) {
            Presence::Absent(up_to) => Some(up_to),
            Presence::Suspected(..) | Presence::Present => None,
        }
    }

    /// Whether none of these events is stored. If the index cannot tell, the answer is no.
    pub(super) fn are_absent(&self, ids: &[EventId]) -> bool {
        ids.iter().all(|id| matches!(self.index.event_with(*id, WaitMode::AtOnce), Ok(None)))
    }

    /// Looks up an id in the index. If the index cannot tell, the event may be stored.
    fn look_up(&self, id: EventId) -> Result<Option<StoredId>, StoreError> {
        self.index.event_with(id, WaitMode::AtOnce).map_err(|error| {
            refusals::failed("cannot determine from the index whether an event is stored", &error);
            StoreError::OutcomeUnknown
        })
    }

    /// Finds the append that stored these events. Most appends were looked up just before, so only
    /// what was added since then has to be checked, in memory.
    ///
    /// # Errors
    /// See [`Lookup::find`].
    pub(super) fn find_since(
        &self,
        absent_up_to: Option<AbsentUpTo>,
        sent: &[SentEvent],
    ) -> Result<Option<ExistingAppend>, StoreError> {
        let ids = sent.iter().map(|event| event.id);
        if absent_up_to.is_some_and(|up_to| self.index.is_still_absent(up_to, ids)) {
            debug_assert!(!matches!(self.find(sent), Ok(Some(_))), "it is stored");
            return Ok(None);
        }
        self.find(sent)
    }

    /// Finds the append that stored these events.
    ///
    /// # Errors
    /// Returns an error if some of the ids were used for a different append, or if the stored
    /// events cannot be read.
    pub(super) fn find(&self, sent: &[SentEvent]) -> Result<Option<ExistingAppend>, StoreError> {
        let Some(first) = sent.first() else { return Ok(None) };
        let Some(found) = self.look_up(first.id)? else {
            // Either all or none of an append's ids are stored.
            for event in sent.iter().skip(1) {
                if self.look_up(event.id)?.is_some() {
                    // The append may have become visible since the first lookup; its ids appear all
                    // at once.
                    return match self.look_up(first.id)? {
                        Some(_) => self.find(sent),
                        None => Err(Conflict::EventIdReused(event.id).into()),
                    };
                }
            }
            return Ok(None);
        };
        let mut records = RecordRun::new(&self.segments, found.place)?;
        let stored = sent.iter().map_while(|sent| match self.look_up(sent.id) {
            // The record of a different event is not read.
            Ok(found) => found.filter(|found| found.may_be(sent.digest)).map(|_| read(&mut records)),
            Err(error) => Some(Err(error)),
        });
        ExistingAppend::matching(sent, stored).map(Some)
    }
}

fn read(records: &mut RecordRun) -> Result<ExistingEvent, StoreError> {
    let (place, checked) = records.read()?;
    let stored = record::decode(checked.bytes, checked.hash).map_err(Unreadable::from)?;
    Ok(ExistingEvent {
        id: stored.event.id,
        aggregate_id: stored.event.aggregate_id,
        sequence: stored.sequence,
        position: stored.position,
        bounds: stored.append,
        digest: stored.digest,
        place,
    })
}

impl ExistingAppend {
    /// Returns the append made of `stored` if it is the one that was sent. Reads no more of
    /// `stored` than necessary.
    ///
    /// # Errors
    /// Returns an error if it is a different append, or if a stored event cannot be read.
    pub(super) fn matching(
        sent: &[SentEvent],
        stored: impl Iterator<Item = Result<ExistingEvent, StoreError>>,
    ) -> Result<Self, StoreError> {
        let mut found: Option<Self> = None;
        for (number, (sent_event, stored)) in (0u64..).zip(sent.iter().zip(stored)) {
            let stored = stored?;
            let bounds = found.as_ref().map_or(stored.bounds, |found| found.bounds);
            let fits = stored.id == sent_event.id
                && stored.digest == sent_event.digest
                && stored.bounds == bounds
                && stored.position.0 == bounds.first.0.saturating_add(number)
                && bounds.event_count() == sent.len() as u64;
            if !fits {
                break;
            }
            let found = found.get_or_insert_with(|| Self {
                aggregates: Aggregates::default(),
                bounds,
                end: LogOffset::START,
            });
            found.aggregates.add(&stored.aggregate_id, stored.sequence);
            found.end = stored.place.end();
            if stored.position == bounds.last {
                return Ok(Self { aggregates: std::mem::take(&mut found.aggregates), ..*found });
            }
        }
        let first = sent.first().map(|event| event.id);
        Err(first.map_or_else(
            || StoreError::invalid("events", "must not be empty"),
            |id| Conflict::EventIdReused(id).into(),
        ))
    }

    /// Builds the answer of the first attempt. `head` looks up an aggregate.
    pub(super) fn into_stored(
        self,
        sent: &[SentEvent],
        thresholds: &SnapshotThresholds,
        mut head: impl FnMut(&AggregateId) -> Result<Option<Head>, IndexError>,
    ) -> StoredAppend {
        let mut aggregates = self.aggregates.list;
        for aggregate in &mut aggregates {
            // The append is stored, so a failed lookup here must not turn it into a failure.
            let head = head(&aggregate.id).unwrap_or_else(|error| {
                refusals::failed("cannot determine from the index whether a snapshot is due", &error);
                None
            });
            aggregate.snapshot_due = head.is_some_and(|head| thresholds.is_due(&aggregate.id, &head));
        }
        let event_ids = sent.iter().map(|event| event.id).collect();
        StoredAppend { aggregates, event_ids, bounds: self.bounds, end: self.end, already: true }
    }
}

/// The aggregates of an append, in the order of their first events.
#[derive(Debug, Default)]
pub(super) struct Aggregates {
    pub list: Vec<StoredAggregate>,
    places: HashMap<AggregateId, usize>,
}

impl Aggregates {
    /// Assigns the next sequence number of the aggregate. `before` is its last number before the
    /// append.
    pub(super) fn next(&mut self, id: &AggregateId, before: SequenceNumber) -> SequenceNumber {
        let sequence = self.known(id).map_or(before, |aggregate| aggregate.last).next();
        self.add(id, sequence);
        sequence
    }

    /// Returns the entry of an aggregate. Most events belong to the same aggregate as the one
    /// before.
    fn known(&mut self, id: &AggregateId) -> Option<&mut StoredAggregate> {
        let newest = self.list.len().checked_sub(1)?;
        let place = match self.list.get(newest) {
            Some(aggregate) if aggregate.id == *id => newest,
            _ => *self.places.get(id)?,
        };
        self.list.get_mut(place)
    }

    fn add(&mut self, id: &AggregateId, sequence: SequenceNumber) {
        match self.known(id) {
            Some(aggregate) => aggregate.last = sequence,
            None => {
                self.places.insert(id.clone(), self.list.len());
                let (first, last) = (sequence, sequence);
                self.list.push(StoredAggregate { id: id.clone(), first, last, snapshot_due: false });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;
    use crate::sequencer::{
        Append, Origin,
        tests::{in_folder, one_event, start},
    };

    /// An event that a filter wrongly contains is new, and is stored once.
    #[tokio::test]
    async fn a_false_positive_of_a_filter_is_no_stored_event() {
        const STORED: usize = 100;
        const CANDIDATES: usize = 100_000;
        let folder = tempfile::tempdir().unwrap();
        let running = start(&in_folder(&folder));
        let appends = (0..STORED).map(|_| running.sequencer.append(one_event("a"), Origin::default()));
        join_all(appends).await.into_iter().for_each(|stored| assert!(!stored.unwrap().already));
        // This stops the sequencer, which writes the index to a file.
        drop(running);
        let running = start(&in_folder(&folder));
        let lookup = &running.sequencer.lookup;
        let presence = |append: &Append| lookup.presence(&SentEvent::all_of(append));
        let suspect = (0..CANDIDATES).map(|_| one_event("a")).find(|append| {
            let presence = presence(append);
            assert_ne!(presence, Presence::Present);
            matches!(presence, Presence::Suspected(..))
        });
        let suspect = suspect.expect("a filter without false positives");
        let again = || Append { events: suspect.events.clone(), expected: Vec::new() };
        let before = running.sequencer.stored_before(&suspect).await.unwrap();
        let EarlierAttempt::NotFound { absent_up_to: Some(up_to) } = before else { panic!("{before:?}") };
        let sent = SentEvent::all_of(&suspect);
        assert!(lookup.find_since(Some(up_to), &sent).unwrap().is_none());
        for (number, already) in [(101, false), (101, true)] {
            let stored = running.sequencer.append(again(), Origin::default()).await.unwrap();
            assert_eq!((stored.bounds.last, stored.already), (Position(number), already));
        }
        // What was absent a moment ago is found when it has been stored meanwhile.
        assert!(lookup.find_since(Some(up_to), &sent).unwrap().is_some());
    }

    #[test]
    fn no_more_is_read_than_up_to_the_first_event_that_does_not_fit() {
        const EVENTS: usize = 500;
        let digest = ContentDigest([7; 32]);
        let sent: Vec<SentEvent> = (0..EVENTS).map(|_| SentEvent { id: EventId::random(), digest }).collect();
        let bounds = AppendBounds { first: Position(1), last: Position(EVENTS as u64) };
        let existing = |number: usize| ExistingEvent {
            id: sent[number].id,
            aggregate_id: AggregateId::new("room-1").unwrap(),
            sequence: SequenceNumber(number as u64 + 1),
            position: Position(number as u64 + 1),
            bounds,
            digest,
            place: RecordAddress { segment: 1, offset: 0, length: 1 },
        };
        for first_other in [0, 3, EVENTS - 1, EVENTS] {
            let mut read = 0;
            let stored = (0..EVENTS).map(|number| {
                read += 1;
                let digest = ContentDigest([if number == first_other { 8 } else { 7 }; 32]);
                Ok(ExistingEvent { digest, ..existing(number) })
            });
            let found = ExistingAppend::matching(&sent, stored);
            assert_eq!(found.is_ok(), first_other == EVENTS);
            assert_eq!(read, (first_other + 1).min(EVENTS));
        }
    }
}
