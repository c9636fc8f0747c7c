//! The entry points of the fuzz targets in `fuzz/` and of the test `corpus`.
//!
//! They pass arbitrary bytes to the code that reads data from outside. Each function panics if a
//! promise of that code is broken; rejected bytes are fine. Checks that need the private parts of a
//! module are in that module. Nothing else in the program calls these functions.
#![expect(clippy::expect_used, clippy::panic, reason = "a broken promise has to end the run")]

use bytes::Bytes;

pub use crate::{
    access::fuzzing::{access_file, authorization, tokens},
    config::fuzzing::configuration,
    grpc::fuzzing::requests,
    immudb::fuzzing::immudb_proofs,
    log::fuzzing::{damage, frames, segments},
    merkle::fuzzing::tree_proofs,
    proof::fuzzing::notes,
    proof_file::fuzzing::proof_files,
};
use crate::{
    aethyr_import::{ConvertRules, LegacyEvent, aggregate_type, convert},
    event::{
        AppendBounds, ChainHash, Content, ContentDigest, NewEvent, Position, RecordedEvent, SequenceNumber,
        Snapshot, Timestamp,
        record::{self, EventNumbers, RecordHead, StoredEvent},
    },
    event_files::format,
    immudb::{self, Transaction},
    replication::{
        head::LogHead,
        restore::{self, Checked},
    },
};

/// Checks records as stored in the log and in ImmuDB.
pub fn records(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(event) = record::decode(bytes.clone(), ChainHash::START) {
        let encoded = record::encode_recorded(&event);
        let stored = StoredEvent::new(encoded.clone(), ChainHash::START).expect("a record of ours");
        assert_eq!(stored.aggregate_id(), event.event.aggregate_id.as_str().as_bytes());
        assert_eq!(stored.aggregate_type(), event.event.aggregate_type.as_bytes());
        assert_eq!(stored.event_type(), event.event.event_type.as_bytes());
        assert_eq!(stored.correlation_id(), event.event.correlation_id.as_bytes());
        assert_eq!(record::recorded_by(&encoded), event.recorded_by.as_bytes());
        assert_eq!((stored.sequence, stored.position), (event.sequence, event.position));
        assert_eq!(stored.recorded_at, event.recorded_at);
        assert_eq!(record::decode(encoded, ChainHash::START), Ok(event), "an event");
    }
    if let Ok(stored) = StoredEvent::new(bytes.clone(), ChainHash::START) {
        let mut sent = Vec::new();
        stored.put_recorded(&mut sent);
        assert_eq!(sent.len(), stored.recorded_bytes());
        assert_eq!(RecordHead::of(&bytes), Some(stored.head()), "its first fields");
    }
    if let Ok(snapshot) = record::decode_snapshot(bytes.clone()) {
        let encoded = record::encode_snapshot(snapshot.clone());
        assert_eq!(record::decode_snapshot(encoded), Ok(snapshot), "a snapshot");
    }
    if let Ok(mark) = record::decode_mark(bytes) {
        assert_eq!(record::decode_mark(record::encode_mark(mark)), Ok(mark), "a mark");
    }
}

/// Checks event files, made from a file's text and from a record.
pub fn event_files(bytes: &[u8]) {
    let record = Bytes::copy_from_slice(bytes);
    let events = [format::read_event(bytes), record::decode(record.clone(), ChainHash::START).ok()];
    events.into_iter().flatten().for_each(event_file);
    let snapshots = [format::read_snapshot(bytes), record::decode_snapshot(record).ok()];
    snapshots.into_iter().flatten().for_each(snapshot_file);
}

fn event_file(event: RecordedEvent) {
    let written = format::write_event(event.clone());
    let back = format::read_event(&written).expect("a file that was written can be read");
    assert_eq!(back, event);
    assert_eq!(record::encode_recorded(&back), record::encode_recorded(&event), "or its hash fits no more");
}

fn snapshot_file(snapshot: Snapshot) {
    let written = format::write_snapshot(snapshot.clone());
    assert_eq!(format::read_snapshot(&written), Some(snapshot));
}

/// Checks events of Aethyr's own event store: what is read is converted into events that can be
/// stored, and always into the same ones.
pub fn aethyr_events(bytes: &[u8]) {
    let converted = || -> Option<Vec<NewEvent>> {
        let event = LegacyEvent::read(bytes).ok()?;
        let kind = aggregate_type([event.event_type.as_str()]);
        let rules = ConvertRules { aggregate_type: kind.into(), is_password_hash: |text| text.len() == 32 };
        Some(convert(event, &rules).ok()?.events)
    };
    let Some(events) = converted() else { return };
    assert!(!events.is_empty());
    for event in &events {
        let Content::Json(text) = &event.content else { panic!("the data is not JSON") };
        serde_json::from_str::<serde_json::Value>(text).expect("JSON that can be read");
        let first = Position(1);
        let numbers = EventNumbers {
            sequence: SequenceNumber(1),
            position: first,
            recorded_at: Timestamp::default(),
            append: AppendBounds { first, last: first },
        };
        let record = record::encode(event, numbers, ContentDigest::of(event), "");
        let stored = record::decode(record, ChainHash::START).expect("a record of ours");
        assert_eq!(stored.event, *event);
    }
    assert_eq!(converted(), Some(events), "the same events again");
}

/// Checks ImmuDB's answers: errors, heads and transactions.
pub fn immudb(bytes: &[u8]) {
    immudb::fuzzing::errors(bytes);
    if let Some(head) = LogHead::decode(bytes) {
        assert_eq!(LogHead::decode(&head.encode()), Some(head));
    }
    for transaction in immudb::fuzzing::transactions(bytes) {
        copied(&transaction, Checked { position: Position(0), hash: ChainHash::START });
        // The same with a log that ends just before the first event.
        let first = transaction.entries.iter().find_map(|(_, value)| event_of(value));
        if let Some(before) = first.and_then(|event| event.position.0.checked_sub(1)) {
            copied(&transaction, Checked { position: Position(before), hash: ChainHash::START });
        }
    }
}

fn event_of(value: &Bytes) -> Option<RecordedEvent> {
    record::decode(value.clone(), ChainHash::START).ok()
}

/// Checks that the appends restored from a transaction continue the checked history, event by
/// event.
fn copied(transaction: &Transaction, before: Checked) {
    let mut checked = before;
    let Ok(appends) = restore::take_apart(transaction, &mut checked) else { return };
    assert!(appends.iter().all(|append| !append.is_empty()), "an append without an event");
    let (mut position, mut hash) = (before.position, before.hash);
    for value in appends.iter().flatten() {
        position = position.next();
        hash = hash.chain(value);
        assert_eq!(event_of(value).map(|event| event.position), Some(position));
    }
    assert_eq!((checked.position, checked.hash), (position, hash));
}
