//! Tests of the store over a sequencer whose admission is held up, so that a retry arrives while
//! the first attempt is still in progress.

use std::sync::{Mutex, mpsc};

use tempfile::tempdir;

use super::*;
use crate::{
    error::Limit,
    replication::{PendingLimits, state::State},
    sequencer::tests::{Running, in_folder, one_event, start_admitting},
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
    running.sequencer.stop().await;
    assert!(tokio::task::spawn_blocking(|| running.thread.join()).await.unwrap());
}
