//! Replication of the local log to ImmuDB.
//!
//! The forwarder is the only writer: it sends the log to the database in order and publishes how
//! far it got. All other parts of the service read that through [`ReplicationStatus`]. It also
//! stores the checkpoints of the `checkpoint_queue` in ImmuDB, and takes `reports` of what others
//! have found.
//!
//! It checks that the history in ImmuDB only goes on: the `ledger` judges each commit, the
//! `trusted_state` is what it starts from, `examination` looks at what others have written, and
//! `tampering` says what each contradiction leads to. The `audit` reads the whole history.

mod admission;
pub(crate) mod audit;
mod checkpoint_digests;
pub(crate) mod checkpoint_queue;
pub(crate) mod commit_waiters;
pub(crate) mod comparison;
pub(crate) mod examination;
pub(crate) mod fencing;
pub(crate) mod findings;
pub(crate) mod forwarder;
pub(crate) mod head;
pub(crate) mod ledger;
mod linked;
mod local_records;
mod notice;
pub(crate) mod past_state;
mod recent_transactions;
pub(crate) mod reports;
pub(crate) mod restore;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod tampering;
mod transaction;
mod transaction_size;
pub(crate) mod trusted_state;

pub(crate) use admission::PendingLimits;
pub(crate) use transaction::{BatchLimits, event_key, parse_event_key};
