//! What keeps the read models from following the events, and which events they skip.
//!
//! Reported by `Stats`, by calls that are rejected because of it, and in the server log:
//! immediately, and then once a minute.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use super::ReadModelError;
use crate::event::Position;

/// The time between two log lines about the same problem.
const EVERY: Duration = Duration::from_secs(60);

/// A log line that may be due.
#[derive(Debug, Default)]
struct Line {
    written_at: Option<Instant>,
    /// The number of occurrences without a line.
    unwritten: u64,
}

impl Line {
    /// Counts an occurrence. Returns the number since the last line if a line is due.
    fn due(&mut self) -> Option<u64> {
        self.unwritten = self.unwritten.saturating_add(1);
        if self.written_at.is_some_and(|written_at| written_at.elapsed() < EVERY) {
            return None;
        }
        self.written_at = Some(Instant::now());
        Some(std::mem::take(&mut self.unwritten))
    }
}

/// The events that one projection could not apply.
#[derive(Debug, Default)]
struct SkippedEvents {
    count: u64,
    last: String,
    line: Line,
}

/// The current problems.
#[derive(Debug)]
pub struct Problems {
    /// The name of the tables that have the problems.
    what: &'static str,
    wrong: Mutex<Wrong>,
}

impl Default for Problems {
    fn default() -> Self {
        Self::of_tables("the read models")
    }
}

#[derive(Debug, Default)]
struct Wrong {
    following: Option<(String, Instant)>,
    not_following: Line,
    unreadable: Line,
    passed_over: BTreeMap<&'static str, SkippedEvents>,
}

impl Problems {
    /// Creates a record without problems. `what` names the tables in log lines.
    pub fn of_tables(what: &'static str) -> Self {
        Self { what, wrong: Mutex::default() }
    }

    fn wrong(&self) -> MutexGuard<'_, Wrong> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the tables do not follow the events.
    pub fn record_stalled(&self, problem: &str) {
        let mut wrong = self.wrong();
        let since = wrong.following.take().map_or_else(Instant::now, |(_, since)| since);
        wrong.following = Some((problem.to_owned(), since));
        if let Some(times) = wrong.not_following.due() {
            error!(problem, times, "cannot update {}; retrying every few seconds", self.what);
        }
    }

    /// Records that the tables follow the events.
    pub fn record_following(&self) {
        if let Some((_, since)) = self.wrong().following.take() {
            info!(after = ?since.elapsed(), "{}: updates have resumed", self.what);
        }
    }

    /// Returns why the tables do not follow, or `None` if they do.
    pub fn stalled_reason(&self) -> Option<String> {
        self.wrong().following.as_ref().map(|(problem, _)| problem.clone())
    }

    /// Records that a query failed.
    pub fn record_read_failure(&self, error: &ReadModelError) {
        if let Some(times) = self.wrong().unreadable.due() {
            warn!(%error, times, "cannot read {}", self.what);
        }
    }

    /// Records that a projection skips an event.
    pub fn record_skipped(&self, projection: &'static str, position: Position, error: &rusqlite::Error) {
        let mut wrong = self.wrong();
        let passed_over = wrong.passed_over.entry(projection).or_default();
        passed_over.count = passed_over.count.saturating_add(1);
        passed_over.last = format!("at position {position}: {error}");
        if let Some(times) = passed_over.line.due() {
            let position = position.0;
            warn!(projection, position, times, %error, "the projection skipped an event");
        }
    }

    /// Resets the counts of skipped events, because all tables are rebuilt.
    pub fn reset_skipped(&self) {
        for passed_over in self.wrong().passed_over.values_mut() {
            passed_over.count = 0;
        }
    }

    /// Returns what is wrong with one projection, or an empty text if nothing is.
    pub fn of(&self, projection: &str) -> String {
        let wrong = self.wrong();
        let not_following = wrong.following.iter().map(|(problem, _)| problem.clone());
        let passed_over = wrong.passed_over.get(projection).filter(|passed_over| passed_over.count > 0);
        let passed_over = passed_over.map(|passed_over| {
            format!("skipped {} events, the last {}", passed_over.count, passed_over.last)
        });
        not_following.chain(passed_over).collect::<Vec<_>>().join("; ")
    }
}
