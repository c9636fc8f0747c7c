//! Packs transactions for ImmuDB: whole appends and snapshots from the log, as many as fit into
//! one. The head is not part of them; the forwarder adds it when it sends them.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::head::TreeHead;
use crate::{
    event::{
        AggregateId, ChainHash, Position, SequenceNumber,
        record::{self, StoredEvent},
    },
    history::{History, HistoryError},
    immudb::KeyValue,
    log::{Cursor, Frame, LogOffset, ReadFrame, Tip},
    merkle::{RightEdge, leaf_hash},
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
    /// The size of the checkpoint that it stores. Such a transaction has no events.
    pub checkpoint: Option<u64>,
    /// Once this is committed, ImmuDB has the log up to here.
    pub reached: LogPoint,
}

impl Batch {
    /// Returns a transaction with nothing but the head, where ImmuDB has the log up to `reached`.
    pub(super) fn of_head(reached: LogPoint) -> Self {
        Self {
            entries: Vec::new(),
            event_count: 0,
            frame_count: 0,
            bytes: 0,
            first_event: None,
            last_event: None,
            checkpoint: None,
            reached,
        }
    }
}

/// A point in the log between two frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogPoint {
    pub place: LogOffset,
    pub position: Position,
    pub hash: ChainHash,
    /// Number of snapshot frames before this point.
    pub snapshots: u64,
    /// The tree over the events up to `position`, if it is known.
    pub tree: Option<TreeHead>,
}

impl LogPoint {
    /// The start of the log: nothing has been forwarded yet.
    pub(super) const START: Self = Self {
        place: LogOffset::START,
        position: Position(0),
        hash: ChainHash::START,
        snapshots: 0,
        tree: Some(TreeHead::EMPTY),
    };
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
    /// The right edge of the tree over the events up to `reached`, once it is known.
    edge: Option<RightEdge>,
}

impl Packer {
    /// Creates a packer that starts after everything that ImmuDB has.
    pub(super) fn new(history: History, limits: BatchLimits, reached: LogPoint) -> Self {
        let segments = Arc::clone(&history.segments);
        let cursor = Cursor::after(segments, reached.place, reached.position, reached.hash);
        Self { history, limits, cursor, held: None, reached, edge: None }
    }

    /// Returns the position of the last event that was packed.
    pub(super) fn position(&self) -> Position {
        self.reached.position
    }

    /// Returns the tree over the events that were packed, if it is known.
    pub(super) fn tree(&self) -> Option<TreeHead> {
        self.edge.as_ref().map(TreeHead::of)
    }

    pub(super) fn knows_edge(&self) -> bool {
        self.edge.is_some()
    }

    /// Takes the right edge of the tree over the events that were packed. The following
    /// transactions have the tree. An edge of another size is ignored.
    pub(super) fn set_edge(&mut self, edge: RightEdge) {
        self.edge = Some(edge).filter(|edge| edge.size() == self.reached.position.0);
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
        self.reached.tree = self.tree();
        Ok(Batch {
            event_count: contents.event_count,
            frame_count: contents.frame_count,
            bytes: contents.bytes,
            first_event: contents.events.first().map(|entry| entry.key.clone()),
            last_event: contents.events.last().map(|entry| entry.key.clone()),
            entries: contents.into_entries(),
            checkpoint: None,
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
                    if let Some(edge) = &mut self.edge {
                        edge.push(leaf_hash(&stored.hash.0));
                    }
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
pub(super) const CHECKPOINT_PREFIX: &str = "checkpoint:";

/// The number of digits of a number in a key, with leading zeros.
const DIGITS: usize = 20;

/// Returns the key of an event. Because of the padding, keys sort by sequence number.
pub(crate) fn event_key(aggregate: &AggregateId, sequence: SequenceNumber) -> Bytes {
    Bytes::from(format!("{EVENT_PREFIX}{}:{:020}", aggregate.encoded(), sequence.0))
}

/// Returns the encoded aggregate id and the sequence number in a key that [`event_key`] returned,
/// as far as its form tells. The encoded id of a long one cannot be decoded.
pub(crate) fn parse_event_key(key: &[u8]) -> Option<(&str, SequenceNumber)> {
    let (id, number) = std::str::from_utf8(key).ok()?.strip_prefix(EVENT_PREFIX)?.rsplit_once(':')?;
    Some((id, SequenceNumber(parse_padded(number)?)))
}

/// Returns the key of the checkpoint of a tree with this number of leaves.
pub(super) fn checkpoint_key(size: u64) -> Bytes {
    Bytes::from(format!("{CHECKPOINT_PREFIX}{size:020}"))
}

/// Returns the size in a key that [`checkpoint_key`] returned.
pub(super) fn parse_checkpoint_key(key: &[u8]) -> Option<u64> {
    parse_padded(std::str::from_utf8(key).ok()?.strip_prefix(CHECKPOINT_PREFIX)?)
}

fn parse_padded(number: &str) -> Option<u64> {
    let is_padded = number.len() == DIGITS && number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse().ok().filter(|_| is_padded)
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
        merkle::{self, Hash},
        sequencer::{
            Origin,
            tests::{in_folder, one_event, start},
        },
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
            let place = group.snapshot(&record).unwrap().place;
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

    #[test]
    fn the_key_of_a_checkpoint_tells_its_size() {
        for size in [0, 1, 1234, u64::MAX] {
            assert_eq!(parse_checkpoint_key(&checkpoint_key(size)), Some(size));
        }
        assert_eq!(checkpoint_key(7), "checkpoint:00000000000000000007");
        for other in ["checkpoint:", "checkpoint:7", "checkpoint:+0000000000000000007", "log:head"] {
            assert_eq!(parse_checkpoint_key(other.as_bytes()), None, "{other}");
        }
    }

    /// Returns the root over the events up to a position, from their chain hashes.
    fn root_of(history: &History, position: Position, tip: Tip) -> Hash {
        let leaf = |position| leaf_hash(&history.locate(Position(position), tip).unwrap().hash.0);
        merkle::root(&(1..=position.0).map(leaf).collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn the_packer_keeps_the_tree_over_what_it_has_packed() {
        let folder = tempfile::tempdir().unwrap();
        let running = start(&in_folder(&folder));
        for number in 0..40 {
            let mut append = one_event(&format!("room-{number}"));
            for _ in 0..number % 3 {
                append.events.extend(one_event(&format!("room-{number}")).events);
            }
            running.sequencer.append(append, Origin::default()).await.unwrap();
        }
        let tip = running.sequencer.tip();
        // Some appends are larger than a transaction may be, and others share one.
        for keys_max in [2, 5, 16, 1000] {
            let limits = BatchLimits { keys_max, bytes_max: 1 << 20 };
            let mut packer = Packer::new(running.history.clone(), limits, LogPoint::START);
            packer.set_edge(RightEdge::new());
            let mut count = 0;
            while packer.position() < tip.position {
                let reached = packer.next(tip).unwrap().reached;
                let root = root_of(&running.history, reached.position, tip);
                assert_eq!(reached.tree, Some(TreeHead { size: reached.position.0, root }), "{keys_max}");
                count += 1;
            }
            assert_eq!(count == 1, keys_max == 1000, "{keys_max} keys");
            assert_eq!(packer.next(tip).unwrap().reached.tree, packer.tree(), "nothing more is packed");
        }
    }

    #[tokio::test]
    async fn without_an_edge_there_is_no_tree_until_the_packer_gets_one_of_its_position() {
        let folder = tempfile::tempdir().unwrap();
        let running = start(&in_folder(&folder));
        for number in 0..6 {
            running.sequencer.append(one_event(&format!("room-{number}")), Origin::default()).await.unwrap();
        }
        let tip = running.sequencer.tip();
        let limits = BatchLimits { keys_max: 5, bytes_max: 1 << 20 };
        let mut packer = Packer::new(running.history.clone(), limits, LogPoint::START);
        let reached = packer.next(tip).unwrap().reached;
        assert_eq!((reached.position, reached.tree, packer.knows_edge()), (Position(2), None, false));
        let edge_of = |size: u64| {
            let mut edge = RightEdge::new();
            (1..=size).for_each(|position| {
                let located = running.history.locate(Position(position), tip).unwrap();
                edge.push(leaf_hash(&located.hash.0));
            });
            edge
        };
        packer.set_edge(edge_of(1));
        assert!(!packer.knows_edge());
        packer.set_edge(edge_of(2));
        let reached = packer.next(tip).unwrap().reached;
        let root = root_of(&running.history, Position(4), tip);
        assert_eq!(reached.tree, Some(TreeHead { size: 4, root }));
        // The head without anything else has it, too.
        assert_eq!(Batch::of_head(reached).reached.tree, packer.tree());
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
