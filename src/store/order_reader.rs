//! The whole order of events, or a filtered part of it, piece by piece; also behind the end, as it grows.

use std::collections::{HashSet, VecDeque};

use crate::{
    event::{Hash, Position, Timestamp, record::StoredEvent},
    history::{History, HistoryError},
    log::{Cursor, Frame, Tip},
    store::{Precondition, StoreError},
};

/// Which events are wanted; what is empty lets everything through.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub aggregate_types: HashSet<Vec<u8>>,
    pub event_types: HashSet<Vec<u8>>,
    pub aggregate_id_prefix: String,
    pub correlation_id: String,
    pub recorded_from: Option<Timestamp>,
    pub recorded_until: Option<Timestamp>,
}

impl Filter {
    fn lets_through(&self, event: &StoredEvent) -> bool {
        (self.aggregate_types.is_empty() || self.aggregate_types.contains(event.aggregate_type()))
            && (self.event_types.is_empty() || self.event_types.contains(event.event_type()))
            && event.aggregate_id().starts_with(self.aggregate_id_prefix.as_bytes())
            && (self.correlation_id.is_empty() || event.correlation_id() == self.correlation_id.as_bytes())
            && self.recorded_from.is_none_or(|from| event.recorded_at >= from)
            && self.recorded_until.is_none_or(|until| event.recorded_at <= until)
    }
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderStart {
    /// At this position.
    At(Position),
    /// Behind this event; with its hash, if the reader knows it.
    After(Position, Option<Hash>),
}

/// Some of the order.
#[derive(Debug)]
pub struct OrderChunk {
    /// Those that match.
    pub events: Vec<StoredEvent>,
    /// Everything up to here was looked at.
    pub reached: Position,
    pub hash: Hash,
    /// There was no more.
    pub at_end: bool,
}

/// The rest of the order. Reads from the disk when asked.
#[derive(Debug)]
pub struct OrderReader {
    cursor: Cursor,
    filter: Filter,
    /// Events before this one are not wanted.
    from: Position,
    reached: Position,
    hash: Hash,
    /// Read, but not handed out yet.
    left: VecDeque<StoredEvent>,
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
        let hash = match reached <= tip.position {
            true => history.locate(reached, tip)?.hash,
            false => Hash::default(),
        };
        let cursor = history.cursor_before(from)?;
        Ok(Self { cursor, filter, from, reached, hash, left: VecDeque::new() })
    }

    /// Everything up to here was looked at.
    pub fn reached(&self) -> Position {
        self.reached
    }

    /// What is left up to `tip` is little and was written just now: reading it waits for no disk.
    pub fn is_close_to(&self, tip: Tip) -> bool {
        const CLOSE_BYTES: u64 = 256 * 1024;
        let place = self.cursor.place();
        place.segment == tip.end.segment && tip.end.offset.saturating_sub(place.offset) <= CLOSE_BYTES
    }

    /// The next events up to `tip` that match, of about `bytes_max` together. Looks at a bounded part of the
    /// log, so that a filter that lets nothing through does not hold anybody up.
    ///
    /// # Errors
    /// The log is damaged.
    pub fn next(&mut self, tip: Tip, bytes_max: usize) -> Result<OrderChunk, StoreError> {
        const LOOKED_AT_BYTES: usize = 8 * 1024 * 1024;
        let (mut events, mut bytes, mut looked_at) = (Vec::new(), 0usize, 0usize);
        let mut at_end = false;
        while bytes < bytes_max && looked_at < LOOKED_AT_BYTES {
            let Some(event) = self.left.pop_front() else {
                match self.read(tip)? {
                    Some(read) => looked_at = looked_at.saturating_add(read),
                    None => {
                        at_end = true;
                        break;
                    }
                }
                continue;
            };
            let matches = self.filter.lets_through(&event);
            let bytes_with = bytes.saturating_add(event.recorded_bytes());
            if matches && !events.is_empty() && bytes_with > bytes_max {
                self.left.push_front(event);
                break;
            }
            (self.reached, self.hash) = (event.position, event.hash);
            if matches {
                bytes = bytes_with;
                events.push(event);
            }
        }
        Ok(OrderChunk { events, reached: self.reached, hash: self.hash, at_end })
    }

    /// Reads one frame; says how many bytes it was.
    fn read(&mut self, tip: Tip) -> Result<Option<usize>, StoreError> {
        let Some(read) = self.cursor.next(tip.end).map_err(HistoryError::from)? else { return Ok(None) };
        let bytes = usize::try_from(read.end.offset.saturating_sub(read.start.offset)).unwrap_or(usize::MAX);
        if let Frame::Append { records, .. } = read.frame {
            for stored in records {
                let place = stored.place(read.start);
                let event = StoredEvent::new(stored.bytes, stored.hash)
                    .map_err(|source| HistoryError::Record { place, source })?;
                if event.position >= self.from {
                    self.left.push_back(event);
                }
            }
        }
        Ok(Some(bytes))
    }
}

fn check_checkpoint(
    history: &History,
    tip: Tip,
    position: Position,
    hash: Option<Hash>,
) -> Result<(), StoreError> {
    if position > tip.position {
        return Err(Precondition::HistoryChanged("its position is beyond the end").into());
    }
    let Some(hash) = hash else { return Ok(()) };
    if history.locate(position, tip)?.hash != hash {
        return Err(Precondition::HistoryChanged("its hash is not the one at its position").into());
    }
    Ok(())
}
