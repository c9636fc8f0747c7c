//! Compares the contents of ImmuDB with what the service says.
//!
//! It reads through ImmuDB's own client, so that an error in ours cannot hide.

use std::collections::BTreeMap;

use aethyr_event_store::{
    event::{AggregateId, ChainHash, record},
    grpc::wire::RecordedEvent,
};
use base64::{Engine, engine::general_purpose::STANDARD};

use super::immudb::ImmuDb;

/// Returns the documented key of an event in ImmuDB.
pub fn key_of(event: &RecordedEvent) -> String {
    let id = AggregateId::new(&event.aggregate_id).unwrap();
    format!("event:{}:{:020}", id.encoded(), event.sequence_number)
}

/// Asserts that no transaction wrote an event that another transaction had written.
pub fn assert_written_once(immudb: &ImmuDb, order: &[RecordedEvent]) {
    let mut written = 0;
    immudb.read(&["--database", "aethyr", "txscan"], |entry| {
        written += usize::from(entry["key"].as_str().unwrap().starts_with("event:"));
    });
    assert_eq!(written, order.len(), "writes of events in ImmuDB");
}

/// Asserts that ImmuDB holds exactly these events, each once and under its documented key, with one
/// sequence entry for each aggregate, and no others.
pub fn assert_in_immudb(immudb: &ImmuDb, order: &[RecordedEvent]) {
    let (mut found, mut by_position) = (0, BTreeMap::new());
    immudb.read(&["--database", "aethyr", "scan", "event:"], |entry| {
        found += 1;
        let value = STANDARD.decode(entry["value_base64"].as_str().unwrap()).unwrap();
        let stored = record::decode(value.clone().into(), ChainHash::START).unwrap();
        let id = stored.event.aggregate_id.encoded();
        let key = format!("event:{id}:{:020}", stored.sequence.0);
        assert_eq!(entry["key"].as_str(), Some(key.as_str()));
        by_position.insert(stored.position.0, (entry["tx"].as_u64().unwrap(), value));
    });
    assert_eq!(found, order.len(), "events in ImmuDB");
    let (mut hash, mut tx_before) = (ChainHash::START, 0);
    for (event, (position, (tx, value))) in order.iter().zip(&by_position) {
        assert_eq!(event.position, *position);
        hash = hash.chain(value);
        assert_eq!(event.chain_hash.as_ref(), hash.0, "position {position}");
        assert!(*tx >= tx_before, "position {position} came into ImmuDB before one that precedes it");
        tx_before = *tx;
    }
    let sequences = immudb.reader(&["--database", "aethyr", "scan", "sequence:"]);
    let mut last_of = BTreeMap::new();
    for event in order {
        let id = AggregateId::new(&event.aggregate_id).unwrap().encoded().to_string();
        last_of.insert(id, event.sequence_number);
    }
    assert_eq!(sequences.len(), last_of.len());
    for entry in sequences {
        let id = entry["key"].as_str().unwrap().trim_start_matches("sequence:").to_owned();
        let value = STANDARD.decode(entry["value_base64"].as_str().unwrap()).unwrap();
        assert_eq!(String::from_utf8(value).unwrap(), last_of[&id].to_string(), "{id}");
    }
}
