//! The places at which checkpoints are published. Each has a task of its own, so that none waits
//! for another. What fails is tried again with growing delays, and with the newest checkpoint.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::warn;

use self::{
    command::{CommandAnchor, CommandError},
    file::FileAnchor,
    witness::{WitnessAnchor, WitnessAnchorError},
};
use super::{AnchorSettings, Inner, KeptCheckpoint};
use crate::{event::Timestamp, proof::SignedNote, retry::RetryDelays};

mod command;
mod file;
pub(super) mod notes;
mod witness;

const DELAY_MIN: Duration = Duration::from_secs(1);
const DELAY_MAX: Duration = Duration::from_secs(60);
/// How long an anchor may be out of reach before the log says so, and how often it does.
const WARN_EVERY: Duration = Duration::from_secs(60 * 60);

/// What kind of place it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnchorKind {
    File,
    Command,
    Witness,
}

/// How publishing at one anchor goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnchorStatus {
    pub kind: AnchorKind,
    /// The path of the file, the name of the program, or the URL of the witness.
    pub target: String,
    /// The size of the newest checkpoint that it has, or 0.
    pub size: u64,
    /// When it got that checkpoint.
    pub reached_at: Option<Timestamp>,
    /// The failed attempts since the start.
    pub failures: u64,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// The status of all anchors, in the order of the configuration.
#[derive(Debug)]
pub(super) struct AnchorTable(Mutex<Vec<AnchorState>>);

#[derive(Debug)]
struct AnchorState {
    status: AnchorStatus,
    /// The history was compared with it, if it can be.
    compared: watch::Sender<bool>,
    outage: Outage,
}

/// Since when an anchor has been out of reach.
#[derive(Debug, Default)]
struct Outage {
    since: Option<Instant>,
    warned: Option<Instant>,
}

impl Outage {
    /// Records a failure. Returns for how long there has been nothing else, if that is to be
    /// logged now.
    fn failed(&mut self, now: Instant) -> Option<Duration> {
        let age = now.saturating_duration_since(*self.since.get_or_insert(now));
        let rested = |warned| now.saturating_duration_since(warned) >= WARN_EVERY;
        if age < WARN_EVERY || !self.warned.is_none_or(rested) {
            return None;
        }
        self.warned = Some(now);
        Some(age)
    }
}

impl AnchorTable {
    pub(super) fn new(anchors: &[AnchorSettings]) -> Self {
        Self(Mutex::new(anchors.iter().map(AnchorState::new).collect()))
    }

    pub(super) fn statuses(&self) -> Vec<AnchorStatus> {
        self.lock().iter().map(|anchor| anchor.status.clone()).collect()
    }

    /// Records that the history was compared with a file.
    pub(super) fn compared(&self, number: usize) {
        self.with(number, |anchor| anchor.compared.send_replace(true));
    }

    /// Records a failed attempt.
    pub(super) fn failed(&self, number: usize, error: &dyn fmt::Display) {
        self.with(number, |AnchorState { status, outage, .. }| {
            status.failures = status.failures.saturating_add(1);
            status.last_error = Some(error.to_string());
            if let Some(out_for) = outage.failed(Instant::now()) {
                let anchor = &status.target;
                warn!(anchor, ?out_for, %error, "checkpoints do not reach an anchor (proof.anchors)");
            }
        });
    }

    fn reached(&self, number: usize, size: u64) {
        self.with(number, |AnchorState { status, outage, .. }| {
            (status.size, status.reached_at, status.last_error) = (size, Some(Timestamp::now()), None);
            *outage = Outage::default();
        });
    }

    /// Returns whether each witness has cosigned a checkpoint since the start. True if there is no
    /// witness.
    pub(super) fn all_witnesses_reached(&self) -> bool {
        let anchors = self.lock();
        let mut witnesses = anchors.iter().filter(|anchor| anchor.status.kind == AnchorKind::Witness);
        witnesses.all(|witness| witness.status.reached_at.is_some())
    }

    /// Waits until nothing speaks against publishing at this anchor.
    async fn until_compared(&self, number: usize) {
        let compared = self.with(number, |anchor| anchor.compared.subscribe());
        if let Some(mut compared) = compared {
            // The table has the sender.
            _ = compared.wait_for(|compared| *compared).await;
        }
    }

    fn with<T>(&self, number: usize, change: impl FnOnce(&mut AnchorState) -> T) -> Option<T> {
        self.lock().get_mut(number).map(change)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<AnchorState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AnchorState {
    fn new(settings: &AnchorSettings) -> Self {
        let (kind, target) = match settings {
            AnchorSettings::File(path) => (AnchorKind::File, path.display().to_string()),
            // Its arguments may be secret.
            AnchorSettings::Command(command) => {
                (AnchorKind::Command, command.first().cloned().unwrap_or_default())
            }
            AnchorSettings::Witness { url, .. } => (AnchorKind::Witness, url.clone()),
        };
        let status = AnchorStatus { kind, target, size: 0, reached_at: None, failures: 0, last_error: None };
        let compared = watch::Sender::new(kind != AnchorKind::File);
        Self { status, compared, outage: Outage::default() }
    }
}

/// Why an anchor does not have a checkpoint.
#[derive(Debug, thiserror::Error)]
enum AnchorError {
    #[error(transparent)]
    File(#[from] std::io::Error),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Witness(#[from] WitnessAnchorError),
    #[error("the work on it panicked")]
    Panicked,
}

#[derive(Debug)]
enum Anchor {
    File(FileAnchor),
    Command(CommandAnchor),
    Witness(Box<WitnessAnchor>),
}

impl Anchor {
    fn new(settings: AnchorSettings) -> Self {
        match settings {
            AnchorSettings::File(path) => Self::File(FileAnchor::new(path)),
            AnchorSettings::Command(command) => Self::Command(CommandAnchor::new(command)),
            AnchorSettings::Witness { url, key, ca_file } => {
                Self::Witness(Box::new(WitnessAnchor::new(url, key, ca_file)))
            }
        }
    }

    /// Publishes a checkpoint. Returns the note with what the anchor has added to it.
    async fn publish(
        &mut self,
        inner: &Arc<Inner>,
        kept: &KeptCheckpoint,
    ) -> Result<Option<SignedNote>, AnchorError> {
        match self {
            Self::File(file) => file.publish(&kept.note).await.map(|()| None),
            Self::Command(command) => Ok(command.publish(&kept.note).await.map(|()| None)?),
            Self::Witness(witness) => Ok(witness.publish(inner, kept).await.map(Some)?),
        }
    }
}

/// Publishes each checkpoint at one anchor, or the newest one if there are several. Returns if the
/// anchor has another history.
pub(super) async fn follow(inner: Arc<Inner>, number: usize, settings: AnchorSettings) {
    let witness = match &settings {
        AnchorSettings::Witness { key, .. } => Some(key.clone()),
        AnchorSettings::File(_) | AnchorSettings::Command(_) => None,
    };
    let mut anchor = Anchor::new(settings);
    let mut published = inner.published.subscribe();
    let mut delays = RetryDelays::new(DELAY_MIN, DELAY_MAX);
    let mut done = None;
    inner.anchors.until_compared(number).await;
    loop {
        let newest = published.borrow_and_update().clone();
        let place = |kept: &KeptCheckpoint| (kept.generation, kept.checkpoint.size());
        let Some(kept) = newest.filter(|kept| done != Some(place(kept))) else {
            if published.changed().await.is_err() {
                return;
            }
            continue;
        };
        // Others may have cosigned it by now.
        let size = kept.checkpoint.size();
        let kept = inner.kept.of_size(size).unwrap_or(kept);
        match anchor.publish(&inner, &kept).await {
            Ok(note) => {
                delays.reset();
                done = Some(place(&kept));
                inner.anchors.reached(number, size);
                inner.update(size, move |kept| add(kept, note.as_ref())).await;
                inner.note_witnessed(witness.as_deref()).await;
            }
            Err(AnchorError::Witness(WitnessAnchorError::OtherHistory { size, expected, found })) => {
                let place = inner.anchors.with(number, |anchor| anchor.status.target.clone());
                inner.report(&place.unwrap_or_default(), size, expected, found).await;
                return;
            }
            Err(error) => {
                inner.anchors.failed(number, &error);
                tokio::time::sleep(delays.next_delay()).await;
            }
        }
    }
}

/// Records that an anchor has the checkpoint.
fn add(kept: &mut KeptCheckpoint, note: Option<&SignedNote>) {
    kept.anchored = true;
    if let Some(note) = note
        && let Err(error) = kept.note.merge(note)
    {
        warn!(%error, "a cosignature is not kept with its checkpoint");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, minutes: u64) -> Instant {
        start + Duration::from_secs(minutes * 60)
    }

    #[test]
    fn an_anchor_that_is_out_of_reach_is_logged_every_hour() {
        let (mut outage, start) = (Outage::default(), Instant::now());
        let logged: Vec<u64> =
            (0..200).filter(|minutes| outage.failed(after(start, *minutes)).is_some()).collect();
        assert_eq!(logged, [60, 120, 180]);
        outage = Outage::default();
        assert_eq!(outage.failed(after(start, 200)), None, "it was reached, and fails again");
    }

    #[tokio::test]
    async fn a_status_tells_what_was_reached_and_shows_no_argument() {
        let settings = [
            AnchorSettings::File("/mnt/checkpoints".into()),
            AnchorSettings::Command(vec!["post".into(), "--token=xyzzy".into()]),
        ];
        let table = AnchorTable::new(&settings);
        table.failed(1, &"no route");
        table.failed(1, &"no host");
        table.reached(0, 7);
        let [file, command] = table.statuses().try_into().unwrap();
        assert_eq!((file.kind, file.size, file.failures), (AnchorKind::File, 7, 0));
        assert!(file.reached_at.is_some());
        assert_eq!((command.target.as_str(), command.failures), ("post", 2));
        assert_eq!(command.last_error.as_deref(), Some("no host"));
        table.reached(1, 7);
        assert_eq!(table.statuses()[1].last_error, None);
        assert!(table.all_witnesses_reached(), "there is none");
        // Nothing speaks against a command.
        table.until_compared(1).await;
        table.compared(0);
        table.until_compared(0).await;
    }
}
