//! How the service stands to ImmuDB at this moment: what the forwarder knows and everybody else asks.
//!
//! It decides whether a write is taken, and holds the callers whose answers wait for ImmuDB. The forwarder
//! alone changes it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::state::State;
use crate::{
    event::{Position, record::ForwardedMark},
    log::{Place, Tip},
    store::{Limit, Precondition, StoreError, Unavailable},
};

/// What became of a write that is durable here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// ImmuDB committed it.
    Immudb,
    /// It is in the local log, and the answer waits for no more.
    Local,
    /// The service was fenced meanwhile: whether ImmuDB will ever have it is not known.
    Unknown,
}

/// The bounds that depend on ImmuDB.
#[derive(Debug, Clone, Copy)]
pub struct PendingLimits {
    pub events_max: u64,
    pub bytes_max: u64,
    /// Size of a segment, for the distance between two places.
    pub segment_bytes_max: u64,
}

/// What anybody may know.
#[derive(Debug, Clone)]
pub struct View {
    pub state: State,
    pub forwarded: ForwardedMark,
    pub reachable: bool,
    pub last_tx: u64,
    pub last_error: String,
    pub retries: u64,
    pub fallbacks: u64,
    pub migrated_events: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Standing {
    inner: Mutex<Inner>,
    state: watch::Sender<State>,
    forwarded: watch::Sender<ForwardedMark>,
    reachable: watch::Sender<bool>,
    limits: PendingLimits,
}

#[derive(Debug)]
struct Inner {
    view: View,
    /// ImmuDB has the log up to here.
    place: Place,
    /// No event is taken before ImmuDB was seen.
    contact_missing: bool,
    contacted: bool,
    shutting_down: bool,
    waiting: BTreeMap<(Place, u64), Waiting>,
    waiting_count: u64,
    /// The last transactions; the index may not know them yet.
    recent: VecDeque<Transaction>,
}

/// A transaction that took the events behind `after` up to `last`.
#[derive(Debug, Clone, Copy)]
struct Transaction {
    after: Position,
    last: Position,
    tx: u64,
    learned: Learned,
}

/// How it is known that ImmuDB has the log up to somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Learned {
    /// A transaction with all of it was committed.
    ByCommit,
    /// From ImmuDB's head. What lies before may have come with other transactions.
    ByHead,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    until: Until,
    answer: oneshot::Sender<Settled>,
}

/// What a waiting caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// ImmuDB has it.
    Committed,
    /// ImmuDB took something: the pace of a service whose backlog is large.
    NextCommit,
}

/// No caller waits for longer to keep the pace. An ImmuDB that is slow for a long time must not make every call slow.
const PACE_MAX: Duration = Duration::from_millis(400);

impl Standing {
    /// `place` is where the log goes on behind what ImmuDB has.
    pub fn new(
        state: State,
        forwarded: ForwardedMark,
        place: Place,
        contact_missing: bool,
        limits: PendingLimits,
    ) -> Self {
        let view = View {
            state,
            forwarded,
            reachable: false,
            last_tx: forwarded.immudb_tx,
            last_error: String::new(),
            retries: 0,
            fallbacks: 0,
            migrated_events: 0,
        };
        Self {
            inner: Mutex::new(Inner {
                view,
                place,
                contact_missing,
                contacted: false,
                shutting_down: false,
                waiting: BTreeMap::new(),
                waiting_count: 0,
                recent: VecDeque::new(),
            }),
            state: watch::Sender::new(state),
            forwarded: watch::Sender::new(forwarded),
            reachable: watch::Sender::new(false),
            limits,
        }
    }

    pub fn view(&self) -> View {
        self.lock().view.clone()
    }

    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    pub fn watch_state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub fn watch_forwarded(&self) -> watch::Receiver<ForwardedMark> {
        self.forwarded.subscribe()
    }

    pub fn watch_reachable(&self) -> watch::Receiver<bool> {
        self.reachable.subscribe()
    }

    /// Whether writes are taken now; `tip` is the end of the log.
    ///
    /// # Errors
    /// Says why they are not.
    pub fn admit_write(&self, tip: Tip) -> Result<(), StoreError> {
        let inner = self.lock();
        if inner.shutting_down {
            return Err(StoreError::Unavailable(Unavailable::ShuttingDown));
        }
        match inner.view.state {
            State::Starting | State::Copying => return Err(StoreError::Unavailable(Unavailable::Starting)),
            State::Fenced => return Err(Precondition::Fenced.into()),
            // It would give numbers away again.
            State::Suspect if tip.position == Position(0) => {
                return Err(StoreError::Unavailable(Unavailable::EmptyLog));
            }
            State::LocalOnly => return Ok(()),
            State::Connected | State::Fallback | State::Migrating | State::Suspect => {}
        }
        if inner.contact_missing {
            return Err(StoreError::Unavailable(Unavailable::FirstContact));
        }
        let full =
            |limit, max| StoreError::Full { limit, max, share: None, retry_after: Duration::from_secs(1) };
        if inner.pending_events(tip) >= self.limits.events_max {
            return Err(full(Limit::PendingEvents, self.limits.events_max));
        }
        if self.distance(inner.place, tip.end) >= self.limits.bytes_max {
            return Err(full(Limit::PendingBytes, self.limits.bytes_max));
        }
        Ok(())
    }

    /// Whether a call may be answered with what an earlier one stored; `tip` is the end of the log.
    ///
    /// # Errors
    /// Says why it may not.
    pub fn admit_resend(&self, tip: Tip) -> Result<(), StoreError> {
        let inner = self.lock();
        if inner.shutting_down {
            return Err(StoreError::Unavailable(Unavailable::ShuttingDown));
        }
        inner.knows_its_history(tip)
    }

    /// Whether anything is served now; `tip` is the end of the log.
    ///
    /// # Errors
    /// Says why it is not.
    pub fn admit_read(&self, tip: Tip) -> Result<(), StoreError> {
        let inner = self.lock();
        inner.knows_its_history(tip)?;
        match inner.view.state {
            // What looks like an empty history is a lost disk, or another's.
            State::Suspect | State::Fenced if tip.position == Position(0) => {
                Err(StoreError::Unavailable(Unavailable::EmptyLog))
            }
            _ => Ok(()),
        }
    }

    /// Events may have been taken: a later contact with ImmuDB has to respect them.
    pub fn is_serving(&self) -> bool {
        let inner = self.lock();
        !inner.contact_missing && !matches!(inner.view.state, State::Starting | State::Copying)
    }

    /// Waits as long as the state asks for before a write that lies before `end` is answered. Of an append
    /// the position of its last event tells, too, that ImmuDB has it, already before the first contact.
    pub async fn settle(&self, end: Place, last: Option<Position>, tip: Tip) -> Settled {
        let (until, answer) = {
            let mut inner = self.lock();
            let until = match inner.view.state {
                State::Fenced => return Settled::Unknown,
                // What ImmuDB had is in doubt.
                State::Suspect | State::LocalOnly => return Settled::Local,
                _ if inner.place >= end => return Settled::Immudb,
                _ if last.is_some_and(|last| last <= inner.view.forwarded.position) => {
                    return Settled::Immudb;
                }
                State::Connected => Until::Committed,
                State::Migrating if inner.pending_events(tip) > self.limits.events_max / 2 => {
                    Until::NextCommit
                }
                State::Starting | State::Copying | State::Fallback | State::Migrating => {
                    return Settled::Local;
                }
            };
            let (sender, answer) = oneshot::channel();
            inner.waiting_count = inner.waiting_count.wrapping_add(1);
            let key = (end, inner.waiting_count);
            inner.waiting.insert(key, Waiting { since: Instant::now(), until, answer: sender });
            (until, answer)
        };
        match until {
            Until::Committed => answer.await.unwrap_or(Settled::Local),
            Until::NextCommit => match tokio::time::timeout(PACE_MAX, answer).await {
                Ok(Ok(settled)) => settled,
                Ok(Err(_)) | Err(_) => Settled::Local,
            },
        }
    }

    /// Whether ImmuDB has, as far as is known, the append that ends at `end` with the event at `last`.
    pub fn is_forwarded(&self, end: Place, last: Position) -> bool {
        let inner = self.lock();
        inner.place >= end || last <= inner.view.forwarded.position
    }

    /// When the caller that has waited longest for ImmuDB began to.
    pub fn waiting_since(&self) -> Option<Instant> {
        let inner = self.lock();
        let committed = inner.waiting.values().filter(|waiting| waiting.until == Until::Committed);
        committed.map(|waiting| waiting.since).min()
    }

    /// The transaction that took the event at `position`, if it is one of the last that were committed.
    pub fn committed_transaction(&self, position: Position) -> Option<u64> {
        self.recent_transaction(position)
            .filter(|known| known.learned == Learned::ByCommit)
            .map(|known| known.tx)
    }

    /// The same as far as it is known without the index, which may know better.
    pub fn supposed_transaction(&self, position: Position) -> Option<u64> {
        self.recent_transaction(position).map(|known| known.tx)
    }

    fn recent_transaction(&self, position: Position) -> Option<Transaction> {
        let inner = self.lock();
        let index = inner.recent.partition_point(|known| known.last < position);
        inner.recent.get(index).filter(|known| known.after < position).copied()
    }

    pub(super) fn set_state(&self, state: State) {
        let mut inner = self.lock();
        let before = std::mem::replace(&mut inner.view.state, state);
        if state == State::Fallback && before != State::Fallback {
            inner.view.fallbacks = inner.view.fallbacks.saturating_add(1);
        }
        let settled = match state {
            State::Connected => None,
            State::Migrating if before == State::Migrating => None,
            State::Fenced => Some(Settled::Unknown),
            State::Starting
            | State::Copying
            | State::Fallback
            | State::Migrating
            | State::Suspect
            | State::LocalOnly => Some(Settled::Local),
        };
        if let Some(settled) = settled {
            for (_, waiting) in std::mem::take(&mut inner.waiting) {
                let _ = waiting.answer.send(settled);
            }
        }
        drop(inner);
        self.state.send_if_modified(|known| std::mem::replace(known, state) != state);
    }

    /// ImmuDB has the log up to `place`, the last of it by this transaction.
    pub(super) fn advance(&self, mark: ForwardedMark, place: Place, learned: Learned) {
        const RECENT_MAX: usize = 4096;
        let mut inner = self.lock();
        let after = inner.view.forwarded.position;
        let moved = mark.position.0.saturating_sub(after.0);
        if moved > 0 && mark.immudb_tx > 0 {
            if matches!(inner.view.state, State::Migrating | State::Fallback) {
                inner.view.migrated_events = inner.view.migrated_events.saturating_add(moved);
            }
            inner.recent.push_back(Transaction { after, last: mark.position, tx: mark.immudb_tx, learned });
            if inner.recent.len() > RECENT_MAX {
                inner.recent.pop_front();
            }
        }
        inner.view.forwarded = mark;
        inner.view.last_tx = inner.view.last_tx.max(mark.immudb_tx);
        inner.place = place;
        let behind = inner.waiting.split_off(&(place, u64::MAX));
        for (_, waiting) in std::mem::replace(&mut inner.waiting, behind) {
            let _ = waiting.answer.send(Settled::Immudb);
        }
        // Fewer than ImmuDB took, so that the backlog shrinks.
        let room = usize::try_from(moved / 2).unwrap_or(usize::MAX);
        let paced: Vec<_> = inner
            .waiting
            .iter()
            .filter(|(_, one)| one.until == Until::NextCommit && !one.answer.is_closed())
            .map(|(key, _)| *key)
            .take(room)
            .collect();
        for key in paced {
            if let Some(waiting) = inner.waiting.remove(&key) {
                let _ = waiting.answer.send(Settled::Local);
            }
        }
        drop(inner);
        self.forwarded.send_replace(mark);
    }

    pub(super) fn contacted(&self) {
        let mut inner = self.lock();
        (inner.contact_missing, inner.contacted) = (false, true);
    }

    /// ImmuDB has been asked what it has, and the log was compared with that.
    pub fn was_contacted(&self) -> bool {
        self.lock().contacted
    }

    pub(super) fn answered(&self) {
        let mut inner = self.lock();
        inner.view.reachable = true;
        drop(inner);
        self.reachable.send_if_modified(|known| !std::mem::replace(known, true));
    }

    /// What was wrong before is over: only a committed write proves it.
    pub(super) fn recovered(&self) {
        self.answered();
        self.lock().view.last_error.clear();
    }

    pub(super) fn failed(&self, reachable: bool, error: String) {
        let mut inner = self.lock();
        inner.view.reachable = reachable;
        inner.view.last_error = error;
        drop(inner);
        self.reachable.send_if_modified(|known| std::mem::replace(known, reachable) != reachable);
    }

    /// Something is wrong, although ImmuDB answers, or says nothing itself.
    pub(super) fn blamed(&self, reason: Option<String>) {
        if let Some(reason) = reason {
            self.lock().view.last_error = reason;
        }
    }

    pub(super) fn retried(&self) {
        let mut inner = self.lock();
        inner.view.retries = inner.view.retries.saturating_add(1);
    }

    /// No write is taken any more.
    pub fn shut_down(&self) {
        self.lock().shutting_down = true;
    }

    /// Bytes of the log between two places, as far as full segments tell.
    pub(super) fn distance(&self, from: Place, to: Place) -> u64 {
        let segments = u64::from(to.segment.saturating_sub(from.segment));
        segments
            .saturating_mul(self.limits.segment_bytes_max)
            .saturating_add(to.offset)
            .saturating_sub(from.offset)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        #[cfg(test)]
        interleavings::switch();
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Whether the local log may be taken for what was stored.
    fn knows_its_history(&self, tip: Tip) -> Result<(), StoreError> {
        match self.view.state {
            State::Starting | State::Copying => Err(StoreError::Unavailable(Unavailable::Starting)),
            State::Fenced if tip.position == Position(0) => Ok(()),
            // What looks like an empty history may be a lost disk, and what looks like a whole one an older copy.
            State::Fallback | State::Fenced if self.contact_missing => {
                Err(StoreError::Unavailable(Unavailable::FirstContact))
            }
            _ => Ok(()),
        }
    }

    fn pending_events(&self, tip: Tip) -> u64 {
        tip.position.0.saturating_sub(self.view.forwarded.position.0)
    }
}

#[cfg(test)]
mod interleavings;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn place(offset: u64) -> Place {
        Place { segment: 1, offset }
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_of_a_large_backlog_is_half_of_what_immudb_takes() {
        let limits = PendingLimits { events_max: 100, bytes_max: u64::MAX, segment_bytes_max: 1 << 20 };
        let start = ForwardedMark::default();
        let standing = Arc::new(Standing::new(State::Migrating, start, Place::START, false, limits));
        let tip = Tip { position: Position(60), end: place(9000), ..Tip::START };
        let callers: Vec<_> = (0..10)
            .map(|caller| {
                let standing = standing.clone();
                tokio::spawn(async move { standing.settle(place(5000 + caller), None, tip).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(callers.iter().all(|caller| !caller.is_finished()));
        assert_eq!(standing.waiting_since(), None, "to keep the pace is no wait for ImmuDB");
        standing.advance(
            ForwardedMark { position: Position(6), immudb_tx: 7, ..start },
            place(100),
            Learned::ByCommit,
        );
        tokio::task::yield_now().await;
        assert_eq!(callers.iter().filter(|caller| caller.is_finished()).count(), 3);
        tokio::time::advance(PACE_MAX).await;
        for caller in callers {
            assert_eq!(caller.await.unwrap(), Settled::Local);
        }
    }
}
