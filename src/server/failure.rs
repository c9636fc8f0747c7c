//! What ends the service because a part of it failed.

use tracing::{error, warn};

use super::{Parts, ServerError};
use crate::{config::EventSourcingConfig, index::Index, sequencer::PoisonedBy};

/// Resolves when a part without which nothing works has panicked, or the index is found damaged: better no
/// service than half of one, or one that leaves something out. After a failed write of the log reads go on for a
/// while; then a start has to find out what is stored.
pub(super) fn of_parts(
    parts: &mut Parts,
    config: &EventSourcingConfig,
) -> impl Future<Output = ServerError> + use<> {
    let (index_path, grace) = (config.index_path.clone(), config.log_failure_grace);
    let (sequencer, forwarder) = (parts.store.sequencer().clone(), parts.forwarder.take());
    let mut failed = parts.store.history().index.watch_failed();
    let examined = parts.examined.take();
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
        let damaged = async {
            match examined {
                Some(examined) => match examined.await {
                    Ok(Err(error)) if !error.is_of_the_machine() => error,
                    Ok(Err(error)) => {
                        warn!(%error, "the index could not be examined");
                        std::future::pending().await
                    }
                    Ok(Ok(())) | Err(_) => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        };
        let index_failed = async {
            if failed.wait_for(|failed| *failed).await.is_err() {
                std::future::pending().await
            }
        };
        // Within, so that whatever else fails meanwhile is noticed.
        let poisoned = async {
            let poisoned = sequencer.until_poisoned().await;
            match poisoned.by {
                PoisonedBy::Index => ServerError::IndexFailed,
                PoisonedBy::ReadOnly => std::future::pending().await,
                PoisonedBy::Log => {
                    tokio::time::sleep(grace).await;
                    ServerError::LogFailed(poisoned.reason.clone())
                }
            }
        };
        tokio::select! {
            damage = damaged => {
                if let Err(error) = Index::distrust(&index_path) {
                    error!(%error, "delete the index, or the next start trusts it again");
                }
                ServerError::IndexDamaged(damage)
            }
            () = index_failed => ServerError::IndexFailed,
            error = poisoned => error,
            () = sequencer.ended() => ServerError::Panicked("the sequencer"),
            () = forwarder => ServerError::Panicked("the forwarder"),
        }
    }
}
