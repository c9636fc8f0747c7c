//! Snapshots that the damage took, had again from their files.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tracing::warn;

use crate::{
    config::Config,
    event::{AggregateId, Hash, SequenceNumber, Snapshot, record},
    event_files::{
        folder::{Folder, read_file},
        format,
    },
};

/// The newest snapshots by their files, held against the history as it is put together.
#[derive(Default)]
pub(super) struct Snapshots {
    in_files: HashMap<AggregateId, InFile>,
    /// Those that were made from this history.
    fitting: HashSet<AggregateId>,
    /// Those that are whole in the log.
    whole: HashMap<AggregateId, SequenceNumber>,
}

/// What is known of a snapshot in a file; all of them together may be larger than the memory.
struct InFile {
    path: PathBuf,
    sequence: SequenceNumber,
    event_hash: Hash,
}

impl Snapshots {
    pub fn new(config: &Config) -> Self {
        let paths = Folder::new(&config.event_sourcing.storage_path).snapshot_paths().unwrap_or_else(|why| {
            warn!(%why, "the snapshot files can't help");
            Vec::new()
        });
        let look = |path: PathBuf| {
            let Snapshot { aggregate_id, sequence, event_hash, .. } = read(&path)?;
            Some((aggregate_id, InFile { path, sequence, event_hash }))
        };
        let in_files = paths.into_iter().filter_map(look).collect();
        Self { in_files, fitting: HashSet::new(), whole: HashMap::new() }
    }

    /// An append that the history has, and the hash before it.
    pub fn pass(&mut self, records: &[Bytes], before: Hash) {
        if self.in_files.is_empty() {
            return;
        }
        let mut hash = before;
        for bytes in records {
            hash = hash.chain(bytes);
            let Ok(event) = record::decode(bytes.clone(), hash) else { continue };
            let found = self.in_files.get(&event.event.aggregate_id);
            if found.is_some_and(|found| found.sequence == event.sequence && found.event_hash == hash) {
                self.fitting.insert(event.event.aggregate_id);
            }
        }
    }

    /// A snapshot that the log has.
    pub fn is_whole(&mut self, bytes: &Bytes) {
        if let Ok(snapshot) = record::decode_snapshot(bytes.clone()) {
            let newest = self.whole.entry(snapshot.aggregate_id).or_insert(snapshot.sequence);
            *newest = snapshot.sequence.max(*newest);
        }
    }

    /// What the log lacks and the files have.
    pub fn lost(mut self) -> impl Iterator<Item = Bytes> {
        let (fitting, whole) = (self.fitting, self.whole);
        self.in_files.retain(|aggregate, snapshot| {
            fitting.contains(aggregate) && whole.get(aggregate).is_none_or(|whole| *whole < snapshot.sequence)
        });
        self.in_files.into_values().filter_map(|found| Some(record::encode_snapshot(read(&found.path)?)))
    }
}

fn read(path: &Path) -> Option<Snapshot> {
    format::read_snapshot(&read_file(path).ok()?)
}
