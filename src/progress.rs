//! Progress of long work: a bar where standard error is a terminal, a line in the log every few seconds.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tracing::info;

/// Progress of one piece of work, from its start until it is dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    what: &'static str,
    until: u64,
    logged: Instant,
}

impl Progress {
    const LOG_EVERY: Duration = Duration::from_secs(5);

    /// `what` is done, from `from` to `until` in `unit`s.
    pub fn new(what: &'static str, unit: &'static str, from: u64, until: u64) -> Self {
        // indicatif draws nothing where standard error is no terminal.
        let bar = ProgressBar::new(until).with_position(from);
        let template = format!("{what} {{bar:40}} {{human_pos}}/{{human_len}} {unit}, {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        Self { bar, what, until, logged: Instant::now() }
    }

    pub fn reached(&mut self, done: u64) {
        self.bar.set_position(done);
        if self.logged.elapsed() >= Self::LOG_EVERY {
            self.logged = Instant::now();
            info!(done, of = self.until, "{}", self.what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
