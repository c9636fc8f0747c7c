//! Counters since the start of the service.
//!
//! The totals of stored events and snapshots are kept by the index.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of the service. See the fields of `StatsResponse`.
#[derive(Debug, Default)]
pub struct Counters {
    pub events_stored: Counter,
    pub events_loaded: Counter,
    pub snapshots_stored: Counter,
    pub snapshots_loaded: Counter,
    pub store_failures: Counter,
    pub load_failures: Counter,
}

/// A number that only increases.
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
