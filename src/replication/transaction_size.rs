//! The size limit of transactions: the configured one, or less if ImmuDB, or a proxy in front of
//! it, accepts only smaller messages. The limit is found by halving. Reads no clock: the time is
//! passed in.

use std::time::Duration;

use tokio::time::Instant;

use crate::event::Position;

/// The byte limit of one transaction. A single append may exceed it.
#[derive(Debug)]
pub(super) struct BatchSize {
    configured: usize,
    bytes: usize,
    /// Number of consecutive failures that may be due to the size.
    failures: u32,
    /// Number of commits with a size near the limit, since the limit was changed.
    commits: u32,
    /// The smallest limit that has been logged.
    told: usize,
    /// A limit below `bytes`, while failures may be due to the size or to an outage. The size is to
    /// blame if a larger transaction fails again after a smaller one was committed.
    suspected: Option<usize>,
    /// The limit was doubled again, and the larger size has not been proved yet.
    grown: bool,
    /// The largest size that was committed since a size was suspected.
    proved: usize,
    /// The smallest size that was found to be too large.
    refused: Option<RefusedSize>,
    /// An append or a snapshot that fails although it is sent alone.
    alone: Option<SingleAppend>,
}

#[derive(Debug, Clone, Copy)]
struct RefusedSize {
    bytes: usize,
    at: Instant,
}

/// The end of an append or a snapshot that is sent alone: a position, and the number of snapshots.
type SingleAppendEnd = (Position, u64);

#[derive(Debug, Clone, Copy)]
struct SingleAppend {
    end: SingleAppendEnd,
    failures: u32,
}

impl BatchSize {
    /// Number of consecutive failures without a stated reason after which the size is blamed. A
    /// proxy may simply close the connection, and a slow network may exceed `request_timeout`.
    const FAILURES: u32 = 2;
    /// Same as `FAILURES`, for an append that is sent alone, which cannot be halved.
    const FAILURES_ALONE: u32 = 3;
    /// The failure of a smaller transaction is never blamed on its size.
    const SUSPECTED_MIN: usize = 64 * 1024;
    /// Number of commits after which a limit that is only suspected is doubled.
    const SUSPECTED_COMMITS: u32 = 3;
    /// Number of commits after which twice the size is tried: ImmuDB may have been restarted with
    /// another limit.
    const COMMITS: u32 = 1000;
    /// How long a size that was too large is not tried again: each attempt may cause a fallback.
    const REFUSED_FOR: Duration = Duration::from_secs(600);

    pub(super) fn new(configured: usize) -> Self {
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

    pub(super) fn bytes(&self) -> usize {
        self.suspected.unwrap_or(self.bytes)
    }

    /// Records that a transaction of several appends, with a size of `bytes`, was rejected as too
    /// large. Returns whether the new limit is the smallest so far.
    pub(super) fn refused(&mut self, bytes: usize, now: Instant) -> bool {
        let smallest = self.refused_min(now).map_or(bytes, |earlier| earlier.min(bytes));
        self.refused = Some(RefusedSize { bytes: smallest, at: now });
        (self.failures, self.commits) = (0, 0);
        self.bytes = self.bytes().min(bytes) / 2;
        (self.suspected, self.grown) = (None, false);
        self.is_news()
    }

    /// Returns the smallest size that is not tried at the moment. Larger ones are not tried either.
    fn refused_min(&self, now: Instant) -> Option<usize> {
        let refused = self.refused.filter(|refused| now.duration_since(refused.at) < Self::REFUSED_FOR);
        refused.map(|refused| refused.bytes)
    }

    fn is_news(&mut self) -> bool {
        let is_news = self.bytes() < self.told;
        self.told = self.told.min(self.bytes());
        is_news
    }

    /// Records that a transaction of several appends failed, with no indication that its size is
    /// the reason. Returns whether the new limit is the smallest so far.
    pub(super) fn failed(&mut self, bytes: usize, now: Instant) -> bool {
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

    /// Records that a single append or snapshot failed, with no indication that its size is the
    /// reason. Returns whether the size must be assumed to be the reason.
    pub(super) fn failed_alone(&mut self, end: SingleAppendEnd, bytes: usize) -> bool {
        if bytes < Self::SUSPECTED_MIN {
            return false;
        }
        let before = self.alone.filter(|alone| alone.end == end).map_or(0, |alone| alone.failures);
        let failures = before.saturating_add(1);
        self.alone = Some(SingleAppend { end, failures });
        failures >= Self::FAILURES_ALONE
    }

    /// Records that ImmuDB does not even answer a login or a read, so earlier failures were not due
    /// to the size.
    pub(super) fn out_of_reach(&mut self) {
        (self.failures, self.alone) = (0, None);
    }

    /// Records that a transaction with a size of `bytes` was committed.
    pub(super) fn taken(&mut self, bytes: usize, now: Instant) {
        (self.failures, self.alone) = (0, None);
        self.proved = self.proved.max(bytes);
        if self.refused.is_some_and(|refused| refused.bytes <= bytes) {
            self.refused = None;
        }
        let limit = self.bytes();
        // A small transaction proves nothing about the limit. Of two consecutive ones that did not
        // fit into one, at least one has half the limit or more.
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

    /// An ImmuDB behind a proxy that cuts off larger transactions, with the number of cuts.
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
        // A transaction may be refused although it was smaller than the limit.
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
        // Later failures belong to another outage.
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
        // Two attempts are enough to find the size too large again, and the period starts over.
        assert_eq!([cuts_at(600), cuts_at(1199), cuts_at(1200)], [8, 8, 10]);
    }

    #[test]
    fn small_commits_prove_nothing_about_a_limit() {
        let now = Instant::now();
        let mut size = BatchSize::new(4 << 20);
        let mut proxy = Cutting { above: 1 << 20, cuts: 0 };
        // Occasional bursts, with small transactions in between.
        for _ in 0..100 {
            for _ in 0..3 {
                // A transaction that was cut off is retried until it is committed.
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
        // An append that was sent alone shows that this size is accepted now.
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
