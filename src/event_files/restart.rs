//! Runs the event file thread and restarts it after a panic.
//!
//! It also retries if the thread cannot be started. Every failure is recorded in
//! [`crate::refusals`], and the delay between attempts grows up to a limit.

use std::{
    io,
    panic::{self, AssertUnwindSafe},
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{
    refusals::{self, Severity},
    threads,
};

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Runs `run` in a thread of its own until it returns by itself.
pub(super) fn in_a_thread(
    run: impl FnMut() + Clone + Send + 'static,
    stopping: CancellationToken,
) -> impl Future<Output = ()> {
    let (handle, ends) = (Handle::current(), stopping.clone());
    let spawn = move || {
        let (run, handle, stopping) = (run.clone(), handle.clone(), stopping.clone());
        let (_, end) = threads::spawn("event-files", move || {
            let wait =
                |pause| handle.block_on(stopping.run_until_cancelled(tokio::time::sleep(pause))).is_some();
            until_ended(run, Instant::now, wait);
        })?;
        Ok(end)
    };
    async move {
        if let Some(end) = until_started(spawn, &ends).await {
            _ = end.await;
        }
    }
}

/// Retries until the start succeeds. Returns `None` if it is stopped before that.
async fn until_started<T>(
    mut start: impl FnMut() -> io::Result<T>,
    stopping: &CancellationToken,
) -> Option<T> {
    let mut pause = PAUSE_MIN;
    loop {
        match start() {
            Ok(started) => return Some(started),
            Err(error) => {
                let message = format!(
                    "cannot start the event file thread; no event files are written: \
                 {error}"
                );
                refusals::refused("EVENT_FILES_FAILED", Severity::Failure, &message);
            }
        }
        stopping.run_until_cancelled(tokio::time::sleep(pause)).await?;
        pause = pause.saturating_mul(2).min(PAUSE_MAX);
    }
}

/// Runs `run` until it returns by itself. After each panic it is run again, with a delay that grows
/// if the run was short. `wait` returns whether to go on.
fn until_ended(
    mut run: impl FnMut(),
    mut now: impl FnMut() -> Instant,
    mut wait: impl FnMut(Duration) -> bool,
) {
    let mut pause = PAUSE_MIN;
    let mut began = now();
    while panic::catch_unwind(AssertUnwindSafe(&mut run)).is_err() {
        let message = "the event file thread panicked; no event files are written or removed until it has been \
             restarted";
        refusals::refused("EVENT_FILES_FAILED", Severity::Failure, message);
        if now().duration_since(began) >= PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        if !wait(pause) {
            return;
        }
        pause = pause.saturating_mul(2).min(PAUSE_MAX);
        began = now();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_panic_is_reported_and_the_thread_restarts_later_each_time() {
        let (mut runs, mut pauses) = (0, Vec::new());
        let run = || {
            runs += 1;
            assert!(runs > 12, "as if it were a fault");
        };
        until_ended(run, Instant::now, |pause| {
            pauses.push(pause.as_secs());
            true
        });
        assert_eq!(runs, 13);
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        let told =
            crate::refusals::recorded().into_iter().find(|one| one.reason == "EVENT_FILES_FAILED").unwrap();
        assert!(told.calls >= 12, "{told:?}");
        // A stop ends the wait.
        until_ended(|| panic!("as if it were a fault"), Instant::now, |_| false);
    }

    #[test]
    fn after_a_long_run_the_pause_is_short_again() {
        let (began, clock, mut runs, mut pauses) = (Instant::now(), Cell::new(0), 0, Vec::new());
        let run = || {
            runs += 1;
            if runs == 4 {
                clock.set(clock.get() + 300);
            }
            assert!(runs > 5, "as if it were a fault");
        };
        until_ended(
            run,
            || began + Duration::from_secs(clock.get()),
            |pause| {
                pauses.push(pause.as_secs());
                true
            },
        );
        assert_eq!(pauses, [1, 2, 4, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_is_no_thread_another_try_is_made_until_a_stop() {
        let (stopping, mut tries) = (CancellationToken::new(), 0);
        let start = || {
            tries += 1;
            if tries < 4 { Err(io::Error::other("no more threads")) } else { Ok(tries) }
        };
        let before = tokio::time::Instant::now();
        assert_eq!(until_started(start, &stopping).await, Some(4));
        assert_eq!(before.elapsed().as_secs(), 1 + 2 + 4);
        stopping.cancel();
        let none = until_started(|| Err::<(), _>(io::Error::other("no more threads")), &stopping);
        assert_eq!(none.await, None);
    }
}
