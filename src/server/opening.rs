//! Opens the storage. If the disk is read-only, reads are served and opening is retried.
//!
//! Also decides whether ImmuDB must be contacted before the service accepts calls.

use std::{path::PathBuf, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{error::ServerError, settings};
use crate::{
    config::{Config, RequireContact},
    event::Position,
    event_files::EventFiles,
    log::clean_stop::{self, Unclean},
    storage::{self, Storage, StorageError},
};

/// How often to check whether the disk is writable again.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The maximum number of times that the delay before a retry is doubled. A disk may accept the
/// probe and nothing more, and clients cannot read while the storage is being reopened. So each
/// failed attempt doubles the delay before the next.
const DOUBLINGS_MAX: u32 = 5;

/// Opens the storage without blocking other tasks. Returns early if `closing` is cancelled.
pub(super) async fn open(config: &Config, closing: &CancellationToken) -> Result<Storage, ServerError> {
    let settings = settings::storage(&config.event_sourcing, &config.limits);
    let (event_files, closing) = (config.event_sourcing.storage_path.clone(), closing.clone());
    let opened = tokio::task::spawn_blocking(move || {
        let storage = match Storage::open_unless(&settings, &closing) {
            Err(error) if error.is_of_writing() => read_only(&settings, error, &closing)?,
            opened => opened?,
        };
        EventFiles::refuse_without_log(&event_files, storage.log.tip().position)?;
        Ok::<_, ServerError>(storage)
    });
    opened.await.map_err(|_| ServerError::Panicked("opening the storage"))?
}

fn read_only(
    settings: &storage::Settings,
    why: StorageError,
    closing: &CancellationToken,
) -> Result<Storage, StorageError> {
    match Storage::open_read_only(settings, closing) {
        Ok(storage) => {
            error!(
                reason = %why,
                "storage is not writable: serving reads, rejecting writes with LOCAL_LOG_FAILED, and trying \
                 again periodically"
            );
            Ok(storage)
        }
        Err(error) => {
            error!(%error, "storage is not readable either");
            Err(why)
        }
    }
}

/// Returns whether the log is as a clean stop left it. Removes the record of that stop, unless the
/// storage is read-only, because the record is valid for one start only.
pub(super) fn take_note_of_clean_stop(config: &Config, storage: &Storage) -> Result<(), Unclean> {
    if storage.read_only.is_none()
        && let Err(error) = clean_stop::remove(&config.event_sourcing.log_path)
    {
        // The record would also exist after a crash.
        warn!(%error, "cannot remove the record of the last clean stop; ignoring it");
        return Err(Unclean::NotNoted);
    }
    storage.last_stop
}

/// Returns whether ImmuDB must be contacted before calls are accepted.
pub(super) fn needs_contact(config: &Config, storage: &Storage, last_stop: Result<(), Unclean>) -> bool {
    let Some(immudb) = &config.immudb else { return false };
    let is_empty = storage.log.tip().position == Position(0);
    let reason = match (immudb.contact_required(), last_stop) {
        (RequireContact::Never, _) => None,
        (RequireContact::Empty | RequireContact::Unclean, _) if is_empty => {
            Some("the local log is empty".to_owned())
        }
        (RequireContact::Unclean, Err(why)) => Some(why.to_string()),
        (RequireContact::Empty | RequireContact::Unclean, _) => None,
    };
    if let Some(reason) = &reason {
        warn!(reason, "waiting for ImmuDB before accepting calls (immudb.require_contact)");
    }
    reason.is_some()
}

/// Resolves when a storage that was opened read-only can be written. `openings` is how many times
/// in a row it was opened read-only. If it is 0, the storage is writable, and this never resolves.
pub(super) async fn until_writable(log_path: PathBuf, openings: u32) {
    let Some(failures) = openings.checked_sub(1) else { return std::future::pending().await };
    let mut pause = LOOK_EVERY.saturating_mul(1 << failures.min(DOUBLINGS_MAX));
    loop {
        tokio::time::sleep(std::mem::replace(&mut pause, LOOK_EVERY)).await;
        let log_path = log_path.clone();
        if tokio::task::spawn_blocking(move || Storage::is_writable(&log_path)).await.unwrap_or(false) {
            info!("storage is writable again; reopening it");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// Returns how long it takes on a disk that accepts the first probe.
    async fn waited(openings: u32) -> Duration {
        let folder = tempfile::tempdir().unwrap();
        let began = Instant::now();
        until_writable(folder.path().join("log"), openings).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_open_of_the_storage_is_retried_later_each_time_up_to_a_bound() {
        let mut waits = Vec::new();
        for openings in [1, 2, 3, 6, 7, u32::MAX] {
            waits.push(waited(openings).await.as_secs() / LOOK_EVERY.as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 32, 32, 32]);
    }
}
