//! Reads the events of one aggregate in chunks, if requested from its newest snapshot on. Nothing
//! is read from the disk ahead of time.

use std::ops::RangeInclusive;

use tracing::warn;

use crate::{
    error::{NoProof, StoreError, Unreadable},
    event::{AggregateId, SequenceNumber, Snapshot, Timestamp, record::StoredEvent},
    history::History,
    index::{Direction, Head},
    replication::head::TreeHead,
    transparency::verification::held_tree::HeldTree,
    tree::TreeView,
};

/// An empty range of sequence numbers.
const NOTHING: RangeInclusive<u64> = RangeInclusive::new(1, 0);

/// Which events to load.
#[derive(Debug, Clone)]
pub struct LoadRequest {
    /// The aggregate to read.
    pub aggregate_id: AggregateId,
    /// The first sequence number; 0 means 1.
    pub from: SequenceNumber,
    /// The last sequence number. `None` means the aggregate's last event.
    pub to: Option<SequenceNumber>,
    /// Events that were recorded after this time are left out.
    pub recorded_until: Option<Timestamp>,
    /// Start from the newest snapshot, if it has this schema version.
    pub snapshot_schema: Option<u32>,
    /// The order in which the events are returned.
    pub direction: Direction,
    /// The maximum number of events.
    pub limit: Option<u64>,
}

impl LoadRequest {
    /// Returns a request for all events of an aggregate, without a snapshot.
    pub fn all_of(aggregate_id: AggregateId) -> Self {
        Self {
            aggregate_id,
            from: SequenceNumber(1),
            to: None,
            recorded_until: None,
            snapshot_schema: None,
            direction: Direction::Forwards,
            limit: None,
        }
    }
}

/// The rest of the requested events. Reads from the disk on demand.
#[derive(Debug)]
pub struct AggregateReader {
    history: History,
    aggregate_id: AggregateId,
    head: Option<Head>,
    /// The remaining sequence numbers. Empty if the start is beyond the end.
    left: RangeInclusive<u64>,
    direction: Direction,
    snapshot: Option<Snapshot>,
    /// What each event is compared with, if anything.
    confirmed: Option<ConfirmedTree>,
}

/// The tree over the first events, whose root ImmuDB has confirmed.
#[derive(Debug)]
struct ConfirmedTree {
    tree: HeldTree,
    size: u64,
}

impl ConfirmedTree {
    /// Checks that the tree has these events. Their chain hashes follow from their records.
    fn check(&mut self, events: &[StoredEvent]) -> Result<(), StoreError> {
        for event in events {
            if event.position.0 > self.size {
                let (position, verified) = (event.position.0, self.size);
                return Err(NoProof::NotVerified { position, verified }.into());
            }
            if !self.tree.has(event.position, event.hash)? {
                return Err(Unreadable::NotInTree { position: event.position }.into());
            }
        }
        Ok(())
    }
}

impl AggregateReader {
    pub(super) fn open(history: History, request: LoadRequest) -> Result<Self, StoreError> {
        let head = history.index.head(&request.aggregate_id)?;
        let mut reader = Self {
            history,
            aggregate_id: request.aggregate_id,
            head,
            left: NOTHING,
            direction: request.direction,
            snapshot: None,
            confirmed: None,
        };
        let Some(head) = reader.head.clone() else { return Ok(reader) };
        let mut first = request.from.0.max(1);
        let mut last = request.to.unwrap_or(head.last).min(head.last).0;
        if let Some(until) = request.recorded_until {
            last = reader.last_recorded_until(until, last)?;
        }
        if let Some(schema) = request.snapshot_schema {
            reader.snapshot = reader.fitting_snapshot(&head, schema, first..=last);
            first = reader.snapshot.as_ref().map_or(first, |snapshot| snapshot.sequence.0.saturating_add(1));
        }
        if first > last {
            return Ok(reader);
        }
        let count = last.saturating_sub(first).saturating_add(1);
        if let Some(limit) = request.limit.filter(|limit| *limit < count) {
            match request.direction {
                Direction::Forwards => last = first.saturating_add(limit).saturating_sub(1),
                Direction::Backwards => first = last.saturating_sub(limit).saturating_add(1),
            }
        }
        reader.left = first..=last;
        Ok(reader)
    }

    /// Compares each event from now on with the tree over all events. `view` is that tree, which
    /// has to continue the one that ImmuDB has confirmed.
    ///
    /// # Errors
    /// Returns an error if it does not, or if the tree cannot be read.
    pub(crate) fn compare_with(&mut self, view: TreeView, confirmed: TreeHead) -> Result<(), StoreError> {
        let tree = HeldTree::new(self.history.clone(), view);
        let TreeHead { size, root: expected } = confirmed;
        let found = tree.root_at(size)?;
        if found != expected {
            return Err(Unreadable::OtherTree { size, expected, found }.into());
        }
        self.confirmed = Some(ConfirmedTree { tree, size });
        Ok(())
    }

    /// Returns the sequence number of the aggregate's last event when reading began, or 0 if the
    /// aggregate does not exist.
    pub fn last_sequence(&self) -> SequenceNumber {
        self.head.as_ref().map_or(SequenceNumber(0), |head| head.last)
    }

    /// Returns the aggregate's type, or `None` if the aggregate does not exist.
    pub fn aggregate_type(&self) -> Option<&str> {
        self.head.as_ref().map(|head| &*head.aggregate_type)
    }

    /// Returns whether nothing is left to read.
    pub fn is_at_end(&self) -> bool {
        self.snapshot.is_none() && self.left.is_empty()
    }

    /// Returns whether there is a snapshot that was not taken yet.
    pub fn has_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Returns the snapshot that the events continue. Only the first call returns it.
    pub fn take_snapshot(&mut self) -> Option<Snapshot> {
        self.snapshot.take()
    }

    /// Returns the bytes of the snapshot that are kept in memory until it is taken.
    pub fn kept_bytes(&self) -> usize {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.content.byte_count())
    }

    /// Returns the next events, of about `bytes_max` bytes in total. Returns none at the end.
    ///
    /// # Errors
    /// Returns an error if one of them is damaged or missing, or is not in the tree that it is
    /// compared with.
    pub fn next(&mut self, bytes_max: usize) -> Result<Vec<StoredEvent>, StoreError> {
        if self.left.is_empty() {
            return Ok(Vec::new());
        }
        let events = self.history.events(&self.aggregate_id, self.left.clone(), self.direction, bytes_max)?;
        if let Some(confirmed) = &mut self.confirmed {
            confirmed.check(&events)?;
        }
        let read = events.len() as u64;
        let (first, last) = self.left.clone().into_inner();
        self.left = match self.direction {
            Direction::Forwards => first.saturating_add(read)..=last,
            Direction::Backwards if read > last.saturating_sub(first) => NOTHING,
            Direction::Backwards => first..=last.saturating_sub(read),
        };
        Ok(events)
    }

    /// Returns the last event at or before `last` that was recorded no later than `until`. Recorded
    /// times never decrease with positions, so this is a binary search.
    fn last_recorded_until(&self, until: Timestamp, last: u64) -> Result<u64, StoreError> {
        let (mut known, mut beyond) = (0u64, last.saturating_add(1));
        while known.saturating_add(1) < beyond {
            let middle = known.midpoint(beyond);
            let range = middle..=middle;
            let events = self.history.events(&self.aggregate_id, range, Direction::Forwards, usize::MAX)?;
            if events.first().is_some_and(|event| event.recorded_at <= until) {
                known = middle
            } else {
                beyond = middle
            }
        }
        Ok(known)
    }

    /// Returns the newest snapshot, if the client can use it. A snapshot that cannot be read costs
    /// a replay, but does not fail the load.
    fn fitting_snapshot(&self, head: &Head, schema: u32, range: RangeInclusive<u64>) -> Option<Snapshot> {
        let newest = head.snapshot.filter(|newest| range.contains(&newest.sequence.0))?;
        match self.history.snapshot(newest.place) {
            Ok(snapshot) => Some(snapshot).filter(|snapshot| snapshot.schema_version == schema),
            Err(error) => {
                warn!(aggregate = %self.aggregate_id, %error, "cannot read a snapshot; loading the events \
                 instead");
                None
            }
        }
    }
}
