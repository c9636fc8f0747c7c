//! Compares what a transaction wrote with the local log.
//!
//! Nearly all transactions are of this service, have the next events of the local log, and are
//! compared byte for byte while both are read in order. The others are examined by their keys and
//! the hashes of their values, as the forwarder does it with transactions that it did not send.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::local::{LocalPlace, LocalReader, is_damage};
use crate::{
    event::{ChainHash, Position, SequenceNumber, record::StoredEvent},
    history::{History, HistoryError},
    immudb::{
        EntryKey, EntryMetadata, KeyKind, Transaction, TransactionKeys, TxId,
        verify::{HeaderMismatch, entries_hash, entry_digest},
    },
    log::ReadError,
    replication::{
        examination::{Examiner, Heads},
        findings::FindingKind,
        head::{self, LogHead},
        ledger::Contradiction,
        reports::Report,
        tampering::{Condition, Evidence},
        transaction::{
            CHECKPOINT_PREFIX, EVENT_PREFIX, SEQUENCE_PREFIX, SNAPSHOT_PREFIX, event_key, parse_event_key,
            sequence_value,
        },
    },
};

/// What the comparison has shown.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub events: u64,
    /// The transaction has to be examined by its keys.
    pub by_keys: bool,
    pub reports: Vec<Report>,
}

/// Checks that the entries are those of the header. Entries of other kinds have no values here, so
/// a transaction with some is examined by its keys.
pub(super) fn check_entries(transaction: &Transaction) -> Result<(), Contradiction> {
    if transaction.foreign_entries() > 0 {
        return Ok(());
    }
    let digests = transaction.entries.iter().map(|(key, value)| entry_digest(key, value));
    let (tx, expected) = (transaction.header.id, transaction.header.entries_hash);
    let found = entries_hash(digests);
    if found != expected {
        return Err(HeaderMismatch::EntriesHash { tx, expected, found }.into());
    }
    Ok(())
}

/// Returns what a contradiction is reported as.
pub(super) fn contradicted(contradiction: Contradiction) -> impl Iterator<Item = Report> {
    let Evidence { condition, findings } = Evidence::from(contradiction);
    findings.into_iter().map(move |finding| Report { condition, finding })
}

/// Compares a transaction with the local log.
///
/// # Errors
/// Returns an error if the local log cannot be read.
pub(super) fn compare(
    transaction: &Transaction,
    place: &mut LocalPlace,
    reader: &mut LocalReader,
) -> Result<Compared, HistoryError> {
    let head = transaction.entries.iter().find(|(key, _)| key == head::KEY);
    let head = head.and_then(|(_, value)| LogHead::decode(value));
    let Some(head) = head.filter(|_| transaction.foreign_entries() == 0) else {
        return Ok(Compared { by_keys: true, ..Compared::default() });
    };
    let mut comparison =
        Comparison { tx: transaction.header.id, place, reader, compared: Compared::default() };
    let compared = comparison.entries(&transaction.entries).map(|is_ours| (is_ours, comparison.compared));
    let mut compared = match compared {
        Ok((true, compared)) => compared,
        Ok((false, compared)) => {
            place.gap = true;
            return Ok(Compared { by_keys: true, ..compared });
        }
        Err(error) if is_damage(&error) => {
            let report = local_damage(&error);
            place.lose(head.position.min(reader.last()));
            return Ok(Compared { reports: vec![report], ..Compared::default() });
        }
        Err(error) => return Err(error),
    };
    compared.reports.extend(compare_head(transaction.header.id, &head, place, compared.events));
    Ok(compared)
}

/// The comparison of one transaction.
struct Comparison<'c> {
    tx: TxId,
    place: &'c mut LocalPlace,
    reader: &'c mut LocalReader,
    compared: Compared,
}

impl Comparison<'_> {
    /// Returns whether all entries are of this service, and the events the next ones.
    fn entries(&mut self, entries: &[(Bytes, Bytes)]) -> Result<bool, HistoryError> {
        let mut last_of: BTreeMap<&str, SequenceNumber> = BTreeMap::new();
        for (key, value) in entries {
            if let Some((id, sequence)) = parse_event_key(key) {
                if !self.event(key, value)? {
                    return Ok(false);
                }
                let last = last_of.entry(id).or_default();
                *last = sequence.max(*last);
                self.compared.events = self.compared.events.saturating_add(1);
            }
        }
        let is_right = |(key, value): &(Bytes, Bytes)| {
            let sequence_of = key.strip_prefix(SEQUENCE_PREFIX.as_bytes()).map(std::str::from_utf8);
            match sequence_of {
                Some(id) => {
                    let last = id.ok().and_then(|id| last_of.get(id));
                    last.is_some_and(|last| sequence_value(*last) == *value)
                }
                None => {
                    key == head::KEY
                        || key.starts_with(SNAPSHOT_PREFIX.as_bytes())
                        || key.starts_with(CHECKPOINT_PREFIX.as_bytes())
                        || parse_event_key(key).is_some()
                }
            }
        };
        Ok(entries.iter().all(is_right))
    }

    /// Compares the record of an event with the next one of the local log.
    fn event(&mut self, key: &Bytes, value: &Bytes) -> Result<bool, HistoryError> {
        let Ok(event) = StoredEvent::new(value.clone(), ChainHash::START) else { return Ok(false) };
        if event.position <= self.place.last {
            return Ok(false);
        }
        let before = Position(event.position.0.saturating_sub(1));
        if before > self.place.last {
            self.behind(before, event.position, value)?;
        }
        let Some(ours) = self.reader.record(event.position)? else { return Ok(false) };
        let is_its_key = |event: &StoredEvent| {
            event.aggregate().is_ok_and(|aggregate| event_key(&aggregate, event.sequence) == *key)
        };
        if before != self.place.last || ours.bytes != *value || !is_its_key(&event) {
            return Ok(false);
        }
        self.place.advance(&ours);
        Ok(true)
    }

    /// Goes on to an event that is not the next one, if it is one of the local log.
    fn behind(&mut self, before: Position, position: Position, value: &Bytes) -> Result<(), HistoryError> {
        let ours = self.reader.record(position)?;
        if ours.is_none_or(|ours| ours.bytes != *value) {
            return Ok(());
        }
        if !self.place.gap {
            self.compared.reports.push(missing(self.tx, self.place.last.next(), before));
        }
        self.place.catch_up(self.reader, before)
    }
}

/// Compares `log:head` with the local log, behind the events of its transaction.
fn compare_head(tx: TxId, head: &LogHead, place: &mut LocalPlace, events: u64) -> Option<Report> {
    let differs = |expected: String, found: String| {
        let finding = Condition::RecordDiffers.finding(expected, found);
        Some(Report {
            condition: Condition::RecordDiffers,
            finding: finding.in_transaction(tx.0).of_key(head::KEY),
        })
    };
    if head.position > place.last {
        let report = (!place.gap).then(|| missing(tx, place.last.next(), head.position));
        place.gap = true;
        return report;
    }
    if head.position < place.last {
        // Without events, it may be that of a claim or of a transaction that was sent again.
        let texts = (format!("position {}", place.last), format!("position {}", head.position));
        return if events > 0 { differs(texts.0, texts.1) } else { None };
    }
    if let Some(hash) = place.hash.filter(|hash| *hash != head.hash) {
        return differs(format!("the chain hash {hash}"), format!("the chain hash {}", head.hash));
    }
    let (ours, theirs) = (place.tree.as_ref()?, head.tree.as_ref()?);
    let root = ours.root();
    if theirs.size != ours.size() || theirs.root != root {
        let text = |size: u64, root: &[u8; 32]| {
            format!("a tree of {size} events with the root {}", hex::encode(root))
        };
        return differs(text(ours.size(), &root), text(theirs.size, &theirs.root));
    }
    None
}

/// Events that no transaction before this one has.
fn missing(tx: TxId, first: Position, last: Position) -> Report {
    let expected = format!("the events of the positions {first} to {last} up to this transaction");
    let finding = Condition::RecordDiffers.finding(expected, "none of them").in_transaction(tx.0);
    Report { condition: Condition::RecordDiffers, finding: finding.of_key(head::KEY) }
}

/// Damage makes several records unreadable, and is one finding.
fn local_damage(error: &HistoryError) -> Report {
    let condition = Condition::LocalDamage;
    let finding = condition.finding("the bytes that were written", error.to_string());
    let at = match error {
        HistoryError::Log(ReadError::Damage(damage)) => {
            format!("{}@{}", damage.file.file_name().unwrap_or_default().display(), damage.offset)
        }
        other => other.to_string(),
    };
    Report { condition, finding: finding.of_key(at.as_bytes()) }
}

/// Examines a transaction by its keys and the hashes of its values.
///
/// # Errors
/// Returns an error if the local log cannot be read.
pub(super) fn examine(keys: &TransactionKeys, history: &History) -> Result<Vec<Report>, HistoryError> {
    if let Err(mismatch) = keys.check() {
        return Ok(contradicted(mismatch.into()).collect());
    }
    let is_head =
        |entry: &EntryKey| entry.kind == KeyKind::Plain && !entry.metadata.deleted && entry.key == head::KEY;
    let has_head = keys.entries.iter().any(is_head);
    let mut examiner = Examiner::new(history, Heads::Local, Position(u64::MAX));
    match examiner.examine(keys) {
        Ok(_) => {}
        Err(error) if is_damage(&error) => {
            return Ok(vec![local_damage(&error)]);
        }
        Err(error) => return Err(error),
    }
    let found = examiner.report();
    let tampered = found.tampered.into_iter().map(|mut finding| {
        let is_event = finding.key.as_ref().is_some_and(|key| key.starts_with(EVENT_PREFIX));
        let condition = if finding.kind == FindingKind::KeyDeleted {
            Condition::KeyDeleted
        } else if has_head && is_event {
            // It is of this service, or pretends to be.
            Condition::RecordDiffers
        } else {
            Condition::KeyOverwritten
        };
        finding.kind = condition.row().finding.unwrap_or(finding.kind);
        Report { condition, finding }
    });
    let prefixes = found.prefixes.iter().map(|(prefix, tx)| {
        let condition = Condition::ForeignTransaction;
        let finding = condition.finding("only transactions of this service", "another");
        Report { condition, finding: finding.in_transaction(tx.0).of_key(prefix.as_bytes()) }
    });
    Ok(tampered.chain(prefixes).collect())
}

/// Returns whether the entry is one that this service could have written.
pub(super) fn is_plain_write(entry: &EntryKey) -> bool {
    entry.kind == KeyKind::Plain && entry.metadata == EntryMetadata::default()
}

#[cfg(test)]
mod tests;
