//! A witness, which cosigns each checkpoint that continues those before it.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::task::spawn_blocking;

use super::super::{
    Inner, KeptCheckpoint,
    generations::{Generation, Generations},
};
use crate::{
    history::HistoryError,
    merkle::Hash,
    proof::{CosignatureError, KeyError, SignedNote, VerifierKey},
    replication::state::State,
    tree::TreeError,
    witness::{Client, ClientError, WitnessError, WitnessSettings},
};

/// How long the witness may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// The HTTP status of a proof of consistency that does not lead from the checkpoint of the witness
/// to ours.
const NOT_CONSISTENT: u16 = 422;

/// Why a witness has not cosigned a checkpoint.
#[derive(Debug, thiserror::Error)]
pub(super) enum WitnessAnchorError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Witness(#[from] WitnessError),
    #[error(transparent)]
    Cosignature(#[from] CosignatureError),
    #[error("the proof of consistency cannot be made: {0}")]
    Tree(#[from] TreeError<HistoryError>),
    #[error("there is no tree to prove consistency with")]
    NoTree,
    /// A newer checkpoint of ours follows, or the log does not have all events yet.
    #[error("the witness has cosigned a checkpoint of {size} events already")]
    Ahead { size: u64 },
    /// The witness has another history under the same origin.
    #[error("the witness has {expected}, but this history has {found}")]
    OtherHistory { size: u64, expected: String, found: String },
}

/// A witness, and what it is known to have.
#[derive(Debug)]
pub(super) struct WitnessAnchor {
    url: String,
    key: String,
    ca_file: Option<PathBuf>,
    client: Option<(Client, VerifierKey)>,
    /// The generation and the size of the newest checkpoint that it has cosigned.
    cosigned: Option<(u64, u64)>,
}

impl WitnessAnchor {
    pub(super) fn new(url: String, key: String, ca_file: Option<PathBuf>) -> Self {
        Self { url, key, ca_file, client: None, cosigned: None }
    }

    /// Lets the witness cosign a checkpoint. Returns the note with the cosignature.
    pub(super) async fn publish(
        &mut self,
        inner: &Arc<Inner>,
        kept: &KeptCheckpoint,
    ) -> Result<SignedNote, WitnessAnchorError> {
        /// The witness may tell its size once, and again if another service uses the same origin.
        const ATTEMPTS_MAX: usize = 3;
        let (client, key) = self.client()?;
        let size = kept.checkpoint.size();
        let mut old =
            self.cosigned.filter(|(generation, _)| *generation == kept.generation).map_or(0, |(_, old)| old);
        let mut last = None;
        for _ in 0..ATTEMPTS_MAX {
            let proof = consistency(inner, old, size).await?;
            match client.add_checkpoint(old, &proof, &kept.note).await {
                Ok(cosignature) => {
                    let mut note = kept.note.clone();
                    note.add_cosignature(cosignature.lines.as_bytes(), &key)?;
                    self.cosigned = Some((kept.generation, size));
                    return Ok(note);
                }
                // It has the size that we said, so it has another root.
                Err(WitnessError::OtherSize { size: theirs }) if theirs == old && old == size => {
                    return Err(other_root(inner, &self.key, kept, old).await);
                }
                Err(WitnessError::OtherSize { size: theirs }) if theirs > size => {
                    return Err(longer(inner, &self.key, kept, theirs).await);
                }
                // Without an earlier checkpoint, there is nothing to be inconsistent with.
                Err(WitnessError::Refused { status: NOT_CONSISTENT, .. }) if old > 0 => {
                    return Err(other_root(inner, &self.key, kept, old).await);
                }
                Err(WitnessError::OtherSize { size: theirs }) => {
                    last = Some(WitnessError::OtherSize { size: theirs });
                    old = theirs;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.map_or(WitnessAnchorError::Ahead { size: old }, WitnessAnchorError::Witness))
    }

    fn client(&mut self) -> Result<(Client, VerifierKey), WitnessAnchorError> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let key = VerifierKey::parse(&self.key)?;
        let client = Client::new(WitnessSettings {
            url: self.url.clone(),
            key: key.clone(),
            ca_file: self.ca_file.clone(),
            timeout: ANSWER_MAX,
        })?;
        Ok(self.client.insert((client, key)).clone())
    }
}

/// Returns the proof that the tree of `new` leaves continues that of `old` ones.
async fn consistency(inner: &Arc<Inner>, old: u64, new: u64) -> Result<Vec<Hash>, WitnessAnchorError> {
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let view = inner.tree.view().ok_or(WitnessAnchorError::NoTree)?;
    let inner = inner.clone();
    let proof = spawn_blocking(move || view.consistency(old, new, &inner.history)).await;
    Ok(proof.map_err(|_| WitnessAnchorError::NoTree)??)
}

/// Judges a witness that has cosigned another checkpoint of `size` events. If the log is a copy
/// that lacked them, events that were appended since are in their places.
async fn other_root(
    inner: &Arc<Inner>,
    witness: &str,
    kept: &KeptCheckpoint,
    size: u64,
) -> WitnessAnchorError {
    // Read first: another witness may begin the generation meanwhile.
    let is_copy = inner.may_lack_events_of(witness);
    let has_copied = inner.replication.restored().is_none_or(|restored| size <= restored.0);
    if is_outdated(inner, kept) {
        return WitnessAnchorError::Ahead { size };
    }
    if is_copy && !has_copied {
        return begin_generation(inner, kept, size).await;
    }
    WitnessAnchorError::OtherHistory {
        size,
        expected: format!("another root for {size} events"),
        found: "a root that does not continue it".to_owned(),
    }
}

/// Judges a witness that has cosigned a larger checkpoint than ours. It is one of ours, if the log
/// has that many events. If the log is a copy that lacks them, a generation begins, with an origin
/// that is new to the witness.
async fn longer(inner: &Arc<Inner>, witness: &str, kept: &KeptCheckpoint, theirs: u64) -> WitnessAnchorError {
    // Read first: another witness may begin the generation meanwhile.
    let is_copy = inner.may_lack_events_of(witness);
    let events = inner.tip.borrow().position.0;
    let may_grow = matches!(inner.replication.state(), State::Starting | State::Copying | State::Fallback);
    if theirs <= events || may_grow || is_outdated(inner, kept) {
        return WitnessAnchorError::Ahead { size: theirs };
    }
    if is_copy {
        return begin_generation(inner, kept, theirs).await;
    }
    let expected = format!("{theirs} events");
    WitnessAnchorError::OtherHistory { size: theirs, expected, found: format!("{events} events") }
}

/// Returns whether a generation has begun since the checkpoint was made.
fn is_outdated(inner: &Inner, kept: &KeptCheckpoint) -> bool {
    inner.signing().generations.current() != kept.generation
}

/// Begins a generation because the witness has cosigned events that the copy lacks. Both agree up
/// to what was copied.
async fn begin_generation(inner: &Arc<Inner>, kept: &KeptCheckpoint, theirs: u64) -> WitnessAnchorError {
    let agreed = inner.replication.restored().map(|restored| restored.0.min(kept.checkpoint.size()));
    let (number, last) = (kept.generation, kept.checkpoint.clone());
    let begin = move |generations: &mut Generations| {
        // Another witness may have begun it.
        if generations.current() == number {
            generations.push(number, Generation::after_copy(agreed), Some(&last));
        }
        generations.unwitnessed = false;
    };
    inner.change_generations(begin).await;
    // Once: no witness knows the origin of the new generation.
    inner.is_copy.store(false, Ordering::Release);
    WitnessAnchorError::Ahead { size: theirs }
}
