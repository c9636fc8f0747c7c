//! Counts the calls that the service rejects, by reason, for `Stats` and the log.
//!
//! Each reason is logged at most once a minute, with the number of calls, so that a flood of calls
//! does not fill the log and no rejection is silent. Only rejections caused by the service are
//! recorded, such as a limit, a full disk or a failed log; a conflict or an invalid request is the
//! client's. There is one record per process, as there is one log. It also limits the log lines
//! about failures that may repeat as often as clients call.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::{error, warn};

use crate::event::Timestamp;

/// The minimum time between two log lines about the same reason or failure.
pub(crate) const LOG_EVERY: Duration = Duration::from_secs(60);

/// After a pause longer than this, `since` starts again: the rejections no longer belong together.
const PAUSE_MAX: Duration = Duration::from_secs(60);

static PROCESS: Refusals = Refusals::new();

/// Records a rejection in this process. `message` is the text sent to the client.
pub(crate) fn refused(reason: &'static str, severity: Severity, message: &str) {
    PROCESS.refused(reason, severity, message, TimePoint::now());
}

/// Logs an ERROR about a failure that may repeat, at most once a minute and with the count.
pub(crate) fn failed(what: &'static str, error: &dyn std::fmt::Display) {
    PROCESS.failed(what, &error.to_string(), TimePoint::now());
}

/// Returns the rejections since the process started, by reason.
pub(crate) fn recorded() -> Vec<RefusalStats> {
    PROCESS.recorded()
}

/// Logs counts that have not been logged yet and whose minute is over. Called about once a second.
pub(crate) fn log_due() {
    PROCESS.log_due(TimePoint::now());
}

/// Who must act on a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Temporary and announced elsewhere, such as a start: counted but not logged.
    Passing,
    /// A limit, or another condition that may be temporary: logged as WARN.
    Limit,
    /// An operator must fix it: logged as ERROR.
    Failure,
}

/// The rejections with one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusalStats {
    /// The reason as in `ErrorInfo`.
    pub reason: &'static str,
    /// The message sent to the last client.
    pub message: String,
    /// The number of calls rejected since the service started.
    pub calls: u64,
    /// When the current series of rejections began. A series ends after a minute without a
    /// rejection.
    pub since: Timestamp,
    /// When a call was last rejected.
    pub last: Timestamp,
}

/// The record of rejections. See the module documentation.
#[derive(Debug)]
pub(crate) struct Refusals {
    inner: Mutex<RefusalState>,
}

#[derive(Debug)]
struct RefusalState {
    refusals: BTreeMap<&'static str, Recorded>,
    failures: BTreeMap<&'static str, Failing>,
}

#[derive(Debug)]
struct Recorded {
    refusal: RefusalStats,
    severity: Severity,
    last: Instant,
    line: LogRateLimit,
}

#[derive(Debug, Default)]
struct Failing {
    error: String,
    line: LogRateLimit,
}

/// Allows at most one log line a minute. Occurrences that are not logged count towards the next
/// line.
#[derive(Debug, Default)]
struct LogRateLimit {
    logged: Option<Instant>,
    unlogged: u64,
}

/// Both clocks: the wall clock for readers, and a monotonic one for intervals.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimePoint {
    instant: Instant,
    time: Timestamp,
}

impl TimePoint {
    fn now() -> Self {
        Self { instant: Instant::now(), time: Timestamp::now() }
    }
}

impl Refusals {
    const fn new() -> Self {
        Self { inner: Mutex::new(RefusalState { refusals: BTreeMap::new(), failures: BTreeMap::new() }) }
    }

    fn refused(&self, reason: &'static str, severity: Severity, message: &str, now: TimePoint) {
        let due = {
            let mut inner = self.lock();
            let recorded =
                inner.refusals.entry(reason).or_insert_with(|| Recorded::new(reason, severity, now));
            recorded.one_more(severity, message, now);
            recorded.line.due(now.instant)
        };
        if let Some(calls) = due {
            log_refusal(reason, severity, calls, message);
        }
    }

    fn failed(&self, what: &'static str, error: &str, now: TimePoint) {
        let due = {
            let mut inner = self.lock();
            let failing = inner.failures.entry(what).or_default();
            error.clone_into(&mut failing.error);
            failing.line.one_more();
            failing.line.due(now.instant)
        };
        if let Some(times) = due {
            error!(%error, times, "{what}");
        }
    }

    fn recorded(&self) -> Vec<RefusalStats> {
        self.lock().refusals.values().map(|recorded| recorded.refusal.clone()).collect()
    }

    fn log_due(&self, now: TimePoint) {
        let mut refusals = Vec::new();
        let mut failures = Vec::new();
        {
            let mut inner = self.lock();
            for (reason, recorded) in &mut inner.refusals {
                if let Some(calls) = recorded.line.due(now.instant) {
                    refusals.push((*reason, recorded.severity, calls, recorded.refusal.message.clone()));
                }
            }
            for (what, failing) in &mut inner.failures {
                if let Some(times) = failing.line.due(now.instant) {
                    failures.push((*what, times, failing.error.clone()));
                }
            }
        }
        for (reason, severity, calls, message) in refusals {
            log_refusal(reason, severity, calls, &message);
        }
        for (what, times, error) in failures {
            error!(%error, times, "{what}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, RefusalState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_refusal(reason: &str, severity: Severity, calls: u64, message: &str) {
    match severity {
        Severity::Passing => {}
        Severity::Limit => warn!(reason, calls, "calls are refused: {message}"),
        Severity::Failure => error!(reason, calls, "calls are refused: {message}"),
    }
}

impl Recorded {
    fn new(reason: &'static str, severity: Severity, now: TimePoint) -> Self {
        let refusal =
            RefusalStats { reason, message: String::new(), calls: 0, since: now.time, last: now.time };
        Self { refusal, severity, last: now.instant, line: LogRateLimit::default() }
    }

    fn one_more(&mut self, severity: Severity, message: &str, now: TimePoint) {
        if now.instant.saturating_duration_since(self.last) > PAUSE_MAX {
            self.refusal.since = now.time;
        }
        self.severity = severity;
        message.clone_into(&mut self.refusal.message);
        self.refusal.calls = self.refusal.calls.saturating_add(1);
        (self.refusal.last, self.last) = (now.time, now.instant);
        self.line.one_more();
    }
}

impl LogRateLimit {
    fn one_more(&mut self) {
        self.unlogged = self.unlogged.saturating_add(1);
    }

    /// Returns the number of occurrences for a log line now, or `None` if none is due.
    fn due(&mut self, now: Instant) -> Option<u64> {
        let rested = self.logged.is_none_or(|logged| now.saturating_duration_since(logged) >= LOG_EVERY);
        if self.unlogged == 0 || !rested {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: TimePoint, seconds: u64) -> TimePoint {
        let whole = start.time.seconds() + i64::try_from(seconds).unwrap();
        let time = Timestamp::new(whole, start.time.nanos()).unwrap();
        TimePoint { instant: start.instant + Duration::from_secs(seconds), time }
    }

    #[test]
    fn a_line_a_minute_stands_for_all_refusals_since_the_last() {
        let (mut line, start) = (LogRateLimit::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        line.one_more();
        assert_eq!(line.due(start), Some(1));
        for _ in 0..1000 {
            line.one_more();
            assert_eq!(line.due(at(59)), None);
        }
        assert_eq!(line.due(at(60)), Some(1000));
        assert_eq!(line.due(at(600)), None, "nothing was refused since");
    }

    #[test]
    fn refusals_are_counted_by_reason_and_a_pause_begins_a_new_row() {
        let (refusals, start) = (Refusals::new(), TimePoint::now());
        let refuse = |reason, message: &str, seconds| {
            refusals.refused(reason, Severity::Limit, message, after(start, seconds));
        };
        refuse("DISK_FULL", "first", 0);
        refuse("DISK_FULL", "second", 50);
        refuse("TYPES", "other", 55);
        let row = |seconds, last, calls, message: &str| RefusalStats {
            reason: "DISK_FULL",
            message: message.to_owned(),
            calls,
            since: after(start, seconds).time,
            last: after(start, last).time,
        };
        let recorded = refusals.recorded();
        assert_eq!(recorded.len(), 2);
        let since_start = RefusalStats { since: start.time, ..row(0, 50, 2, "second") };
        assert_eq!(recorded[0], since_start);
        refuse("DISK_FULL", "third", 120);
        assert_eq!(refusals.recorded()[0], row(120, 120, 3, "third"));
    }

    #[test]
    fn what_a_minute_held_back_is_logged_when_it_is_over() {
        let (refusals, start) = (Refusals::new(), TimePoint::now());
        for _ in 0..3 {
            refusals.refused("DISK_FULL", Severity::Limit, "full", start);
            refusals.failed("a group could not be stored", "no space", start);
        }
        let unlogged = |refusals: &Refusals| {
            let inner = refusals.lock();
            let refused = inner.refusals.values().map(|recorded| recorded.line.unlogged);
            refused.chain(inner.failures.values().map(|failing| failing.line.unlogged)).collect::<Vec<_>>()
        };
        assert_eq!(unlogged(&refusals), [2, 2]);
        refusals.log_due(after(start, 59));
        assert_eq!(unlogged(&refusals), [2, 2]);
        refusals.log_due(after(start, 60));
        assert_eq!(unlogged(&refusals), [0, 0]);
    }
}
