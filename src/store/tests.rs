//! The store over a sequencer that is held up.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, mpsc},
};

use tempfile::tempdir;

use super::*;
use crate::{
    config::{EventSourcingConfig, LimitsConfig},
    event::{Content, ContentDigest, NewEvent},
    forwarder::{PendingLimits, State},
    sequencer::{Settings, SnapshotThresholds},
    storage::Storage,
};

fn append() -> Append {
    let event = NewEvent {
        id: EventId::parse("00000000-0000-4000-8000-000000000001").unwrap(),
        aggregate_id: AggregateId::new("room-1").unwrap(),
        aggregate_type: "Room".into(),
        event_type: "RoomCreated".into(),
        content: Content::Absent,
        correlation_id: String::new(),
        causation_id: String::new(),
        metadata: BTreeMap::new(),
        occurred_at: None,
    };
    let digest = ContentDigest::of(&event);
    Append { events: vec![(event, digest)], expected: Vec::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_that_would_be_refused_waits_for_the_first_attempt() {
    let folder = tempdir().unwrap();
    let config = EventSourcingConfig {
        log_path: folder.path().join("log"),
        index_path: folder.path().join("index"),
        ..EventSourcingConfig::default()
    };
    let storage = Storage::open(&config, &LimitsConfig::default()).unwrap();
    let history = storage.history();
    let (judging, judged) = mpsc::channel();
    let (go_on, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let admission = Arc::new(move |_| {
        judging.send(()).unwrap();
        _ = wait.lock().unwrap().recv();
        Ok(())
    });
    let settings = Settings {
        folder: config.log_path.clone(),
        thresholds: SnapshotThresholds::default(),
        calls_waiting_max: 100,
        calls_waiting_bytes_max: u64::MAX,
        disk_free_min: 0,
        clock: Arc::new(crate::clock::EventClock::start(std::time::Duration::MAX, None, true)),
        in_doubt: HashSet::new(),
    };
    let (place, forwarded) = (storage.log.tip().end, storage.index.complete().forwarded);
    let Storage { lock: _lock, log, index, .. } = storage;
    let (sequencer, thread) = Sequencer::start(log, index, settings, admission, Arc::default()).unwrap();
    // Nothing new may wait for ImmuDB.
    let limits = PendingLimits { events_max: 0, bytes_max: u64::MAX, segment_bytes_max: 1 << 20 };
    let standing = Arc::new(Standing::new(State::Fallback, forwarded, place, false, limits));
    let store = EventStore::new(sequencer.clone(), standing, history, Arc::default(), EventSourcing::Enabled);
    let first = tokio::spawn({
        let sequencer = sequencer.clone();
        async move { sequencer.append(append(), Origin::default()).await }
    });
    tokio::task::spawn_blocking(move || judged.recv()).await.unwrap().unwrap();
    // Its caller goes, and it is stored all the same.
    first.abort();
    let mut resend = std::pin::pin!(store.append_here(append(), Origin::default()));
    assert!(futures_util::poll!(&mut resend).is_pending(), "it was refused while the first attempt went on");
    drop(go_on);
    let stored = resend.await.unwrap();
    assert!(stored.already);
    // What is new is refused at once.
    let mut other = append();
    other.events[0].0.id = EventId::random();
    let refused = store.append_here(other, Origin::default()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Full { limit: Limit::PendingEvents, .. }), "{refused:?}");
    sequencer.stop().await;
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
}
