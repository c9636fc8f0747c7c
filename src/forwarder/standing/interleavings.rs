//! Callers, the forwarder and the shutdown, in many orders of their steps: `shuttle` decides who goes on whenever one
//! of them is about to take the lock.

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
    /// All threads of an exploration share one of the system's.
    static EXPLORED: Cell<bool> = const { Cell::new(false) };
}

/// Anybody else may go on here.
pub fn switch() {
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

fn place(offset: u64) -> Place {
    Place { segment: 1, offset }
}

fn tip(position: u64) -> Tip {
    Tip { position: Position(position), end: place(position * 1000), ..Tip::START }
}

/// ImmuDB, as far as its answers were seen.
struct World {
    standing: Standing,
    committed: AtomicU64,
}

impl World {
    fn new(state: State) -> Arc<Self> {
        let limits = PendingLimits { events_max: 1000, bytes_max: u64::MAX, segment_bytes_max: 1 << 20 };
        let standing = Standing::new(state, ForwardedMark::default(), Place::START, false, limits);
        Arc::new(Self { standing, committed: AtomicU64::new(0) })
    }

    /// Waits for the answer to the event at this position, and holds it against what ImmuDB has.
    fn call(&self, position: u64) -> Settled {
        let settled =
            block_on(self.standing.settle(tip(position).end, Some(Position(position)), tip(position)));
        if settled == Settled::Immudb {
            let committed = self.committed.load(Ordering::SeqCst);
            assert!(committed >= position, "{position} is said to be in ImmuDB, which ends at {committed}");
        }
        settled
    }

    fn commit(&self, position: u64) {
        self.committed.store(position, Ordering::SeqCst);
        let mark = ForwardedMark { position: Position(position), immudb_tx: position, ..Default::default() };
        self.standing.advance(mark, tip(position).end, Learned::ByCommit);
    }
}

/// Everybody appends while the forwarder does something; all are answered at the end of it, or `shuttle` finds
/// that nobody can go on.
fn all_are_answered(first: State, forward: impl Fn(&World) + Send + Sync + Copy + 'static) {
    explore(move || {
        let world = World::new(first);
        let callers: Vec<_> = (1..=CALLERS)
            .map(|position| {
                let world = world.clone();
                thread::spawn(move || world.call(position))
            })
            .collect();
        let stopping = world.clone();
        let shutdown = thread::spawn(move || stopping.standing.shut_down());
        forward(&world);
        for caller in callers {
            caller.join().unwrap();
        }
        shutdown.join().unwrap();
        assert!(world.standing.lock().waiting.is_empty(), "somebody waits who has been answered");
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
        world.standing.set_state(State::Fallback);
        world.commit(2);
        world.standing.set_state(State::Migrating);
        world.commit(3);
        world.standing.set_state(State::Connected);
        world.commit(CALLERS);
    });
}

#[test]
fn a_state_that_a_person_must_end_answers_everybody() {
    for last in [State::Suspect, State::Fenced] {
        all_are_answered(State::Connected, move |world| {
            world.commit(2);
            world.standing.set_state(last);
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
                0 => world.standing.set_state(State::Fallback),
                1 => world.standing.set_state(State::Migrating),
                2 => world.standing.set_state(State::Connected),
                _ => {
                    position = (position + 1).min(CALLERS);
                    world.commit(position);
                }
            }
        }
        world.standing.set_state(State::Fallback);
    });
}
