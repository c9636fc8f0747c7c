//! The source of recorded times, for machines whose wall clock cannot be trusted.
//!
//! While the service runs, the wall clock is compared with the time since boot, which cannot be
//! set. If they drift apart, recorded times follow the time since boot. At startup and at the first
//! contact with ImmuDB, the wall clock is compared with the newest event and with ImmuDB's clock.
//! If it is not plausible, no events are accepted.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};
use tracing::{error, info, warn};

use crate::event::Timestamp;

/// The longest plausible time between the newest event and a start: a game may rest this long.
pub(crate) const REST_MAX: Duration = Duration::from_secs(400 * 24 * 60 * 60);
const TOLD_EVERY: Duration = Duration::from_secs(60 * 60);

/// Both clocks at one moment, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ClockReading {
    /// Since 1970.
    wall: i128,
    /// Since boot. It keeps running while the system sleeps.
    running: i128,
}

/// The clock of the time since boot. It includes time spent asleep only on Linux.
#[cfg(target_os = "linux")]
const RUNNING: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const RUNNING: ClockId = ClockId::Monotonic;

impl ClockReading {
    fn now() -> Self {
        let running = clock_gettime(RUNNING);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanos);
        Self { wall, running: i128::from(running.tv_sec) * 1_000_000_000 + i128::from(running.tv_nsec) }
    }

    /// Returns what the wall clock will show at a later time if it is not set.
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

/// The clock shared by the sequencer, which reads the time from it, and the code that reports on
/// it.
#[derive(Debug)]
pub struct EventClock {
    /// Whether the operator has confirmed that the clock is right.
    accepted: bool,
    inner: Mutex<ClockState>,
}

#[derive(Debug)]
struct ClockState {
    jump_max: i128,
    /// The last time that the wall clock was trusted.
    believed: ClockReading,
    /// Set while recorded times do not follow the wall clock.
    jumped: bool,
    /// The time of the newest event, if the wall clock was not plausible against it at startup.
    /// While that remains so, no events are accepted.
    newest: Option<i128>,
    /// The time of ImmuDB at the claim, if the wall clock was not plausible against it. It has the
    /// same effect.
    immudb: Option<ClockReading>,
    /// The time since boot when a problem was last logged.
    told: i128,
}

/// The wall clock contradicts what is known of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Implausible;

impl EventClock {
    /// Starts the clock. `newest` is the recorded time of the newest event.
    pub fn start(jump_max: Duration, newest: Option<Timestamp>, accepted: bool) -> Self {
        Self::start_at(ClockReading::now(), jump_max, newest, accepted)
    }

    fn start_at(now: ClockReading, jump_max: Duration, newest: Option<Timestamp>, accepted: bool) -> Self {
        let jump_max = nanos(jump_max);
        let newest = newest.filter(|_| !accepted).map(Timestamp::nanos_since_1970);
        let mut inner =
            ClockState { jump_max, believed: now, jumped: false, newest, immudb: None, told: now.running };
        inner.doubt(now);
        Self { accepted, inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, ClockState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the recorded time for a group of events.
    ///
    /// # Errors
    /// Returns an error if the time is not known. No event may then be recorded.
    pub fn time(&self) -> Result<Timestamp, Implausible> {
        self.lock().time(ClockReading::now()).map(Timestamp::from_nanos_since_1970)
    }

    /// Compares the clock with the time at which ImmuDB has just committed the claim.
    pub fn compare(&self, immudb_seconds: i64) {
        if !self.accepted {
            self.lock().compare(i128::from(immudb_seconds) * 1_000_000_000, ClockReading::now());
        }
    }

    /// Replaces the newest event, which is a different one after the history was restored.
    pub fn renew(&self, newest: Timestamp) {
        let mut inner = self.lock();
        if inner.newest.is_some() {
            inner.newest = Some(newest.nanos_since_1970());
            inner.doubt(ClockReading::now());
        }
    }

    /// Checks the wall clock even if no events come, and logs a problem with it once an hour.
    pub fn look(&self) {
        self.lock().look(ClockReading::now());
    }

    /// Returns by how many seconds the wall clock differs from the expected time. Returns 0 while
    /// recorded times follow it.
    pub fn difference(&self) -> f64 {
        self.lock().difference(ClockReading::now()).map_or(0.0, |difference| difference as f64 / 1e9)
    }

    /// Returns how many seconds a time is in the future, or 0 if it is not.
    pub fn ahead(&self, time: Timestamp) -> f64 {
        let ahead = time.nanos_since_1970().saturating_sub(self.lock().present(ClockReading::now()));
        ahead.max(0) as f64 / 1e9
    }
}

impl ClockState {
    /// Returns how far the wall clock is from the time that it would show if it had not been set.
    /// Returns `None` if the difference is within the limit.
    fn jump(&self, now: ClockReading) -> Option<i128> {
        let difference = now.wall.saturating_sub(self.believed.wall_at(now.running));
        (difference.abs() > self.jump_max).then_some(difference)
    }

    /// Returns the best estimate of the current time.
    fn present(&self, now: ClockReading) -> i128 {
        match self.jump(now) {
            Some(_) if !self.is_doubted() => self.believed.wall_at(now.running),
            _ => now.wall,
        }
    }

    fn is_doubted(&self) -> bool {
        self.newest.is_some() || self.immudb.is_some()
    }

    /// Returns the reference that the wall clock contradicts, and the difference to it.
    fn doubts(&self, now: ClockReading) -> Option<(&'static str, i128)> {
        let newest = self.newest.and_then(|newest| {
            let since = now.wall.saturating_sub(newest);
            (since < -self.jump_max || since > nanos(REST_MAX)).then_some(("the newest event", since))
        });
        let immudb = self.immudb.and_then(|reading| {
            let difference = now.wall.saturating_sub(reading.wall_at(now.running));
            (difference.abs() > self.jump_max).then_some(("ImmuDB's clock", difference))
        });
        newest.or(immudb)
    }

    fn difference(&self, now: ClockReading) -> Option<i128> {
        if self.is_doubted() { self.doubts(now).map(|(_, difference)| difference) } else { self.jump(now) }
    }

    /// Logs an error if the wall clock contradicts `newest` or `immudb`. Forgets both if it does
    /// not.
    fn doubt(&mut self, now: ClockReading) {
        match self.doubts(now) {
            Some((reference, difference)) => {
                tell(reference, difference);
                (self.jumped, self.told) = (false, now.running);
            }
            None => (self.newest, self.immudb) = (None, None),
        }
    }

    fn compare(&mut self, immudb: i128, now: ClockReading) {
        let fits = |time: i128| time.saturating_sub(immudb).abs() <= self.jump_max;
        if self.jumped && fits(self.believed.wall_at(now.running)) {
            return;
        }
        if self.jumped && fits(now.wall) {
            info!("the wall clock is right, as ImmuDB's says; recorded times follow it");
            (self.believed, self.jumped) = (now, false);
            return;
        }
        if !fits(now.wall) {
            self.immudb = Some(ClockReading { wall: immudb, running: now.running });
            self.doubt(now);
        }
    }

    /// Follows the wall clock, or detects that it cannot be followed.
    fn observe(&mut self, now: ClockReading) -> Result<(), Implausible> {
        if self.is_doubted() {
            if self.doubts(now).is_some() {
                return Err(Implausible);
            }
            info!("the wall clock is plausible; events are taken");
            (self.newest, self.immudb, self.believed) = (None, None, now);
        }
        match self.jump(now) {
            Some(difference) if !self.jumped => {
                warn!(
                    seconds = seconds(difference),
                    "the wall clock has jumped (event_sourcing.clock_jump_max); recorded times go on without it until \
                     it is set back; if it is right now, restart the service with --accept-clock"
                );
                (self.jumped, self.told) = (true, now.running);
            }
            Some(_) => {}
            None => {
                if std::mem::take(&mut self.jumped) {
                    info!("the wall clock is right again; recorded times follow it");
                }
                self.believed = now;
            }
        }
        Ok(())
    }

    fn time(&mut self, now: ClockReading) -> Result<i128, Implausible> {
        self.observe(now)?;
        Ok(self.present(now))
    }

    /// Checks the wall clock. Returns whether a problem was logged.
    fn look(&mut self, now: ClockReading) -> bool {
        let known = self.observe(now);
        if (known.is_ok() && !self.jumped) || now.running.saturating_sub(self.told) < nanos(TOLD_EVERY) {
            return false;
        }
        self.told = now.running;
        match (self.doubts(now), self.jump(now)) {
            (Some((reference, difference)), _) => tell(reference, difference),
            (None, jump) => {
                let seconds = seconds(jump.unwrap_or_default());
                error!(seconds, "the wall clock has jumped; recorded times go on without it");
            }
        }
        true
    }
}

fn tell(reference: &'static str, difference: i128) {
    error!(
        reference,
        seconds = seconds(difference),
        "the wall clock is not plausible: no events are taken before it is right (CLOCK); if it is right, restart the \
         service with --accept-clock"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i128 = 3600 * 1_000_000_000;
    const YEAR: i128 = 365 * 24 * HOUR;
    const JUMP_MAX: Duration = Duration::from_secs(3600);
    /// A time in 2026.
    const START: ClockReading = ClockReading { wall: 1_790_000_000 * 1_000_000_000, running: 5 * HOUR };

    /// Returns a reading taken `running` after the start, with a wall clock moved by `set`.
    fn later(running: i128, set: i128) -> ClockReading {
        ClockReading { wall: START.wall + running + set, running: START.running + running }
    }

    fn at(nanos: i128) -> Option<Timestamp> {
        Some(Timestamp::from_nanos_since_1970(nanos))
    }

    fn started(newest: Option<Timestamp>) -> ClockState {
        EventClock::start_at(START, JUMP_MAX, newest, false).inner.into_inner().unwrap()
    }

    #[test]
    fn recorded_times_go_on_without_a_clock_that_jumped_until_it_is_right() {
        for jump in [10 * YEAR, -10 * YEAR, HOUR + 1, -HOUR - 1] {
            let mut clock = started(at(START.wall));
            assert_eq!(clock.time(later(HOUR, 0)), Ok(START.wall + HOUR));
            for hour in 2..5 {
                assert_eq!(clock.time(later(hour * HOUR, jump)), Ok(START.wall + hour * HOUR), "{jump}");
                assert_eq!(clock.difference(later(hour * HOUR, jump)), Some(jump));
            }
            assert_eq!(clock.time(later(6 * HOUR, 7)), Ok(START.wall + 6 * HOUR + 7));
            assert_eq!(clock.difference(later(6 * HOUR, 7)), None);
        }
    }

    #[test]
    fn a_quiet_night_and_a_clock_that_is_set_a_little_are_no_jump() {
        let mut clock = started(at(START.wall));
        assert_eq!(clock.time(later(12 * HOUR, 0)), Ok(START.wall + 12 * HOUR));
        assert_eq!(clock.time(later(13 * HOUR, HOUR)), Ok(START.wall + 14 * HOUR));
        assert_eq!(clock.time(later(14 * HOUR, 0)), Ok(START.wall + 14 * HOUR));
        assert!(!clock.look(later(24 * HOUR, 0)));
    }

    #[test]
    fn a_jump_is_told_every_hour_until_it_is_over_also_where_no_events_come() {
        let mut clock = started(None);
        assert!(!clock.look(later(0, 2 * HOUR)));
        let set_back = 200;
        let set = |minute| if minute < set_back { 2 * HOUR } else { 0 };
        let mut told = Vec::new();
        for minute in 0..400 {
            let now = later(minute * HOUR / 60, set(minute));
            if clock.look(now) {
                told.push(minute);
            }
            assert_eq!(clock.difference(now).is_some(), minute < set_back);
        }
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
            assert_eq!(started(newest).time(START).is_ok(), believed, "{newest:?}");
            let accepted = EventClock::start_at(START, JUMP_MAX, newest, true);
            assert_eq!(accepted.lock().time(START), Ok(START.wall));
        }
        let mut clock = started(at(START.wall + YEAR));
        assert_eq!(clock.difference(START), Some(-YEAR));
        assert_eq!(clock.time(later(HOUR, 0)), Err(Implausible));
        assert_eq!(clock.time(later(2 * HOUR, YEAR)), Ok(START.wall + 2 * HOUR + YEAR));
        // From here on, the wall clock is followed.
        assert_eq!(clock.time(later(3 * HOUR, YEAR)), Ok(START.wall + 3 * HOUR + YEAR));
        assert_eq!(clock.difference(later(3 * HOUR, YEAR)), None);
    }

    #[test]
    fn a_clock_that_is_not_that_of_immudb_is_not_believed_before_it_is_right() {
        let mut clock = started(None);
        clock.compare(START.wall - HOUR, START);
        assert_eq!(clock.time(START), Ok(START.wall));
        clock.compare(START.wall - 2 * HOUR, START);
        assert_eq!(clock.time(later(5 * HOUR, 0)), Err(Implausible));
        assert_eq!(clock.difference(later(5 * HOUR, 0)), Some(2 * HOUR));
        assert_eq!(clock.time(later(6 * HOUR, -2 * HOUR)), Ok(START.wall + 4 * HOUR));
    }

    #[test]
    fn it_has_to_fit_both_the_newest_event_and_immudb() {
        let mut clock = started(at(START.wall + YEAR));
        clock.compare(START.wall + YEAR + 2 * HOUR, START);
        // The clock fits one of them and not the other.
        assert_eq!(clock.time(later(0, YEAR)), Err(Implausible));
        assert_eq!(clock.time(later(0, YEAR + 2 * HOUR)), Ok(START.wall + YEAR + 2 * HOUR));
    }

    #[test]
    fn after_a_jump_immudb_says_whether_the_recorded_times_or_the_clock_are_right() {
        let (jump, now) = (5 * HOUR, later(HOUR, 5 * HOUR));
        for (immudb, recorded) in [
            // Recorded times were right.
            (START.wall + HOUR, Ok(START.wall + HOUR)),
            // The clock was wrong at the start and is right now.
            (START.wall + HOUR + jump, Ok(START.wall + HOUR + jump)),
            (START.wall + YEAR, Err(Implausible)),
        ] {
            let mut clock = started(at(START.wall));
            assert_eq!(clock.time(now), Ok(START.wall + HOUR));
            clock.compare(immudb, now);
            assert_eq!(clock.time(now), recorded, "{immudb}");
        }
    }

    #[test]
    fn a_restored_history_determines_again_what_fits() {
        let long_ago = Timestamp::now().nanos_since_1970() - 2 * YEAR;
        let clock = EventClock::start(JUMP_MAX, at(long_ago), false);
        assert_eq!(clock.time(), Err(Implausible));
        clock.renew(Timestamp::now());
        assert!(clock.time().is_ok());
        // A clock that was never in doubt is not checked again.
        clock.renew(Timestamp::from_nanos_since_1970(long_ago));
        assert!(clock.time().is_ok());
    }

    #[test]
    fn what_is_ahead_is_told_by_the_time_that_is_recorded() {
        let mut clock = started(at(START.wall));
        assert_eq!(clock.time(later(HOUR, -10 * YEAR)), Ok(START.wall + HOUR));
        assert_eq!(clock.present(later(HOUR, -10 * YEAR)), START.wall + HOUR);
    }
}
