//! Another client of the database, with the rights of the service.

use aethyr_event_store::{
    event::{ChainHash, record},
    grpc::wire::RecordedEvent,
    immudb::{KeyValue, PAGE_LIMIT_MAX, Session, Transaction, TxId},
};
use bytes::Bytes;

use super::ImmuDb;
use crate::stored::key_of;

pub struct OtherClient(Session);

impl OtherClient {
    pub async fn log_in(immudb: &ImmuDb, database: &str) -> Self {
        Self(Session::open_existing(&immudb.settings(database)).await.unwrap())
    }

    pub fn server_uuid(&self) -> &str {
        self.0.server_uuid()
    }

    /// Writes one value. Returns the number of the transaction.
    pub async fn write(&self, key: &str, value: &[u8]) -> u64 {
        self.set(&[(Bytes::from(key.to_owned()), Bytes::copy_from_slice(value))]).await
    }

    /// Writes these values in one transaction. Returns its number.
    pub async fn set(&self, entries: &[(Bytes, Bytes)]) -> u64 {
        let entries = entries.iter().cloned().map(|(key, value)| KeyValue { key, value }).collect();
        self.0.set(entries, Vec::new()).await.unwrap().id.0
    }

    pub async fn value(&self, key: &str) -> Bytes {
        self.0.get(key.as_bytes()).await.unwrap().expect("the key has a value").value
    }

    /// Returns all transactions of a small database.
    pub async fn transactions(&self) -> Vec<Transaction> {
        let found = self.0.scan_transactions(TxId(1), PAGE_LIMIT_MAX).await.unwrap();
        assert!(found.len() < PAGE_LIMIT_MAX as usize, "there may be more");
        found
    }

    /// Returns the number of the last transaction.
    pub async fn last(&self) -> u64 {
        self.0.current_tx().await.unwrap().0
    }

    /// Returns the number of the transaction that wrote the event, or `None` if its key has no
    /// value, or another one.
    pub async fn transaction_of(&self, event: &RecordedEvent) -> Option<u64> {
        let entry = self.0.get(key_of(event).as_bytes()).await.unwrap()?;
        let stored = record::decode(entry.value, ChainHash::START).ok()?;
        (stored.event.id.to_string() == event.event_id).then_some(entry.tx.0)
    }
}
