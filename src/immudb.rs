//! A client for ImmuDB that knows nothing about this service: keys and values, transactions,
//! errors.
//!
//! A [`Session`] is one login to one database. It runs no task of its own and never logs in again
//! by itself: its owner must know when a session is new, because what an older one has read may no
//! longer be true. Every call has a deadline. [`SetError`] tells whether a failed write may still
//! happen. Nothing here retries. What ImmuDB certifies is checked by [`verify`].

mod administration;
mod connection;
mod error;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod keys;
mod pages;
mod session;
mod tls;
mod transaction;
mod verifiable_entry;
mod verifiable_tx;
pub mod verify;

pub use administration::{Administrator, DatabaseUser, UserChange};
pub use error::{Error, ErrorKind, SetError};
pub use keys::{EntryKey, EntryMetadata, KeyKind, TransactionKeys};
pub use pages::TransactionPages;
pub use session::{Session, SessionSettings};
pub use tls::TlsSettings;
pub use transaction::{Sha256Hash, Transaction, TxHeader, TxId, TxMetadata};
pub use verifiable_entry::VerifiableEntry;
pub use verifiable_tx::VerifiableTx;

use bytes::Bytes;

/// The maximum size of a request: ImmuDB's own limit, unless it was started with another one.
pub const REQUEST_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The maximum number of keys or transactions in one answer: ImmuDB's own limit.
pub const PAGE_LIMIT_MAX: u32 = 2500;

/// The maximum number of keys, and of preconditions, in one [`Session::set`], in a database that
/// [`Session::open`] created.
pub const ENTRIES_MAX: u32 = 1024;

/// The maximum size of a key, in a database that [`Session::open`] created.
pub const KEY_BYTES_MAX: u32 = 1023;

/// An entry to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, of at most [`KEY_BYTES_MAX`] bytes.
    pub key: Bytes,
    /// The value, which replaces an older one.
    pub value: Bytes,
}

/// A value and the transaction that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionedValue {
    /// The value of the key.
    pub value: Bytes,
    /// The transaction that wrote the value.
    pub tx: TxId,
}

/// A condition that must hold at the moment of the commit. ImmuDB checks it atomically with the
/// write, against all other writers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// The key has a value.
    KeyMustExist(Bytes),
    /// The key has no value.
    KeyMustNotExist(Bytes),
    /// Also holds if the key does not exist.
    KeyNotModifiedAfterTx {
        /// The key that must not have changed.
        key: Bytes,
        /// The last transaction that may have written the key.
        tx: TxId,
    },
}

/// Generated from `proto/immudb/schema.proto`. These types are private to this module.
#[allow(
    clippy::all,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]
mod schema {
    tonic::include_proto!("immudb.schema");
}
