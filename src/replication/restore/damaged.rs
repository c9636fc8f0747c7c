//! What a restore does where ImmuDB cannot read a transaction: it restores everything before it,
//! and says what is lacking.
//!
//! The chain hash of each event includes the one before, so nothing behind a damaged record can be
//! restored as it was. Only an operator gives it up.

use bytes::Bytes;
use tracing::warn;

use super::{Checked, Copied, LogRestore, LogRestoreError};
use crate::{
    event::{
        ChainHash,
        record::{ReplicationMark, StoredEvent},
    },
    immudb::{self, EntryKey, ErrorKind, Session, Transaction, TransactionPages, TxId, verify::TrustedState},
    replication::{
        audit::damage::{self, Damage},
        findings::{Finding, printable},
        head,
        ledger::Contradiction,
        tampering::Condition,
        transaction,
    },
    sequencer::RestoredTransaction,
};

/// What a restore does at a transaction that ImmuDB cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtDamage {
    /// It fails, and can be started again when ImmuDB has been repaired.
    Fails,
    /// It ends there: the operator gives up the rest.
    Ends,
}

/// The next part of ImmuDB's history.
pub(super) enum NextPage {
    /// Empty behind the last transaction.
    Read(Vec<Transaction>),
    Damaged(Box<Damage>),
}

/// Where a restore stands in front of the damage.
#[derive(Debug, Clone, Copy)]
pub(super) struct Front {
    pub checked: Checked,
    /// The last transaction that was read. `None` if there is none.
    pub last: Option<TrustedState>,
    pub anchor: TrustedState,
}

/// Reads the next page. Where ImmuDB cannot read one, it is read transaction by transaction.
///
/// # Errors
/// Returns an error if ImmuDB cannot be asked.
pub(super) async fn next_page(
    session: &Session,
    pages: &mut TransactionPages,
) -> Result<NextPage, immudb::Error> {
    match pages.next(session).await {
        Ok(page) => return Ok(NextPage::Read(page)),
        Err(error) if error.kind != ErrorKind::Corrupted => return Err(error),
        Err(_) => {}
    }
    let mut one = TransactionPages::one_by_one_from(pages.position());
    match one.next(session).await {
        Ok(page) => {
            *pages = TransactionPages::one_by_one_from(one.position());
            Ok(NextPage::Read(page))
        }
        Err(error) if error.kind == ErrorKind::Corrupted => {
            let damage = Damage::examine(session, one.position(), &error).await?;
            Ok(NextPage::Damaged(Box::new(damage)))
        }
        Err(error) => Err(error),
    }
}

impl LogRestore<'_> {
    /// Ends a restore in front of a damaged transaction, with the appends of it that are whole.
    ///
    /// # Errors
    /// Returns an error if what was restored is not proven to be in the trusted history, or cannot
    /// be written.
    pub(super) async fn end_at(&self, damage: &Damage, mut front: Front) -> Result<Copied, LogRestoreError> {
        let is_proven = self.prove(damage, front).await?;
        if is_proven && let Some(keys) = &damage.keys {
            let appends = self.whole_appends(damage, &mut front.checked).await?;
            let mark = ReplicationMark {
                position: front.checked.position,
                immudb_tx: damage.tx.0,
                immudb_hash: keys.header.accumulated_hash(),
                ..ReplicationMark::default()
            };
            if !appends.is_empty() {
                self.sequencer.restore(vec![RestoredTransaction { appends, mark }]).await?;
            }
        }
        let (position, of) = (front.checked.position.0, self.head.position.0);
        warn!(
            transaction = damage.tx.0,
            position,
            of,
            is_proven,
            "the restore ends at a transaction that \
         ImmuDB cannot read; the events behind this position are given up"
        );
        self.unfinished.end(self.sequencer.tip().position).map_err(LogRestoreError::Marker)?;
        Ok(Copied { tampered: Vec::new(), lacks: self.lacks(damage, front.checked) })
    }

    /// Says what is damaged, for an operator who has to decide.
    pub(super) fn damaged(&self, damage: &Damage, checked: Checked) -> immudb::Error {
        let key = damage.entries.first().map(|entry| format!(", key {}", printable(&entry.key)));
        let message = format!(
            "{}; transaction {}{}: everything up to position {} of {} is restored; repair ImmuDB or restore \
             its files from a backup, or start with --copy-until-damage, which gives up the rest",
            damage.message,
            damage.tx,
            key.unwrap_or_default(),
            checked.position,
            self.head.position,
        );
        immudb::Error { kind: ErrorKind::Corrupted, operation: "restore", message }
    }

    fn lacks(&self, damage: &Damage, checked: Checked) -> Vec<Finding> {
        let (first, last) = (checked.position.next(), self.head.position);
        let expected = format!("the events of the positions {first} to {last}");
        let finding = Condition::DamagedInImmudb.finding(expected, &*damage.message);
        let mut lacks = vec![finding.in_transaction(damage.tx.0)];
        if !damage.entries.is_empty() {
            lacks.extend(damage.findings());
        }
        lacks
    }

    /// Proves that what was read is in the history that leads to the trusted state. Returns `false`
    /// if ImmuDB cannot give a proof, because more is damaged.
    async fn prove(&self, damage: &Damage, front: Front) -> Result<bool, LogRestoreError> {
        let Front { last, anchor, .. } = front;
        let tx = match (&damage.keys, last) {
            _ if anchor.tx == TxId(0) => return Ok(false),
            (Some(_), _) => damage.tx,
            (None, Some(last)) => last.tx,
            // Nothing was read.
            (None, None) => return Ok(false),
        };
        let found = match self.session.verifiable_tx(tx, anchor.tx).await {
            Ok(found) => found,
            Err(error) if error.kind == ErrorKind::Corrupted => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let state = found.verify(anchor).map_err(|error| Contradiction::Proof { tx, error })?;
        let (expected, alh) = match (&damage.keys, last) {
            (Some(keys), Some(last)) => (last, keys.header.previous_hash),
            (Some(_), None) => (state, state.alh),
            (None, _) => (last.unwrap_or(state), state.alh),
        };
        Contradiction::check(expected, TrustedState { tx: expected.tx, alh })?;
        if let Some(keys) = &damage.keys {
            let alh =
                keys.header.accumulated_hash().ok_or_else(|| Contradiction::of_version(&keys.header))?;
            Contradiction::check(state, TrustedState { tx, alh })?;
        }
        Ok(true)
    }

    /// Returns the appends of a damaged transaction before the first one that is not whole.
    async fn whole_appends(
        &self,
        damage: &Damage,
        checked: &mut Checked,
    ) -> Result<Vec<Vec<Bytes>>, LogRestoreError> {
        let (mut appends, mut append) = (Vec::new(), Vec::new());
        let entries = damage.keys.iter().flat_map(|keys| &keys.entries);
        let is_ours = entries.clone().any(|entry| entry.key == head::KEY);
        let is_event = |entry: &&EntryKey| entry.key.starts_with(transaction::EVENT_PREFIX.as_bytes());
        let mut at = *checked;
        for entry in entries.filter(is_event).filter(|_| is_ours) {
            let Some(record) = damage::value(self.session, damage.tx, entry).await? else { break };
            let event = StoredEvent::new(record.clone(), ChainHash::START).and_then(|event| event.decode());
            let Ok(event) = event else { break };
            if event.position <= at.position {
                continue;
            }
            let key = transaction::event_key(&event.event.aggregate_id, event.sequence);
            if event.position != at.position.next() || entry.key != key {
                break;
            }
            at = Checked { position: event.position, hash: at.hash.chain(&record) };
            append.push(record);
            if event.append.last == event.position {
                appends.push(std::mem::take(&mut append));
                *checked = at;
            }
        }
        Ok(appends)
    }
}
