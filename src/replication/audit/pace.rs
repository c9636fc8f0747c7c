//! How fast the audit goes.

use std::time::Duration;

use super::walk::Checked;

/// The pace of the audit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    events_per_second: u64,
}

impl Pace {
    /// While callers wait for ImmuDB, the audit rests for this number of times as long as it has
    /// kept ImmuDB busy.
    const RESTS: u32 = 19;
    /// The audit is not slowed down below this number of events a second, even then.
    const SLOWEST: u64 = 100;

    pub(super) fn new(events_per_second: u64) -> Self {
        Self { events_per_second: events_per_second.max(1) }
    }

    /// Returns about the number of events to read at once.
    pub(super) fn page_events_max(self) -> u64 {
        (self.events_per_second / 4).max(1)
    }

    /// Returns how long to rest after a step, of which `elapsed` has passed since it began.
    /// `is_waited_for`: callers wait for ImmuDB.
    pub(super) fn rest(self, checked: &Checked, elapsed: Duration, is_waited_for: bool) -> Duration {
        // A transaction without events costs something, too, and so does a step without any.
        let checked_count = checked.events.max(checked.transactions).max(1);
        let at = |rate: u64| {
            let seconds = checked_count as f64 / rate as f64;
            Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
        };
        let by_pace = at(self.events_per_second);
        let whole = if is_waited_for {
            let share = checked.took.saturating_mul(Self::RESTS).min(at(Self::SLOWEST));
            by_pace.max(share.saturating_add(elapsed))
        } else {
            by_pace
        };
        whole.saturating_sub(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(transactions: u64, events: u64, took: u64) -> Checked {
        Checked { transactions, events, took: Duration::from_millis(took), reports: Vec::new() }
    }

    fn rest(rate: u64, checked: &Checked, elapsed: u64, is_waited_for: bool) -> u128 {
        Pace::new(rate).rest(checked, Duration::from_millis(elapsed), is_waited_for).as_millis()
    }

    #[test]
    fn events_and_transactions_are_counted_at_the_pace() {
        assert_eq!(rest(2000, &checked(10, 1000, 50), 100, false), 400);
        assert_eq!(rest(2000, &checked(1000, 0, 50), 100, false), 400);
        assert_eq!(rest(2000, &checked(10, 100, 50), 100, false), 0, "it is slower than that already");
        assert_eq!(rest(1, &checked(0, 0, 0), 0, false), 1000);
    }

    #[test]
    fn while_callers_wait_it_takes_a_twentieth_but_is_never_slower_than_a_hundred_events_a_second() {
        assert_eq!(rest(1_000_000, &checked(10, 1000, 50), 60, true), 19 * 50);
        assert_eq!(rest(1_000_000, &checked(1, 10, 50), 60, true), 100);
        // The set pace is slower than that.
        assert_eq!(rest(20, &checked(1, 10, 1), 0, true), 500);
    }
}
