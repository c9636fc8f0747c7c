//! The directory of the event files and the names in it.
//!
//! `{aggregate_id}/{sequence_number}.event`, `{aggregate_id}.sequence` and
//! `snapshots/{aggregate_id}.snapshot`, with the id percent-encoded. A file appears whole or not at
//! all. Files are synced only by [`EventFolder::make_durable`]: usually, the log has everything.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::format;
use crate::{
    crash_point::CrashPoint,
    event::{AggregateId, RecordedEvent, SequenceNumber, Snapshot, record::RUBY_MARSHAL},
};

const EVENT: &str = "event";
const SEQUENCE: &str = "sequence";
const SNAPSHOT: &str = "snapshot";
const SNAPSHOTS: &str = "snapshots";
/// The extension of a file until its contents are complete.
const PARTIAL: &str = "partial";

/// The object found at the path of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Existing {
    /// Nothing exists at the path.
    Nothing,
    /// A regular file, with its contents.
    File(Vec<u8>),
    /// A symbolic link, a pipe or a directory; or the parent is not a directory.
    Other,
}

impl Existing {
    /// Returns the contents of a regular file.
    pub fn bytes(self) -> Option<Vec<u8>> {
        match self {
            Self::File(bytes) => Some(bytes),
            Self::Nothing | Self::Other => None,
        }
    }
}

/// A directory in the documented layout.
#[derive(Debug, Clone)]
pub struct EventFolder {
    path: PathBuf,
}

impl EventFolder {
    /// Uses the directory at `path`, which need not exist.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Writes the file of an event, and its number as the aggregate's last.
    ///
    /// # Errors
    /// Returns an error if the disk is full or the directory cannot be written to.
    pub fn write_event(&self, event: RecordedEvent) -> io::Result<()> {
        let (aggregate, sequence) = (event.event.aggregate_id.clone(), event.sequence);
        let path = self.event_path(&aggregate, sequence);
        write_whole(&path, &format::write_event(event))?;
        write_whole(&self.sequence_path(&aggregate), sequence.to_string().as_bytes())
    }

    /// Returns the object at the path of an event file.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub fn existing_event(&self, aggregate: &AggregateId, sequence: SequenceNumber) -> io::Result<Existing> {
        find(&self.event_path(aggregate, sequence))
    }

    /// Returns the object at the path of a snapshot file.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub fn existing_snapshot(&self, aggregate: &AggregateId) -> io::Result<Existing> {
        find(&self.snapshot_path(aggregate))
    }

    /// Renames the object at the path of an event file, so that it is kept.
    ///
    /// # Errors
    /// Returns an error if it cannot be renamed.
    pub fn set_event_aside(&self, aggregate: &AggregateId, sequence: SequenceNumber) -> io::Result<PathBuf> {
        set_aside(&self.event_path(aggregate, sequence))
    }

    /// Renames the object at the path of a snapshot file, so that it is kept.
    ///
    /// # Errors
    /// Returns an error if it cannot be renamed.
    pub fn set_snapshot_aside(&self, aggregate: &AggregateId) -> io::Result<PathBuf> {
        set_aside(&self.snapshot_path(aggregate))
    }

    /// Writes the file of a snapshot, replacing the previous one.
    ///
    /// # Errors
    /// See [`EventFolder::write_event`].
    pub fn write_snapshot(&self, snapshot: Snapshot) -> io::Result<()> {
        let path = self.snapshot_path(&snapshot.aggregate_id);
        write_whole(&path, &format::write_snapshot(snapshot))
    }

    /// Removes the file of an event.
    ///
    /// # Errors
    /// Returns an error if the file exists and cannot be removed.
    pub fn remove_event(&self, aggregate: &AggregateId, sequence: SequenceNumber) -> io::Result<()> {
        remove(&self.event_path(aggregate, sequence))?;
        CrashPoint::EventFileCleared.reached();
        Ok(())
    }

    /// Removes the other files of an aggregate that has no event files left.
    ///
    /// # Errors
    /// Returns an error if a file exists and cannot be removed.
    pub fn remove_aggregate(&self, aggregate: &AggregateId) -> io::Result<()> {
        remove(&self.sequence_path(aggregate))?;
        // The directory may contain files that are not ours.
        let _ = fs::remove_dir(self.aggregate_path(aggregate));
        Ok(())
    }

    /// Removes the file of a snapshot.
    ///
    /// # Errors
    /// Returns an error if the file exists and cannot be removed.
    pub fn remove_snapshot(&self, aggregate: &AggregateId) -> io::Result<()> {
        remove(&self.snapshot_path(aggregate))?;
        let _ = fs::remove_dir(self.path.join(SNAPSHOTS));
        Ok(())
    }

    /// Removes files that a crash may leave: incomplete files, and the last numbers of aggregates
    /// whose event files are gone.
    ///
    /// # Errors
    /// Returns an error if a directory cannot be read or a file cannot be removed.
    pub fn sweep(&self) -> io::Result<()> {
        remove_partial(&self.path)?;
        for folder in entries(&self.path)? {
            if !is_folder(&folder) {
                continue;
            }
            remove_partial(&folder)?;
            if !entries(&folder)?.iter().any(|path| has_extension(path, EVENT)) {
                // Not removed if it contains files that are not ours.
                let _ = fs::remove_dir(&folder);
                let mut sequence = folder.into_os_string();
                sequence.push(format!(".{SEQUENCE}"));
                remove(Path::new(&sequence))?;
            }
        }
        Ok(())
    }

    /// Returns whether there is any event file.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be read.
    pub fn has_events(&self) -> io::Result<bool> {
        let paths = self.event_paths()?;
        Ok(paths.iter().any(|path| kind(path).is_some_and(|kind| kind.is_file())))
    }

    /// Returns whether most event files were written by Aethyr's own event store, which uses the
    /// same layout. Only the beginnings of a few files are read.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be read.
    pub fn is_of_aethyr(&self) -> io::Result<bool> {
        const FILES_MAX: usize = 16;
        let paths = self.event_paths()?;
        let step = paths.len().div_ceil(FILES_MAX).max(1);
        let starts = paths.iter().step_by(step).filter_map(|path| start_of_file(path).ok());
        let (aethyrs, others): (Vec<_>, Vec<_>) = starts.partition(|start| start == RUBY_MARSHAL.as_slice());
        Ok(aethyrs.len() > others.len())
    }

    /// Returns the paths of all event files, and of objects in place of one or of its directory, in
    /// no particular order.
    ///
    /// # Errors
    /// Returns an error if a directory cannot be read.
    pub fn event_paths(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for folder in entries(&self.path)? {
            if is_folder(&folder) {
                paths.extend(entries(&folder)?.into_iter().filter(|path| has_extension(path, EVENT)));
            } else if folder.is_dir() {
                // A symbolic link. Its target is not read; the link is reported like an unreadable
                // file.
                paths.push(folder);
            }
        }
        Ok(paths)
    }

    /// Returns the paths of all snapshot files, in no particular order.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be read.
    pub fn snapshot_paths(&self) -> io::Result<Vec<PathBuf>> {
        let paths = entries(&self.path.join(SNAPSHOTS))?;
        Ok(paths.into_iter().filter(|path| has_extension(path, SNAPSHOT)).collect())
    }

    /// Syncs every file and the directories that contain them.
    ///
    /// # Errors
    /// Returns an error if one of them cannot be read or synced.
    pub fn make_durable(&self) -> io::Result<()> {
        for path in entries(&self.path)? {
            if is_folder(&path) {
                for inner in entries(&path)? {
                    sync(&inner)?;
                }
            }
            sync(&path)?;
        }
        fs::File::open(&self.path)?.sync_all()
    }

    /// Reads an event from a file. Returns `None` if it is not an event file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub fn read_event(path: &Path) -> io::Result<Option<RecordedEvent>> {
        read_file(path).map(|bytes| format::read_event(&bytes))
    }

    fn aggregate_path(&self, aggregate: &AggregateId) -> PathBuf {
        self.path.join(aggregate.encoded())
    }

    fn event_path(&self, aggregate: &AggregateId, sequence: SequenceNumber) -> PathBuf {
        self.aggregate_path(aggregate).join(format!("{sequence}.{EVENT}"))
    }

    fn sequence_path(&self, aggregate: &AggregateId) -> PathBuf {
        self.path.join(format!("{}.{SEQUENCE}", aggregate.encoded()))
    }

    fn snapshot_path(&self, aggregate: &AggregateId) -> PathBuf {
        self.path.join(SNAPSHOTS).join(format!("{}.{SNAPSHOT}", aggregate.encoded()))
    }
}

/// Reads a file that may not be ours. Symbolic links are not followed, and opening a pipe does not
/// wait for a writer.
///
/// # Errors
/// Returns an error if it cannot be read or is not a regular file.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    read_file_up_to(path, u64::MAX)
}

/// Same as [`read_file`], with a maximum size.
///
/// # Errors
/// Returns an error if it has more than `bytes_max` bytes. See also [`read_file`].
pub fn read_file_up_to(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = regular_file(path)?;
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("has more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Returns as many bytes from the start of a file as tell who wrote it. See also [`read_file`].
fn start_of_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    regular_file(path)?.take(RUBY_MARSHAL.len() as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn regular_file(path: &Path) -> io::Result<fs::File> {
    let file = open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

fn open(path: &Path) -> io::Result<fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => Ok(file.into()),
        Err(Errno::LOOP) => Err(io::Error::other("is a symbolic link; symbolic links are not followed")),
        Err(error) => Err(error.into()),
    }
}

/// Syncs a file or a directory. Links and pipes are not ours, so what they refer to is left alone.
fn sync(path: &Path) -> io::Result<()> {
    match kind(path) {
        Some(kind) if kind.is_file() || kind.is_dir() => open(path)?.sync_all(),
        _ => Ok(()),
    }
}

/// Returns the type of the object, or `None` if there is none.
fn kind(path: &Path) -> Option<fs::FileType> {
    fs::symlink_metadata(path).ok().map(|metadata| metadata.file_type())
}

/// Returns whether the object is a directory. A symbolic link to a directory is not one.
fn is_folder(path: &Path) -> bool {
    kind(path).is_some_and(|kind| kind.is_dir())
}

/// Lists a directory. A directory that does not exist has no entries.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn remove_partial(folder: &Path) -> io::Result<()> {
    let ours = |path: &&PathBuf| has_extension(path, PARTIAL) && !is_folder(path);
    entries(folder)?.iter().filter(ours).try_for_each(|path| remove(path))
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(PARTIAL);
    let written = match write_new(&temporary, bytes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            write_new(&temporary, bytes)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if is_folder(&temporary) {
                set_aside(&temporary)?;
            } else {
                // Left by a process that was killed.
                fs::remove_file(&temporary)?;
            }
            write_new(&temporary, bytes)
        }
        other => other,
    };
    written?;
    CrashPoint::EventFileWritten.reached();
    match fs::rename(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            set_aside(path)?;
            fs::rename(&temporary, path)
        }
        other => other,
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::File::create_new(path)?.write_all(bytes)
}

fn find(path: &Path) -> io::Result<Existing> {
    if in_the_way(path).is_some() {
        return Ok(Existing::Other);
    }
    match kind(path) {
        None => Ok(Existing::Nothing),
        Some(kind) if kind.is_file() => read_file(path).map(Existing::File),
        Some(_) => Ok(Existing::Other),
    }
}

/// Returns the parent of a path if it exists and is not a directory.
fn in_the_way(path: &Path) -> Option<&Path> {
    path.parent().filter(|parent| kind(parent).is_some_and(|kind| !kind.is_dir()))
}

fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let path = in_the_way(path).unwrap_or(path);
    let mut number = 1u32;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".foreign-{number}"));
        let aside = PathBuf::from(name);
        if kind(&aside).is_none() {
            return fs::rename(path, &aside).map(|()| aside);
        }
        number = number.saturating_add(1);
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
