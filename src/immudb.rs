//! A client of ImmuDB that knows nothing of this service: keys and values, transactions, errors.
//!
//! A [`Session`] is one login into one database. It runs no task of its own and never logs in again by itself: whoever
//! holds it must know when a session is new, because what was read in an older one may no longer be true. Every call has
//! a deadline. Whether a failed write may still happen is told by [`SetError`], and nothing here retries.

mod error;
pub(crate) mod fuzzing;
mod pages;
mod session;
mod transaction;

pub use error::{Error, ErrorKind, SetError};
pub use pages::TransactionPages;
pub use session::{Session, Settings};
pub use transaction::{Hash, Transaction, TxHeader, TxId, TxMetadata};

use bytes::Bytes;

/// Of a request, ImmuDB's own limit unless it was started with another.
pub const REQUEST_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Of keys or transactions in one answer, ImmuDB's own limit.
pub const PAGE_LIMIT_MAX: u32 = 2500;

/// Of keys and of preconditions in one [`Session::set`], in a database that [`Session::open`] made.
pub const ENTRIES_MAX: u32 = 1024;

/// Of a key, in a database that [`Session::open`] made.
pub const KEY_BYTES_MAX: u32 = 1023;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
}

/// A value and the transaction that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub value: Bytes,
    pub tx: TxId,
}

/// What must hold at the moment of the commit. ImmuDB checks it together with the write, against all other writers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    KeyMustExist(Bytes),
    KeyMustNotExist(Bytes),
    /// Holds for a key that does not exist, too.
    KeyNotModifiedAfterTx {
        key: Bytes,
        tx: TxId,
    },
}

/// Generated from `proto/immudb/schema.proto`; these types stay in here.
#[allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
mod schema {
    tonic::include_proto!("immudb.schema");
}
