//! Tracks the appends that are under way.
//!
//! A retry that is about to be rejected waits for earlier attempts at the same append. Such an
//! attempt may be stored at any moment, and a rejection promises that nothing was stored.

use std::{
    any::Any,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use super::append::Append;
use crate::event::EventId;

/// All attempts, by the id of their first event. A retry has the ids of the first attempt, in the
/// same order.
#[derive(Debug, Clone, Default)]
pub(super) struct AppendsUnderWay(Arc<Mutex<HashMap<EventId, Vec<CancellationToken>>>>);

/// One attempt. It is over when this is dropped.
#[derive(Debug)]
pub struct UnderWay {
    all: AppendsUnderWay,
    id: Option<EventId>,
    over: CancellationToken,
    /// A value that the caller wants kept alive until the attempt is over.
    _kept: Option<Arc<dyn Any + Send + Sync>>,
}

impl AppendsUnderWay {
    pub(super) fn begin(&self, append: &Append, kept: Option<Arc<dyn Any + Send + Sync>>) -> UnderWay {
        let (id, over) = (first_id(append), CancellationToken::new());
        if let Some(id) = id {
            self.lock().entry(id).or_default().push(over.clone());
        }
        UnderWay { all: self.clone(), id, over, _kept: kept }
    }

    /// Resolves when the attempts at this append that are under way now are over. It does not wait
    /// for later attempts, because they may never stop coming.
    pub(super) async fn until_over(&self, append: &Append) {
        let attempts = first_id(append).and_then(|id| self.lock().get(&id).cloned());
        for over in attempts.unwrap_or_default() {
            over.cancelled().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EventId, Vec<CancellationToken>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn first_id(append: &Append) -> Option<EventId> {
    append.events.first().map(|(event, _)| event.id)
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.over.cancel();
        let Some(id) = self.id else { return };
        let mut all = self.all.lock();
        let Some(attempts) = all.get_mut(&id) else { return };
        attempts.retain(|over| !over.is_cancelled());
        if attempts.is_empty() {
            all.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;
    use crate::sequencer::tests::one_event;

    #[tokio::test]
    async fn attempts_that_come_later_are_not_waited_for() {
        let append = one_event("room-1");
        let all = AppendsUnderWay::default();
        let first = all.begin(&append, None);
        let mut waiting = std::pin::pin!(all.until_over(&append));
        assert!(poll!(&mut waiting).is_pending());
        let later = all.begin(&append, None);
        drop(first);
        assert!(poll!(&mut waiting).is_ready());
        drop(later);
        assert!(all.lock().is_empty());
        // The kept value is dropped together with the attempt, and not before.
        let kept = Arc::new(());
        let one = all.begin(&append, Some(kept.clone()));
        assert_eq!(Arc::strong_count(&kept), 2);
        drop(one);
        assert_eq!(Arc::strong_count(&kept), 1);
    }
}
