//! Detects failures of the parts that the service cannot run without.
//!
//! Ending the service is left to the parent module.

use std::time::Duration;

use super::{components::Components, error::ServerError};
use crate::sequencer::PoisonedBy;

/// Resolves when an essential part has panicked: no service is better than half a service. After a
/// failed write to the log, reads continue for `log_failure_grace`; then a restart must find out
/// what is stored.
pub(super) fn of_parts(
    parts: &mut Components,
    log_failure_grace: Duration,
) -> impl Future<Output = ServerError> + use<> {
    let (sequencer, forwarder) = (parts.store.sequencer().clone(), parts.forwarder.take());
    async move {
        let forwarder = async {
            let Some(task) = forwarder else { return std::future::pending().await };
            match task.await {
                Ok(Ok(Ok(()))) => std::future::pending().await,
                Ok(Ok(Err(source))) => ServerError::Io { what: "cannot run the forwarder", source },
                Ok(Err(_)) | Err(_) => ServerError::Panicked("the forwarder"),
            }
        };
        // The grace period is part of this future, so that other failures are noticed meanwhile.
        let poisoned = async {
            let poisoned = sequencer.until_poisoned().await;
            match poisoned.by {
                PoisonedBy::ReadOnly => std::future::pending().await,
                PoisonedBy::Group(_) | PoisonedBy::NewSegment(_) => {
                    tokio::time::sleep(log_failure_grace).await;
                    ServerError::LogFailed(poisoned.by.clone())
                }
            }
        };
        tokio::select! {
            error = poisoned => error,
            () = sequencer.ended() => ServerError::Panicked("the sequencer"),
            error = forwarder => error,
        }
    }
}
