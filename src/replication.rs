//! Replication of the local log to ImmuDB.
//!
//! The forwarder is the only writer: it sends the log to the database in order and publishes how
//! far it got. All other parts of the service read that through [`ReplicationStatus`].

mod admission;
pub(crate) mod commit_waiters;
pub(crate) mod comparison;
pub(crate) mod fencing;
pub(crate) mod forwarder;
pub(crate) mod head;
mod notice;
mod recent_transactions;
pub(crate) mod restore;
pub(crate) mod state;
pub(crate) mod status;
mod transaction;
mod transaction_size;

pub(crate) use admission::PendingLimits;
pub(crate) use transaction::BatchLimits;
