//! The readable files under `storage/events`: every event and snapshot that ImmuDB does not have
//! yet, for operators to read, copy and restore from.
//!
//! They are a printout of the log. A background thread of the lowest priority writes them in every
//! state that leaves events pending, and removes them once ImmuDB has committed the events. It
//! never delays an append. A file whose event is not in the log is never changed or removed; it is
//! renamed if it occupies the name of a file to be written.

use std::{path::Path, sync::Arc};

use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    event::Position, history::History, log::Tip, replication::status::ReplicationStatus,
    storage::StorageError,
};

pub mod folder;
pub mod format;
mod known_files;
mod progress;
mod restart;
mod settings;
mod writer;

use folder::EventFolder;
use progress::PublishedProgress;
use restart::in_a_thread;
pub use settings::Settings;
use writer::EventFileWriter;

/// The state of the files as seen by other modules.
#[derive(Debug)]
pub struct EventFiles {
    files_max: u64,
    replication: Arc<ReplicationStatus>,
    tip: watch::Receiver<Tip>,
    progress: Arc<PublishedProgress>,
}

impl EventFiles {
    /// Returns the number of files still to be written or removed.
    pub fn pending(&self) -> u64 {
        // The progress comes first, so that it is never ahead of what it is compared with.
        let progress = self.progress.get();
        let view = self.replication.view();
        let tip = *self.tip.borrow();
        // Files left by an earlier run are not known before the first pass.
        let unknown = u64::from(progress.is_none());
        progress.unwrap_or_default().pending(&view, tip, self.files_max).saturating_add(unknown)
    }

    /// Rejects an empty log beside event files: a disk was lost, or the directory is the wrong one,
    /// and no new history may begin there.
    ///
    /// # Errors
    /// Returns an error if this is the case, or if the directory cannot be read.
    pub fn refuse_without_log(folder: &Path, log_ends: Position) -> Result<(), StorageError> {
        let path = folder.to_owned();
        let io_error = |source| StorageError::EventFiles { path: path.clone(), source };
        let folder = EventFolder::new(folder);
        if log_ends == Position(0) && folder.has_events().map_err(io_error)? {
            return Err(if folder.is_of_aethyr().map_err(io_error)? {
                StorageError::EventFilesOfAethyr { path }
            } else {
                StorageError::EventFilesWithoutLog { path }
            });
        }
        Ok(())
    }

    /// Starts the thread. The future resolves when the thread has ended, after `stopping` is
    /// cancelled.
    pub fn start(
        settings: Settings,
        history: History,
        replication: Arc<ReplicationStatus>,
        tip: watch::Receiver<Tip>,
        stopping: CancellationToken,
    ) -> (Arc<Self>, impl Future<Output = ()> + use<>) {
        let progress = Arc::new(PublishedProgress::default());
        let files = Arc::new(Self {
            files_max: settings.files_max,
            replication: replication.clone(),
            tip: tip.clone(),
            progress: progress.clone(),
        });
        let (handle, stop) = (Handle::current(), stopping.clone());
        let run = move || {
            let writer =
                EventFileWriter::new(&settings, history.clone(), replication.clone(), progress.clone());
            writer.run(&handle, tip.clone(), &stop);
        };
        let watched = in_a_thread(run, stopping);
        (files, watched)
    }
}

#[cfg(test)]
mod tests;
