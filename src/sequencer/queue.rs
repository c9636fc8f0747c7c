//! Limits the number and the bytes of the calls that wait for the sequencer.
//!
//! No client can use up a whole limit. See [`crate::shared_limit`] for the rule.

use std::{any::Any, sync::Arc, time::Duration};

use super::settings::Settings;
use crate::{
    error::{Limit, StoreError},
    shared_limit::{Caller, LimitReached, Resource, SharedLimit},
};

/// The client on whose behalf a write waits. The default is the service itself, which shares no
/// limit with any client.
#[derive(Default)]
pub struct Origin {
    /// The client whose share of the limits the write uses.
    pub caller: Caller,
    /// Called as soon as the write counts as waiting. Until then, its memory is counted elsewhere.
    pub counted: Option<Box<dyn FnOnce() + Send>>,
    /// Kept alive until the append is decided or discarded, even if the client is gone.
    pub kept: Option<Arc<dyn Any + Send + Sync>>,
}

/// The limits on waiting calls. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct QueueLimits(Arc<Limits>);

#[derive(Debug)]
struct Limits {
    calls: SharedLimit,
    bytes: SharedLimit,
}

/// The amounts that a call holds of the limits until the sequencer takes it. They are acquired once
/// and never resized or shared, so they need no lock. The bytes of a call on the network do: they
/// grow as the request arrives, and pass to the memory of the response.
pub(super) struct QueuePermit {
    limits: Arc<Limits>,
    caller: Caller,
    calls: u64,
    bytes: u64,
}

impl QueueLimits {
    pub(super) fn new(settings: &Settings) -> Self {
        let (calls_max, bytes_max) = (settings.calls_waiting_max as u64, settings.calls_waiting_bytes_max);
        Self(Arc::new(Limits {
            calls: SharedLimit::new(Limit::CallsWaiting, Resource::WaitingWrites, calls_max),
            bytes: SharedLimit::new(Limit::CallsWaitingBytes, Resource::WaitingBytes, bytes_max),
        }))
    }

    /// Counts a call against the limits.
    ///
    /// # Errors
    /// Returns an error if a limit is reached, or if the client has used up its share.
    pub(super) fn acquire(&self, origin: Origin, bytes: u64) -> Result<QueuePermit, StoreError> {
        let Origin { caller, counted, kept: _ } = origin;
        let mut permit = QueuePermit { limits: self.0.clone(), caller, calls: 0, bytes: 0 };
        permit.count_bytes(bytes)?;
        permit.count_call()?;
        if let Some(counted) = counted {
            counted();
        }
        Ok(permit)
    }
}

impl QueuePermit {
    /// Accepts a call that is larger than the limit if it is the only one.
    fn count_bytes(&mut self, bytes: u64) -> Result<(), StoreError> {
        let Self { limits, caller, bytes: held, .. } = self;
        let resized = limits.bytes.resize(caller, held, bytes);
        resized.or_else(|reached| {
            if limits.bytes.take_alone(caller, held, bytes) { Ok(()) } else { Err(full(reached)) }
        })
    }

    fn count_call(&mut self) -> Result<(), StoreError> {
        self.limits.calls.resize(&self.caller, &mut self.calls, 1).map_err(full)
    }
}

impl Drop for QueuePermit {
    fn drop(&mut self) {
        self.limits.calls.force(&self.caller, &mut self.calls, 0);
        self.limits.bytes.force(&self.caller, &mut self.bytes, 0);
    }
}

fn full(LimitReached { limit, max, share }: LimitReached) -> StoreError {
    StoreError::Full { limit, max, share, retry_after: Duration::from_millis(100) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(calls_waiting_max: usize, calls_waiting_bytes_max: u64) -> QueueLimits {
        QueueLimits::new(&Settings {
            in_doubt: std::collections::HashSet::new(),
            folder: Default::default(),
            thresholds: Default::default(),
            calls_waiting_max,
            calls_waiting_bytes_max,
            disk_free_min: 0,
            clock: Arc::new(crate::clock::EventClock::start(std::time::Duration::MAX, None, true)),
        })
    }

    fn of(caller: &Caller) -> Origin {
        Origin { caller: caller.clone(), ..Origin::default() }
    }

    #[test]
    fn no_caller_takes_all_that_may_wait() {
        for (limits, reached) in [
            (limits(10, 1_000_000), Limit::CallsWaiting),
            (limits(1_000_000, 1000), Limit::CallsWaitingBytes),
        ] {
            let (greedy, mut held) = (Caller::default(), Vec::new());
            let refused = loop {
                match limits.acquire(of(&greedy), 100) {
                    Ok(one) => held.push(one),
                    Err(refused) => break refused,
                }
            };
            let StoreError::Full { limit, share, .. } = refused else { panic!("{refused:?}") };
            assert_eq!((limit, share, held.len()), (reached, Some(waiting_share(reached)), 8));
            held.push(limits.acquire(of(&Caller::default()), 100).ok().unwrap());
            drop(held);
            limits.acquire(of(&greedy), 100).ok().unwrap();
        }
    }

    fn waiting_share(limit: Limit) -> u64 {
        if limit == Limit::CallsWaiting { 5 } else { 500 }
    }

    #[test]
    fn a_call_larger_than_the_limit_passes_when_it_is_alone() {
        let (limits, caller) = (limits(10, 1000), Caller::default());
        let alone = limits.acquire(of(&caller), 5000).ok().unwrap();
        assert!(limits.acquire(Origin::default(), 1).is_err());
        drop(alone);
        let small = limits.acquire(Origin::default(), 1).ok().unwrap();
        assert!(limits.acquire(of(&caller), 5000).is_err());
        drop(small);
        limits.acquire(of(&caller), 5000).ok().unwrap();
    }

    #[test]
    fn what_counts_elsewhere_is_given_back_once_the_write_counts_here() {
        let (limits, (sender, receiver)) = (limits(1, 1000), std::sync::mpsc::channel());
        let origin = || {
            let sender = sender.clone();
            Origin { counted: Some(Box::new(move || sender.send(()).unwrap())), ..Origin::default() }
        };
        let held = limits.acquire(origin(), 1).ok().unwrap();
        receiver.try_recv().unwrap();
        assert!(limits.acquire(origin(), 1).is_err());
        receiver.try_recv().unwrap_err();
        drop(held);
    }
}
