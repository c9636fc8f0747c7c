//! Pending events and snapshots as event files in a folder of their own, durable when it is said that
//! they are there.
//!
//! A note stands in the folder until everything in it is synced: an export that ended halfway is begun
//! anew, and one that is whole is recognised by its contents, so that it can be asked for again.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tracing::info;

use super::{Counts, Found, Pending};
use crate::{
    config::Config,
    event::record,
    event_files::{folder::Folder, format},
    progress::Progress,
};

/// There until the export is whole. An aggregate's folder or file never has this name.
const UNFINISHED: &str = "export.unfinished";

/// Writes what is pending into `folder`, which is new, empty, or holds just this export.
///
/// # Errors
/// The folder holds something else or can't be written to, or the log can't be read.
pub fn write(config: &Config, pending: &Pending, folder: &Path) -> Result<Counts, String> {
    if let Some(key) = config.folder_around(folder) {
        return Err(format!("{}: lies in {key}: name a folder outside of it", folder.display()));
    }
    let problem = |error: io::Error| format!("{}: {error}", folder.display());
    let export =
        Export { folder: Folder::new(folder), path: folder, beginning: begin(folder).map_err(problem)? };
    let last = pending.tip.position.0;
    let mut progress = Progress::new("exporting", "events", pending.behind.0, last);
    let counts = pending.walk(|found| {
        if let Found::Event { event, .. } = &found {
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
    info!(first, last, events, aggregates, appends, snapshots, folder = %folder.display(), "exported, and synced");
    Ok(counts)
}

/// What was found in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// Nothing, or what a run left that ended halfway.
    Anew,
    /// Something without the note: only the very same export may be there.
    Full,
}

struct Export<'a> {
    folder: Folder,
    path: &'a Path,
    beginning: Beginning,
}

impl Export<'_> {
    fn take(&self, found: Found) -> Result<(), String> {
        let problem = |error: io::Error| format!("{}: {error}", self.path.display());
        match found {
            Found::Event { event, record } => {
                let (aggregate, sequence) = (event.event.aggregate_id.clone(), event.sequence);
                let what = format!("event {sequence} of {aggregate}");
                if self.beginning == Beginning::Anew {
                    self.folder.write_event(event).map_err(problem)?;
                }
                let found = self.folder.existing_event(&aggregate, sequence).map_err(problem)?;
                let read = found.bytes().and_then(|bytes| format::read_event(&bytes));
                self.check(&what, read.as_ref().map(record::encode_recorded), &record)
            }
            Found::Snapshot { snapshot, record } => {
                let aggregate = snapshot.aggregate_id.clone();
                let what = format!("the snapshot of {aggregate}");
                if self.beginning == Beginning::Anew {
                    self.folder.write_snapshot(snapshot).map_err(problem)?;
                }
                let found = self.folder.existing_snapshot(&aggregate).map_err(problem)?;
                let read = found.bytes().and_then(|bytes| format::read_snapshot(&bytes));
                self.check(&what, read.map(record::encode_snapshot), &record)
            }
        }
    }

    /// A file is only good if the record comes out of it again, byte by byte.
    fn check(&self, what: &str, read: Option<Bytes>, record: &Bytes) -> Result<(), String> {
        match (read.as_ref() == Some(record), self.beginning) {
            (true, _) => Ok(()),
            (false, Beginning::Full) => Err(self.holds_something_else()),
            (false, Beginning::Anew) => {
                Err(format!("{}: {what} does not come out of its file as it is stored", self.path.display()))
            }
        }
    }

    fn check_counts(&self, counts: Counts) -> Result<(), String> {
        let problem = |error: io::Error| format!("{}: {error}", self.path.display());
        let events = self.folder.event_paths().map_err(problem)?.len() as u64;
        let snapshots = self.folder.snapshot_paths().map_err(problem)?.len() as u64;
        match (events, snapshots) == (counts.events, counts.snapshots) {
            true => Ok(()),
            false => Err(self.holds_something_else()),
        }
    }

    fn holds_something_else(&self) -> String {
        format!("{}: holds something else; name a new or empty folder", self.path.display())
    }
}

fn begin(folder: &Path) -> io::Result<Beginning> {
    create(folder)?;
    let note = folder.join(UNFINISHED);
    if !note.exists() && fs::read_dir(folder)?.next().is_some() {
        return Ok(Beginning::Full);
    }
    fs::write(&note, "Events are being exported into this folder.\n")?;
    fs::File::open(folder)?.sync_all()?;
    Ok(Beginning::Anew)
}

fn end(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(UNFINISHED)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => fs::File::open(folder)?.sync_all(),
    }
}

/// Makes the folder and those above it, each durable in the one that holds it.
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
