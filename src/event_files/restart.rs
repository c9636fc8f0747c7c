//! Has the thread of the event files begin again after a panic, and tells of it.

use std::{
    panic::{self, AssertUnwindSafe},
    time::Duration,
};

use crate::refusals::{self, Severity};

/// Runs it until it ends by itself: after each panic once more, later each time. `wait` says whether to go on.
pub(super) fn until_ended(mut run: impl FnMut(), mut wait: impl FnMut(Duration) -> bool) {
    const PAUSE_MIN: Duration = Duration::from_secs(1);
    const PAUSE_MAX: Duration = Duration::from_secs(300);
    let mut pause = PAUSE_MIN;
    while panic::catch_unwind(AssertUnwindSafe(&mut run)).is_err() {
        let message =
            "the thread of the event files panicked; none are written or cleared until it is begun again";
        refusals::refused("EVENT_FILES_FAILED", Severity::Failure, message);
        if !wait(pause) {
            return;
        }
        pause = pause.saturating_mul(2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_and_the_thread_begins_again_later_each_time() {
        let (mut runs, mut pauses) = (0, Vec::new());
        let run = || {
            runs += 1;
            assert!(runs > 12, "as if it were a fault");
        };
        until_ended(run, |pause| {
            pauses.push(pause.as_secs());
            true
        });
        assert_eq!(runs, 13);
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        let told =
            crate::refusals::recorded().into_iter().find(|one| one.reason == "EVENT_FILES_FAILED").unwrap();
        assert!(told.calls >= 12, "{told:?}");
        // A stop ends the waiting.
        until_ended(|| panic!("as if it were a fault"), |_| false);
    }
}
