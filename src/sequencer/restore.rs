//! Restores existing history: from ImmuDB onto an empty disk, or from event files.
//!
//! Records are stored byte for byte as they are. Records that do not continue the log exactly are
//! rejected.

use bytes::Bytes;

use super::{Worker, group::OpenGroup, numbering};
use crate::{
    error::StoreError,
    event::{
        ChainHash,
        record::{self, ReplicationMark},
    },
    index::{IndexError, IndexedEvent, IndexedSnapshot},
    log::Tip,
};

/// Whole appends that ImmuDB committed in one transaction. If `mark` names no transaction, they
/// come from another source.
#[derive(Debug, Default)]
pub struct RestoredTransaction {
    pub appends: Vec<Vec<Bytes>>,
    pub mark: ReplicationMark,
}

/// Why records cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("the records do not continue the local log: {0}")]
    DoesNotContinue(String),
    /// Nothing was written.
    #[error("{0}")]
    NotWritten(String),
    /// The local log or the index accepts no more writes.
    #[error("{0}")]
    Failed(String),
    #[error("the service is shutting down")]
    Stopped,
}

impl From<IndexError> for RestoreError {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::NotMadeYet { .. } => Self::NotWritten(error.to_string()),
            IndexError::NotMade { .. } => Self::Failed(error.to_string()),
        }
    }
}

impl OpenGroup {
    pub(super) fn restore(
        &mut self,
        worker: &Worker,
        transactions: Vec<RestoredTransaction>,
    ) -> Result<Tip, RestoreError> {
        for RestoredTransaction { appends, mark } in transactions {
            for records in appends {
                self.restore_append(worker, &records)?;
            }
            if mark.immudb_tx > 0 {
                self.frames.mark(&record::encode_mark(mark));
                self.entries.add_mark(mark);
            }
        }
        Ok(self.frames.tip())
    }

    fn restore_append(&mut self, worker: &Worker, records: &[Bytes]) -> Result<(), RestoreError> {
        let events = records
            .iter()
            .map(|bytes| record::decode(bytes.clone(), ChainHash::START))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| RestoreError::DoesNotContinue(error.to_string()))?;
        let before = self.frames.tip();
        // Positions are checked against everything this group has added so far.
        self.entries.reach(before);
        if !self.entries.continued_by(&worker.index, &events)? {
            let first = events.first().map_or(0, |event| event.position.0);
            return Err(RestoreError::DoesNotContinue(format!("the append at position {first}")));
        }
        let places = self.frames.append(records);
        let indexed = events.iter().zip(&places).map(|(event, at)| IndexedEvent::new(event, at.place));
        if let Err(error) = self.entries.add_append(&worker.index, before.end, indexed.collect()) {
            self.broken = true;
            return Err(error.into());
        }
        Ok(())
    }

    /// Stores a snapshot. A snapshot that does not belong to this history, or is older than ours,
    /// is skipped.
    pub(super) fn restore_snapshot(&mut self, worker: &Worker, bytes: &Bytes) -> Result<(), RestoreError> {
        let Ok(snapshot) = record::decode_snapshot(bytes.clone()) else { return Ok(()) };
        let head = self.entries.head(&worker.index, &snapshot.aggregate_id)?;
        let Some(head) = head.filter(|head| snapshot.sequence <= head.last) else { return Ok(()) };
        // A snapshot of the same event replaces ours, as it did in the source.
        if head.snapshot.is_some_and(|ours| ours.sequence > snapshot.sequence) {
            return Ok(());
        }
        let hash = match numbering::event_hash(worker, &snapshot.aggregate_id, snapshot.sequence) {
            Ok(hash) => hash,
            Err(StoreError::Damaged(what)) => return Err(RestoreError::Failed(what)),
            Err(other) => return Err(RestoreError::Failed(other.to_string())),
        };
        if hash != snapshot.event_hash {
            return Ok(());
        }
        let stored = self.frames.snapshot(bytes);
        let (aggregate_id, sequence) = (snapshot.aggregate_id, snapshot.sequence);
        self.entries
            .add_snapshot(&worker.index, IndexedSnapshot { aggregate_id, sequence, place: stored.place })?;
        Ok(())
    }
}
