//! Which appends are under way. A resend that is about to be refused waits for the attempt before it: that may be stored
//! at any moment, and a refusal says that nothing was.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use super::Append;
use crate::event::EventId;

/// All of them, by the id of their first event: a resend has the ids of the first attempt, in the same order.
#[derive(Debug, Clone, Default)]
pub(super) struct AppendsUnderWay(Arc<Mutex<HashMap<EventId, Attempts>>>);

#[derive(Debug, Default)]
struct Attempts {
    count: usize,
    over: CancellationToken,
}

/// One attempt. It is over when this is dropped.
#[derive(Debug)]
pub struct UnderWay {
    all: AppendsUnderWay,
    id: Option<EventId>,
}

impl AppendsUnderWay {
    pub fn begin(&self, append: &Append) -> UnderWay {
        let id = first_id(append);
        if let Some(id) = id {
            let mut all = self.lock();
            let attempts = all.entry(id).or_default();
            attempts.count = attempts.count.saturating_add(1);
        }
        UnderWay { all: self.clone(), id }
    }

    /// Resolves when no attempt at this append is under way.
    pub async fn until_over(&self, append: &Append) {
        let over = first_id(append).and_then(|id| Some(self.lock().get(&id)?.over.clone()));
        if let Some(over) = over {
            over.cancelled().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EventId, Attempts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn first_id(append: &Append) -> Option<EventId> {
    append.events.first().map(|(event, _)| event.id)
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut all = self.all.lock();
        let Some(attempts) = all.get_mut(&id) else { return };
        attempts.count = attempts.count.saturating_sub(1);
        if attempts.count == 0 {
            attempts.over.cancel();
            all.remove(&id);
        }
    }
}
