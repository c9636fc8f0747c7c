//! The local log: append-only segment files, the source of truth on this machine.
//!
//! The module owns the directory `storage/log`: the segments, the lock against a second process,
//! and the list of our writer ids. It stores and returns bytes. It knows frames, groups and the
//! hash chain, but nothing about gRPC, ImmuDB or the meaning of an event.
//!
//! Promises: An append is one frame, complete or absent. A group (all frames before one sync) is
//! not acknowledged before its sync. After a write or sync with an unknown outcome, nothing more is
//! written. The last group may leave a torn tail, which is truncated. Damage before it is reported
//! with file and offset, and is never silently repaired.

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
    event::{ChainHash, Position},
};

pub mod clean_stop;
mod cursor;
mod frame;
mod frame_search;
#[cfg(feature = "fuzzing")]
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
pub use group::{FrameTooLarge, Group, StoredAt};
pub use lock::Lock;
pub use owner::{FolderOwner, LogId, OWNER, OwnerError, OwnerFile};
pub use record_cursor::{CursorItem, FoundRecord, RecordCursor};
pub use record_run::RecordRun;
pub use recovery::{Recovered, is_new_log, recover, recover_read_only};
pub use salvage::{Damaged, Salvage};
pub use segment::{
    Access, Segments, check_versions, is_there, numbers as segment_numbers, salt_in as segment_salt,
};

/// A byte offset in the log where a frame begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogOffset {
    /// The number of the segment, from 1 on.
    pub segment: u32,
    /// The byte offset in the file of the segment.
    pub offset: u64,
}

impl LogOffset {
    /// The offset of the very first frame.
    pub const START: Self = Self { segment: 1, offset: segment::HEADER_BYTES };
}

/// The address of one record: the offset of its length field, and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordAddress {
    /// The number of the segment, from 1 on.
    pub segment: u32,
    /// The byte offset of the length field in the file of the segment.
    pub offset: u64,
    /// The length of the record in bytes, without the length field and the hash.
    pub length: u32,
}

impl RecordAddress {
    /// Returns the end of the record. Any copy of the log that reaches this offset contains it.
    pub fn end(self) -> LogOffset {
        LogOffset {
            segment: self.segment,
            offset: self.offset.saturating_add(frame::entry_bytes(self.length)),
        }
    }
}

/// The end of the log, and the state that the next append continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip {
    /// The end of the last frame.
    pub end: LogOffset,
    /// The position of the last event.
    pub position: Position,
    /// The chain hash of the last event.
    pub hash: ChainHash,
    /// The number of snapshot frames so far.
    pub snapshots: u64,
}

impl Tip {
    /// The tip of a log without frames.
    pub const START: Self =
        Self { end: LogOffset::START, position: Position(0), hash: ChainHash::START, snapshots: 0 };
}

/// Stored bytes that differ from the bytes that were written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: damaged at byte {offset}: {what} (stop the service and run `aethyr-event-store repair`)")]
pub struct Damage {
    /// The path of the file.
    pub file: PathBuf,
    /// The byte offset in the file; 0 if the damage concerns the whole file.
    pub offset: u64,
    /// What is wrong there.
    pub what: &'static str,
}

/// A part of the log in a format that only a newer version of the program knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{file}: {what} {found} at byte {offset}: a newer version of the program has written it; run that \
     version"
)]
pub struct NewerFormat {
    /// The path of the file.
    pub file: PathBuf,
    /// The byte offset in the file of the segment's header or of the frame.
    pub offset: u64,
    /// What is unknown: a version or a kind.
    pub what: &'static str,
    /// The unknown number.
    pub found: u32,
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes differ from the bytes that were written, or are missing.
    #[error(transparent)]
    Damage(#[from] Damage),
    /// A newer version of the program has written the segment.
    #[error(transparent)]
    Newer(#[from] NewerFormat),
    /// The operating system reported an error.
    #[error("{file}: {source}")]
    Io {
        /// The path of the file, or of its directory.
        file: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the lock of this directory.
    #[error("{0} (event_sourcing.log_path) is in use by another process")]
    Locked(PathBuf),
    /// The lock of this directory cannot be taken, for another reason.
    #[error("{path} (event_sourcing.log_path{}): {source}", permission_hint(source))]
    NotLocked {
        /// The directory, or the lock file in it.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A segment is missing, or a synced part of the log is damaged.
    #[error(transparent)]
    Damage(#[from] Damage),
    /// A newer version of the program has written a segment, or the end of the log.
    #[error(transparent)]
    Newer(#[from] NewerFormat),
    /// There is no segment, but a file that an unused directory would not have.
    #[error(
        "{folder} (event_sourcing.log_path) contains no log segment, but {found}; a new log is created \
         only in a missing or empty folder. If segments were lost, restore them; if the folder belongs to \
         something else, configure another one"
    )]
    NotEmpty {
        /// The directory of the log.
        folder: PathBuf,
        /// The name of the file.
        found: String,
    },
    /// The log lacks frames that the index has seen, and shows no sign of damage.
    #[error("the log in {folder} ends before a position that the index has seen")]
    Older {
        /// The directory of the log.
        folder: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn of_folder(folder: &Path, source: io::Error) -> Self {
        Self::Io { path: folder.to_owned(), source }
    }
}

fn permission_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; the user of the service needs write permission",
        _ => "",
    }
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damage(damage) => Self::Damage(damage),
            ReadError::Newer(newer) => Self::Newer(newer),
            ReadError::Io { file, source } => Self::Io { path: file, source },
        }
    }
}

/// Why a group was not acknowledged. Cheap to clone, because each call of the group gets it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// No part of the group is on the disk, and none will appear there later.
    #[error("not written: {0}")]
    NotWritten(#[source] Arc<io::Error>),
    /// Parts of the group may be found after a restart. The log is poisoned.
    #[error("the outcome is unknown: {0}")]
    Unknown(#[source] Arc<io::Error>),
    /// An earlier write poisoned the log.
    #[error("an earlier write to the local log failed; restart the service")]
    Failed,
}

impl WriteError {
    fn not_written(source: io::Error) -> Self {
        Self::NotWritten(Arc::new(source))
    }

    fn unknown(source: io::Error) -> Self {
        Self::Unknown(Arc::new(source))
    }
}

/// The write end of the log. There is only one, and one thread at a time has it.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    segment_bytes_max: u64,
    segments: Arc<Segments>,
    tip: Tip,
    preallocation: Preallocation,
    /// Where the current group began, if anything was written since the last sync.
    unsynced_from: Option<u64>,
    failed: bool,
}

impl Log {
    /// Takes over a recovered log. Its frames up to the end were read, which gave `tip`.
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

    /// Returns the tip of what is written, which may not be synced yet.
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// Returns the segments, which readers share.
    pub fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    /// Returns whether the log is poisoned.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Poisons the log: it accepts no more writes.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    /// Starts a group at the end of the log. Closes the segment first if it is full.
    ///
    /// # Errors
    /// Returns an error if the next segment cannot be created, or if an earlier write failed.
    pub fn begin(&mut self) -> Result<Group, WriteError> {
        if self.failed {
            return Err(WriteError::Failed);
        }
        if self.tip.end.offset >= self.segment_bytes_max {
            self.roll()?;
        }
        let salt = self.segments.salt(self.tip.end.segment).map_err(WriteError::not_written)?;
        Ok(Group::new(self.tip, self.unsynced_from, salt))
    }

    /// Writes a group and syncs it. If this returns `Ok`, the group is durable.
    ///
    /// # Errors
    /// See [`WriteError`]: it says whether parts of the group may be found later.
    pub fn write(&mut self, group: Group) -> Result<(), WriteError> {
        self.write_unsynced(group)?;
        self.sync()
    }

    /// Writes a group without a sync. A power cut may lose its frames until the next sync, which
    /// makes them durable.
    ///
    /// # Errors
    /// See [`Log::write`].
    pub fn write_unsynced(&mut self, group: Group) -> Result<(), WriteError> {
        if self.failed {
            return Err(WriteError::Failed);
        }
        let before = self.tip.end;
        let file = self.segments.file(before.segment).map_err(WriteError::not_written)?;
        self.preallocation.prepare(&file, group.tip().end.offset, self.segment_bytes_max);
        if let Err(error) = file.write_all_at(group.bytes(), before.offset) {
            return Err(self.take_back(&file, before, error));
        }
        self.unsynced_from.get_or_insert(before.offset);
        self.tip = group.tip();
        Ok(())
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// Returns [`WriteError::Unknown`] if the sync fails. It cannot be known what a failed sync
    /// leaves on the disk, so nothing is written after it.
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
                Err(WriteError::unknown(error))
            }
        }
    }

    /// Removes the remains of a failed write, durably, so that the group stays rejected for good.
    fn take_back(&mut self, file: &segment::Segment, end: LogOffset, error: io::Error) -> WriteError {
        let cut = self.preallocation.give_back(file, end.offset).and_then(|()| file.sync_data());
        match cut {
            Ok(()) => {
                self.unsynced_from = None;
                WriteError::not_written(error)
            }
            Err(_) => {
                self.failed = true;
                WriteError::unknown(error)
            }
        }
    }

    /// Makes everything written so far durable, and releases the preallocated space after it. A
    /// poisoned log is left unchanged.
    ///
    /// # Errors
    /// Returns an error if a file cannot be synced or truncated. The next start finds the end
    /// anyway.
    pub fn close(mut self) -> Result<(), WriteError> {
        self.sync()?;
        if self.failed { Ok(()) } else { self.give_space_back() }
    }

    /// Truncates the last segment's file to the end of its frames.
    fn give_space_back(&mut self) -> Result<(), WriteError> {
        let end = self.tip.end;
        let file = self.segments.file(end.segment).map_err(WriteError::not_written)?;
        if file.length().map_err(WriteError::not_written)? <= end.offset {
            return Ok(());
        }
        self.preallocation.give_back(&file, end.offset).map_err(WriteError::not_written)?;
        CrashPoint::SpaceGivenBack.reached();
        file.sync_data().map_err(|error| {
            self.failed = true;
            WriteError::unknown(error)
        })
    }

    fn roll(&mut self) -> Result<(), WriteError> {
        self.sync()?;
        // Only the last segment may have bytes after its frames. There may be some even here: a
        // file system may have allocated space and still reported an error.
        self.give_space_back()?;
        let next = self.tip.end.segment.saturating_add(1);
        // Opened before the segment is created: if no more files can be opened, nothing has changed
        // yet, and the append is simply rejected.
        let folder = segment::open_folder(&self.folder).map_err(WriteError::not_written)?;
        let file = self.segments.create(next).map_err(WriteError::not_written)?;
        CrashPoint::SegmentCreated.reached();
        if let Err(error) = file.make_durable_in(&folder) {
            self.failed = true;
            return Err(WriteError::unknown(error));
        }
        CrashPoint::SegmentDurable.reached();
        self.tip.end = LogOffset { segment: next, offset: segment::HEADER_BYTES };
        self.preallocation = Preallocation::none(segment::HEADER_BYTES);
        Ok(())
    }
}

/// A record from the log, checked against the hash that was stored with it.
#[derive(Debug, Clone)]
pub struct CheckedRecord {
    /// The record.
    pub bytes: Bytes,
    /// The chain hash up to and including the record. That of a snapshot covers it alone.
    pub hash: ChainHash,
}

#[cfg(test)]
mod tests;
