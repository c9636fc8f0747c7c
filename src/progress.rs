//! Reports the progress of long operations.
//!
//! A process shows a progress bar if standard error is a terminal, writes a line to the log every
//! few seconds, and includes the progress in the errors of clients that have to wait.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use tracing::info;

/// A long operation and its progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Work {
    pub what: &'static str,
    pub unit: &'static str,
    pub done: u64,
    pub of: u64,
}

impl Work {
    pub(crate) fn percent(&self) -> u64 {
        let percent = u128::from(self.done) * 100 / u128::from(self.of.max(1));
        u64::try_from(percent).unwrap_or(100).min(100)
    }
}

/// The current operation. A process runs at most one at a time.
static CURRENT: Mutex<Option<Work>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<Work>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the long operation that this process is running.
pub(crate) fn current() -> Option<Work> {
    lock().clone()
}

/// Progress of one operation, from its start until it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    what: &'static str,
    until: u64,
    logged: Instant,
}

impl Progress {
    const LOG_EVERY: Duration = Duration::from_secs(5);

    /// Starts reporting the operation `what`, which proceeds from `from` to `until` in `unit`s.
    pub(crate) fn new(what: &'static str, unit: &'static str, from: u64, until: u64) -> Self {
        // indicatif draws nothing if standard error is not a terminal.
        let bar = ProgressBar::new(until).with_position(from);
        let template = format!("{what} {{bar:40}} {{human_pos}}/{{human_len}} {unit}, {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        *lock() = Some(Work { what, unit, done: from, of: until });
        Self { bar, what, until, logged: Instant::now() }
    }

    pub(crate) fn reached(&mut self, done: u64) {
        self.bar.set_position(done);
        if let Some(work) = &mut *lock() {
            work.done = done;
        }
        if self.logged.elapsed() >= Self::LOG_EVERY {
            self.logged = Instant::now();
            info!(done, of = self.until, "{}", self.what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        *lock() = None;
    }
}
