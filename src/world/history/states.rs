//! Stored states of aggregates, so that a load need not start at the first event.
//!
//! States are derived data. A file that is missing, damaged, or of another version or history is
//! ignored, and written again after a load that replayed many events. The chain hash in each file
//! identifies the event that led to the state. Clients cannot write these files.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::{debug, warn};

use crate::{
    event::{AggregateId, ChainHash, Position, SequenceNumber, Timestamp},
    event_files::folder::read_file,
    world::{
        model::{aggregate::Aggregate, size},
        rules::capacity::SIZE_MAX,
    },
};

/// The number of replayed events from which on a load stores the state.
pub const REPLAYED: u64 = 100;
/// The maximum number of states waiting to be written. A state beyond that is dropped, and stored
/// after a later load.
const WAITING_MAX: usize = 16;
/// The maximum size of a file. States larger than the commands allow are not stored, and all others
/// are smaller than this as JSON.
const BYTES_MAX: u64 = 4 << 20;
/// Contains the version of the format. Increment it with every change to the aggregates.
const MAGIC: &[u8; 16] = b"aethyr-state\0\0\0\x03";
const CHECKSUM_BYTES: usize = 32;

/// An aggregate after one of its events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AggregateState {
    /// The aggregate after the event.
    pub aggregate: Aggregate,
    /// The sequence number of the event, which may be an excluded one.
    pub sequence: u64,
    /// When the first event that counts was recorded.
    pub created_at: Timestamp,
    /// When the event was recorded.
    pub updated_at: Timestamp,
}

/// A state, with the position and the chain hash of the event that led to it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredState {
    /// The state.
    pub state: AggregateState,
    /// The position of the event.
    pub position: Position,
    /// The chain hash of the event.
    pub hash: ChainHash,
}

/// The JSON form of [`StoredState`].
#[derive(Serialize, Deserialize)]
struct StateFile {
    state: AggregateState,
    position: u64,
    hash: [u8; 32],
}

/// The stored states. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StateStore {
    folder: PathBuf,
    /// `None` if there is no writer thread. No states are stored then.
    due: Option<Sender<StoredState>>,
    waiting: Arc<AtomicUsize>,
}

impl StateStore {
    /// Starts the writer thread, which ends when the last clone is dropped.
    pub fn start(folder: PathBuf) -> Self {
        let (sender, due) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let (writing, taken) = (folder.clone(), waiting.clone());
        let write_all = move || write_all(&writing, &due, &taken);
        let started = thread::Builder::new().name("states".to_owned()).spawn(write_all);
        if let Err(error) = &started {
            warn!(%error, "cannot start the state writer thread; object states are not stored, and every \
             load replays all events");
        }
        Self { folder, due: started.ok().map(|_| sender), waiting }
    }

    /// Returns the stored state of an aggregate if the file is intact. It may belong to another
    /// history.
    pub fn find(&self, id: &AggregateId) -> Option<StoredState> {
        let path = path(&self.folder, id);
        if fs::metadata(&path).ok()?.len() > BYTES_MAX {
            return None;
        }
        // Does not block the load, whatever kind of file this is.
        let kept = decode(&read_file(&path).ok()?)?;
        (kept.state.aggregate.object().id == *id).then_some(kept)
    }

    /// Queues a state for writing, or drops it if it is too large or too many are waiting. Never
    /// blocks.
    pub fn keep(&self, kept: &StoredState) {
        let Some(due) = &self.due else { return };
        let room = |waiting| (waiting < WAITING_MAX).then_some(waiting + 1);
        if size::of(&kept.state.aggregate) > SIZE_MAX
            || self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_err()
        {
            return;
        }
        let _ended = due.send(kept.clone());
    }

    /// Removes a stored state that differs from the result of a replay.
    ///
    /// # Errors
    /// Returns an error if the file could not be removed.
    pub fn remove(&self, id: &AggregateId) -> io::Result<()> {
        match fs::remove_file(path(&self.folder, id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl StoredState {
    /// Returns the sequence number of the event that led to the state.
    pub fn sequence(&self) -> SequenceNumber {
        SequenceNumber(self.state.sequence)
    }
}

fn write_all(folder: &Path, due: &Receiver<StoredState>, waiting: &AtomicUsize) {
    for kept in due {
        waiting.fetch_sub(1, Ordering::AcqRel);
        let id = kept.state.aggregate.object().id.clone();
        if let Err(error) = write(folder, kept) {
            debug!(aggregate = %id, %error, "cannot store the state of an object");
        }
    }
}

/// Writes without syncing: a file torn by a crash fails its checksum.
fn write(folder: &Path, kept: StoredState) -> io::Result<()> {
    let path = path(folder, &kept.state.aggregate.object().id);
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    let partial = path.with_extension("partial");
    fs::write(&partial, encode(kept)?)?;
    fs::rename(partial, path)
}

/// Names the file by a digest, because an id may be longer than a file name.
fn path(folder: &Path, id: &AggregateId) -> PathBuf {
    let digest = hex::encode(Sha256::digest(id.as_str()));
    let (first, rest) = digest.split_at(2);
    folder.join(first).join(rest)
}

/// Encodes the version, the checksum of the rest, and the state as JSON.
pub(crate) fn encode(kept: StoredState) -> io::Result<Vec<u8>> {
    let StoredState { state, position, hash } = kept;
    let json = serde_json::to_vec(&StateFile { state, position: position.0, hash: hash.0 })?;
    let mut bytes = Vec::with_capacity(MAGIC.len() + CHECKSUM_BYTES + json.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&Sha256::digest(&json));
    bytes.extend_from_slice(&json);
    Ok(bytes)
}

pub(crate) fn decode(bytes: &[u8]) -> Option<StoredState> {
    let (checksum, json) = bytes.strip_prefix(MAGIC)?.split_at_checked(CHECKSUM_BYTES)?;
    if Sha256::digest(json).as_slice() != checksum {
        return None;
    }
    let StateFile { state, position, hash } = serde_json::from_slice(json).ok()?;
    Some(StoredState { state, position: Position(position), hash: ChainHash(hash) })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::world::model::game_object::GameObject;

    fn kept(id: &str, sequence: u64) -> StoredState {
        let object = GameObject {
            id: AggregateId::new(id).unwrap(),
            class: "Thing".into(),
            generic: String::new(),
            container_id: None,
            attributes: [("n".to_owned(), sequence.into())].into(),
            inventory: Default::default(),
            equipment: Default::default(),
            deleted: false,
        };
        let aggregate = Aggregate::GameObject(object);
        let (created_at, updated_at) = (Timestamp::default(), Timestamp::now());
        let state = AggregateState { aggregate, sequence, created_at, updated_at };
        StoredState { state, position: Position(sequence + 5), hash: ChainHash::START.chain(b"x") }
    }

    #[test]
    fn what_is_kept_is_found_again_and_what_is_not_whole_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let states = StateStore::start(dir.path().join("states"));
        let long = "ä".repeat(120);
        for id in ["t", &long, "../t"] {
            let id = AggregateId::new(id).unwrap();
            assert_eq!(states.find(&id), None);
            for sequence in [100, 200] {
                write(&states.folder, kept(id.as_str(), sequence)).unwrap();
                assert_eq!(states.find(&id), Some(kept_at(&states, &id, sequence)));
            }
            let path = path(&states.folder, &id);
            let whole = fs::read(&path).unwrap();
            for at in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 1;
                fs::write(&path, &damaged).unwrap();
                assert_eq!(states.find(&id), None, "byte {at}");
                fs::write(&path, &whole[..at]).unwrap();
                assert_eq!(states.find(&id), None, "{at} bytes");
            }
            // The file of another aggregate, under the name of this one.
            let other = AggregateId::new("other").unwrap();
            write(&states.folder, kept("other", 1)).unwrap();
            fs::copy(super::path(&states.folder, &other), &path).unwrap();
            assert_eq!(states.find(&id), None);
            states.remove(&id).unwrap();
            states.remove(&id).unwrap();
            // A FIFO without a writer.
            assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
            assert_eq!(states.find(&id), None);
        }
    }

    fn kept_at(states: &StateStore, id: &AggregateId, sequence: u64) -> StoredState {
        let found = states.find(id).unwrap();
        assert_eq!((found.sequence(), found.position), (SequenceNumber(sequence), Position(sequence + 5)));
        assert_eq!(found.state.aggregate, kept(id.as_str(), sequence).state.aggregate);
        found
    }

    #[test]
    fn more_than_can_wait_is_left_out() {
        let (sender, due) = channel();
        let states = StateStore { folder: PathBuf::new(), due: Some(sender), waiting: Arc::default() };
        for sequence in 1..=20 {
            states.keep(&kept("t", sequence));
        }
        let mut heavy = kept("t", 1);
        if let Aggregate::GameObject(object) = &mut heavy.state.aggregate {
            object.attributes.insert("long".into(), "x".repeat(SIZE_MAX).into());
        }
        states.waiting.store(0, Ordering::Release);
        states.keep(&heavy);
        drop(states);
        let sequences: Vec<u64> = due.iter().map(|kept| kept.state.sequence).collect();
        assert_eq!(sequences, (1..=WAITING_MAX as u64).collect::<Vec<_>>());
    }
}
