//! Which event ids are certainly not stored: nearly every id that is asked for is new, and to look for it in
//! the database costs more than the rest of an append.
//!
//! 1.2 bytes an id, for up to twice as many ids as there are. It is filled while the index is examined; until
//! then it knows nothing.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use fastbloom::AtomicBloomFilter;
use uuid::Uuid;

use crate::event::EventId;

/// One id of a hundred that are new is looked for in vain.
const FALSE_POSITIVES: f64 = 0.01;

/// Room in the first part of an empty index.
const IDS_MIN: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct IdFilter {
    /// Each is as large as all before it.
    parts: RwLock<Vec<Arc<Part>>>,
    /// Callers choose ids; they must not be able to choose such that collide.
    seed: u128,
    complete: AtomicBool,
}

#[derive(Debug)]
struct Part {
    filter: AtomicBloomFilter,
    ids: AtomicUsize,
    ids_max: usize,
}

impl Part {
    fn new(seed: u128, ids_max: usize) -> Arc<Self> {
        let filter = AtomicBloomFilter::with_false_pos(FALSE_POSITIVES).seed(&seed).expected_items(ids_max);
        Arc::new(Self { filter, ids: AtomicUsize::new(0), ids_max })
    }
}

impl IdFilter {
    /// For an index that has so many ids, and a quarter more.
    pub fn new(ids: u64) -> Self {
        let seed = Uuid::new_v4().as_u128();
        let ids_max = usize::try_from(ids.saturating_add(ids / 4)).unwrap_or(usize::MAX).max(IDS_MIN);
        let parts = RwLock::new(vec![Part::new(seed, ids_max)]);
        Self { parts, seed, complete: AtomicBool::new(ids == 0) }
    }

    pub fn insert(&self, id: &[u8; 16]) {
        let mut last = self.last();
        while last.as_ref().is_none_or(|part| part.ids.load(Ordering::Relaxed) >= part.ids_max) {
            self.grow();
            last = self.last();
        }
        if let Some(part) = last {
            part.filter.insert(id);
            part.ids.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All ids that are stored were inserted; those to come will be.
    pub fn complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    pub fn may_have(&self, id: EventId) -> bool {
        if !self.complete.load(Ordering::Acquire) {
            return true;
        }
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
        parts.iter().any(|part| part.filter.contains(id.as_bytes()))
    }

    fn last(&self) -> Option<Arc<Part>> {
        self.parts.read().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }

    fn grow(&self) {
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
        let (count, ids_max) = (parts.len(), parts.iter().map(|part| part.ids_max).sum());
        drop(parts);
        // Readers go on while a large part is made.
        let part = Part::new(self.seed, ids_max);
        let mut parts = self.parts.write().unwrap_or_else(PoisonError::into_inner);
        if parts.len() == count {
            parts.push(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_was_inserted_is_never_taken_for_a_new_one() {
        let filter = IdFilter::new(0);
        let ids: Vec<_> = (0..3 * IDS_MIN).map(|_| EventId::random()).collect();
        ids.iter().for_each(|id| filter.insert(id.as_bytes()));
        assert!(filter.parts.read().unwrap().len() > 2);
        assert!(ids.iter().all(|id| filter.may_have(*id)));
        let vain = (0..100_000).filter(|_| filter.may_have(EventId::random())).count();
        assert!(vain < 10_000, "{vain} of 100 000");
    }

    #[test]
    fn it_knows_nothing_until_it_is_complete() {
        let filter = IdFilter::new(1);
        assert!(filter.may_have(EventId::random()));
        filter.complete();
        assert!(!filter.may_have(EventId::random()));
    }
}
