//! Snapshots that the world takes of its own aggregates, when the store says that one is due.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    error::WorldError,
    replay::{self, Moment},
};
use crate::{
    event::AggregateId,
    sequencer::Origin,
    store::{EventStore, StoreError},
};

/// Aggregates that wait for a snapshot. One more is left out: its next event says again that it is due.
const WAITING_MAX: usize = 1024;

/// One whose snapshot was too large is not tried again for so long.
const TOO_LARGE_FOR: Duration = Duration::from_secs(600);

/// Where aggregates are named that are due.
#[derive(Debug, Clone)]
pub struct Snapshots(mpsc::Sender<AggregateId>);

impl Snapshots {
    /// The task takes one at a time, until `stopping`.
    pub fn start(
        store: Arc<EventStore>,
        snapshot_bytes_max: usize,
        stopping: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (sender, mut due) = mpsc::channel(WAITING_MAX);
        let task = async move {
            let mut waiting = Vec::new();
            let mut too_large: HashMap<AggregateId, Instant> = HashMap::new();
            while let Some(Some(_)) =
                stopping.run_until_cancelled(due.recv_many(&mut waiting, WAITING_MAX)).await.map(positive)
            {
                let ids: HashSet<AggregateId> = waiting.drain(..).collect();
                too_large.retain(|_, since| since.elapsed() < TOO_LARGE_FOR);
                for id in ids.into_iter().filter(|id| !too_large.contains_key(id)).collect::<Vec<_>>() {
                    if stopping.is_cancelled() {
                        return;
                    }
                    match take(&store, id.clone(), snapshot_bytes_max).await {
                        Ok(Taken::Yes) => {}
                        Ok(Taken::TooLarge) => {
                            warn!(aggregate = %id, "its snapshot would be larger than limits.snapshot_bytes_max");
                            if too_large.len() >= WAITING_MAX {
                                too_large.clear();
                            }
                            too_large.insert(id, Instant::now());
                        }
                        Err(error) => debug!(aggregate = %id, %error, "no snapshot was taken"),
                    }
                }
            }
        };
        (Self(sender), task)
    }

    /// Never waits.
    pub fn due(&self, id: AggregateId) {
        let _full = self.0.try_send(id);
    }
}

fn positive(count: usize) -> Option<usize> {
    (count > 0).then_some(count)
}

async fn take(store: &Arc<EventStore>, id: AggregateId, bytes_max: usize) -> Result<Taken, WorldError> {
    let loading = store.clone();
    let loaded = tokio::task::spawn_blocking(move || replay::load(&loading, &id, Moment::Now));
    let state = loaded.await.unwrap_or_else(|_| Err(StoreError::Damaged("aborted".to_owned()).into()))?;
    let Some(snapshot) = state.and_then(|state| state.snapshot()) else { return Ok(Taken::Yes) };
    if snapshot.content.byte_count() > bytes_max {
        return Ok(Taken::TooLarge);
    }
    store.save_snapshot(snapshot, Origin::default()).await?;
    Ok(Taken::Yes)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    TooLarge,
}
