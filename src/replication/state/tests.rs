//! Tests of the state machine: tables of transitions, the rules for slow and quick commits, and
//! random series of signals that are checked against a second implementation of the rules.

use super::{
    Backlog::{FitsOne, Large},
    Failure::{Definite, Passing},
    Signal::{Committed, CopyBegan, CopyEnded, Dragging, Failed, HistoryMissing, OtherWriter, Overdue},
    State::{Connected, Copying, Fallback, Fenced, LocalOnly, Migrating, Starting, Suspect, Tampered},
    *,
};

const STATES: [State; 9] =
    [Starting, Connected, Fallback, Migrating, LocalOnly, Suspect, Fenced, Copying, Tampered];

const LIMITS: FallbackLimits = FallbackLimits { failures_max: 5, fallback_after: Duration::from_secs(1) };

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn commit(backlog: Backlog, took: u64) -> Signal {
    Committed(Commit { backlog, took: millis(took), bytes: 300 })
}

/// Returns a machine in its first fallback, which three quick commits end.
fn fallen_back() -> StateMachine {
    let mut machine = StateMachine::new(Connected, LIMITS);
    machine.on(Overdue, Duration::ZERO);
    machine
}

#[test]
fn every_state_goes_where_the_table_says() {
    let none = [Starting, Connected, Fallback, Migrating];
    // The states that only an operator, or a restart, ends.
    let kept = [LocalOnly, Suspect, Fenced, Copying, Tampered];
    let table = [
        (Failed(Definite), [Fallback; 4], kept),
        (Failed(Passing), none, kept),
        (Overdue, [Fallback; 4], kept),
        (Dragging, [Starting, Fallback, Fallback, Migrating], kept),
        (CopyBegan, [Copying, Connected, Copying, Migrating], kept),
        (CopyEnded, none, [LocalOnly, Suspect, Fenced, Starting, Tampered]),
        // For a service that has not fallen back yet.
        (commit(FitsOne, 1000), [Connected; 4], [LocalOnly, Suspect, Fenced, Connected, Tampered]),
        (
            commit(FitsOne, 1001),
            [Connected, Fallback, Connected, Connected],
            [LocalOnly, Suspect, Fenced, Connected, Tampered],
        ),
        (
            commit(Large, 1),
            [Migrating, Connected, Migrating, Migrating],
            [LocalOnly, Suspect, Fenced, Migrating, Tampered],
        ),
        (HistoryMissing, [Suspect; 4], kept),
        (OtherWriter, [Fenced; 4], [LocalOnly, Fenced, Fenced, Fenced, Tampered]),
        (Signal::Tampered, [Tampered; 4], [LocalOnly, Tampered, Fenced, Copying, Tampered]),
    ];
    for (signal, first, others) in table {
        for (from, to) in STATES.into_iter().zip(first.into_iter().chain(others)) {
            assert_eq!(
                StateMachine::new(from, LIMITS).on(signal, Duration::ZERO),
                to,
                "{from:?} on {signal:?}"
            );
        }
    }
}

#[test]
fn failures_in_a_row_end_connected_and_a_commit_forgives_them() {
    let mut machine = StateMachine::new(Connected, FallbackLimits { failures_max: 3, ..LIMITS });
    let mut on = |signal| machine.on(signal, Duration::ZERO);
    assert_eq!([on(Failed(Passing)), on(Failed(Passing))], [Connected, Connected]);
    on(commit(FitsOne, 1));
    assert_eq!([on(Failed(Passing)), on(Failed(Passing))], [Connected, Connected]);
    assert_eq!(on(Failed(Passing)), Fallback);
}

#[test]
fn three_slow_commits_of_the_last_ten_begin_the_fallback() {
    let states = |commits: &[u64]| -> Vec<State> {
        let mut machine = StateMachine::new(Connected, LIMITS);
        commits.iter().map(|took| machine.on(commit(FitsOne, *took), Duration::ZERO)).collect()
    };
    assert_eq!(states(&[501, 501, 501]), [Connected, Connected, Fallback]);
    assert_eq!(states(&[501, 1, 1, 1, 501, 1, 1, 1, 1, 501]).last(), Some(&Fallback), "the tenth");
    assert_eq!(states(&[501, 1, 1, 1, 501, 1, 1, 1, 1, 1, 501]).last(), Some(&Connected), "the eleventh");
    assert_eq!(states(&[500; 100]).last(), Some(&Connected), "as long as that is not slow");
}

#[test]
fn the_third_slow_commit_is_not_waited_for_to_its_end() {
    let mut machine = StateMachine::new(Connected, LIMITS);
    let mut max_after = |took| {
        machine.on(commit(FitsOne, took), Duration::ZERO);
        machine.commit_max()
    };
    assert_eq!([max_after(700), max_after(700)], [None, Some(millis(400))]);
    // After the tenth commit, both slow ones and the next one no longer fit into ten commits.
    let later: Vec<_> = (0..8).map(|_| max_after(1)).collect();
    assert_eq!(later[..7], [Some(millis(400)); 7]);
    assert_eq!(later[7], None);
    assert_eq!(fallen_back().commit_max(), None);
}

#[test]
fn only_quick_commits_in_a_row_end_the_fallback() {
    let mut machine = fallen_back();
    let mut on = |signal| machine.on(signal, Duration::ZERO);
    // A late commit, like every commit of a slow ImmuDB.
    assert_eq!(on(commit(FitsOne, 700)), Migrating);
    assert_eq!([on(commit(FitsOne, 249)), on(commit(FitsOne, 249))], [Migrating; 2]);
    assert_eq!(on(commit(FitsOne, 250)), Migrating, "that is not quick, and the row begins again");
    assert_eq!([on(commit(Large, 1)), on(commit(Large, 1)), on(commit(Large, 1))], [Migrating; 3]);
    assert_eq!(on(commit(FitsOne, 1)), Connected, "those of a backlog count, too");
}

#[test]
fn a_failure_begins_the_row_again() {
    for failure in [Failed(Passing), Failed(Definite), Overdue] {
        let mut machine = fallen_back();
        let mut on = |signal| machine.on(signal, Duration::ZERO);
        assert_eq!([on(commit(FitsOne, 1)), on(commit(FitsOne, 1))], [Migrating; 2]);
        on(failure);
        assert_eq!([on(commit(FitsOne, 1)), on(commit(FitsOne, 1))], [Migrating; 2], "{failure:?}");
        assert_eq!(on(commit(FitsOne, 1)), Connected);
    }
}

#[test]
fn a_large_transaction_may_take_longer_and_still_be_quick_but_not_slow() {
    let machine = fallen_back();
    let is_quick = |took, mebibytes: usize| {
        machine.is_quick(Commit { backlog: FitsOne, took: millis(took), bytes: mebibytes << 20 })
    };
    assert!(is_quick(495, 4) && !is_quick(501, 4));
    assert!(is_quick(305, 1) && !is_quick(320, 1));
    assert!(!is_quick(501, 32), "that would begin the next fallback");
}

/// Returns the number of commits that ends the fallback.
fn commits_needed(machine: &mut StateMachine, at: Duration) -> u32 {
    (1..).find(|_| machine.on(commit(FitsOne, 1), at) == Connected).unwrap()
}

#[test]
fn each_further_fallback_within_ten_minutes_takes_twice_as_many_commits_to_end() {
    let mut machine = StateMachine::new(Connected, LIMITS);
    let mut needed = |at: u64| {
        machine.on(Overdue, Duration::from_secs(at));
        commits_needed(&mut machine, Duration::from_secs(at))
    };
    let further: Vec<u32> = (0..7).map(|number| needed(number * 600)).collect();
    assert_eq!(further, [3, 6, 12, 24, 48, 48, 48]);
    assert_eq!(needed(6 * 600 + 601), 3);
}

#[test]
fn a_fallback_that_goes_on_is_no_further_one() {
    let mut machine = fallen_back();
    for _ in 0..5 {
        assert_eq!(machine.on(commit(FitsOne, 1), Duration::ZERO), Migrating);
        assert_eq!(machine.on(Failed(Definite), Duration::ZERO), Fallback);
    }
    assert_eq!(commits_needed(&mut machine, Duration::ZERO), 3);
}

/// A second implementation of the rules. Apart from past fallbacks and a count of failures, it
/// remembers only the list of all commits since the last change into or out of a fallback.
#[derive(Default)]
struct Model {
    in_fallback: bool,
    since: Vec<Commit>,
    begun: Vec<(Duration, u32)>,
    ended: Option<Duration>,
    failures: u32,
}

impl Model {
    fn needed(&self) -> u32 {
        self.begun.last().map_or(0, |(_, needed)| *needed)
    }

    fn begin(&mut self, at: Duration) {
        if !self.in_fallback {
            let further = self.ended.is_some_and(|ended| at <= ended + Duration::from_secs(600));
            let needed = if further { (self.needed() * 2).min(48) } else { 3 };
            self.begun.push((at, needed));
        }
        self.in_fallback = true;
        self.since.clear();
    }

    fn on(&mut self, signal: Signal, at: Duration) {
        match signal {
            Failed(failure) => {
                self.failures += 1;
                if self.in_fallback {
                    self.since.clear();
                }
                if failure == Definite || self.failures >= LIMITS.failures_max {
                    self.begin(at);
                }
            }
            Overdue => self.begin(at),
            Dragging if !self.in_fallback => self.begin(at),
            Committed(commit) => {
                self.failures = 0;
                self.since.push(commit);
                let took = |last: usize| self.since.iter().rev().take(last).map(|commit| commit.took);
                if self.in_fallback {
                    let needed = self.needed() as usize;
                    let quick = took(needed).filter(|took| *took < millis(250)).count();
                    if quick == needed && commit.backlog == FitsOne {
                        self.in_fallback = false;
                        self.ended = Some(at);
                        self.since.clear();
                    }
                } else if took(10).filter(|took| *took > millis(500)).count() >= 3
                    || commit.took > millis(1000)
                {
                    self.begin(at);
                }
            }
            _ => {}
        }
    }
}

/// Checks random series of signals against the model. A failure names the seed.
#[test]
fn the_machine_does_what_the_rules_say() {
    let mut fallbacks = 0;
    for seed in 0..2000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut machine, mut model) = (StateMachine::new(Connected, LIMITS), Model::default());
        let mut at = Duration::ZERO;
        // How often commits are slow in this series.
        let slow = random.u32(0..4);
        for step in 0..200 {
            at += millis(random.u64(0..2000) * if random.u8(..50) == 0 { 1000 } else { 1 });
            let took = match random.u32(..10) {
                0..4 if slow > 0 && random.u32(..4) < slow => random.u64(400..1100),
                4 => random.u64(200..600),
                _ => random.u64(1..249),
            };
            let backlog = if random.u8(..5) == 0 { Large } else { FitsOne };
            let signal = match random.u8(..60) {
                0 => Failed(Definite),
                1 | 2 => Failed(Passing),
                3 => Overdue,
                4 => Dragging,
                _ => Committed(Commit { backlog, took: millis(took), bytes: 0 }),
            };
            let state = machine.on(signal, at);
            model.on(signal, at);
            let expected = if model.in_fallback { state != Connected } else { state == Connected };
            assert!(expected, "seed {seed}, step {step}: {signal:?} leads to {state:?}");
            if let Committed(_) = signal
                && model.in_fallback
                && !model.since.is_empty()
            {
                assert_eq!(state, Migrating, "seed {seed}, step {step}: ImmuDB takes something");
            }
        }
        fallbacks += model.begun.len();
    }
    assert!(fallbacks > 2000, "{fallbacks} fallbacks are too few for a test of them");
}
