//! Packs transactions for ImmuDB: whole appends and snapshots from the log, as many as fit into
//! one. The head is not part of them; the forwarder adds it when it sends them.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use crate::{
    event::{
        AggregateId, ChainHash, Position, SequenceNumber,
        record::{self, StoredEvent},
    },
    history::{History, HistoryError},
    immudb::KeyValue,
    log::{Cursor, Frame, LogOffset, ReadFrame, Tip},
};

/// The limits of one transaction. An append that exceeds them is sent alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    pub keys_max: usize,
    pub bytes_max: usize,
}

/// The contents of one transaction, except for the head.
#[derive(Debug)]
pub(super) struct Batch {
    pub entries: Vec<KeyValue>,
    pub event_count: u64,
    /// Number of appends and snapshots, which cannot be split.
    pub frame_count: u64,
    /// Total size of their records.
    pub bytes: usize,
    /// The keys of the first and the last event, if there are any.
    pub first_event: Option<Bytes>,
    pub last_event: Option<Bytes>,
    /// Once this is committed, ImmuDB has the log up to here.
    pub reached: LogPoint,
}

/// A point in the log between two frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogPoint {
    pub place: LogOffset,
    pub position: Position,
    pub hash: ChainHash,
    /// Number of snapshot frames before this point.
    pub snapshots: u64,
}

impl LogPoint {
    /// The start of the log: nothing has been forwarded yet.
    pub(super) const START: Self =
        Self { place: LogOffset::START, position: Position(0), hash: ChainHash::START, snapshots: 0 };
}

/// Reads the log and packs it into transactions.
#[derive(Debug)]
pub(super) struct Packer {
    history: History,
    limits: BatchLimits,
    cursor: Cursor,
    /// A frame that did not fit into the previous transaction.
    held: Option<ReadFrame>,
    reached: LogPoint,
}

impl Packer {
    /// Creates a packer that starts after everything that ImmuDB has.
    pub(super) fn new(history: History, limits: BatchLimits, reached: LogPoint) -> Self {
        let segments = Arc::clone(&history.segments);
        let cursor = Cursor::after(segments, reached.place, reached.position, reached.hash);
        Self { history, limits, cursor, held: None, reached }
    }

    /// Sets the byte limit of the following transactions.
    pub(super) fn limit_bytes(&mut self, bytes_max: usize) {
        self.limits.bytes_max = bytes_max;
    }

    /// Packs the next transaction, with the log up to `tip`. It may be empty and still have reached
    /// further than the one before.
    ///
    /// # Errors
    /// Returns an error if the log is damaged.
    pub(super) fn next(&mut self, tip: Tip) -> Result<Batch, HistoryError> {
        let mut contents = BatchBuilder::default();
        loop {
            let read = match self.held.take() {
                Some(read) => read,
                None => match self.cursor.next(tip.end)? {
                    Some(read) => read,
                    None => {
                        self.reached.snapshots = tip.snapshots.max(self.reached.snapshots);
                        self.reached.place = self.reached.place.max(tip.end);
                        break;
                    }
                },
            };
            if !self.add(&mut contents, &read, tip)? {
                self.held = Some(read);
                break;
            }
            self.reached.place = read.end;
        }
        Ok(Batch {
            event_count: contents.event_count,
            frame_count: contents.frame_count,
            bytes: contents.bytes,
            first_event: contents.events.first().map(|entry| entry.key.clone()),
            last_event: contents.events.last().map(|entry| entry.key.clone()),
            entries: contents.into_entries(),
            reached: self.reached,
        })
    }

    /// Adds a frame. Returns `false` if it would make the transaction too large.
    fn add(&mut self, contents: &mut BatchBuilder, read: &ReadFrame, tip: Tip) -> Result<bool, HistoryError> {
        match &read.frame {
            Frame::Mark(_) => Ok(true),
            Frame::Snapshot { number, record: stored } => {
                if !contents.has_room(self.limits, 1, stored.bytes.len()) {
                    return Ok(false);
                }
                let snapshot = record::decode_snapshot(stored.bytes.clone())
                    .map_err(|source| HistoryError::Record { place: stored.place(read.start), source })?;
                // A snapshot with a lower sequence number must never replace one with a higher one,
                // so only the newest one up to the tip is sent. A newer one may be in the index
                // already, and is sent with a later transaction.
                let newest = self.history.index.head(&snapshot.aggregate_id)?.and_then(|head| head.snapshot);
                let place = stored.place(read.start);
                if newest.is_some_and(|newest| newest.place == place || newest.place.end() > tip.end) {
                    contents.frame_count = contents.frame_count.saturating_add(1);
                    contents.snapshot(&snapshot.aggregate_id, stored.bytes.clone());
                }
                self.reached.snapshots = *number;
                Ok(true)
            }
            Frame::Append { records, .. } => {
                let bytes = records.iter().map(|stored| stored.bytes.len()).sum();
                // In the worst case, every event belongs to an aggregate of its own.
                let keys = records.len().saturating_mul(2);
                if !contents.has_room(self.limits, keys, bytes) {
                    return Ok(false);
                }
                contents.frame_count = contents.frame_count.saturating_add(1);
                for stored in records {
                    let source = |source| HistoryError::Record { place: stored.place(read.start), source };
                    let event = StoredEvent::new(stored.bytes.clone(), stored.hash).map_err(source)?;
                    let aggregate = event.aggregate().map_err(source)?;
                    contents.event(&aggregate, event.sequence, stored.bytes.clone());
                    self.reached.position = event.position;
                    self.reached.hash = stored.hash;
                }
                Ok(true)
            }
        }
    }
}

#[derive(Default)]
struct BatchBuilder {
    events: Vec<KeyValue>,
    sequences: BTreeMap<AggregateId, SequenceNumber>,
    snapshots: BTreeMap<AggregateId, Bytes>,
    bytes: usize,
    event_count: u64,
    frame_count: u64,
}

impl BatchBuilder {
    fn has_room(&self, limits: BatchLimits, keys: usize, bytes: usize) -> bool {
        let used =
            self.events.len().saturating_add(self.sequences.len()).saturating_add(self.snapshots.len());
        let head = 1;
        used == 0
            || used.saturating_add(keys).saturating_add(head) <= limits.keys_max
                && self.bytes.saturating_add(bytes) <= limits.bytes_max
    }

    fn event(&mut self, aggregate: &AggregateId, sequence: SequenceNumber, record: Bytes) {
        self.bytes = self.bytes.saturating_add(record.len());
        self.event_count = self.event_count.saturating_add(1);
        self.events.push(KeyValue { key: event_key(aggregate, sequence), value: record });
        self.sequences.insert(aggregate.clone(), sequence);
    }

    fn snapshot(&mut self, aggregate: &AggregateId, record: Bytes) {
        self.bytes = self.bytes.saturating_add(record.len());
        self.snapshots.insert(aggregate.clone(), record);
    }

    fn into_entries(self) -> Vec<KeyValue> {
        let mut entries = self.events;
        for (aggregate, sequence) in self.sequences {
            entries.push(KeyValue { key: sequence_key(&aggregate), value: sequence_value(sequence) });
        }
        for (aggregate, record) in self.snapshots {
            entries.push(KeyValue { key: snapshot_key(&aggregate), value: record });
        }
        entries
    }
}

pub(super) const EVENT_PREFIX: &str = "event:";
pub(super) const SEQUENCE_PREFIX: &str = "sequence:";
pub(super) const SNAPSHOT_PREFIX: &str = "snapshot:";

/// Returns the key of an event. Because of the padding, keys sort by sequence number.
pub(super) fn event_key(aggregate: &AggregateId, sequence: SequenceNumber) -> Bytes {
    Bytes::from(format!("{EVENT_PREFIX}{}:{:020}", aggregate.encoded(), sequence.0))
}

/// Returns the encoded aggregate id and the sequence number in a key that [`event_key`] returned,
/// as far as its form tells. The encoded id of a long one cannot be decoded.
pub(super) fn parse_event_key(key: &[u8]) -> Option<(&str, SequenceNumber)> {
    const DIGITS: usize = 20;
    let (id, number) = std::str::from_utf8(key).ok()?.strip_prefix(EVENT_PREFIX)?.rsplit_once(':')?;
    let is_padded = number.len() == DIGITS && number.bytes().all(|byte| byte.is_ascii_digit());
    Some((id, SequenceNumber(number.parse().ok().filter(|_| is_padded)?)))
}

fn sequence_key(aggregate: &AggregateId) -> Bytes {
    Bytes::from(format!("{SEQUENCE_PREFIX}{}", aggregate.encoded()))
}

pub(super) fn sequence_value(sequence: SequenceNumber) -> Bytes {
    Bytes::from(sequence.to_string())
}

fn snapshot_key(aggregate: &AggregateId) -> Bytes {
    Bytes::from(format!("{SNAPSHOT_PREFIX}{}", aggregate.encoded()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{EventSourcingConfig, LimitsConfig},
        event::{Content, Snapshot, Timestamp},
        index::IndexedSnapshot,
        server::settings,
        storage::Storage,
    };

    #[test]
    fn a_snapshot_goes_although_the_next_one_is_there_already() {
        let dir = tempfile::tempdir().unwrap();
        let config = EventSourcingConfig {
            log_path: dir.path().join("log"),
            index_path: dir.path().join("index"),
            ..EventSourcingConfig::default()
        };
        let mut storage = Storage::open(&settings::storage(&config, &LimitsConfig::default())).unwrap();
        let aggregate = AggregateId::new("room-1").unwrap();
        let mut tips = Vec::new();
        let mut entries = crate::index::IndexBatch::new(&storage.index);
        entries.add_append(&storage.index, LogOffset::START, vec![indexed_event(&aggregate)]).unwrap();
        storage.index.add(entries, || ());
        for sequence in 1..=3 {
            let record = record::encode_snapshot(Snapshot {
                aggregate_id: aggregate.clone(),
                sequence: SequenceNumber(sequence),
                content: Content::Absent,
                schema_version: 0,
                metadata: BTreeMap::new(),
                recorded_at: Timestamp::default(),
                event_hash: ChainHash::START,
            });
            let mut group = storage.log.begin().unwrap();
            let place = group.snapshot(&record).place;
            storage.log.write(group).unwrap();
            let mut entries = crate::index::IndexBatch::new(&storage.index);
            let (aggregate_id, sequence) = (aggregate.clone(), SequenceNumber(sequence));
            entries.add_snapshot(&storage.index, IndexedSnapshot { aggregate_id, sequence, place }).unwrap();
            storage.index.add(entries, || ());
            tips.push(storage.log.tip());
        }
        let limits = BatchLimits { keys_max: 100, bytes_max: 1 << 20 };
        let mut packer = Packer::new(storage.history(), limits, LogPoint::START);
        let sent = |batch: &Batch| -> Vec<u64> {
            let sequence =
                |entry: &KeyValue| record::decode_snapshot(entry.value.clone()).unwrap().sequence.0;
            batch.entries.iter().map(sequence).collect()
        };
        // The third one is in the index already, but after the tip that the packer knows.
        assert_eq!(sent(&packer.next(tips[1]).unwrap()), [2]);
        assert_eq!(sent(&packer.next(tips[2]).unwrap()), [3]);
        // From the start again, as when the contents of ImmuDB are in doubt: only the newest one is
        // sent.
        let mut packer = Packer::new(storage.history(), limits, LogPoint::START);
        assert_eq!(sent(&packer.next(tips[2]).unwrap()), [3]);
    }

    #[test]
    fn the_key_of_an_event_tells_which_event_it_is() {
        for id in ["room-1", "a:b", "ä/ö", &"x".repeat(255)] {
            let aggregate = AggregateId::new(id).unwrap();
            let key = event_key(&aggregate, SequenceNumber(u64::MAX));
            let encoded = aggregate.encoded();
            assert_eq!(parse_event_key(&key), Some((encoded.as_str(), SequenceNumber(u64::MAX))), "{id}");
        }
        for other in [
            "event:room-1",
            "event:room-1:7",
            "event:room-1:0000000000000000000x",
            "event:room-1:99999999999999999999",
            "sequence:room-1:00000000000000000001",
        ] {
            assert_eq!(parse_event_key(other.as_bytes()), None, "{other}");
        }
        assert_eq!(parse_event_key(b"event:\xff:00000000000000000001"), None);
    }

    fn indexed_event(aggregate: &AggregateId) -> crate::index::IndexedEvent {
        crate::index::IndexedEvent {
            id: crate::event::EventId::random(),
            aggregate_id: aggregate.clone(),
            aggregate_type: "Room".into(),
            event_type: "RoomCreated".into(),
            sequence: SequenceNumber(1),
            position: Position(1),
            recorded_at: Timestamp::default(),
            place: crate::log::RecordAddress { segment: 1, offset: 0, length: 0 },
            digest: crate::event::ContentDigest([0; 32]),
        }
    }
}
