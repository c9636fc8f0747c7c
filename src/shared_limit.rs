//! Limits that all clients share, none of which a single client can use up.
//!
//! While no more than four fifths of a limit is in use, no client is restricted. Above that, a
//! client that would hold more than its share of the limit is rejected, so that there is always
//! room for others. A client is an identity, whose share is configured, or one connection while
//! access control is off. The share of a connection is half of the limit.
//!
//! The amount of a [`LimitGuard`] belongs to the work or the memory that it stands for, and is
//! released when that ends. Code that holds amounts of several limits for one client keeps them
//! itself, and releases them with [`SharedLimit::force`].

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::error::{Limit, OverShare, ShareLimit, StoreError};

/// The resources that are counted per client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Calls in progress.
    Calls,
    /// Open streams.
    Streams,
    /// Open connections.
    Connections,
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

/// A client, with the amounts that it holds of every limit. The default is one connection.
#[derive(Debug, Clone, Default)]
pub struct Caller(Arc<CallerState>);

#[derive(Debug)]
struct CallerState {
    /// Its share of each limit, in millionths.
    share: AtomicU32,
    is_identity: bool,
    amounts: Amounts,
}

impl Default for CallerState {
    fn default() -> Self {
        Self { share: AtomicU32::new(HALF), is_identity: false, amounts: Amounts::default() }
    }
}

const WHOLE: u32 = 1_000_000;
const HALF: u32 = WHOLE / 2;

/// Returns a part of a limit. `millionths` is at most [`WHOLE`].
fn part_of(max: u64, millionths: u32) -> u64 {
    let part = u128::from(max) * u128::from(millionths) / u128::from(WHOLE);
    u64::try_from(part).unwrap_or(max)
}

/// Returns a share between 0 and 1 in millionths, and at least one of them.
fn millionths(share: f64) -> u32 {
    ((share * f64::from(WHOLE)).round() as u32).clamp(1, WHOLE)
}

/// Returns how much of a limit is in use before shares apply: four fifths.
fn unshared(max: u64) -> u64 {
    max.saturating_sub(max.div_ceil(5))
}

/// Returns an identity's share of something that is used up for good, if it would exceed it by
/// having `mine` of the `used`.
pub(crate) fn exceeded_share(share: f64, max: u64, mine: u64, used: u64) -> Option<u64> {
    let share = part_of(max, millionths(share)).max(1);
    (used > unshared(max) && mine > share).then_some(share)
}

#[derive(Debug, Default)]
struct Amounts {
    calls: AtomicU64,
    streams: AtomicU64,
    connections: AtomicU64,
    bytes: AtomicU64,
    request_bytes: AtomicU64,
    answer_bytes: AtomicU64,
    write_answer_bytes: AtomicU64,
    waiting_writes: AtomicU64,
    waiting_bytes: AtomicU64,
    difference_bytes: AtomicU64,
}

impl Caller {
    /// Creates the caller of an identity. `share` is its share of each limit, between 0 and 1.
    pub(crate) fn of_identity(share: f64) -> Self {
        let share = AtomicU32::new(millionths(share));
        Self(Arc::new(CallerState { share, is_identity: true, amounts: Amounts::default() }))
    }

    /// Changes the share. What the client holds already stays.
    pub(crate) fn set_share(&self, share: f64) {
        self.0.share.store(millionths(share), Ordering::Relaxed);
    }

    /// Returns whether both are the same client.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns whether this is the only handle of the client, so that it holds nothing.
    pub(crate) fn is_unused(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Returns whether the client holds any amount of the resource.
    pub fn holds(&self, resource: Resource) -> bool {
        self.held(resource) > 0
    }

    /// Returns how much of the resource the client holds.
    pub(crate) fn held(&self, resource: Resource) -> u64 {
        self.amount(resource).load(Ordering::Relaxed)
    }

    /// Returns the client's share of a limit. At least one, so that no share shuts a client out.
    fn share_of(&self, max: u64) -> u64 {
        part_of(max, self.0.share.load(Ordering::Relaxed)).max(1)
    }

    fn amount(&self, resource: Resource) -> &AtomicU64 {
        let amounts = &self.0.amounts;
        match resource {
            Resource::Calls => &amounts.calls,
            Resource::Streams => &amounts.streams,
            Resource::Connections => &amounts.connections,
            Resource::Bytes => &amounts.bytes,
            Resource::RequestBytes => &amounts.request_bytes,
            Resource::AnswerBytes => &amounts.answer_bytes,
            Resource::WriteAnswerBytes => &amounts.write_answer_bytes,
            Resource::WaitingWrites => &amounts.waiting_writes,
            Resource::WaitingBytes => &amounts.waiting_bytes,
            Resource::DifferenceBytes => &amounts.difference_bytes,
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
    /// Whether the client is an identity.
    pub is_identity: bool,
}

impl LimitReached {
    /// Returns the error for the client.
    pub fn into_error(self, retry_after: Duration) -> StoreError {
        let Self { limit, max, share, is_identity } = self;
        match share {
            Some(max) if is_identity => OverShare { limit: ShareLimit::Of(limit), max, retry_after }.into(),
            share => StoreError::Full { limit, max, share, retry_after },
        }
    }
}

/// The size of a write before it is stored.
#[derive(Debug, Clone)]
pub struct WriteSize<'w> {
    /// The number of its events.
    pub events: u64,
    /// Approximately the bytes of its records.
    pub bytes: u64,
    /// The types of its events, each once or more often.
    pub event_types: Vec<&'w str>,
}

/// What an admitted write keeps until it is decided.
pub(crate) type Reserved = Option<Box<dyn Any + Send>>;

/// Decides whether the identity behind a call may store something. A write that is stored already
/// is not checked: its first answer is repeated, whatever the identity has used up since.
pub trait Admission: Send + Sync {
    /// Checks a write, and counts it.
    ///
    /// # Errors
    /// Returns the limit of the identity that the write would exceed.
    fn admit(&self, write: &WriteSize<'_>) -> Result<Reserved, OverShare>;
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
        let reached = LimitReached { limit, max: configured, share: None, is_identity: false };
        (used > max / 2).then_some(reached)
    }

    fn give_back(&self, caller: &Caller, amount: u64) {
        self.used.fetch_sub(amount, Ordering::Relaxed);
        caller.amount(self.resource).fetch_sub(amount, Ordering::Relaxed);
    }

    fn take(&self, caller: &Caller, more: u64) -> Result<(), LimitReached> {
        let (share, unheld) = (caller.share_of(self.max), unshared(self.max));
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
        Err(self.reached(caller, beyond_share.then_some(share)))
    }

    /// Passes an amount on to another client.
    fn pass(&self, from: &Caller, to: &Caller, amount: u64) -> Result<(), LimitReached> {
        let (share, own) = (to.share_of(self.max), to.amount(self.resource));
        let theirs = own.fetch_add(amount, Ordering::Relaxed).saturating_add(amount);
        if self.used() > unshared(self.max) && theirs > share {
            own.fetch_sub(amount, Ordering::Relaxed);
            return Err(self.reached(to, Some(share)));
        }
        from.amount(self.resource).fetch_sub(amount, Ordering::Relaxed);
        Ok(())
    }

    fn reached(&self, caller: &Caller, share: Option<u64>) -> LimitReached {
        let Self { limit, configured, .. } = *self;
        LimitReached { limit, max: configured, share, is_identity: caller.0.is_identity }
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

    /// Passes the amount on to another client. If that would exceed the other client's share, it
    /// stays with this one.
    ///
    /// # Errors
    /// Returns an error if the other client has used up its share.
    pub fn pass_to(&mut self, caller: &Caller) -> Result<(), LimitReached> {
        if !self.caller.is(caller) {
            self.limit.pass(&self.caller, caller, self.amount)?;
            self.caller = caller.clone();
        }
        Ok(())
    }
}

impl Drop for LimitGuard {
    fn drop(&mut self) {
        self.force(0);
    }
}

#[cfg(test)]
mod tests;
