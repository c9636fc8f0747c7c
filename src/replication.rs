//! Replication of the local log to ImmuDB.
//!
//! The forwarder is the only writer: it sends the log to the database in order and publishes how
//! far it got. All other parts of the service read that through [`ReplicationStatus`].

mod admission;
pub mod commit_waiters;
pub mod comparison;
pub mod fencing;
pub mod forwarder;
pub mod head;
mod notice;
mod recent_transactions;
pub mod restore;
pub mod state;
pub mod status;
mod transaction;
mod transaction_size;

pub use admission::PendingLimits;
pub use commit_waiters::CommitOutcome;
pub use state::State;
pub use status::{ReplicationStatus, View};
pub use transaction::BatchLimits;
