//! Signed checkpoints of the history, and where they are published.
//!
//! A checkpoint is the number of all events and the root of the tree over them, signed. It is kept,
//! stored in ImmuDB, and published at anchors: places that an intruder on this machine and on that
//! of ImmuDB does not reach. At a start, the history is compared with what they have. This module
//! owns the key, the kept checkpoints, the generations of the history, the anchors, and the proofs
//! and verifications for callers.
//!
//! It follows the log and never changes it. Whatever fails here, events are appended and read.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, task::spawn_blocking, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use self::{
    anchors::AnchorTable,
    generations::Generations,
    kept::KeptCheckpoints,
    key::{Keys, Signer},
};
use crate::{
    crash_point::CrashPoint,
    event::{Position, Timestamp},
    history::History,
    log::Tip,
    proof::{Checkpoint, VerifierKey},
    replication::{
        checkpoint_queue::CheckpointQueue, reports::Reports, restore::RestoreMarker,
        status::ReplicationStatus,
    },
    tree::{TreeView, TreeWatch},
};

mod anchors;
mod comparison;
mod error;
pub(crate) mod follower;
pub(crate) mod generations;
mod judging;
mod kept;
mod key;
pub(crate) mod proofs;
mod publisher;
mod settings;
#[cfg(test)]
mod tests;
pub(crate) mod verification;

pub(crate) use anchors::{AnchorKind, AnchorStatus};
pub(crate) use error::{NoKey, TransparencyError};
pub(crate) use kept::KeptCheckpoint;
pub(crate) use settings::{AnchorSettings, KeySettings, TransparencySettings};

/// The minimum time between two checkpoints that callers cause.
const ON_DEMAND_EVERY: Duration = Duration::from_secs(1);

/// The checkpoints of this history, for the rest of the program. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Transparency(Arc<Inner>);

/// The parts of the program that checkpoints are made from and given to.
#[derive(Debug)]
pub(crate) struct TransparencyParts {
    pub history: History,
    pub tip: watch::Receiver<Tip>,
    pub tree: TreeWatch,
    pub replication: Arc<ReplicationStatus>,
    pub checkpoints: CheckpointQueue,
    pub reports: Reports,
}

/// How publishing goes, for `Stats`.
#[derive(Debug)]
pub(crate) struct TransparencyStatus {
    /// Why nothing is signed. `None` if checkpoints are, or if there are to be none.
    pub problem: Option<NoKey>,
    /// In the order of the configuration.
    pub anchors: Vec<AnchorStatus>,
}

#[derive(Debug)]
struct Inner {
    log_path: PathBuf,
    history: History,
    tip: watch::Receiver<Tip>,
    tree: TreeWatch,
    replication: Arc<ReplicationStatus>,
    reports: Reports,
    /// The interval of checkpoints. If zero, there are none.
    every: Duration,
    /// The log was empty at this start, or when the copy of it from ImmuDB began, and no generation
    /// was begun for what it lacks. Also set if not all witnesses were reached since.
    is_copy: AtomicBool,
    /// Fixed at the start.
    keys: Result<Keys, NoKey>,
    /// No other log can sign with this key until it is dropped.
    _key_lock: Option<fs::File>,
    signing: Mutex<Signing>,
    kept: KeptCheckpoints,
    anchors: AnchorTable,
    /// The newest checkpoint that anchors should have.
    published: watch::Sender<Option<Arc<KeptCheckpoint>>>,
    /// When a caller last caused a checkpoint. Locked while one is made for a caller.
    on_demand: tokio::sync::Mutex<Option<Instant>>,
    /// Locked while a checkpoint is made, also if its caller is gone, and while a generation
    /// begins.
    making: Mutex<()>,
}

/// What may be signed, and with what.
#[derive(Debug)]
struct Signing {
    generations: Generations,
    signer: Result<Arc<Signer>, NoKey>,
    gate: Gate,
}

/// Whether checkpoints may be signed.
#[derive(Debug)]
enum Gate {
    /// The history has not been compared with earlier checkpoints yet.
    NotCompared,
    Open,
    Closed(NoKey),
}

impl Transparency {
    /// Reads the key and the kept checkpoints, and starts the tasks that make and publish further
    /// ones. They end when `stopping` is cancelled. Nothing that is missing or damaged is an error:
    /// no checkpoints are made then.
    pub(crate) fn start(
        settings: TransparencySettings,
        parts: TransparencyParts,
        stopping: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let TransparencySettings { log_path, key, checkpoint_every, anchors, immudb } = settings;
        let TransparencyParts { history, tip, tree, replication, checkpoints, reports } = parts;
        let (generations, kept, unusable) = load(&log_path);
        // An earlier process may have copied it.
        if let Some(last) = RestoreMarker::new(&log_path).restored() {
            replication.has_restored(last);
        }
        let keys = match unusable {
            Some(error) => Err(error),
            None if checkpoint_every.is_zero() => Err(NoKey::Disabled),
            None => Keys::open(&key, kept.has_file()),
        };
        let locked = keys.and_then(|keys| Ok((keys, key::lock(&key.path)?)));
        let (keys, key_lock) = match locked {
            Ok((keys, lock)) => (Ok(keys), Some(lock)),
            Err(error) => (Err(error), None),
        };
        let signer = signer(&keys, &generations);
        if let Err(error) = &signer
            && !matches!(error, NoKey::Disabled)
        {
            warn!(%error, "no checkpoints are signed, and there are no new proofs");
        }
        let is_empty = immudb.is_some() && tip.borrow().position == Position(0);
        let is_copy = is_empty || generations.copied || generations.unwitnessed;
        let signing = Signing { generations, signer, gate: Gate::NotCompared };
        let inner = Arc::new(Inner {
            log_path,
            history,
            tip,
            tree,
            replication,
            reports,
            every: checkpoint_every,
            is_copy: AtomicBool::new(is_copy),
            keys,
            _key_lock: key_lock,
            signing: Mutex::new(signing),
            kept,
            anchors: AnchorTable::new(&anchors),
            published: watch::Sender::new(None),
            on_demand: tokio::sync::Mutex::new(None),
            making: Mutex::new(()),
        });
        // The log of a lost disk is empty, and what ImmuDB has of it may be less than it was. This
        // has to be known later as well, when a key that cannot be used now is there again.
        if is_empty && !matches!(inner.keys, Err(NoKey::Disabled | NoKey::Generations { .. })) {
            inner.change_generations_now(Generations::note_copy);
        }
        if inner.keys.is_ok() {
            inner.start_tasks(anchors, (immudb, checkpoints), stopping, tasks);
        }
        let (warning, stopping) = (publisher::warn_of_problem(inner.clone()), stopping.clone());
        tasks.spawn(async move { stopping.run_until_cancelled(warning).await });
        Self(inner)
    }

    /// Returns the public key of the present generation.
    pub(crate) fn verifier_key(&self) -> Result<VerifierKey, NoKey> {
        let signer = self.0.signing().signer.clone()?;
        Ok(signer.verifier().clone())
    }

    /// Returns the public key of the generation that a checkpoint belongs to.
    pub(crate) fn verifier_key_of(&self, kept: &KeptCheckpoint) -> Result<VerifierKey, NoKey> {
        let keys = self.0.keys.as_ref().map_err(NoKey::clone)?;
        Ok(keys.signer(kept.generation).map_err(NoKey::Key)?.verifier().clone())
    }

    /// Returns the tree over the events.
    pub(crate) fn tree(&self) -> &TreeWatch {
        &self.0.tree
    }

    /// Returns the newest checkpoint.
    pub(crate) fn newest(&self) -> Option<Arc<KeptCheckpoint>> {
        self.0.kept.newest()
    }

    /// Returns the checkpoint of exactly this size.
    pub(crate) fn kept(&self, size: u64) -> Option<Arc<KeptCheckpoint>> {
        self.0.kept.of_size(size)
    }

    /// Returns the newest checkpoint, if it has the event at this position. Otherwise makes one: at
    /// most one a second, which all callers share.
    ///
    /// # Errors
    /// Returns an error if there is no such checkpoint, and none can be made now.
    pub(crate) async fn cover(&self, position: Position) -> Result<Arc<KeptCheckpoint>, TransparencyError> {
        let Self(inner) = self;
        if let Some(kept) = inner.kept.covering(position.0) {
            return Ok(kept);
        }
        if inner.every.is_zero() {
            return Err(TransparencyError::Disabled);
        }
        // No caller has to wait for its turn to learn this.
        inner.may_sign(position.0)?;
        if inner.tree.view().is_none() {
            return Err(proofs::tree_error(inner.tree.state(), position.0));
        }
        let mut last = inner.on_demand.lock().await;
        if let Some(kept) = inner.kept.covering(position.0) {
            return Ok(kept);
        }
        if let Some(last) = *last {
            tokio::time::sleep_until(last + ON_DEMAND_EVERY).await;
        }
        let view = proofs::tree_of(&inner.tree, position.0).await?;
        // Also if it fails, or if the caller does not wait for it.
        *last = Some(Instant::now());
        inner.clone().make(view).await
    }

    /// Returns how publishing goes.
    pub(crate) fn status(&self) -> TransparencyStatus {
        TransparencyStatus { problem: self.0.problem(), anchors: self.0.anchors.statuses() }
    }
}

/// Returns the generations, the checkpoints that hold for them, and why nothing may be signed.
fn load(log_path: &Path) -> (Generations, KeptCheckpoints, Option<NoKey>) {
    let (mut generations, unreadable) = match Generations::load(log_path) {
        Ok(generations) => (generations, None),
        Err(error) => (Generations::default(), Some(generations_error(log_path, error))),
    };
    let kept = KeptCheckpoints::open(log_path, &generations);
    let later = kept.last_generation().filter(|last| unreadable.is_none() && *last > generations.current());
    let Some(number) = later else { return (generations, kept, unreadable) };
    // To sign for an earlier generation again would be to sign two histories. Up to where it agrees
    // with this one is not known any longer.
    warn!(generation = number, "the file of the generations was lost; the last one goes on");
    generations.go_on_with(number, 0);
    let saved = generations.save(log_path);
    let kept = KeptCheckpoints::open(log_path, &generations);
    (generations, kept, saved.err().map(|error| generations_error(log_path, error)))
}

fn generations_error(log_path: &Path, error: io::Error) -> NoKey {
    NoKey::Generations { path: generations::path(log_path), source: Arc::new(error) }
}

fn signer(keys: &Result<Keys, NoKey>, generations: &Generations) -> Result<Arc<Signer>, NoKey> {
    let keys = keys.as_ref().map_err(NoKey::clone)?;
    Ok(Arc::new(keys.signer(generations.current()).map_err(NoKey::Key)?))
}

impl Inner {
    fn signing(&self) -> MutexGuard<'_, Signing> {
        self.signing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a checkpoint of this tree, unless there is one. Goes on if the caller does not wait.
    async fn make(self: Arc<Self>, view: TreeView) -> Result<Arc<KeptCheckpoint>, TransparencyError> {
        let made = spawn_blocking(move || self.sign_and_keep(&view)).await;
        made.map_err(|_| TransparencyError::Panicked)?
    }

    /// Blocks on the disk.
    fn sign_and_keep(&self, view: &TreeView) -> Result<Arc<KeptCheckpoint>, TransparencyError> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let size = view.size();
        let (signer, extensions) = self.may_sign(size)?;
        let newest = self.kept.newest();
        if let Some(newest) = &newest {
            let kept = newest.checkpoint.size();
            if kept == size && newest.generation == signer.generation {
                return Ok(newest.clone());
            }
            // To sign less than before would be to take something back.
            if kept > size {
                return Err(TransparencyError::TreeNotReady { size, of: kept });
            }
        }
        let checkpoint = Checkpoint::new(signer.verifier().name(), size, view.root(), extensions)?;
        let note = signer.sign(checkpoint.to_text(), newest.as_deref().map(|kept| &kept.note))?;
        let kept = KeptCheckpoint {
            checkpoint,
            note,
            made_at: Timestamp::now(),
            anchored: false,
            certificate: None,
            generation: signer.generation,
        };
        self.note_published().map_err(TransparencyError::NotKept)?;
        let kept = self.kept.keep(kept).map_err(TransparencyError::NotKept)?;
        CrashPoint::CheckpointKept.reached();
        Ok(kept)
    }

    /// Records durably that the generation has a checkpoint. Called while one is made.
    fn note_published(&self) -> io::Result<()> {
        let mut generations = self.signing().generations.clone();
        if std::mem::replace(&mut generations.published, true) {
            return Ok(());
        }
        generations.save(&self.log_path)?;
        self.signing().generations = generations;
        Ok(())
    }

    /// Returns the keys, and the lines that the next checkpoint has to have.
    fn may_sign(&self, size: u64) -> Result<(Arc<Signer>, Vec<String>), TransparencyError> {
        let signing = self.signing();
        match &signing.gate {
            Gate::Open => {}
            Gate::NotCompared => {
                signing.signer.as_ref().map_err(NoKey::clone)?;
                return Err(TransparencyError::TreeNotReady { size: 0, of: size });
            }
            Gate::Closed(why) => return Err(why.clone().into()),
        }
        let signer = signing.signer.clone()?;
        let is_first = !self.kept.has_generation(signer.generation);
        let extensions = if is_first { signing.generations.extensions() } else { Vec::new() };
        Ok((signer, extensions))
    }

    /// Returns why nothing is signed until an operator has done something.
    fn problem(&self) -> Option<NoKey> {
        let signing = self.signing();
        let why = match &signing.gate {
            Gate::Closed(why) => Some(why),
            Gate::NotCompared | Gate::Open => signing.signer.as_ref().err(),
        };
        why.filter(|why| !matches!(why, NoKey::Disabled)).cloned()
    }

    /// Allows checkpoints, unless something has been found against them.
    fn open_gate(&self) {
        let mut signing = self.signing();
        if matches!(signing.gate, Gate::NotCompared) {
            signing.gate = Gate::Open;
        }
    }

    /// Ends checkpoints until an operator has done something.
    fn close_gate(&self, why: NoKey) {
        warn!(error = %why, "no checkpoints are signed, and there are no new proofs");
        self.signing().gate = Gate::Closed(why);
    }

    /// Returns whether the log was empty, so that it may lack what was published.
    fn may_lack_events(&self) -> bool {
        self.is_copy.load(Ordering::Acquire)
    }

    /// Changes the generations durably. If they cannot be saved, nothing is signed any longer.
    async fn change_generations(self: &Arc<Self>, change: impl FnOnce(&mut Generations) + Send + 'static) {
        let inner = self.clone();
        if let Err(error) = spawn_blocking(move || inner.change_generations_now(change)).await {
            self.close_gate(generations_error(&self.log_path, io::Error::other(error)));
        }
    }

    /// Same as [`Self::change_generations`]. Blocks on the disk.
    fn change_generations_now(&self, change: impl FnOnce(&mut Generations)) {
        // No checkpoint of the generation that ends is kept after that. As this is the only place
        // that changes them, they stay as they are without the other lock, which nobody holds while
        // the disk is written to.
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.signing().generations.clone();
        let mut generations = before.clone();
        change(&mut generations);
        if generations == before {
            return;
        }
        if let Err(error) = generations.save(&self.log_path) {
            self.close_gate(generations_error(&self.log_path, error));
            return;
        }
        let mut signing = self.signing();
        if generations.current() != before.current() {
            info!(generation = generations.current(), "a generation of the history has begun");
            signing.signer = signer(&self.keys, &generations);
            self.kept.retain(&generations);
        }
        signing.generations = generations;
    }

    /// Returns whether the witness with this key may have cosigned what the log lacks: not if it
    /// has cosigned a checkpoint of the log since.
    fn may_lack_events_of(&self, witness: &str) -> bool {
        self.may_lack_events() && !self.signing().generations.witnessed.contains(witness)
    }

    /// Records which witness has cosigned a checkpoint, if one has: it has nothing that this
    /// history lacks. Nor has any, if all of them have.
    async fn note_witnessed(self: &Arc<Self>, witness: Option<&str>) {
        if !self.may_lack_events() {
            return;
        }
        let (witness, is_last) = (witness.map(str::to_owned), self.anchors.all_witnesses_reached());
        let change = move |generations: &mut Generations| {
            generations.witnessed.extend(witness);
            generations.unwitnessed &= !is_last;
        };
        self.change_generations(change).await;
    }
}
