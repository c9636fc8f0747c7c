//! Counters since the start of the service. The totals of what is stored are the index's.

use std::sync::atomic::{AtomicU64, Ordering};

/// See the fields of `StatsResponse`.
#[derive(Debug, Default)]
pub struct Counters {
    pub events_stored: Counter,
    pub events_loaded: Counter,
    pub snapshots_stored: Counter,
    pub snapshots_loaded: Counter,
    pub store_failures: Counter,
    pub load_failures: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
