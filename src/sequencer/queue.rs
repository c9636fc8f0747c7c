//! Limits the number and the bytes of the calls that wait for the sequencer.
//!
//! No client can use up a whole limit. See [`crate::shared_limit`] for the rule.

use std::{any::Any, collections::BTreeMap, sync::Arc, time::Duration};

use super::{append::Append, settings::Settings};
use crate::{
    error::{Limit, StoreError},
    event::{Content, NewEvent, Snapshot},
    shared_limit::{Admission, Caller, LimitReached, Reserved, Resource, SharedLimit, WriteSize},
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
    /// The name of the identity that calls. Empty while access control is off.
    pub recorded_by: Arc<str>,
    /// Decides whether the identity may store the write. `None`: it may.
    pub admission: Option<Arc<dyn Admission>>,
}

impl Origin {
    /// Returns the origin of a further attempt of the same call. Its memory is counted elsewhere
    /// until the call ends.
    #[must_use]
    pub fn of_attempt(&self, kept: Option<Arc<dyn Any + Send + Sync>>) -> Self {
        Self {
            caller: self.caller.clone(),
            counted: None,
            kept,
            recorded_by: self.recorded_by.clone(),
            admission: self.admission.clone(),
        }
    }

    /// Checks whether the identity may store an append, and counts it. The result must be kept
    /// until the append is decided. It must be known that the append is not stored already.
    ///
    /// # Errors
    /// Returns an error if the identity has used up its share.
    pub fn admit_append(&self, append: &Append) -> Result<Reserved, StoreError> {
        let Some(admission) = &self.admission else { return Ok(None) };
        let events = append.events.iter().map(|(event, _)| event);
        let mut event_types: Vec<_> = events.clone().map(|event| &*event.event_type).collect();
        event_types.dedup();
        let bytes = events.map(event_bytes).sum();
        Ok(admission.admit(&WriteSize { events: append.events.len() as u64, bytes, event_types })?)
    }

    /// Same as [`Origin::admit_append`] for a snapshot.
    ///
    /// # Errors
    /// Returns an error if the identity has used up its share.
    pub fn admit_snapshot(&self, snapshot: &Snapshot) -> Result<Reserved, StoreError> {
        let Some(admission) = &self.admission else { return Ok(None) };
        let bytes = record_bytes(&snapshot.content, &snapshot.metadata);
        Ok(admission.admit(&WriteSize { events: 0, bytes, event_types: Vec::new() })?)
    }
}

/// Returns approximately the size of the record of an event.
fn event_bytes(event: &NewEvent) -> u64 {
    let names = [&*event.aggregate_type, &*event.event_type, &*event.correlation_id, &*event.causation_id];
    let names = names.iter().map(|name| name.len() as u64);
    let names = names.sum::<u64>().saturating_add(event.aggregate_id.as_str().len() as u64);
    record_bytes(&event.content, &event.metadata).saturating_add(names)
}

fn record_bytes(content: &Content, metadata: &BTreeMap<String, String>) -> u64 {
    /// The id of an event, numbers, times and digests.
    const OTHER_BYTES: usize = 120;
    const ENTRY_BYTES: usize = 6;
    let entry = |(key, value): (&String, &String)| {
        key.len().saturating_add(value.len()).saturating_add(ENTRY_BYTES) as u64
    };
    let entries = metadata.iter().map(entry).sum::<u64>();
    (content.byte_count().saturating_add(OTHER_BYTES) as u64).saturating_add(entries)
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
        let Origin { caller, counted, .. } = origin;
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

fn full(reached: LimitReached) -> StoreError {
    reached.into_error(Duration::from_millis(100))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{
        error::{OverShare, ShareLimit},
        event::{ContentDigest, Position},
        sequencer::tests::{in_folder, one_event, start},
    };

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

    #[test]
    fn an_identity_that_has_its_share_of_what_may_wait_is_refused_by_name() {
        let (limits, identity) = (limits(10, 1_000_000), Caller::of_identity(0.3));
        let held: Vec<_> = (0..8).map(|_| limits.acquire(of(&identity), 100).ok().unwrap()).collect();
        let refused = limits.acquire(of(&identity), 100).err().unwrap();
        let StoreError::Share(over) = refused else { panic!("{refused:?}") };
        assert_eq!((over.limit, over.max), (ShareLimit::Of(Limit::CallsWaiting), 3));
        drop(held);
    }

    /// Records what it is asked, and refuses all above this number of events.
    #[derive(Default)]
    struct Asked {
        events_max: u64,
        sizes: Mutex<Vec<(u64, u64, usize)>>,
    }

    impl Admission for Asked {
        fn admit(&self, write: &WriteSize<'_>) -> Result<Reserved, OverShare> {
            let size = (write.events, write.bytes, write.event_types.len());
            self.sizes.lock().unwrap().push(size);
            if write.events <= self.events_max {
                return Ok(None);
            }
            let (limit, max) = (ShareLimit::EventsPerSecond, self.events_max);
            Err(OverShare { limit, max, retry_after: Duration::from_secs(1) })
        }
    }

    #[test]
    fn each_attempt_of_a_call_asks_the_same_admission_and_has_the_same_name() {
        let asked = Arc::new(Asked { events_max: 1, ..Asked::default() });
        let admission: Arc<dyn Admission> = asked.clone();
        let first = Origin { admission: Some(admission), recorded_by: "arena".into(), ..Origin::default() };
        let again = first.of_attempt(None);
        assert_eq!(&*again.recorded_by, "arena");
        let mut append = one_event("room-1");
        again.admit_append(&append).unwrap();
        append.events.extend(one_event("room-1").events);
        let refused = first.admit_append(&append).unwrap_err();
        assert!(matches!(refused, StoreError::Share(_)), "{refused:?}");
        let sizes = asked.sizes.lock().unwrap();
        let [(1, one, 1), (2, two, 1)] = sizes[..] else { panic!("{sizes:?}") };
        assert_eq!(two, one * 2);
        Origin::default().admit_append(&append).unwrap();
        assert_eq!(sizes.len(), 2);
    }

    #[tokio::test]
    async fn the_size_of_an_event_is_about_that_of_its_record() {
        let folder = tempfile::tempdir().unwrap();
        let running = start(&in_folder(&folder));
        for (position, bytes) in (1..).zip([0, 100, 10_000]) {
            let (mut event, _) = one_event("room-1").events.remove(0);
            event.content = Content::Json("j".repeat(bytes));
            event.correlation_id = "c".repeat(36);
            event.metadata = [("key".to_owned(), "value".to_owned())].into();
            let (expected, digest) = (event_bytes(&event), ContentDigest::of(&event));
            let append = Append { events: vec![(event, digest)], expected: Vec::new() };
            running.sequencer.append(append, Origin::default()).await.unwrap();
            let found = running.history.record_at(Position(position), running.sequencer.tip()).unwrap();
            let record = found.bytes.len() as u64;
            assert!(expected.abs_diff(record) <= 40, "{expected} and {record}");
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
