use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use tempfile::{TempDir, tempdir};

use super::*;
use crate::{
    config::{EventSourcingConfig, LimitsConfig},
    event::{AggregateId, Content, ContentDigest, EventId, NewEvent},
    forwarder::{PendingLimits, Standing, State},
    grpc::byte_budget::{ByteBudget, Purpose},
    sequencer::{Append, Running, Sequencer, Settings, SnapshotThresholds},
    shared_limit::Caller,
    storage::Storage,
    store::{EventSourcing, Filter, OrderStart},
};

/// A store without ImmuDB.
fn local_store() -> (Arc<EventStore>, Running, TempDir) {
    let folder = tempdir().unwrap();
    let config = EventSourcingConfig {
        log_path: folder.path().join("log"),
        index_path: folder.path().join("index"),
        ..EventSourcingConfig::default()
    };
    let storage = Storage::open(&config, &LimitsConfig::default()).unwrap();
    let history = storage.history();
    let settings = Settings {
        folder: config.log_path.clone(),
        thresholds: SnapshotThresholds::default(),
        calls_waiting_max: 100,
        calls_waiting_bytes_max: u64::MAX,
        disk_free_min: 0,
        clock: Arc::new(crate::clock::EventClock::start(Duration::MAX, None, true)),
        in_doubt: HashSet::new(),
    };
    let (place, forwarded) = (storage.log.tip().end, storage.index.complete().forwarded);
    let Storage { log, index, .. } = storage;
    let (sequencer, thread) =
        Sequencer::start(log, index, settings, Arc::new(|_| Ok(())), Arc::default()).unwrap();
    let limits = PendingLimits { events_max: u64::MAX, bytes_max: u64::MAX, segment_bytes_max: 1 << 20 };
    let standing = Arc::new(Standing::new(State::LocalOnly, forwarded, place, false, limits));
    let store = EventStore::new(sequencer, standing, history, Arc::default(), EventSourcing::Enabled);
    (Arc::new(store), thread, folder)
}

fn one_event() -> Append {
    let event = NewEvent {
        id: EventId::random(),
        aggregate_id: AggregateId::new("room-1").unwrap(),
        aggregate_type: "Room".into(),
        event_type: "RoomCreated".into(),
        content: Content::Binary(Bytes::from_static(&[7; 100])),
        correlation_id: String::new(),
        causation_id: String::new(),
        metadata: BTreeMap::new(),
        occurred_at: None,
    };
    let digest = ContentDigest::of(&event);
    Append { events: vec![(event, digest)], expected: Vec::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_read_acquires_its_bytes_once_the_message_before_has_gone_out() {
    let (store, thread, _folder) = local_store();
    let budget = ByteBudget::new(64 << 20);
    let mut call = Admitted::of(&tonic::Request::new(()));
    call.answer = budget.of_call(&Caller::default(), Purpose::Answer);
    let reads = Reads::new(&LimitsConfig::default(), budget.clone());
    let reading = Reading { store: store.clone(), reads, call: call.clone() };
    let reader = store.read(OrderStart::After(Position(0), None), Filter::default()).unwrap();
    let mut messages = Box::pin(subscribe(reading, reader));
    let caught_up = messages.next().await.unwrap().unwrap();
    assert!(matches!(caught_up.content, Some(answers::Content::CaughtUp(_))));
    call.answer.resize(0).unwrap();
    store.append(one_event()).await.unwrap();
    let first = messages.next().await.unwrap().unwrap();
    assert!(matches!(first.content, Some(answers::Content::Events(_))));
    let unsent = budget.used();
    assert!((1..LIVE_READ_BYTES as u64).contains(&unsent), "{unsent}");
    store.append(one_event()).await.unwrap();
    let mut second = messages.next();
    assert!(futures_util::poll!(&mut second).is_pending());
    assert_eq!(budget.used(), unsent, "while the first message is still to be sent");
    call.answer.resize(0).unwrap();
    let second = second.await.unwrap().unwrap();
    assert!(matches!(second.content, Some(answers::Content::Events(_))));
    drop(messages);
    store.sequencer().stop().await;
    assert!(tokio::task::spawn_blocking(|| thread.join()).await.unwrap());
}
