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
}

impl BatchSize {
    /// Failures in a row, none of which says why, before the size is taken for the reason. A proxy may just cut the
    /// connection, and a slow network may take longer than `request_timeout`.
    const FAILURES: u32 = 2;
    /// Smaller transactions do not fail for their size.
    const SUSPECTED_MIN: usize = 4096;
    /// After so many commits twice the size is tried: ImmuDB may have been restarted with another limit.
    const COMMITS: u32 = 1000;

    pub fn new(configured: usize) -> Self {
        Self { configured, bytes: configured, failures: 0, commits: 0, told: configured }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A transaction of several appends with so many bytes was refused as too large. Tells whether the size that is
    /// tried next is the smallest so far.
    pub fn refused(&mut self, bytes: usize) -> bool {
        (self.failures, self.commits) = (0, 0);
        self.bytes = self.bytes.min(bytes) / 2;
        let is_news = self.bytes < self.told;
        self.told = self.told.min(self.bytes);
        is_news
    }

    /// A transaction of several appends failed, and nothing says that its size is the reason.
    pub fn failed(&mut self, bytes: usize) -> bool {
        if bytes < Self::SUSPECTED_MIN {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        self.failures >= Self::FAILURES && self.refused(bytes)
    }

    pub fn taken(&mut self) {
        self.failures = 0;
        if self.bytes < self.configured {
            self.commits = self.commits.saturating_add(1);
            if self.commits >= Self::COMMITS {
                self.commits = 0;
                self.bytes = self.bytes.saturating_mul(2).clamp(1, self.configured);
            }
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
