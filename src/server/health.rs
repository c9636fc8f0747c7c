//! Decides what the health service reports: whether the service is serving, whether it serves
//! reads, and whether events reach ImmuDB.
//!
//! The state is checked every half second and at each change, independently of calls. Health must
//! recover although clients send nothing to a service that is reported as down.

use std::{fs, io::Write, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};

use crate::{
    grpc::{HealthReport, HealthReporter},
    refusals,
    replication::{state::State, status::View},
    store::EventStore,
};

/// How long writes may be rejected before the whole service is reported as not serving.
const WRITES_REFUSED_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Reports health until the future is dropped. `log_path` is the directory of the local log.
pub(super) async fn watch(store: Arc<EventStore>, reporter: HealthReporter, log_path: PathBuf) {
    let (mut state, mut reachable) =
        (store.replication().watch_state(), store.replication().watch_reachable());
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut writes = Writes { failures: Failures::of(&store), log_path, refused: None };
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            Ok(()) = state.changed() => {}
            Ok(()) = reachable.changed() => {}
        }
        refusals::log_due();
        store.sequencer().clock().look();
        let looked = store.clone();
        // May block on the disk.
        let looked = tokio::task::spawn_blocking(move || {
            let reason = writes.refusal(&looked);
            (writes, reason)
        });
        let Ok((back, reason)) = looked.await else { return };
        writes = back;
        let reads = store.admit_read().is_ok();
        let serving = HealthReport {
            service: reads && !writes.are_refused_for_long(reason, Instant::now()),
            reads,
            immudb: reaches_immudb(&store.replication().view()),
        };
        reporter.report(serving);
    }
}

/// Returns whether events reach ImmuDB. Always false if no ImmuDB is configured.
fn reaches_immudb(view: &View) -> bool {
    match view.state {
        State::Connected | State::Migrating => view.reachable,
        State::Starting
        | State::Copying
        | State::Fallback
        | State::LocalOnly
        | State::Suspect
        | State::Fenced
        | State::Tampered => false,
    }
}

/// Tracks whether writes are accepted, as far as that depends on the service and not on the
/// request.
struct Writes {
    failures: Failures,
    log_path: PathBuf,
    /// Since when writes have been rejected, and whether that was logged.
    refused: Option<(Instant, bool)>,
}

impl Writes {
    /// Returns the reason why a write would be rejected now, or `None` if it would be accepted.
    fn refusal(&mut self, store: &EventStore) -> Option<&'static str> {
        let log_fails = store.sequencer().poisoned().is_some();
        let failed = self.failures.look(Failures::failed(), stored(store), log_fails, || {
            takes_a_file(&self.log_path)
                .inspect_err(|error| debug!(%error, "the file system of the local log still rejects writes"))
                .is_ok()
        });
        let refused = store.write_refusal().and_then(|error| error.refusal());
        refused.map(|(reason, _)| reason).or(failed)
    }

    fn are_refused_for_long(&mut self, reason: Option<&'static str>, now: Instant) -> bool {
        let Some(reason) = reason else {
            if let Some((since, true)) = self.refused.take() {
                info!(refused_for = ?now.duration_since(since), "writes are accepted again");
            }
            return false;
        };
        let (since, told) = self.refused.get_or_insert((now, false));
        let long = now.duration_since(*since) >= WRITES_REFUSED_MAX;
        if long && !*told {
            *told = true;
            warn!(reason, refused_for = ?WRITES_REFUSED_MAX, "writes are rejected; health is NOT_SERVING");
        }
        long
    }
}

/// Tracks writes that failed on the disk. Only another write, from a client or as a probe, shows
/// that the failure is over.
#[derive(Debug)]
struct Failures {
    failing: Option<&'static str>,
    /// Failed calls by reason, as of the last check.
    failed: Vec<(&'static str, u64)>,
    /// Stored events and snapshots, as of the last check.
    stored: u64,
}

impl Failures {
    const REASONS: [&str; 3] = ["LOCAL_LOG_FAILED", "NOT_WRITTEN", "DISK_FULL"];

    fn of(store: &EventStore) -> Self {
        Self { failing: None, failed: Self::failed(), stored: stored(store) }
    }

    fn failed() -> Vec<(&'static str, u64)> {
        let recorded = refusals::recorded().into_iter();
        let failures = recorded.filter(|refusal| Self::REASONS.contains(&refusal.reason));
        failures.map(|refusal| (refusal.reason, refusal.calls)).collect()
    }

    fn look(
        &mut self,
        failed: Vec<(&'static str, u64)>,
        stored: u64,
        log_fails: bool,
        disk_takes_writes: impl FnOnce() -> bool,
    ) -> Option<&'static str> {
        let before = std::mem::replace(&mut self.failed, failed);
        let went_well = std::mem::replace(&mut self.stored, stored) != stored;
        let failing = self.failed.iter().find(|failure| !before.contains(failure));
        // If both a failure and a success occurred since the last check, their order is unknown.
        // Assume that the failure was the last.
        self.failing = match failing {
            Some((reason, _)) => Some(reason),
            None if went_well => None,
            None => self.failing,
        };
        self.failing = self.failing.filter(|reason| match *reason {
            // A failed log accepts no writes, whatever the state of its disk. Once it was reopened,
            // it does.
            "LOCAL_LOG_FAILED" => log_fails,
            _ => !disk_takes_writes(),
        });
        self.failing
    }
}

fn stored(store: &EventStore) -> u64 {
    store.counters.events_stored.get().wrapping_add(store.counters.snapshots_stored.get())
}

/// Checks whether a file can be written in the directory of the log.
fn takes_a_file(folder: &std::path::Path) -> std::io::Result<()> {
    static BYTES: [u8; 64 * 1024] = [0; 64 * 1024];
    let path = folder.join("health.probe");
    let written = fs::File::create(&path).and_then(|mut file| {
        file.write_all(&BYTES)?;
        file.sync_data()
    });
    let removed = fs::remove_file(&path);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_log_is_a_reason_until_it_is_reopened() {
        let mut failures = Failures { failing: None, failed: Vec::new(), stored: 5 };
        // A call from before the log was reopened is counted late.
        let failed = || vec![("LOCAL_LOG_FAILED", 1)];
        assert_eq!(failures.look(failed(), 5, true, || true), Some("LOCAL_LOG_FAILED"));
        assert_eq!(failures.look(failed(), 5, true, || true), Some("LOCAL_LOG_FAILED"));
        assert_eq!(failures.look(failed(), 5, false, || true), None);
        assert_eq!(failures.look(failed(), 5, false, || true), None);
    }

    #[test]
    fn a_full_disk_is_a_reason_until_it_takes_writes() {
        let mut failures = Failures { failing: None, failed: Vec::new(), stored: 5 };
        let failed = || vec![("DISK_FULL", 1)];
        assert_eq!(failures.look(failed(), 5, false, || false), Some("DISK_FULL"));
        assert_eq!(failures.look(failed(), 5, false, || false), Some("DISK_FULL"));
        assert_eq!(failures.look(failed(), 5, false, || true), None);
    }
}
