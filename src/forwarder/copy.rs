//! Taking out of ImmuDB what the local log lacks: everything onto an empty disk, or a lost end.
//!
//! The transactions are read in their order, which is that of positions. Each of ours holds the head as
//! it was then, so the hash chain is checked transaction by transaction; whatever does not continue our
//! history exactly stops the copy before it is written.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tracing::{info, warn};

use super::{
    batch,
    head::{self, Head},
};
use crate::{
    crash_point::CrashPoint,
    event::{
        Hash, Position,
        record::{self, ForwardedMark, StoredEvent},
    },
    history::{History, HistoryError},
    immudb::{self, Session, Transaction, TransactionPages, TxId},
    log::writer_ids,
    progress::Progress,
    sequencer::{AdoptError, AdoptedTransaction, Sequencer},
};

/// Why a copy ended early.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Try again later, from where it stopped.
    #[error(transparent)]
    Immudb(#[from] immudb::Error),
    /// ImmuDB's history is not the one that our log begins with, or is not what its head says.
    #[error("ImmuDB's history does not fit: {0}")]
    Diverged(String),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Adopt(#[from] AdoptError),
}

/// A copy that was begun and not ended: until then the log lacks events and nothing may be taken.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    pub fn new(folder: &Path) -> Self {
        Self { path: folder.join(writer_ids::UNFINISHED_COPY) }
    }

    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    pub(super) fn begin(&self) -> io::Result<()> {
        fs::write(&self.path, "The history is being copied out of ImmuDB.\n")?;
        self.sync()
    }

    pub(super) fn end(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => self.sync(),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    }
}

/// One copy, from the end of our log to ImmuDB's head.
pub struct Copy<'a> {
    pub session: &'a Session,
    pub sequencer: &'a Sequencer,
    pub history: &'a History,
    pub unfinished: &'a Unfinished,
    pub head: &'a Head,
}

/// How far the chain was checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checked {
    pub position: Position,
    pub hash: Hash,
}

impl Copy<'_> {
    /// The transaction to begin with, after it was checked that ImmuDB's history goes on from ours.
    ///
    /// # Errors
    /// It does not, or can't be read.
    pub async fn check_fit(&self) -> Result<TxId, CopyError> {
        let tip = self.sequencer.tip();
        if tip.position == Position(0) {
            return Ok(TxId(1));
        }
        let diverged = |what: &str| CopyError::Diverged(what.to_owned());
        let last = self.history.event_at(tip.position, tip)?;
        let key = batch::event_key(&last.event.aggregate_id, last.sequence);
        let entry = self.session.get(&key).await?.ok_or_else(|| diverged("it lacks our last event"))?;
        let transactions = self.session.scan_transactions(entry.tx, 1).await?;
        let transaction = transactions.first().ok_or_else(|| diverged("a transaction is missing"))?;
        let mut checked = Checked { position: tip.position, hash: tip.hash };
        take_apart(transaction, &mut checked)?;
        let head = head_in(transaction).ok_or_else(|| diverged("a transaction without a head"))?;
        if head.position < tip.position {
            return Err(diverged("our last event lies beyond the head that came with it"));
        }
        // An earlier copy may have ended within a page, before the snapshots of its transactions.
        Ok(TxId(entry.tx.0.saturating_sub(TransactionPages::LIMIT_MAX.into()).max(1)))
    }

    /// Copies everything up to the last transaction: behind the last event there may be snapshots.
    ///
    /// # Errors
    /// ImmuDB is gone (begin again), or what it holds does not fit.
    pub async fn run(&self, first: TxId) -> Result<(), CopyError> {
        let tip = self.sequencer.tip();
        let mut checked = Checked { position: tip.position, hash: tip.hash };
        info!(from = tip.position.0, until = self.head.position.0, "copying the history out of ImmuDB");
        let mut progress =
            Progress::new("copying out of ImmuDB", "events", tip.position.0, self.head.position.0);
        let mut pages = TransactionPages::from(first);
        let mut foreign = 0u64;
        let mut page = pages.next(self.session).await?;
        while !page.is_empty() {
            // ImmuDB gathers the next one meanwhile.
            let (next, skipped) = tokio::join!(pages.next(self.session), self.copy_page(&page, &mut checked));
            foreign = foreign.saturating_add(skipped?);
            progress.reached(checked.position.0);
            CrashPoint::PageCopied.reached();
            page = next?;
        }
        if checked.position < self.head.position {
            return Err(CopyError::Diverged(format!("it ends at position {}", checked.position)));
        }
        // What came since the head was read is held by the heads that came with it.
        if checked.position == self.head.position && checked.hash != self.head.hash {
            return Err(CopyError::Diverged("the hash chain does not lead to the head".to_owned()));
        }
        if foreign > 0 {
            warn!(transactions = foreign, "transactions that are none of ours were skipped");
        }
        CrashPoint::CopyEnding.reached();
        self.unfinished.end().map_err(|error| AdoptError::NotWritten(error.to_string()))?;
        info!(position = checked.position.0, "copied out of ImmuDB");
        Ok(())
    }

    /// Returns how many transactions were none of ours.
    async fn copy_page(&self, page: &[Transaction], checked: &mut Checked) -> Result<u64, CopyError> {
        let mut foreign = 0u64;
        let mut adopted = Vec::with_capacity(page.len());
        let mut snapshots = Vec::new();
        for transaction in page {
            if head_in(transaction).is_none() {
                foreign = foreign.saturating_add(1);
                continue;
            }
            let appends = take_apart(transaction, checked)?;
            snapshots.extend(snapshots_in(transaction));
            if !appends.is_empty() {
                let immudb_tx = transaction.header.id.0;
                let mark = ForwardedMark { position: checked.position, snapshots: 0, immudb_tx };
                adopted.push(AdoptedTransaction { appends, mark });
            }
        }
        if !adopted.is_empty() {
            self.sequencer.adopt(adopted).await?;
        }
        for snapshot in snapshots {
            self.sequencer.adopt_snapshot(snapshot).await?;
        }
        Ok(foreign)
    }
}

/// The records at the positions behind `from` and before `until`, in order, as far as ImmuDB has them.
///
/// # Errors
/// ImmuDB can't be read.
pub async fn records_between(
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
            if !key.starts_with(batch::EVENT_PREFIX.as_bytes()) {
                continue;
            }
            let Ok(event) = record::decode(value.clone(), Hash::START) else { continue };
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

pub(super) fn head_in(transaction: &Transaction) -> Option<Head> {
    transaction.entries.iter().find(|(key, _)| key == head::KEY).and_then(|(_, value)| Head::decode(value))
}

fn snapshots_in(transaction: &Transaction) -> impl Iterator<Item = Bytes> {
    let prefix = batch::SNAPSHOT_PREFIX.as_bytes();
    transaction.entries.iter().filter(move |(key, _)| key.starts_with(prefix)).map(|(_, value)| value.clone())
}

/// The appends of a transaction behind what was checked, which moves on with them.
pub(crate) fn take_apart(
    transaction: &Transaction,
    checked: &mut Checked,
) -> Result<Vec<Vec<Bytes>>, CopyError> {
    let id = transaction.header.id.0;
    let diverged = |what: &str| CopyError::Diverged(format!("transaction {id}: {what}"));
    let mut appends: Vec<Vec<Bytes>> = Vec::new();
    for (key, value) in &transaction.entries {
        if !key.starts_with(batch::EVENT_PREFIX.as_bytes()) {
            continue;
        }
        let event = StoredEvent::new(value.clone(), Hash::START)
            .and_then(|event| event.decode())
            .map_err(|error| diverged(&error.to_string()))?;
        if event.position <= checked.position {
            continue;
        }
        if event.position != checked.position.next()
            || *key != batch::event_key(&event.event.aggregate_id, event.sequence)
        {
            return Err(diverged("its events are not the next ones"));
        }
        match appends.last_mut().filter(|_| event.position > event.append.first) {
            Some(append) => append.push(value.clone()),
            None => appends.push(vec![value.clone()]),
        }
        *checked = Checked { position: event.position, hash: checked.hash.chain(value) };
    }
    let head = head_in(transaction).ok_or_else(|| diverged("no head"))?;
    if head.position == checked.position && head.hash != checked.hash {
        return Err(diverged("the hash chain does not lead to its head"));
    }
    if !appends.is_empty() && head.position != checked.position {
        return Err(diverged("its head is not at its last event"));
    }
    Ok(appends)
}
