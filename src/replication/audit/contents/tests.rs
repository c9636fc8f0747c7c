//! Tests of the comparison with the local log: what this service has sent is right, and each change
//! of it shows.

use uuid::Uuid;

use super::*;
use crate::{
    immudb::{KeyValue, TxHeader, verify::SentEntries},
    log::Tip,
    merkle::{RightEdge, leaf_hash},
    replication::head::TreeHead,
    sequencer::{
        Origin,
        tests::{Running, in_folder, one_event, start},
    },
};

/// The number of events in the log. Each is in a transaction of its own.
const EVENTS: u64 = 4;

/// A local log, and what was sent of it.
struct Story {
    running: Running,
    sent: Vec<Transaction>,
    folder: tempfile::TempDir,
}

impl Story {
    async fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let running = start(&in_folder(&folder));
        let (mut sent, mut tree) = (Vec::new(), RightEdge::new());
        for number in 1..=EVENTS {
            running.sequencer.append(one_event("room-1"), Origin::default()).await.unwrap();
            let tip = running.sequencer.tip();
            tree.push(leaf_hash(&tip.hash.0));
            let tree = TreeHead { size: tree.size(), root: tree.root() };
            let stored = running.history.record_at(tip.position, tip).unwrap();
            let event = StoredEvent::new(stored.bytes.clone(), stored.hash).unwrap();
            let entries = [
                KeyValue { key: event_key(&event.aggregate().unwrap(), event.sequence), value: stored.bytes },
                KeyValue { key: "sequence:room-1".into(), value: sequence_value(event.sequence) },
                head(tip, Some(tree)),
            ];
            sent.push(transaction(number, &entries));
        }
        Self { running, sent, folder }
    }

    /// Compares transactions. Returns for each which events were compared, whether it has to be
    /// examined by its keys, and the number of reports.
    fn compare(&self, transactions: &[Transaction]) -> Vec<(u64, bool, usize)> {
        let mut place = LocalPlace::new();
        let mut reader = LocalReader::new(self.running.history.clone());
        let mut compare = |transaction: &Transaction| {
            let compared = compare(transaction, &mut place, &mut reader).unwrap();
            for report in &compared.reports {
                assert_eq!(report.condition, Condition::RecordDiffers);
                assert_eq!(report.finding.transaction, Some(transaction.header.id.0));
            }
            (compared.events, compared.by_keys, compared.reports.len())
        };
        transactions.iter().map(&mut compare).collect()
    }

    /// Returns the transactions with another value of a key in one of them.
    fn changed(&self, at: usize, prefix: &str, change: impl Fn(&Bytes) -> Bytes) -> Vec<Transaction> {
        let mut changed = self.sent.clone();
        let entries = &mut changed[at].entries;
        let entry = entries.iter_mut().find(|(key, _)| key.starts_with(prefix.as_bytes())).unwrap();
        entry.1 = change(&entry.1);
        changed
    }

    fn head_at(&self, at: usize) -> LogHead {
        let entries = &self.sent[at].entries;
        let (_, value) = entries.iter().find(|(key, _)| key == head::KEY).unwrap();
        LogHead::decode(value).unwrap()
    }
}

fn head(tip: Tip, tree: Option<TreeHead>) -> KeyValue {
    let head = LogHead {
        position: tip.position,
        hash: tip.hash,
        writer: Uuid::nil(),
        written_at: 0,
        released: false,
        tree,
    };
    KeyValue { key: Bytes::from_static(head::KEY), value: head.encode() }
}

fn transaction(number: u64, entries: &[KeyValue]) -> Transaction {
    let sent = SentEntries::of(entries);
    let header = TxHeader {
        id: TxId(number),
        previous_hash: [0; 32],
        timestamp_seconds: 0,
        entry_count: sent.count,
        entries_hash: sent.hash,
        tree_tx: TxId(number - 1),
        tree_root: [0; 32],
        version: 1,
        metadata: None,
    };
    let entries = entries.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
    Transaction { header, entries }
}

fn flipped(value: &Bytes) -> Bytes {
    let mut bytes = value.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    bytes.into()
}

/// The keys of a transaction as they are read back.
fn keys_of(transaction: &Transaction) -> TransactionKeys {
    use sha2::{Digest, Sha256};
    let entry = |(key, value): &(Bytes, Bytes)| EntryKey {
        kind: KeyKind::Plain,
        key: key.clone(),
        metadata: EntryMetadata::default(),
        value_hash: Sha256::new().chain_update([0]).chain_update(value).finalize().into(),
    };
    let entries: Vec<EntryKey> = transaction.entries.iter().map(entry).collect();
    let digests = entries.iter().map(|entry| entry.digest(1).unwrap());
    let header = TxHeader { entries_hash: entries_hash(digests), ..transaction.header.clone() };
    TransactionKeys { header, entries }
}

#[tokio::test]
async fn what_was_sent_is_right_and_needs_no_look_at_the_keys() {
    let story = Story::begin().await;
    assert_eq!(story.compare(&story.sent), vec![(1, false, 0); EVENTS as usize]);
    for transaction in &story.sent {
        assert_eq!(check_entries(transaction), Ok(()));
        assert_eq!(examine(&keys_of(transaction), &story.running.history).unwrap().len(), 0);
    }
    // A claim, and one with snapshots only, have no event.
    let again = transaction(5, &[head(story.running.sequencer.tip(), None)]);
    let all = [story.sent.clone(), vec![again]].concat();
    assert_eq!(story.compare(&all).last(), Some(&(0, false, 0)));
}

#[tokio::test]
async fn each_changed_record_shows_and_those_behind_it_are_right() {
    let story = Story::begin().await;
    for at in 0..EVENTS as usize {
        let changed = story.changed(at, EVENT_PREFIX, flipped);
        assert!(check_entries(&changed[at]).is_err());
        let compared = story.compare(&changed);
        for (number, (_, by_keys, reports)) in compared.iter().enumerate() {
            assert_eq!((*by_keys, *reports), (number == at, 0), "{at}: {compared:?}");
        }
        let found = examine(&keys_of(&changed[at]), &story.running.history).unwrap();
        let conditions: Vec<Condition> = found.iter().map(|report| report.condition).collect();
        assert_eq!(conditions, [Condition::RecordDiffers]);
        assert!(found[0].finding.key.as_ref().unwrap().starts_with(EVENT_PREFIX));
        assert_eq!(Some(found[0].finding.kind), Condition::RecordDiffers.row().finding);
        // Another sequence number is found by the keys, too.
        let changed = story.changed(at, SEQUENCE_PREFIX, |_| Bytes::from_static(b"9"));
        assert!(story.compare(&changed)[at].1);
        let found = examine(&keys_of(&changed[at]), &story.running.history).unwrap();
        assert_eq!(found[0].condition, Condition::KeyOverwritten);
    }
}

#[tokio::test]
async fn events_that_are_missing_are_reported_once() {
    let story = Story::begin().await;
    let missing = [&story.sent[..1], &story.sent[3..]].concat();
    assert_eq!(story.compare(&missing), [(1, false, 0), (1, false, 1)]);
    // Without the events, but with their head.
    let only_head = transaction(2, &[head(story.running.sequencer.tip(), None)]);
    let heads = [&story.sent[..1], &[only_head.clone(), only_head][..]].concat();
    assert_eq!(story.compare(&heads), [(1, false, 0), (0, false, 1), (0, false, 0)]);
}

#[tokio::test]
async fn a_head_with_another_hash_or_another_tree_shows() {
    let story = Story::begin().await;
    let last = EVENTS as usize - 1;
    let right = story.head_at(last);
    let other_root = right.tree.as_ref().map(|tree| TreeHead { size: tree.size, root: [1; 32] });
    for wrong in [
        LogHead { hash: ChainHash([1; 32]), ..right.clone() },
        LogHead { position: Position(1), ..right.clone() },
        LogHead { tree: other_root, ..right.clone() },
    ] {
        let changed = story.changed(last, "log:head", |_| wrong.encode());
        assert_eq!(story.compare(&changed)[last], (1, false, 1), "{wrong:?}");
    }
    // An earlier version of the program knew no tree.
    let changed = story.changed(last, "log:head", |_| LogHead { tree: None, ..right.clone() }.encode());
    assert_eq!(story.compare(&changed)[last], (1, false, 0));
}

#[tokio::test]
async fn what_others_wrote_is_examined_by_its_keys() {
    let story = Story::begin().await;
    let written =
        |key: &str, value: &Bytes| KeyValue { key: Bytes::from(key.to_owned()), value: value.clone() };
    let (key, value) = story.sent[0].entries[0].clone();
    let key = std::str::from_utf8(&key).unwrap().to_owned();
    let conditions = |entries: &[KeyValue]| -> Vec<Condition> {
        let transaction = transaction(7, entries);
        assert_eq!(story.compare(std::slice::from_ref(&transaction)), [(0, true, 0)]);
        let found = examine(&keys_of(&transaction), &story.running.history).unwrap();
        found.iter().map(|report| report.condition).collect()
    };
    assert_eq!(conditions(&[written("note", &value)]), [Condition::ForeignTransaction]);
    assert_eq!(conditions(&[written(&key, &flipped(&value))]), [Condition::KeyOverwritten]);
    // The same record again.
    assert!(conditions(&[written(&key, &value)]).is_empty());
}

#[tokio::test]
async fn a_damaged_local_log_is_reported_and_the_rest_is_compared() {
    let story = Story::begin().await;
    let tip = story.running.sequencer.tip();
    let place = story.running.history.record_at(Position(2), tip).unwrap().place;
    let folder = story.folder.path().join("log");
    let segment = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_segment = |path: &std::path::PathBuf| path.extension().is_some_and(|found| found == "segment");
    let segment = segment.into_iter().find(is_segment).unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[place.offset as usize + 8] ^= 1;
    std::fs::write(&segment, bytes).unwrap();

    let (mut local, mut reader) = (LocalPlace::new(), LocalReader::new(story.running.history.clone()));
    let mut keys = Vec::new();
    for transaction in &story.sent {
        let compared = compare(transaction, &mut local, &mut reader).unwrap();
        for report in compared.reports {
            assert_eq!(report.condition, Condition::LocalDamage);
            keys.push(report.finding.key);
        }
    }
    // However many records cannot be read because of it, it is one place.
    keys.dedup();
    assert_eq!(keys.len(), 1, "{keys:?}");
}
