//! Has the thread of the event files begin again after a panic, and where it could not be started, and tells of it.

use std::{
    io,
    panic::{self, AssertUnwindSafe},
    thread,
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::oneshot};
use tokio_util::sync::CancellationToken;

use crate::refusals::{self, Severity};

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Runs it in a thread of its own until it ends by itself.
pub(super) fn in_a_thread(
    run: impl FnMut() + Clone + Send + 'static,
    stopping: CancellationToken,
) -> impl Future<Output = ()> {
    let (handle, ends) = (Handle::current(), stopping.clone());
    let spawn = move || {
        let (ended, end) = oneshot::channel::<()>();
        let (run, handle, stopping) = (run.clone(), handle.clone(), stopping.clone());
        thread::Builder::new().name("event-files".into()).spawn(move || {
            let wait =
                |pause| handle.block_on(stopping.run_until_cancelled(tokio::time::sleep(pause))).is_some();
            until_ended(run, Instant::now, wait);
            _ = ended.send(());
        })?;
        Ok(end)
    };
    async move {
        if let Some(end) = until_started(spawn, &ends).await {
            _ = end.await;
        }
    }
}

/// Starts it, until that succeeds; `None`: it is to end.
async fn until_started<T>(
    mut start: impl FnMut() -> io::Result<T>,
    stopping: &CancellationToken,
) -> Option<T> {
    let mut pause = PAUSE_MIN;
    loop {
        match start() {
            Ok(started) => return Some(started),
            Err(error) => {
                let message = format!("there is no thread for the event files; none are written: {error}");
                refusals::refused("EVENT_FILES_FAILED", Severity::Failure, &message);
            }
        }
        stopping.run_until_cancelled(tokio::time::sleep(pause)).await?;
        pause = pause.saturating_mul(2).min(PAUSE_MAX);
    }
}

/// Runs it until it ends by itself: after each panic once more, later each time that it did not last long. `wait` says
/// whether to go on.
fn until_ended(
    mut run: impl FnMut(),
    mut now: impl FnMut() -> Instant,
    mut wait: impl FnMut(Duration) -> bool,
) {
    let mut pause = PAUSE_MIN;
    let mut began = now();
    while panic::catch_unwind(AssertUnwindSafe(&mut run)).is_err() {
        let message =
            "the thread of the event files panicked; none are written or cleared until it is begun again";
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
    fn a_panic_is_told_and_the_thread_begins_again_later_each_time() {
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
        // A stop ends the waiting.
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
