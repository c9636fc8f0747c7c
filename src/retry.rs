//! Computes the delays between attempts; the attempts themselves are left to the caller. This is
//! the only module that uses the `backoff` crate.

use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff};

/// Delays that double each time, with jitter, up to a maximum that none exceeds. They never end.
#[derive(Debug)]
pub(crate) struct RetryDelays {
    backoff: ExponentialBackoff,
    delay_max: Duration,
}

impl RetryDelays {
    const JITTER: f64 = 0.2;

    pub(crate) fn new(first: Duration, delay_max: Duration) -> Self {
        let backoff = ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            randomization_factor: Self::JITTER,
            multiplier: 2.0,
            // The library adds the jitter after it has applied the maximum.
            max_interval: delay_max.div_f64(1.0 + Self::JITTER),
            // The library's default gives up after 15 minutes.
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Self { backoff, delay_max }
    }

    /// Returns the delay before the next attempt.
    pub(crate) fn next_delay(&mut self) -> Duration {
        // The first delay is not bounded by the library.
        self.backoff.next_backoff().map_or(self.delay_max, |delay| delay.min(self.delay_max))
    }

    /// Records that an attempt succeeded: the next failure starts with the first delay again.
    pub(crate) fn reset(&mut self) {
        self.backoff.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound_and_never_end() {
        let mut delays = RetryDelays::new(Duration::from_millis(500), Duration::from_secs(2));
        for middle in [0.5_f64, 1.0, 2.0 / 1.2, 2.0 / 1.2] {
            let delay = delays.next_delay().as_secs_f64();
            assert!((middle * 0.8..=middle * 1.2).contains(&delay), "{delay} is not around {middle}");
        }
        let bounds = Duration::from_millis(1_333)..=Duration::from_secs(2);
        for _ in 0..10_000 {
            let delay = delays.next_delay();
            assert!(bounds.contains(&delay), "{delay:?}");
        }
        delays.reset();
        assert!(delays.next_delay() <= Duration::from_millis(600));
    }
}
