//! Named places at which a debug build can be told to die, as if the machine had stopped just there.
//!
//! `EVENT_STORE_CRASH_AT=after_local_sync` aborts the process where that point is reached for the first
//! time, `after_local_sync:3` the third time. Nothing is flushed or unwound. A release build has none of
//! this. `tests/it/crash_points.rs` crashes at each of them and checks what is promised.

/// Every place, in the order of the way of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// A segment was made and is not durable.
    SegmentCreated,
    /// A segment is durable, and has no frame.
    SegmentDurable,
    /// The last segment has space ahead of its frames, and that is not durable.
    SpaceAllocated,
    /// A group was written and not synced.
    BeforeLocalSync,
    /// A group is durable and can't be found.
    AfterLocalSync,
    /// A group can be found, and nobody was told.
    BeforeAnswer,
    /// A snapshot was laid out in a group.
    SnapshotLaidOut,
    /// The torn end of the log was kept, and not cut off.
    TornEndKept,
    /// What is behind the last frame was cut off, and that is not durable.
    TornEndCut,
    /// The index was brought up to somewhere within the log.
    IndexMidway,
    /// A file of the index is durable, and has not its name.
    IndexFileWritten,
    /// It has.
    IndexFileNamed,
    /// Files of the index were merged, and are still there.
    IndexFilesMerged,
    /// A transaction is about to be sent to ImmuDB.
    BeforeSet,
    /// A second transaction was sent, and the first is not answered.
    SecondSent,
    /// ImmuDB has committed, and nobody was told.
    AfterSet,
    /// The id of a new writer is kept, and was not claimed with.
    WriterKept,
    /// The head names us, and we have not seen it.
    HeadClaimed,
    /// A page of ImmuDB's history was copied.
    PageCopied,
    /// All of it was copied, and the note says otherwise.
    CopyEnding,
    /// Everything is ended but the release of the head.
    BeforeRelease,
    /// The head is released.
    AfterRelease,
    /// The space behind the last frame was given back, and that is not durable.
    SpaceGivenBack,
    /// An event file has its contents, and not its name.
    EventFileWritten,
    /// An event file was removed, and its aggregate's last number was not.
    EventFileCleared,
}

impl CrashPoint {
    pub const ALL: [Self; 25] = [
        Self::SegmentCreated,
        Self::SegmentDurable,
        Self::SpaceAllocated,
        Self::BeforeLocalSync,
        Self::AfterLocalSync,
        Self::BeforeAnswer,
        Self::SnapshotLaidOut,
        Self::TornEndKept,
        Self::TornEndCut,
        Self::IndexMidway,
        Self::IndexFileWritten,
        Self::IndexFileNamed,
        Self::IndexFilesMerged,
        Self::BeforeSet,
        Self::SecondSent,
        Self::AfterSet,
        Self::WriterKept,
        Self::HeadClaimed,
        Self::PageCopied,
        Self::CopyEnding,
        Self::BeforeRelease,
        Self::AfterRelease,
        Self::SpaceGivenBack,
        Self::EventFileWritten,
        Self::EventFileCleared,
    ];

    /// The environment's variable for it.
    pub const VARIABLE: &str = "EVENT_STORE_CRASH_AT";

    pub fn name(self) -> &'static str {
        match self {
            Self::SegmentCreated => "segment_created",
            Self::SegmentDurable => "segment_durable",
            Self::SpaceAllocated => "space_allocated",
            Self::BeforeLocalSync => "before_local_sync",
            Self::AfterLocalSync => "after_local_sync",
            Self::BeforeAnswer => "before_answer",
            Self::SnapshotLaidOut => "snapshot_laid_out",
            Self::TornEndKept => "torn_end_kept",
            Self::TornEndCut => "torn_end_cut",
            Self::IndexMidway => "index_midway",
            Self::IndexFileWritten => "index_file_written",
            Self::IndexFileNamed => "index_file_named",
            Self::IndexFilesMerged => "index_files_merged",
            Self::BeforeSet => "before_set",
            Self::SecondSent => "second_sent",
            Self::AfterSet => "after_set",
            Self::WriterKept => "writer_kept",
            Self::HeadClaimed => "head_claimed",
            Self::PageCopied => "page_copied",
            Self::CopyEnding => "copy_ending",
            Self::BeforeRelease => "before_release",
            Self::AfterRelease => "after_release",
            Self::SpaceGivenBack => "space_given_back",
            Self::EventFileWritten => "event_file_written",
            Self::EventFileCleared => "event_file_cleared",
        }
    }

    /// The process ends here, if it was told to.
    #[inline]
    pub fn reached(self) {
        #[cfg(debug_assertions)]
        armed::reached(self);
    }
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };

    use super::CrashPoint;

    struct Armed {
        name: String,
        /// How often it has to be reached yet.
        left: AtomicU64,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    fn from_environment() -> Option<Armed> {
        let text = std::env::var(CrashPoint::VARIABLE).ok()?;
        let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some(Armed { name: name.to_owned(), left: AtomicU64::new(count.parse().ok()?) })
    }

    pub fn reached(point: CrashPoint) {
        let Some(armed) = ARMED.get_or_init(from_environment) else { return };
        if armed.name == point.name() && armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            std::process::abort();
        }
    }
}
