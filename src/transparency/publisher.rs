//! The tasks that make a checkpoint from time to time, give it to ImmuDB and to the anchors, and
//! keep what comes back.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    AnchorSettings, Inner, KeptCheckpoint, TransparencyError, anchors,
    comparison::{self, FilePlace, Places},
};
use crate::{
    event::Timestamp,
    immudb::SessionSettings,
    proof::SignedNote,
    refusals,
    replication::checkpoint_queue::{Certified, CheckpointQueue},
};

impl Inner {
    /// Starts the tasks. They end when `stopping` is cancelled.
    pub(super) fn start_tasks(
        self: &Arc<Self>,
        anchors: Vec<AnchorSettings>,
        (immudb, checkpoints): (Option<SessionSettings>, CheckpointQueue),
        stopping: &CancellationToken,
        tasks: &TaskTracker,
    ) {
        let files = anchors.iter().enumerate().filter_map(|(number, anchor)| match anchor {
            AnchorSettings::File(path) => Some(FilePlace::new(number, path.clone())),
            AnchorSettings::Command(_) | AnchorSettings::Witness { .. } => None,
        });
        let places = Places { own: true, files: files.collect(), immudb, were_published: false };
        spawn(tasks, stopping, comparison::run(self.clone(), places));
        spawn(tasks, stopping, keep_certificates(self.clone(), checkpoints.certified()));
        spawn(tasks, stopping, publish(self.clone(), checkpoints));
        for (number, anchor) in anchors.into_iter().enumerate() {
            spawn(tasks, stopping, anchors::follow(self.clone(), number, anchor));
        }
    }

    /// Makes a checkpoint of all events, unless there is one, and publishes it, unless it was.
    async fn publish_newest(self: &Arc<Self>, checkpoints: &CheckpointQueue) {
        let Some(view) = self.tree.view().filter(|view| view.size() > 0) else { return };
        let kept = match self.clone().make(view).await {
            Ok(kept) => kept,
            // The next one follows, or an operator has to do something, which was logged.
            Err(
                TransparencyError::TreeNotReady { .. }
                | TransparencyError::TreeFailed(_)
                | TransparencyError::NoKey(_)
                | TransparencyError::Disabled,
            ) => return,
            Err(
                error @ (TransparencyError::Checkpoint(_)
                | TransparencyError::Note(_)
                | TransparencyError::NotKept(_)
                | TransparencyError::Panicked),
            ) => return refusals::failed("no checkpoint can be made", &error),
        };
        let is_published = self.published.borrow().as_ref().is_some_and(|published| published.is_same(&kept));
        if is_published {
            return;
        }
        let own = kept.note.only_by(kept.checkpoint.origin());
        checkpoints.offer(kept.checkpoint.size(), own.to_bytes().into());
        self.published.send_replace(Some(kept));
    }

    /// Changes a kept checkpoint.
    pub(super) async fn update(
        self: &Arc<Self>,
        size: u64,
        change: impl FnOnce(&mut KeptCheckpoint) + Send + 'static,
    ) {
        let inner = self.clone();
        if let Ok(Err(error)) = spawn_blocking(move || inner.kept.update(size, change)).await {
            refusals::failed("cannot keep what was learned of a checkpoint", &error);
        }
    }

    /// Returns how long ago the newest checkpoint was made.
    fn age(&self) -> Duration {
        let made_at = self.kept.newest().map(|kept| kept.made_at);
        let age = made_at.map_or(0, |made_at| Timestamp::now().seconds().saturating_sub(made_at.seconds()));
        Duration::from_secs(u64::try_from(age).unwrap_or(0))
    }
}

impl KeptCheckpoint {
    fn is_same(&self, other: &Self) -> bool {
        (self.generation, self.checkpoint.size()) == (other.generation, other.checkpoint.size())
    }
}

fn spawn(tasks: &TaskTracker, stopping: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    let stopping = stopping.clone();
    tasks.spawn(async move { stopping.run_until_cancelled(work).await });
}

/// Says again, from time to time, why nothing is signed.
pub(super) async fn warn_of_problem(inner: Arc<Inner>) {
    const EVERY: Duration = Duration::from_secs(60 * 60);
    loop {
        tokio::time::sleep(EVERY).await;
        if let Some(error) = inner.problem() {
            warn!(%error, "no checkpoints are signed, and there are no new proofs");
        }
    }
}

async fn publish(inner: Arc<Inner>, checkpoints: CheckpointQueue) {
    // A service that is restarted often makes checkpoints, too.
    let first = Instant::now() + inner.every.saturating_sub(inner.age());
    let mut ticks = interval_at(first, inner.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        inner.publish_newest(&checkpoints).await;
    }
}

/// Keeps the certificate of each checkpoint that ImmuDB has stored.
async fn keep_certificates(inner: Arc<Inner>, mut certified: watch::Receiver<Vec<Arc<Certified>>>) {
    loop {
        let last = certified.borrow_and_update().clone();
        // One that was kept before is not changed again.
        for certified in last {
            inner.update(certified.size, move |kept| certify(kept, &certified)).await;
        }
        if certified.changed().await.is_err() {
            return;
        }
    }
}

/// A checkpoint of an earlier generation may have had the same size.
fn certify(kept: &mut KeptCheckpoint, Certified { certificate, .. }: &Certified) {
    let stored = SignedNote::parse(&certificate.value);
    if stored.is_ok_and(|stored| stored.unverified_text() == kept.note.unverified_text()) {
        kept.certificate = Some(certificate.clone());
    }
}
