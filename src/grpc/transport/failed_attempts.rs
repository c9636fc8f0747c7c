//! Slows down clients that guess tokens, by their address.
//!
//! After ten wrong tokens from one address within a minute, the answer to each further one waits a
//! second. A right token is never delayed, so a client is not affected by others at its address.
//! The memory is bounded: while too many addresses have failed recently, a further one counts as
//! one that has used up its attempts.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// The wrong tokens from one address that are answered at once, within the time below.
const ATTEMPTS_MAX: usize = 10;
const WITHIN: Duration = Duration::from_secs(60);
/// The answers that may wait at the same time, for all addresses.
const WAITING_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 10_000;
/// The minimum time between two searches for addresses that have not failed for a while.
const SEARCH_EVERY: Duration = Duration::from_secs(1);
/// How long an answer waits.
const DELAY: Duration = Duration::from_secs(1);

/// The recent failures of all addresses.
#[derive(Debug)]
pub(super) struct FailedAttempts {
    addresses: Mutex<Addresses>,
    places: Arc<Semaphore>,
}

/// When the answer to a wrong token may be sent.
#[derive(Debug)]
pub(super) enum AnswerTime {
    AtOnce,
    /// After the delay.
    Later(Delay),
    /// At once, because too many answers wait. Then the connection has to be closed.
    ThenClose,
}

/// A place among the answers that wait.
#[derive(Debug)]
pub(super) struct Delay(OwnedSemaphorePermit);

#[derive(Debug, Default)]
struct Addresses {
    /// The times of the last failures of each address, oldest first.
    failures: HashMap<Option<IpAddr>, VecDeque<Instant>>,
    searched: Option<Instant>,
}

impl Delay {
    pub(super) async fn wait(self) {
        tokio::time::sleep(DELAY).await;
        drop(self.0);
    }
}

impl FailedAttempts {
    pub(super) fn new() -> Self {
        Self { addresses: Mutex::default(), places: Arc::new(Semaphore::new(WAITING_MAX)) }
    }

    /// Records a wrong token from an address, which is `None` for a unix socket.
    pub(super) fn record(&self, address: Option<IpAddr>) -> AnswerTime {
        let is_first = {
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            addresses.record(address.map(network), Instant::now())
        };
        if is_first {
            return AnswerTime::AtOnce;
        }
        match self.places.clone().try_acquire_owned() {
            Ok(place) => AnswerTime::Later(Delay(place)),
            Err(_) => AnswerTime::ThenClose,
        }
    }
}

impl Addresses {
    /// Returns whether the failure is one of the first of its address within a minute.
    fn record(&mut self, address: Option<IpAddr>, now: Instant) -> bool {
        if !self.failures.contains_key(&address) && !self.forget_old(now) {
            return false;
        }
        let failures = self.failures.entry(address).or_default();
        while failures.front().is_some_and(|failed| is_over(*failed, now)) {
            failures.pop_front();
        }
        let is_first = failures.len() < ATTEMPTS_MAX;
        if !is_first {
            failures.pop_front();
        }
        failures.push_back(now);
        is_first
    }

    /// Forgets addresses that have not failed for a while, if there are too many. Returns whether
    /// there is room for another one.
    fn forget_old(&mut self, now: Instant) -> bool {
        if self.failures.len() < ADDRESSES_MAX {
            return true;
        }
        let rested = self.searched.is_none_or(|at| now.saturating_duration_since(at) >= SEARCH_EVERY);
        if rested {
            self.searched = Some(now);
            self.failures.retain(|_, failures| failures.back().is_some_and(|last| !is_over(*last, now)));
        }
        self.failures.len() < ADDRESSES_MAX
    }
}

fn is_over(failed: Instant, now: Instant) -> bool {
    now.saturating_duration_since(failed) >= WITHIN
}

/// Returns what counts as one address: of IPv6, the network of a site (64 bits), because a client
/// may use every address in it.
fn network(address: IpAddr) -> IpAddr {
    const SITE: u128 = u128::MAX << 64;
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & SITE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u32) -> Option<IpAddr> {
        Some(IpAddr::V4(last.into()))
    }

    fn at_once(attempts: &FailedAttempts, address: Option<IpAddr>) -> bool {
        matches!(attempts.record(address), AnswerTime::AtOnce)
    }

    #[tokio::test(start_paused = true)]
    async fn ten_failures_within_a_minute_are_answered_at_once() {
        let attempts = FailedAttempts::new();
        for address in [v4(1), v4(2), None] {
            for nth in 0..15 {
                assert_eq!(at_once(&attempts, address), nth < 10, "{address:?} {nth}");
            }
        }
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(!at_once(&attempts, v4(1)));
        // One of the last ten failures is not over yet.
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(at_once(&attempts, v4(1)));
        tokio::time::advance(Duration::from_secs(60)).await;
        for nth in 0..12 {
            assert_eq!(at_once(&attempts, v4(1)), nth < 10, "{nth}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_is_a_second_and_only_a_thousand_wait() {
        let attempts = FailedAttempts::new();
        let mut waiting = Vec::new();
        for nth in 0..ATTEMPTS_MAX + WAITING_MAX + 1 {
            match attempts.record(v4(1)) {
                AnswerTime::AtOnce => assert!(nth < ATTEMPTS_MAX),
                AnswerTime::Later(delay) => waiting.push(delay),
                AnswerTime::ThenClose => assert_eq!(waiting.len(), WAITING_MAX),
            }
        }
        assert_eq!(waiting.len(), WAITING_MAX);
        let began = Instant::now();
        waiting.pop().unwrap().wait().await;
        assert_eq!(began.elapsed(), DELAY);
        assert!(matches!(attempts.record(v4(1)), AnswerTime::Later(_)), "a place is free again");
        drop(waiting);
        assert_eq!(attempts.places.available_permits(), WAITING_MAX);
    }

    #[test]
    fn the_memory_is_bounded_and_a_full_table_lets_nobody_guess() {
        let (mut addresses, start) = (Addresses::default(), Instant::now());
        for nth in 0..ADDRESSES_MAX as u32 {
            assert!(addresses.record(v4(nth), start));
        }
        assert!(!addresses.record(v4(u32::MAX), start));
        assert!(addresses.record(v4(0), start), "a known address has its attempts");
        assert_eq!(addresses.failures.len(), ADDRESSES_MAX);
        for _ in 0..100 {
            addresses.record(v4(0), start + Duration::from_secs(30));
        }
        assert_eq!(addresses.failures[&v4(0)].len(), ATTEMPTS_MAX);
        assert!(addresses.record(v4(u32::MAX), start + Duration::from_secs(60)));
        assert_eq!(addresses.failures.len(), 2, "the others have not failed for a minute");
    }

    #[test]
    fn a_site_is_one_address() {
        let network = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("2001:db8:1:2:ffff::"), network("2001:db8:1:2:3:4:5:6"));
        assert_ne!(network("2001:db8:1:3::1"), network("2001:db8:1:2::1"));
        assert_eq!(network("::ffff:10.1.2.3"), "10.1.2.3");
        assert_eq!(network("10.1.2.4"), "10.1.2.4");
    }
}
