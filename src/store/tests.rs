//! Tests of the store over a sequencer: a retry that arrives while the first attempt is held up in
//! admission, and reads with a filter.

use std::{
    fs,
    sync::{Mutex, mpsc},
};

use tempfile::{TempDir, tempdir};

use super::*;
use crate::{
    error::{Limit, NoProof, OverShare, ShareLimit, Unreadable},
    event::{ContentDigest, NewEvent},
    replication::{PendingLimits, head::TreeHead, state::State},
    sequencer::tests::{Running, in_folder, one_event, start, start_admitting},
    shared_limit::{Admission, Reserved, WriteSize},
    transparency::verification::tests::{hashes_of, tree_over},
};

/// Returns a store that accepts this many events that ImmuDB does not have.
pub(crate) fn store_over(running: &Running, state: State, pending_events_max: u64) -> EventStore {
    let history = running.history.clone();
    let (place, forwarded) = (running.sequencer.tip().end, history.index.complete().forwarded);
    let limits =
        PendingLimits { events_max: pending_events_max, bytes_max: u64::MAX, segment_bytes_max: 1 << 20 };
    let replication = Arc::new(ReplicationStatus::new(state, forwarded, place, false, limits));
    let sequencer = running.sequencer.clone();
    EventStore::new(sequencer, replication, history, Arc::default(), EventSourcing::Enabled)
}

/// Returns a store without ImmuDB.
pub(crate) fn local_store(running: &Running) -> EventStore {
    store_over(running, State::LocalOnly, u64::MAX)
}

/// Returns an append with one event for each of these aggregate types. The aggregate `of T` is the
/// one of the type `T`.
pub(crate) fn of_types(types: &[&str]) -> Append {
    let event = |aggregate_type: &&str| {
        let (event, _) = one_event(&format!("of {aggregate_type}")).events.remove(0);
        let event = NewEvent { aggregate_type: (*aggregate_type).into(), ..event };
        let digest = ContentDigest::of(&event);
        (event, digest)
    };
    Append { events: types.iter().map(event).collect(), expected: Vec::new() }
}

/// Changes one byte of the log, where `text` occurs last.
pub(crate) fn damage_log(folder: &TempDir, text: &str) {
    let path = folder.path().join("log/0000000001.segment");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.windows(text.len()).rposition(|bytes| bytes == text.as_bytes()).unwrap();
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
}

fn only(aggregate_type: &str) -> Filter {
    Filter { aggregate_types: [aggregate_type.as_bytes().to_vec()].into(), ..Filter::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_knows_how_far_it_is_although_its_filter_leaves_events_out() {
    let folder = tempdir().unwrap();
    let running = start(&in_folder(&folder));
    let store = local_store(&running);
    for types in [&["Quest", "Quest"][..], &["Quest", "Room", "Quest", "Room", "Quest"], &["Quest"]] {
        store.append(of_types(types)).await.unwrap();
    }
    let tip = store.tip();
    for (bytes_max, chunks) in [(1, 3), (usize::MAX, 1)] {
        let mut reader = store.read(OrderStart::At(Position(1)), only("Room")).unwrap();
        let mut positions = Vec::new();
        for chunk in 1..=chunks {
            let read = reader.next(tip, bytes_max).unwrap();
            positions.extend(read.events.iter().map(|event| event.position.0));
            assert_eq!(read.hash, store.history().locate(read.reached, tip).unwrap().hash);
            assert_eq!(read.at_end, chunk == chunks);
            assert_eq!(reader.is_within_append(), chunk != chunks);
        }
        assert_eq!(positions, [4, 6]);
        assert_eq!(reader.reached(), tip.position);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_event_is_reported_to_readers_whose_filter_leaves_it_out_too() {
    let folder = tempdir().unwrap();
    let running = start(&in_folder(&folder));
    let store = local_store(&running);
    store.append(of_types(&["Room", "Quest", "Room"])).await.unwrap();
    damage_log(&folder, "of Quest");
    for filter in [only("Room"), only("Quest"), only("Player"), Filter::default()] {
        let mut reader = store.read(OrderStart::At(Position(1)), filter).unwrap();
        let failed = reader.next(store.tip(), usize::MAX).unwrap_err();
        assert!(matches!(failed, StoreError::Damaged(_)), "{failed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_that_would_be_refused_waits_for_the_first_attempt() {
    let folder = tempdir().unwrap();
    let (judging, judged) = mpsc::channel();
    let (go_on, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let admission = Arc::new(move |_| {
        judging.send(()).unwrap();
        _ = wait.lock().unwrap().recv();
        Ok(())
    });
    let running = start_admitting(&in_folder(&folder), admission);
    // No new event may be pending.
    let store = store_over(&running, State::Fallback, 0);
    let sent = one_event("room-1");
    let append = || Append { events: sent.events.clone(), expected: Vec::new() };
    let first = tokio::spawn({
        let (sequencer, append) = (running.sequencer.clone(), append());
        async move { sequencer.append(append, Origin::default()).await }
    });
    tokio::task::spawn_blocking(move || judged.recv()).await.unwrap().unwrap();
    // The client disconnects, but the append is stored all the same.
    first.abort();
    let mut resend = std::pin::pin!(store.append_here(append(), Origin::default()));
    assert!(futures_util::poll!(&mut resend).is_pending(), "it was refused while the first attempt went on");
    drop(go_on);
    let stored = resend.await.unwrap();
    assert!(stored.already);
    // A new append is refused at once.
    let refused = store.append_here(one_event("room-1"), Origin::default()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Full { limit: Limit::PendingEvents, .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_load_ends_where_an_event_is_not_confirmed_or_not_in_the_tree() {
    let folder = tempdir().unwrap();
    let running = start(&in_folder(&folder));
    let store = local_store(&running);
    for aggregate in ["room-1", "room-2", "room-1"] {
        store.append(one_event(aggregate)).await.unwrap();
    }
    let mut hashes = hashes_of(&running);
    let load = || store.load(LoadRequest::all_of(AggregateId::new("room-1").unwrap())).unwrap();
    let view = tree_over(folder.path(), &hashes);
    let confirmed = |size: usize| {
        let root = tree_over(folder.path(), &hashes[..size]).root();
        TreeHead { size: size as u64, root }
    };

    let mut reader = load();
    reader.compare_with(view.clone(), confirmed(3)).unwrap();
    assert_eq!(reader.next(usize::MAX).unwrap().len(), 2);

    let mut reader = load();
    reader.compare_with(view.clone(), confirmed(2)).unwrap();
    assert_eq!(reader.next(1).unwrap().len(), 1);
    let refused = reader.next(1).unwrap_err();
    let expected = NoProof::NotVerified { position: 3, verified: 2 };
    assert!(matches!(&refused, StoreError::NoProof(found) if *found == expected), "{refused:?}");

    let other = TreeHead { root: [7; 32], ..confirmed(2) };
    let refused = load().compare_with(view, other).unwrap_err();
    assert!(matches!(refused, StoreError::Damaged(Unreadable::OtherTree { size: 2, .. })), "{refused:?}");

    hashes[0].0[0] ^= 1;
    let view = tree_over(folder.path(), &hashes);
    let mut reader = load();
    reader.compare_with(view.clone(), TreeHead { size: 3, root: view.root() }).unwrap();
    let refused = reader.next(usize::MAX).unwrap_err();
    assert!(matches!(refused, StoreError::Damaged(_)), "{refused:?}");
}

/// Admits nothing.
struct NothingLeft;

impl Admission for NothingLeft {
    fn admit(&self, _: &WriteSize<'_>) -> Result<Reserved, OverShare> {
        let limit = ShareLimit::StoredBytes;
        Err(OverShare { limit, max: 1, retry_after: std::time::Duration::from_secs(60) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_without_a_share_left_is_refused_and_its_stored_appends_are_answered() {
    let folder = tempdir().unwrap();
    let running = start(&in_folder(&folder));
    let store = local_store(&running);
    let refused = || Origin { admission: Some(Arc::new(NothingLeft)), ..Origin::default() };
    let sent = one_event("room-1");
    let append = || Append { events: sent.events.clone(), expected: Vec::new() };
    let error = store.append_here(append(), refused()).await.unwrap_err();
    assert!(matches!(error, StoreError::Share(over) if over.limit == ShareLimit::StoredBytes), "{error:?}");
    assert_eq!(store.tip().position, Position(0));
    store.append_here(append(), Origin::default()).await.unwrap();
    // Whatever the identity has used up since, and also if another one has stored it.
    let again = store.append_here(append(), refused()).await.unwrap();
    assert!(again.already);
    let error = store.append_here(one_event("room-1"), refused()).await.unwrap_err();
    assert!(matches!(error, StoreError::Share(_)), "{error:?}");
    assert_eq!(store.counters.store_failures.get(), 0, "the service has not failed");
}
