//! Restores existing history: from ImmuDB onto an empty disk, or from event files.
//!
//! Records are stored byte for byte as they are. Records that do not continue the log exactly are
//! rejected.

use bytes::Bytes;
use tracing::warn;

use super::{
    group::OpenGroup,
    lookup::Lookup,
    restored::{Discontinuity, RestoreError, RestoredTransaction},
};
use crate::{
    event::{ChainHash, Position, record},
    index::{IndexedEvent, IndexedSnapshot},
    log::Tip,
};

impl OpenGroup {
    pub(super) fn restore(
        &mut self,
        lookup: &Lookup,
        transactions: Vec<RestoredTransaction>,
    ) -> Result<Tip, RestoreError> {
        for RestoredTransaction { appends, mark } in transactions {
            for records in appends {
                self.restore_append(lookup, &records)?;
            }
            if mark.immudb_tx > 0 {
                self.add_mark(mark);
            }
        }
        Ok(self.frames.tip())
    }

    fn restore_append(&mut self, lookup: &Lookup, records: &[Bytes]) -> Result<(), RestoreError> {
        let events = records
            .iter()
            .map(|bytes| record::decode(bytes.clone(), ChainHash::START))
            .collect::<Result<Vec<_>, _>>()
            .map_err(Discontinuity::from)?;
        let before = self.frames.tip();
        // Positions are checked against everything this group has added so far.
        self.entries.reach(before);
        if !self.entries.continued_by(&lookup.index, &events)? {
            let first = events.first().map_or(Position(0), |event| event.position);
            return Err(Discontinuity::Append(first).into());
        }
        let places = self.frames.append(records).map_err(|too_large| {
            let first = events.first().map_or(Position(0), |event| event.position);
            Discontinuity::TooLarge { first, too_large }
        })?;
        let indexed = events.iter().zip(&places).map(|(event, at)| IndexedEvent::new(event, at.place));
        if let Err(error) = self.entries.add_append(&lookup.index, before.end, indexed.collect()) {
            self.broken = true;
            return Err(error.into());
        }
        Ok(())
    }

    /// Stores a snapshot. A snapshot that does not belong to this history, is older than ours, or
    /// is too large for the log, is skipped.
    pub(super) fn restore_snapshot(&mut self, lookup: &Lookup, bytes: &Bytes) -> Result<(), RestoreError> {
        let Ok(snapshot) = record::decode_snapshot(bytes.clone()) else { return Ok(()) };
        let head = self.head(lookup, &snapshot.aggregate_id)?;
        let Some(head) = head.filter(|head| snapshot.sequence <= head.last) else { return Ok(()) };
        // A snapshot of the same event replaces ours, as it did in the source.
        if head.snapshot.is_some_and(|ours| ours.sequence > snapshot.sequence) {
            return Ok(());
        }
        let hash = lookup.event_hash(&snapshot.aggregate_id, snapshot.sequence)?;
        if hash != snapshot.event_hash {
            return Ok(());
        }
        let (aggregate_id, sequence) = (snapshot.aggregate_id, snapshot.sequence);
        let stored = match self.frames.snapshot(bytes) {
            Ok(stored) => stored,
            Err(too_large) => {
                warn!(%aggregate_id, %too_large, "a snapshot is not restored");
                return Ok(());
            }
        };
        self.entries
            .add_snapshot(&lookup.index, IndexedSnapshot { aggregate_id, sequence, place: stored.place })?;
        Ok(())
    }
}
