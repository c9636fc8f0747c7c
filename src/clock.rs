//! The time that events are recorded at, where the system's clock can't be trusted.
//!
//! While the service runs, the wall clock is compared with the time since the system was started, which nobody sets. Where
//! they drift apart, recorded times go on with the latter. At a start, and at the first contact with ImmuDB, the wall clock
//! is compared with what is known of the time; where it does not fit, no event is taken.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};
use tracing::{error, info, warn};

use crate::event::Timestamp;

/// A game may rest for so long after its newest event.
const REST_MAX: Duration = Duration::from_secs(400 * 24 * 60 * 60);
const TOLD_EVERY: Duration = Duration::from_secs(60 * 60);

/// Both clocks at one moment, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    /// Since 1970.
    wall: i128,
    /// Since the system was started. It goes on while the system sleeps.
    running: i128,
}

impl Reading {
    fn now() -> Self {
        let running = clock_gettime(ClockId::Boottime);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanos);
        Self { wall, running: i128::from(running.tv_sec) * 1_000_000_000 + i128::from(running.tv_nsec) }
    }

    /// What the wall clock shows later if nobody sets it.
    fn wall_at(self, running: i128) -> i128 {
        self.wall.saturating_add(running.saturating_sub(self.running))
    }
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

fn seconds(nanos: i128) -> i64 {
    i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX)
}

/// Why the wall clock is not believed at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// The newest event, at the start.
    Newest(i128),
    /// ImmuDB had this time when the database was claimed.
    Immudb(Reading),
}

impl Doubt {
    /// How far the wall clock is from what it may be; `None`: it is right.
    fn difference(self, now: Reading, jump_max: i128) -> Option<i128> {
        match self {
            Self::Newest(newest) => {
                let since = now.wall.saturating_sub(newest);
                (since < -jump_max || since > nanos(REST_MAX)).then_some(since)
            }
            Self::Immudb(reading) => {
                let difference = now.wall.saturating_sub(reading.wall_at(now.running));
                (difference.abs() > jump_max).then_some(difference)
            }
        }
    }

    fn reference(self) -> &'static str {
        match self {
            Self::Newest(_) => "the newest event",
            Self::Immudb(_) => "ImmuDB's clock",
        }
    }
}

/// How the wall clock stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Followed,
    /// It has jumped: recorded times do without it. With the running time at which that was last told.
    Jumped {
        told: i128,
    },
    /// No event is taken.
    Doubted {
        doubt: Doubt,
        told: i128,
    },
}

/// Shared by the sequencer, which asks it for the time, and those who tell of it.
#[derive(Debug)]
pub struct EventClock {
    jump_max: i128,
    /// A person has said that the clock is right.
    accepted: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// When the wall clock was last believed.
    believed: Reading,
    state: State,
}

/// The wall clock does not fit what is known of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Implausible;

impl EventClock {
    /// `newest` is when the newest event was recorded.
    pub fn start(jump_max: Duration, newest: Option<Timestamp>, accepted: bool) -> Self {
        Self::start_at(Reading::now(), jump_max, newest, accepted)
    }

    fn start_at(now: Reading, jump_max: Duration, newest: Option<Timestamp>, accepted: bool) -> Self {
        let inner = Mutex::new(Inner { believed: now, state: State::Followed });
        let clock = Self { jump_max: nanos(jump_max), accepted, inner };
        if let Some(newest) = newest {
            clock.doubt(Doubt::Newest(newest.nanos_since_1970()), now);
        }
        clock
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time of a group of events.
    pub fn time(&self) -> Timestamp {
        Timestamp::from_nanos_since_1970(self.time_at(Reading::now()))
    }

    fn time_at(&self, now: Reading) -> i128 {
        let mut inner = self.lock();
        _ = self.believe_again(&mut inner, now);
        let expected = inner.believed.wall_at(now.running);
        let difference = now.wall.saturating_sub(expected);
        if difference.abs() <= self.jump_max {
            if let State::Jumped { .. } = inner.state {
                info!("the wall clock is right again; recorded times follow it");
                inner.state = State::Followed;
            }
            inner.believed = now;
            return now.wall;
        }
        match &mut inner.state {
            State::Followed => {
                warn!(
                    seconds = seconds(difference),
                    "the wall clock has jumped (event_sourcing.clock_jump_max); recorded times go on without it until it \
                     is set back, or the service is started again with --accept-clock"
                );
                inner.state = State::Jumped { told: now.running };
            }
            State::Jumped { .. } | State::Doubted { .. } => {}
        }
        expected
    }

    /// Whether events may be recorded.
    ///
    /// # Errors
    /// The clock is not believed.
    pub fn admit(&self) -> Result<(), Implausible> {
        self.admit_at(Reading::now())
    }

    fn admit_at(&self, now: Reading) -> Result<(), Implausible> {
        self.believe_again(&mut self.lock(), now)
    }

    fn believe_again(&self, inner: &mut Inner, now: Reading) -> Result<(), Implausible> {
        let State::Doubted { doubt, .. } = inner.state else { return Ok(()) };
        if doubt.difference(now, self.jump_max).is_some() {
            return Err(Implausible);
        }
        info!("the wall clock is plausible; events are taken");
        *inner = Inner { believed: now, state: State::Followed };
        Ok(())
    }

    /// Compares it with the time at which ImmuDB took the claim, just now.
    pub fn compare(&self, immudb_seconds: i64) {
        let now = Reading::now();
        let immudb = i128::from(immudb_seconds) * 1_000_000_000;
        self.doubt(Doubt::Immudb(Reading { wall: immudb, running: now.running }), now);
    }

    fn doubt(&self, doubt: Doubt, now: Reading) {
        if self.accepted {
            return;
        }
        if let Some(difference) = doubt.difference(now, self.jump_max) {
            tell(doubt, difference);
            self.lock().state = State::Doubted { doubt, told: now.running };
        }
    }

    /// Says once an hour what is wrong with the clock, whether events come or not.
    pub fn look(&self) {
        self.look_at(Reading::now());
    }

    fn look_at(&self, now: Reading) -> bool {
        let mut inner = self.lock();
        let believed = inner.believed;
        let (State::Jumped { told } | State::Doubted { told, .. }) = &mut inner.state else { return false };
        if now.running.saturating_sub(*told) < nanos(TOLD_EVERY) {
            return false;
        }
        *told = now.running;
        match inner.state {
            State::Doubted { doubt, .. } => match doubt.difference(now, self.jump_max) {
                Some(difference) => tell(doubt, difference),
                None => return false,
            },
            State::Jumped { .. } | State::Followed => {
                let seconds = seconds(now.wall.saturating_sub(believed.wall_at(now.running)));
                error!(seconds, "the wall clock has jumped; recorded times go on without it");
            }
        }
        true
    }

    /// By how many seconds the wall clock differs from the time that it should show; 0 while it is followed.
    pub fn difference(&self) -> f64 {
        self.difference_at(Reading::now())
    }

    fn difference_at(&self, now: Reading) -> f64 {
        let inner = self.lock();
        let difference = match inner.state {
            State::Followed => 0,
            State::Jumped { .. } => now.wall.saturating_sub(inner.believed.wall_at(now.running)),
            State::Doubted { doubt, .. } => doubt.difference(now, self.jump_max).unwrap_or(0),
        };
        difference as f64 / 1e9
    }
}

fn tell(doubt: Doubt, difference: i128) {
    error!(
        reference = doubt.reference(),
        seconds = seconds(difference),
        "the wall clock is not plausible: no events are taken before it is right (CLOCK); if it is, start the service \
         with --accept-clock"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i128 = 3600 * 1_000_000_000;
    const YEAR: i128 = 365 * 24 * HOUR;
    const JUMP_MAX: Duration = Duration::from_secs(3600);
    /// In 2026.
    const START: Reading = Reading { wall: 1_790_000_000 * 1_000_000_000, running: 5 * HOUR };

    fn later(running: i128, set: i128) -> Reading {
        Reading { wall: START.wall + running + set, running: START.running + running }
    }

    fn at(nanos: i128) -> Option<Timestamp> {
        Some(Timestamp::from_nanos_since_1970(nanos))
    }

    fn started(newest: Option<Timestamp>) -> EventClock {
        EventClock::start_at(START, JUMP_MAX, newest, false)
    }

    #[test]
    fn recorded_times_go_on_without_a_clock_that_jumped_until_it_is_right() {
        for jump in [10 * YEAR, -10 * YEAR, HOUR + 1, -HOUR - 1] {
            let clock = started(at(START.wall));
            assert_eq!(clock.time_at(later(HOUR, 0)), START.wall + HOUR);
            for hour in 2..5 {
                assert_eq!(clock.time_at(later(hour * HOUR, jump)), START.wall + hour * HOUR, "{jump}");
                assert_eq!(clock.difference_at(later(hour * HOUR, jump)), jump as f64 / 1e9);
            }
            assert_eq!(clock.admit_at(later(5 * HOUR, jump)), Ok(()));
            assert_eq!(clock.time_at(later(6 * HOUR, 7)), START.wall + 6 * HOUR + 7);
            assert_eq!(clock.difference_at(later(6 * HOUR, 7)), 0.0);
        }
    }

    #[test]
    fn a_quiet_night_and_a_clock_that_is_set_a_little_are_no_jump() {
        let clock = started(at(START.wall));
        assert_eq!(clock.time_at(later(12 * HOUR, 0)), START.wall + 12 * HOUR);
        assert_eq!(clock.time_at(later(13 * HOUR, HOUR)), START.wall + 14 * HOUR);
        assert_eq!(clock.time_at(later(14 * HOUR, 0)), START.wall + 14 * HOUR);
        assert!(!clock.look_at(later(24 * HOUR, 0)));
    }

    #[test]
    fn a_jump_is_told_every_hour() {
        let clock = started(None);
        clock.time_at(later(0, 2 * HOUR));
        let told: Vec<i128> =
            (0..200).filter(|minute| clock.look_at(later(minute * HOUR / 60, 2 * HOUR))).collect();
        assert_eq!(told, [60, 120, 180]);
    }

    #[test]
    fn a_clock_that_does_not_fit_the_newest_event_is_not_believed_before_it_is_right() {
        let rest = nanos(REST_MAX);
        for (newest, believed) in [
            (None, true),
            (at(START.wall), true),
            (at(START.wall + HOUR), true),
            (at(START.wall + HOUR + 1), false),
            (at(START.wall - rest), true),
            (at(START.wall - rest - 1), false),
        ] {
            assert_eq!(started(newest).admit_at(START).is_ok(), believed, "{newest:?}");
            assert_eq!(EventClock::start_at(START, JUMP_MAX, newest, true).admit_at(START), Ok(()));
        }
        let clock = started(at(START.wall + YEAR));
        assert_eq!(clock.difference_at(START), (-YEAR) as f64 / 1e9);
        assert_eq!(clock.admit_at(later(HOUR, 0)), Err(Implausible));
        // The time of a group is asked for before it is known whether the group has events.
        assert_eq!(clock.time_at(later(2 * HOUR, YEAR)), START.wall + 2 * HOUR + YEAR);
        assert_eq!(clock.admit_at(later(2 * HOUR, YEAR)), Ok(()));
        // From here on it is followed.
        assert_eq!(clock.time_at(later(3 * HOUR, YEAR)), START.wall + 3 * HOUR + YEAR);
        assert_eq!(clock.difference_at(later(3 * HOUR, YEAR)), 0.0);
    }

    #[test]
    fn a_clock_that_is_not_that_of_immudb_is_not_believed_before_it_is_right() {
        let clock = started(None);
        let immudb = |wall| Doubt::Immudb(Reading { wall, running: START.running });
        clock.doubt(immudb(START.wall - HOUR), START);
        assert_eq!(clock.admit_at(START), Ok(()));
        clock.doubt(immudb(START.wall - 2 * HOUR), START);
        assert_eq!(clock.admit_at(later(5 * HOUR, 0)), Err(Implausible));
        assert_eq!(clock.difference_at(later(5 * HOUR, 0)), 7200.0);
        assert_eq!(clock.admit_at(later(6 * HOUR, -2 * HOUR)), Ok(()));
    }
}
