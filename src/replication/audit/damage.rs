//! A transaction that ImmuDB cannot read any more: which of its values are damaged, and what the
//! rest proves.
//!
//! ImmuDB answers with an error for the whole page. The headers have the hash of each value, and
//! can usually still be read.

use bytes::Bytes;

use super::contents::is_plain_write;
use crate::{
    immudb::{self, EntryKey, ErrorKind, Session, TransactionKeys, TxId, verify::entry_digest},
    replication::{findings::Finding, reports::Report, tampering::Condition},
};

/// A damaged transaction.
#[derive(Debug)]
pub(crate) struct Damage {
    pub tx: TxId,
    /// ImmuDB's message.
    pub message: String,
    /// The keys and the hashes of the values. `None` if they cannot be read, or do not fit.
    pub keys: Option<TransactionKeys>,
    /// The entries whose values cannot be read, as far as this is known.
    pub entries: Vec<EntryKey>,
}

impl Damage {
    /// Looks at a transaction that ImmuDB answered for with `error`.
    ///
    /// # Errors
    /// Returns an error if ImmuDB is unreachable.
    pub(crate) async fn examine(
        session: &Session,
        tx: TxId,
        error: &immudb::Error,
    ) -> Result<Self, immudb::Error> {
        let keys = match session.scan_headers(tx, 1).await {
            Ok(page) => page.into_iter().next().filter(|keys| keys.check().is_ok()),
            Err(error) if error.kind == ErrorKind::Corrupted => None,
            Err(error) => return Err(error),
        };
        let mut entries = Vec::new();
        for entry in keys.iter().flat_map(|keys| &keys.entries).filter(|entry| is_plain_write(entry)) {
            if value(session, tx, entry).await?.is_none() {
                entries.push(entry.clone());
            }
        }
        Ok(Self { tx, message: error.to_string(), keys, entries })
    }

    /// Returns what is damaged, as findings.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let condition = Condition::DamagedInImmudb;
        if self.entries.is_empty() {
            let finding = condition.finding("a transaction that can be read", &*self.message);
            return vec![finding.in_transaction(self.tx.0)];
        }
        let of_entry = |entry: &EntryKey| {
            let expected = format!("a value with the SHA-256 {}", hex::encode(entry.value_hash));
            condition.finding(expected, &*self.message).in_transaction(self.tx.0).of_key(&entry.key)
        };
        self.entries.iter().map(of_entry).collect()
    }

    pub(super) fn reports(&self) -> impl Iterator<Item = Report> {
        let report = |finding| Report { condition: Condition::DamagedInImmudb, finding };
        self.findings().into_iter().map(report)
    }
}

/// Reads the value of one entry. Returns `None` if it is damaged.
///
/// # Errors
/// Returns an error if ImmuDB cannot be asked.
pub(crate) async fn value(
    session: &Session,
    tx: TxId,
    entry: &EntryKey,
) -> Result<Option<Bytes>, immudb::Error> {
    // The transaction is proven elsewhere, so the proof is not needed.
    match session.verifiable_get(&entry.key, tx, tx).await {
        Ok(found) => {
            let is_it = entry.digest(1) == Some(entry_digest(&entry.key, &found.value));
            Ok(Some(found.value).filter(|_| is_it))
        }
        Err(error) => match error.kind {
            ErrorKind::Corrupted | ErrorKind::Rejected | ErrorKind::TooLarge => Ok(None),
            ErrorKind::Refused
            | ErrorKind::Unreachable
            | ErrorKind::SessionExpired
            | ErrorKind::Busy
            | ErrorKind::Configuration => Err(error),
        },
    }
}
