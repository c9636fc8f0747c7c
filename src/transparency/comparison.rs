//! Compares the history with the checkpoints that others have of it, and with the kept ones.
//!
//! Nothing is signed before that. A checkpoint that the history does not continue is reported, and
//! no further one is signed. What is out of reach is compared when it is back.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    Inner, NoKey,
    anchors::notes,
    generations::{Generation, Generations},
    key::{Keys, Origin},
};
use crate::{
    event::Position,
    immudb::{self, Session, SessionSettings},
    merkle::Hash,
    proof::{Checkpoint, KeyId, SignedNote},
    refusals,
    replication::{reports::Report, state::State, tampering::Condition},
    tree::{Leaves, TreeError, TreeView},
};

/// How long to wait before what is out of reach is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// How long to wait for a tree that is being built.
const TREE_MAX: Duration = Duration::from_secs(60);
/// How long to wait for a file. A network file system may not answer at all.
const READ_MAX: Duration = Duration::from_secs(10);
/// How much of a file is read, from its end.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// What the key of a checkpoint in ImmuDB begins with. The size follows, in 20 digits.
const KEY_PREFIX: &[u8] = b"checkpoint:";
const SIZE_DIGITS: usize = 20;

/// The places that have not been compared yet.
#[derive(Debug)]
pub(super) struct Places {
    /// The kept checkpoints.
    pub own: bool,
    pub files: Vec<FilePlace>,
    pub immudb: Option<SessionSettings>,
    /// ImmuDB has checkpoints of this history.
    pub were_published: bool,
}

impl Places {
    /// Returns whether an anchor that is out of reach may have a checkpoint of events that a new
    /// copy of the log lacks. To sign others under the same origin would be to sign two histories.
    pub(super) fn may_have_more(&self, inner: &Inner) -> bool {
        let is_new_copy = inner.signing().generations.copied && inner.kept.newest().is_none();
        is_new_copy && self.were_published && !self.files.is_empty()
    }
}

/// A file that checkpoints are published to.
#[derive(Debug)]
pub(super) struct FilePlace {
    /// The number of the anchor.
    number: usize,
    path: PathBuf,
    /// A read that has not ended yet. No other one is started: each of them takes a thread.
    reading: Option<JoinHandle<io::Result<Vec<SignedNote>>>>,
}

impl FilePlace {
    pub(super) fn new(number: usize, path: PathBuf) -> Self {
        Self { number, path, reading: None }
    }

    /// Reads the checkpoints in the file. Does not wait long for a file that does not answer.
    async fn read(&mut self, limit: Duration) -> io::Result<Vec<SignedNote>> {
        let path = self.path.clone();
        let reading =
            self.reading.get_or_insert_with(|| spawn_blocking(move || notes::read(&path, FILE_BYTES_MAX)));
        let read = timeout(limit, reading).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        self.reading = None;
        read.map_err(io::Error::other)?
    }
}

/// What is known of the history before a comparison.
#[derive(Debug, Clone, Copy)]
struct Known<'k> {
    keys: &'k Keys,
    generations: &'k Generations,
    /// The log does not get any events that it lacks.
    is_complete: bool,
    /// Where the log ended when it had been copied from ImmuDB.
    restored: Option<Position>,
}

impl Known<'_> {
    /// Returns whether the last events of this size may be others than those that were published:
    /// the log is a copy that lacked them, and events were appended since.
    fn may_be_others(&self, size: u64) -> bool {
        self.generations.copied && self.restored.is_some_and(|restored| size > restored.0)
    }
}

/// What a comparison has found.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Agrees,
    /// The log may yet get the events that it lacks.
    Undecided,
    /// It agrees, and belongs to a generation that this service has forgotten.
    LaterGeneration {
        number: u64,
        size: u64,
    },
    /// The log is a copy that lacks what was published.
    Shortened {
        generation: u64,
        last: Checkpoint,
        agreed: Option<u64>,
    },
    /// The history does not continue the checkpoint. It has the root `found` at its size, or fewer
    /// events.
    Contradicted {
        checkpoint: Checkpoint,
        found: Option<Hash>,
    },
    OtherKey {
        name: String,
        id: KeyId,
    },
}

/// Compares the tree with the notes of one place, the newest of which is the last one.
fn compare<L: Leaves>(
    known: Known<'_>,
    notes: &[SignedNote],
    view: &TreeView,
    leaves: &L,
) -> Result<Verdict, TreeError<L::Error>> {
    let Known { keys, generations, is_complete, .. } = known;
    let mut lacking: Option<(u64, Checkpoint)> = None;
    for (age, note) in notes.iter().rev().enumerate() {
        let (generation, checkpoint) = match keys.origin(note) {
            Origin::Own { generation, checkpoint } => (generation, checkpoint),
            Origin::OtherKey { name, id } if age == 0 && !keys.may_be_new() => {
                return Ok(Verdict::OtherKey { name, id });
            }
            Origin::OtherKey { .. } => continue,
        };
        let size = checkpoint.size();
        // What an operator has discarded is no contradiction.
        if size > generations.limit(generation) {
            continue;
        }
        if size <= view.size() {
            let root = view.root_at(size, leaves)?;
            let is_same = root == *checkpoint.root();
            if is_same || !known.may_be_others(size) {
                return Ok(match lacking {
                    _ if !is_same => Verdict::Contradicted { checkpoint, found: Some(root) },
                    Some((generation, last)) => Verdict::Shortened { generation, last, agreed: Some(size) },
                    None if generation > generations.current() => {
                        Verdict::LaterGeneration { number: generation, size }
                    }
                    None => Verdict::Agrees,
                });
            }
        } else if !is_complete {
            return Ok(Verdict::Undecided);
        } else if !generations.copied {
            return Ok(Verdict::Contradicted { checkpoint, found: None });
        }
        // An older one shows up to where both agree.
        lacking.get_or_insert((generation, checkpoint));
    }
    Ok(match lacking {
        Some((generation, last)) => Verdict::Shortened { generation, last, agreed: None },
        None => Verdict::Agrees,
    })
}

/// Compares the history with all places, until each was within reach once.
pub(super) async fn run(inner: Arc<Inner>, mut left: Places) {
    let mut states = inner.replication.watch_state();
    let mut is_reported = false;
    loop {
        let state = *states.borrow_and_update();
        if !matches!(state, State::Starting | State::Copying) && inner.whole_tree().await.is_some() {
            let is_decided = inner.compare_places(&mut left, state).await;
            // The first checkpoint of a log whose disk was lost is not made before ImmuDB was asked
            // for earlier ones.
            let is_key_known = left.immudb.is_none() || inner.kept.newest().is_some();
            let is_in_reach = matches!(state, State::Connected | State::Migrating);
            // Without its events, the log would go on with another history under the same origin.
            let may_be_other = state == State::Fallback && inner.may_lack_events();
            if is_decided && left.may_have_more(&inner) {
                if !std::mem::replace(&mut is_reported, true) {
                    warn!(
                        "no checkpoints are signed: the log is a copy from ImmuDB, and a file with earlier \
                         ones cannot be read (proof.anchors)"
                    );
                }
            } else if is_decided && (is_key_known || !(is_in_reach || may_be_other)) {
                inner.open_gate();
            }
            if !left.own && left.files.is_empty() && left.immudb.is_none() {
                inner.change_generations(|generations| generations.copied = false).await;
                // There may be none.
                inner.note_witnessed(None).await;
                return;
            }
        }
        _ = timeout(AGAIN, states.changed()).await;
    }
}

impl Inner {
    /// Returns the tree of all events, or `None` if there is none soon.
    async fn whole_tree(&self) -> Option<TreeView> {
        let events = self.tip.borrow().position.0;
        self.tree.wait_for(events, TREE_MAX).await
    }

    /// Compares the places that are within reach, and removes those that are decided. Returns
    /// whether all of them are.
    async fn compare_places(self: &Arc<Self>, left: &mut Places, state: State) -> bool {
        // A copy that was not made, or that an operator may exchange, gets further events.
        let is_empty = self.tip.borrow().position == Position(0);
        let is_unfinished = self.may_lack_events() && (is_empty || state == State::Fenced);
        let is_complete = state != State::Fallback && !is_unfinished;
        let mut is_decided = true;
        if left.own {
            let newest = self.kept.newest();
            let notes = newest.map(|kept| kept.note.clone()).into_iter().collect();
            left.own = !self.compare_with("log.checkpoints", notes, is_complete).await;
            is_decided &= !left.own;
        }
        for mut file in std::mem::take(&mut left.files) {
            let is_compared = match file.read(READ_MAX).await {
                Ok(notes) => {
                    let place = file.path.display().to_string();
                    let is_compared = self.compare_with(&place, notes, is_complete).await;
                    is_decided &= is_compared;
                    is_compared
                }
                Err(error) => {
                    self.anchors.failed(file.number, &error);
                    false
                }
            };
            if is_compared {
                self.anchors.compared(file.number);
            } else {
                left.files.push(file);
            }
        }
        if matches!(state, State::Connected | State::Migrating)
            && let Some(settings) = &left.immudb
        {
            match newest_in_immudb(settings).await {
                Ok(notes) => {
                    left.were_published |= !notes.is_empty();
                    if self.compare_with("ImmuDB", notes, is_complete).await {
                        left.immudb = None;
                    } else {
                        is_decided = false;
                    }
                }
                Err(error) => debug!(%error, "cannot read the checkpoints in ImmuDB"),
            }
        }
        is_decided
    }

    /// Compares the history with the notes of one place. Returns whether that is decided.
    async fn compare_with(self: &Arc<Self>, place: &str, notes: Vec<SignedNote>, is_complete: bool) -> bool {
        // Only now: while the notes were read, this service may have published a newer one.
        let Some(view) = self.whole_tree().await else { return false };
        let inner = self.clone();
        let compared = spawn_blocking(move || {
            let keys = inner.keys.as_ref().ok()?;
            let generations = inner.signing().generations.clone();
            let restored = inner.replication.restored();
            let known = Known { keys, generations: &generations, is_complete, restored };
            Some(compare(known, &notes, &view, &inner.history))
        });
        match compared.await {
            Ok(Some(Ok(Verdict::Undecided))) | Ok(None) | Err(_) => false,
            Ok(Some(Ok(verdict))) => {
                self.act_on(place, verdict).await;
                true
            }
            Ok(Some(Err(error))) => {
                refusals::failed("cannot compare the history with its checkpoints", &error);
                false
            }
        }
    }

    async fn act_on(self: &Arc<Self>, place: &str, verdict: Verdict) {
        match verdict {
            Verdict::Agrees | Verdict::Undecided => {}
            Verdict::LaterGeneration { number, size } => {
                self.change_generations(move |generations| generations.go_on_with(number, size)).await;
            }
            Verdict::Shortened { generation, last, agreed } => {
                warn!(
                    place,
                    published = last.size(),
                    agreed,
                    "the copy from ImmuDB lacks events that were published"
                );
                self.change_generations(move |generations| {
                    generations.push(generation, Generation::after_copy(agreed), Some(&last));
                })
                .await;
            }
            Verdict::Contradicted { checkpoint, found } => {
                self.contradicted(place, &checkpoint, found).await;
            }
            Verdict::OtherKey { name, id } => {
                self.close_gate(NoKey::OtherKey { place: place.to_owned(), name, id });
            }
        }
    }

    /// Reports a checkpoint that the history does not continue, and signs nothing any longer.
    async fn contradicted(&self, place: &str, checkpoint: &Checkpoint, found: Option<Hash>) {
        let (size, root) = (checkpoint.size(), hex::encode(checkpoint.root()));
        let found = match found {
            Some(root) => format!("the root {}", hex::encode(root)),
            None => format!("{} events", self.tip.borrow().position),
        };
        self.report(place, size, format!("{size} events with the root {root}"), found).await;
    }

    /// Reports that a place has another history of `size` events.
    pub(super) async fn report(&self, place: &str, size: u64, expected: String, found: String) {
        self.close_gate(NoKey::Contradicted { place: place.to_owned(), size });
        let condition = Condition::AnchorDiffers;
        let finding = condition.finding(expected, found).of_key(place.as_bytes());
        self.reports.send(Report { condition, finding }).await;
    }
}

/// Returns the checkpoint with the largest size in ImmuDB, if there is one.
async fn newest_in_immudb(settings: &SessionSettings) -> Result<Vec<SignedNote>, immudb::Error> {
    let session = Session::open_existing(settings).await?;
    let found = newest_note(&session).await;
    session.close().await;
    Ok(found?.into_iter().collect())
}

async fn newest_note(session: &Session) -> Result<Option<SignedNote>, immudb::Error> {
    if session.scan_keys(KEY_PREFIX, 1).await?.is_empty() {
        return Ok(None);
    }
    // Keys are returned in ascending order only, so the largest one is found digit by digit.
    let mut key = KEY_PREFIX.to_vec();
    'digits: for _ in 0..SIZE_DIGITS {
        for digit in (b'0'..=b'9').rev() {
            key.push(digit);
            if !session.scan_keys(&key, 1).await?.is_empty() {
                continue 'digits;
            }
            key.pop();
        }
        return Ok(None);
    }
    let entry = session.get(&key).await?;
    // What is no note is a foreign value, which the forwarder reports.
    Ok(entry.and_then(|entry| SignedNote::parse(&entry.value).ok()))
}

#[cfg(test)]
mod tests;
