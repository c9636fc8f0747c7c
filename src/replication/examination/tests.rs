//! Tests of what counts as tampering, against a local log with two rooms.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::*;
use crate::{
    event::{AggregateId, Content, Snapshot},
    immudb::TxHeader,
    replication::findings::FindingKind::{self, ForeignKey, KeyDeleted},
    sequencer::{
        Origin,
        tests::{Running, in_folder, one_event, start},
    },
};

const EVENT: &str = "event:room-1:00000000000000000001";

/// A local log with three events: two of `room-1`, then one of `room-2`, and a snapshot of
/// `room-1`.
struct Story {
    running: Running,
    _folder: tempfile::TempDir,
}

impl Story {
    async fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let running = start(&in_folder(&folder));
        for room in ["room-1", "room-1", "room-2"] {
            running.sequencer.append(one_event(room), Origin::default()).await.unwrap();
        }
        let snapshot = Snapshot {
            aggregate_id: AggregateId::new("room-1").unwrap(),
            sequence: SequenceNumber(2),
            content: Content::Json("{}".into()),
            schema_version: 1,
            metadata: BTreeMap::new(),
            recorded_at: Default::default(),
            event_hash: crate::event::ChainHash::START,
        };
        running.sequencer.snapshot(snapshot, Origin::default()).await.unwrap();
        Self { running, _folder: folder }
    }

    /// The entry with which this service writes the event at a position.
    fn event(&self, position: u64) -> EntryKey {
        let tip = self.running.sequencer.tip();
        let event = self.running.history.event_at(Position(position), tip).unwrap();
        let key = transaction::event_key(&event.event.aggregate_id, event.sequence);
        written(&key, &self.running.history.record_at(Position(position), tip).unwrap().bytes)
    }

    fn snapshot(&self) -> EntryKey {
        let mut records = LocalRecords::new(&self.running.history);
        let record = records.snapshot(b"snapshot:room-1").unwrap().unwrap();
        written(b"snapshot:room-1", &record)
    }

    /// Examines transactions, of which ImmuDB had the events up to `known`.
    fn report(&self, heads: Heads, known: u64, transactions: &[&[EntryKey]]) -> Report {
        let mut examiner = Examiner::new(&self.running.history, heads, Position(known));
        for (number, entries) in (7..).zip(transactions) {
            examiner.examine(&in_transaction(number, entries)).unwrap();
        }
        examiner.report()
    }

    /// Returns the kind and the key of each finding in one transaction.
    fn tampered(&self, heads: Heads, known: u64, entries: &[EntryKey]) -> Vec<(FindingKind, String)> {
        let report = self.report(heads, known, &[entries]);
        report.tampered.into_iter().map(|finding| (finding.kind, finding.key.unwrap())).collect()
    }
}

fn written(key: &[u8], value: &[u8]) -> EntryKey {
    EntryKey {
        kind: KeyKind::Plain,
        key: Bytes::copy_from_slice(key),
        metadata: EntryMetadata::default(),
        value_hash: Sha256::new().chain_update([0]).chain_update(value).finalize().into(),
    }
}

fn deleted(key: &str) -> EntryKey {
    let metadata = EntryMetadata { deleted: true, ..EntryMetadata::default() };
    EntryKey { metadata, ..written(key.as_bytes(), b"") }
}

fn head() -> EntryKey {
    written(head::KEY, b"{}")
}

fn in_transaction(id: u64, entries: &[EntryKey]) -> TransactionKeys {
    let header = TxHeader {
        id: TxId(id),
        previous_hash: [0; 32],
        timestamp_seconds: 0,
        entry_count: 0,
        entries_hash: [0; 32],
        tree_tx: TxId(0),
        tree_root: [0; 32],
        version: 1,
        metadata: None,
    };
    TransactionKeys { header, entries: entries.to_vec() }
}

fn overwritten(key: &str) -> Vec<(FindingKind, String)> {
    vec![(ForeignKey, key.to_owned())]
}

#[tokio::test]
async fn transactions_of_this_service_are_in_order_with_any_view_of_the_head() {
    let story = Story::begin().await;
    let sequence =
        |room: &str, number: &str| written(format!("sequence:{room}").as_bytes(), number.as_bytes());
    let all = [
        story.event(1),
        story.event(2),
        story.event(3),
        sequence("room-1", "2"),
        sequence("room-2", "1"),
        story.snapshot(),
        head(),
    ];
    let repeated = [story.event(2), sequence("room-1", "2"), head()];
    for heads in [Heads::Local, Heads::Ahead] {
        let report = story.report(heads, 0, &[&[head()], &all, &repeated, &[head()]]);
        assert_eq!(report, Report::default(), "{heads:?}");
    }
    // Without having read the head, nothing is said about them.
    let unknown = story.report(Heads::Unknown, 0, &[&all]);
    assert_eq!(unknown, Report { head_changed: true, ..Report::default() });
}

#[tokio::test]
async fn another_client_may_write_its_own_keys_and_repeat_ours() {
    let story = Story::begin().await;
    let row = EntryKey { kind: KeyKind::Sql, ..written(EVENT.as_bytes(), b"row") };
    let own = [written(b"shop:1", b"x"), written(b"shop:2", b"y"), deleted("bank"), row];
    let report = story.report(Heads::Unknown, 3, &[&own, &[story.event(1), story.snapshot()]]);
    let prefixes = ["(SQL)", "bank", "shop:"].map(|prefix| (prefix.to_owned(), TxId(7)));
    let expected = Report { foreign: 2, prefixes: prefixes.into(), ..Report::default() };
    assert_eq!(report, expected);
}

#[tokio::test]
async fn another_client_must_not_write_or_delete_keys_of_this_service() {
    let story = Story::begin().await;
    let keys = [
        EVENT,
        "event:room-9:00000000000000000001",
        "event:room-1:00000000000000000003",
        "event:room-1",
        "sequence:room-1",
        "snapshot:room-1",
        "snapshot:room-9",
        "log:other",
        "checkpoint:7",
    ];
    for heads in [Heads::Unknown, Heads::Local, Heads::Ahead] {
        for key in keys {
            let found = story.tampered(heads, 3, &[written(key.as_bytes(), b"2")]);
            assert_eq!(found, overwritten(key), "{heads:?}");
            let found = story.tampered(heads, 3, &[deleted(key)]);
            assert_eq!(found, [(KeyDeleted, key.to_owned())], "{heads:?}");
        }
    }
    // Also what is only in the local log so far.
    assert_eq!(story.tampered(Heads::Unknown, 0, &[written(EVENT.as_bytes(), b"x")]), overwritten(EVENT));
    // The same value, but only for a while.
    let expiring = EntryMetadata { expires_at: Some(1), ..EntryMetadata::default() };
    let event = EntryKey { metadata: expiring, ..story.event(1) };
    assert_eq!(story.tampered(Heads::Unknown, 3, &[event]), overwritten(EVENT));
    // Whether the head is still there is found out by reading it.
    let unknown = story.report(Heads::Unknown, 3, &[&[deleted("log:head")]]);
    assert_eq!(unknown, Report { head_changed: true, ..Report::default() });
    // If it is there, it was written again.
    for heads in [Heads::Local, Heads::Ahead] {
        let found = story.tampered(heads, 3, &[deleted("log:head")]);
        assert_eq!(found, [(KeyDeleted, "log:head".to_owned())], "{heads:?}");
    }
}

#[tokio::test]
async fn an_event_is_not_overwritten_unseen_by_writing_the_head_as_well() {
    let story = Story::begin().await;
    let forged = [written(EVENT.as_bytes(), b"forged"), head()];
    assert_eq!(story.tampered(Heads::Local, 3, &forged), overwritten(EVENT));
    assert_eq!(story.tampered(Heads::Ahead, 3, &forged), overwritten(EVENT));
    // It was repeated just before, so ImmuDB had it.
    let before = [story.event(1), written(b"sequence:room-1", b"1"), head()];
    let report = story.report(Heads::Ahead, 0, &[&before, &forged]);
    assert_eq!(report.tampered.len(), 1);
    assert_eq!(report.tampered[0].transaction, Some(8));
    // Where the local log has another event that was never in ImmuDB, there are two histories.
    assert!(story.tampered(Heads::Ahead, 0, &forged).is_empty());
    let beyond = [written(b"event:room-1:00000000000000000003", b"x"), head()];
    assert!(story.tampered(Heads::Ahead, 3, &beyond).is_empty());
    assert_eq!(story.tampered(Heads::Local, 3, &beyond), overwritten("event:room-1:00000000000000000003"));
    for wrong in ["1", "3"] {
        let entries = [story.event(2), written(b"sequence:room-1", wrong.as_bytes()), head()];
        assert_eq!(story.tampered(Heads::Local, 3, &entries), overwritten("sequence:room-1"));
    }
    let without_event = [written(b"sequence:room-1", b"2"), head()];
    assert_eq!(story.tampered(Heads::Local, 3, &without_event), overwritten("sequence:room-1"));
}

#[tokio::test]
async fn a_checkpoint_is_stored_once_and_with_the_head() {
    const KEY: &str = "checkpoint:00000000000000000003";
    let story = Story::begin().await;
    let checkpoint = || written(KEY.as_bytes(), b"note");
    let stored = [checkpoint(), head()];
    for heads in [Heads::Local, Heads::Ahead] {
        // The same value again is no contradiction, also if another client writes it.
        let report = story.report(heads, 3, &[&stored, &stored]);
        assert_eq!(report, Report::default(), "{heads:?}");
        let report = story.report(heads, 3, &[&stored, &[checkpoint()]]);
        assert_eq!((report.foreign, report.tampered.len()), (1, 0), "{heads:?}");
        let other = [written(KEY.as_bytes(), b"another note"), head()];
        let report = story.report(heads, 3, &[&stored, &other]);
        assert_eq!((report.foreign, report.tampered.len()), (0, 1), "{heads:?}");
        assert_eq!(report.tampered[0].transaction, Some(8));
        assert_eq!(story.tampered(heads, 3, &[checkpoint()]), overwritten(KEY));
        assert_eq!(story.tampered(heads, 3, &[deleted(KEY), head()]), [(KeyDeleted, KEY.to_owned())]);
        let odd = [written(b"checkpoint:3", b"note"), head()];
        assert_eq!(story.tampered(heads, 3, &odd), overwritten("checkpoint:3"));
    }
}

#[tokio::test]
async fn checkpoints_that_immudb_had_before_are_known() {
    const KEY: &[u8] = b"checkpoint:00000000000000000003";
    let story = Story::begin().await;
    let mut known = CheckpointDigests::default();
    known.add(3, entry_digest(KEY, b"note"));
    for (value, is_whole) in [("note", true), ("another note", false)] {
        let examiner = Examiner::new(&story.running.history, Heads::Unknown, Position(3));
        let mut examiner = examiner.knowing_checkpoints(known.clone());
        let tampered = examiner.examine(&in_transaction(9, &[written(KEY, value.as_bytes())])).unwrap();
        assert_eq!(tampered, !is_whole, "{value}");
    }
}

#[tokio::test]
async fn who_knows_all_senders_takes_no_other_transaction_for_its_own() {
    let story = Story::begin().await;
    let mut examiner = Examiner::new(&story.running.history, Heads::Local, Position(3)).knowing_senders(true);
    examiner
        .examine(&in_transaction(9, &[story.event(1), written(b"sequence:room-1", b"1"), head()]))
        .unwrap();
    let report = examiner.report();
    assert_eq!((report.foreign, report.tampered.len()), (1, 1));
    assert_eq!(report.tampered[0].key.as_deref(), Some("log:head"));
    assert_eq!(report.tampered[0].transaction, Some(9));
}

#[tokio::test]
async fn a_report_has_a_limit() {
    let story = Story::begin().await;
    let many = |name: &str| -> Vec<EntryKey> {
        (0..300).map(|number| written(format!("{name}{number}").as_bytes(), b"")).collect()
    };
    let (foreign, ours) = (many("key-"), many("log:"));
    let report = story.report(Heads::Local, 0, &[&foreign, &ours]);
    assert_eq!((report.foreign, report.prefixes.len(), report.tampered.len()), (2, 100, 100));
    let long = story.report(Heads::Local, 0, &[&[written(&[b'\x1b'; 500], b"")]]);
    assert_eq!(long.prefixes.keys().next().unwrap(), &"\\u001b".repeat(64));
}
