//! Restores from ImmuDB what the local log lacks: everything onto an empty disk, or a lost end.
//!
//! Transactions are read in order, which is also the order of positions. Each transaction of this
//! service contains the head as of then, so the chain hash is verified transaction by transaction.
//! Anything that does not continue the local history exactly stops the restore before it is
//! written. All of it must also be in the history of ImmuDB that leads to the trusted state.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tracing::{info, warn};

mod damaged;

pub(crate) use damaged::AtDamage;
use damaged::{Front, NextPage, next_page};

use super::{
    examination::{self, Examiner, Heads},
    findings::Finding,
    head::{self, LogHead},
    ledger::Contradiction,
    linked::Linked,
    transaction,
};
use crate::{
    crash_point::CrashPoint,
    durable_file,
    event::{
        ChainHash, Position,
        record::{self, RecordError, ReplicationMark, StoredEvent},
    },
    history::{History, HistoryError},
    immudb::{self, ErrorKind, Session, Transaction, TransactionPages, TxId, verify::TrustedState},
    log::writer_ids,
    progress::Progress,
    sequencer::{RestoreError, RestoredTransaction, Sequencer},
};

/// Why a restore ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogRestoreError {
    /// The restore can be retried later, from where it stopped.
    #[error(transparent)]
    Immudb(#[from] immudb::Error),
    #[error("the history in ImmuDB does not match: {0}")]
    Diverged(#[from] Divergence),
    /// What was read does not lead to the trusted state.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The marker of the restore cannot be removed.
    #[error(transparent)]
    Marker(io::Error),
}

/// How ImmuDB's history fails to continue the local log, or to match its own head.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Divergence {
    /// The last local event is not in ImmuDB as the service stores events there.
    #[error("{0}")]
    LastEvent(&'static str),
    #[error("the history in ImmuDB ends at position {0}")]
    EndsEarly(Position),
    #[error("the chain hash does not match log:head")]
    ChainHash,
    #[error("transaction {tx}: {what}")]
    Transaction { tx: TxId, what: &'static str },
    #[error("transaction {tx}: {source}")]
    Record { tx: TxId, source: RecordError },
}

/// Marks a restore that has begun and not ended. Until it ends, the log lacks events and no writes
/// may be accepted.
#[derive(Debug)]
pub(crate) struct RestoreMarker {
    path: PathBuf,
    /// The file that says where the log ended then.
    restored: PathBuf,
}

impl RestoreMarker {
    pub(crate) fn new(folder: &Path) -> Self {
        let restored = folder.join(writer_ids::RESTORED);
        Self { path: folder.join(writer_ids::UNFINISHED_COPY), restored }
    }

    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    pub(super) fn begin(&self) -> io::Result<()> {
        fs::write(&self.path, "The history is being restored from ImmuDB.\n")?;
        self.sync()
    }

    /// `last` is where the log ends. Nothing was appended to it since it was restored.
    pub(super) fn end(&self, last: Position) -> io::Result<()> {
        // A log that is restored once more may have got events of its own in between.
        if self.restored().is_none() {
            self.note_restored(last)?;
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => self.sync(),
        }
    }

    /// Returns where the log ended when it had been restored, before anything was appended to it.
    /// `None` if it was not, or if there was nothing to restore.
    pub(crate) fn restored(&self) -> Option<Position> {
        let text = fs::read_to_string(&self.restored).ok()?;
        text.trim().parse().ok().map(Position).filter(|last| *last > Position(0))
    }

    /// Records durably where the log ends now that it has been restored.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub(crate) fn note_restored(&self, last: Position) -> io::Result<()> {
        durable_file::replace(&self.restored, format!("{}\n", last.0).as_bytes())
    }

    fn sync(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    }
}

/// One restore, from the end of the local log to ImmuDB's head.
pub(crate) struct LogRestore<'a> {
    pub session: &'a Session,
    pub sequencer: &'a Sequencer,
    pub history: &'a History,
    pub unfinished: &'a RestoreMarker,
    pub head: &'a LogHead,
}

/// What a restore has found that an operator has to know.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    /// What other clients have done to keys of this service. The restore leaves that out.
    pub tampered: Vec<Finding>,
    /// What is damaged in ImmuDB. The local log lacks it, and everything behind it.
    pub lacks: Vec<Finding>,
}

/// How far the chain hash has been verified.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checked {
    pub position: Position,
    pub hash: ChainHash,
}

impl LogRestore<'_> {
    /// Verifies that ImmuDB's history continues the local one. Returns the transaction to start
    /// from.
    ///
    /// # Errors
    /// Returns an error if the history does not fit, or cannot be read.
    pub(crate) async fn check_fit(&self) -> Result<TxId, LogRestoreError> {
        let tip = self.sequencer.tip();
        if tip.position == Position(0) {
            return Ok(TxId(1));
        }
        let last = self.history.event_at(tip.position, tip)?;
        let key = transaction::event_key(&last.event.aggregate_id, last.sequence);
        let entry = self.session.get(&key).await?;
        let entry = entry.ok_or(Divergence::LastEvent("ImmuDB lacks the last local event"))?;
        // An earlier restore may have ended within a page, before the snapshots of its
        // transactions.
        let first = TxId(entry.tx.0.saturating_sub(TransactionPages::LIMIT_MAX.into()).max(1));
        let transactions = match self.session.scan_transactions(entry.tx, 1).await {
            // Another value of the transaction is damaged.
            Err(error) if error.kind == ErrorKind::Corrupted => {
                let ours = self.history.record_at(tip.position, tip)?;
                return if ours.bytes == entry.value { Ok(first) } else { Err(error.into()) };
            }
            found => found?,
        };
        let transaction = transactions
            .first()
            .ok_or(Divergence::LastEvent("ImmuDB lacks the transaction of the last local event"))?;
        let mut checked = Checked { position: tip.position, hash: tip.hash };
        take_apart(transaction, &mut checked)?;
        let head = head_in(transaction)
            .ok_or(Divergence::LastEvent("the transaction of the last local event has no log:head"))?;
        if head.position < tip.position {
            let what = "the last local event is beyond the log:head of its transaction";
            return Err(Divergence::LastEvent(what).into());
        }
        Ok(first)
    }

    /// Restores everything up to the last transaction: after the last event there may be snapshots.
    /// The transactions must lead to `anchor`.
    ///
    /// # Errors
    /// Returns an error if ImmuDB is unreachable (the restore can be started again), or if its
    /// contents do not fit, or are damaged.
    pub(crate) async fn run(
        &self,
        first: TxId,
        anchor: TrustedState,
        at_damage: AtDamage,
    ) -> Result<Copied, LogRestoreError> {
        let tip = self.sequencer.tip();
        let checked = Checked { position: tip.position, hash: tip.hash };
        let mut front = Front { checked, last: None, anchor };
        info!(from = tip.position.0, until = self.head.position.0, "restoring the history from ImmuDB");
        let mut progress =
            Progress::new("restoring from ImmuDB", "events", tip.position.0, self.head.position.0);
        let mut pages = TransactionPages::from(first);
        let mut linked = Linked::new(anchor);
        // Every event that the local log has by then was in ImmuDB before.
        let mut examiner = Examiner::new(self.history, Heads::Local, Position(u64::MAX));
        let mut foreign = 0u64;
        let mut next = next_page(self.session, &mut pages).await?;
        let damage = loop {
            let page = match next {
                NextPage::Damaged(damage) => break Some(damage),
                NextPage::Read(page) if page.is_empty() => break None,
                NextPage::Read(page) => page,
            };
            // ImmuDB assembles the next page meanwhile.
            let copy = async {
                let (linked, page) = linked.check(page).await?;
                let skipped = self.copy_page(&page, &mut front.checked, &mut examiner).await?;
                front.last = page.last().map(|(_, state)| *state);
                Ok::<_, LogRestoreError>((linked, skipped))
            };
            let (read, copied) = tokio::join!(next_page(self.session, &mut pages), copy);
            let skipped;
            (linked, skipped) = copied?;
            foreign = foreign.saturating_add(skipped);
            progress.reached(front.checked.position.0);
            CrashPoint::PageCopied.reached();
            next = read?;
        };
        if foreign > 0 {
            warn!(transactions = foreign, "skipped transactions of other clients");
        }
        match (damage, at_damage) {
            (None, _) => {}
            (Some(damage), AtDamage::Fails) => return Err(self.damaged(&damage, front.checked).into()),
            (Some(damage), AtDamage::Ends) => {
                let copied = self.end_at(&damage, front).await?;
                return Ok(Copied { tampered: examiner.report().tampered, ..copied });
            }
        }
        linked.end()?;
        self.end(front.checked)?;
        Ok(Copied { tampered: examiner.report().tampered, lacks: Vec::new() })
    }

    /// Ends a restore that has reached the last transaction.
    fn end(&self, checked: Checked) -> Result<(), LogRestoreError> {
        if checked.position < self.head.position {
            return Err(Divergence::EndsEarly(checked.position).into());
        }
        // Transactions committed since the head was read are verified against their own heads.
        if checked.position == self.head.position && checked.hash != self.head.hash {
            return Err(Divergence::ChainHash.into());
        }
        CrashPoint::CopyEnding.reached();
        self.unfinished.end(self.sequencer.tip().position).map_err(LogRestoreError::Marker)?;
        info!(position = checked.position.0, "restored the history from ImmuDB");
        Ok(())
    }

    /// Restores one page. Returns the number of transactions that were written by other clients.
    async fn copy_page(
        &self,
        page: &[(Transaction, TrustedState)],
        checked: &mut Checked,
        examiner: &mut Examiner<'_>,
    ) -> Result<u64, LogRestoreError> {
        let mut restored = Vec::with_capacity(page.len());
        let mut kinds = Vec::with_capacity(page.len());
        for (transaction, state) in page {
            if head_in(transaction).is_none() || transaction.foreign_entries() > 0 {
                kinds.push(Kind::Foreign);
                continue;
            }
            let appends = take_apart(transaction, checked)?;
            // Events that are not new here were restored before, or are forged.
            let is_repeated = appends.is_empty() && has_events(transaction);
            kinds.push(if is_repeated { Kind::Repeated } else { Kind::New });
            if !appends.is_empty() {
                let mark = ReplicationMark {
                    position: checked.position,
                    immudb_tx: state.tx.0,
                    immudb_hash: Some(state.alh),
                    ..ReplicationMark::default()
                };
                restored.push(RestoredTransaction { appends, mark });
            }
        }
        if !restored.is_empty() {
            self.sequencer.restore(restored).await?;
        }
        // Only now are all of the page's events known.
        for ((transaction, state), kind) in page.iter().zip(&kinds) {
            let is_whole = match kind {
                Kind::New => true,
                Kind::Repeated => !self.examine(examiner, *state).await?,
                Kind::Foreign if may_have_keys_of_ours(transaction) => {
                    self.examine(examiner, *state).await?;
                    false
                }
                Kind::Foreign => false,
            };
            for snapshot in snapshots_in(transaction).filter(|_| is_whole) {
                self.sequencer.restore_snapshot(snapshot).await?;
            }
        }
        Ok(kinds.iter().filter(|kind| **kind == Kind::Foreign).count() as u64)
    }

    /// Examines a transaction by all of its keys. Returns whether it has overwritten or deleted
    /// keys of this service.
    async fn examine(
        &self,
        examiner: &mut Examiner<'_>,
        state: TrustedState,
    ) -> Result<bool, LogRestoreError> {
        let found = self.session.scan_headers(state.tx, 1).await?;
        let found = found.first().ok_or(Contradiction::Missing { expected: state.tx })?;
        found.check().map_err(Contradiction::from)?;
        let version = Contradiction::of_version(&found.header);
        let alh = found.header.accumulated_hash().ok_or(version)?;
        Contradiction::check(state, TrustedState { tx: found.header.id, alh })?;
        Ok(examiner.examine(found)?)
    }
}

/// What a transaction is to a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of this service, with events that are new here or without any.
    New,
    /// With events, none of which is new here.
    Repeated,
    /// Of another client.
    Foreign,
}

/// Returns the records after position `from` and before position `until`, in order, as far as
/// ImmuDB has them.
///
/// # Errors
/// Returns an error if ImmuDB cannot be read.
pub(crate) async fn records_between(
    session: &Session,
    from: Position,
    until: Position,
) -> Result<Vec<Bytes>, immudb::Error> {
    let mut found = Vec::new();
    let mut pages = TransactionPages::from(TxId(1));
    loop {
        let page = pages.next(session).await?;
        let ours = page.iter().filter(|transaction| head_in(transaction).is_some());
        for (key, value) in ours.flat_map(|transaction| &transaction.entries) {
            if !key.starts_with(transaction::EVENT_PREFIX.as_bytes()) {
                continue;
            }
            let Ok(event) = record::decode(value.clone(), ChainHash::START) else { continue };
            if event.position >= until {
                return Ok(found);
            }
            if event.position > from {
                found.push(value.clone());
            }
        }
        if page.is_empty() {
            return Ok(found);
        }
    }
}

pub(super) fn head_in(transaction: &Transaction) -> Option<LogHead> {
    transaction.entries.iter().find(|(key, _)| key == head::KEY).and_then(|(_, value)| LogHead::decode(value))
}

fn may_have_keys_of_ours(transaction: &Transaction) -> bool {
    transaction.foreign_entries() > 0
        || transaction.entries.iter().any(|(key, _)| examination::is_own_key(key))
}

fn has_events(transaction: &Transaction) -> bool {
    transaction.entries.iter().any(|(key, _)| key.starts_with(transaction::EVENT_PREFIX.as_bytes()))
}

fn snapshots_in(transaction: &Transaction) -> impl Iterator<Item = Bytes> {
    let prefix = transaction::SNAPSHOT_PREFIX.as_bytes();
    transaction.entries.iter().filter(move |(key, _)| key.starts_with(prefix)).map(|(_, value)| value.clone())
}

/// Verifies a transaction. Returns its appends after `checked`, and advances `checked` to their
/// end.
pub(crate) fn take_apart(
    transaction: &Transaction,
    checked: &mut Checked,
) -> Result<Vec<Vec<Bytes>>, Divergence> {
    let tx = transaction.header.id;
    let diverged = |what| Divergence::Transaction { tx, what };
    let head = head_in(transaction).ok_or_else(|| diverged("it has no log:head"))?;
    if head.position <= checked.position {
        // It has no event that is new here, whatever else it has.
        let is_same = head.position < checked.position || head.hash == checked.hash;
        let no_appends = is_same.then(Vec::new);
        return no_appends.ok_or_else(|| diverged("the chain hash does not match its log:head"));
    }
    let mut appends: Vec<Vec<Bytes>> = Vec::new();
    for (key, value) in &transaction.entries {
        if !key.starts_with(transaction::EVENT_PREFIX.as_bytes()) {
            continue;
        }
        let event = StoredEvent::new(value.clone(), ChainHash::START)
            .and_then(|event| event.decode())
            .map_err(|source| Divergence::Record { tx, source })?;
        if event.position <= checked.position {
            continue;
        }
        if event.position != checked.position.next()
            || *key != transaction::event_key(&event.event.aggregate_id, event.sequence)
        {
            return Err(diverged("its events do not continue the history"));
        }
        match appends.last_mut().filter(|_| event.position > event.append.first) {
            Some(append) => append.push(value.clone()),
            None => appends.push(vec![value.clone()]),
        }
        *checked = Checked { position: event.position, hash: checked.hash.chain(value) };
    }
    if head.position == checked.position && head.hash != checked.hash {
        return Err(diverged("the chain hash does not match its log:head"));
    }
    if !appends.is_empty() && head.position != checked.position {
        return Err(diverged("its log:head is not at the position of its last event"));
    }
    Ok(appends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_first_restore_ended_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let marker = RestoreMarker::new(dir.path());
        assert_eq!(marker.restored(), None);
        marker.begin().unwrap();
        assert!(marker.exists() && marker.restored().is_none(), "it has not ended");
        marker.end(Position(5)).unwrap();
        assert_eq!((marker.exists(), marker.restored()), (false, Some(Position(5))));
        // Events were appended since.
        marker.begin().unwrap();
        marker.end(Position(9)).unwrap();
        assert_eq!(RestoreMarker::new(dir.path()).restored(), Some(Position(5)));
        // What is imported belongs to it.
        marker.note_restored(Position(7)).unwrap();
        assert_eq!(marker.restored(), Some(Position(7)));
    }

    #[test]
    fn a_restore_of_nothing_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let marker = RestoreMarker::new(dir.path());
        marker.begin().unwrap();
        marker.end(Position(0)).unwrap();
        assert_eq!(marker.restored(), None);
        marker.begin().unwrap();
        marker.end(Position(3)).unwrap();
        assert_eq!(marker.restored(), Some(Position(3)));
    }
}
