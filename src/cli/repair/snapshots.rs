//! Recovers snapshots that the damage destroyed from the snapshot files.
//!
//! Only snapshots that belong to the repaired history are used. Files that cannot be read are
//! ignored.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tracing::warn;

use crate::{
    config::Config,
    event::{AggregateId, ChainHash, SequenceNumber, Snapshot, record},
    event_files::{
        folder::{EventFolder, read_file},
        format,
    },
};

/// The newest snapshots in the snapshot files, compared with the history while it is repaired.
#[derive(Default)]
pub(super) struct Snapshots {
    in_files: HashMap<AggregateId, InFile>,
    /// Aggregates whose snapshot file belongs to this history.
    fitting: HashSet<AggregateId>,
    /// The newest undamaged snapshot of each aggregate in the log.
    whole: HashMap<AggregateId, SequenceNumber>,
}

/// The description of a snapshot in a file, without its data: all snapshots together may not fit
/// into memory.
struct InFile {
    path: PathBuf,
    sequence: SequenceNumber,
    event_hash: ChainHash,
}

impl Snapshots {
    pub(super) fn new(config: &Config) -> Self {
        let folder = EventFolder::new(&config.event_sourcing.storage_path);
        let paths = folder.snapshot_paths().unwrap_or_else(|why| {
            warn!(%why, "snapshot files cannot be used");
            Vec::new()
        });
        let look = |path: PathBuf| {
            let Snapshot { aggregate_id, sequence, event_hash, .. } = read(&path)?;
            Some((aggregate_id, InFile { path, sequence, event_hash }))
        };
        let in_files = paths.into_iter().filter_map(look).collect();
        Self { in_files, fitting: HashSet::new(), whole: HashMap::new() }
    }

    /// Compares the snapshot files with an append of the history. `before` is the chain hash before
    /// it.
    pub(super) fn pass(&mut self, records: &[Bytes], before: ChainHash) {
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

    /// Notes an undamaged snapshot in the log.
    pub(super) fn is_whole(&mut self, bytes: &Bytes) {
        if let Ok(snapshot) = record::decode_snapshot(bytes.clone()) {
            let newest = self.whole.entry(snapshot.aggregate_id).or_insert(snapshot.sequence);
            *newest = snapshot.sequence.max(*newest);
        }
    }

    /// Returns the records of the snapshots that the files have and the log lacks.
    pub(super) fn lost(mut self) -> impl Iterator<Item = Bytes> {
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
