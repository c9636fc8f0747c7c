//! The entries that one group of frames adds to the index.
//!
//! They are assembled before the frames are written. Until then, the sequencer also uses them to
//! see the effects of the earlier appends in the same group.

use std::{collections::HashMap, sync::Arc};

use super::{
    Complete, Head, Index, IndexError, SnapshotHead, Totals,
    entry::{EventRun, StoredId},
    totals::AddedTypes,
};
use crate::{
    event::{
        AggregateId, AppendBounds, ContentDigest, EventId, Position, RecordedEvent, SequenceNumber,
        Timestamp, record::ReplicationMark,
    },
    log::{LogOffset, RecordAddress, Tip},
};

/// A frame can be found by its position if at least this many bytes are between it and the last
/// such frame.
const FINDABLE_EVERY_BYTES: u64 = 64 * 1024;

/// Additions to the index, and how far into the log they reach.
#[derive(Debug)]
pub struct IndexBatch {
    heads: HashMap<AggregateId, KnownHead>,
    events: Vec<IndexedEvent>,
    findable: Vec<(Position, LogOffset)>,
    transactions: Vec<(Position, u64)>,
    /// ImmuDB has lost the transactions after this position.
    transactions_lost: Option<Position>,
    event_types: AddedTypes,
    aggregate_types: AddedTypes,
    complete: Complete,
}

/// The head of an aggregate, looked up once.
#[derive(Debug)]
struct KnownHead {
    head: Option<Head>,
    changed: bool,
}

/// The additions in the form in which the memtable takes them.
#[derive(Debug)]
pub(super) struct BatchParts {
    pub ids: Vec<(EventId, StoredId)>,
    pub runs: Vec<EventRun>,
    pub findable: Vec<(Position, LogOffset)>,
    pub transactions: Vec<(Position, u64)>,
    pub transactions_lost: Option<Position>,
    pub complete: Complete,
}

/// The parts of an appended event that the index needs.
#[derive(Debug, Clone)]
pub struct IndexedEvent {
    /// The id of the event.
    pub id: EventId,
    /// The aggregate that the event belongs to.
    pub aggregate_id: AggregateId,
    /// The type of the aggregate. Never empty.
    pub aggregate_type: Arc<str>,
    /// The type of the event.
    pub event_type: Arc<str>,
    /// The number within the aggregate, from 1 on.
    pub sequence: SequenceNumber,
    /// The number in the order of all events, from 1 on.
    pub position: Position,
    /// When the event was stored.
    pub recorded_at: Timestamp,
    /// The address of the event's record.
    pub place: RecordAddress,
    /// The digest of the data that the client sent.
    pub digest: ContentDigest,
}

impl IndexedEvent {
    /// Takes these parts of an event whose record is at `place`.
    pub fn new(recorded: &RecordedEvent, place: RecordAddress) -> Self {
        Self {
            id: recorded.event.id,
            aggregate_id: recorded.event.aggregate_id.clone(),
            aggregate_type: recorded.event.aggregate_type.clone(),
            event_type: recorded.event.event_type.clone(),
            sequence: recorded.sequence,
            position: recorded.position,
            recorded_at: recorded.recorded_at,
            place,
            digest: recorded.digest,
        }
    }
}

/// The parts of a snapshot that the index needs.
#[derive(Debug, Clone)]
pub struct IndexedSnapshot {
    /// The aggregate of the snapshot.
    pub aggregate_id: AggregateId,
    /// The last event that the snapshot includes.
    pub sequence: SequenceNumber,
    /// The address of the snapshot's record.
    pub place: RecordAddress,
}

impl IndexBatch {
    /// Creates empty additions that continue the index.
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

    /// Returns the number of events added so far.
    pub fn event_count(&self) -> usize {
        self.events.len()
    }

    /// Returns how far the index will be complete with these additions.
    pub fn complete(&self) -> Complete {
        self.complete
    }

    /// Returns the aggregate's head, including what was added so far.
    ///
    /// # Errors
    /// Returns an error if the index is unusable.
    pub fn head(&mut self, index: &Index, id: &AggregateId) -> Result<Option<Head>, IndexError> {
        if let Some(known) = self.heads.get(id) {
            return Ok(known.head.clone());
        }
        let head = index.head_to_change(id)?;
        let known = KnownHead { head: head.clone(), changed: false };
        self.heads.insert(id.clone(), known);
        Ok(head)
    }

    fn set_head(&mut self, id: AggregateId, head: Head) {
        self.heads.insert(id, KnownHead { head: Some(head), changed: true });
    }

    /// Whether these events continue the log. They must be one whole append, and their positions
    /// and sequence numbers must have no gap.
    ///
    /// # Errors
    /// Returns an error if the index is unusable.
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

    /// Adds the events of one append. `frame` is the offset at which its frame begins.
    ///
    /// # Errors
    /// Returns an error if the index is unusable.
    pub fn add_append(
        &mut self,
        index: &Index,
        frame: LogOffset,
        events: Vec<IndexedEvent>,
    ) -> Result<(), IndexError> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return Ok(()) };
        self.make_findable(first.position, frame);
        for run in events.chunk_by(|one, next| one.aggregate_id == next.aggregate_id) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let known = self.head(index, &first.aggregate_id)?;
            let head = known.unwrap_or_else(|| self.first_of(index, first));
            self.set_head(first.aggregate_id.clone(), Head { last: last.sequence, ..head });
        }
        let types_max = index.options.types_max;
        for run in events.chunk_by(|one, next| one.event_type == next.event_type) {
            let Some(first) = run.first() else { continue };
            let totals = &index.layers().totals.event_types;
            self.event_types.add(totals, types_max, &first.event_type, run.len() as u64);
        }
        self.complete.recorded_at = last.recorded_at;
        self.events.extend(events);
        Ok(())
    }

    /// Adds a snapshot, unless its aggregate has a newer one.
    ///
    /// # Errors
    /// Returns an error if the index is unusable.
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

    /// Adds a mark. If it is behind the last one, ImmuDB has lost transactions.
    pub fn add_mark(&mut self, mark: ReplicationMark) {
        if mark.position < self.complete.forwarded.position {
            self.transactions.retain(|(position, _)| *position <= mark.position);
            self.transactions_lost = Some(mark.position.min(self.transactions_lost.unwrap_or(mark.position)));
        }
        if mark.immudb_tx > 0 && mark.position > self.complete.forwarded.position {
            self.transactions.push((mark.position, mark.immudb_tx));
        }
        self.complete.forwarded = mark;
    }

    /// Records that everything up to `tip` was added.
    pub fn reach(&mut self, tip: Tip) {
        self.complete.tip = tip;
    }

    fn first_of(&mut self, index: &Index, event: &IndexedEvent) -> Head {
        self.complete.aggregates = self.complete.aggregates.saturating_add(1);
        let totals = &index.layers().totals.aggregate_types;
        self.aggregate_types.add(totals, index.options.types_max, &event.aggregate_type, 1);
        Head { last: SequenceNumber(0), aggregate_type: event.aggregate_type.clone(), snapshot: None }
    }

    fn make_findable(&mut self, position: Position, frame: LogOffset) {
        let last = self.complete.last_findable;
        if frame.segment != last.segment || frame.offset >= last.offset.saturating_add(FINDABLE_EVERY_BYTES) {
            self.findable.push((position, frame));
            self.complete.last_findable = frame;
        }
    }

    /// Adds the counts of these entries to the totals.
    pub(super) fn count(&self, totals: &mut Totals) {
        self.event_types.count(&mut totals.event_types);
        self.aggregate_types.count(&mut totals.aggregate_types);
    }

    /// Returns the aggregates that were changed, with their new heads.
    pub(super) fn changed(&self) -> impl Iterator<Item = (&AggregateId, &Head)> {
        let changed = self.heads.iter().filter(|(_, known)| known.changed);
        changed.filter_map(|(id, known)| Some((id, known.head.as_ref()?)))
    }

    pub(super) fn into_parts(self) -> BatchParts {
        let of_event = |event: &IndexedEvent| (event.id, StoredId::new(event.place, event.digest));
        let ids = self.events.iter().map(of_event).collect();
        let mut places: HashMap<&AggregateId, Vec<RecordAddress>> = HashMap::new();
        for run in self.events.chunk_by(|one, next| one.aggregate_id == next.aggregate_id) {
            let Some(first) = run.first() else { continue };
            places.entry(&first.aggregate_id).or_default().extend(run.iter().map(|event| event.place));
        }
        let mut runs = Vec::new();
        for (id, known) in self.heads {
            let (Some(head), true) = (known.head, known.changed) else { continue };
            runs.extend(EventRun::all_of(&id, &head, places.remove(&id).unwrap_or_default()));
        }
        let Self { findable, transactions, transactions_lost, complete, .. } = self;
        BatchParts { ids, runs, findable, transactions, transactions_lost, complete }
    }
}
