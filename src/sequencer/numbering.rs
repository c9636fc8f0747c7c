//! Decides whether an append or a snapshot may be stored, and gives it its numbers.
//!
//! It leaves the write to the group that it adds the records to.

use std::collections::{HashMap, hash_map::Entry};

use super::{
    Append, StoredAppend, StoredSnapshot, Worker,
    existing::{Aggregates, ExistingAppend, ExistingEvent, SentEvent},
    group::OpenGroup,
};
use crate::{
    crash_point::CrashPoint,
    error::{Conflict, FailedPrecondition, StoreError},
    event::{
        AggregateId, AppendBounds, ChainHash, NewEvent, Position, SequenceNumber, Snapshot,
        record::{self, EventNumbers},
    },
    index::{AbsentUpTo, IndexedEvent, IndexedSnapshot, WaitMode},
};

impl OpenGroup {
    /// Checks event ids first, then the state of the service, then the expectations. A retry of a
    /// stored append is not a conflict, and it is answered whatever was stored after it.
    pub(super) fn append(
        &mut self,
        worker: &Worker,
        append: Append,
        absent_up_to: Option<AbsentUpTo>,
    ) -> Result<StoredAppend, StoreError> {
        let sent = SentEvent::all_of(&append);
        if let Some(existing) = self.existing(worker, &sent, absent_up_to)? {
            let thresholds = &worker.settings.thresholds;
            return Ok(existing.into_stored(&sent, thresholds, |id| self.entries.head(&worker.index, id)));
        }
        self.admit(worker)?;
        self.check_expectations(worker, &append)?;
        self.store(worker, append)
    }

    /// Finds the append that stored these events, in this group or before it.
    fn existing(
        &self,
        worker: &Worker,
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
        worker.stored_events.find_since(absent_up_to, sent)
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

    fn store(&mut self, worker: &Worker, append: Append) -> Result<StoredAppend, StoreError> {
        let heads = self.heads(worker, &append)?;
        let before = self.frames.tip();
        let bounds = AppendBounds {
            first: before.position.next(),
            last: Position(before.position.0.saturating_add(append.events.len() as u64)),
        };
        let mut aggregates = Aggregates::default();
        let mut numbered = Vec::with_capacity(append.events.len());
        for (position, (event, digest)) in (bounds.first.0..).zip(append.events) {
            let (before, aggregate_type) = heads.get(&event.aggregate_id).map_or_else(
                || (SequenceNumber(0), event.aggregate_type.clone()),
                |(last, kind)| (*last, kind.clone()),
            );
            let sequence = aggregates.next(&event.aggregate_id, before);
            let position = Position(position);
            let numbers = EventNumbers { sequence, position, recorded_at: self.now, append: bounds };
            numbered.push((NewEvent { aggregate_type, ..event }, numbers, digest));
        }
        let places = self.frames.append_with(numbered.iter().map(|(event, numbers, digest)| {
            move |out: &mut Vec<u8>| record::put(event, *numbers, *digest, out)
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
        if let Err(error) = self.entries.add_append(&worker.index, before.end, indexed) {
            // The frame has already been added. Without its index entries the group must not be
            // written.
            self.broken = true;
            return Err(error.into());
        }
        for aggregate in &mut aggregates.list {
            let head = self.entries.head(&worker.index, &aggregate.id)?;
            aggregate.snapshot_due =
                head.is_some_and(|head| worker.settings.thresholds.is_due(&aggregate.id, &head));
        }
        let end = self.frames.tip().end;
        Ok(StoredAppend { aggregates: aggregates.list, event_ids, bounds, end, already: false })
    }

    /// Returns the last sequence number and the type of every aggregate of the append. The type
    /// must be given with the aggregate's first event and never changes.
    fn heads(&mut self, worker: &Worker, append: &Append) -> Result<AggregateHeads, StoreError> {
        let mut heads = AggregateHeads::new();
        for (index, (event, _)) in append.events.iter().enumerate() {
            let given = &event.aggregate_type;
            let field = || format!("events[{index}].aggregate_type");
            let (_, kind) = match heads.entry(event.aggregate_id.clone()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => match self.entries.head(&worker.index, &event.aggregate_id)? {
                    Some(head) => unknown.insert((head.last, head.aggregate_type)),
                    None if given.is_empty() => {
                        let problem = "is required for the first event of an aggregate";
                        return Err(StoreError::invalid(field(), problem));
                    }
                    None => unknown.insert((SequenceNumber(0), given.clone())),
                },
            };
            if !given.is_empty() && given != kind {
                let problem = format!("differs from the type of aggregate {}", event.aggregate_id);
                return Err(StoreError::invalid(field(), problem));
            }
        }
        Ok(heads)
    }

    /// Adds a snapshot, tied by a hash to the history it was made from.
    pub(super) fn snapshot(
        &mut self,
        worker: &Worker,
        snapshot: Snapshot,
    ) -> Result<StoredSnapshot, StoreError> {
        let aggregate = snapshot.aggregate_id.clone();
        let sequence = snapshot.sequence;
        let head = self.entries.head(&worker.index, &aggregate)?;
        let last = head.as_ref().map_or(SequenceNumber(0), |head| head.last);
        let Some(head) = head.filter(|_| sequence <= last) else {
            return Err(FailedPrecondition::SnapshotAhead { aggregate, snapshot: sequence, last }.into());
        };
        if let Some(newer) = head.snapshot.filter(|newer| newer.sequence > sequence) {
            return Ok(StoredSnapshot { end: newer.place.end(), dropped: true });
        }
        let event_hash = event_hash(worker, &aggregate, sequence)?;
        let record = record::encode_snapshot(Snapshot { event_hash, recorded_at: self.now, ..snapshot });
        let stored = self.frames.snapshot(&record);
        CrashPoint::SnapshotLaidOut.reached();
        let indexed = IndexedSnapshot { aggregate_id: aggregate, sequence, place: stored.place };
        self.entries.add_snapshot(&worker.index, indexed)?;
        Ok(StoredSnapshot { end: self.frames.tip().end, dropped: false })
    }
}

type AggregateHeads = HashMap<AggregateId, (SequenceNumber, std::sync::Arc<str>)>;

/// Returns the hash of an event in the log.
pub(super) fn event_hash(
    worker: &Worker,
    aggregate: &AggregateId,
    sequence: SequenceNumber,
) -> Result<ChainHash, StoreError> {
    let place = worker.index.event_numbered(aggregate, sequence, WaitMode::AtOnce)?;
    let place = place.ok_or_else(|| StoreError::Damaged("index: an event is missing".into()))?;
    Ok(worker.log.segments().read(place)?.hash)
}
