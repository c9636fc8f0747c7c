//! A small store on disk for the benchmarks in `benches/`.

use std::{collections::BTreeMap, sync::Arc};

use aethyr_event_store::{
    config::{EventSourcingConfig, LimitsConfig},
    event::{
        AggregateId, AppendBounds, ChainHash, Content, ContentDigest, EventId, NewEvent, Position,
        RecordedEvent, SequenceNumber, Timestamp,
        record::{self, EventNumbers},
    },
    history::History,
    index::{IndexBatch, IndexedEvent},
    log::LogOffset,
    server::settings,
    storage::Storage,
};
use bytes::Bytes;
use tempfile::TempDir;

/// Returns an event with 256 bytes of content.
pub fn event(number: u64) -> NewEvent {
    NewEvent {
        id: EventId::random(),
        aggregate_id: AggregateId::new(&format!("room-{}", number % 10)).expect("an id"),
        aggregate_type: Arc::from("Place"),
        event_type: Arc::from("RoomDescriptionUpdated"),
        content: Content::Binary(Bytes::from(vec![number as u8; 256])),
        correlation_id: String::new(),
        causation_id: String::new(),
        metadata: BTreeMap::new(),
        occurred_at: None,
    }
}

/// Returns an event as stored at `position`, in an append of 100 events that belong to ten
/// aggregates in turn.
pub fn recorded(position: u64) -> RecordedEvent {
    let event = event(position);
    let first = (position - 1) / 100 * 100 + 1;
    RecordedEvent {
        digest: ContentDigest::of(&event),
        event,
        sequence: SequenceNumber((position - 1) / 10 + 1),
        position: Position(position),
        recorded_at: Timestamp::new(1_700_000_000, 0).expect("a time"),
        recorded_by: Arc::from(""),
        append: AppendBounds { first: Position(first), last: Position(first + 99) },
        hash: ChainHash::START,
    }
}

pub fn numbers(recorded: &RecordedEvent) -> EventNumbers {
    EventNumbers {
        sequence: recorded.sequence,
        position: recorded.position,
        recorded_at: recorded.recorded_at,
        append: recorded.append,
    }
}

/// Returns the events of the append that begins at `first`.
pub fn append(first: u64) -> Vec<RecordedEvent> {
    (first..first + 100).map(recorded).collect()
}

pub fn encoded(append: &[RecordedEvent]) -> Vec<Bytes> {
    append.iter().map(record::encode_recorded).collect()
}

/// An open store and its directory.
pub struct Store {
    pub storage: Storage,
    _folder: TempDir,
}

impl Store {
    /// Creates a store with the given number of appends of 100 events.
    pub fn with(appends: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = EventSourcingConfig {
            log_path: folder.path().join("log"),
            index_path: folder.path().join("index"),
            ..EventSourcingConfig::default()
        };
        let mut store = Self {
            storage: Storage::open(&settings::storage(&config, &LimitsConfig::default())).expect("a store"),
            _folder: folder,
        };
        for number in 0..appends {
            let events = append(number * 100 + 1);
            let records = encoded(&events);
            let before = store.storage.log.tip().end;
            let mut group = store.storage.log.begin().expect("a group");
            let places = group.append(&records).unwrap();
            let tip = group.tip();
            store.storage.log.write(group).expect("written");
            let mut entries = store.entries(before, &events, places.iter().map(|at| at.place).collect());
            entries.reach(tip);
            store.storage.index.add(entries, || ());
        }
        store
    }

    /// Returns the entries that an append adds to the index.
    pub fn entries(
        &self,
        frame: LogOffset,
        events: &[RecordedEvent],
        places: Vec<aethyr_event_store::log::RecordAddress>,
    ) -> IndexBatch {
        let mut entries = IndexBatch::new(&self.storage.index);
        let indexed = events.iter().zip(places).map(|(event, place)| IndexedEvent::new(event, place));
        entries.add_append(&self.storage.index, frame, indexed.collect()).expect("added");
        entries
    }

    pub fn history(&self) -> History {
        self.storage.history()
    }
}
