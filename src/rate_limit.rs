//! Limits on what an identity does per second.
//!
//! Each is a token bucket that holds what may be used within one second. The time is passed in, so
//! that the same calls at the same times always have the same result.

use std::time::{Duration, Instant};

use crate::error::{OverShare, ShareLimit};

/// What the buckets count.
const LIMITS: [ShareLimit; 3] =
    [ShareLimit::AppendsPerSecond, ShareLimit::EventsPerSecond, ShareLimit::BytesPerSecond];

/// The longest delay that a client is told to wait before a retry.
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// The rates of one identity: of appends, events and bytes.
#[derive(Debug, Default)]
pub(crate) struct RateLimits([Option<TokenBucket>; 3]);

impl RateLimits {
    /// Creates limits with full buckets. `per_second` has the maximum of appends, events and bytes;
    /// `None` is unlimited.
    pub(crate) fn new(per_second: [Option<f64>; 3], now: Instant) -> Self {
        Self(per_second.map(|per_second| per_second.map(|per_second| TokenBucket::full(per_second, now))))
    }

    /// Checks that amounts of appends, events and bytes can be taken.
    ///
    /// # Errors
    /// Returns the limit for which the client would have to wait longest.
    pub(crate) fn check(&mut self, amounts: [u64; 3], now: Instant) -> Result<(), OverShare> {
        let buckets = LIMITS.into_iter().zip(&mut self.0).zip(amounts);
        let waits = buckets.filter_map(|((limit, bucket), amount)| {
            let bucket = bucket.as_mut()?;
            let retry_after = bucket.wait(amount as f64, now)?;
            Some(OverShare { limit, max: bucket.per_second.ceil() as u64, retry_after })
        });
        waits.max_by_key(|over| over.retry_after).map_or(Ok(()), Err)
    }

    /// Takes amounts of appends, events and bytes: all of them, or nothing.
    ///
    /// # Errors
    /// See [`RateLimits::check`].
    pub(crate) fn take(&mut self, amounts: [u64; 3], now: Instant) -> Result<(), OverShare> {
        self.check(amounts, now)?;
        for (bucket, amount) in self.0.iter_mut().zip(amounts) {
            if let Some(bucket) = bucket {
                bucket.tokens -= amount as f64;
            }
        }
        Ok(())
    }

    /// Returns whether all buckets are full, so that new ones would be the same.
    pub(crate) fn are_full(&mut self, now: Instant) -> bool {
        self.0.iter_mut().flatten().all(|bucket| {
            bucket.fill(now);
            bucket.tokens >= bucket.per_second
        })
    }
}

/// Tokens that are refilled at a fixed rate, up to those of one second.
#[derive(Debug)]
struct TokenBucket {
    per_second: f64,
    /// Negative after an amount that is larger than the bucket.
    tokens: f64,
    filled_at: Instant,
}

impl TokenBucket {
    fn full(per_second: f64, now: Instant) -> Self {
        Self { per_second, tokens: per_second, filled_at: now }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.per_second);
        self.filled_at = self.filled_at.max(now);
    }

    /// Returns how long it takes until an amount may be taken, or `None` if it may be taken now. An
    /// amount that is larger than the bucket may be taken when the bucket is full. The next amounts
    /// then wait until all of it is refilled.
    fn wait(&mut self, amount: f64, now: Instant) -> Option<Duration> {
        /// Less than any amount, and more than the errors of rounding.
        const NOTHING: f64 = 1e-6;
        self.fill(now);
        let missing = amount.min(self.per_second) - self.tokens;
        if amount <= 0.0 || missing <= NOTHING {
            return None;
        }
        let seconds = Duration::try_from_secs_f64(missing / self.per_second);
        Some(seconds.unwrap_or(RETRY_MAX).min(RETRY_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_LIMITS: [Option<f64>; 3] = [None; 3];

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// Returns how many single amounts can be taken at this time.
    fn taken(limits: &mut RateLimits, now: Instant) -> usize {
        std::iter::repeat_with(|| limits.take([1, 1, 1], now)).take_while(Result::is_ok).take(1000).count()
    }

    #[test]
    fn a_burst_of_one_second_is_followed_by_the_rate() {
        let start = Instant::now();
        let mut limits = RateLimits::new([Some(100.0), None, None], start);
        assert_eq!(taken(&mut limits, start), 100);
        assert_eq!(taken(&mut limits, after(start, 5)), 0);
        assert_eq!(taken(&mut limits, after(start, 10)), 1);
        assert_eq!(taken(&mut limits, after(start, 500)), 49);
        // What is not used within a second is lost.
        assert_eq!(taken(&mut limits, after(start, 60_000)), 100);
        assert_eq!(taken(&mut limits, start), 0, "an earlier time refills nothing");
    }

    #[test]
    fn a_retry_after_the_delay_succeeds_and_an_earlier_one_does_not() {
        let start = Instant::now();
        for rate in [0.3, 1.0, 3.0, 700.0, 1e5] {
            let mut limits = RateLimits::new([None, Some(rate), None], start);
            limits.take([1, 5, 9], start).unwrap();
            let events = (rate * 2.0).ceil() as u64;
            let over = limits.take([1, events, 9], start).unwrap_err();
            assert_eq!((over.limit, over.max), (ShareLimit::EventsPerSecond, rate.ceil() as u64));
            let early = start + over.retry_after.mul_f64(0.99);
            limits.take([1, events, 9], early).unwrap_err();
            limits.take([1, events, 9], start + over.retry_after).unwrap();
        }
    }

    #[test]
    fn an_amount_above_the_rate_passes_when_the_bucket_is_full_and_is_paid_for_later() {
        let start = Instant::now();
        let mut limits = RateLimits::new([None, Some(10.0), None], start);
        limits.take([1, 35, 0], start).unwrap();
        let over = limits.take([1, 1, 0], start).unwrap_err();
        assert_eq!(over.retry_after, Duration::from_millis(2600));
        limits.take([1, 1, 0], after(start, 2500)).unwrap_err();
        limits.take([1, 1, 0], after(start, 2600)).unwrap();
        limits.take([1, 0, 7], after(start, 2600)).unwrap();
    }

    #[test]
    fn a_refused_write_uses_nothing_up() {
        let start = Instant::now();
        let mut limits = RateLimits::new([Some(5.0), Some(5.0), Some(1000.0)], start);
        limits.take([1, 1, 1000], start).unwrap();
        let over = limits.take([1, 5, 500], start).unwrap_err();
        // Half a second for the bytes, and less for the event.
        assert_eq!((over.limit, over.retry_after), (ShareLimit::BytesPerSecond, Duration::from_millis(500)));
        limits.take([4, 4, 0], start).unwrap();
        assert!(!limits.are_full(start));
        assert!(!limits.are_full(after(start, 999)));
        assert!(limits.are_full(after(start, 2000)));
    }

    #[test]
    fn without_a_rate_nothing_is_limited() {
        let start = Instant::now();
        let mut limits = RateLimits::new(NO_LIMITS, start);
        assert!(limits.are_full(start));
        limits.take([u64::MAX; 3], start).unwrap();
        assert_eq!(taken(&mut limits, start), 1000);
    }
}
