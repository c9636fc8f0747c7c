//! Tests of the comparison with checkpoints from elsewhere.

use std::{convert::Infallible, ops::Range, path::Path};

use uuid::Uuid;

use super::*;
use crate::{
    event::ChainHash,
    merkle::{leaf_hash, root},
    transparency::{KeySettings, generations::origin_of, kept::tests::kept},
    tree::EventTree,
};

struct Log(Vec<ChainHash>);

impl Leaves for Log {
    type Error = Infallible;

    fn leaves(&self, range: Range<u64>) -> Result<Vec<Hash>, Infallible> {
        let hashes = &self.0[range.start as usize..range.end as usize];
        Ok(hashes.iter().map(|hash| leaf_hash(&hash.0)).collect())
    }
}

impl Log {
    /// Returns a log that has another history from the event with this index on.
    fn new(size: u64, other_from: u64) -> Self {
        let hash =
            |index: u64| leaf_hash(&[u64::from(index >= other_from), index].map(u64::to_be_bytes).concat());
        Self((0..size).map(|index| ChainHash(hash(index))).collect())
    }

    fn view(&self, folder: &Path) -> TreeView {
        let path = folder.join(format!("{}.tree", Uuid::new_v4()));
        let mut tree = EventTree::open(&path, Uuid::from_u128(7), 0, self).unwrap();
        self.0.iter().for_each(|hash| tree.push(*hash));
        tree.view()
    }

    fn checkpoint(&self, name: &str, generation: u64, size: u64) -> Checkpoint {
        let root = root(&self.leaves(0..size).unwrap());
        Checkpoint::new(origin_of(name, generation), size, root, Vec::new()).unwrap()
    }

    fn note(&self, keys: &Keys, generation: u64, size: u64) -> SignedNote {
        let text = self.checkpoint(keys.name(), generation, size).to_text();
        keys.signer(generation).unwrap().sign(text, None).unwrap()
    }
}

fn keys(folder: &Path, file: &str, new_key: bool) -> Keys {
    let settings = KeySettings {
        path: folder.join(file),
        origin: None,
        default_origin: "log.example/a".into(),
        new_key,
    };
    Keys::open(&settings, false).unwrap()
}

fn begun(agreed: Option<u64>) -> Generations {
    let mut generations = Generations::default();
    let generation = Generation { agreed, by: String::new(), because: String::new() };
    generations.push(1, generation, None);
    generations
}

#[tokio::test]
async fn a_file_that_does_not_answer_is_not_read_twice_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = FilePlace::new(0, dir.path().join("checkpoints"));
    let (send, receive) = std::sync::mpsc::channel();
    file.reading = Some(spawn_blocking(move || receive.recv().map_err(io::Error::other)));
    for _ in 0..2 {
        let late = file.read(Duration::ZERO).await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }
    let notes = vec![kept(5, 1).note];
    send.send(notes.clone()).unwrap();
    assert_eq!(file.read(READ_MAX).await.unwrap(), notes);
    // The next read is another one: the file does not exist yet.
    assert_eq!(file.read(READ_MAX).await.unwrap(), []);
}

#[test]
fn the_last_checkpoint_has_to_be_continued() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(dir.path(), "key", false);
    let (log, other) = (Log::new(20, 99), Log::new(20, 9));
    let view = log.view(dir.path());
    let first = Generations::default();
    let found = |notes: &[SignedNote], is_complete| {
        compare(Known { keys: &keys, generations: &first, is_complete, restored: None }, notes, &view, &log)
            .unwrap()
    };
    assert_eq!(found(&[], true), Verdict::Agrees);
    assert_eq!(found(&[log.note(&keys, 1, 7), log.note(&keys, 1, 20)], true), Verdict::Agrees);
    // Up to index 8 the histories are the same.
    assert_eq!(found(&[other.note(&keys, 1, 9)], true), Verdict::Agrees);
    let root = *log.checkpoint("x", 1, 10).root();
    let checkpoint = other.checkpoint("log.example/a", 1, 10);
    let differs = Verdict::Contradicted { checkpoint, found: Some(root) };
    assert_eq!(found(&[log.note(&keys, 1, 5), other.note(&keys, 1, 10)], false), differs);
    let longer = Log::new(25, 99);
    let notes = [log.note(&keys, 1, 20), longer.note(&keys, 1, 25)];
    assert_eq!(found(&notes, false), Verdict::Undecided);
    let checkpoint = longer.checkpoint("log.example/a", 1, 25);
    assert_eq!(found(&notes, true), Verdict::Contradicted { checkpoint, found: None });
}

#[test]
fn a_copy_that_lacks_what_was_published_begins_a_generation_if_the_rest_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(dir.path(), "key", false);
    let (log, longer, other) = (Log::new(20, 99), Log::new(25, 99), Log::new(25, 9));
    let view = log.view(dir.path());
    let mut copied = Generations::default();
    copied.copied = true;
    let found = |notes: &[SignedNote]| {
        compare(
            Known { keys: &keys, generations: &copied, is_complete: true, restored: None },
            notes,
            &view,
            &log,
        )
        .unwrap()
    };
    let last = longer.checkpoint("log.example/a", 1, 25);
    let notes = [7, 19, 22, 25].map(|size| longer.note(&keys, 1, size));
    let shortened = |agreed| Verdict::Shortened { generation: 1, last: last.clone(), agreed };
    assert_eq!(found(&notes), shortened(Some(19)));
    assert_eq!(found(&notes[2..]), shortened(None));
    let notes = [7, 19, 25].map(|size| other.note(&keys, 1, size));
    assert!(matches!(found(&notes), Verdict::Contradicted { found: Some(_), .. }));
}

#[test]
fn events_that_follow_a_copy_are_no_contradiction_of_those_that_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(dir.path(), "key", false);
    // 15 events were copied, and others appended since.
    let (log, lost) = (Log::new(20, 15), Log::new(18, 99));
    let view = log.view(dir.path());
    let notes = [12, 15, 16, 18].map(|size| lost.note(&keys, 1, size));
    let found = |copied, restored: Option<u64>, notes: &[SignedNote]| {
        let mut generations = Generations::default();
        generations.copied = copied;
        let restored = restored.map(Position);
        let known = Known { keys: &keys, generations: &generations, is_complete: true, restored };
        compare(known, notes, &view, &log).unwrap()
    };
    let last = lost.checkpoint("log.example/a", 1, 18);
    let shortened = Verdict::Shortened { generation: 1, last, agreed: Some(15) };
    assert_eq!(found(true, Some(15), &notes), shortened);
    // What was copied has to be the same, and so has a history that is no copy.
    for (copied, restored) in [(true, Some(18)), (true, None), (false, Some(15))] {
        let found = found(copied, restored, &notes);
        assert!(matches!(found, Verdict::Contradicted { found: Some(_), .. }), "{found:?}");
    }
    assert_eq!(found(true, Some(15), &[log.note(&keys, 1, 19)]), Verdict::Agrees);
}

#[test]
fn checkpoints_of_earlier_generations_hold_up_to_the_agreed_size() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(dir.path(), "key", false);
    let (log, discarded) = (Log::new(20, 99), Log::new(30, 9));
    let view = log.view(dir.path());
    let found = |generations: &Generations, notes: &[SignedNote]| {
        compare(Known { keys: &keys, generations, is_complete: true, restored: None }, notes, &view, &log)
            .unwrap()
    };
    let notes = [log.note(&keys, 1, 9), discarded.note(&keys, 1, 12), discarded.note(&keys, 1, 30)];
    assert_eq!(found(&begun(Some(9)), &notes), Verdict::Agrees);
    assert_eq!(found(&begun(None), &notes), Verdict::Agrees);
    assert!(matches!(found(&begun(Some(12)), &notes), Verdict::Contradicted { .. }));
    assert!(matches!(found(&Generations::default(), &notes), Verdict::Contradicted { .. }));
    // The file with the generations was lost.
    let notes = [log.note(&keys, 1, 9), log.note(&keys, 3, 15)];
    let later = Verdict::LaterGeneration { number: 3, size: 15 };
    assert_eq!(found(&Generations::default(), &notes), later);
    assert_eq!(found(&begun(Some(9)), &[discarded.note(&keys, 2, 12)]), {
        let checkpoint = discarded.checkpoint("log.example/a", 2, 12);
        let root = *log.checkpoint("x", 1, 12).root();
        Verdict::Contradicted { checkpoint, found: Some(root) }
    });
}

#[test]
fn a_checkpoint_by_another_key_is_named_unless_a_new_key_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let (lost, present, allowed) =
        (keys(dir.path(), "lost", false), keys(dir.path(), "key", false), keys(dir.path(), "key", true));
    let (log, first) = (Log::new(20, 99), Generations::default());
    let view = log.view(dir.path());
    let found = |keys: &Keys, notes: &[SignedNote]| {
        compare(Known { keys, generations: &first, is_complete: true, restored: None }, notes, &view, &log)
            .unwrap()
    };
    let notes = [log.note(&present, 1, 5), log.note(&lost, 1, 7)];
    let id = lost.signer(1).unwrap().verifier().id();
    let other = Verdict::OtherKey { name: "log.example/a".into(), id };
    assert_eq!(found(&present, &notes), other);
    assert_eq!(found(&allowed, &notes), Verdict::Agrees);
    // An earlier one does not matter.
    assert_eq!(found(&present, &[log.note(&lost, 1, 7), log.note(&present, 1, 9)]), Verdict::Agrees);
}
