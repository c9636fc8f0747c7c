//! Verifies the whole local log: the chain of its records, and the tree over them.

use super::{Contradiction, KnownTree, Outcome, Place, STEP_BYTES, damage};
use crate::{
    error::StoreError,
    event::{Position, record::StoredEvent},
    history::{History, HistoryError},
    log::{CursorItem, FoundRecord, RecordCursor, Tip},
    merkle::{RightEdge, leaf_hash},
};

#[derive(Debug)]
pub(super) struct WholeWork {
    /// The trees that were not reached yet, the smallest last.
    known: Vec<KnownTree>,
    tip: Tip,
    edge: RightEdge,
    /// Opened by the first step.
    records: Option<RecordCursor>,
    is_done: bool,
}

impl WholeWork {
    /// `known` has the smallest tree first.
    pub(super) fn new(mut known: Vec<KnownTree>, tip: Tip) -> Self {
        known.reverse();
        Self { known, tip, edge: RightEdge::new(), records: None, is_done: false }
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Returns how many events were read, and of how many.
    pub(super) fn progress(&self) -> (u64, u64) {
        (self.edge.size(), self.tip.position.0)
    }

    /// Reads the next part of the log.
    ///
    /// # Errors
    /// Returns an error if the index cannot be used.
    pub(super) fn step(&mut self, history: &History, outcome: &mut Outcome) -> Result<(), StoreError> {
        let mut records = match self.records.take() {
            Some(records) => records,
            None => history.records_before(Position(1))?,
        };
        let mut read = 0u64;
        while read < STEP_BYTES {
            match records.find(self.tip.end) {
                Ok(Some(CursorItem::Record(found))) => {
                    records.take(&found);
                    read = read.saturating_add(u64::from(found.place.length));
                    self.add(found, outcome);
                }
                Ok(Some(CursorItem::Skipped(bytes))) => read = read.saturating_add(bytes),
                Ok(None) => {
                    self.end(outcome);
                    return Ok(());
                }
                Err(error) => {
                    let text = damage(error.into())?;
                    let position = Position(self.edge.size()).next();
                    outcome.add(Contradiction::at(Place::LocalLog, position, "a whole record", text));
                    self.end(outcome);
                    return Ok(());
                }
            }
        }
        records.forget();
        self.records = Some(records);
        Ok(())
    }

    /// Adds a record that continues the chain.
    fn add(&mut self, found: FoundRecord, outcome: &mut Outcome) {
        let FoundRecord { bytes, hash, position, place, .. } = found;
        let problem = match StoredEvent::new(bytes, hash) {
            Ok(event) if event.position == position => None,
            Ok(event) => Some(format!("the event of position {}", event.position)),
            Err(source) => Some(HistoryError::Record { place, source }.to_string()),
        };
        match problem {
            None => outcome.events = outcome.events.saturating_add(1),
            Some(found) => {
                outcome.add(Contradiction::at(
                    Place::LocalLog,
                    position,
                    "the event of this position",
                    found,
                ));
            }
        }
        self.edge.push(leaf_hash(&hash.0));
        let size = self.edge.size();
        while let Some(known) = self.known.pop_if(|known| known.size <= size) {
            let root = self.edge.root();
            if root != known.root {
                outcome.add(known.contradicts(root));
            }
        }
    }

    fn end(&mut self, outcome: &mut Outcome) {
        self.is_done = true;
        let size = self.edge.size();
        (outcome.tree_size, outcome.tree_root) = (size, self.edge.root());
        if size < self.tip.position.0 && outcome.contradiction_count == 0 {
            let count = |events: u64| format!("{events} events");
            let (expected, found) = (count(self.tip.position.0), count(size));
            outcome.add(Contradiction::at(Place::LocalLog, self.tip.position, expected, found));
        }
        for known in std::mem::take(&mut self.known).into_iter().rev() {
            outcome.add(known.is_missing(size));
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;
    use crate::{
        sequencer::tests::{Running, in_folder, start},
        store::tests::damage_log,
        transparency::verification::tests::{hashes_of, store_each, tree_over},
    };

    /// Verifies the log, which has to continue these trees.
    fn verify(running: &Running, known: Vec<KnownTree>) -> Outcome {
        let mut outcome = Outcome::new();
        let mut work = WholeWork::new(known, running.history.index.complete().tip);
        while !work.is_done() {
            work.step(&running.history, &mut outcome).unwrap();
        }
        outcome
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_is_compared_with_the_trees_that_are_known() {
        let folder = tempdir().unwrap();
        let running = start(&in_folder(&folder));
        assert_eq!(verify(&running, Vec::new()), Outcome::new(), "an empty log");
        store_each(&running, &["room-1", "room-2", "room-1", "room-3"]).await;
        let hashes = hashes_of(&running);
        let known = |size: u64| KnownTree {
            place: Place::Checkpoint,
            size,
            root: tree_over(folder.path(), &hashes[..size.min(4) as usize]).root(),
        };
        let outcome = verify(&running, vec![known(2), KnownTree { place: Place::Head, ..known(4) }]);
        assert_eq!((outcome.events, outcome.tree_size), (4, 4));
        assert_eq!((outcome.tree_root, outcome.contradiction_count), (known(4).root, 0));

        let other = KnownTree { root: [7; 32], ..known(3) };
        let outcome = verify(&running, vec![known(2), other, known(9)]);
        assert_eq!((outcome.events, outcome.contradiction_count), (4, 2));
        let found: Vec<_> = outcome.contradictions.iter().map(|one| (one.place, one.position.0)).collect();
        assert_eq!(found, [(Place::Checkpoint, 3), (Place::Checkpoint, 9)]);
        assert_eq!(outcome.contradictions[0].expected, "07".repeat(32));
        assert_eq!(outcome.contradictions[0].found, hex::encode(known(3).root));
        assert_eq!(outcome.contradictions[1].found, "4 events");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn damage_is_a_contradiction_where_it_begins() {
        let folder = tempdir().unwrap();
        let running = start(&in_folder(&folder));
        store_each(&running, &["room-1", "room-2", "damaged", "room-3"]).await;
        damage_log(&folder, "damaged");
        let outcome = verify(&running, Vec::new());
        assert_eq!((outcome.events, outcome.contradiction_count), (2, 1));
        let found = &outcome.contradictions[0];
        assert_eq!((found.place, found.position), (Place::LocalLog, Position(3)));
    }
}
