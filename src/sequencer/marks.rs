//! Replication marks that wait for the next group.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::event::record::ReplicationMark;

/// The waiting marks. None is dropped while the service runs: the index uses them to find
/// transactions. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct WaitingMarks(Arc<Mutex<Vec<ReplicationMark>>>);

impl WaitingMarks {
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub(super) fn push(&self, mark: ReplicationMark) {
        self.lock().push(mark);
    }

    /// Returns the marks for a group.
    pub(super) fn take(&self) -> Vec<ReplicationMark> {
        std::mem::take(&mut *self.lock())
    }

    /// Requeues the marks of a group that was not written, so that the next group includes them.
    pub(super) fn put_back(&self, marks: Vec<ReplicationMark>) {
        let mut waiting = self.lock();
        waiting.splice(..0, marks);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ReplicationMark>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
