//! Log messages about outages: when one begins and why, when it ends, how long it lasted, and how
//! many events had to be migrated.

use tokio::time::Instant;
use tracing::{info, warn};

use super::Forwarder;
use crate::replication::state::{Commit, Signal, State};

#[derive(Debug, Clone, Copy)]
pub(super) struct Outage {
    since: Instant,
    /// The number of events that had been migrated when the outage began.
    migrated: u64,
}

impl Forwarder {
    pub(super) fn log_change(&mut self, before: State, signal: Signal) {
        let state = self.machine.state();
        if state == State::Fallback {
            let reason = self.reason(signal);
            self.replication.blamed(reason);
        }
        let view = self.replication.view();
        let pending = self.sequencer.tip().position.0.saturating_sub(view.forwarded.position.0);
        let immudb = format!("{}:{}", self.settings.immudb.address, self.settings.immudb.port);
        let reason = Some(view.last_error).filter(|reason| !reason.is_empty());
        match (state, self.outage) {
            (State::Fallback, None) => {
                self.outage = Some(Outage { since: Instant::now(), migrated: view.migrated_events });
                warn!(immudb, from = ?before, pending, reason, "ImmuDB outage: writes are acknowledged \
                 after the local sync");
            }
            (State::Connected, Some(outage)) => {
                self.outage = None;
                let seconds = outage.since.elapsed().as_secs_f64();
                let migrated = view.migrated_events.saturating_sub(outage.migrated);
                info!(immudb, from = ?before, seconds, migrated, "ImmuDB is available again: writes are \
                 acknowledged after its commit");
            }
            (_, _) => info!(from = ?before, to = ?state, pending, reason, "the state has changed"),
        }
    }

    /// Returns the reason for a fallback, or `None` if it has been recorded already or `signal`
    /// begins no fallback.
    fn reason(&self, signal: Signal) -> Option<String> {
        match signal {
            Signal::Overdue => {
                Some(format!("no commit within immudb.fallback_after ({:?})", self.settings.fallback_after))
            }
            Signal::Dragging | Signal::Committed(_) => {
                Some(format!("commits are slow: they take longer than {:?}", self.machine.slow_above()))
            }
            // The failed attempt has recorded its own error.
            Signal::Failed(_) => None,
            Signal::CopyBegan
            | Signal::CopyEnded
            | Signal::HistoryMissing
            | Signal::OtherWriter
            | Signal::Tampered => None,
        }
    }

    /// Records why the fallback does not end although ImmuDB accepts everything.
    pub(super) fn note_slowness(&mut self, commit: Commit) {
        if self.machine.state() == State::Migrating && !self.machine.is_quick(commit) {
            let quick = self.machine.quick_below();
            self.replication.blamed(Some(format!(
                "a commit took {:?}; to leave STATE_MIGRATING, commits must take less \
                 than {quick:?}",
                commit.took
            )));
        }
    }
}
