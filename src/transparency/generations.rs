//! The generations of a history.
//!
//! Where an operator shortens or exchanges the history, a generation ends. The next one has the
//! number 2 and the origin `NAME/2`, and so on. Checkpoints of an earlier generation hold up to the
//! size at which both agree. The file `log.generations` is one JSON document.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use rustix::process::getuid;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::kept::{self, KeptCheckpoint};
use crate::{
    crash_point::CrashPoint,
    durable_file,
    event::{Position, Timestamp, time},
    printable::escaped,
    proof::{Checkpoint, encoding},
};

/// The extension of the file, next to the directory of the log.
const EXTENSION: &str = "generations";

/// What begins a generation.
#[derive(Debug, Clone)]
pub(crate) struct Generation {
    /// The size up to which the new history agrees with the earlier one, if it is known.
    pub agreed: Option<u64>,
    /// The operator, or the command.
    pub by: String,
    pub because: String,
}

impl Generation {
    /// Returns a generation that an operator begins with a command.
    pub(crate) fn by_operator(agreed: Position, command: &str, because: &str) -> Self {
        let by = format!("{command} (user {})", getuid().as_raw());
        Self { agreed: Some(agreed.0), by, because: because.to_owned() }
    }

    /// Returns a generation that begins because the log is a copy that lacks what was published.
    pub(super) fn after_copy(agreed: Option<u64>) -> Self {
        let because = "the log was copied from ImmuDB, which lacked events that were published";
        Self { agreed, by: "serve".to_owned(), because: because.to_owned() }
    }
}

/// The contents of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Generations {
    /// The log was empty at a start, and the copy from ImmuDB has not been compared with the
    /// anchors yet.
    #[serde(default)]
    pub copied: bool,
    /// Since then, not all witnesses have been reached. They may have cosigned what it lacks.
    #[serde(default)]
    pub unwitnessed: bool,
    /// The keys of the witnesses that have cosigned a checkpoint since then: they have nothing that
    /// the log lacks.
    #[serde(default)]
    pub witnessed: BTreeSet<String>,
    /// The present generation has a checkpoint, also if the file of the checkpoints is lost.
    #[serde(default)]
    pub published: bool,
    begun: Vec<Begun>,
}

/// A generation after the first one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Begun {
    number: u64,
    agreed: Option<u64>,
    by: String,
    because: String,
    at: String,
    /// The last checkpoint of the generation before, if it is known.
    last: Option<LastCheckpoint>,
    /// It was begun before the file was lost, and has checkpoints.
    #[serde(default)]
    restored: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LastCheckpoint {
    origin: String,
    size: u64,
    /// In base64, as in the checkpoint.
    root: String,
}

#[derive(Serialize, Deserialize)]
struct Document<'d> {
    /// CRC-32C of the text of `generations`.
    crc32c: u32,
    #[serde(borrow)]
    generations: &'d RawValue,
}

/// Returns the path of the file.
pub(crate) fn path(log_path: &Path) -> PathBuf {
    durable_file::beside_log(log_path, EXTENSION)
}

/// Begins a generation, durably. Called before the history is changed. Does nothing if no
/// checkpoint was ever made: nobody has one of the earlier history.
///
/// A call that is repeated before a checkpoint of the new generation begins no further one.
///
/// # Errors
/// Returns an error if a file cannot be read or written, or is damaged.
pub(crate) fn begin(log_path: &Path, generation: Generation) -> io::Result<()> {
    let mut generations = Generations::load(log_path)?;
    let current = generations.current();
    let newest = kept::newest_of_all(log_path)?;
    let was_published = newest.is_some() || current > 1;
    let newest = newest.filter(|newest| newest.generation >= current);
    // The kept checkpoints may be lost.
    if generations.published || newest.is_some() {
        let number = newest.as_ref().map_or(current, |newest| newest.generation);
        generations.push(number, generation, newest.as_ref().map(|newest| &newest.checkpoint));
    } else if was_published {
        generations.lower_agreed(generation.agreed);
    } else {
        return Ok(());
    }
    generations.save(log_path)
}

/// Same as [`begin`], but also if no checkpoint is kept: an anchor has one of the earlier history.
///
/// # Errors
/// See [`begin`].
pub(crate) fn begin_against_anchor(log_path: &Path, generation: Generation) -> io::Result<()> {
    if kept::newest_of_all(log_path)?.is_some() {
        return begin(log_path, generation);
    }
    let mut generations = Generations::load(log_path)?;
    let current = generations.current();
    generations.push(current, generation, None);
    generations.save(log_path)
}

/// Returns the checkpoints that are kept, of all generations.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(crate) fn checkpoints(log_path: &Path) -> io::Result<Vec<Checkpoint>> {
    Ok(kept::all(log_path)?.into_iter().map(|kept| kept.checkpoint).collect())
}

/// Records that the log is empty and about to be restored, so that it may lack what was published.
///
/// # Errors
/// Returns an error if the file cannot be read or written, or is damaged.
pub(crate) fn begin_copy(log_path: &Path) -> io::Result<()> {
    let mut generations = Generations::load(log_path)?;
    generations.note_copy();
    generations.save(log_path)
}

/// Returns the origin of each generation of the history with this name, and the size up to which
/// its checkpoints hold for the present history. The present generation is the last one.
///
/// # Errors
/// Returns an error if the file cannot be read, or is damaged.
pub(crate) fn origins(log_path: &Path, name: &str) -> io::Result<Vec<(String, u64)>> {
    let generations = Generations::load(log_path)?;
    let all = 1..=generations.current();
    Ok(all.map(|number| (origin_of(name, number), generations.limit(number))).collect())
}

impl Generations {
    /// Reads the file. If there is none, this is the first generation.
    pub(super) fn load(log_path: &Path) -> io::Result<Self> {
        let bytes = match fs::read(path(log_path)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let damaged = |_| io::Error::new(io::ErrorKind::InvalidData, "the file is damaged");
        let document: Document<'_> = serde_json::from_slice(&bytes).map_err(damaged)?;
        let text = document.generations.get();
        if crc32c::crc32c(text.as_bytes()) != document.crc32c {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file has a wrong checksum"));
        }
        serde_json::from_str(text).map_err(damaged)
    }

    pub(super) fn save(&self, log_path: &Path) -> io::Result<()> {
        let text = RawValue::from_string(serde_json::to_string(self)?)?;
        let document = Document { crc32c: crc32c::crc32c(text.get().as_bytes()), generations: &text };
        let mut bytes = serde_json::to_vec(&document)?;
        bytes.push(b'\n');
        durable_file::replace(&path(log_path), &bytes)?;
        if self.is_new() {
            CrashPoint::GenerationBegun.reached();
        }
        Ok(())
    }

    /// Returns whether the present generation has no checkpoint yet.
    fn is_new(&self) -> bool {
        !self.begun.is_empty() && !self.published
    }

    /// Records that the log is empty, so that a copy of it may lack what was published.
    pub(super) fn note_copy(&mut self) {
        (self.copied, self.unwitnessed) = (true, true);
        self.witnessed.clear();
    }

    /// Returns the number of the present generation, from 1 on.
    pub(super) fn current(&self) -> u64 {
        self.begun.last().map_or(1, |begun| begun.number)
    }

    /// Returns the size up to which checkpoints of a generation hold for the present history.
    pub(super) fn limit(&self, generation: u64) -> u64 {
        let later = self.begun.iter().filter(|begun| begun.number > generation);
        later.map(|begun| begun.agreed.unwrap_or(0)).min().unwrap_or(u64::MAX)
    }

    /// Returns whether a kept checkpoint holds for the present history.
    pub(super) fn holds(&self, kept: &KeptCheckpoint) -> bool {
        kept.generation <= self.current() && kept.checkpoint.size() <= self.limit(kept.generation)
    }

    /// Returns the lines with which the first checkpoint of the present generation says what
    /// happened. Empty for the first generation.
    pub(super) fn extensions(&self) -> Vec<String> {
        let Some(begun) = self.begun.last().filter(|begun| !begun.restored) else { return Vec::new() };
        let Begun { number, agreed, by, because, at, last, .. } = begun;
        let unknown = || "unknown".to_owned();
        let agreed = agreed.map_or_else(unknown, |agreed| agreed.to_string());
        let earlier = last.as_ref().map(|last| format!("{} {} {}", last.size, last.root, last.origin));
        vec![
            format!("generation {number} since {at}"),
            format!("earlier {}", earlier.unwrap_or_else(unknown)),
            format!("agreed {agreed}"),
            format!("by {}", escaped(by)),
            format!("because {}", escaped(because)),
        ]
    }

    /// Begins the generation after `number`, whose last checkpoint is `last`.
    pub(super) fn push(&mut self, number: u64, generation: Generation, last: Option<&Checkpoint>) {
        let last = last.map(|last| LastCheckpoint {
            origin: last.origin().to_owned(),
            size: last.size(),
            root: encoding::encode(last.root()),
        });
        let number = number.max(self.current()).saturating_add(1);
        let Generation { agreed, by, because } = generation;
        let at = time::format(Timestamp::now());
        self.begun.push(Begun { number, agreed, by, because, at, last, restored: false });
        self.published = false;
    }

    /// Goes on with a generation that was begun before, but is not in the file: the disk was lost.
    pub(super) fn go_on_with(&mut self, number: u64, agreed: u64) {
        let (by, because) = ("serve".to_owned(), "the file of the generations was lost".to_owned());
        let at = time::format(Timestamp::now());
        self.begun.push(Begun { number, agreed: Some(agreed), by, because, at, last: None, restored: true });
        self.published = true;
    }

    /// Lowers the size up to which the present generation agrees with the earlier one.
    fn lower_agreed(&mut self, agreed: Option<u64>) {
        if let Some(begun) = self.begun.last_mut() {
            begun.agreed = begun.agreed.zip(agreed).map(|(one, other)| one.min(other));
        }
    }
}

/// Returns the origin of the checkpoints of a generation.
pub(super) fn origin_of(name: &str, generation: u64) -> String {
    if generation <= 1 { name.to_owned() } else { format!("{name}/{generation}") }
}

/// Returns the generation that an origin belongs to, or `None` if it is not one of this name.
pub(super) fn generation_of(name: &str, origin: &str) -> Option<u64> {
    match origin.strip_prefix(name)? {
        "" => Some(1),
        number => {
            let number = number.strip_prefix('/').and_then(encoding::decode_decimal)?;
            Some(number).filter(|number| *number > 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::kept::{KeptCheckpoints, tests::kept},
        *,
    };

    fn generation(agreed: Option<u64>) -> Generation {
        Generation { agreed, by: "resolve\n(uid 7)".into(), because: "they did not fit".into() }
    }

    fn publish(log: &Path, size: u64, generation: u64) {
        let generations = Generations::load(log).unwrap();
        KeptCheckpoints::open(log, &generations).keep(kept(size, generation)).unwrap();
    }

    #[test]
    fn an_origin_names_its_generation() {
        for (generation, origin) in [(1, "a/b"), (2, "a/b/2"), (11, "a/b/11")] {
            assert_eq!(origin_of("a/b", generation), origin);
            assert_eq!(generation_of("a/b", origin), Some(generation));
        }
        for origin in ["a", "a/bc", "a/b/", "a/b/1", "a/b/02", "a/b/x", "a/b/2/3", "b"] {
            assert_eq!(generation_of("a/b", origin), None, "{origin}");
        }
    }

    #[test]
    fn a_generation_begins_where_checkpoints_were_published_and_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        begin(&log, generation(Some(3))).unwrap();
        assert_eq!(Generations::load(&log).unwrap(), Generations::default(), "nothing was published");
        let other = dir.path().join("other");
        begin_against_anchor(&other, generation(Some(0))).unwrap();
        let generations = Generations::load(&other).unwrap();
        assert_eq!((generations.current(), generations.limit(1)), (2, 0), "an anchor has a checkpoint");
        publish(&log, 5, 1);
        publish(&log, 9, 1);
        begin(&log, generation(Some(6))).unwrap();
        begin(&log, generation(Some(8))).unwrap();
        let generations = Generations::load(&log).unwrap();
        assert_eq!((generations.current(), generations.limit(1), generations.limit(2)), (2, 6, u64::MAX));
        assert!(generations.holds(&kept(5, 1)) && !generations.holds(&kept(9, 1)));
        assert!(generations.holds(&kept(9, 2)) && !generations.holds(&kept(9, 3)));
        let lines = generations.extensions();
        assert!(lines[0].starts_with("generation 2 since 20"), "{lines:?}");
        let root = encoding::encode(kept(9, 1).checkpoint.root());
        let earlier = format!("earlier 9 {root} log");
        let expected = [earlier.as_str(), "agreed 6", "by resolve\\u000a(uid 7)", "because they did not fit"];
        assert_eq!(lines[1..], expected);

        publish(&log, 7, 2);
        begin(&log, generation(None)).unwrap();
        let generations = Generations::load(&log).unwrap();
        assert_eq!((generations.current(), generations.limit(1), generations.limit(2)), (3, 0, 0));
        assert_eq!(generations.extensions()[2], "agreed unknown");
        let origins = origins(&log, "a").unwrap();
        assert_eq!(
            origins,
            [("a", 0), ("a/2", 0), ("a/3", u64::MAX)].map(|(name, size)| (name.to_owned(), size))
        );
    }

    #[test]
    fn a_generation_begins_also_if_the_kept_checkpoints_were_lost() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        Generations { published: true, ..Generations::default() }.save(&log).unwrap();
        begin(&log, generation(Some(6))).unwrap();
        // Before a checkpoint of it, a further call begins none.
        begin(&log, generation(Some(4))).unwrap();
        let mut generations = Generations::load(&log).unwrap();
        assert_eq!((generations.current(), generations.limit(1)), (2, 4));
        assert_eq!(generations.extensions()[1], "earlier unknown");
        generations.published = true;
        generations.save(&log).unwrap();
        begin(&log, generation(Some(5))).unwrap();
        assert_eq!(Generations::load(&log).unwrap().current(), 3);
    }

    #[test]
    fn no_damage_is_taken_for_another_generation() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        publish(&log, 5, 1);
        begin(&log, generation(Some(3))).unwrap();
        let generations = Generations::load(&log).unwrap();
        let whole = fs::read(path(&log)).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(path(&log), &damaged).unwrap();
            let found = Generations::load(&log);
            // Only white space may change without a consequence.
            assert!(found.is_err() || matches!(&found, Ok(same) if *same == generations), "byte {at}");
        }
        fs::write(path(&log), &whole).unwrap();
        assert_eq!(Generations::load(&log).unwrap(), generations);
    }
}
