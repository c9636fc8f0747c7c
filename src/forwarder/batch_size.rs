//! How large a transaction may be: what the configuration says, or less where ImmuDB, or a proxy before it, takes smaller
//! messages. That is found out by halving. Pure: the time is passed in.

use std::time::Duration;

use tokio::time::Instant;

use crate::event::Position;

/// The bytes that go into one transaction, unless a single append has more.
#[derive(Debug)]
pub struct BatchSize {
    configured: usize,
    bytes: usize,
    /// Of the last transactions, with a size that may be why.
    failures: u32,
    /// With a size near the limit, since the limit was changed.
    commits: u32,
    /// The smallest size that was logged.
    told: usize,
    /// Less than `bytes` while failures may be for the size, or for an outage: that it is the size shows when a larger
    /// one fails again after a smaller one was taken.
    suspected: Option<usize>,
    /// It was doubled again, and the larger size is not proved yet.
    grown: bool,
    /// The largest size that was taken since a size was suspected.
    proved: usize,
    /// The smallest size that was found too large.
    refused: Option<Refused>,
    /// An append or a snapshot that fails alone.
    alone: Option<Alone>,
}

#[derive(Debug, Clone, Copy)]
struct Refused {
    bytes: usize,
    at: Instant,
}

/// The end of what goes alone: a position, and the number of snapshots.
type AloneEnd = (Position, u64);

#[derive(Debug, Clone, Copy)]
struct Alone {
    end: AloneEnd,
    failures: u32,
}

impl BatchSize {
    /// Failures in a row, none of which says why, before the size is taken for the reason. A proxy may just cut the
    /// connection, and a slow network may take longer than `request_timeout`.
    const FAILURES: u32 = 2;
    /// The same for an append that goes alone, which cannot be halved.
    const FAILURES_ALONE: u32 = 3;
    /// Smaller transactions do not fail for their size.
    const SUSPECTED_MIN: usize = 64 * 1024;
    /// After so many commits a size that is only suspected is doubled.
    const SUSPECTED_COMMITS: u32 = 3;
    /// After so many commits twice the size is tried: ImmuDB may have been restarted with another limit.
    const COMMITS: u32 = 1000;
    /// A size that was found too large is not tried again for so long: each attempt may cost a fallback.
    const REFUSED_FOR: Duration = Duration::from_secs(600);

    pub fn new(configured: usize) -> Self {
        Self {
            configured,
            bytes: configured,
            failures: 0,
            commits: 0,
            told: configured,
            suspected: None,
            grown: false,
            proved: 0,
            refused: None,
            alone: None,
        }
    }

    pub fn bytes(&self) -> usize {
        self.suspected.unwrap_or(self.bytes)
    }

    /// A transaction of several appends with so many bytes was refused as too large. Tells whether the size that is
    /// tried next is the smallest so far.
    pub fn refused(&mut self, bytes: usize, now: Instant) -> bool {
        let smallest = self.refused_min(now).map_or(bytes, |earlier| earlier.min(bytes));
        self.refused = Some(Refused { bytes: smallest, at: now });
        (self.failures, self.commits) = (0, 0);
        self.bytes = self.bytes().min(bytes) / 2;
        (self.suspected, self.grown) = (None, false);
        self.is_news()
    }

    /// Transactions of this size and of larger ones are not tried.
    fn refused_min(&self, now: Instant) -> Option<usize> {
        let refused = self.refused.filter(|refused| now.duration_since(refused.at) < Self::REFUSED_FOR);
        refused.map(|refused| refused.bytes)
    }

    fn is_news(&mut self) -> bool {
        let is_news = self.bytes() < self.told;
        self.told = self.told.min(self.bytes());
        is_news
    }

    /// A transaction of several appends failed, and nothing says that its size is the reason.
    pub fn failed(&mut self, bytes: usize, now: Instant) -> bool {
        if bytes < Self::SUSPECTED_MIN {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < Self::FAILURES {
            return false;
        }
        if self.grown && bytes > self.proved {
            return self.refused(bytes, now);
        }
        (self.failures, self.commits, self.proved) = (0, 0, 0);
        self.suspected = Some((self.bytes().min(bytes) / 2).max(Self::SUSPECTED_MIN));
        self.is_news()
    }

    /// A single append or snapshot failed, and nothing says that its size is the reason. Tells whether that has to be
    /// supposed.
    pub fn failed_alone(&mut self, end: AloneEnd, bytes: usize) -> bool {
        if bytes < Self::SUSPECTED_MIN {
            return false;
        }
        let before = self.alone.filter(|alone| alone.end == end).map_or(0, |alone| alone.failures);
        let failures = before.saturating_add(1);
        self.alone = Some(Alone { end, failures });
        failures >= Self::FAILURES_ALONE
    }

    /// ImmuDB does not even answer a login or a read, so what failed before did not fail for its size.
    pub fn out_of_reach(&mut self) {
        (self.failures, self.alone) = (0, None);
    }

    /// A transaction with so many bytes was committed.
    pub fn taken(&mut self, bytes: usize, now: Instant) {
        (self.failures, self.alone) = (0, None);
        self.proved = self.proved.max(bytes);
        if self.refused.is_some_and(|refused| refused.bytes <= bytes) {
            self.refused = None;
        }
        let limit = self.bytes();
        // A small one proves nothing about the limit. Of two that follow each other because they did not fit into one,
        // one has at least half of it.
        if bytes < limit / 2 {
            return;
        }
        self.commits = self.commits.saturating_add(1);
        if self.suspected.is_some() || self.grown {
            if self.commits >= Self::SUSPECTED_COMMITS {
                self.commits = 0;
                self.grown = self.suspected.is_some();
                let doubled = limit.saturating_mul(2);
                self.suspected = self.suspected.map(|_| doubled).filter(|bytes| *bytes < self.bytes);
            }
        } else if limit < self.configured && self.commits >= Self::COMMITS {
            let doubled = limit.saturating_mul(2).clamp(1, self.configured);
            if self.refused_min(now).is_none_or(|refused| doubled < refused) {
                self.commits = 0;
                self.bytes = doubled;
                self.grown = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ImmuDB behind a proxy that cuts larger transactions off, and how often it did.
    struct Cutting {
        above: usize,
        cuts: u32,
    }

    impl Cutting {
        fn send(&mut self, size: &mut BatchSize, bytes: usize, now: Instant) {
            if bytes > self.above {
                self.cuts += 1;
                size.failed(bytes, now);
            } else {
                size.taken(bytes, now);
            }
        }
    }

    #[test]
    fn what_is_refused_is_halved_until_it_is_taken_and_what_was_taken_is_remembered() {
        let now = Instant::now();
        let mut size = BatchSize::new(4 << 20);
        let taken_max = 1_000_000;
        let mut refused = 0;
        for _ in 0..10 {
            while size.bytes() > taken_max {
                assert!(
                    size.refused(size.bytes(), now),
                    "a smaller size than ever is worth a line in the log"
                );
                refused += 1;
            }
            size.taken(size.bytes(), now);
        }
        assert_eq!((refused, size.bytes()), (3, 512 << 10));
        // A transaction may have been smaller than allowed, and refused.
        size.refused(1000, now);
        assert_eq!(size.bytes(), 500);
    }

    #[test]
    fn an_outage_leaves_no_small_transactions_behind() {
        let now = Instant::now();
        let mut size = BatchSize::new(4 << 20);
        for _ in 0..100 {
            size.failed(size.bytes(), now);
        }
        assert_eq!(size.bytes(), BatchSize::SUSPECTED_MIN);
        let commits = (1..).find(|_| {
            size.taken(size.bytes(), now);
            size.bytes() == 4 << 20
        });
        assert_eq!(commits, Some(6 * BatchSize::SUSPECTED_COMMITS));
        // Later failures are those of another outage.
        (0..BatchSize::SUSPECTED_COMMITS).for_each(|_| size.taken(4 << 20, now));
        size.failed(4 << 20, now);
        size.failed(4 << 20, now);
        assert_eq!((size.bytes(), size.bytes), (2 << 20, 4 << 20));
    }

    #[test]
    fn a_size_that_fails_again_after_a_smaller_one_was_taken_is_too_large() {
        let now = Instant::now();
        let mut size = BatchSize::new(4 << 20);
        let mut proxy = Cutting { above: 1 << 20, cuts: 0 };
        for _ in 0..500 {
            let bytes = size.bytes();
            proxy.send(&mut size, bytes, now);
        }
        assert_eq!((size.bytes(), proxy.cuts), (1 << 20, 6));
    }

    #[test]
    fn what_is_too_large_is_tried_again_after_ten_minutes_only() {
        let began = Instant::now();
        let mut size = BatchSize::new(4 << 20);
        let mut proxy = Cutting { above: 1 << 20, cuts: 0 };
        let mut cuts_at = |seconds: u64| {
            for _ in 0..5000 {
                let bytes = size.bytes();
                proxy.send(&mut size, bytes, began + Duration::from_secs(seconds));
            }
            proxy.cuts
        };
        assert_eq!([cuts_at(0), cuts_at(599)], [6, 6]);
        // Two attempts with the size are enough to find it too large again, and the time begins anew.
        assert_eq!([cuts_at(600), cuts_at(1199), cuts_at(1200)], [8, 8, 10]);
    }

    #[test]
    fn small_commits_prove_nothing_about_a_limit() {
        let now = Instant::now();
        let mut size = BatchSize::new(4 << 20);
        let mut proxy = Cutting { above: 1 << 20, cuts: 0 };
        // A burst now and then, and small transactions between them.
        for _ in 0..100 {
            for _ in 0..3 {
                // What was cut off is sent again, until it is taken.
                let cuts = proxy.cuts;
                let bytes = size.bytes();
                proxy.send(&mut size, bytes, now);
                while proxy.cuts > cuts && size.bytes() > proxy.above {
                    let bytes = size.bytes();
                    proxy.send(&mut size, bytes, now);
                }
            }
            (0..2000).for_each(|_| proxy.send(&mut size, 1000, now));
        }
        assert_eq!((size.bytes(), proxy.cuts), (1 << 20, 6));
    }

    #[test]
    fn after_many_commits_and_ten_minutes_a_larger_size_is_tried_once_without_a_word() {
        let now = Instant::now();
        let mut size = BatchSize::new(4 << 20);
        size.refused(4 << 20, now);
        let later = now + BatchSize::REFUSED_FOR;
        for _ in 0..BatchSize::COMMITS {
            assert_eq!(size.bytes(), 2 << 20);
            size.taken(2 << 20, later);
        }
        assert_eq!(size.bytes(), 4 << 20);
        assert!(!size.refused(4 << 20, later));
        assert_eq!(size.bytes(), 2 << 20);
        // An append that went alone shows that as much is taken now.
        size.taken(4 << 20, later);
        (0..BatchSize::COMMITS).for_each(|_| size.taken(2 << 20, later));
        assert_eq!(size.bytes(), 4 << 20);
    }

    #[test]
    fn failures_in_a_row_that_say_nothing_count_only_where_the_size_may_be_the_reason() {
        let now = Instant::now();
        let mut size = BatchSize::new(4 << 20);
        for _ in 0..100 {
            size.failed(100, now);
        }
        size.failed(1 << 20, now);
        size.taken(1 << 20, now);
        size.failed(1 << 20, now);
        assert_eq!(size.bytes(), 4 << 20);
        size.out_of_reach();
        size.failed(1 << 20, now);
        assert_eq!(size.bytes(), 4 << 20, "ImmuDB was gone");
        size.failed(1 << 20, now);
        assert_eq!(size.bytes(), 512 << 10);
    }

    #[test]
    fn an_append_that_fails_alone_three_times_in_a_row_is_too_large() {
        let now = Instant::now();
        let mut size = BatchSize::new(4 << 20);
        let (one, other) = ((Position(4), 0), (Position(4), 1));
        let mut fails = |end, bytes| size.failed_alone(end, bytes);
        assert_eq!([fails(one, 1 << 20), fails(one, 1 << 20), fails(one, 1 << 20)], [false, false, true]);
        assert_eq!([fails(other, 1 << 20), fails(other, 1 << 20)], [false, false], "another one");
        assert_eq!([(); 5].map(|()| fails(one, 1000)), [false; 5], "as small as that");
        for reset in [BatchSize::out_of_reach, |size: &mut BatchSize| size.taken(1, Instant::now())] {
            assert!(!size.failed_alone(one, 1 << 20) && !size.failed_alone(one, 1 << 20));
            reset(&mut size);
        }
        assert!(!size.failed_alone(one, 1 << 20));
        size.taken(1, now);
    }
}
