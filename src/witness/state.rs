//! The file with the newest checkpoint of each log that a witness has cosigned.
//!
//! It is replaced as a whole, so a crash leaves the old contents or the new ones. A damaged file
//! stops the witness: without it, the witness would sign another history.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    durable_file::{extended, replace},
    proof::Hash,
};

const FORMAT: u32 = 1;

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another witness uses the file.
    #[error("{path}: the state is used by another process")]
    Locked {
        /// The file of the state.
        path: PathBuf,
    },
    /// The file cannot be read, locked or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The contents of the file are not those that were written.
    #[error("{path}: the state is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
}

/// The newest checkpoint of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cosigned {
    pub size: u64,
    pub root: Hash,
    /// The checkpoint with the signatures by the log and the cosignature.
    pub note: String,
}

/// The state. No other process can open it until it is dropped.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    /// By origin.
    newest: BTreeMap<String, Cosigned>,
    _lock: File,
}

/// The file: one JSON document, which an operator can read.
#[derive(Serialize, Deserialize)]
struct Document<'d> {
    /// CRC-32C of the text of `state`. A flipped bit in a root must not look like another history.
    crc32c: u32,
    #[serde(borrow)]
    state: &'d RawValue,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    format: u32,
    logs: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    origin: String,
    size: u64,
    root: String,
    checkpoint: String,
}

impl StateFile {
    /// Locks and reads the state. Creates the file if there is none.
    pub(super) fn open(path: &Path) -> Result<Self, StateError> {
        let path = resolved(path).map_err(|source| io_error(path, source))?;
        let lock = lock(&path)?;
        let newest = match fs::read(&path) {
            Ok(bytes) => {
                parse(&bytes).map_err(|reason| StateError::Damaged { path: path.clone(), reason })?
            }
            // A file that is missing later was lost.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let created = encode(&BTreeMap::new()).and_then(|bytes| replace(&path, &bytes));
                created.map_err(|source| io_error(&path, source))?;
                BTreeMap::new()
            }
            Err(source) => return Err(io_error(&path, source)),
        };
        Ok(Self { path, newest, _lock: lock })
    }

    /// Returns the newest checkpoint of a log, or `None` if there was none yet.
    pub(super) fn newest(&self, origin: &str) -> Option<&Cosigned> {
        self.newest.get(origin)
    }

    /// Returns the newest checkpoint of each log, by origin.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &Cosigned)> {
        self.newest.iter().map(|(origin, cosigned)| (origin.as_str(), cosigned))
    }

    /// Makes a checkpoint the newest one of its log, durably.
    ///
    /// If that fails, the state stays as it was. A crash may then leave the new checkpoint in the
    /// file, which does no harm: nobody has received its cosignature.
    pub(super) fn record(&mut self, origin: &str, cosigned: Cosigned) -> Result<(), StateError> {
        let mut newest = self.newest.clone();
        newest.insert(origin.to_owned(), cosigned);
        let written = encode(&newest).and_then(|bytes| replace(&self.path, &bytes));
        written.map_err(|source| io_error(&self.path, source))?;
        self.newest = newest;
        Ok(())
    }
}

/// Creates the file of the state, without any checkpoint, unless it is there.
///
/// # Errors
/// Returns an error if the file cannot be created, or cannot be used.
pub fn create_state(path: &Path) -> Result<(), StateError> {
    StateFile::open(path).map(drop)
}

/// Returns the directory of a file.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the path without symbolic links, so that one file has one lock. Creates its directory.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    if path.try_exists()? {
        return fs::canonicalize(path);
    }
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    fs::create_dir_all(folder_of(path))?;
    Ok(fs::canonicalize(folder_of(path))?.join(name))
}

/// Takes the lock. It is next to the file, which is replaced by others.
fn lock(path: &Path) -> Result<File, StateError> {
    let beside = extended(path, "lock");
    let file = File::options().create(true).truncate(false).write(true).open(&beside);
    let file = file.map_err(|source| io_error(&beside, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StateError::Locked { path: path.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(io_error(&beside, source)),
    }
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Cosigned>, &'static str> {
    let document: Document<'_> = serde_json::from_slice(bytes).map_err(|_| "it is not a JSON document")?;
    let state = document.state.get();
    if crc32c::crc32c(state.as_bytes()) != document.crc32c {
        return Err("its checksum is wrong");
    }
    let contents: Contents = serde_json::from_str(state).map_err(|_| "a field is missing or invalid")?;
    if contents.format != FORMAT {
        return Err("its format is that of another version");
    }
    contents.logs.into_iter().map(from_entry).collect()
}

fn from_entry(entry: Entry) -> Result<(String, Cosigned), &'static str> {
    let Entry { origin, size, root: hash, checkpoint } = entry;
    let mut root = [0; 32];
    hex::decode_to_slice(&hash, &mut root).map_err(|_| "it has an invalid hash")?;
    Ok((origin, Cosigned { size, root, note: checkpoint }))
}

fn encode(newest: &BTreeMap<String, Cosigned>) -> io::Result<Vec<u8>> {
    let logs = newest.iter().map(|(origin, cosigned)| Entry {
        origin: origin.clone(),
        size: cosigned.size,
        root: hex::encode(cosigned.root),
        checkpoint: cosigned.note.clone(),
    });
    let contents = Contents { format: FORMAT, logs: logs.collect() };
    let state = RawValue::from_string(serde_json::to_string(&contents)?)?;
    let document = Document { crc32c: crc32c::crc32c(state.get().as_bytes()), state: &state };
    let mut bytes = serde_json::to_vec(&document)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn io_error(path: &Path, source: io::Error) -> StateError {
    StateError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosigned(size: u64) -> Cosigned {
        Cosigned { size, root: [size as u8; 32], note: format!("log\n{size}\n\n— \"x\"\n") }
    }

    #[test]
    fn a_state_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/witness.state");
        create_state(&path).unwrap();
        let mut state = StateFile::open(&path).unwrap();
        assert!(path.exists());
        assert_eq!(state.newest("a"), None);
        state.record("a", cosigned(3)).unwrap();
        state.record("b", cosigned(u64::MAX)).unwrap();
        state.record("a", cosigned(5)).unwrap();
        drop(state);
        let state = StateFile::open(&path).unwrap();
        assert_eq!(state.newest("a"), Some(&cosigned(5)));
        assert_eq!(state.newest("b"), Some(&cosigned(u64::MAX)));
        assert_eq!(state.all().map(|(origin, _)| origin).collect::<Vec<_>>(), ["a", "b"]);
        assert!(!dir.path().join("new/witness.state.new").exists());
    }

    #[test]
    fn a_state_has_one_user() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let link = dir.path().join("link");
        let mut state = StateFile::open(&path).unwrap();
        state.record("a", cosigned(1)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for path in [&path, &link] {
            let refused = StateFile::open(path).unwrap_err();
            assert!(matches!(refused, StateError::Locked { .. }), "{refused}");
        }
        drop(state);
        assert_eq!(StateFile::open(&link).unwrap().newest("a"), Some(&cosigned(1)));
    }

    /// Neither a flipped bit nor a missing part is taken for a state, or for an empty one.
    #[test]
    fn a_damaged_state_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        StateFile::open(&path).unwrap().record("a", cosigned(300)).unwrap();
        let whole = fs::read(&path).unwrap();
        let opened = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            StateFile::open(&path).map(|state| state.newest("a").cloned())
        };
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                let opened = opened(&flipped);
                // Only whitespace outside of the checked text may differ.
                assert!(
                    matches!(&opened, Err(StateError::Damaged { .. }))
                        || matches!(&opened, Ok(Some(same)) if *same == cosigned(300)),
                    "bit {bit} of byte {at}: {opened:?}"
                );
            }
            if at < whole.len() - 1 {
                let opened = opened(&whole[..at]);
                assert!(matches!(opened, Err(StateError::Damaged { .. })), "{at} bytes: {opened:?}");
            }
        }
        assert!(opened(&whole).is_ok());
    }

    #[test]
    fn a_failed_write_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let mut state = StateFile::open(&path).unwrap();
        state.record("a", cosigned(1)).unwrap();
        // The temporary file cannot be created.
        fs::create_dir(dir.path().join("state.new")).unwrap();
        let failed = state.record("a", cosigned(2)).unwrap_err();
        assert!(matches!(failed, StateError::Io { .. }), "{failed}");
        assert_eq!(state.newest("a"), Some(&cosigned(1)));
        fs::remove_dir(dir.path().join("state.new")).unwrap();
        state.record("a", cosigned(2)).unwrap();
        drop(state);
        assert_eq!(StateFile::open(&path).unwrap().newest("a"), Some(&cosigned(2)));
    }
}
