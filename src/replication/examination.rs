//! Examines transactions that this process did not send: by their keys, and by comparing what they
//! wrote with the local log. Performs no calls to ImmuDB.
//!
//! Every transaction of this service writes `log:head`. So a transaction without it is another
//! client's, and must leave the keys of this service alone, unless it repeats exactly what is
//! there. One with it is of an earlier process of this service, or of another service that had the
//! database; its events must be those of the local log, and a checkpoint must not replace another
//! one. An operator looks at everything else.

use std::collections::BTreeMap;

use super::{
    checkpoint_digests::CheckpointDigests,
    findings::{Finding, printable},
    head,
    local_records::LocalRecords,
    tampering::Condition,
    transaction::{self, CHECKPOINT_PREFIX, EVENT_PREFIX, SEQUENCE_PREFIX, SNAPSHOT_PREFIX},
};
use crate::{
    event::{Position, SequenceNumber},
    history::{History, HistoryError},
    immudb::{EntryKey, EntryMetadata, KeyKind, Sha256Hash, TransactionKeys, TxId, verify::entry_digest},
};

/// The prefixes of the keys that only this service writes.
const PREFIXES: [&str; 5] = [EVENT_PREFIX, SEQUENCE_PREFIX, SNAPSHOT_PREFIX, "log:", CHECKPOINT_PREFIX];

/// What is known of `log:head` when the transactions before it are examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heads {
    /// It has not been read since.
    Unknown,
    /// It is this log's, or one that this log may continue: the local log has everything up to it.
    Local,
    /// It is ahead of the local log, which is restored from what it stands for.
    Ahead,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// The number of transactions of other clients.
    pub foreign: u64,
    /// The beginnings of the keys that they wrote, without those of this service, each with the
    /// first transaction that has it.
    pub prefixes: BTreeMap<String, TxId>,
    /// Keys of this service that were overwritten or deleted.
    pub tampered: Vec<Finding>,
    /// `log:head` was written or deleted, so it must be read before anything is decided.
    pub head_changed: bool,
}

/// Examines one transaction after the other.
#[derive(Debug)]
pub(crate) struct Examiner<'h> {
    records: LocalRecords<'h>,
    heads: Heads,
    /// ImmuDB has the local events up to here.
    known: Position,
    /// Every transaction of this service would have been recognized as such, so one that writes
    /// `log:head` is not this service's.
    knows_senders: bool,
    /// The checkpoints that ImmuDB is known to have.
    checkpoints: CheckpointDigests,
    /// The number of keys of this service that were overwritten or deleted.
    tampered: u64,
    report: Report,
}

/// The keys of this service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnKey<'k> {
    Head,
    Event,
    /// With the encoded aggregate id.
    Sequence(&'k [u8]),
    Snapshot,
    /// With the number of events.
    Checkpoint(u64),
    /// A key that this version does not write.
    Reserved,
}

impl<'k> OwnKey<'k> {
    fn of(entry: &'k EntryKey) -> Option<Self> {
        let key = &*entry.key;
        if entry.kind != KeyKind::Plain || !is_own_key(key) {
            return None;
        }
        Some(if key == head::KEY {
            Self::Head
        } else if key.starts_with(EVENT_PREFIX.as_bytes()) {
            Self::Event
        } else if let Some(id) = key.strip_prefix(SEQUENCE_PREFIX.as_bytes()) {
            Self::Sequence(id)
        } else if key.starts_with(SNAPSHOT_PREFIX.as_bytes()) {
            Self::Snapshot
        } else if let Some(size) = transaction::parse_checkpoint_key(key) {
            Self::Checkpoint(size)
        } else {
            Self::Reserved
        })
    }
}

/// Returns whether only this service writes such a key.
pub(super) fn is_own_key(key: &[u8]) -> bool {
    PREFIXES.iter().any(|prefix| key.starts_with(prefix.as_bytes()))
}

impl<'h> Examiner<'h> {
    /// The maximum number of findings and of prefixes in a report. An operator needs no more to see
    /// what has happened.
    const REPORTED_MAX: usize = 100;

    /// `known` is the position up to which ImmuDB had the local events before.
    pub(crate) fn new(history: &'h History, heads: Heads, known: Position) -> Self {
        let records = LocalRecords::new(history);
        Self {
            records,
            heads,
            known,
            knows_senders: false,
            checkpoints: CheckpointDigests::default(),
            tampered: 0,
            report: Report::default(),
        }
    }

    /// Compares checkpoints with those that ImmuDB is known to have.
    pub(super) fn knowing_checkpoints(self, checkpoints: CheckpointDigests) -> Self {
        Self { checkpoints, ..self }
    }

    /// Treats every transaction with `log:head` as another client's.
    pub(super) fn knowing_senders(self, knows_senders: bool) -> Self {
        Self { knows_senders, ..self }
    }

    pub(crate) fn report(self) -> Report {
        self.report
    }

    /// Examines a transaction, whose entries were checked against its header. Returns whether it
    /// has overwritten or deleted keys of this service.
    ///
    /// # Errors
    /// Returns an error if the local log cannot be read.
    pub(crate) fn examine(&mut self, transaction: &TransactionKeys) -> Result<bool, HistoryError> {
        let before = self.tampered;
        let is_head = |entry: &EntryKey| OwnKey::of(entry) == Some(OwnKey::Head);
        if self.heads == Heads::Unknown && transaction.entries.iter().any(is_head) {
            self.report.head_changed = true;
            return Ok(false);
        }
        let has_head = transaction.entries.iter().any(|entry| is_head(entry) && !entry.metadata.deleted);
        if !has_head || self.knows_senders {
            self.report.foreign = self.report.foreign.saturating_add(1);
        }
        let numbers = numbers_of(transaction);
        for entry in &transaction.entries {
            let Some(own) = OwnKey::of(entry) else {
                self.note_prefix(entry, transaction.header.id);
                continue;
            };
            if entry.metadata.deleted {
                self.note_tampered(Condition::KeyDeleted, transaction, entry, None);
                continue;
            }
            let written = Written { transaction, entry, has_head };
            match own {
                OwnKey::Head if self.knows_senders && self.heads == Heads::Local => {
                    self.note_tampered(Condition::KeyOverwritten, transaction, entry, None);
                }
                // The claim has judged its last value, and only that one counts.
                OwnKey::Head => {}
                OwnKey::Event => self.event(&written)?,
                OwnKey::Sequence(id) => self.sequence(&written, numbers.get(id).copied()),
                OwnKey::Snapshot => self.snapshot(&written)?,
                OwnKey::Checkpoint(size) => self.checkpoint(&written, size),
                OwnKey::Reserved => self.note_tampered(Condition::KeyOverwritten, transaction, entry, None),
            }
        }
        Ok(self.tampered > before)
    }

    fn event(&mut self, written: &Written<'_>) -> Result<(), HistoryError> {
        let ours = self.records.event(&written.entry.key)?;
        let position = ours.as_ref().map(|event| event.position);
        let expected = ours.map(|event| entry_digest(&written.entry.key, &event.record));
        if expected.is_some() && expected == written.digest() {
            if written.has_head {
                self.known = self.known.max(position.unwrap_or_default());
            }
            return Ok(());
        }
        // Another service may have continued the history that the local log has a part of.
        let may_continue = written.has_head && self.heads == Heads::Ahead;
        if !may_continue || position.is_some_and(|position| position <= self.known) {
            self.note_tampered(Condition::KeyOverwritten, written.transaction, written.entry, expected);
        }
        Ok(())
    }

    /// `last` is the number of the aggregate's last event in the same transaction.
    fn sequence(&mut self, written: &Written<'_>, last: Option<SequenceNumber>) {
        let value = last.map(transaction::sequence_value);
        let expected = value.map(|value| entry_digest(&written.entry.key, &value));
        let is_right = expected.is_some() && expected == written.digest();
        if !(written.has_head && is_right) {
            self.note_tampered(Condition::KeyOverwritten, written.transaction, written.entry, expected);
        }
    }

    fn snapshot(&mut self, written: &Written<'_>) -> Result<(), HistoryError> {
        // The local log lacks the snapshots that another service saved while it had the database.
        if written.has_head {
            return Ok(());
        }
        let ours = self.records.snapshot(&written.entry.key)?;
        let expected = ours.map(|record| entry_digest(&written.entry.key, &record));
        if expected.is_none() || expected != written.digest() {
            self.note_tampered(Condition::KeyOverwritten, written.transaction, written.entry, expected);
        }
        Ok(())
    }

    /// A checkpoint is stored once, and only together with the head. The same value again changes
    /// nothing.
    fn checkpoint(&mut self, written: &Written<'_>, size: u64) {
        let known = self.checkpoints.get(size);
        let digest = written.digest();
        let is_right = match known {
            Some(known) => digest == Some(known),
            None => digest.is_some() && written.has_head,
        };
        if !is_right {
            self.note_tampered(Condition::KeyOverwritten, written.transaction, written.entry, known);
        } else if let Some(digest) = digest {
            self.checkpoints.add(size, digest);
        }
    }

    fn note_tampered(
        &mut self,
        condition: Condition,
        transaction: &TransactionKeys,
        entry: &EntryKey,
        expected: Option<Sha256Hash>,
    ) {
        self.tampered = self.tampered.saturating_add(1);
        if self.report.tampered.len() >= Self::REPORTED_MAX {
            return;
        }
        let found = if entry.metadata.deleted {
            "a deletion".to_owned()
        } else {
            entry.digest(transaction.header.version).map(hex::encode).unwrap_or_default()
        };
        let expected = expected.map_or_else(|| "no write of another client".to_owned(), hex::encode);
        let finding = condition.finding(expected, found);
        let finding = finding.in_transaction(transaction.header.id.0).of_key(&entry.key);
        self.report.tampered.push(finding);
    }

    fn note_prefix(&mut self, entry: &EntryKey, tx: TxId) {
        let prefix = prefix(entry);
        if self.report.prefixes.len() < Self::REPORTED_MAX {
            self.report.prefixes.entry(prefix).or_insert(tx);
        }
    }
}

/// An entry that writes a value.
struct Written<'t> {
    transaction: &'t TransactionKeys,
    entry: &'t EntryKey,
    /// The transaction also writes `log:head`.
    has_head: bool,
}

impl Written<'_> {
    /// Returns the digest of an entry as this service writes them, or `None` if it is another kind.
    fn digest(&self) -> Option<Sha256Hash> {
        let is_plain = self.entry.metadata == EntryMetadata::default();
        self.entry.digest(self.transaction.header.version).filter(|_| is_plain)
    }
}

/// Returns the number of the last event of each aggregate in a transaction, by encoded aggregate
/// id.
fn numbers_of(transaction: &TransactionKeys) -> BTreeMap<&[u8], SequenceNumber> {
    let mut numbers = BTreeMap::new();
    for entry in transaction.entries.iter().filter(|entry| OwnKey::of(entry) == Some(OwnKey::Event)) {
        if let Some((id, number)) = transaction::parse_event_key(&entry.key) {
            let last: &mut SequenceNumber = numbers.entry(id.as_bytes()).or_default();
            *last = number.max(*last);
        }
    }
    numbers
}

/// Returns the beginning of a key of another client, up to the first colon, safe to print.
fn prefix(entry: &EntryKey) -> String {
    const BYTES_MAX: usize = 64;
    let text = match entry.kind {
        KeyKind::Plain => {
            let end = entry.key.iter().position(|byte| *byte == b':').map(|colon| colon.saturating_add(1));
            let end = end.unwrap_or(entry.key.len()).min(BYTES_MAX);
            return printable(entry.key.get(..end).unwrap_or_default());
        }
        KeyKind::SortedSet => "(sorted sets)",
        KeyKind::Sql => "(SQL)",
        KeyKind::Document => "(documents)",
        KeyKind::Other(_) => "(other)",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests;
