//! Exports pending events and snapshots as event files to a directory of their own. They are
//! durable when success is reported.
//!
//! A marker file exists in the directory until everything in it is synced. An interrupted export is
//! started again from the beginning. A complete one is recognized by its contents, so that the
//! command can be repeated.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tracing::info;

use super::{Counts, Error, Pending, PendingItem};
use crate::{
    config::Config,
    event::{AggregateId, SequenceNumber, record},
    event_files::{folder::EventFolder, format},
    progress::Progress,
};

/// The marker file, which exists until the export is complete. No directory or file of an aggregate
/// ever has this name.
const UNFINISHED: &str = "export.unfinished";

/// Why nothing can be exported to a directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    #[error("{path} is inside {key}; choose a directory outside")]
    Inside {
        path: PathBuf,
        /// The configuration key of the directory around it.
        key: &'static str,
    },
    #[error("{path} contains other files; choose a new or empty directory")]
    OtherFiles { path: PathBuf },
    #[error("{path}: {item} differs from the log when read back")]
    Differs { path: PathBuf, item: ItemId },
}

/// Names a pending event or snapshot.
#[derive(Debug)]
pub(crate) enum ItemId {
    Event { aggregate: AggregateId, sequence: SequenceNumber },
    Snapshot { aggregate: AggregateId },
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event { aggregate, sequence } => write!(f, "event {sequence} of {aggregate}"),
            Self::Snapshot { aggregate } => write!(f, "the snapshot of {aggregate}"),
        }
    }
}

/// Writes the pending events and snapshots to `folder`, which must be new, empty, or contain
/// exactly this export.
///
/// # Errors
/// Returns an error if the directory contains other files or cannot be written, or if the log
/// cannot be read.
pub(crate) fn write(config: &Config, pending: &Pending, folder: &Path) -> Result<Counts, Error> {
    if let Some(key) = config.folder_around(folder) {
        return Err(ExportError::Inside { path: folder.to_owned(), key }.into());
    }
    let problem = |error| Error::of_file(folder, error);
    let export =
        Export { folder: EventFolder::new(folder), path: folder, beginning: begin(folder).map_err(problem)? };
    let last = pending.tip.position.0;
    let mut progress = Progress::new("exporting", "events", pending.behind.0, last);
    let counts = pending.walk(|found| {
        if let PendingItem::Event { event, .. } = &found {
            progress.reached(event.position.0);
        }
        export.take(found)
    })?;
    drop(progress);
    export.check_counts(counts)?;
    export.folder.make_durable().map_err(problem)?;
    end(folder).map_err(problem)?;
    let Counts { events, aggregates, appends, snapshots } = counts;
    let first = pending.behind.next().0;
    info!(first, last, events, aggregates, appends, snapshots, folder = %folder.display(), "exported and synced");
    Ok(counts)
}

/// The state of the directory before the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TargetState {
    /// Empty, or left by an interrupted export.
    Incomplete,
    /// Has contents but no marker file: they must be exactly this export.
    Full,
}

struct Export<'a> {
    folder: EventFolder,
    path: &'a Path,
    beginning: TargetState,
}

impl Export<'_> {
    fn take(&self, found: PendingItem) -> Result<(), Error> {
        let problem = |error| Error::of_file(self.path, error);
        match found {
            PendingItem::Event { event, record } => {
                let (aggregate, sequence) = (event.event.aggregate_id.clone(), event.sequence);
                if self.beginning == TargetState::Incomplete {
                    self.folder.write_event(event).map_err(problem)?;
                }
                let found = self.folder.existing_event(&aggregate, sequence).map_err(problem)?;
                let read = found.bytes().and_then(|bytes| format::read_event(&bytes));
                let item = ItemId::Event { aggregate, sequence };
                self.check(item, read.as_ref().map(record::encode_recorded), &record)
            }
            PendingItem::Snapshot { snapshot, record } => {
                let aggregate = snapshot.aggregate_id.clone();
                if self.beginning == TargetState::Incomplete {
                    self.folder.write_snapshot(snapshot).map_err(problem)?;
                }
                let found = self.folder.existing_snapshot(&aggregate).map_err(problem)?;
                let read = found.bytes().and_then(|bytes| format::read_snapshot(&bytes));
                let item = ItemId::Snapshot { aggregate };
                self.check(item, read.map(record::encode_snapshot), &record)
            }
        }
    }

    /// Checks that the file yields the same record when read back, byte for byte.
    fn check(&self, item: ItemId, read: Option<Bytes>, record: &Bytes) -> Result<(), Error> {
        if read.as_ref() == Some(record) {
            return Ok(());
        }
        Err(match self.beginning {
            TargetState::Full => self.holds_something_else(),
            TargetState::Incomplete => ExportError::Differs { path: self.path.to_owned(), item }.into(),
        })
    }

    fn check_counts(&self, counts: Counts) -> Result<(), Error> {
        let problem = |error| Error::of_file(self.path, error);
        let events = self.folder.event_paths().map_err(problem)?.len() as u64;
        let snapshots = self.folder.snapshot_paths().map_err(problem)?.len() as u64;
        if (events, snapshots) == (counts.events, counts.snapshots) {
            Ok(())
        } else {
            Err(self.holds_something_else())
        }
    }

    fn holds_something_else(&self) -> Error {
        ExportError::OtherFiles { path: self.path.to_owned() }.into()
    }
}

fn begin(folder: &Path) -> io::Result<TargetState> {
    create(folder)?;
    let note = folder.join(UNFINISHED);
    if !note.exists() && fs::read_dir(folder)?.next().is_some() {
        return Ok(TargetState::Full);
    }
    fs::write(&note, "An export into this directory has not finished.\n")?;
    fs::File::open(folder)?.sync_all()?;
    Ok(TargetState::Incomplete)
}

fn end(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(UNFINISHED)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => fs::File::open(folder)?.sync_all(),
    }
}

/// Creates the directory and its missing parents, and syncs the parent of each.
fn create(folder: &Path) -> io::Result<()> {
    let folder = std::path::absolute(folder)?;
    let missing: Vec<PathBuf> =
        folder.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
    for path in missing.into_iter().rev() {
        fs::create_dir(&path)?;
        if let Some(parent) = path.parent() {
            fs::File::open(parent)?.sync_all()?;
        }
    }
    Ok(())
}
