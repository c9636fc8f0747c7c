//! How many transactions are requested at once.

/// The number of transactions on the next page. ImmuDB limits a page by that number only, so it
/// follows the sizes of the last pages.
#[derive(Debug, Clone)]
pub(super) struct PageSize {
    limit: u32,
    limit_max: u32,
    events_max: u64,
    bytes_max: usize,
}

impl PageSize {
    const FIRST: u32 = 16;
    /// If large transactions follow small ones, ImmuDB assembles this number of them in memory
    /// before it turns out that they are too large.
    const MAX: u32 = 256;
    /// The same at a set pace, where larger pages would gain nothing.
    const MAX_AT_A_PACE: u32 = 64;

    /// Creates a size for pages of about this number of events at most. `bytes_max` is the maximum
    /// size of an answer.
    pub(super) fn new(events_max: Option<u64>, bytes_max: usize) -> Self {
        let limit_max = if events_max.is_some() { Self::MAX_AT_A_PACE } else { Self::MAX };
        Self { limit: Self::FIRST, limit_max, events_max: events_max.unwrap_or(u64::MAX), bytes_max }
    }

    /// Returns the number of transactions for the next page.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// Returns whether pages are as large as the limits allow.
    pub(super) fn is_full_pace(&self) -> bool {
        self.events_max == u64::MAX
    }

    /// Halves the size. Returns `false` if it is a single transaction already.
    pub(super) fn halve(&mut self) -> bool {
        let is_one = self.limit <= 1;
        self.limit = (self.limit / 2).max(1);
        !is_one
    }

    /// Follows a page of this number of events and bytes.
    pub(super) fn follow(&mut self, events: u64, bytes: usize) {
        if events > self.events_max {
            self.halve();
        } else if events <= self.events_max / 2 && bytes < self.bytes_max / 4 {
            self.limit = self.limit.saturating_mul(2).min(self.limit_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn pages_grow_up_to_the_limit_of_their_kind() {
        for (events_max, limit) in [(None, PageSize::MAX), (Some(1000), PageSize::MAX_AT_A_PACE)] {
            let mut size = PageSize::new(events_max, 64 * MIB);
            for _ in 0..10 {
                size.follow(10, MIB);
            }
            assert_eq!(size.limit(), limit);
        }
    }

    #[test]
    fn pages_have_about_the_events_and_bytes_that_are_wanted() {
        // Transactions of 100 events.
        let mut size = PageSize::new(Some(1000), 64 * MIB);
        for _ in 0..10 {
            size.follow(100 * u64::from(size.limit()), MIB);
        }
        assert!((4..=16).contains(&size.limit()), "{}", size.limit());
        // Transactions of a MiB.
        let mut size = PageSize::new(None, 64 * MIB);
        for _ in 0..10 {
            size.follow(1, MIB * size.limit() as usize);
        }
        assert!((16..=32).contains(&size.limit()), "{}", size.limit());
    }

    #[test]
    fn a_page_shrinks_down_to_one_transaction() {
        let mut size = PageSize::new(None, 64 * MIB);
        let halved = (0..10).take_while(|_| size.halve()).count();
        assert_eq!((halved, size.limit()), (4, 1));
        assert!(!size.halve() && size.limit() == 1);
    }
}
