//! One aggregate's events, piece by piece.

use std::ops::RangeInclusive;

use tracing::warn;

use crate::{
    event::{AggregateId, SequenceNumber, Snapshot, Timestamp, record::StoredEvent},
    history::History,
    index::{Direction, Head},
    store::StoreError,
};

/// No sequence number at all.
const NOTHING: RangeInclusive<u64> = RangeInclusive::new(1, 0);

/// Which events are wanted.
#[derive(Debug, Clone)]
pub struct LoadRequest {
    pub aggregate_id: AggregateId,
    pub from: SequenceNumber,
    /// 0: the last.
    pub to: SequenceNumber,
    pub recorded_until: Option<Timestamp>,
    /// Start at the newest snapshot, if it has this schema version.
    pub snapshot_schema: Option<u32>,
    pub direction: Direction,
    /// 0: no limit.
    pub limit: u64,
}

/// The rest of what was asked for. Reads from the disk when asked.
#[derive(Debug)]
pub struct AggregateReader {
    history: History,
    aggregate_id: AggregateId,
    head: Option<Head>,
    /// What is left; empty when its start is beyond its end.
    left: RangeInclusive<u64>,
    direction: Direction,
    snapshot: Option<Snapshot>,
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
        };
        let Some(head) = reader.head.clone() else { return Ok(reader) };
        let mut first = request.from.0.max(1);
        let mut last = match request.to.0 {
            0 => head.last.0,
            to => to.min(head.last.0),
        };
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
        if request.limit > 0 && request.limit < count {
            match request.direction {
                Direction::Forwards => last = first.saturating_add(request.limit).saturating_sub(1),
                Direction::Backwards => first = last.saturating_sub(request.limit).saturating_add(1),
            }
        }
        reader.left = first..=last;
        Ok(reader)
    }

    /// Number of the aggregate's last event when the reading began; 0: it does not exist.
    pub fn last_sequence(&self) -> SequenceNumber {
        self.head.as_ref().map_or(SequenceNumber(0), |head| head.last)
    }

    /// Its type; `None`: it does not exist.
    pub fn aggregate_type(&self) -> Option<&str> {
        self.head.as_ref().map(|head| &*head.aggregate_type)
    }

    /// There is nothing left to read.
    pub fn is_at_end(&self) -> bool {
        self.snapshot.is_none() && self.left.is_empty()
    }

    pub fn has_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// The snapshot that the events continue. Only the first call has it.
    pub fn take_snapshot(&mut self) -> Option<Snapshot> {
        self.snapshot.take()
    }

    /// What it has in memory until it is taken.
    pub fn kept_bytes(&self) -> usize {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.content.byte_count())
    }

    /// The next events, of about `bytes_max` together; empty at the end.
    ///
    /// # Errors
    /// One of them is damaged or missing.
    pub fn next(&mut self, bytes_max: usize) -> Result<Vec<StoredEvent>, StoreError> {
        if self.left.is_empty() {
            return Ok(Vec::new());
        }
        let events = self.history.events(&self.aggregate_id, self.left.clone(), self.direction, bytes_max)?;
        let read = events.len() as u64;
        let (first, last) = self.left.clone().into_inner();
        self.left = match self.direction {
            Direction::Forwards => first.saturating_add(read)..=last,
            Direction::Backwards if read > last.saturating_sub(first) => NOTHING,
            Direction::Backwards => first..=last.saturating_sub(read),
        };
        Ok(events)
    }

    /// The last event at or before `last` that was recorded until then. Times never run backwards along
    /// positions, so it can be found by halving.
    fn last_recorded_until(&self, until: Timestamp, last: u64) -> Result<u64, StoreError> {
        let (mut known, mut beyond) = (0u64, last.saturating_add(1));
        while known.saturating_add(1) < beyond {
            let middle = known.midpoint(beyond);
            let range = middle..=middle;
            let events = self.history.events(&self.aggregate_id, range, Direction::Forwards, usize::MAX)?;
            match events.first().is_some_and(|event| event.recorded_at <= until) {
                true => known = middle,
                false => beyond = middle,
            }
        }
        Ok(known)
    }

    /// The newest snapshot, if the caller can use it. One that can't be read costs a replay, not the load.
    fn fitting_snapshot(&self, head: &Head, schema: u32, range: RangeInclusive<u64>) -> Option<Snapshot> {
        let newest = head.snapshot.filter(|newest| range.contains(&newest.sequence.0))?;
        match self.history.snapshot(newest.place) {
            Ok(snapshot) => Some(snapshot).filter(|snapshot| snapshot.schema_version == schema),
            Err(error) => {
                warn!(aggregate = %self.aggregate_id, %error, "a snapshot can't be read; its events are replayed");
                None
            }
        }
    }
}
