//! What the forwarder does when ImmuDB or the local disk fails it.

use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, error};

use super::{
    Forwarder,
    state::{Failure, Happening},
};
use crate::immudb::{self, ErrorKind};

impl Forwarder {
    /// A person has to act: there is no use in asking more often.
    const CONFIGURATION_DELAY: Duration = Duration::from_secs(10);

    /// Waits before the next attempt.
    pub(super) async fn failed(&mut self, error: &immudb::Error) {
        let news = self.standing.view().last_error != error.to_string();
        self.note_failure(error);
        match error.kind {
            ErrorKind::Configuration | ErrorKind::Corrupted | ErrorKind::Rejected if news => {
                error!(%error, "ImmuDB refuses, and only a person can change that");
            }
            ErrorKind::TooLarge => {
                if let Some(attempts) = self.too_large.add(1) {
                    error!(%error, attempts, "ImmuDB takes no message of this size, and only a person can change that");
                }
            }
            ErrorKind::Configuration
            | ErrorKind::Corrupted
            | ErrorKind::Rejected
            | ErrorKind::Refused
            | ErrorKind::Unreachable
            | ErrorKind::Busy
            | ErrorKind::SessionExpired => {
                debug!(%error, "an attempt at ImmuDB failed");
            }
        }
        self.standing.retried();
        let delay = match error.kind {
            ErrorKind::Configuration | ErrorKind::TooLarge => Self::CONFIGURATION_DELAY,
            // A new login settles it.
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

    /// The local log or its folder could not be used. The disk may be full, or a person must mend the log:
    /// there is no use in asking more often, and none in giving up.
    pub(super) async fn failed_here(&mut self, error: &str) {
        if self.standing.view().last_error != error {
            error!(error, "nothing is forwarded to ImmuDB until this is mended");
        }
        self.in_contact = false;
        self.standing.failed(true, error.to_owned());
        self.happened(Happening::Failed(Failure::Definite));
        self.standing.retried();
        let shutdown = self.shutdown.clone();
        tokio::select! {
            () = self.unless_overdue(sleep(Self::CONFIGURATION_DELAY)) => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Nothing is forwarded any more until a person has acted and the service was restarted.
    pub(super) async fn park(mut self, happening: Happening, reason: &(dyn std::error::Error + Sync)) {
        error!(%reason, "nothing is forwarded to ImmuDB until a person has decided");
        // Another writer's history says nothing of whether this log is as it was.
        if matches!(happening, Happening::HistoryMissing) {
            self.standing.contacted();
        }
        self.standing.failed(true, reason.to_string());
        self.happened(happening);
        self.shutdown.cancelled().await;
    }

    /// Nobody waits any longer where trying again makes no sense, also if something else is still to be waited for.
    pub(super) fn note_definite(&mut self, error: &immudb::Error) {
        if failure(error) == Failure::Definite {
            self.note_failure(error);
        }
    }

    fn note_failure(&mut self, error: &immudb::Error) {
        self.in_contact = false;
        let failure = failure(error);
        let reachable = !matches!(error.kind, ErrorKind::Refused | ErrorKind::Unreachable);
        self.standing.failed(reachable, error.to_string());
        self.happened(Happening::Failed(failure));
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
