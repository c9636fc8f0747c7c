//! Clients, the forwarder and the shutdown, in many orders of their steps: `shuttle` decides which
//! of them continues whenever one is about to take the lock.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use shuttle::{future::block_on, rand::Rng, thread};

use super::*;

thread_local! {
    /// Set during an exploration, whose threads all run on one thread of the operating system.
    static EXPLORED: Cell<bool> = const { Cell::new(false) };
}

/// A point at which another thread may continue.
pub(crate) fn switch() {
    if EXPLORED.get() {
        thread::yield_now();
    }
}

const ORDERS: usize = 3000;
const CALLERS: u64 = 4;

fn explore(story: impl Fn() + Send + Sync + 'static) {
    EXPLORED.set(true);
    shuttle::check_random(story, ORDERS);
    EXPLORED.set(false);
}

fn place(offset: u64) -> LogOffset {
    LogOffset { segment: 1, offset }
}

fn tip(position: u64) -> Tip {
    Tip { position: Position(position), end: place(position * 1000), ..Tip::START }
}

/// The status under test, and the position up to which ImmuDB has committed.
struct Scenario {
    replication: ReplicationStatus,
    committed: AtomicU64,
}

impl Scenario {
    fn new(state: State) -> Arc<Self> {
        let limits = PendingLimits { events_max: 1000, bytes_max: u64::MAX, segment_bytes_max: 1 << 20 };
        let replication =
            ReplicationStatus::new(state, ReplicationMark::default(), LogOffset::START, false, limits);
        Arc::new(Self { replication, committed: AtomicU64::new(0) })
    }

    /// Waits for the answer to the event at this position, and checks it against what ImmuDB has.
    fn call(&self, position: u64) -> CommitOutcome {
        let outcome = block_on(self.replication.wait_for_commit(
            tip(position).end,
            Some(Position(position)),
            tip(position),
        ));
        if outcome == CommitOutcome::Immudb {
            let committed = self.committed.load(Ordering::SeqCst);
            assert!(committed >= position, "{position} is said to be in ImmuDB, which ends at {committed}");
        }
        outcome
    }

    fn commit(&self, position: u64) {
        self.committed.store(position, Ordering::SeqCst);
        let mark =
            ReplicationMark { position: Position(position), immudb_tx: position, ..Default::default() };
        self.replication.advance(mark, tip(position).end, Learned::ByCommit);
    }
}

/// Runs `forward` while all clients append. All of them must have been answered at the end, or
/// `shuttle` reports a deadlock.
fn all_are_answered(first: State, forward: impl Fn(&Scenario) + Send + Sync + Copy + 'static) {
    explore(move || {
        let world = Scenario::new(first);
        let callers: Vec<_> = (1..=CALLERS)
            .map(|position| {
                let world = world.clone();
                thread::spawn(move || world.call(position))
            })
            .collect();
        let stopping = world.clone();
        let shutdown = thread::spawn(move || stopping.replication.shut_down());
        forward(&world);
        for caller in callers {
            caller.join().unwrap();
        }
        shutdown.join().unwrap();
        assert!(world.replication.lock().waiters.is_empty(), "somebody waits who has been answered");
    });
}

#[test]
fn commits_answer_everybody() {
    all_are_answered(State::Connected, |world| {
        for position in 1..=CALLERS {
            world.commit(position);
        }
    });
}

#[test]
fn a_fallback_in_between_answers_everybody() {
    all_are_answered(State::Connected, |world| {
        world.commit(1);
        world.replication.set_state(State::Fallback);
        world.commit(2);
        world.replication.set_state(State::Migrating);
        world.commit(3);
        world.replication.set_state(State::Connected);
        world.commit(CALLERS);
    });
}

#[test]
fn a_state_that_the_operator_must_end_answers_everybody() {
    for last in [State::Suspect, State::Fenced, State::Tampered] {
        all_are_answered(State::Connected, move |world| {
            world.commit(2);
            world.replication.set_state(last);
        });
    }
}

#[test]
fn whatever_the_forwarder_does_answers_everybody_in_the_end() {
    all_are_answered(State::Connected, |world| {
        let mut random = shuttle::rand::thread_rng();
        let mut position = 0;
        for _ in 0..6 {
            match random.gen_range(0..4) {
                0 => world.replication.set_state(State::Fallback),
                1 => world.replication.set_state(State::Migrating),
                2 => world.replication.set_state(State::Connected),
                _ => {
                    position = (position + 1).min(CALLERS);
                    world.commit(position);
                }
            }
        }
        world.replication.set_state(State::Fallback);
    });
}
