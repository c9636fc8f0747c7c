//! Opening the storage, also where its disk can only be read: then reads are served, and it is tried again.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::ServerError;
use crate::{
    config::{Config, EventSourcingConfig},
    event_files::EventFiles,
    storage::{Storage, StorageError},
};

/// So often it is looked whether the disk takes writes again.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Opens the storage beside everything else. It ends early when `closing` is cancelled.
pub(super) async fn open(config: &Config, closing: &CancellationToken) -> Result<Storage, ServerError> {
    let (types_max, closing) = (config.limits.types_max, closing.clone());
    let config = config.event_sourcing.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let storage = match Storage::open_unless(&config, types_max, &closing) {
            Err(error) if error.is_of_writing() => read_only(&config, types_max, error, &closing)?,
            opened => opened?,
        };
        EventFiles::refuse_without_log(&config, storage.log.tip().position)?;
        Ok::<_, ServerError>(storage)
    });
    opened.await.map_err(|_| ServerError::Panicked("opening the storage"))?
}

fn read_only(
    config: &EventSourcingConfig,
    types_max: u64,
    why: StorageError,
    closing: &CancellationToken,
) -> Result<Storage, StorageError> {
    match Storage::open_read_only(config, types_max, &why, closing) {
        Ok(storage) => {
            error!(
                reason = %why,
                "the storage can't be written: reads are served, writes get LOCAL_LOG_FAILED; it is tried again \
                 every {} s",
                LOOK_EVERY.as_secs()
            );
            Ok(storage)
        }
        Err(error) => {
            error!(%error, "the storage can't be read either");
            Err(why)
        }
    }
}

/// Resolves when a storage that could only be read can be written. Never, if it is written already.
pub(super) async fn until_writable(config: EventSourcingConfig, is_read_only: bool) {
    if !is_read_only {
        std::future::pending::<()>().await;
    }
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let config = config.clone();
        if tokio::task::spawn_blocking(move || Storage::is_writable(&config)).await.unwrap_or(false) {
            info!("the storage can be written again; it is opened anew");
            return;
        }
    }
}
