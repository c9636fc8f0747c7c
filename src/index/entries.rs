//! What one group of frames adds to the index, put together before the frames are written: until then it
//! is also where the sequencer sees what the appends before in the same group did.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use fjall::OwnedWriteBatch;

use super::{
    Complete, Head, Index, IndexError, SnapshotHead, Totals,
    codec::{self, TotalKind},
    digest::{Digest, Part},
    visible::AddedTypes,
};
use crate::{
    event::{
        AggregateId, AppendBounds, EventId, Position, RecordedEvent, SequenceNumber, Timestamp,
        record::ForwardedMark,
    },
    log::{Place, RecordPlace, Tip},
};

/// A frame is made findable by its position when so many bytes lie between it and the last such frame.
const FINDABLE_EVERY_BYTES: u64 = 64 * 1024;

/// Additions to the index, and how far in the log they reach.
#[derive(Debug)]
pub struct Entries {
    heads: HashMap<AggregateId, KnownHead>,
    events: Vec<(u64, SequenceNumber, EventId, RecordPlace)>,
    findable: Vec<(Position, Place)>,
    transactions: Vec<(Position, u64)>,
    /// ImmuDB lost the transactions behind this position.
    transactions_lost: Option<Position>,
    event_types: AddedTypes,
    aggregate_types: AddedTypes,
    pub(super) complete: Complete,
}

/// An aggregate's head, looked up once.
#[derive(Debug)]
struct KnownHead {
    /// As the index has it.
    before: Option<Head>,
    head: Option<Head>,
    changed: bool,
}

/// An event of an append, as far as the index is concerned.
#[derive(Debug, Clone)]
pub struct IndexedEvent {
    pub id: EventId,
    pub aggregate_id: AggregateId,
    pub aggregate_type: Arc<str>,
    pub event_type: Arc<str>,
    pub sequence: SequenceNumber,
    pub position: Position,
    pub recorded_at: Timestamp,
    pub place: RecordPlace,
}

impl IndexedEvent {
    pub fn new(recorded: &RecordedEvent, place: RecordPlace) -> Self {
        Self {
            id: recorded.event.id,
            aggregate_id: recorded.event.aggregate_id.clone(),
            aggregate_type: recorded.event.aggregate_type.clone(),
            event_type: recorded.event.event_type.clone(),
            sequence: recorded.sequence,
            position: recorded.position,
            recorded_at: recorded.recorded_at,
            place,
        }
    }
}

/// A snapshot, as far as the index is concerned.
#[derive(Debug, Clone)]
pub struct IndexedSnapshot {
    pub aggregate_id: AggregateId,
    pub sequence: SequenceNumber,
    pub place: RecordPlace,
}

impl Entries {
    /// Nothing yet, on top of what the index has.
    pub fn new(index: &Index) -> Self {
        Self::after(index.complete())
    }

    pub(super) fn after(complete: Complete) -> Self {
        Self {
            heads: HashMap::new(),
            events: Vec::new(),
            findable: Vec::new(),
            transactions: Vec::new(),
            transactions_lost: None,
            event_types: AddedTypes::default(),
            aggregate_types: AddedTypes::default(),
            complete,
        }
    }

    pub fn event_count(&self) -> usize {
        self.events.len()
    }

    pub fn complete(&self) -> Complete {
        self.complete
    }

    /// The aggregate's head after what was added so far.
    ///
    /// # Errors
    /// The index is unusable.
    pub fn head(&mut self, index: &Index, id: &AggregateId) -> Result<Option<Head>, IndexError> {
        if let Some(known) = self.heads.get(id) {
            return Ok(known.head.clone());
        }
        let head = index.head_to_change(id)?;
        let known = KnownHead { before: head.clone(), head: head.clone(), changed: false };
        self.heads.insert(id.clone(), known);
        Ok(head)
    }

    fn set_head(&mut self, id: AggregateId, head: Head) {
        let known = self.heads.entry(id).or_insert(KnownHead { before: None, head: None, changed: true });
        (known.head, known.changed) = (Some(head), true);
    }

    /// Whether these events, one whole append, are just those that come next: whole, with positions and
    /// sequence numbers that go on without a gap.
    ///
    /// # Errors
    /// The index is unusable.
    pub fn continued_by(&mut self, index: &Index, events: &[RecordedEvent]) -> Result<bool, IndexError> {
        let mut last_of: HashMap<&AggregateId, SequenceNumber> = HashMap::new();
        let mut position = self.complete.tip.position;
        let bounds = AppendBounds {
            first: position.next(),
            last: Position(position.0.saturating_add(events.len() as u64)),
        };
        for recorded in events {
            let id = &recorded.event.aggregate_id;
            let last = match last_of.get(id) {
                Some(last) => *last,
                None => self.head(index, id)?.map_or(SequenceNumber(0), |head| head.last),
            };
            if recorded.append != bounds
                || recorded.position != position.next()
                || recorded.sequence != last.next()
            {
                return Ok(false);
            }
            position = recorded.position;
            last_of.insert(id, recorded.sequence);
        }
        Ok(true)
    }

    /// Adds the events of one append; `frame` is where its frame begins.
    ///
    /// # Errors
    /// The index is unusable.
    pub fn add_append(
        &mut self,
        index: &Index,
        frame: Place,
        events: Vec<IndexedEvent>,
    ) -> Result<(), IndexError> {
        let Some(first) = events.first() else { return Ok(()) };
        self.make_findable(first.position, frame);
        for event in events {
            let known = self.head(index, &event.aggregate_id)?;
            let head = known.unwrap_or_else(|| self.first_of(index, &event));
            self.events.push((head.number, event.sequence, event.id, event.place));
            self.event_types.add(
                &index.visible.read().totals.event_types,
                index.types_max,
                &event.event_type,
            );
            self.complete.recorded_at = event.recorded_at;
            self.set_head(event.aggregate_id, Head { last: event.sequence, ..head });
        }
        Ok(())
    }

    /// Adds a snapshot, unless a newer one is there.
    ///
    /// # Errors
    /// The index is unusable.
    pub fn add_snapshot(&mut self, index: &Index, snapshot: IndexedSnapshot) -> Result<(), IndexError> {
        let Some(mut head) = self.head(index, &snapshot.aggregate_id)? else { return Ok(()) };
        match head.snapshot {
            Some(newer) if newer.sequence > snapshot.sequence => return Ok(()),
            Some(_) => {}
            None => self.complete.snapshots = self.complete.snapshots.saturating_add(1),
        }
        head.snapshot = Some(SnapshotHead { sequence: snapshot.sequence, place: snapshot.place });
        self.set_head(snapshot.aggregate_id, head);
        Ok(())
    }

    pub fn add_mark(&mut self, mark: ForwardedMark) {
        if mark.position < self.complete.forwarded.position {
            self.transactions.retain(|(position, _)| *position <= mark.position);
            self.transactions_lost = Some(mark.position.min(self.transactions_lost.unwrap_or(mark.position)));
        }
        if mark.immudb_tx > 0 && mark.position > self.complete.forwarded.position {
            self.transactions.push((mark.position, mark.immudb_tx));
        }
        self.complete.forwarded = mark;
    }

    /// Everything up to here was added.
    pub fn reach(&mut self, tip: Tip) {
        self.complete.tip = tip;
    }

    fn first_of(&mut self, index: &Index, event: &IndexedEvent) -> Head {
        self.complete.aggregates = self.complete.aggregates.saturating_add(1);
        let totals = &index.visible.read().totals.aggregate_types;
        self.aggregate_types.add(totals, index.types_max, &event.aggregate_type);
        Head {
            number: self.complete.aggregates,
            last: SequenceNumber(0),
            aggregate_type: event.aggregate_type.clone(),
            snapshot: None,
        }
    }

    fn make_findable(&mut self, position: Position, frame: Place) {
        let last = self.complete.last_findable;
        if frame.segment != last.segment || frame.offset >= last.offset.saturating_add(FINDABLE_EVERY_BYTES) {
            self.findable.push((position, frame));
            self.complete.last_findable = frame;
        }
    }

    /// Takes in what was added on top of these.
    pub(super) fn join(&mut self, added: Self) {
        for (id, known) in added.heads.into_iter().filter(|(_, known)| known.changed) {
            match self.heads.entry(id) {
                Entry::Occupied(mut ours) => ours.get_mut().head = known.head,
                Entry::Vacant(free) => _ = free.insert(known),
            }
        }
        self.events.extend(added.events);
        self.findable.extend(added.findable);
        if let Some(lost) = added.transactions_lost {
            self.transactions.retain(|(position, _)| *position <= lost);
            self.transactions_lost = Some(lost.min(self.transactions_lost.unwrap_or(lost)));
        }
        self.transactions.extend(added.transactions);
        self.event_types.join(added.event_types);
        self.aggregate_types.join(added.aggregate_types);
        self.complete = added.complete;
    }

    pub(super) fn events(&self) -> &[(u64, SequenceNumber, EventId, RecordPlace)] {
        &self.events
    }

    pub(super) fn changed_head(&self, id: &AggregateId) -> Option<Head> {
        self.heads.get(id).filter(|known| known.changed).and_then(|known| known.head.clone())
    }

    pub(super) fn into_changed_heads(self) -> impl Iterator<Item = (AggregateId, Head)> {
        let changed = self.heads.into_iter().filter(|(_, known)| known.changed);
        changed.filter_map(|(id, known)| known.head.map(|head| (id, head)))
    }

    pub(super) fn changed_heads(&self) -> impl Iterator<Item = (&AggregateId, &Head)> {
        let changed = self.heads.iter().filter(|(_, known)| known.changed);
        changed.filter_map(|(id, known)| known.head.as_ref().map(|head| (id, head)))
    }

    /// The last frame up to `position` that can be found by its own.
    pub(super) fn frame_before(&self, position: Position) -> Option<(Position, Place)> {
        let behind = self.findable.partition_point(|(first, _)| *first <= position);
        behind.checked_sub(1).and_then(|last| self.findable.get(last)).copied()
    }

    /// The first transaction that ends at or behind `position`.
    pub(super) fn transaction(&self, position: Position) -> Option<(Position, u64)> {
        let index = self.transactions.partition_point(|(last, _)| *last < position);
        self.transactions.get(index).copied()
    }

    pub(super) fn transactions_lost(&self) -> Option<Position> {
        self.transactions_lost
    }

    /// Adds to the totals what these events do.
    pub(super) fn count(&self, totals: &mut Totals) {
        self.event_types.count(&mut totals.event_types);
        self.aggregate_types.count(&mut totals.aggregate_types);
    }

    /// Puts everything into `batch`, and the totals that result into `totals`. `digest` is of what the database
    /// has; gives back the sum of all entries with these.
    ///
    /// # Errors
    /// The index is unusable.
    pub(super) fn write(
        &self,
        index: &Index,
        batch: &mut OwnedWriteBatch,
        totals: &mut Totals,
        mut digest: Digest,
    ) -> Result<Digest, IndexError> {
        self.write_transactions(index, batch, &mut digest)?;
        for (aggregate, sequence, id, place) in &self.events {
            let (key, place) = (codec::event_key(*aggregate, sequence.0), codec::encode_place(*place));
            digest.add(Part::Events, &key, &place);
            digest.add(Part::EventIds, id.as_bytes(), &place);
            batch.insert(&index.events, key, place.clone());
            batch.insert(&index.event_ids, *id.as_bytes(), place);
        }
        for (id, known) in self.heads.iter().filter(|(_, known)| known.changed) {
            let Some(head) = &known.head else { continue };
            let (key, value) = (id.as_str().as_bytes(), codec::encode_head(head));
            if let Some(before) = &known.before {
                digest.remove(Part::Aggregates, key, &codec::encode_head(before));
            }
            digest.add(Part::Aggregates, key, &value);
            batch.insert(&index.aggregates, key, value);
        }
        for (position, place) in &self.findable {
            let (key, place) = (position.0.to_be_bytes(), codec::encode_frame_place(*place));
            digest.add(Part::Positions, &key, &place);
            batch.insert(&index.positions, key, place);
        }
        let mut add = |kind, added: &HashMap<Arc<str>, u64>, totals: &mut HashMap<Arc<str>, u64>| {
            for (name, count) in added {
                let key = codec::total_key(kind, name);
                if let Some(before) = totals.get(name) {
                    digest.remove(Part::Totals, &key, &before.to_be_bytes());
                }
                let total = totals.entry(name.clone()).or_default();
                *total = total.saturating_add(*count);
                digest.add(Part::Totals, &key, &total.to_be_bytes());
                batch.insert(&index.totals_kept, key, total.to_be_bytes());
            }
        };
        add(TotalKind::EventType, &self.event_types.counts, &mut totals.event_types);
        add(TotalKind::AggregateType, &self.aggregate_types.counts, &mut totals.aggregate_types);
        Ok(digest)
    }

    fn write_transactions(
        &self,
        index: &Index,
        batch: &mut OwnedWriteBatch,
        digest: &mut Digest,
    ) -> Result<(), IndexError> {
        if let Some(last) = self.transactions_lost {
            for entry in index.transactions.range(last.next().0.to_be_bytes()..) {
                let (key, value) = entry.into_inner()?;
                digest.remove(Part::Transactions, &key, &value);
                // One batch must not name a key twice.
                if !self.transactions.iter().any(|(position, _)| position.0.to_be_bytes() == *key) {
                    batch.remove(&index.transactions, key);
                }
            }
        }
        for (position, tx) in &self.transactions {
            let (key, value) = (position.0.to_be_bytes(), tx.to_be_bytes());
            digest.add(Part::Transactions, &key, &value);
            batch.insert(&index.transactions, key, value);
        }
        Ok(())
    }
}
