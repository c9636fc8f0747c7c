//! The figures that are derived from the log, and how records add to them.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::event::{
    ChainHash, Position,
    record::{self, RecordHead},
};

/// What one identity has stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct StoredUse {
    /// The bytes of the records of its events.
    pub bytes: u64,
    /// The number of event types that it has introduced.
    pub types: u64,
}

/// The figures of all identities up to one event.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Derived {
    /// The position and the chain hash of the last event that is included.
    pub position: Position,
    pub hash: ChainHash,
    /// The hashes of the first event types of the log, up to a limit.
    pub types: BTreeSet<u64>,
    pub identities: BTreeMap<Arc<str>, StoredUse>,
}

/// What consecutive records add.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The last event of these records, and its chain hash.
    pub reached: Option<(Position, ChainHash)>,
    bytes: BTreeMap<Arc<str>, u64>,
    /// The types in the order of their first events, each with the identity that stored that event;
    /// empty if nobody was asked.
    types: Vec<(u64, Arc<str>)>,
    seen: HashSet<u64>,
    /// The type of the previous record, which is often that of the next one.
    last_type: Vec<u8>,
}

/// Returns the hash that stands for an event type. If two types had the same, the second would
/// count as known.
pub(super) fn type_hash(name: &[u8]) -> u64 {
    const KEY: [u8; 16] = *b"event type names";
    SipHasher13::new_with_key(&KEY).hash(name)
}

impl Batch {
    /// Adds a record. One that cannot be read adds nothing: readers of the event report it.
    pub(super) fn add(&mut self, record: &[u8]) {
        let Some(head) = RecordHead::of(record) else { return };
        let Ok(name) = std::str::from_utf8(record::recorded_by(record)) else { return };
        if !name.is_empty() {
            let bytes = record.len() as u64;
            match self.bytes.get_mut(name) {
                Some(sum) => *sum = sum.saturating_add(bytes),
                None => _ = self.bytes.insert(name.into(), bytes),
            }
        }
        if head.event_type == self.last_type {
            return;
        }
        self.last_type.clear();
        self.last_type.extend_from_slice(head.event_type);
        let hash = type_hash(head.event_type);
        if self.seen.insert(hash) {
            self.types.push((hash, name.into()));
        }
    }
}

impl Derived {
    pub(super) fn stored(&self, name: &str) -> StoredUse {
        self.identities.get(name).copied().unwrap_or_default()
    }

    /// Adds a batch that continues these figures. Returns the types that it introduces.
    pub(super) fn add(&mut self, batch: &Batch, types_max: u64) -> Vec<u64> {
        for (name, bytes) in &batch.bytes {
            let stored = self.identities.entry(name.clone()).or_default();
            stored.bytes = stored.bytes.saturating_add(*bytes);
        }
        let mut introduced = Vec::new();
        for (hash, name) in &batch.types {
            if self.types.len() as u64 >= types_max {
                break;
            }
            if !self.types.insert(*hash) {
                continue;
            }
            introduced.push(*hash);
            if !name.is_empty() {
                let stored = self.identities.entry(name.clone()).or_default();
                stored.types = stored.types.saturating_add(1);
            }
        }
        if let Some((position, hash)) = batch.reached {
            (self.position, self.hash) = (position, hash);
        }
        introduced
    }
}
