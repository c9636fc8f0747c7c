//! Tracks the peer of one connection.
//!
//! The calls of the connection record whether the peer has called at all, and which of its
//! responses are unread. The connection decides by that whether it stays open.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::time::Instant;

use super::{byte_budget::Purpose, client::Client, connection_facts::ConnectionFacts};
use crate::shared_limit::{Caller, LimitGuard, LimitReached, Resource, SharedLimit};

/// The peer of one connection.
#[derive(Debug, Clone, Default)]
pub struct Peer(Arc<PeerState>);

#[derive(Debug, Default)]
struct PeerState {
    facts: ConnectionFacts,
    /// The client of calls that no identity makes.
    client: Client,
    /// The place of the connection among all, and whose place it is.
    connection: Mutex<Option<LimitGuard>>,
    closing: AtomicBool,
    called: AtomicBool,
    /// Calls in progress.
    calls: AtomicU64,
    answers: AtomicU64,
    /// Responses to writes whose memory has not been freed yet.
    write_answers: AtomicU64,
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

impl Peer {
    /// Creates the peer of a connection. Calls that no identity makes use the shares of `client`.
    pub fn new(facts: ConnectionFacts, client: Client) -> Self {
        Self(Arc::new(PeerState { facts, client, ..PeerState::default() }))
    }

    /// Returns what is known of the connection.
    pub fn facts(&self) -> &ConnectionFacts {
        &self.0.facts
    }

    /// Returns the client of calls that no identity makes.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// Returns the client whose share of the limits the connection itself uses.
    pub fn caller(&self) -> &Caller {
        self.0.client.caller()
    }

    /// Counts the connection among all until the last handle of the peer is dropped. Who connects
    /// is not known yet, so this is never refused.
    pub fn count_connection(&self, connections: &Arc<SharedLimit>) {
        let mut place = connections.nothing(self.caller());
        place.force(1);
        *self.connection() = Some(place);
    }

    /// Makes the connection one of the identity that calls, if it is counted.
    ///
    /// # Errors
    /// Returns an error if the identity has used up its share of the connections.
    pub fn belong_to(&self, client: &Client) -> Result<(), LimitReached> {
        let mut connection = self.connection();
        connection.as_mut().map_or(Ok(()), |place| place.pass_to(client.caller()))
    }

    /// Ends the connection as soon as it is looked at.
    pub fn close(&self) {
        self.0.closing.store(true, Ordering::Relaxed);
    }

    /// Returns whether the connection has to end.
    pub fn is_closing(&self) -> bool {
        self.0.closing.load(Ordering::Relaxed)
    }

    /// Returns whether a response to a write is on its way on this connection.
    pub fn has_write_answers(&self) -> bool {
        // An identity may have many connections, so its amounts do not tell. The bytes of a write
        // without an identity are reserved before there is a response.
        self.0.write_answers.load(Ordering::Relaxed) > 0 || self.caller().holds(Resource::WriteAnswerBytes)
    }

    /// Records that the peer has made a call, even if it is rejected later. While access control
    /// is on, only calls of known callers count.
    pub fn note_call(&self) {
        self.0.called.store(true, Ordering::Relaxed);
    }

    /// Returns whether the peer has made any call that counts.
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

    fn connection(&self) -> MutexGuard<'_, Option<LimitGuard>> {
        self.0.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unread(&self) -> MutexGuard<'_, BTreeMap<u64, Unread>> {
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
        if purpose == Purpose::WriteAnswer {
            self.0.0.write_answers.fetch_add(1, Ordering::Relaxed);
        }
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
        if self.purpose == Purpose::WriteAnswer {
            self.call.0.0.write_answers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        error::Limit,
        grpc::transport::client::{ClientRegistry, tests::identity},
    };

    #[test]
    fn an_identity_has_its_share_of_the_connections_once_it_is_known() {
        let (registry, max) = (ClientRegistry::new(), 100);
        let connections = Arc::new(SharedLimit::new(Limit::Connections, Resource::Connections, max));
        let [greedy, other] = ["greedy", "other"].map(|name| registry.of(&identity(name)));
        let connect = || {
            let peer = Peer::default();
            peer.count_connection(&connections);
            peer
        };
        let mut peers: Vec<Peer> = (0..max).map(|_| connect()).collect();
        let known = peers.iter().filter(|peer| peer.belong_to(&greedy).is_ok()).count();
        assert_eq!((known, connections.used()), (50, 100));
        // Each of its further calls is on a connection that is its own already.
        peers[0].belong_to(&greedy).unwrap();
        let refused = peers[50].belong_to(&greedy).unwrap_err();
        assert_eq!((refused.limit, refused.share, refused.is_identity), (Limit::Connections, Some(50), true));
        peers[50].belong_to(&other).unwrap();
        peers[0].belong_to(&other).unwrap();
        let held = |client: &Client| client.caller().held(Resource::Connections);
        assert_eq!((held(&greedy), held(&other)), (49, 2));
        peers.truncate(60);
        let clones = peers.clone();
        peers.clear();
        assert_eq!(connections.used(), 60);
        // Below four fifths, it may have more than its share.
        let more: Vec<Peer> = (0..20).map(|_| connect()).collect();
        assert!(more.iter().all(|peer| peer.belong_to(&greedy).is_ok()));
        drop((clones, more));
        assert_eq!((connections.used(), held(&greedy), held(&other)), (0, 0, 0));
        Peer::default().belong_to(&other).unwrap();
        assert_eq!(held(&other), 0, "it is not counted");
    }

    #[test]
    fn a_response_to_a_write_is_on_its_way_until_its_memory_is_freed() {
        let peers = [Peer::default(), Peer::default()];
        let read = peers[0].begin_call().answer(Purpose::Answer);
        assert!(!peers[0].has_write_answers());
        let writes = [(); 2].map(|()| peers[0].begin_call().answer(Purpose::WriteAnswer));
        let [first, second] = writes;
        drop(first);
        assert_eq!(peers.each_ref().map(|peer| peer.has_write_answers()), [true, false]);
        drop(second);
        assert!(!peers[0].has_write_answers());
        drop(read);
    }

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
