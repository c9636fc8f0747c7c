//! The checkpoints that were made: the newest 10 000, in memory and in the file `log.checkpoints`.
//!
//! The file has one JSON object a line, with a checksum. A line is added for each checkpoint, and
//! another one for the same checkpoint when it is cosigned, anchored or certified; the last one
//! counts. A damaged line is skipped.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::warn;

use super::generations::Generations;
use crate::{
    durable_file,
    event::{Timestamp, time},
    proof::{Checkpoint, SignedNote},
    proof_file::ImmudbCertificate,
};

/// The extension of the file, next to the directory of the log.
const EXTENSION: &str = "checkpoints";
const CHECKPOINTS_MAX: usize = 10_000;
/// Certificates are some kilobytes each, and only those of new checkpoints are used.
const CERTIFICATES_MAX: usize = 100;
/// The number of lines at which the file is written again without those that do not count.
const LINES_MAX: usize = 3 * CHECKPOINTS_MAX;

/// A checkpoint that was made here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptCheckpoint {
    pub checkpoint: Checkpoint,
    /// The checkpoint with the signature of the log, and with those of witnesses.
    pub note: SignedNote,
    pub made_at: Timestamp,
    /// At least one anchor has it.
    pub anchored: bool,
    /// That ImmuDB has it.
    pub certificate: Option<ImmudbCertificate>,
    /// The generation of the history that it belongs to.
    pub generation: u64,
}

/// The kept checkpoints that hold for the present history, by size.
#[derive(Debug)]
pub(super) struct KeptCheckpoints {
    list: Mutex<BTreeMap<u64, Arc<KeptCheckpoint>>>,
    file: Mutex<KeptFile>,
    /// The last generation that the file had checkpoints of, also if they do not hold any longer.
    last_generation: Option<u64>,
    /// There was something in the file, or it could not be read.
    has_file: bool,
}

#[derive(Debug)]
struct KeptFile {
    path: PathBuf,
    lines: usize,
    /// The file has lines that are damaged or do not count, and is written again.
    is_outdated: bool,
    /// The file could not be read. It is not replaced, and nothing is kept.
    is_unread: bool,
}

#[derive(Serialize, Deserialize)]
struct Line<'l> {
    /// CRC-32C of the text of `checkpoint`.
    crc32c: u32,
    #[serde(borrow)]
    checkpoint: &'l RawValue,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    generation: u64,
    made_at: String,
    anchored: bool,
    note: String,
    /// In base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
}

/// What is in the file.
#[derive(Debug, Default)]
struct Found {
    /// In the order of the lines.
    checkpoints: Vec<KeptCheckpoint>,
    damaged: usize,
    ends_in_a_line: bool,
}

impl KeptCheckpoints {
    /// Reads the checkpoints that hold for these generations. If the file cannot be read, there are
    /// none, and none can be kept.
    pub(super) fn open(log_path: &Path, generations: &Generations) -> Self {
        let path = durable_file::beside_log(log_path, EXTENSION);
        let (found, is_unread) = match read(&path) {
            Ok(found) => (found, false),
            Err(error) => {
                warn!(%error, file = %path.display(), "checkpoints cannot be read; none are made");
                (Found::default(), true)
            }
        };
        let Found { checkpoints, damaged, ends_in_a_line } = found;
        if damaged > 0 {
            warn!(file = %path.display(), lines = damaged, "skipped lines that are not checkpoints");
        }
        let lines = checkpoints.len();
        let last_generation = checkpoints.iter().map(|kept| kept.generation).max();
        let has_file = is_unread || damaged > 0 || lines > 0;
        let mut list = BTreeMap::new();
        let holding = checkpoints.into_iter().filter(|kept| generations.holds(kept));
        list.extend(holding.map(|kept| (kept.checkpoint.size(), Arc::new(kept))));
        limit(&mut list);
        let is_outdated = damaged > 0 || !ends_in_a_line || lines > LINES_MAX;
        let file = KeptFile { path, lines, is_outdated, is_unread };
        Self { list: Mutex::new(list), file: Mutex::new(file), last_generation, has_file }
    }

    /// Returns the last generation that had checkpoints at the start.
    pub(super) fn last_generation(&self) -> Option<u64> {
        self.last_generation
    }

    /// Returns whether a key may have signed checkpoints of this log before the start.
    pub(super) fn has_file(&self) -> bool {
        self.has_file
    }

    pub(super) fn newest(&self) -> Option<Arc<KeptCheckpoint>> {
        self.list().last_key_value().map(|(_, kept)| kept.clone())
    }

    /// Returns the checkpoint of exactly this size.
    pub(super) fn of_size(&self, size: u64) -> Option<Arc<KeptCheckpoint>> {
        self.list().get(&size).cloned()
    }

    /// Returns the newest checkpoint, if it has at least this size.
    pub(super) fn covering(&self, size: u64) -> Option<Arc<KeptCheckpoint>> {
        self.newest().filter(|kept| kept.checkpoint.size() >= size)
    }

    /// Returns whether a checkpoint of this generation is kept.
    pub(super) fn has_generation(&self, generation: u64) -> bool {
        self.list().values().rev().any(|kept| kept.generation == generation)
    }

    /// Keeps a checkpoint durably. Blocks on the disk.
    ///
    /// # Errors
    /// Returns an error if it cannot be kept. Then it is not in memory either.
    pub(super) fn keep(&self, kept: KeptCheckpoint) -> io::Result<Arc<KeptCheckpoint>> {
        let mut file = self.file();
        file.add(&kept)?;
        let kept = Arc::new(kept);
        let all = {
            let mut list = self.list();
            list.insert(kept.checkpoint.size(), kept.clone());
            limit(&mut list);
            list.clone()
        };
        file.rewrite_if_due(&all);
        Ok(kept)
    }

    /// Changes a kept checkpoint. Blocks on the disk. Does nothing if it is not kept any longer.
    ///
    /// # Errors
    /// Returns an error if the change cannot be written. It is in memory then.
    pub(super) fn update(&self, size: u64, change: impl FnOnce(&mut KeptCheckpoint)) -> io::Result<()> {
        let mut file = self.file();
        let changed = {
            let mut list = self.list();
            let Some(kept) = list.get_mut(&size) else { return Ok(()) };
            let mut changed = KeptCheckpoint::clone(kept);
            change(&mut changed);
            if changed == **kept {
                return Ok(());
            }
            *kept = Arc::new(changed);
            kept.clone()
        };
        file.add(&changed)
    }

    /// Forgets the checkpoints that do not hold any longer, because a generation has begun.
    pub(super) fn retain(&self, generations: &Generations) {
        self.list().retain(|_, kept| generations.holds(kept));
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<KeptCheckpoint>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self) -> MutexGuard<'_, KeptFile> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeptFile {
    fn add(&mut self, kept: &KeptCheckpoint) -> io::Result<()> {
        if self.is_unread {
            return Err(io::Error::other("the file could not be read and is not changed"));
        }
        let is_new = !self.path.exists();
        let mut line = encode(kept)?;
        if self.is_outdated && !is_new {
            // Ends a line that was not written completely.
            line.insert(0, b'\n');
        }
        let mut file = fs::File::options().create(true).append(true).open(&self.path)?;
        if let Err(error) = file.write_all(&line).and_then(|()| file.sync_data()) {
            self.is_outdated = true;
            return Err(error);
        }
        if is_new {
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        self.lines = self.lines.saturating_add(1);
        Ok(())
    }

    /// Removes the lines that do not count, if there are many of them.
    fn rewrite_if_due(&mut self, list: &BTreeMap<u64, Arc<KeptCheckpoint>>) {
        if !self.is_outdated && self.lines <= LINES_MAX {
            return;
        }
        let lines = list.values().map(|kept| encode(kept)).collect::<Result<Vec<_>, _>>();
        match lines.and_then(|lines| durable_file::replace(&self.path, &lines.concat())) {
            Ok(()) => (self.lines, self.is_outdated) = (list.len(), false),
            Err(error) => {
                warn!(%error, file = %self.path.display(), "cannot remove outdated lines");
                // Not again with each checkpoint. The line that was just added is a whole one.
                (self.lines, self.is_outdated) = (0, false);
            }
        }
    }
}

/// Returns all checkpoints in the file, whatever generation they belong to.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(super) fn all(log_path: &Path) -> io::Result<Vec<KeptCheckpoint>> {
    Ok(read(&durable_file::beside_log(log_path, EXTENSION))?.checkpoints)
}

/// Returns the newest checkpoint in the file, whatever generation it belongs to.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(super) fn newest_of_all(log_path: &Path) -> io::Result<Option<KeptCheckpoint>> {
    let place = |kept: &KeptCheckpoint| (kept.generation, kept.checkpoint.size());
    Ok(all(log_path)?.into_iter().max_by_key(place))
}

/// Removes the oldest checkpoints and certificates.
fn limit(list: &mut BTreeMap<u64, Arc<KeptCheckpoint>>) {
    while list.len() > CHECKPOINTS_MAX {
        list.pop_first();
    }
    for kept in list.values_mut().rev().skip(CERTIFICATES_MAX) {
        if kept.certificate.is_some() {
            *kept = Arc::new(KeptCheckpoint { certificate: None, ..KeptCheckpoint::clone(kept) });
        }
    }
}

fn read(path: &Path) -> io::Result<Found> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let ends_in_a_line = bytes.is_empty() || bytes.ends_with(b"\n");
    let mut found = Found { ends_in_a_line, ..Found::default() };
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match decode(line) {
            Some(kept) => found.checkpoints.push(kept),
            None => found.damaged = found.damaged.saturating_add(1),
        }
    }
    Ok(found)
}

fn encode(kept: &KeptCheckpoint) -> io::Result<Vec<u8>> {
    let note = String::from_utf8(kept.note.to_bytes()).map_err(io::Error::other)?;
    let contents = Contents {
        generation: kept.generation,
        made_at: time::format(kept.made_at),
        anchored: kept.anchored,
        note,
        certificate: kept.certificate.as_ref().map(|certificate| STANDARD.encode(certificate.encode())),
    };
    let text = RawValue::from_string(serde_json::to_string(&contents)?)?;
    let line = Line { crc32c: crc32c::crc32c(text.get().as_bytes()), checkpoint: &text };
    let mut bytes = serde_json::to_vec(&line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn decode(line: &[u8]) -> Option<KeptCheckpoint> {
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    let text = line.checkpoint.get();
    if crc32c::crc32c(text.as_bytes()) != line.crc32c {
        return None;
    }
    let Contents { generation, made_at, anchored, note, certificate } = serde_json::from_str(text).ok()?;
    let note = SignedNote::parse(note.as_bytes()).ok()?;
    // Made and signed here. What is compared with anchors is verified again.
    let checkpoint = Checkpoint::parse(note.unverified_text()).ok()?;
    let certificate = certificate.and_then(|text| STANDARD.decode(text).ok());
    let certificate = certificate.and_then(|bytes| ImmudbCertificate::decode(&bytes).ok());
    Some(KeptCheckpoint {
        checkpoint,
        note,
        made_at: time::parse(&made_at)?,
        anchored,
        certificate,
        generation,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        proof::{SigningKey, leaf_hash},
        transparency::generations::{Generation, origin_of},
    };

    /// Returns a checkpoint of the log "log".
    pub(crate) fn kept(size: u64, generation: u64) -> KeptCheckpoint {
        let key = SigningKey::from_encoded(
            "PRIVATE+KEY+log.example/aethyr+887ecb9c+AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
        );
        let origin = origin_of("log", generation);
        let key = key.unwrap().renamed(&origin).unwrap();
        let root = leaf_hash(&size.to_be_bytes());
        let checkpoint = Checkpoint::new(origin, size, root, Vec::new()).unwrap();
        let note = SignedNote::sign(checkpoint.to_text(), &key).unwrap();
        let made_at = Timestamp::new(1_700_000_000, 5).unwrap();
        KeptCheckpoint { checkpoint, note, made_at, anchored: false, certificate: None, generation }
    }

    fn sizes(kept: &KeptCheckpoints) -> Vec<u64> {
        kept.list().keys().copied().collect()
    }

    fn open(log: &Path) -> KeptCheckpoints {
        KeptCheckpoints::open(log, &Generations::default())
    }

    #[test]
    fn checkpoints_are_kept_with_what_was_learned_of_them_later() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let list = open(&log);
        assert_eq!(list.newest(), None);
        for size in [5, 9, 20] {
            list.keep(kept(size, 1)).unwrap();
        }
        list.update(9, |kept| kept.anchored = true).unwrap();
        list.update(9, |kept| kept.anchored = true).unwrap();
        list.update(7, |kept| kept.anchored = true).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("log.checkpoints")).unwrap().lines().count(), 4);
        for list in [list, open(&log)] {
            assert_eq!(sizes(&list), [5, 9, 20]);
            assert_eq!(list.newest().as_deref(), Some(&kept(20, 1)));
            let anchored = KeptCheckpoint { anchored: true, ..kept(9, 1) };
            assert_eq!((list.of_size(9).as_deref(), list.of_size(8)), (Some(&anchored), None));
            let covering = |size| list.covering(size).map(|kept| kept.checkpoint.size());
            assert_eq!([covering(1), covering(20), covering(21)], [Some(20), Some(20), None]);
        }
    }

    #[test]
    fn a_damaged_line_costs_that_line_only_and_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (log, file) = (dir.path().join("log"), dir.path().join("log.checkpoints"));
        let list = open(&log);
        for size in [5, 9, 20] {
            list.keep(kept(size, 1)).unwrap();
        }
        let whole = fs::read(&file).unwrap();
        let second = whole.iter().position(|byte| *byte == b'\n').unwrap() + 30;
        let mut damaged = whole.clone();
        damaged[second] ^= 1;
        fs::write(&file, &damaged).unwrap();
        assert_eq!(sizes(&open(&log)), [5, 20]);
        let torn = &whole[..whole.len() - 10];
        fs::write(&file, torn).unwrap();
        let list = open(&log);
        assert_eq!(sizes(&list), [5, 9]);
        list.keep(kept(21, 1)).unwrap();
        assert_eq!(sizes(&open(&log)), [5, 9, 21]);
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 3);
    }

    #[test]
    fn the_oldest_ones_are_removed_and_the_file_does_not_grow_forever() {
        let mut list: BTreeMap<u64, Arc<KeptCheckpoint>> = BTreeMap::new();
        let one = Arc::new(kept(1, 1));
        list.extend((0..CHECKPOINTS_MAX as u64 + 2).map(|size| (size, one.clone())));
        limit(&mut list);
        assert_eq!((list.len(), list.first_key_value().unwrap().0), (CHECKPOINTS_MAX, &2));

        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let list = open(&log);
        list.keep(kept(1, 1)).unwrap();
        list.file().lines = LINES_MAX;
        list.update(1, |kept| kept.anchored = true).unwrap();
        list.keep(kept(2, 1)).unwrap();
        assert_eq!((list.file().lines, sizes(&open(&log))), (2, vec![1, 2]));
        assert!(open(&log).of_size(1).unwrap().anchored);
    }

    #[test]
    fn a_generation_ends_the_checkpoints_that_do_not_hold_any_longer() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let list = open(&log);
        for size in [5, 9] {
            list.keep(kept(size, 1)).unwrap();
        }
        let mut generations = Generations::default();
        let begun = Generation { agreed: Some(5), by: String::new(), because: String::new() };
        generations.push(1, begun, None);
        list.retain(&generations);
        assert_eq!(sizes(&list), [5]);
        list.keep(kept(7, 2)).unwrap();
        assert!(list.has_generation(2) && !list.has_generation(3));
        assert_eq!(sizes(&KeptCheckpoints::open(&log, &generations)), [5, 7]);
        assert_eq!(newest_of_all(&log).unwrap(), Some(kept(7, 2)));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::create_dir(dir.path().join("log.checkpoints")).unwrap();
        let list = open(&log);
        assert!(list.keep(kept(1, 1)).is_err());
        assert_eq!(list.newest(), None);
        assert!(newest_of_all(&log).is_err());
    }
}
