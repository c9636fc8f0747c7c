//! How large a transaction may be: what the configuration says, or less where ImmuDB, or a proxy before it, takes smaller
//! messages. That is found out by halving. Pure.

/// The bytes that go into one transaction, unless a single append has more.
#[derive(Debug)]
pub struct BatchSize {
    configured: usize,
    bytes: usize,
    /// Of the last transactions, with a size that may be why.
    failures: u32,
    /// In a row, since the size was changed.
    commits: u32,
    /// The smallest size that was logged.
    told: usize,
    /// Less than `bytes` while failures may be for the size, or for an outage: that it is the size shows when a larger
    /// one fails again after a smaller one was taken.
    suspected: Option<usize>,
    /// It was doubled again, and the larger size is not proved yet.
    grown: bool,
}

impl BatchSize {
    /// Failures in a row, none of which says why, before the size is taken for the reason. A proxy may just cut the
    /// connection, and a slow network may take longer than `request_timeout`.
    const FAILURES: u32 = 2;
    /// Smaller transactions do not fail for their size.
    const SUSPECTED_MIN: usize = 64 * 1024;
    /// After so many commits a size that is only suspected is doubled.
    const SUSPECTED_COMMITS: u32 = 3;
    /// After so many commits twice the size is tried: ImmuDB may have been restarted with another limit.
    const COMMITS: u32 = 1000;

    pub fn new(configured: usize) -> Self {
        let (bytes, told) = (configured, configured);
        Self { configured, bytes, failures: 0, commits: 0, told, suspected: None, grown: false }
    }

    pub fn bytes(&self) -> usize {
        self.suspected.unwrap_or(self.bytes)
    }

    /// A transaction of several appends with so many bytes was refused as too large. Tells whether the size that is
    /// tried next is the smallest so far.
    pub fn refused(&mut self, bytes: usize) -> bool {
        (self.failures, self.commits) = (0, 0);
        self.bytes = self.bytes().min(bytes) / 2;
        (self.suspected, self.grown) = (None, false);
        self.is_news()
    }

    fn is_news(&mut self) -> bool {
        let is_news = self.bytes() < self.told;
        self.told = self.told.min(self.bytes());
        is_news
    }

    /// A transaction of several appends failed, and nothing says that its size is the reason.
    pub fn failed(&mut self, bytes: usize) -> bool {
        if bytes < Self::SUSPECTED_MIN {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < Self::FAILURES {
            return false;
        }
        if self.grown {
            return self.refused(bytes);
        }
        (self.failures, self.commits) = (0, 0);
        self.suspected = Some((self.bytes().min(bytes) / 2).max(Self::SUSPECTED_MIN));
        self.is_news()
    }

    pub fn taken(&mut self) {
        self.failures = 0;
        if self.suspected.is_some() || self.grown || self.bytes < self.configured {
            self.commits = self.commits.saturating_add(1);
        }
        if self.suspected.is_some() || self.grown {
            if self.commits >= Self::SUSPECTED_COMMITS {
                self.commits = 0;
                self.grown = self.suspected.is_some();
                let doubled = self.suspected.map(|bytes| bytes.saturating_mul(2));
                self.suspected = doubled.filter(|bytes| *bytes < self.bytes);
            }
        } else if self.bytes < self.configured && self.commits >= Self::COMMITS {
            self.commits = 0;
            self.bytes = self.bytes.saturating_mul(2).clamp(1, self.configured);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_halved_until_it_is_taken_and_what_was_taken_is_remembered() {
        let mut size = BatchSize::new(4 << 20);
        let taken_max = 1_000_000;
        let mut refused = 0;
        for _ in 0..10 {
            while size.bytes() > taken_max {
                assert!(size.refused(size.bytes()), "a smaller size than ever is worth a line in the log");
                refused += 1;
            }
            size.taken();
        }
        assert_eq!((refused, size.bytes()), (3, 512 << 10));
        // A transaction may have been smaller than allowed, and refused.
        size.refused(1000);
        assert_eq!(size.bytes(), 500);
    }

    #[test]
    fn an_outage_leaves_no_small_transactions_behind() {
        let mut size = BatchSize::new(4 << 20);
        for _ in 0..100 {
            size.failed(size.bytes());
        }
        assert_eq!(size.bytes(), BatchSize::SUSPECTED_MIN);
        let commits = (1..).find(|_| {
            size.taken();
            size.bytes() == 4 << 20
        });
        assert_eq!(commits, Some(6 * BatchSize::SUSPECTED_COMMITS));
        // Later failures are those of another outage.
        (0..BatchSize::SUSPECTED_COMMITS).for_each(|_| size.taken());
        size.failed(4 << 20);
        size.failed(4 << 20);
        assert_eq!((size.bytes(), size.bytes), (2 << 20, 4 << 20));
    }

    #[test]
    fn a_size_that_fails_again_after_a_smaller_one_was_taken_is_too_large() {
        let mut size = BatchSize::new(4 << 20);
        let cut_above = 1 << 20;
        let mut failures = 0;
        for _ in 0..500 {
            if size.bytes() > cut_above {
                failures += 1;
                size.failed(size.bytes());
            } else {
                size.taken();
            }
        }
        assert_eq!((size.bytes(), failures), (1 << 20, 6));
    }

    #[test]
    fn after_many_commits_a_larger_size_is_tried_once_without_a_word() {
        let mut size = BatchSize::new(4 << 20);
        size.refused(4 << 20);
        for _ in 0..BatchSize::COMMITS {
            assert_eq!(size.bytes(), 2 << 20);
            size.taken();
        }
        assert_eq!(size.bytes(), 4 << 20);
        assert!(!size.refused(4 << 20));
        assert_eq!(size.bytes(), 2 << 20);
    }

    #[test]
    fn failures_in_a_row_that_say_nothing_count_only_where_the_size_may_be_the_reason() {
        let mut size = BatchSize::new(4 << 20);
        for _ in 0..100 {
            size.failed(100);
        }
        size.failed(1 << 20);
        size.taken();
        size.failed(1 << 20);
        assert_eq!(size.bytes(), 4 << 20);
        size.failed(1 << 20);
        assert_eq!(size.bytes(), 512 << 10);
    }
}
