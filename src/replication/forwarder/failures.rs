//! What the forwarder does when ImmuDB or the local disk fails: it records the error, updates the
//! state, and waits before the next attempt or until the operator has acted.

use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, error};

use super::{Ended, Forwarder};
use crate::{
    immudb::{self, ErrorKind},
    replication::{
        state::{Failure, Signal},
        tampering::Condition,
    },
};

impl Forwarder {
    /// The operator has to act, so more frequent attempts would not help.
    pub(super) const CONFIGURATION_DELAY: Duration = Duration::from_secs(10);

    /// Records a failed attempt and waits before the next one.
    pub(super) async fn failed(&mut self, error: &immudb::Error) {
        let news = self.replication.view().last_error != error.to_string();
        self.note_failure(error);
        match error.kind {
            ErrorKind::Configuration | ErrorKind::Corrupted | ErrorKind::Rejected if news => {
                error!(%error, "ImmuDB refuses requests; operator action is required");
            }
            ErrorKind::TooLarge => {
                if let Some(attempts) = self.too_large.add(1) {
                    error!(%error, attempts, "ImmuDB does not accept messages of this size; operator \
                     action is required");
                }
            }
            ErrorKind::Configuration
            | ErrorKind::Corrupted
            | ErrorKind::Rejected
            | ErrorKind::Refused
            | ErrorKind::Unreachable
            | ErrorKind::Busy
            | ErrorKind::SessionExpired => {
                debug!(%error, "a request to ImmuDB failed");
            }
        }
        self.replication.retried();
        let delay = match error.kind {
            ErrorKind::Configuration | ErrorKind::TooLarge => {
                Self::CONFIGURATION_DELAY.max(self.settings.retry_delay_max)
            }
            // A new login resolves it.
            ErrorKind::SessionExpired if !std::mem::replace(&mut self.session_expired, true) => {
                Duration::ZERO
            }
            ErrorKind::SessionExpired => self.delays.next_delay(),
            ErrorKind::Refused
            | ErrorKind::Unreachable
            | ErrorKind::Busy
            | ErrorKind::Rejected
            | ErrorKind::Corrupted => self.delays.next_delay(),
        };
        let shutdown = self.shutdown.clone();
        tokio::select! {
            () = self.unless_overdue(sleep(delay)) => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Records that the local log or its directory could not be used, and waits. The disk may be
    /// full, or the operator may have to repair the log. More frequent attempts would not help, but
    /// the attempts never end.
    pub(super) async fn failed_here(&mut self, error: &(dyn std::error::Error + Sync)) {
        let error = error.to_string();
        if self.replication.view().last_error != error {
            error!(error, "replication to ImmuDB is stopped until this is fixed");
        }
        self.in_contact = false;
        self.replication.failed(true, error);
        self.apply_signal(Signal::Failed(Failure::Definite));
        self.replication.retried();
        let shutdown = self.shutdown.clone();
        tokio::select! {
            () = self.unless_overdue(sleep(Self::CONFIGURATION_DELAY)) => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Stops forwarding until the operator has acted and the service has been restarted.
    pub(super) fn park(&mut self, condition: Condition, reason: &(dyn std::error::Error + Sync)) -> Ended {
        let Some(signal) = condition.signal() else { return Ended::Stopped };
        let way_out = condition.row().way_out;
        error!(%reason, %way_out, "replication to ImmuDB is stopped; operator action is required");
        // The history of another writer does not tell whether the local log is current, and an
        // anchor tells nothing of ImmuDB.
        let is_of_immudb = condition != Condition::AnchorDiffers;
        if is_of_immudb && matches!(signal, Signal::HistoryMissing | Signal::Tampered) {
            self.replication.contacted();
        }
        self.replication.failed(self.is_reachable(condition), reason.to_string());
        self.apply_signal(signal);
        Ended::Stopped
    }

    /// Returns whether ImmuDB is reachable, where the condition was found. It is not asked for an
    /// anchor.
    pub(super) fn is_reachable(&self, condition: Condition) -> bool {
        condition != Condition::AnchorDiffers || self.replication.view().reachable
    }

    /// Begins the fallback at once if retrying is pointless, so that no client waits any longer
    /// while transactions are still in flight.
    pub(super) fn note_definite(&mut self, error: &immudb::Error) {
        if failure(error) == Failure::Definite {
            self.note_failure(error);
        }
    }

    fn note_failure(&mut self, error: &immudb::Error) {
        self.in_contact = false;
        let failure = failure(error);
        let reachable = !matches!(error.kind, ErrorKind::Refused | ErrorKind::Unreachable);
        self.replication.failed(reachable, error.to_string());
        self.apply_signal(Signal::Failed(failure));
    }
}

fn failure(error: &immudb::Error) -> Failure {
    match error.kind {
        ErrorKind::Refused | ErrorKind::Configuration | ErrorKind::TooLarge => Failure::Definite,
        ErrorKind::Unreachable
        | ErrorKind::Busy
        | ErrorKind::SessionExpired
        | ErrorKind::Rejected
        | ErrorKind::Corrupted => Failure::Passing,
    }
}
