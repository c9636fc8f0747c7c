//! Whether an append or a snapshot may be stored, and what it becomes.

use std::{collections::HashMap, time::Duration};

use super::{Append, SnapshotStored, Stored, StoredAggregate, Worker, group::OpenGroup};
use crate::{
    crash_point::CrashPoint,
    event::{
        AggregateId, AppendBounds, ContentDigest, EventId, Hash, NewEvent, Position, SequenceNumber,
        Snapshot,
        record::{self, Numbers},
    },
    index::{Direction, Head, IndexedEvent, IndexedSnapshot},
    log::{Place, RecordPlace},
    store::{Conflict, Limit, Precondition, StoreError},
};

/// An event that is stored already, or will be with this group.
#[derive(Debug, Clone)]
pub(super) struct Known {
    aggregate_id: AggregateId,
    sequence: SequenceNumber,
    position: Position,
    bounds: AppendBounds,
    digest: ContentDigest,
    place: RecordPlace,
}

impl OpenGroup {
    /// Ids first, then expectations: a resend of what was stored is no conflict, whatever came after it.
    pub(super) fn append(&mut self, worker: &Worker, append: Append) -> Result<Stored, StoreError> {
        if let Some(stored) = self.already_stored(worker, &append)? {
            return Ok(stored);
        }
        self.check_expectations(worker, &append)?;
        self.store(worker, append)
    }

    /// The answer of the append that these events were stored with, if they were.
    fn already_stored(&mut self, worker: &Worker, append: &Append) -> Result<Option<Stored>, StoreError> {
        let mut known = Vec::with_capacity(append.events.len());
        for (event, _) in &append.events {
            known.push(self.known(worker, event.id)?);
        }
        let Some(reused) = known.iter().position(Option::is_some) else { return Ok(None) };
        let reused = append.events.get(reused).map(|(event, _)| event.id);
        let all: Option<Vec<Known>> = known.into_iter().collect();
        let same = all.filter(|all| is_same_append(all, append));
        match (same, reused) {
            (Some(all), _) => {
                let event_ids = append.events.iter().map(|(event, _)| event.id).collect();
                self.first_answer(worker, &all, event_ids).map(Some)
            }
            (None, Some(id)) => Err(Conflict::EventIdReused(id).into()),
            (None, None) => Ok(None),
        }
    }

    fn known(&self, worker: &Worker, id: EventId) -> Result<Option<Known>, StoreError> {
        if let Some(known) = self.events.get(&id) {
            return Ok(Some(known.clone()));
        }
        let Some(place) = worker.index.event(id)? else { return Ok(None) };
        let checked = worker.log.segments().read(place)?;
        let stored = record::decode(checked.bytes, checked.hash)
            .map_err(|error| StoreError::Damaged(error.to_string()))?;
        Ok(Some(Known {
            aggregate_id: stored.event.aggregate_id,
            sequence: stored.sequence,
            position: stored.position,
            bounds: stored.append,
            digest: stored.digest,
            place,
        }))
    }

    fn first_answer(
        &mut self,
        worker: &Worker,
        all: &[Known],
        event_ids: Vec<EventId>,
    ) -> Result<Stored, StoreError> {
        let mut aggregates = Aggregates::default();
        for known in all {
            aggregates.add(&known.aggregate_id, known.sequence);
        }
        let end = all.last().map_or(Place::START, |known| known.place.end());
        let bounds =
            all.first().map_or(AppendBounds { first: Position(0), last: Position(0) }, |one| one.bounds);
        let mut stored = aggregates.list;
        for aggregate in &mut stored {
            let head = self.entries.head(&worker.index, &aggregate.id)?;
            aggregate.snapshot_due = head.is_some_and(|head| snapshot_due(worker, &aggregate.id, &head));
        }
        Ok(Stored { aggregates: stored, event_ids, bounds, end, already: true })
    }

    fn check_expectations(&mut self, worker: &Worker, append: &Append) -> Result<(), StoreError> {
        for (aggregate, expected) in &append.expected {
            let head = self.entries.head(&worker.index, aggregate)?;
            let actual = head.map_or(SequenceNumber(0), |head| head.last);
            if actual != *expected {
                let (aggregate, expected) = (aggregate.clone(), *expected);
                return Err(Conflict::WrongExpectedSequence { aggregate, expected, actual }.into());
            }
        }
        Ok(())
    }

    fn store(&mut self, worker: &Worker, append: Append) -> Result<Stored, StoreError> {
        let heads = self.heads(worker, &append)?;
        self.check_types(worker, &append, &heads)?;
        let before = self.frames.tip();
        let bounds = AppendBounds {
            first: before.position.next(),
            last: Position(before.position.0.saturating_add(append.events.len() as u64)),
        };
        let mut aggregates = Aggregates::default();
        let mut records = Vec::with_capacity(append.events.len());
        let mut indexed = Vec::with_capacity(append.events.len());
        let mut digests = Vec::with_capacity(append.events.len());
        for (position, (event, digest)) in (bounds.first.0..).zip(append.events) {
            let position = Position(position);
            let (before, aggregate_type) = heads.get(&event.aggregate_id).map_or_else(
                || (SequenceNumber(0), event.aggregate_type.clone()),
                |(last, kind)| (*last, kind.clone()),
            );
            let sequence = aggregates.next(&event.aggregate_id, before);
            indexed.push(IndexedEvent {
                id: event.id,
                aggregate_id: event.aggregate_id.clone(),
                aggregate_type: aggregate_type.clone(),
                event_type: event.event_type.clone(),
                sequence,
                position,
                recorded_at: self.now,
                // Known once the frame is laid out.
                place: RecordPlace { segment: 0, offset: 0, length: 0 },
            });
            let numbers = Numbers { sequence, position, recorded_at: self.now, append: bounds };
            records.push(record::encode(NewEvent { aggregate_type, ..event }, numbers, digest));
            digests.push(digest);
        }
        let places = self.frames.append(&records);
        let mut event_ids = Vec::with_capacity(indexed.len());
        for ((event, stored), digest) in indexed.iter_mut().zip(&places).zip(digests) {
            event.place = stored.place;
            event_ids.push(event.id);
            let known = Known {
                aggregate_id: event.aggregate_id.clone(),
                sequence: event.sequence,
                position: event.position,
                bounds,
                digest,
                place: stored.place,
            };
            self.events.insert(event.id, known);
        }
        if let Err(error) = self.entries.add_append(&worker.index, before.end, indexed) {
            // The frame is laid out already: without its entries the group must not be written.
            self.broken = true;
            return Err(error.into());
        }
        for aggregate in &mut aggregates.list {
            let head = self.entries.head(&worker.index, &aggregate.id)?;
            aggregate.snapshot_due = head.is_some_and(|head| snapshot_due(worker, &aggregate.id, &head));
        }
        let end = self.frames.tip().end;
        Ok(Stored { aggregates: aggregates.list, event_ids, bounds, end, already: false })
    }

    /// Types have names that people chose, and are few: a caller that makes them up would fill the memory.
    fn check_types(&self, worker: &Worker, append: &Append, heads: &Heads) -> Result<(), StoreError> {
        let max = worker.settings.types_max;
        let event_types = append.events.iter().map(|(event, _)| &event.event_type);
        let aggregate_types = heads.values().map(|(_, aggregate_type)| aggregate_type);
        if self.entries.has_room_for_types(&worker.index, max, event_types, aggregate_types) {
            return Ok(());
        }
        Err(StoreError::Full { limit: Limit::Types, max, retry_after: TYPES_RETRY })
    }

    /// The last number and the type of every aggregate of the append; its type must be known by its first
    /// event and never changes.
    fn heads(&mut self, worker: &Worker, append: &Append) -> Result<Heads, StoreError> {
        let mut heads = Heads::new();
        for (index, (event, _)) in append.events.iter().enumerate() {
            let given = &event.aggregate_type;
            let field = || format!("events[{index}].aggregate_type");
            let known = match heads.get(&event.aggregate_id) {
                Some(head) => Some(head.clone()),
                None => {
                    let head = self.entries.head(&worker.index, &event.aggregate_id)?;
                    head.map(|head| (head.last, head.aggregate_type))
                }
            };
            let head = match known {
                Some((_, kind)) if !given.is_empty() && *given != kind => {
                    let problem = format!("aggregate {} is of another type", event.aggregate_id);
                    return Err(StoreError::invalid(field(), problem));
                }
                Some(head) => head,
                None if given.is_empty() => {
                    let problem = "must not be empty with the first event of an aggregate";
                    return Err(StoreError::invalid(field(), problem));
                }
                None => (SequenceNumber(0), given.clone()),
            };
            heads.insert(event.aggregate_id.clone(), head);
        }
        Ok(heads)
    }

    /// Adds a snapshot, tied to the history that it was made from.
    pub(super) fn snapshot(
        &mut self,
        worker: &Worker,
        snapshot: Snapshot,
    ) -> Result<SnapshotStored, StoreError> {
        let aggregate = snapshot.aggregate_id.clone();
        let sequence = snapshot.sequence;
        let head = self.entries.head(&worker.index, &aggregate)?;
        let last = head.as_ref().map_or(SequenceNumber(0), |head| head.last);
        let Some(head) = head.filter(|_| sequence <= last) else {
            return Err(Precondition::SnapshotAhead { aggregate, snapshot: sequence, last }.into());
        };
        if let Some(newer) = head.snapshot.filter(|newer| newer.sequence > sequence) {
            return Ok(SnapshotStored { end: newer.place.end(), dropped: true });
        }
        let event_hash = event_hash(worker, &head, sequence)?;
        let record = record::encode_snapshot(Snapshot { event_hash, recorded_at: self.now, ..snapshot });
        let stored = self.frames.snapshot(&record);
        CrashPoint::SnapshotLaidOut.reached();
        let indexed = IndexedSnapshot { aggregate_id: aggregate, sequence, place: stored.place };
        self.entries.add_snapshot(&worker.index, indexed)?;
        Ok(SnapshotStored { end: self.frames.tip().end, dropped: false })
    }
}

/// Only a person changes it.
const TYPES_RETRY: Duration = Duration::from_secs(60);

type Heads = HashMap<AggregateId, (SequenceNumber, std::sync::Arc<str>)>;

/// Hash of an event that is in the log.
pub(super) fn event_hash(worker: &Worker, head: &Head, sequence: SequenceNumber) -> Result<Hash, StoreError> {
    let range = sequence.0..=sequence.0;
    let places = worker.index.events(head.number, range, Direction::Forwards, 1)?;
    let place = places.first().ok_or_else(|| StoreError::Damaged("index: an event is missing".into()))?;
    Ok(worker.log.segments().read(*place)?.hash)
}

fn snapshot_due(worker: &Worker, id: &AggregateId, head: &Head) -> bool {
    let since = head.snapshot.map_or(0, |snapshot| snapshot.sequence.0);
    head.last.0.saturating_sub(since) >= worker.settings.thresholds.of(id, &head.aggregate_type)
}

/// All events of one stored append, in the same order with the same content.
fn is_same_append(all: &[Known], append: &Append) -> bool {
    let Some(bounds) = all.first().map(|known| known.bounds) else { return false };
    bounds.event_count() == all.len() as u64
        && (bounds.first.0..).zip(all).zip(&append.events).all(|((position, known), (_, digest))| {
            known.bounds == bounds && known.position.0 == position && known.digest == *digest
        })
}

/// The aggregates of an append, in the order of their first events.
#[derive(Default)]
struct Aggregates {
    list: Vec<StoredAggregate>,
    places: HashMap<AggregateId, usize>,
}

impl Aggregates {
    /// Numbers the next event of the aggregate, whose last number before the append is `before`.
    fn next(&mut self, id: &AggregateId, before: SequenceNumber) -> SequenceNumber {
        let known = self.places.get(id).and_then(|place| self.list.get(*place));
        let sequence = known.map_or(before, |aggregate| aggregate.last).next();
        self.add(id, sequence);
        sequence
    }

    fn add(&mut self, id: &AggregateId, sequence: SequenceNumber) {
        match self.places.get(id).and_then(|place| self.list.get_mut(*place)) {
            Some(aggregate) => aggregate.last = sequence,
            None => {
                self.places.insert(id.clone(), self.list.len());
                let (first, last) = (sequence, sequence);
                self.list.push(StoredAggregate { id: id.clone(), first, last, snapshot_due: false });
            }
        }
    }
}
