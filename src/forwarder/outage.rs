//! What the log says of an outage: that it began and why, that it ended, how long it was, and what it left to migrate.

use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    Forwarder, State,
    state::{Commit, Happening},
};

#[derive(Debug, Clone, Copy)]
pub(super) struct Outage {
    since: Instant,
    /// Events that had been migrated before.
    migrated: u64,
}

impl Forwarder {
    pub(super) fn log_change(&mut self, before: State, happening: Happening) {
        let state = self.machine.state();
        if state == State::Fallback {
            let reason = self.reason(happening);
            self.standing.blamed(reason);
        }
        let view = self.standing.view();
        let pending = self.sequencer.tip().position.0.saturating_sub(view.forwarded.position.0);
        let immudb = format!("{}:{}", self.settings.immudb.address, self.settings.immudb.port);
        let reason = Some(view.last_error).filter(|reason| !reason.is_empty());
        match (state, self.outage) {
            (State::Fallback, None) => {
                self.outage = Some(Outage { since: Instant::now(), migrated: view.migrated_events });
                warn!(immudb, from = ?before, pending, reason, "ImmuDB fails: answers wait for the local log only");
            }
            (State::Connected, Some(outage)) => {
                self.outage = None;
                let seconds = outage.since.elapsed().as_secs_f64();
                let migrated = view.migrated_events.saturating_sub(outage.migrated);
                info!(immudb, from = ?before, seconds, migrated, "ImmuDB is back: answers wait for its commit again");
            }
            (_, _) => info!(from = ?before, to = ?state, pending, reason, "state changed"),
        }
    }

    /// Why a fallback began.
    fn reason(&self, happening: Happening) -> Option<String> {
        match happening {
            Happening::Overdue => {
                Some(format!("no commit within fallback_after ({:?})", self.settings.fallback_after))
            }
            Happening::Dragging | Happening::Committed(_) => {
                Some(format!("commits take longer than {:?}", self.machine.slow_above()))
            }
            // The attempt itself has said it.
            Happening::Failed(_) => None,
            Happening::CopyBegan | Happening::HistoryMissing | Happening::OtherWriter => None,
        }
    }

    /// Why the fallback does not end, although ImmuDB takes everything.
    pub(super) fn note_slowness(&mut self, commit: Commit) {
        if self.machine.state() == State::Migrating && !self.machine.is_quick(commit) {
            let quick = self.machine.quick_below();
            self.standing.blamed(Some(format!("a commit took {:?}, not less than {quick:?}", commit.took)));
        }
    }
}
