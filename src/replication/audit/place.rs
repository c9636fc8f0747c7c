//! Where the audit stands, and the file that keeps it over a restart.
//!
//! The file is next to the log. It belongs to one log and one database, and nothing is lost with
//! it: without it, the next round begins with the first transaction.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::info;

use super::{links::Links, local::LocalPlace};
use crate::{
    crash_point::CrashPoint,
    durable_file,
    event::{ChainHash, Position, Timestamp, time},
    immudb::{Sha256Hash, TxId},
    merkle::RightEdge,
};

/// The extension of the file, next to the directory of the log.
pub(crate) const EXTENSION: &str = "audit";

/// Where a round stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The number of the round, from 1 on.
    pub(super) round: u64,
    /// `None` if the round has not begun.
    pub(super) started_at: Option<Timestamp>,
    /// When the last whole round ended.
    pub(super) finished_at: Option<Timestamp>,
    /// The number of events that this round has checked.
    pub(super) events: u64,
    pub(super) links: Links,
    pub(super) local: LocalPlace,
}

impl Place {
    /// Begins the first round.
    pub(crate) fn new() -> Self {
        Self {
            round: 1,
            started_at: None,
            finished_at: None,
            events: 0,
            links: Links::new(),
            local: LocalPlace::new(),
        }
    }

    /// Begins this round from the start.
    pub(super) fn again(&self) -> Self {
        Self { round: self.round, finished_at: self.finished_at, ..Self::new() }
    }

    /// Begins the next round.
    pub(super) fn next_round(&self, finished_at: Timestamp) -> Self {
        Self { round: self.round.saturating_add(1), finished_at: Some(finished_at), ..Self::new() }
    }

    /// Returns the last transaction that was checked.
    pub(crate) fn reached(&self) -> TxId {
        self.links.reached()
    }

    /// Returns the number of events that were checked.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }
}

/// The file of one log and one database.
#[derive(Debug, Clone)]
pub(super) struct PlaceFile {
    path: PathBuf,
    database: String,
    /// The id of the log.
    log: String,
}

/// The file: one JSON document, which an operator can read.
#[derive(Serialize, Deserialize)]
struct Document<'d> {
    /// CRC-32C of the text of `place`. A flipped bit in a hash must not look like another history.
    crc32c: u32,
    #[serde(borrow)]
    place: &'d RawValue,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    database: String,
    log: String,
    round: u64,
    started_at: Option<String>,
    finished_at: Option<String>,
    events: u64,
    transaction: u64,
    hash: Option<String>,
    /// The right edge of ImmuDB's tree: the roots of the complete subtrees, the largest first.
    edge: Option<Vec<String>>,
    position: u64,
    chain_hash: Option<String>,
    /// The same of the tree over the events.
    event_edge: Option<Vec<String>>,
    gap: bool,
}

impl PlaceFile {
    /// Names the file next to the directory of the log.
    pub(super) fn new(log_path: &Path, log: String, database: String) -> Self {
        Self { path: durable_file::beside_log(log_path, EXTENSION), database, log }
    }

    /// Returns where the audit stood. A file that is missing, damaged, or of another log or
    /// database is the start of the first round.
    pub(super) fn load(&self) -> Place {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Place::new(),
            Err(error) => {
                info!(%error, file = %self.path.display(), "cannot read where the audit stood");
                return Place::new();
            }
        };
        let contents = parse(&bytes);
        let ours = contents.filter(|found| found.database == self.database && found.log == self.log);
        ours.and_then(Contents::place).unwrap_or_else(|| {
            info!(file = %self.path.display(), "the audit begins from the start: the file is damaged, or \
             belongs to another log or database");
            Place::new()
        })
    }

    /// Saves where the audit stands, durably.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub(super) fn store(&self, place: &Place) -> io::Result<()> {
        let Place { round, started_at, finished_at, events, links, local } = place;
        let hashes = |hashes: &[Sha256Hash]| hashes.iter().map(hex::encode).collect();
        let contents = Contents {
            database: self.database.clone(),
            log: self.log.clone(),
            round: *round,
            started_at: started_at.map(time::format),
            finished_at: finished_at.map(time::format),
            events: *events,
            transaction: links.reached().0,
            hash: links.alh().map(hex::encode),
            edge: links.edge().map(hashes),
            position: local.last.0,
            chain_hash: local.hash.map(|hash| hash.to_string()),
            event_edge: local.tree.as_ref().map(|tree| hashes(tree.hashes())),
            gap: local.gap,
        };
        let text = RawValue::from_string(serde_json::to_string(&contents)?)?;
        let document = Document { crc32c: crc32c::crc32c(text.get().as_bytes()), place: &text };
        let mut bytes = serde_json::to_vec(&document)?;
        bytes.push(b'\n');
        durable_file::replace(&self.path, &bytes)?;
        CrashPoint::AuditSaved.reached();
        Ok(())
    }
}

impl Contents {
    fn place(self) -> Option<Place> {
        let at = |text: Option<String>| match text {
            Some(text) => time::parse(&text).map(Some),
            None => Some(None),
        };
        let alh = match self.hash {
            Some(hash) => Some(from_hex(&hash)?),
            None => None,
        };
        let hash = match self.chain_hash {
            Some(hash) => Some(ChainHash::from_hex(&hash)?),
            None => None,
        };
        let tree = match edge(self.event_edge)? {
            Some(edge) => Some(RightEdge::from_parts(self.position, edge)?),
            None => None,
        };
        Some(Place {
            round: self.round.max(1),
            started_at: at(self.started_at)?,
            finished_at: at(self.finished_at)?,
            events: self.events,
            links: Links::from_parts(TxId(self.transaction), alh, edge(self.edge)?)?,
            local: LocalPlace { last: Position(self.position), hash, tree, gap: self.gap },
        })
    }
}

/// Returns `None` if one of them is not a hash.
fn edge(hashes: Option<Vec<String>>) -> Option<Option<Vec<Sha256Hash>>> {
    match hashes {
        Some(hashes) => hashes.iter().map(|hash| from_hex(hash)).collect::<Option<Vec<_>>>().map(Some),
        None => Some(None),
    }
}

fn parse(bytes: &[u8]) -> Option<Contents> {
    let document: Document<'_> = serde_json::from_slice(bytes).ok()?;
    if crc32c::crc32c(document.place.get().as_bytes()) != document.crc32c {
        return None;
    }
    serde_json::from_str(document.place.get()).ok()
}

fn from_hex(text: &str) -> Option<Sha256Hash> {
    hex::decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::leaf_hash;

    fn file(folder: &Path) -> PlaceFile {
        PlaceFile::new(&folder.join("log"), "the log".into(), "aethyr".into())
    }

    fn places() -> [Place; 3] {
        let alh = [7; 32];
        let mut tree = RightEdge::new();
        tree.push([5; 32]);
        tree.push([6; 32]);
        let midway = Place {
            round: 3,
            started_at: time::parse("2026-11-28T10:00:00Z"),
            finished_at: time::parse("2026-11-28T09:00:00.5Z"),
            events: 2,
            links: Links::from_parts(TxId(3), Some(alh), Some(vec![[1; 32], leaf_hash(&alh)])).unwrap(),
            local: LocalPlace {
                last: Position(2),
                hash: Some(ChainHash([4; 32])),
                tree: Some(tree),
                gap: false,
            },
        };
        let behind_damage = Place {
            links: Links::from_parts(TxId(4), None, None).unwrap(),
            local: LocalPlace { last: Position(3), hash: None, tree: None, gap: true },
            ..midway.clone()
        };
        [Place::new(), midway, behind_damage]
    }

    #[test]
    fn a_place_comes_back_as_it_was_for_its_own_log_and_database_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path());
        assert_eq!(file.load(), Place::new());
        for place in places() {
            file.store(&place).unwrap();
            assert_eq!(file.load(), place);
        }
        for (log, database) in [("another", "aethyr"), ("the log", "another")] {
            let other = PlaceFile::new(&dir.path().join("log"), log.into(), database.into());
            assert_eq!(other.load(), Place::new());
        }
    }

    #[test]
    fn no_damage_is_taken_for_another_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path());
        let [_, place, _] = places();
        file.store(&place).unwrap();
        let whole = fs::read(&file.path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&file.path, &damaged).unwrap();
            let found = file.load();
            // Only white space may change without a consequence.
            assert!(found == Place::new() || found == place, "byte {at}");
        }
    }

    #[test]
    fn a_round_begins_with_the_first_transaction() {
        let [_, place, _] = places();
        let at = time::parse("2026-11-28T11:00:00Z");
        let next = place.next_round(at.unwrap());
        assert_eq!((next.round, next.finished_at, next.reached(), next.events()), (4, at, TxId(0), 0));
        let again = place.again();
        assert_eq!((again.round, again.finished_at, again.reached()), (3, place.finished_at, TxId(0)));
        assert_eq!(again.local, LocalPlace::new());
    }
}
