//! Reads the global order of events, or a filtered part of it, in chunks. Continues beyond the
//! current end as the log grows.

use std::collections::HashSet;

use crate::{
    error::{FailedPrecondition, StoreError},
    event::{
        ChainHash, Position, Timestamp,
        record::{RecordHead, StoredEvent},
    },
    history::{History, HistoryError},
    log::{CursorItem, RecordCursor, Tip},
};

/// Which events to read. An empty field matches all events.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// The aggregate type is one of these.
    pub aggregate_types: HashSet<Vec<u8>>,
    /// The event type is one of these.
    pub event_types: HashSet<Vec<u8>>,
    /// The aggregate id starts with this prefix.
    pub aggregate_id_prefix: String,
    /// The aggregate id starts with one of these prefixes.
    pub aggregate_id_prefixes: Vec<String>,
    /// The correlation id is this one.
    pub correlation_id: String,
    /// The event was recorded at or after this time.
    pub recorded_from: Option<Timestamp>,
    /// The event was recorded at or before this time.
    pub recorded_until: Option<Timestamp>,
}

impl Filter {
    /// Returns whether the filter may reject events.
    fn is_selective(&self) -> bool {
        let Self {
            aggregate_types,
            event_types,
            aggregate_id_prefix,
            aggregate_id_prefixes,
            correlation_id,
            recorded_from,
            recorded_until,
        } = self;
        !aggregate_types.is_empty()
            || !event_types.is_empty()
            || !aggregate_id_prefix.is_empty()
            || !aggregate_id_prefixes.is_empty()
            || !correlation_id.is_empty()
            || recorded_from.is_some()
            || recorded_until.is_some()
    }

    /// Returns whether the filter may let a record through, judging by its first fields. Bytes that
    /// are not a record pass here, so that they are reported when they are read.
    fn may_let_through(&self, record: &[u8]) -> bool {
        RecordHead::of(record).is_none_or(|head| self.lets_head_through(head))
    }

    fn lets_head_through(&self, head: RecordHead<'_>) -> bool {
        (self.aggregate_types.is_empty() || self.aggregate_types.contains(head.aggregate_type))
            && (self.event_types.is_empty() || self.event_types.contains(head.event_type))
            && head.aggregate_id.starts_with(self.aggregate_id_prefix.as_bytes())
            && self.has_a_prefix_of(head.aggregate_id)
    }

    fn has_a_prefix_of(&self, id: &[u8]) -> bool {
        let prefixes = &self.aggregate_id_prefixes;
        prefixes.is_empty() || prefixes.iter().any(|prefix| id.starts_with(prefix.as_bytes()))
    }

    fn lets_through(&self, event: &StoredEvent) -> bool {
        self.lets_head_through(event.head())
            && (self.correlation_id.is_empty() || event.correlation_id() == self.correlation_id.as_bytes())
            && self.recorded_from.is_none_or(|from| event.recorded_at >= from)
            && self.recorded_until.is_none_or(|until| event.recorded_at <= until)
    }
}

/// Where to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderStart {
    /// At this position.
    At(Position),
    /// After this event; with its chain hash, if the reader knows it.
    After(Position, Option<ChainHash>),
}

/// A chunk of the order.
#[derive(Debug)]
pub struct OrderChunk {
    /// The events that match.
    pub events: Vec<StoredEvent>,
    /// Everything up to this position was examined.
    pub reached: Position,
    /// The chain hash at that position.
    pub hash: ChainHash,
    /// Nothing was left to read.
    pub at_end: bool,
}

/// The rest of the order. Reads from the disk on demand, and keeps nothing of it in memory.
#[derive(Debug)]
pub struct OrderReader {
    records: RecordCursor,
    filter: Filter,
    /// Events before this position are skipped.
    from: Position,
    reached: Position,
    hash: ChainHash,
}

impl OrderReader {
    pub(super) fn open(
        history: History,
        tip: Tip,
        start: OrderStart,
        filter: Filter,
    ) -> Result<Self, StoreError> {
        let from = match start {
            OrderStart::At(position) => position.max(Position(1)),
            OrderStart::After(position, hash) => {
                check_checkpoint(&history, tip, position, hash)?;
                position.next()
            }
        };
        let reached = Position(from.0.saturating_sub(1));
        let hash =
            if reached <= tip.position { history.locate(reached, tip)?.hash } else { ChainHash::default() };
        let records = history.records_before(from)?;
        Ok(Self { records, filter, from, reached, hash })
    }

    /// Returns the position up to which everything was examined.
    pub fn reached(&self) -> Position {
        self.reached
    }

    /// Returns whether some of the last append's events were returned and others were not.
    pub fn is_within_append(&self) -> bool {
        self.records.is_within_append()
    }

    /// Returns whether little is left up to `tip` and it was written just now, so that reading it
    /// does not wait for the disk.
    pub fn is_close_to(&self, tip: Tip) -> bool {
        const CLOSE_BYTES: u64 = 256 * 1024;
        let place = self.records.place();
        place.segment == tip.end.segment && tip.end.offset.saturating_sub(place.offset) <= CLOSE_BYTES
    }

    /// Returns the next events up to `tip` that match, of about `bytes_max` bytes in total.
    /// Examines a bounded part of the log, so that a filter that matches nothing does not hold up
    /// other clients.
    ///
    /// # Errors
    /// Returns an error if the log is damaged.
    pub fn next(&mut self, tip: Tip, bytes_max: usize) -> Result<OrderChunk, StoreError> {
        let chunk = self.read(tip, bytes_max);
        self.records.forget();
        chunk
    }

    fn read(&mut self, tip: Tip, bytes_max: usize) -> Result<OrderChunk, StoreError> {
        const LOOKED_AT_BYTES: u64 = 8 * 1024 * 1024;
        let (filter, from) = (&self.filter, self.from);
        let selective = filter.is_selective();
        // A reader may want very few of the events. The others are recognized before they are
        // hashed, decoded or copied.
        let is_wanted = |position: Position, record: &[u8]| {
            position >= from && (!selective || filter.may_let_through(record))
        };
        let (mut events, mut bytes, mut looked_at) = (Vec::new(), 0usize, 0u64);
        let mut at_end = false;
        while bytes < bytes_max && looked_at < LOOKED_AT_BYTES {
            let found = match self.records.find_wanted(tip.end, is_wanted).map_err(HistoryError::from)? {
                Some(CursorItem::Record(found)) => found,
                Some(CursorItem::Skipped(skipped)) => {
                    looked_at = looked_at.saturating_add(skipped);
                    if let Some(last) = self.records.last().filter(|(position, _)| *position >= from) {
                        (self.reached, self.hash) = last;
                    }
                    continue;
                }
                None => {
                    at_end = true;
                    break;
                }
            };
            let length = u64::from(found.place.length);
            let event = StoredEvent::new(found.bytes.clone(), found.hash)
                .map_err(|source| HistoryError::Record { place: found.place, source })?;
            let matches = event.position >= from && filter.lets_through(&event);
            let bytes_with = bytes.saturating_add(event.recorded_bytes());
            if matches && !events.is_empty() && bytes_with > bytes_max {
                break;
            }
            self.records.take(&found);
            looked_at = looked_at.saturating_add(length);
            if event.position < from {
                continue;
            }
            (self.reached, self.hash) = (event.position, event.hash);
            if matches {
                bytes = bytes_with;
                // Otherwise a few matching events would keep everything that was read in memory.
                events.push(if selective { event.detached() } else { event });
            }
        }
        Ok(OrderChunk { events, reached: self.reached, hash: self.hash, at_end })
    }
}

fn check_checkpoint(
    history: &History,
    tip: Tip,
    position: Position,
    hash: Option<ChainHash>,
) -> Result<(), StoreError> {
    if position > tip.position {
        return Err(FailedPrecondition::HistoryChanged("its position is beyond the last event").into());
    }
    let Some(hash) = hash else { return Ok(()) };
    if history.locate(position, tip)?.hash != hash {
        return Err(FailedPrecondition::HistoryChanged(
            "its hash differs from the chain hash at its \
         position",
        )
        .into());
    }
    Ok(())
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
    async fn an_id_needs_one_of_the_prefixes_and_the_single_prefix_as_well() {
        let folder = tempdir().unwrap();
        let running = start(&in_folder(&folder));
        let store = local_store(&running);
        for aggregate in ["room-1", "arena-1", "player-1", "arena-2"] {
            store.append(one_event(aggregate)).await.unwrap();
        }
        let positions = |prefix: &str, prefixes: &[&str]| -> Vec<u64> {
            let filter = Filter {
                aggregate_id_prefix: prefix.to_owned(),
                aggregate_id_prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
                ..Filter::default()
            };
            let mut reader = store.read(OrderStart::At(Position(1)), filter).unwrap();
            let read = reader.next(store.tip(), usize::MAX).unwrap();
            assert!(read.at_end && read.reached == Position(4), "{read:?}");
            read.events.iter().map(|event| event.position.0).collect()
        };
        assert_eq!(positions("", &[]), [1, 2, 3, 4]);
        assert_eq!(positions("", &["arena-"]), [2, 4]);
        assert_eq!(positions("", &["player-", "arena-1"]), [2, 3]);
        assert_eq!(positions("arena-", &["player-", "arena-1"]), [2]);
        assert_eq!(positions("room-", &["player-"]), Vec::<u64>::new());
    }
}
