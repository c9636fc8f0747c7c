//! Reads chain hashes in the order of the events: the leaves of the event tree.
//!
//! No record is decoded, copied or hashed. The checksum of its frame covers the chain hash that is
//! stored behind it. Only the records of a frame that is too large to be checked at once are hashed
//! on the way.

use std::ops::Range;

use super::{History, error::HistoryError};
use crate::{
    event::{ChainHash, Position},
    log::{CursorItem, LogOffset, RecordCursor},
    merkle::{Hash, leaf_hash},
    tree::Leaves,
};

/// Reads the chain hashes of all events from a position on.
#[derive(Debug)]
pub struct ChainHashes {
    records: RecordCursor,
    /// The event whose chain hash comes next.
    next: Position,
}

impl ChainHashes {
    /// Returns the chain hash of the next event before `end`, or `None` if there is none.
    ///
    /// # Errors
    /// Returns an error if the log is damaged or cannot be read. The reader must not be used after
    /// that.
    pub fn next(&mut self, end: LogOffset) -> Result<Option<ChainHash>, HistoryError> {
        let next = self.next;
        while let Some(item) = self.records.find_wanted(end, |position, _| position > next)? {
            if let CursorItem::Record(found) = item {
                self.records.take(&found);
            }
            if let Some((position, hash)) = self.records.last()
                && position == next
            {
                self.next = next.next();
                return Ok(Some(hash));
            }
        }
        Ok(None)
    }

    /// Releases the buffer. The next read goes to the disk again.
    pub fn forget(&mut self) {
        self.records.forget();
    }
}

impl History {
    /// Returns a reader of the chain hashes of the event at `first` and of all behind it.
    ///
    /// # Errors
    /// Returns an error if the index is unusable.
    pub fn chain_hashes_from(&self, first: Position) -> Result<ChainHashes, HistoryError> {
        let next = first.max(Position(1));
        Ok(ChainHashes { records: self.records_before(next)?, next })
    }
}

impl Leaves for History {
    type Error = HistoryError;

    fn leaves(&self, range: Range<u64>) -> Result<Vec<Hash>, HistoryError> {
        /// The index finds frames that are at least 64 KiB apart, so half of this is before the
        /// first leaf on average. Few leaves are requested, so this often has all of them.
        const READ_BYTES: usize = 64 * 1024;
        // Everything up to here is durable.
        let end = self.index.complete().tip.end;
        let next = Position(range.start).next();
        let records = self.records_before(next)?.reading_at_once(READ_BYTES);
        let mut hashes = ChainHashes { records, next };
        let leaf = |index| match hashes.next(end)? {
            Some(hash) => Ok(leaf_hash(&hash.0)),
            None => Err(HistoryError::Position(Position(index).next())),
        };
        range.map(leaf).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Content, ContentDigest},
        sequencer::{
            Append, Origin,
            tests::{Running, in_folder, one_event, start},
        },
    };

    /// Stores appends with these numbers of events, each with contents of this size.
    async fn store(running: &Running, appends: &[(usize, usize)]) {
        for (count, bytes) in appends {
            let event = |number: usize| {
                let (mut event, _) = one_event(&format!("a{}", number % 3)).events.remove(0);
                event.content = Content::Binary(vec![7_u8; *bytes].into());
                let digest = ContentDigest::of(&event);
                (event, digest)
            };
            let append = Append { events: (0..*count).map(event).collect(), expected: Vec::new() };
            running.sequencer.append(append, Origin::default()).await.unwrap();
        }
    }

    /// Returns the chain hashes of all events, read one by one.
    fn all_hashes(running: &Running) -> Vec<ChainHash> {
        let tip = running.sequencer.tip();
        let hash = |position| running.history.record_at(Position(position), tip).unwrap().hash;
        (1..=tip.position.0).map(hash).collect()
    }

    /// Checks the leaves of each range of the log.
    fn assert_leaves(running: &Running, step: usize) {
        let hashes = all_hashes(running);
        let expected: Vec<Hash> = hashes.iter().map(|hash| leaf_hash(&hash.0)).collect();
        for start in (0..=hashes.len()).step_by(step) {
            for end in (start..=hashes.len()).step_by(step) {
                let found = running.history.leaves(start as u64..end as u64).unwrap();
                assert_eq!(found, expected[start..end], "{start} to {end}");
            }
        }
    }

    #[tokio::test]
    async fn leaves_are_the_hashes_of_the_chain_hashes() {
        let folder = tempfile::tempdir().unwrap();
        let running = start(&in_folder(&folder));
        assert!(running.history.leaves(0..0).unwrap().is_empty());
        store(&running, &[(1, 0), (3, 10), (1, 5000), (20, 100), (2, 0)]).await;
        assert_leaves(&running, 1);
    }

    #[tokio::test]
    async fn leaves_come_from_all_segments_and_from_frames_of_any_size() {
        let folder = tempfile::tempdir().unwrap();
        let config =
            crate::config::EventSourcingConfig { segment_bytes_max: 300 * 1024, ..in_folder(&folder) };
        let running = start(&config);
        // A frame above 256 KiB is not checked at once.
        store(&running, &[(5, 60_000), (3, 10), (1, 400_000), (40, 1000), (6, 100_000), (2, 0)]).await;
        assert!(running.sequencer.tip().end.segment > 2);
        assert_leaves(&running, 7);
    }

    #[tokio::test]
    async fn the_reader_goes_on_when_the_log_grows() {
        let folder = tempfile::tempdir().unwrap();
        let running = start(&in_folder(&folder));
        store(&running, &[(4, 10)]).await;
        let mut reader = running.history.chain_hashes_from(Position(3)).unwrap();
        let mut found = Vec::new();
        let later: [&[(usize, usize)]; 3] = [&[], &[(1, 10)], &[(30, 10), (2, 10)]];
        for appends in later {
            store(&running, appends).await;
            let end = running.sequencer.tip().end;
            while let Some(hash) = reader.next(end).unwrap() {
                found.push(hash);
            }
            reader.forget();
            assert_eq!(found, all_hashes(&running)[2..]);
        }
    }

    #[tokio::test]
    async fn a_leaf_that_the_log_does_not_have_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let running = start(&in_folder(&folder));
        store(&running, &[(3, 10)]).await;
        for range in [0..4, 3..4, 3..10] {
            let refused = running.history.leaves(range).unwrap_err();
            assert!(matches!(refused, HistoryError::Position(Position(4))), "{refused}");
        }
        let refused = running.history.leaves(8..9).unwrap_err();
        assert!(matches!(refused, HistoryError::Position(Position(9))), "{refused}");
    }
}
