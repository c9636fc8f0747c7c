//! The findings: what contradicted the history in ImmuDB, and what an operator has accepted of it.
//!
//! They are kept next to the log, one JSON object a line, so that an operator can read them while
//! the service runs. A finding that is seen again is counted. The state of the service does not
//! depend on this file.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{crash_point::CrashPoint, durable_file, event::Timestamp, printable::escaped};

/// The extension of the file, next to the directory of the log.
pub(crate) const EXTENSION: &str = "findings";

/// What kind of contradiction it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FindingKind {
    /// ImmuDB, or something between, answered wrongly once. A second look found the history intact.
    WrongAnswer,
    /// Another client has written to the database, and left the keys of this service alone.
    ForeignTransaction,
    /// Another client has written a key of this service.
    ForeignKey,
    /// A key of this service was deleted.
    KeyDeleted,
    /// A transaction does not continue the history, or is not the one that was sent.
    HeaderMismatch,
    /// A transaction has another hash than the one that was verified before.
    OtherHash,
    /// Values were deleted on purpose.
    Truncated,
    /// A state is not signed with the configured key.
    BadSignature,
    /// A record in ImmuDB is not that of the local log.
    RecordDiffers,
    /// ImmuDB cannot read a part of its history.
    Damaged,
    /// A part of the local log is damaged.
    LocalDamage,
    /// An anchor has a checkpoint of another history.
    AnchorDiffers,
}

/// A contradiction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Finding {
    pub kind: FindingKind,
    pub transaction: Option<u64>,
    /// The key, or the prefix of several.
    pub key: Option<String>,
    pub expected: String,
    pub found: String,
}

impl Finding {
    const TEXT_CHARS_MAX: usize = 300;

    pub(crate) fn new(kind: FindingKind, expected: impl Into<String>, found: impl Into<String>) -> Self {
        let short = |text: String| match text.char_indices().nth(Self::TEXT_CHARS_MAX) {
            Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
            None => text,
        };
        let (expected, found) = (short(expected.into()), short(found.into()));
        Self { kind, transaction: None, key: None, expected, found }
    }

    #[must_use]
    pub(crate) fn in_transaction(self, tx: u64) -> Self {
        Self { transaction: Some(tx), ..self }
    }

    /// Other clients choose the bytes of their keys, so they are made safe to print.
    #[must_use]
    pub(crate) fn of_key(self, key: &[u8]) -> Self {
        Self { key: Some(printable(key)), ..self }
    }

    /// Returns whether both are the same contradiction.
    fn is_like(&self, other: &Self) -> bool {
        let is_same_place = match self.kind {
            // One for each prefix.
            FindingKind::ForeignTransaction => self.key == other.key,
            // A server that lies can lie differently each time.
            FindingKind::WrongAnswer | FindingKind::BadSignature => true,
            FindingKind::ForeignKey
            | FindingKind::KeyDeleted
            | FindingKind::HeaderMismatch
            | FindingKind::OtherHash
            | FindingKind::Truncated
            | FindingKind::RecordDiffers
            | FindingKind::Damaged
            | FindingKind::LocalDamage
            | FindingKind::AnchorDiffers => (self.transaction, &self.key) == (other.transaction, &other.key),
        };
        self.kind == other.kind && is_same_place
    }
}

/// Returns the bytes as text that is safe to print, at most 200 characters.
pub(super) fn printable(key: &[u8]) -> String {
    const CHARS_MAX: usize = 200;
    let text: String = String::from_utf8_lossy(key).chars().take(CHARS_MAX).collect();
    escaped(&text).into_owned()
}

/// A finding as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredFinding {
    pub number: u64,
    #[serde(flatten)]
    pub finding: Finding,
    #[serde(with = "time")]
    pub first_seen: Timestamp,
    #[serde(with = "time")]
    pub last_seen: Timestamp,
    pub count: u64,
    /// `None` while the finding is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Acceptance>,
}

/// The decision of an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Acceptance {
    pub because: String,
    #[serde(with = "time")]
    pub at: Timestamp,
}

/// The number of findings for which there was no room.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NotKept {
    not_kept: u64,
}

/// The findings of one log.
#[derive(Debug)]
pub(crate) struct Findings {
    path: PathBuf,
    /// By number.
    list: Vec<StoredFinding>,
    not_kept: u64,
    /// Lines that are no findings. They are set aside with the next save.
    damaged: Vec<Vec<u8>>,
    /// The file could not be read, so it is not replaced.
    unread: bool,
    is_saved: bool,
    saved_at: Timestamp,
}

/// The contents of the file, to be saved on another thread. Saves must not overlap.
#[derive(Debug)]
pub(crate) struct FindingsSave {
    path: PathBuf,
    list: Vec<StoredFinding>,
    not_kept: u64,
    damaged: Vec<Vec<u8>>,
    unread: bool,
}

impl Findings {
    /// The maximum number of findings. Further ones take the place of accepted ones, or are only
    /// counted.
    pub(crate) const MAX: usize = 10_000;
    /// The maximum number of open findings about other clients' keys. Those of further prefixes are
    /// one finding: a client whose keys have no common prefix must leave room for others.
    const FOREIGN_MAX: usize = 100;
    /// The key of that finding.
    const FURTHER_KEYS: &str = "(further keys)";
    /// The seconds between two saves of what can be found again.
    const SAVE_EVERY: i64 = 1;

    /// Reads the findings. A missing file has none, and damaged lines are skipped. Nothing is
    /// written.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut findings = Self::none(path);
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(findings),
            Err(error) => return Err(error),
        };
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if let Ok(found) = serde_json::from_slice::<StoredFinding>(line) {
                findings.list.push(found);
            } else if let Ok(NotKept { not_kept }) = serde_json::from_slice(line) {
                findings.not_kept = not_kept;
            } else {
                findings.damaged.push(line.to_vec());
            }
        }
        if !findings.damaged.is_empty() {
            let lines = findings.damaged.len();
            warn!(file = %path.display(), lines, "skipped lines that are not findings");
        }
        findings.list.sort_by_key(|found| found.number);
        Ok(findings)
    }

    /// Returns the number of lines that were skipped.
    pub(crate) fn damaged_lines(&self) -> usize {
        self.damaged.len()
    }

    /// Returns findings that are in memory only, because the file cannot be read.
    pub(crate) fn unreadable(path: &Path) -> Self {
        Self { unread: true, ..Self::none(path) }
    }

    fn none(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            list: Vec::new(),
            not_kept: 0,
            damaged: Vec::new(),
            unread: false,
            is_saved: true,
            saved_at: Timestamp::default(),
        }
    }

    /// Returns all findings, the oldest first.
    pub(crate) fn list(&self) -> &[StoredFinding] {
        &self.list
    }

    /// Returns the numbers of the findings that nobody has accepted.
    pub(crate) fn open_numbers(&self) -> impl Iterator<Item = u64> {
        self.list.iter().filter(|found| found.accepted.is_none()).map(|found| found.number)
    }

    /// Returns how many findings nobody has accepted, with those for which there was no room.
    pub(crate) fn open_count(&self) -> u64 {
        (self.open_numbers().count() as u64).saturating_add(self.not_kept)
    }

    /// Returns whether an operator has accepted that this key was deleted.
    pub(crate) fn has_accepted_deletion(&self, key: &[u8]) -> bool {
        let key = printable(key);
        self.list.iter().any(|found| {
            let Finding { kind, key: found_key, .. } = &found.finding;
            found.accepted.is_some()
                && *kind == FindingKind::KeyDeleted
                && found_key.as_ref().is_some_and(|found_key| *found_key == key)
        })
    }

    /// Returns whether an operator has accepted exactly this, so that it is no news. What the log
    /// has instead of an anchor's checkpoint changes with each append, so it does not count.
    pub(crate) fn is_accepted(&self, finding: &Finding) -> bool {
        let is_anchor = finding.kind == FindingKind::AnchorDiffers;
        let is_it = |known: &Finding| {
            *known == *finding || is_anchor && known.is_like(finding) && known.expected == finding.expected
        };
        self.list.iter().any(|found| found.accepted.is_some() && is_it(&found.finding))
    }

    /// Adds a finding, or counts it if it is known and open. It is durable after [`Self::save`].
    pub(crate) fn record(&mut self, mut finding: Finding, at: Timestamp) {
        self.is_saved = false;
        if self.count_known(&finding, at) {
            return;
        }
        if finding.kind == FindingKind::ForeignTransaction && self.has_many_foreign() {
            finding.key = Some(Self::FURTHER_KEYS.to_owned());
            if self.count_known(&finding, at) {
                return;
            }
        }
        // A number is never used twice.
        let number = self.list.last().map_or(1, |last| last.number.saturating_add(1));
        if self.list.len() >= Self::MAX {
            let Some(accepted) = self.list.iter().position(|found| found.accepted.is_some()) else {
                self.not_kept = self.not_kept.saturating_add(1);
                return;
            };
            self.list.remove(accepted);
        }
        self.list.push(StoredFinding {
            number,
            finding,
            first_seen: at,
            last_seen: at,
            count: 1,
            accepted: None,
        });
    }

    /// Counts a finding that is known and open. Returns whether it is.
    fn count_known(&mut self, finding: &Finding, at: Timestamp) -> bool {
        let is_known =
            |known: &&mut StoredFinding| known.accepted.is_none() && known.finding.is_like(finding);
        let Some(known) = self.list.iter_mut().find(is_known) else { return false };
        known.last_seen = known.last_seen.max(at);
        known.count = known.count.saturating_add(1);
        true
    }

    fn has_many_foreign(&self) -> bool {
        let is_foreign = |found: &&StoredFinding| {
            found.accepted.is_none() && found.finding.kind == FindingKind::ForeignTransaction
        };
        self.list.iter().filter(is_foreign).count() >= Self::FOREIGN_MAX
    }

    /// Marks findings as accepted. It is durable after [`Self::save`]. Those that were only counted
    /// are accepted as well.
    pub(crate) fn accept(&mut self, numbers: &[u64], because: &str, at: Timestamp) {
        self.is_saved = false;
        self.not_kept = 0;
        for found in &mut self.list {
            if found.accepted.is_none() && numbers.contains(&found.number) {
                found.accepted = Some(Acceptance { because: because.to_owned(), at });
            }
        }
    }

    /// Returns whether anything is new, and the last save that was due was not within the last
    /// second. The caller then has to save.
    pub(crate) fn is_save_due(&mut self, now: Timestamp) -> bool {
        let since = now.seconds().saturating_sub(self.saved_at.seconds());
        // The clock may have been set back.
        if self.is_saved || (0..Self::SAVE_EVERY).contains(&since) {
            return false;
        }
        self.saved_at = now;
        true
    }

    /// Returns what has to be saved, or `None` if nothing is new. [`Self::end_save`] has to follow.
    pub(crate) fn begin_save(&mut self) -> Option<FindingsSave> {
        if std::mem::replace(&mut self.is_saved, true) {
            return None;
        }
        Some(FindingsSave {
            path: self.path.clone(),
            list: self.list.clone(),
            not_kept: self.not_kept,
            damaged: self.damaged.clone(),
            unread: self.unread,
        })
    }

    /// Ends a save.
    pub(crate) fn end_save(&mut self, saved: bool) {
        if saved {
            self.damaged.clear();
        } else {
            self.is_saved = false;
        }
    }

    /// Saves the findings durably, if anything is new.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written, or if it could not be read before.
    pub(crate) fn save(&mut self) -> io::Result<()> {
        let Some(save) = self.begin_save() else { return Ok(()) };
        let saved = save.run();
        self.end_save(saved.is_ok());
        saved
    }
}

impl FindingsSave {
    /// Saves the findings durably.
    ///
    /// # Errors
    /// See [`Findings::save`].
    pub(crate) fn run(self) -> io::Result<()> {
        if self.unread {
            return Err(io::Error::other("the file could not be read and is not replaced"));
        }
        self.set_damaged_aside()?;
        let mut bytes = Vec::new();
        for found in &self.list {
            serde_json::to_writer(&mut bytes, found)?;
            bytes.push(b'\n');
        }
        if self.not_kept > 0 {
            serde_json::to_writer(&mut bytes, &NotKept { not_kept: self.not_kept })?;
            bytes.push(b'\n');
        }
        durable_file::replace(&self.path, &bytes)?;
        CrashPoint::FindingsSaved.reached();
        Ok(())
    }

    fn set_damaged_aside(&self) -> io::Result<()> {
        if self.damaged.is_empty() {
            return Ok(());
        }
        let aside = durable_file::extended(&self.path, "damaged");
        let mut file = fs::File::options().create(true).append(true).open(aside)?;
        for line in &self.damaged {
            file.write_all(&[line, b"\n".as_slice()].concat())?;
        }
        file.sync_all()
    }
}

/// Serialization of times as text, for those who read the file.
mod time {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::event::{Timestamp, time};

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&time::format(*at))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        time::parse(&text).ok_or_else(|| D::Error::custom("invalid time"))
    }
}

#[cfg(test)]
mod tests;
