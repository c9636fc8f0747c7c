//! The local log: append-only segment files, the one truth on this machine.
//!
//! It owns the folder `storage/log`: the segments, the lock against a second process and the list of
//! our writer ids. Bytes in, bytes out: it knows frames, groups and the hash chain, and nothing of
//! gRPC, of ImmuDB or of what an event means.
//!
//! Promises: one append is one frame, whole or absent; a group (all frames before one sync) is not
//! acknowledged before its sync; after a write or sync whose outcome is not known nothing is written
//! any more. What the last group left may be torn and is cut; damage before it is reported, with file
//! and offset, and never healed over.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::preallocation::Preallocation;
use crate::{
    crash_point::CrashPoint,
    event::{Hash, Position},
};

pub mod clean_stop;
mod cursor;
mod frame;
mod frame_search;
pub(crate) mod fuzzing;
mod group;
mod lock;
mod owner;
mod preallocation;
mod record_cursor;
mod record_run;
mod recovery;
mod salvage;
mod segment;
pub mod writer_ids;

pub use cursor::{Cursor, ReadFrame};
pub use frame::{Frame, StoredRecord};
pub use group::{Group, StoredAt};
pub use lock::Lock;
pub use owner::{FolderOwner, LogId, OWNER, OwnerError, OwnerFile};
pub use record_cursor::{Found, FoundRecord, RecordCursor};
pub use record_run::RecordRun;
pub use recovery::{Recovered, begins_anew, recover, recover_read_only};
pub use salvage::{Damaged, Salvage};
pub use segment::{Access, Segments, is_there, numbers as segment_numbers, salt_in as segment_salt};

/// A byte in the log: where a frame begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub segment: u32,
    pub offset: u64,
}

impl Place {
    /// Where the first frame of all begins.
    pub const START: Self = Self { segment: 1, offset: segment::HEADER_BYTES };
}

/// Where one record lies: the offset of its length field, and the length of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPlace {
    pub segment: u32,
    pub offset: u64,
    pub length: u32,
}

impl RecordPlace {
    /// Just behind the record: whatever is complete up to here has it.
    pub fn end(self) -> Place {
        Place { segment: self.segment, offset: self.offset.saturating_add(frame::entry_bytes(self.length)) }
    }
}

/// How far the log goes, and what the next append continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip {
    /// Behind the last frame.
    pub end: Place,
    /// Position of the last event.
    pub position: Position,
    /// Hash of the last event.
    pub hash: Hash,
    /// Snapshot frames so far.
    pub snapshots: u64,
}

impl Tip {
    /// Of a log without a frame.
    pub const START: Self =
        Self { end: Place::START, position: Position(0), hash: Hash::START, snapshots: 0 };
}

/// What is stored is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: damaged at byte {offset}: {what} (stop the service and run `aethyr-event-store repair`)")]
pub struct Damage {
    pub file: String,
    pub offset: u64,
    pub what: &'static str,
}

/// Why nothing can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Damage(#[from] Damage),
    #[error("{file}: {source}")]
    Io { file: String, source: io::Error },
}

/// Why a log can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0} (event_sourcing.log_path) is in use by another process")]
    Locked(String),
    #[error(transparent)]
    Damage(#[from] Damage),
    #[error(
        "{folder} (event_sourcing.log_path) has no segment of a log, but {found}: a new log is begun only in a folder that \
         is missing or empty. If the segments were lost, put them back; if this is another's folder, name your own"
    )]
    NotEmpty { folder: String, found: String },
    /// It lacks what the index had of it, and nothing says that it is damaged.
    #[error("{folder} ends before what was known of it")]
    Older { folder: String },
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
}

impl OpenError {
    pub(crate) fn of_folder(folder: &Path, source: io::Error) -> Self {
        Self::Io { path: folder.display().to_string(), source }
    }
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damage(damage) => Self::Damage(damage),
            ReadError::Io { file, source } => Self::Io { path: file, source },
        }
    }
}

/// Why a group was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Nothing of the group is on the disk, and nothing of it ever will be.
    #[error("not written: {0}")]
    NotWritten(io::Error),
    /// Some of it may be there after a restart. The log takes nothing any more.
    #[error("the outcome is not known: {0}")]
    Unknown(io::Error),
    /// An earlier write ended so.
    #[error("an earlier write to the local log failed; a restart is needed")]
    Failed,
}

/// The writing end of the log. There is one, and one thread has it.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    segment_bytes_max: u64,
    segments: Arc<Segments>,
    tip: Tip,
    preallocation: Preallocation,
    /// Where the group in progress began, if something was written since the last sync.
    unsynced_from: Option<u64>,
    failed: bool,
}

impl Log {
    /// Takes over a recovered log whose frames up to the end were read, which gave `tip`.
    pub fn new(recovered: Recovered, tip: Tip, segment_bytes_max: u64) -> Self {
        Self {
            folder: recovered.folder,
            segment_bytes_max,
            segments: recovered.segments,
            tip,
            preallocation: Preallocation::none(tip.end.offset),
            unsynced_from: None,
            failed: false,
        }
    }

    pub fn tip(&self) -> Tip {
        self.tip
    }

    pub fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Takes nothing any more.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    /// Starts a group at the end of the log; a full segment is closed first.
    ///
    /// # Errors
    /// The next segment can't be made, or an earlier write failed.
    pub fn begin(&mut self) -> Result<Group, WriteError> {
        if self.failed {
            return Err(WriteError::Failed);
        }
        if self.tip.end.offset >= self.segment_bytes_max {
            self.roll()?;
        }
        let salt = self.segments.salt(self.tip.end.segment).map_err(WriteError::NotWritten)?;
        Ok(Group::new(self.tip, self.unsynced_from, salt))
    }

    /// Writes a group and syncs it. When this returns `Ok`, the group is durable.
    ///
    /// # Errors
    /// See [`WriteError`]: it says whether anything of the group may be there later.
    pub fn write(&mut self, group: Group) -> Result<(), WriteError> {
        self.write_unsynced(group)?;
        self.sync()
    }

    /// Writes frames that may be lost in a power cut; the next sync takes them along.
    ///
    /// # Errors
    /// As [`Log::write`].
    pub fn write_unsynced(&mut self, group: Group) -> Result<(), WriteError> {
        if self.failed {
            return Err(WriteError::Failed);
        }
        let before = self.tip.end;
        let file = self.segments.file(before.segment).map_err(WriteError::NotWritten)?;
        self.preallocation.prepare(&file, group.tip().end.offset, self.segment_bytes_max);
        if let Err(error) = file.write_all_at(group.bytes(), before.offset) {
            return Err(self.take_back(&file, before, error));
        }
        self.unsynced_from.get_or_insert(before.offset);
        self.tip = group.tip();
        Ok(())
    }

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// [`WriteError::Unknown`]: what a failed sync leaves on the disk can't be known, so nothing is
    /// written after it.
    pub fn sync(&mut self) -> Result<(), WriteError> {
        if self.unsynced_from.is_none() {
            return Ok(());
        }
        CrashPoint::BeforeLocalSync.reached();
        let synced = self.segments.file(self.tip.end.segment).and_then(|file| file.sync_data());
        match synced {
            Ok(()) => {
                self.unsynced_from = None;
                Ok(())
            }
            Err(error) => {
                self.failed = true;
                Err(WriteError::Unknown(error))
            }
        }
    }

    /// Removes what a failed write left, durably, so that the refusal is true for ever.
    fn take_back(&mut self, file: &segment::File, end: Place, error: io::Error) -> WriteError {
        let cut = self.preallocation.give_back(file, end.offset).and_then(|()| file.sync_data());
        match cut {
            Ok(()) => {
                self.unsynced_from = None;
                WriteError::NotWritten(error)
            }
            Err(_) => {
                self.failed = true;
                WriteError::Unknown(error)
            }
        }
    }

    /// Makes all that was written durable, and gives back the space behind it. A log that has failed is left as it is.
    ///
    /// # Errors
    /// A file can't be synced or cut. The next start finds the end all the same.
    pub fn close(mut self) -> Result<(), WriteError> {
        self.sync()?;
        if self.failed { Ok(()) } else { self.give_space_back() }
    }

    /// Has the last segment's file end where its frames end.
    fn give_space_back(&mut self) -> Result<(), WriteError> {
        let end = self.tip.end;
        let file = self.segments.file(end.segment).map_err(WriteError::NotWritten)?;
        if file.length().map_err(WriteError::NotWritten)? <= end.offset {
            return Ok(());
        }
        self.preallocation.give_back(&file, end.offset).map_err(WriteError::NotWritten)?;
        CrashPoint::SpaceGivenBack.reached();
        file.sync_data().map_err(|error| {
            self.failed = true;
            WriteError::Unknown(error)
        })
    }

    fn roll(&mut self) -> Result<(), WriteError> {
        self.sync()?;
        // Only the last segment may have more than frames. There is more where a file system gave some and said no.
        self.give_space_back()?;
        let next = self.tip.end.segment.saturating_add(1);
        // Before the segment: if no more files can be opened, nothing was changed, and the append is just refused.
        let folder = segment::open_folder(&self.folder).map_err(WriteError::NotWritten)?;
        let file = self.segments.create(&self.folder, next).map_err(WriteError::NotWritten)?;
        CrashPoint::SegmentCreated.reached();
        if let Err(error) = file.make_durable_in(&folder) {
            self.failed = true;
            return Err(WriteError::Unknown(error));
        }
        CrashPoint::SegmentDurable.reached();
        self.tip.end = Place { segment: next, offset: segment::HEADER_BYTES };
        self.preallocation = Preallocation::none(segment::HEADER_BYTES);
        Ok(())
    }
}

/// A record, as the log gives it back: checked against the hash that was stored with it.
#[derive(Debug, Clone)]
pub struct CheckedRecord {
    pub bytes: Bytes,
    pub hash: Hash,
}

#[cfg(test)]
mod tests;
