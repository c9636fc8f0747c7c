//! Opening the storage, also where its disk can only be read: then reads are served, and it is tried again.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::ServerError;
use crate::{
    config::{Config, EventSourcingConfig, LimitsConfig, RequireContact},
    event::Position,
    event_files::EventFiles,
    log::clean_stop::{self, Unclean},
    storage::{Storage, StorageError},
};

/// So often it is looked whether the disk takes writes again.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A disk may take a probe and nothing more. Each time that the storage was opened anew in vain, the next try waits twice
/// as long, up to this many doublings: callers can't read meanwhile.
const DOUBLINGS_MAX: u32 = 5;

/// Opens the storage beside everything else. It ends early when `closing` is cancelled.
pub(super) async fn open(config: &Config, closing: &CancellationToken) -> Result<Storage, ServerError> {
    let (limits, closing) = (config.limits.clone(), closing.clone());
    let config = config.event_sourcing.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let storage = match Storage::open_unless(&config, &limits, &closing) {
            Err(error) if error.is_of_writing() => read_only(&config, &limits, error, &closing)?,
            opened => opened?,
        };
        EventFiles::refuse_without_log(&config, storage.log.tip().position)?;
        Ok::<_, ServerError>(storage)
    });
    opened.await.map_err(|_| ServerError::Panicked("opening the storage"))?
}

fn read_only(
    config: &EventSourcingConfig,
    limits: &LimitsConfig,
    why: StorageError,
    closing: &CancellationToken,
) -> Result<Storage, StorageError> {
    match Storage::open_read_only(config, limits, &why, closing) {
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

/// Whether the log is as a clean stop left it. The note of that stop counts for one start.
pub(super) fn take_note_of_clean_stop(config: &Config, storage: &Storage) -> Result<(), Unclean> {
    if storage.read_only.is_none()
        && let Err(error) = clean_stop::remove(&config.event_sourcing.log_path)
    {
        // It would be there after a crash, too.
        warn!(%error, "the note of the last clean stop can't be removed: it does not count");
        return Err(Unclean::NotNoted);
    }
    storage.last_stop
}

/// Whether ImmuDB has to be seen before anything is taken or served.
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
        warn!(reason, "nothing is taken or served before ImmuDB was seen (immudb.require_contact)");
    }
    reason.is_some()
}

/// Resolves when a storage that could only be read can be written; `openings` is how often it could only be read, in a
/// row. Never, if it is written already.
pub(super) async fn until_writable(config: EventSourcingConfig, openings: u32) {
    let Some(in_vain) = openings.checked_sub(1) else { return std::future::pending().await };
    let mut pause = LOOK_EVERY.saturating_mul(1 << in_vain.min(DOUBLINGS_MAX));
    loop {
        tokio::time::sleep(std::mem::replace(&mut pause, LOOK_EVERY)).await;
        let config = config.clone();
        if tokio::task::spawn_blocking(move || Storage::is_writable(&config)).await.unwrap_or(false) {
            info!("the storage can be written again; it is opened anew");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// How long it takes on a disk that takes the probe at once.
    async fn waited(openings: u32) -> Duration {
        let folder = tempfile::tempdir().unwrap();
        let config = EventSourcingConfig {
            log_path: folder.path().join("log"),
            index_path: folder.path().join("index"),
            ..EventSourcingConfig::default()
        };
        let began = Instant::now();
        until_writable(config, openings).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_storage_opened_in_vain_is_tried_again_later_each_time_up_to_a_bound() {
        let mut waits = Vec::new();
        for openings in [1, 2, 3, 6, 7, u32::MAX] {
            waits.push(waited(openings).await.as_secs() / LOOK_EVERY.as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 32, 32, 32]);
    }
}
