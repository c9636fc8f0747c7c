//! How often the head alone is written if nothing is appended and the fallback has not ended yet.
//!
//! A fallback that can end does so within the first probes. If ImmuDB stays slightly too slow for
//! that, it is probed less and less often, because each probe is a transaction that its database
//! keeps.

use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Probes {
    /// Number of probes since the state changed or events were written.
    count: u32,
    /// The last commit counts towards the end of the fallback.
    is_quick: bool,
}

impl Probes {
    const EVERY: Duration = Duration::from_millis(200);
    const EVERY_MAX: Duration = Duration::from_secs(10);
    /// Number of probes before the interval grows. No fallback takes that many commits to end.
    const OFTEN: u32 = 60;

    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Records that the head alone was written.
    pub(super) fn written(&mut self, is_quick: bool) {
        self.count = self.count.saturating_add(1);
        self.is_quick = is_quick;
    }

    /// Returns the time from the last commit to the next probe. It is short after a quick commit,
    /// because ImmuDB may have become quick.
    pub(super) fn pause(&self) -> Duration {
        let doublings = self.count.saturating_sub(Self::OFTEN);
        if self.is_quick || doublings == 0 {
            return Self::EVERY;
        }
        Self::EVERY.saturating_mul(2u32.saturating_pow(doublings)).min(Self::EVERY_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(probes: &mut Probes, count: usize) -> Vec<u64> {
        let next = |_| {
            probes.written(false);
            u64::try_from(probes.pause().as_millis()).unwrap()
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn an_immudb_that_stays_slow_is_asked_less_and_less_often() {
        let mut probes = Probes::default();
        assert_eq!(pauses(&mut probes, 60), [200; 60]);
        assert_eq!(pauses(&mut probes, 8), [400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
        assert_eq!(pauses(&mut probes, 1000).last(), Some(&10_000));
        probes.reset();
        assert_eq!(pauses(&mut probes, 60), [200; 60]);
    }

    #[test]
    fn what_becomes_quick_again_is_not_waited_for() {
        let mut probes = Probes::default();
        pauses(&mut probes, 70);
        probes.written(true);
        assert_eq!(probes.pause(), Probes::EVERY);
        probes.written(false);
        assert_eq!(probes.pause(), Probes::EVERY_MAX, "one quick commit is no reason to ask often forever");
    }
}
