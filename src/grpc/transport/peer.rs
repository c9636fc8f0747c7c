//! Tracks the peer of one connection.
//!
//! The calls of the connection record whether the peer has called at all, and which of its
//! responses are unread. The connection decides by that whether it stays open.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{sync::Semaphore, time::Instant};

use super::{
    byte_budget::Purpose,
    read_limits::{DIFFERENCES_PER_CALLER_MAX, READS_PER_CALLER_MAX},
};
use crate::shared_limit::Caller;

/// The peer of one connection.
#[derive(Debug, Clone, Default)]
pub struct Peer(Arc<PeerState>);

#[derive(Debug)]
struct PeerState {
    /// The client whose share of the limits its calls use.
    caller: Caller,
    /// Permits for its reads.
    reads: Arc<Semaphore>,
    /// Permits for its lists, which also are reads.
    lists: Arc<Semaphore>,
    /// Permits for its differences while they determine which objects changed.
    differences: Arc<Semaphore>,
    called: AtomicBool,
    /// Calls in progress.
    calls: AtomicU64,
    answers: AtomicU64,
    /// Responses of which a piece was handed out and the next has not been requested yet, by
    /// number.
    unread: Mutex<BTreeMap<u64, Unread>>,
}

#[derive(Debug, Clone, Copy)]
struct Unread {
    purpose: Purpose,
    since: Instant,
    /// When part of the piece was last taken.
    moved: Instant,
}

/// A response on its way to the peer, until its memory is freed.
#[derive(Debug)]
pub struct ResponseTracker {
    call: OpenCall,
    purpose: Purpose,
    number: u64,
}

impl Default for PeerState {
    fn default() -> Self {
        Self {
            caller: Caller::default(),
            reads: Arc::new(Semaphore::new(READS_PER_CALLER_MAX)),
            lists: Arc::new(Semaphore::new(READS_PER_CALLER_MAX)),
            differences: Arc::new(Semaphore::new(DIFFERENCES_PER_CALLER_MAX)),
            called: AtomicBool::default(),
            calls: AtomicU64::default(),
            answers: AtomicU64::default(),
            unread: Mutex::default(),
        }
    }
}

impl Peer {
    /// Returns the client whose share of the limits the calls use.
    pub fn caller(&self) -> &Caller {
        &self.0.caller
    }

    /// Returns the permits for the reads of this peer.
    pub fn reads(&self) -> &Arc<Semaphore> {
        &self.0.reads
    }

    /// Returns the permits for its lists, which also are reads.
    pub fn lists(&self) -> &Arc<Semaphore> {
        &self.0.lists
    }

    /// Returns the permits for its differences while they determine which objects changed.
    pub fn differences(&self) -> &Arc<Semaphore> {
        &self.0.differences
    }

    /// Records that the peer has made a call, even if it is rejected later.
    pub fn note_call(&self) {
        self.0.called.store(true, Ordering::Relaxed);
    }

    /// Returns whether the peer has made any call.
    pub fn has_called(&self) -> bool {
        self.0.called.load(Ordering::Relaxed)
    }

    /// Counts a call as in progress until the returned value is dropped.
    pub fn begin_call(&self) -> OpenCall {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        OpenCall(self.clone())
    }

    /// Returns whether a call is in progress.
    pub fn is_calling(&self) -> bool {
        self.0.calls.load(Ordering::Relaxed) > 0
    }

    /// Returns since when the oldest unread response has been unread.
    pub fn unread_since(&self) -> Option<Instant> {
        self.unread().values().map(|unread| unread.since).min()
    }

    /// Returns since when the peer has taken nothing of the response that has been stalled the
    /// longest.
    pub fn unmoved_since(&self) -> Option<Instant> {
        self.unread().values().map(|unread| unread.moved).min()
    }

    /// Like [`Peer::unread_since`], for responses to writes only.
    pub fn write_unread_since(&self) -> Option<Instant> {
        let unread = self.unread();
        unread
            .values()
            .filter(|unread| unread.purpose == Purpose::WriteAnswer)
            .map(|unread| unread.since)
            .min()
    }

    fn unread(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Unread>> {
        self.0.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResponseTracker {
    /// Records that a piece was handed out. The peer must take it before the next one is requested.
    pub fn handed_out(&self) {
        let now = Instant::now();
        let unread = Unread { purpose: self.purpose, since: now, moved: now };
        self.call.0.unread().insert(self.number, unread);
    }

    /// Records that the peer has taken part of the piece.
    pub fn moved(&self) {
        if let Some(unread) = self.call.0.unread().get_mut(&self.number) {
            unread.moved = Instant::now();
        }
    }

    /// Records that the next piece was requested, so that no piece is unread.
    pub fn asked_for(&self) {
        self.call.0.unread().remove(&self.number);
    }
}

/// A call in progress, until the memory of its response is freed.
#[derive(Debug)]
pub struct OpenCall(Peer);

impl OpenCall {
    /// Begins the response of the call. Nothing of it has been requested yet.
    pub fn answer(self, purpose: Purpose) -> ResponseTracker {
        let number = self.0.0.answers.fetch_add(1, Ordering::Relaxed);
        let answer = ResponseTracker { call: self, purpose, number };
        answer.handed_out();
        answer
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ResponseTracker {
    fn drop(&mut self) {
        self.asked_for();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_peer_is_calling_until_its_last_call_is_over() {
        let peer = Peer::default();
        let calls = [peer.begin_call(), peer.begin_call()];
        let [first, second] = calls;
        drop(first);
        assert!(peer.is_calling());
        drop(second);
        assert!(!peer.is_calling());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_unread_until_the_next_piece_is_requested() {
        let peer = Peer::default();
        let (began, first) = (Instant::now(), peer.begin_call().answer(Purpose::Answer));
        tokio::time::advance(Duration::from_secs(5)).await;
        let second = peer.begin_call().answer(Purpose::WriteAnswer);
        assert_eq!(peer.unread_since(), Some(began));
        assert_eq!(peer.write_unread_since(), Some(began + Duration::from_secs(5)));
        first.asked_for();
        assert_eq!(peer.unread_since(), Some(began + Duration::from_secs(5)));
        tokio::time::advance(Duration::from_secs(5)).await;
        first.handed_out();
        second.moved();
        assert_eq!(peer.unread_since(), Some(began + Duration::from_secs(5)));
        assert_eq!(peer.unmoved_since(), Some(began + Duration::from_secs(10)));
        drop(second);
        assert_eq!(peer.unread_since(), Some(began + Duration::from_secs(10)));
        drop(first);
        assert_eq!(peer.unread_since(), None);
    }
}
