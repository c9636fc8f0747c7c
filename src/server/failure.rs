//! What ends the service because a part of it failed.

use super::{Parts, ServerError};
use crate::{config::EventSourcingConfig, sequencer::PoisonedBy};

/// Resolves when a part without which nothing works has panicked: better no service than half of one. After a failed write
/// of the log reads go on for a while; then a start has to find out what is stored.
pub(super) fn of_parts(
    parts: &mut Parts,
    config: &EventSourcingConfig,
) -> impl Future<Output = ServerError> + use<> {
    let grace = config.log_failure_grace;
    let (sequencer, forwarder) = (parts.store.sequencer().clone(), parts.forwarder.take());
    async move {
        let forwarder = async {
            let panicked = match forwarder {
                Some(task) => !matches!(task.await, Ok(Ok(()))),
                None => false,
            };
            if !panicked {
                std::future::pending::<()>().await;
            }
        };
        // Within, so that whatever else fails meanwhile is noticed.
        let poisoned = async {
            let poisoned = sequencer.until_poisoned().await;
            match poisoned.by {
                PoisonedBy::ReadOnly => std::future::pending().await,
                PoisonedBy::Log => {
                    tokio::time::sleep(grace).await;
                    ServerError::LogFailed(poisoned.reason.clone())
                }
            }
        };
        tokio::select! {
            error = poisoned => error,
            () = sequencer.ended() => ServerError::Panicked("the sequencer"),
            () = forwarder => ServerError::Panicked("the forwarder"),
        }
    }
}
