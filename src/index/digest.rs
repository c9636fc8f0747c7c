//! A sum over all entries of the index, kept in every batch with the entries themselves.
//!
//! The database drops what it can't read of a journal, and a keyspace whose marker is gone, without a word. An
//! index that lacks entries has another sum than it should, whichever they are and for whatever reason.

use fjall::{Keyspace, Readable, Snapshot};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::IndexError;

/// A part of the index, so that an entry counts only where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Aggregates = 1,
    Events,
    EventIds,
    Positions,
    Transactions,
    Totals,
}

/// How many entries there are, and the sum of their hashes: the order in which they came does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest {
    pub(super) entries: u64,
    pub(super) sum: u64,
}

impl Digest {
    pub(super) fn add(&mut self, part: Part, key: &[u8], value: &[u8]) {
        self.entries = self.entries.wrapping_add(1);
        self.sum = self.sum.wrapping_add(hash(part, key, value));
    }

    pub(super) fn remove(&mut self, part: Part, key: &[u8], value: &[u8]) {
        self.entries = self.entries.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(hash(part, key, value));
    }

    pub(super) fn join(self, other: Self) -> Self {
        Self { entries: self.entries.wrapping_add(other.entries), sum: self.sum.wrapping_add(other.sum) }
    }

    /// Of what a keyspace held then; `seen` hears each key.
    pub(super) fn of(
        part: Part,
        keyspace: &Keyspace,
        then: &Snapshot,
        mut seen: impl FnMut(&[u8]),
    ) -> Result<Self, IndexError> {
        let mut digest = Self::default();
        for entry in then.iter(keyspace) {
            let (key, value) = entry.into_inner()?;
            // What is overwritten may be looked up in another place than where it is iterated.
            if part == Part::Aggregates && then.get(keyspace, &key)?.as_ref() != Some(&value) {
                return Err(IndexError::Entry("aggregates"));
            }
            seen(&key);
            digest.add(part, &key, &value);
        }
        Ok(digest)
    }
}

fn hash(part: Part, key: &[u8], value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, xxh3_64_with_seed(key, part as u64))
}
