//! Limits that all clients share, none of which a single client can use up.
//!
//! While no more than four fifths of a limit is in use, no client is restricted. Above that, a
//! client that would hold more than half of the limit is rejected, so that there is always room for
//! others. A client is one connection.
//!
//! The amount of a [`LimitGuard`] belongs to the work or the memory that it stands for, and is
//! released when that ends. Code that holds amounts of several limits for one client keeps them
//! itself, and releases them with [`SharedLimit::force`].

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::error::Limit;

/// The resources that are counted per client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Calls in progress.
    Calls,
    /// Open streams.
    Streams,
    /// Bytes of requests, responses and reads in progress.
    Bytes,
    /// The part of `Bytes` used by large requests.
    RequestBytes,
    /// The part of `Bytes` used by responses and reads in progress.
    AnswerBytes,
    /// The part of `Bytes` used by responses to writes.
    WriteAnswerBytes,
    /// Writes that wait for the sequencer.
    WaitingWrites,
    /// Bytes of the writes that wait for the sequencer.
    WaitingBytes,
    /// Bytes of the objects named by differences.
    DifferenceBytes,
}

/// A client, with the amounts that it holds of every limit.
#[derive(Debug, Clone, Default)]
pub struct Caller(Arc<Amounts>);

#[derive(Debug, Default)]
struct Amounts {
    calls: AtomicU64,
    streams: AtomicU64,
    bytes: AtomicU64,
    request_bytes: AtomicU64,
    answer_bytes: AtomicU64,
    write_answer_bytes: AtomicU64,
    waiting_writes: AtomicU64,
    waiting_bytes: AtomicU64,
    difference_bytes: AtomicU64,
}

impl Caller {
    /// Returns whether the client holds any amount of the resource.
    pub fn holds(&self, resource: Resource) -> bool {
        self.amount(resource).load(Ordering::Relaxed) > 0
    }

    fn amount(&self, resource: Resource) -> &AtomicU64 {
        match resource {
            Resource::Calls => &self.0.calls,
            Resource::Streams => &self.0.streams,
            Resource::Bytes => &self.0.bytes,
            Resource::RequestBytes => &self.0.request_bytes,
            Resource::AnswerBytes => &self.0.answer_bytes,
            Resource::WriteAnswerBytes => &self.0.write_answer_bytes,
            Resource::WaitingWrites => &self.0.waiting_writes,
            Resource::WaitingBytes => &self.0.waiting_bytes,
            Resource::DifferenceBytes => &self.0.difference_bytes,
        }
    }
}

/// The error of a limit that is reached, or of which the client has used up its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitReached {
    pub limit: Limit,
    pub max: u64,
    /// The client's share, if the share was reached.
    pub share: Option<u64>,
}

/// A limit that all clients share.
#[derive(Debug)]
pub struct SharedLimit {
    limit: Limit,
    resource: Resource,
    max: u64,
    /// The configured value of the limit, of which this may be a part.
    configured: u64,
    used: AtomicU64,
}

impl SharedLimit {
    pub fn new(limit: Limit, resource: Resource, max: u64) -> Self {
        Self::part(limit, resource, max, max)
    }

    /// Creates a limit that is a part of a limit configured as `configured`.
    pub fn part(limit: Limit, resource: Resource, max: u64, configured: u64) -> Self {
        Self { limit, resource, max, configured, used: AtomicU64::new(0) }
    }

    pub fn max(&self) -> u64 {
        self.max
    }

    /// Returns how much is in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns whether more than half is in use.
    pub fn is_short(&self) -> bool {
        self.used() > self.max / 2
    }

    /// Acquires an amount for a client.
    ///
    /// # Errors
    /// Returns an error if the limit is reached, or if the client has used up its share.
    pub fn acquire(self: &Arc<Self>, caller: &Caller, amount: u64) -> Result<LimitGuard, LimitReached> {
        let mut held = self.nothing(caller);
        held.resize(amount)?;
        Ok(held)
    }

    /// Acquires an amount for a client if nothing is in use, even if the amount exceeds the limit.
    pub fn take_alone(&self, caller: &Caller, held: &mut u64, amount: u64) -> bool {
        let alone = self.used.compare_exchange(0, amount, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if alone {
            caller.amount(self.resource).fetch_add(amount, Ordering::Relaxed);
            *held = amount;
        }
        alone
    }

    /// Returns an amount of zero, which can be resized.
    pub fn nothing(self: &Arc<Self>, caller: &Caller) -> LimitGuard {
        LimitGuard { limit: self.clone(), caller: caller.clone(), amount: 0 }
    }

    /// Changes the amount that a client holds from `held` to `amount`. If it cannot grow, it stays
    /// unchanged.
    ///
    /// # Errors
    /// See [`SharedLimit::acquire`].
    pub fn resize(&self, caller: &Caller, held: &mut u64, amount: u64) -> Result<(), LimitReached> {
        match amount.checked_sub(*held) {
            Some(0) => {}
            Some(more) => self.take(caller, more)?,
            None => self.give_back(caller, held.saturating_sub(amount)),
        }
        *held = amount;
        Ok(())
    }

    /// Changes the amount like [`SharedLimit::resize`], but may exceed the limit. Used for
    /// responses that must be sent in any case.
    pub fn force(&self, caller: &Caller, held: &mut u64, amount: u64) {
        match amount.checked_sub(*held) {
            Some(0) => {}
            Some(more) => {
                caller.amount(self.resource).fetch_add(more, Ordering::Relaxed);
                self.used.fetch_add(more, Ordering::Relaxed);
            }
            None => self.give_back(caller, held.saturating_sub(amount)),
        }
        *held = amount;
    }

    /// Returns [`LimitReached`] if more than half of the limit would be in use with `amount` in
    /// place of `held`.
    pub fn short_with(&self, held: u64, amount: u64) -> Option<LimitReached> {
        let used = self.used().saturating_sub(held).saturating_add(amount);
        let Self { limit, max, configured, .. } = *self;
        (used > max / 2).then_some(LimitReached { limit, max: configured, share: None })
    }

    fn give_back(&self, caller: &Caller, amount: u64) {
        self.used.fetch_sub(amount, Ordering::Relaxed);
        caller.amount(self.resource).fetch_sub(amount, Ordering::Relaxed);
    }

    fn take(&self, caller: &Caller, more: u64) -> Result<(), LimitReached> {
        let share = (self.max / 2).max(1);
        let unheld = self.max.saturating_sub(self.max.div_ceil(5));
        // Counted before the check, so that concurrent calls cannot exceed the share together.
        let own = caller.amount(self.resource);
        let mine = own.fetch_add(more, Ordering::Relaxed).saturating_add(more);
        let mut beyond_share = false;
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            let sum = used.checked_add(more).filter(|sum| *sum <= self.max)?;
            beyond_share = sum > unheld && mine > share;
            (!beyond_share).then_some(sum)
        });
        if taken.is_ok() {
            return Ok(());
        }
        own.fetch_sub(more, Ordering::Relaxed);
        Err(LimitReached { limit: self.limit, max: self.configured, share: beyond_share.then_some(share) })
    }
}

/// An amount of a limit. It is released on drop.
#[derive(Debug)]
pub struct LimitGuard {
    limit: Arc<SharedLimit>,
    caller: Caller,
    amount: u64,
}

impl LimitGuard {
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Changes the amount. If it cannot grow, it stays unchanged.
    ///
    /// # Errors
    /// See [`SharedLimit::acquire`].
    pub fn resize(&mut self, amount: u64) -> Result<(), LimitReached> {
        self.limit.resize(&self.caller, &mut self.amount, amount)
    }

    /// Changes the amount, even beyond the limit.
    pub fn force(&mut self, amount: u64) {
        self.limit.force(&self.caller, &mut self.amount, amount);
    }
}

impl Drop for LimitGuard {
    fn drop(&mut self) {
        self.force(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(max: u64) -> Arc<SharedLimit> {
        Arc::new(SharedLimit::new(Limit::StreamsOpen, Resource::Streams, max))
    }

    #[test]
    fn no_caller_takes_the_whole_and_another_finds_room() {
        for max in [2u64, 3, 10, 20, 1000] {
            let (limit, greedy, other) = (limit(max), Caller::default(), Caller::default());
            let mut held = Vec::new();
            let refused = loop {
                match limit.acquire(&greedy, 1) {
                    Ok(one) => held.push(one),
                    Err(refused) => break refused,
                }
            };
            let share = (max / 2).max(1);
            assert_eq!(refused, LimitReached { limit: Limit::StreamsOpen, max, share: Some(share) });
            assert_eq!(held.len() as u64, share.max(max * 4 / 5), "of {max}");
            let room = limit.acquire(&other, 1).unwrap();
            held.push(room);
            drop(held);
            assert_eq!((limit.used(), greedy.amount(Resource::Streams).load(Ordering::Relaxed)), (0, 0));
        }
    }

    #[test]
    fn two_callers_can_have_all_of_it_and_no_more() {
        let (limit, one, other) = (limit(10), Caller::default(), Caller::default());
        let mut held: Vec<LimitGuard> = (0..5).map(|_| limit.acquire(&one, 1).unwrap()).collect();
        held.extend((0..5).map(|_| limit.acquire(&other, 1).unwrap()));
        let third = Caller::default();
        assert_eq!(limit.acquire(&third, 1).unwrap_err().share, None);
        held.pop();
        limit.acquire(&third, 1).unwrap();
    }

    #[test]
    fn a_limit_of_one_can_be_taken() {
        let limit = limit(1);
        let held = limit.acquire(&Caller::default(), 1).unwrap();
        limit.acquire(&Caller::default(), 1).unwrap_err();
        drop(held);
        limit.acquire(&Caller::default(), 1).unwrap();
    }

    #[test]
    fn an_amount_that_cant_grow_stays_what_it_was() {
        let (limit, caller) = (limit(100), Caller::default());
        let mut held = limit.acquire(&caller, 50).unwrap();
        held.resize(101).unwrap_err();
        assert_eq!((held.amount(), limit.used()), (50, 50));
        held.resize(20).unwrap();
        assert_eq!(limit.used(), 20);
        held.force(200);
        assert_eq!((held.amount(), limit.used()), (200, 200));
        drop(held);
        assert_eq!((limit.used(), caller.amount(Resource::Streams).load(Ordering::Relaxed)), (0, 0));
    }
}
