//! Taking over a history that was written before: out of ImmuDB onto an empty disk, or out of event files.
//! The records are stored as they are; whatever does not continue the log exactly is refused.

use bytes::Bytes;

use super::{Worker, group::OpenGroup, judge};
use crate::{
    event::{
        Hash,
        record::{self, ForwardedMark},
    },
    index::{IndexError, IndexedEvent, IndexedSnapshot},
    log::Tip,
    store::StoreError,
};

/// Whole appends that ImmuDB took in one transaction; without a transaction in `mark`, they come from
/// elsewhere.
#[derive(Debug, Default)]
pub struct AdoptedTransaction {
    pub appends: Vec<Vec<Bytes>>,
    pub mark: ForwardedMark,
}

/// Why records are not taken over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error("they do not continue the local log: {0}")]
    DoesNotContinue(String),
    /// Nothing was written.
    #[error("{0}")]
    NotWritten(String),
    /// The local log or the index takes nothing any more.
    #[error("{0}")]
    Failed(String),
    #[error("the service is shutting down")]
    Stopped,
}

impl From<IndexError> for AdoptError {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::NotMadeYet { .. } => Self::NotWritten(error.to_string()),
            IndexError::NotMade { .. } => Self::Failed(error.to_string()),
        }
    }
}

impl OpenGroup {
    pub(super) fn adopt(
        &mut self,
        worker: &Worker,
        transactions: Vec<AdoptedTransaction>,
    ) -> Result<Tip, AdoptError> {
        for AdoptedTransaction { appends, mark } in transactions {
            for records in appends {
                self.adopt_append(worker, &records)?;
            }
            if mark.immudb_tx > 0 {
                self.frames.mark(&record::encode_mark(mark));
                self.entries.add_mark(mark);
            }
        }
        Ok(self.frames.tip())
    }

    fn adopt_append(&mut self, worker: &Worker, records: &[Bytes]) -> Result<(), AdoptError> {
        let events = records
            .iter()
            .map(|bytes| record::decode(bytes.clone(), Hash::START))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| AdoptError::DoesNotContinue(error.to_string()))?;
        let before = self.frames.tip();
        // Positions are judged against what this group has added so far.
        self.entries.reach(before);
        if !self.entries.continued_by(&worker.index, &events)? {
            let first = events.first().map_or(0, |event| event.position.0);
            return Err(AdoptError::DoesNotContinue(format!("the append at position {first}")));
        }
        let places = self.frames.append(records);
        let indexed = events.iter().zip(&places).map(|(event, at)| IndexedEvent::new(event, at.place));
        if let Err(error) = self.entries.add_append(&worker.index, before.end, indexed.collect()) {
            self.broken = true;
            return Err(error.into());
        }
        Ok(())
    }

    /// A snapshot that does not belong to this history, or is older than ours, is left out.
    pub(super) fn adopt_snapshot(&mut self, worker: &Worker, bytes: &Bytes) -> Result<(), AdoptError> {
        let Ok(snapshot) = record::decode_snapshot(bytes.clone()) else { return Ok(()) };
        let head = self.entries.head(&worker.index, &snapshot.aggregate_id)?;
        let Some(head) = head.filter(|head| snapshot.sequence <= head.last) else { return Ok(()) };
        // One of the same event takes its place, as it did where it comes from.
        if head.snapshot.is_some_and(|ours| ours.sequence > snapshot.sequence) {
            return Ok(());
        }
        let hash = match judge::event_hash(worker, &snapshot.aggregate_id, snapshot.sequence) {
            Ok(hash) => hash,
            Err(StoreError::Damaged(what)) => return Err(AdoptError::Failed(what)),
            Err(other) => return Err(AdoptError::Failed(other.to_string())),
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
