//! The calls that wait for the sequencer, and the channels for their replies.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    append::{Append, StoredAppend, StoredSnapshot},
    queue::QueuePermit,
    restored::{RestoreError, RestoredTransaction},
    under_way::UnderWay,
};
use crate::{error::StoreError, event::Snapshot, index::AbsentUpTo, log::Tip};

pub(super) type Reply<T, E = StoreError> = oneshot::Sender<Result<T, E>>;

pub(super) enum SequencerCall {
    Append {
        append: Append,
        /// See [`EarlierAttempt::NotFound`](super::existing::EarlierAttempt::NotFound).
        absent_up_to: Option<AbsentUpTo>,
        /// The name of the identity that appends the events. Empty if there is none.
        recorded_by: Arc<str>,
        permit: QueuePermit,
        reply: Reply<StoredAppend>,
        under_way: UnderWay,
    },
    Snapshot {
        snapshot: Snapshot,
        permit: QueuePermit,
        reply: Reply<StoredSnapshot>,
    },
    Restore {
        transactions: Vec<RestoredTransaction>,
        reply: Reply<Tip, RestoreError>,
    },
    RestoreSnapshot {
        record: Bytes,
        reply: Reply<(), RestoreError>,
    },
    /// Wakes the thread to handle the waiting marks. Only a call can wake it.
    MarksWaiting,
    Stop,
}

impl std::fmt::Debug for SequencerCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Call")
    }
}
