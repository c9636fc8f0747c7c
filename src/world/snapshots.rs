//! Snapshots that the world takes of its own aggregates, when the store says that one is due.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{
    error::WorldError,
    read_models::Panicked,
    replay::{self, Moment},
};
use crate::{event::AggregateId, sequencer::Origin, store::EventStore};

/// Aggregates that wait for a snapshot. One more is left out: its next event says again that it is due.
const WAITING_MAX: usize = 1024;

/// One whose snapshot was too large, or whose events made the code panic, is not tried again for so long.
const LATER: Duration = Duration::from_secs(600);

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
            let (mut waiting, mut panics) = (Vec::new(), 0u64);
            let mut later: HashMap<AggregateId, Instant> = HashMap::new();
            while let Some(Some(_)) =
                stopping.run_until_cancelled(due.recv_many(&mut waiting, WAITING_MAX)).await.map(positive)
            {
                let ids: HashSet<AggregateId> = waiting.drain(..).collect();
                later.retain(|_, since| since.elapsed() < LATER);
                for id in ids.into_iter().filter(|id| !later.contains_key(id)).collect::<Vec<_>>() {
                    if stopping.is_cancelled() {
                        return;
                    }
                    match take(&store, id.clone(), snapshot_bytes_max).await {
                        Ok(Taken::Yes) => {}
                        Ok(Taken::TooLarge) => {
                            warn!(aggregate = %id, "its snapshot would be larger than limits.snapshot_bytes_max");
                            put_off(id, &mut later);
                        }
                        // The work was ended, too.
                        Ok(Taken::Panicked(_)) if stopping.is_cancelled() => return,
                        Ok(Taken::Panicked(panicked)) => {
                            panics = panics.saturating_add(1);
                            error!(aggregate = %id, %panicked, panics, "no snapshot was taken");
                            put_off(id, &mut later);
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
    let state = match blocking(move || replay::load(&loading, &id, Moment::Now)).await {
        Ok(loaded) => loaded?,
        Err(panicked) => return Ok(Taken::Panicked(panicked)),
    };
    let Some(snapshot) = state.and_then(|state| state.snapshot()) else { return Ok(Taken::Yes) };
    if snapshot.content.byte_count() > bytes_max {
        return Ok(Taken::TooLarge);
    }
    store.save_snapshot(snapshot, Origin::default()).await?;
    Ok(Taken::Yes)
}

fn put_off(id: AggregateId, later: &mut HashMap<AggregateId, Instant>) {
    if later.len() >= WAITING_MAX {
        later.clear();
    }
    later.insert(id, Instant::now());
}

/// Work that may wait for the disk, and may panic.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|ended| match ended.try_into_panic() {
        Ok(panic) => Panicked::with(&*panic).to_string(),
        Err(ended) => ended.to_string(),
    })
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Taken {
    Yes,
    TooLarge,
    Panicked(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_and_ends_nothing_else() {
        let told = blocking(|| panic!("no such thing")).await.unwrap_err();
        assert_eq!(told, "it panicked: no such thing");
        assert_eq!(blocking(|| 7).await, Ok(7));
    }
}
