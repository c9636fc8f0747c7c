//! Tests of checkpoints as a whole: when they are made, where they go, and what prevents them.

use std::{convert::Infallible, fs, ops::Range};

use tempfile::TempDir;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{
    comparison::{FilePlace, Places},
    generations::Generation,
    *,
};
use crate::{
    event::{ChainHash, record::ReplicationMark},
    log::LogOffset,
    merkle::{Hash, leaf_hash},
    proof::{SignedNote, SigningKey},
    replication::{PendingLimits, audit::CheckpointJudge, reports, state::State},
    storage::{self, Storage},
    tree::{EventTree, Leaves, TreeState},
};

struct Log(Vec<ChainHash>);

impl Leaves for Log {
    type Error = Infallible;

    fn leaves(&self, range: Range<u64>) -> Result<Vec<Hash>, Infallible> {
        let hashes = &self.0[range.start as usize..range.end as usize];
        Ok(hashes.iter().map(|hash| leaf_hash(&hash.0)).collect())
    }
}

/// A service without ImmuDB and without events, whose tree is that of other events.
struct Started {
    transparency: Transparency,
    tree: watch::Sender<TreeState>,
    stopping: CancellationToken,
    tasks: TaskTracker,
    recorded: JoinHandle<()>,
    _storage: Storage,
    _tip: watch::Sender<Tip>,
}

impl Started {
    /// Waits until an anchor has the newest checkpoint. The time is simulated.
    async fn until_anchored(&self) {
        while !self.transparency.newest().unwrap().anchored {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn at(dir: &TempDir, anchors: &[&str]) -> Self {
        let log_path = dir.path().join("log");
        let storage = Storage::open(&storage::Settings {
            log_path: log_path.clone(),
            index_path: dir.path().join("index"),
            segment_bytes_max: 1 << 20,
            types_max: 10,
            disk_free_min: 0,
        });
        let storage = storage.unwrap();
        let limits = PendingLimits { events_max: 100, bytes_max: 100, segment_bytes_max: 100 };
        let mark = ReplicationMark::default();
        let replication =
            Arc::new(ReplicationStatus::new(State::LocalOnly, mark, LogOffset::START, false, limits));
        let (reports, inbox) = reports::channel();
        let recorded = tokio::spawn(inbox.record_only(log_path.clone(), replication.clone()));
        let (tree, watched) = TreeWatch::channel();
        let tip = watch::Sender::new(Tip::START);
        let key = KeySettings {
            path: dir.path().join("keys/checkpoint.key"),
            origin: None,
            default_origin: "log.example/a".into(),
            new_key: false,
        };
        let settings = TransparencySettings {
            log_path,
            key,
            checkpoint_every: Duration::from_secs(60),
            anchors: anchors.iter().map(|name| AnchorSettings::File(dir.path().join(name))).collect(),
            immudb: None,
        };
        let parts = TransparencyParts {
            history: storage.history(),
            tip: tip.subscribe(),
            tree: watched,
            replication,
            checkpoints: CheckpointQueue::new(),
            reports,
        };
        let (stopping, tasks) = (CancellationToken::new(), TaskTracker::new());
        let transparency = Transparency::start(settings, parts, &stopping, &tasks);
        Self { transparency, tree, stopping, tasks, recorded, _storage: storage, _tip: tip }
    }

    /// Gives it the tree of this number of events.
    fn grow(&self, dir: &TempDir, events: u64) {
        let hash = |index: u64| ChainHash(leaf_hash(&index.to_be_bytes()));
        let log = Log((0..events).map(hash).collect());
        let path = dir.path().join(format!("{}.tree", Uuid::new_v4()));
        let mut tree = EventTree::open(&path, Uuid::from_u128(7), 0, &log).unwrap();
        log.0.iter().for_each(|hash| tree.push(*hash));
        self.tree.send_replace(TreeState::Ready(tree.view()));
    }

    /// Waits until the history was compared.
    async fn cover(&self, position: u64) -> Result<Arc<KeptCheckpoint>, TransparencyError> {
        loop {
            match self.transparency.cover(Position(position)).await {
                Err(TransparencyError::TreeNotReady { size: 0, .. }) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                covered => return covered,
            }
        }
    }

    /// Stops it, and waits until its reports are recorded.
    async fn stop(self) {
        let Self { transparency, stopping, tasks, recorded, .. } = self;
        stopping.cancel();
        tasks.close();
        tasks.wait().await;
        drop(transparency);
        recorded.await.unwrap();
    }
}

fn size(kept: &KeptCheckpoint) -> u64 {
    kept.checkpoint.size()
}

#[tokio::test(start_paused = true)]
async fn an_event_behind_the_newest_checkpoint_makes_one_that_all_callers_share() {
    let dir = tempfile::tempdir().unwrap();
    let service = Started::at(&dir, &[]);
    let early = service.transparency.cover(Position(1)).await;
    assert!(matches!(early, Err(TransparencyError::TreeNotReady { .. })), "{early:?}");
    service.grow(&dir, 5);
    let first = service.cover(5).await.unwrap();
    let key = service.transparency.verifier_key().unwrap();
    assert_eq!((size(&first), key.name()), (5, "log.example/a"));
    assert_eq!(first.note.verify(&key).unwrap(), first.checkpoint.to_text());
    assert_eq!(*first.checkpoint.root(), service.transparency.tree().view().unwrap().root());
    assert_eq!(service.cover(3).await.unwrap(), first);

    service.grow(&dir, 9);
    let (one, other) = tokio::join!(service.cover(6), service.cover(9));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(Arc::ptr_eq(&one, &other) && size(&one) == 9);
    assert!(!one.anchored);
    let late = service.transparency.cover(Position(10)).await;
    assert!(matches!(late, Err(TransparencyError::TreeNotReady { size: 9, of: 10 })), "{late:?}");
    assert_eq!(service.transparency.kept(5), Some(first));
    assert_eq!((service.transparency.newest(), service.transparency.kept(6)), (Some(one), None));
    service.stop().await;
    assert_eq!(size(&Started::at(&dir, &[]).transparency.newest().unwrap()), 9);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_is_published_in_time_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let service = Started::at(&dir, &["anchor", "missing/anchor"]);
    service.grow(&dir, 5);
    service.cover(5).await.unwrap();
    let newest = || service.transparency.newest().unwrap();
    while !newest().anchored {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    let note = [newest().note.to_bytes(), b"\n".to_vec()].concat();
    assert_eq!(fs::read(dir.path().join("anchor")).unwrap(), note);
    let [reached, missing] = service.transparency.status().anchors.try_into().unwrap();
    assert_eq!((reached.size, reached.failures, missing.size), (5, 0, 0));
    assert!(missing.failures > 0 && missing.last_error.is_some(), "{missing:?}");
    service.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_history_that_does_not_continue_an_anchor_is_reported_and_not_signed() {
    let dir = tempfile::tempdir().unwrap();
    let service = Started::at(&dir, &["anchor"]);
    service.grow(&dir, 9);
    service.cover(9).await.unwrap();
    service.until_anchored().await;
    service.stop().await;
    // Everything is as it was before, except for the anchor and the key.
    fs::remove_file(dir.path().join("log.checkpoints")).unwrap();
    let service = Started::at(&dir, &["anchor"]);
    service.grow(&dir, 7);
    let refused = service.cover(7).await;
    let Err(TransparencyError::NoKey(NoKey::Contradicted { place, size: 9 })) = &refused else {
        panic!("{refused:?}")
    };
    assert!(place.ends_with("/anchor"), "{place}");
    service.stop().await;
    let findings = fs::read_to_string(dir.path().join("log.findings")).unwrap();
    assert!(findings.contains("anchor_differs") && findings.contains("9 events with the root"), "{findings}");
}

#[tokio::test(start_paused = true)]
async fn a_generation_has_a_name_of_its_own_and_its_first_checkpoint_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let service = Started::at(&dir, &["anchor"]);
    service.grow(&dir, 9);
    service.cover(9).await.unwrap();
    service.until_anchored().await;
    service.stop().await;
    let discarded = Generation { agreed: Some(4), by: "an operator".into(), because: "a test".into() };
    generations::begin(&dir.path().join("log"), discarded).unwrap();

    let service = Started::at(&dir, &["anchor"]);
    assert_eq!(service.transparency.newest(), None, "the checkpoint does not hold any longer");
    service.grow(&dir, 6);
    let first = service.cover(6).await.unwrap();
    let key = service.transparency.verifier_key().unwrap();
    assert_eq!((key.name(), first.checkpoint.origin()), ("log.example/a/2", "log.example/a/2"));
    let lines = first.checkpoint.extensions();
    assert!(lines[1].starts_with("earlier 9 ") && lines[1].ends_with(" log.example/a"), "{lines:?}");
    assert_eq!(lines[2..], ["agreed 4", "by an operator", "because a test"]);
    service.until_anchored().await;
    service.grow(&dir, 8);
    let second = service.cover(8).await.unwrap();
    assert!(second.checkpoint.extensions().is_empty());
    service.stop().await;
    assert!(!dir.path().join("log.findings").exists());
    let anchor = fs::read_to_string(dir.path().join("anchor")).unwrap();
    assert_eq!(anchor.matches("log.example/a/2\n6\n").count(), 1, "{anchor}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_file_of_the_generations_does_not_bring_back_an_earlier_origin() {
    let dir = tempfile::tempdir().unwrap();
    let service = Started::at(&dir, &[]);
    service.grow(&dir, 9);
    service.cover(9).await.unwrap();
    service.stop().await;
    let discarded = Generation { agreed: Some(4), by: "an operator".into(), because: "a test".into() };
    generations::begin(&dir.path().join("log"), discarded).unwrap();
    let service = Started::at(&dir, &[]);
    service.grow(&dir, 6);
    let second = service.cover(6).await.unwrap();
    service.stop().await;

    fs::remove_file(dir.path().join("log.generations")).unwrap();
    let service = Started::at(&dir, &[]);
    assert_eq!(service.transparency.newest(), Some(second));
    service.grow(&dir, 12);
    let third = service.cover(12).await.unwrap();
    assert_eq!(third.checkpoint.origin(), "log.example/a/2");
    service.stop().await;
    assert!(dir.path().join("log.generations").exists());
    assert!(!dir.path().join("log.findings").exists());
}

#[tokio::test(start_paused = true)]
async fn a_missing_key_is_not_replaced_because_no_checkpoint_holds_any_longer() {
    let dir = tempfile::tempdir().unwrap();
    let service = Started::at(&dir, &[]);
    service.grow(&dir, 9);
    service.cover(9).await.unwrap();
    service.stop().await;
    let discarded = Generation { agreed: None, by: "an operator".into(), because: "a test".into() };
    generations::begin(&dir.path().join("log"), discarded).unwrap();
    fs::remove_file(dir.path().join("keys/checkpoint.key")).unwrap();
    let service = Started::at(&dir, &[]);
    let key = service.transparency.verifier_key();
    assert!(matches!(key, Err(NoKey::Missing { .. })), "{key:?}");
    service.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_anchor_that_is_out_of_reach_may_have_more_than_a_new_copy() {
    let dir = tempfile::tempdir().unwrap();
    let service = Started::at(&dir, &[]);
    let inner = &service.transparency.0;
    let files = vec![FilePlace::new(0, dir.path().join("missing/anchor"))];
    let mut places = Places { own: false, files, immudb: None, were_published: true };
    assert!(!places.may_have_more(inner), "it is no copy");
    inner.change_generations_now(|generations| generations.copied = true);
    assert!(places.may_have_more(inner));
    places.were_published = false;
    assert!(!places.may_have_more(inner), "nobody has a checkpoint");
    (places.were_published, places.files) = (true, Vec::new());
    assert!(!places.may_have_more(inner), "all were compared");
    service.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_known_as_one_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    Started::at(&dir, &[]).stop().await;
    // An earlier process has copied the log, and has not reached every anchor.
    let log = dir.path().join("log");
    generations::begin_copy(&log).unwrap();
    RestoreMarker::new(&log).note_restored(Position(5)).unwrap();
    let service = Started::at(&dir, &[]);
    let inner = &service.transparency.0;
    assert_eq!((inner.may_lack_events(), inner.replication.restored()), (true, Some(Position(5))));
    // There is no witness, so it ends with the comparison.
    service.grow(&dir, 7);
    while inner.signing().generations.unwitnessed {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    service.stop().await;
    let service = Started::at(&dir, &[]);
    assert!(!service.transparency.0.may_lack_events());
    service.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_witness_that_was_reached_has_nothing_that_a_copy_lacks_whatever_the_others_have() {
    let dir = tempfile::tempdir().unwrap();
    Started::at(&dir, &[]).stop().await;
    let log = dir.path().join("log");
    generations::begin_copy(&log).unwrap();
    // A file that cannot be read, so that the comparison does not end.
    let service = Started::at(&dir, &["missing/anchor"]);
    let inner = &service.transparency.0;
    assert!(inner.may_lack_events_of("one") && inner.may_lack_events_of("other"));
    inner.note_witnessed(Some("one")).await;
    assert!(!inner.may_lack_events_of("one") && inner.may_lack_events_of("other"));
    service.stop().await;
    // Also after a restart, until the log is lost once more.
    let service = Started::at(&dir, &["missing/anchor"]);
    let inner = &service.transparency.0;
    assert!(!inner.may_lack_events_of("one") && inner.may_lack_events_of("other"));
    inner.change_generations_now(Generations::note_copy);
    assert!(inner.may_lack_events_of("one"));
    service.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_begins_waits_for_the_checkpoint_that_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let service = Started::at(&dir, &[]);
    service.grow(&dir, 5);
    service.cover(5).await.unwrap();
    let inner = service.transparency.0.clone();
    let making = inner.making.lock().unwrap();
    let (other, agreed) = (inner.clone(), Some(3));
    let began = Arc::new(std::sync::Barrier::new(2));
    let begun = began.clone();
    let begins = std::thread::spawn(move || {
        begun.wait();
        let generation = Generation { agreed, by: "a test".into(), because: "it tests".into() };
        other.change_generations_now(|generations| generations.push(1, generation, None));
    });
    began.wait();
    for _ in 0..1000 {
        std::thread::yield_now();
        assert_eq!(inner.signing().generations.current(), 1);
    }
    drop(making);
    begins.join().unwrap();
    assert_eq!(inner.signing().generations.current(), 2);
    assert!(inner.kept.newest().is_none(), "what was kept before does not hold any longer");
    drop(inner);
    service.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_in_immudb_is_judged_by_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let service = Started::at(&dir, &[]);
    service.grow(&dir, 9);
    let own = service.cover(9).await.unwrap().note.to_bytes();
    let is_wrong = |size, value: &[u8]| service.transparency.contradiction(size, value).is_some();
    assert!(!is_wrong(9, &own));
    assert!(is_wrong(8, &own), "it is at the key of another one");
    assert!(is_wrong(9, b"nonsense"));
    let signed = |name: &str, size| {
        let checkpoint = Checkpoint::new(name, size, [7; 32], Vec::new()).unwrap();
        SignedNote::sign(checkpoint.to_text(), &SigningKey::generate(name).unwrap()).unwrap().to_bytes()
    };
    let name = service.transparency.verifier_key().unwrap().name().to_owned();
    assert!(is_wrong(9, &signed(&name, 9)), "also with the signature of another key");
    assert!(!is_wrong(9, &signed("another.example", 9)), "nothing is known of another log");
    // An operator has given its events up.
    let generation = Generation { agreed: Some(8), by: "a test".into(), because: "it tests".into() };
    service.transparency.0.change_generations_now(|generations| generations.push(1, generation, None));
    assert!(!is_wrong(9, &signed(&name, 9)));
    service.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_logs_do_not_sign_with_one_key() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let service = Started::at(&dir, &[]);
    fs::create_dir(other.path().join("keys")).unwrap();
    let key = |dir: &TempDir| dir.path().join("keys/checkpoint.key");
    std::os::unix::fs::symlink(key(&dir), key(&other)).unwrap();
    let second = Started::at(&other, &[]);
    let refused = second.transparency.verifier_key();
    assert!(matches!(refused, Err(NoKey::InUse { .. })), "{refused:?}");
    second.stop().await;
    service.stop().await;
    let second = Started::at(&other, &[]);
    assert!(second.transparency.verifier_key().is_ok());
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_cannot_be_used_stops_nothing_but_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("keys")).unwrap();
    fs::write(dir.path().join("keys/checkpoint.key"), "xyzzy").unwrap();
    let service = Started::at(&dir, &["anchor"]);
    service.grow(&dir, 5);
    let refused = service.cover(5).await;
    assert!(matches!(refused, Err(TransparencyError::NoKey(NoKey::NotAKey { .. }))), "{refused:?}");
    assert!(service.transparency.verifier_key().is_err());
    service.stop().await;
    assert!(!dir.path().join("anchor").exists());
}
