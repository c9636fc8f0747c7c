//! The local log beside the walk: the records in the order of their positions, the chain hash, and
//! the tree over them.

use crate::{
    event::{ChainHash, Position},
    history::{History, HistoryError},
    log::{CursorItem, FoundRecord, ReadError, RecordCursor, Tip},
    merkle::{RightEdge, leaf_hash},
};

/// Which events a round has seen in ImmuDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalPlace {
    /// The last one.
    pub(super) last: Position,
    /// The chain hash of the local log there, if it could be read.
    pub(super) hash: Option<ChainHash>,
    /// The tree over the local log up to there. `None` if a record could not be read.
    pub(super) tree: Option<RightEdge>,
    /// There were transactions whose events are not known, so events may follow that are not the
    /// next ones.
    pub(super) gap: bool,
}

impl LocalPlace {
    pub(super) fn new() -> Self {
        let (last, hash) = (Position(0), Some(ChainHash::START));
        Self { last, hash, tree: Some(RightEdge::new()), gap: false }
    }

    /// Goes to the next event.
    pub(super) fn advance(&mut self, record: &FoundRecord) {
        if let Some(tree) = &mut self.tree {
            tree.push(leaf_hash(&record.hash.0));
        }
        (self.last, self.hash, self.gap) = (record.position, Some(record.hash), false);
    }

    /// Goes on to an event whose transaction was not compared.
    ///
    /// # Errors
    /// Returns an error if the local log cannot be read.
    pub(super) fn catch_up(&mut self, reader: &mut LocalReader, until: Position) -> Result<(), HistoryError> {
        while self.last < until {
            match reader.record(self.last.next())? {
                Some(record) => self.advance(&record),
                None => break,
            }
        }
        Ok(())
    }

    /// Goes on behind the records up to `until`, of which one cannot be read: otherwise, each of
    /// the following transactions would lead back to the damage.
    pub(super) fn lose(&mut self, until: Position) {
        self.last = self.last.next().max(until);
        (self.hash, self.tree, self.gap) = (None, None, true);
    }
}

/// Reads the records of the local log in order. Each is checked against the chain hash.
#[derive(Debug)]
pub(super) struct LocalReader {
    history: History,
    /// A cursor, and the position of the next record that it returns.
    cursor: Option<(RecordCursor, Position)>,
    tip: Tip,
}

impl LocalReader {
    pub(super) fn new(history: History) -> Self {
        Self { history, cursor: None, tip: Tip::START }
    }

    /// Returns the record at this position, or `None` if the local log ends before it.
    ///
    /// # Errors
    /// Returns an error if the log or the index cannot be read.
    pub(super) fn record(&mut self, position: Position) -> Result<Option<FoundRecord>, HistoryError> {
        if position > self.tip.position {
            self.tip = self.history.index.complete().tip;
        }
        if position > self.tip.position || position == Position(0) {
            return Ok(None);
        }
        let mut cursor = match self.cursor.take() {
            Some((cursor, next)) if next == position => cursor,
            _ => self.history.records_before(position)?,
        };
        while let Some(found) = cursor.find(self.tip.end)? {
            let CursorItem::Record(found) = found else { continue };
            if found.position > position {
                break;
            }
            cursor.take(&found);
            if found.position == position {
                self.cursor = Some((cursor, position.next()));
                return Ok(Some(found));
            }
        }
        Err(HistoryError::Position(position))
    }

    /// Returns the last position that the local log is known to have.
    pub(super) fn last(&self) -> Position {
        self.tip.position
    }

    /// Releases the memory between two pages.
    pub(super) fn rest(&mut self) {
        if let Some((cursor, _)) = &mut self.cursor {
            cursor.forget();
        }
    }
}

/// Returns whether stored bytes of the local log are wrong. Otherwise, a later attempt may succeed.
pub(super) fn is_damage(error: &HistoryError) -> bool {
    match error {
        HistoryError::Log(ReadError::Damage(_))
        | HistoryError::Gap { .. }
        | HistoryError::Position(_)
        | HistoryError::Record { .. } => true,
        HistoryError::Log(ReadError::Newer(_) | ReadError::Io { .. }) | HistoryError::Index(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        merkle,
        sequencer::{
            Origin,
            tests::{in_folder, one_event, start},
        },
    };

    #[tokio::test]
    async fn records_are_found_in_order_and_out_of_order() {
        let folder = tempfile::tempdir().unwrap();
        let running = start(&in_folder(&folder));
        for _ in 0..5 {
            running.sequencer.append(one_event("room-1"), Origin::default()).await.unwrap();
        }
        let mut reader = LocalReader::new(running.history.clone());
        for position in [1, 2, 3, 5, 4, 1, 5].map(Position) {
            let found = reader.record(position).unwrap().unwrap();
            let stored = running.history.record_at(position, running.sequencer.tip()).unwrap();
            assert_eq!((found.position, found.bytes), (position, stored.bytes));
            reader.rest();
        }
        assert!(reader.record(Position(6)).unwrap().is_none());
        assert!(reader.record(Position(0)).unwrap().is_none());
        // What is appended later is found as well.
        running.sequencer.append(one_event("room-1"), Origin::default()).await.unwrap();
        assert!(reader.record(Position(6)).unwrap().is_some());
    }

    #[tokio::test]
    async fn the_place_has_the_hash_and_the_tree_of_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let running = start(&in_folder(&folder));
        let mut hashes = Vec::new();
        for _ in 0..5 {
            running.sequencer.append(one_event("room-1"), Origin::default()).await.unwrap();
            hashes.push(running.sequencer.tip().hash);
        }
        let mut reader = LocalReader::new(running.history.clone());
        let mut place = LocalPlace::new();
        place.gap = true;
        // The log ends there.
        place.catch_up(&mut reader, Position(9)).unwrap();
        assert_eq!((place.last, place.hash, place.gap), (Position(5), Some(hashes[4]), false));
        let leaves: Vec<_> = hashes.iter().map(|hash| leaf_hash(&hash.0)).collect();
        assert_eq!(place.tree.as_ref().map(RightEdge::root), Some(merkle::root(&leaves)));
        place.lose(Position(3));
        assert_eq!((place.last, place.hash, &place.tree), (Position(6), None, &None));
        place.lose(Position(9));
        assert_eq!((place.last, place.hash, &place.tree), (Position(9), None, &None));
    }
}
