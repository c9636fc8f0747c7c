//! Verifies the events of one aggregate in the local log.
//!
//! First come the trees, then each event of the aggregate, and then all records behind its last
//! event: the hash chain over them leads to the last leaf of the tree, so an event that the index
//! conceals cannot be among them.

use bytes::Bytes;

use super::{Contradiction, HeldTree, KnownTree, Outcome, Place, STEP_BYTES, damage, tree_damage};
use crate::{
    error::StoreError,
    event::{
        AggregateId, ChainHash, Position, SequenceNumber,
        record::{RecordHead, StoredEvent},
    },
    history::{History, HistoryError},
    log::{CursorItem, RecordCursor, Tip},
    merkle::leaf_hash,
};

/// How many bytes of records one step reads, about.
const EVENT_BYTES: u64 = 1024 * 1024;

/// The number of events in one step. ImmuDB is queried for each of them.
const EVENTS_MAX: usize = 128;

/// An event to compare with ImmuDB.
#[derive(Debug)]
pub(super) struct Entry {
    pub position: Position,
    pub sequence: SequenceNumber,
    pub record: Bytes,
}

/// What is left to do.
#[derive(Debug)]
enum Stage {
    Trees,
    Events,
    /// The records behind the last event. The cursor is opened by the first step.
    Rest(Option<Box<RecordCursor>>),
    Done,
}

#[derive(Debug)]
pub(super) struct AggregateWork {
    id: AggregateId,
    tree: HeldTree,
    known: Vec<KnownTree>,
    tip: Tip,
    stage: Stage,
    /// The last sequence number up to the tip, as far as the index knows, and the next one to read.
    last: u64,
    next: SequenceNumber,
    /// The position of the last event that was read.
    reached: Position,
    /// The position up to which the records behind it were read.
    walked: Position,
    entries: Vec<Entry>,
}

impl AggregateWork {
    /// The tree has at least the events up to `tip`.
    pub(super) fn new(id: AggregateId, tree: HeldTree, known: Vec<KnownTree>, tip: Tip) -> Self {
        Self {
            id,
            tree,
            known,
            tip,
            stage: Stage::Trees,
            last: 0,
            next: SequenceNumber(1),
            reached: Position(0),
            walked: Position(0),
            entries: Vec::new(),
        }
    }

    pub(super) fn id(&self) -> &AggregateId {
        &self.id
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    pub(super) fn has_entries(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Returns the events to compare with ImmuDB that were read since the last call.
    pub(super) fn take_entries(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries)
    }

    /// Returns how many events were read, and of how many.
    pub(super) fn progress(&self) -> (u64, u64) {
        let read = self.next.0.saturating_sub(1);
        match self.stage {
            Stage::Trees | Stage::Events => (read, self.last),
            Stage::Rest(_) | Stage::Done => {
                let behind = |position: Position| position.0.saturating_sub(self.reached.0);
                (read.saturating_add(behind(self.walked)), read.saturating_add(behind(self.tip.position)))
            }
        }
    }

    /// Does the next part of the work. Events up to `forwarded` are to be compared with ImmuDB.
    ///
    /// # Errors
    /// Returns an error if the index or the tree cannot be used.
    pub(super) fn step(
        &mut self,
        history: &History,
        forwarded: Position,
        outcome: &mut Outcome,
    ) -> Result<(), StoreError> {
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Trees => {
                self.compare_trees(outcome)?;
                self.last = history.index.head(&self.id)?.map_or(0, |head| head.last.0);
                self.stage = Stage::Events;
            }
            Stage::Events => {
                self.read_events(history, forwarded, outcome)?;
                let is_end = self.next.0 > self.last;
                self.walked = self.reached;
                self.stage = if is_end { Stage::Rest(None) } else { Stage::Events };
                outcome.last = SequenceNumber(self.next.0.saturating_sub(1));
            }
            Stage::Rest(cursor) => {
                let cursor = match cursor {
                    Some(cursor) => cursor,
                    None => Box::new(history.records_before(self.reached.max(Position(1)))?),
                };
                self.stage = self.walk(cursor, outcome)?;
            }
            Stage::Done => {}
        }
        Ok(())
    }

    fn compare_trees(&mut self, outcome: &mut Outcome) -> Result<(), StoreError> {
        let size = self.tree.view().size();
        (outcome.tree_size, outcome.tree_root) = (size, self.tree.view().root());
        for known in std::mem::take(&mut self.known) {
            if known.size > size {
                outcome.add(known.is_missing(size));
                continue;
            }
            match self.tree.root_at(known.size) {
                Ok(found) if found == known.root => {}
                Ok(found) => outcome.add(known.contradicts(found)),
                Err(error) => {
                    let position = Position(known.size);
                    let (expected, found) = (hex::encode(known.root), tree_damage(error)?);
                    outcome.add(Contradiction::at(Place::Tree, position, expected, found));
                }
            }
        }
        Ok(())
    }

    fn read_events(
        &mut self,
        history: &History,
        forwarded: Position,
        outcome: &mut Outcome,
    ) -> Result<(), StoreError> {
        let mut bytes = 0u64;
        for _ in 0..EVENTS_MAX {
            if self.next.0 > self.last || bytes >= EVENT_BYTES {
                break;
            }
            let sequence = self.next;
            match self.event(history, sequence)? {
                // It was stored after the verification began.
                Ok((event, _)) if event.position > self.tip.position => {
                    self.last = sequence.0.saturating_sub(1);
                    break;
                }
                Ok((event, record)) => {
                    self.reached = self.reached.max(event.position);
                    bytes = bytes.saturating_add(record.len() as u64);
                    self.compare(&event, outcome)?;
                    if event.position <= forwarded {
                        self.entries.push(Entry { position: event.position, sequence, record });
                    }
                }
                Err(contradiction) => outcome.add(contradiction),
            }
            self.next = sequence.next();
        }
        Ok(())
    }

    /// Reads an event. What is wrong with it is no error but a contradiction.
    fn event(
        &self,
        history: &History,
        sequence: SequenceNumber,
    ) -> Result<Result<(StoredEvent, Bytes), Contradiction>, StoreError> {
        let wrong = |place: Place, found: String| {
            let contradiction = Contradiction::at(place, Position(0), "the event", found);
            Ok(Err(contradiction.of(&self.id, sequence)))
        };
        let Some(place) = history.index.event_numbered(&self.id, sequence, history.wait_mode)? else {
            return wrong(Place::Index, "no address of the event".to_owned());
        };
        let record = match history.segments.read(place) {
            Ok(record) => record,
            Err(error) => return wrong(Place::LocalLog, damage(error.into())?),
        };
        let event = match StoredEvent::new(record.bytes.clone(), record.hash) {
            Ok(event) => event,
            Err(source) => return wrong(Place::LocalLog, HistoryError::Record { place, source }.to_string()),
        };
        if event.sequence != sequence || event.aggregate_id() != self.id.as_str().as_bytes() {
            return wrong(Place::Index, format!("the address of the event at position {}", event.position));
        }
        Ok(Ok((event, record.bytes)))
    }

    /// Compares an event with its leaf in the tree.
    fn compare(&mut self, event: &StoredEvent, outcome: &mut Outcome) -> Result<(), StoreError> {
        let expected = leaf_hash(&event.hash.0);
        let found = match self.tree.leaf(event.position) {
            Ok(leaf) if leaf == expected => {
                outcome.events = outcome.events.saturating_add(1);
                return Ok(());
            }
            Ok(leaf) => hex::encode(leaf),
            Err(error) => tree_damage(error)?,
        };
        let contradiction = Contradiction::at(Place::Tree, event.position, hex::encode(expected), found);
        outcome.add(contradiction.of(&self.id, event.sequence));
        Ok(())
    }

    /// Looks for further events of the aggregate up to the tip. Returns what is left to do.
    fn walk(&mut self, mut records: Box<RecordCursor>, outcome: &mut Outcome) -> Result<Stage, StoreError> {
        let mut read = 0u64;
        while read < STEP_BYTES {
            let found = match records.find(self.tip.end) {
                Ok(Some(CursorItem::Record(found))) => found,
                Ok(Some(CursorItem::Skipped(bytes))) => {
                    read = read.saturating_add(bytes);
                    continue;
                }
                Ok(None) => {
                    let end = records.last();
                    self.check_end(end, outcome)?;
                    return Ok(Stage::Done);
                }
                Err(error) => {
                    let text = damage(error.into())?;
                    let position = self.walked.next();
                    outcome.add(Contradiction::at(Place::LocalLog, position, "a whole record", text));
                    return Ok(Stage::Done);
                }
            };
            let is_own = RecordHead::of(&found.bytes)
                .is_none_or(|head| head.aggregate_id == self.id.as_str().as_bytes());
            if is_own && found.position > self.reached {
                let text = "an event of the aggregate that the index lacks";
                let contradiction = Contradiction::at(Place::Index, found.position, "no further event", text);
                outcome.add(contradiction.of(&self.id, SequenceNumber(0)));
            }
            records.take(&found);
            self.walked = self.walked.max(found.position);
            read = read.saturating_add(u64::from(found.place.length));
        }
        records.forget();
        Ok(Stage::Rest(Some(records)))
    }

    /// Compares the end of the chain with the tree.
    fn check_end(
        &mut self,
        end: Option<(Position, ChainHash)>,
        outcome: &mut Outcome,
    ) -> Result<(), StoreError> {
        let position = self.tip.position;
        if position == Position(0) {
            return Ok(());
        }
        let Some((_, hash)) = end.filter(|(last, _)| *last == position) else {
            let last = end.map_or(0, |(last, _)| last.0);
            let (expected, found) = (format!("{position} events"), format!("{last} events"));
            outcome.add(Contradiction::at(Place::LocalLog, position, expected, found));
            return Ok(());
        };
        let expected = leaf_hash(&hash.0);
        let found = match self.tree.leaf(position) {
            Ok(leaf) if leaf == expected => return Ok(()),
            Ok(leaf) => hex::encode(leaf),
            Err(error) => tree_damage(error)?,
        };
        outcome.add(Contradiction::at(Place::Tree, position, hex::encode(expected), found));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tempfile::{TempDir, tempdir};

    use super::*;
    use crate::{
        sequencer::tests::{Running, in_folder, start},
        transparency::verification::tests::{hashes_of, store_each, tree_over},
    };

    const ROOMS: [&str; 6] = ["room-1", "room-2", "room-1", "room-2", "room-1", "room-3"];

    async fn log(folder: &TempDir) -> Running {
        let running = start(&in_folder(folder));
        store_each(&running, &ROOMS).await;
        running
    }

    fn work(running: &Running, folder: &TempDir, hashes: &[ChainHash], id: &str) -> AggregateWork {
        let tree = HeldTree::new(running.history.clone(), tree_over(folder.path(), hashes));
        let id = AggregateId::new(id).unwrap();
        AggregateWork::new(id, tree, Vec::new(), running.history.index.complete().tip)
    }

    /// Finishes the work. Returns the outcome, and the positions of what is to be compared with an
    /// ImmuDB that has the first three events.
    fn finish(running: &Running, work: &mut AggregateWork) -> (Outcome, Vec<u64>) {
        let (mut outcome, mut entries) = (Outcome::new(), Vec::new());
        while !work.is_done() {
            work.step(&running.history, Position(3), &mut outcome).unwrap();
            entries.extend(work.take_entries().iter().map(|entry| entry.position.0));
        }
        (outcome, entries)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_events_of_an_aggregate_are_in_the_tree_and_no_further_one_is_in_the_log() {
        let folder = tempdir().unwrap();
        let running = log(&folder).await;
        let hashes = hashes_of(&running);
        for (id, events, forwarded) in
            [("room-1", 3, vec![1, 3]), ("room-2", 2, vec![2]), ("room-3", 1, vec![]), ("room-4", 0, vec![])]
        {
            let mut work = work(&running, &folder, &hashes, id);
            let (outcome, entries) = finish(&running, &mut work);
            assert_eq!((outcome.events, outcome.last.0, entries), (events, events, forwarded), "{id}");
            assert_eq!((outcome.contradiction_count, outcome.tree_size), (0, 6), "{id}: {outcome:?}");
            let (read, of) = work.progress();
            assert_eq!(read, of, "{id}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_event_that_the_index_conceals_is_found_behind_the_last_one() {
        let folder = tempdir().unwrap();
        let running = log(&folder).await;
        let mut work = work(&running, &folder, &hashes_of(&running), "room-1");
        let mut outcome = Outcome::new();
        work.step(&running.history, Position(0), &mut outcome).unwrap();
        // As if the index knew two events.
        work.last = 2;
        let (outcome, _) = finish(&running, &mut work);
        assert_eq!((outcome.events, outcome.contradiction_count), (2, 1));
        let found = &outcome.contradictions[0];
        assert_eq!((found.place, found.position), (Place::Index, Position(5)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_with_another_history_than_the_tree_is_noticed() {
        let folder = tempdir().unwrap();
        let running = log(&folder).await;
        let mut hashes = hashes_of(&running);
        hashes[3..].iter_mut().for_each(|hash| hash.0[0] ^= 1);
        let mut other = work(&running, &folder, &hashes, "room-1");
        let (outcome, _) = finish(&running, &mut other);
        // Two of its three events precede the difference.
        assert_eq!(outcome.events, 2, "{outcome:?}");
        // The third one, and the end of the log.
        assert_eq!(outcome.contradiction_count, 2);
        assert!(outcome.contradictions.iter().all(|found| found.place == Place::Tree));

        let mut known = work(&running, &folder, &hashes_of(&running), "room-1");
        let tree = |size, root| KnownTree { place: Place::Head, size, root };
        known.known = vec![tree(2, [7; 32]), tree(7, [7; 32])];
        let (outcome, _) = finish(&running, &mut known);
        let found: Vec<_> = outcome.contradictions.iter().map(|one| (one.place, one.position.0)).collect();
        assert_eq!((outcome.events, found), (3, vec![(Place::Head, 2), (Place::Head, 7)]));
    }
}
