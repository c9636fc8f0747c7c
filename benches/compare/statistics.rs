//! Latencies with their percentiles, and medians.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Latencies in nanoseconds.
pub type Latencies = Histogram<u64>;

pub fn latencies() -> Latencies {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("valid bounds")
}

/// Percentiles in milliseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    /// The number of values.
    pub count: u64,
}

impl Percentiles {
    pub fn of(latencies: &Latencies) -> Self {
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e6;
        let max = latencies.max() as f64 / 1e6;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max, count: latencies.len() }
    }
}

/// Sorts the values and returns their median, or 0 if there are none.
pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}
