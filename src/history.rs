//! Reads stored events: by aggregate, by position, and from a position on.
//!
//! Everything is verified when it is read: each record against the hash stored with it, the
//! sequence numbers of an aggregate for gaps, and the chain hash along the global order. Records
//! that a reader of the order skips are verified by the checksum of their frame only. Reading never
//! depends on the network.

use std::{ops::RangeInclusive, sync::Arc};

use crate::{
    event::{
        AggregateId, ChainHash, Position, RecordedEvent, SequenceNumber, Snapshot,
        record::{self, StoredEvent},
    },
    index::{Direction, Index, WaitMode},
    log::{Cursor, CursorItem, FoundRecord, LogOffset, RecordAddress, RecordCursor, Segments, Tip},
};

pub(crate) mod error;
mod leaves;

pub use error::HistoryError;
pub use leaves::ChainHashes;

/// The log and its index, for reading. Cheap to clone.
#[derive(Debug, Clone)]
pub struct History {
    /// Finds the addresses of records.
    pub index: Arc<Index>,
    /// Whether index lookups by position wait for the rebuild of a damaged index file.
    pub wait_mode: WaitMode,
    /// The files of the log, which have the records.
    pub segments: Arc<Segments>,
}

/// The chain hash of an event, and the offset at which its append ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLocation {
    /// The chain hash up to and including the event.
    pub hash: ChainHash,
    /// The end of the frame that contains the event.
    pub append_end: LogOffset,
}

impl History {
    /// Returns events of an aggregate from one end of `range` on: as many as fit into `bytes_max`,
    /// up to a fixed maximum, and at least one.
    ///
    /// # Errors
    /// Returns an error if one of them is missing or damaged.
    pub fn events(
        &self,
        aggregate: &AggregateId,
        range: RangeInclusive<u64>,
        direction: Direction,
        bytes_max: usize,
    ) -> Result<Vec<StoredEvent>, HistoryError> {
        const EVENTS_MAX: u64 = 512;
        let wanted = range.end().saturating_sub(*range.start()).saturating_add(1).min(EVENTS_MAX);
        let count = usize::try_from(wanted).unwrap_or(usize::MAX);
        let mut places = self.index.events(aggregate, range.clone(), direction, count)?;
        let whole = places.len() == count;
        let mut bytes = 0usize;
        let fits = |place: &&RecordAddress| {
            bytes = bytes.saturating_add(place.length as usize);
            bytes <= bytes_max
        };
        let fitting = places.iter().take_while(fits).count().max(1);
        let all_fit = fitting >= places.len();
        places.truncate(fitting);
        let mut events = Vec::with_capacity(places.len());
        let gap = |sequence| HistoryError::Gap { aggregate: aggregate.clone(), sequence };
        let sequence_at = |step: usize| {
            SequenceNumber(match direction {
                Direction::Forwards => range.start().saturating_add(step as u64),
                Direction::Backwards => range.end().saturating_sub(step as u64),
            })
        };
        for (place, checked) in places.iter().zip(self.segments.read_each(&places)?) {
            let event = StoredEvent::new(checked.bytes, checked.hash)
                .map_err(|source| HistoryError::Record { place: *place, source })?;
            let sequence = sequence_at(events.len());
            if event.sequence != sequence || event.aggregate_id() != aggregate.as_str().as_bytes() {
                return Err(gap(sequence));
            }
            events.push(event);
        }
        if all_fit && !whole { Err(gap(sequence_at(events.len()))) } else { Ok(events) }
    }

    /// Reads one event.
    ///
    /// # Errors
    /// Returns an error if it is damaged.
    pub fn event(&self, place: RecordAddress) -> Result<RecordedEvent, HistoryError> {
        let checked = self.segments.read(place)?;
        record::decode(checked.bytes, checked.hash).map_err(|source| HistoryError::Record { place, source })
    }

    /// Reads one snapshot.
    ///
    /// # Errors
    /// Returns an error if it is damaged.
    pub fn snapshot(&self, place: RecordAddress) -> Result<Snapshot, HistoryError> {
        let checked = self.segments.read(place)?;
        record::decode_snapshot(checked.bytes).map_err(|source| HistoryError::Record { place, source })
    }

    /// Returns a cursor at or before the append that contains `position`.
    ///
    /// # Errors
    /// Returns an error if the index is unusable.
    pub fn cursor_before(&self, position: Position) -> Result<Cursor, HistoryError> {
        let (first, place) = self.index.frame_before(position, self.wait_mode)?;
        Ok(Cursor::at(self.segments.clone(), place, first))
    }

    /// Same as [`History::cursor_before`], but returns a cursor over records.
    ///
    /// # Errors
    /// Returns an error if the index is unusable.
    pub fn records_before(&self, position: Position) -> Result<RecordCursor, HistoryError> {
        let (first, place) = self.index.frame_before(position, self.wait_mode)?;
        Ok(RecordCursor::at(self.segments.clone(), place, first))
    }

    /// Returns where the append of the event at `position` ends, and the event's chain hash.
    /// Position 0 is the start of the log.
    ///
    /// # Errors
    /// Returns an error if there is no such event up to `tip`, or if it is damaged.
    pub fn locate(&self, position: Position, tip: Tip) -> Result<EventLocation, HistoryError> {
        if position == Position(0) {
            return Ok(EventLocation { hash: ChainHash::START, append_end: LogOffset::START });
        }
        let found = self.record_at(position, tip)?;
        Ok(EventLocation { hash: found.hash, append_end: found.append_end })
    }

    /// Returns the event at `position`.
    ///
    /// # Errors
    /// Returns an error if there is no such event up to `tip`, or if it is damaged.
    pub fn event_at(&self, position: Position, tip: Tip) -> Result<RecordedEvent, HistoryError> {
        let stored = self.record_at(position, tip)?;
        record::decode(stored.bytes, stored.hash).map_err(|_| HistoryError::Position(position))
    }

    /// Returns the record at `position` as it is stored.
    ///
    /// # Errors
    /// See [`History::event_at`].
    pub fn record_at(&self, position: Position, tip: Tip) -> Result<FoundRecord, HistoryError> {
        let mut records = self.records_before(position)?;
        while let Some(found) = records.find(tip.end)? {
            let CursorItem::Record(found) = found else { continue };
            if found.position > position {
                break;
            }
            if found.position == position {
                return Ok(found);
            }
            records.take(&found);
        }
        Err(HistoryError::Position(position))
    }
}
