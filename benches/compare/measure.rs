//! What is measured, each by a module of its own.

pub mod appends;
pub mod floor;
pub mod followers;
pub mod growth;
pub mod latency;
pub mod loads;
pub mod mixed;
pub mod outage;

use serde::{Deserialize, Serialize};

use crate::load::Latencies;

/// Milliseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    /// How many were taken.
    pub count: u64,
}

impl Percentiles {
    pub fn of(latencies: &Latencies) -> Self {
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e6;
        let max = latencies.max() as f64 / 1e6;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max, count: latencies.len() }
    }
}

/// Sorts them; 0 of none.
pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}
