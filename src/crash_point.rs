//! Named points at which a debug build can be made to abort, as if the machine had stopped there.
//!
//! `EVENT_STORE_CRASH_AT=after_local_sync` aborts the process when that point is reached for the
//! first time, `after_local_sync:3` at the third time. Nothing is flushed or unwound. A release
//! build contains none of this. `tests/it/crash_points.rs` crashes at each point and checks the
//! promises.

/// All crash points, roughly in the order in which an event reaches them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// A segment has been created but is not durable.
    SegmentCreated,
    /// A segment is durable but has no frame yet.
    SegmentDurable,
    /// Space was preallocated in the last segment, but not durably.
    SpaceAllocated,
    /// A group has been written but not synced.
    BeforeLocalSync,
    /// A group is durable but cannot be found yet.
    AfterLocalSync,
    /// A group can be found, but no answer has been sent.
    BeforeAnswer,
    /// A snapshot has been added to a group.
    SnapshotLaidOut,
    /// The torn tail of the log was saved to a file, but has not been truncated.
    TornTailSaved,
    /// The bytes after the last frame were truncated, but not durably.
    TornTailTruncated,
    /// The index has been rebuilt up to a position within the log.
    IndexMidway,
    /// An index file is durable but has not been renamed to its final name.
    IndexFileWritten,
    /// An index file has its final name.
    IndexFileNamed,
    /// Index files were merged, but the old ones still exist.
    IndexFilesMerged,
    /// A transaction is about to be sent to ImmuDB.
    BeforeSet,
    /// A second transaction was sent before the first was answered.
    SecondSent,
    /// ImmuDB has committed, but no answer has been sent.
    AfterSet,
    /// The id of a new writer was saved, but not used for a claim.
    WriterKept,
    /// The head in ImmuDB names this writer, but the service has not read it.
    HeadClaimed,
    /// The trusted state of ImmuDB's history was saved next to the log.
    TrustedStateSaved,
    /// What contradicts ImmuDB's history was saved next to the log.
    FindingsSaved,
    /// The log says that ImmuDB's history was changed, and nothing more is replicated.
    TamperedMarked,
    /// A page of ImmuDB's history was restored.
    PageCopied,
    /// The whole history was restored, but the marker of an unfinished restore still exists.
    CopyEnding,
    /// Everything else has ended, but the head has not been released.
    BeforeRelease,
    /// The head has been released.
    AfterRelease,
    /// The space after the last frame was released, but not durably.
    SpaceGivenBack,
    /// An event file has its contents but not its final name.
    EventFileWritten,
    /// An event file was removed, but the file with its aggregate's last number was not.
    EventFileCleared,
    /// Nodes of the tree over the events were written to its file.
    TreeWritten,
    /// A checkpoint is kept next to the log, but has not been published.
    CheckpointKept,
    /// A checkpoint is in the file of an anchor, but that has not been recorded.
    AnchorWritten,
    /// ImmuDB has committed a checkpoint, but its proof has not been read.
    CheckpointStored,
    /// A generation of the history was begun next to the log, but the log is as before.
    GenerationBegun,
    /// It was saved next to the log where the auditor stands.
    AuditSaved,
}

impl CrashPoint {
    /// Every crash point, in the order of the variants.
    pub const ALL: [Self; 34] = [
        Self::SegmentCreated,
        Self::SegmentDurable,
        Self::SpaceAllocated,
        Self::BeforeLocalSync,
        Self::AfterLocalSync,
        Self::BeforeAnswer,
        Self::SnapshotLaidOut,
        Self::TornTailSaved,
        Self::TornTailTruncated,
        Self::IndexMidway,
        Self::IndexFileWritten,
        Self::IndexFileNamed,
        Self::IndexFilesMerged,
        Self::BeforeSet,
        Self::SecondSent,
        Self::AfterSet,
        Self::WriterKept,
        Self::HeadClaimed,
        Self::TrustedStateSaved,
        Self::FindingsSaved,
        Self::TamperedMarked,
        Self::PageCopied,
        Self::CopyEnding,
        Self::BeforeRelease,
        Self::AfterRelease,
        Self::SpaceGivenBack,
        Self::EventFileWritten,
        Self::EventFileCleared,
        Self::TreeWritten,
        Self::CheckpointKept,
        Self::AnchorWritten,
        Self::CheckpointStored,
        Self::GenerationBegun,
        Self::AuditSaved,
    ];

    /// The environment variable that selects a crash point.
    pub const VARIABLE: &str = "EVENT_STORE_CRASH_AT";

    /// Returns the name that selects the point in [`CrashPoint::VARIABLE`].
    pub fn name(self) -> &'static str {
        match self {
            Self::SegmentCreated => "segment_created",
            Self::SegmentDurable => "segment_durable",
            Self::SpaceAllocated => "space_allocated",
            Self::BeforeLocalSync => "before_local_sync",
            Self::AfterLocalSync => "after_local_sync",
            Self::BeforeAnswer => "before_answer",
            Self::SnapshotLaidOut => "snapshot_laid_out",
            Self::TornTailSaved => "torn_tail_saved",
            Self::TornTailTruncated => "torn_tail_truncated",
            Self::IndexMidway => "index_midway",
            Self::IndexFileWritten => "index_file_written",
            Self::IndexFileNamed => "index_file_named",
            Self::IndexFilesMerged => "index_files_merged",
            Self::BeforeSet => "before_set",
            Self::SecondSent => "second_sent",
            Self::AfterSet => "after_set",
            Self::WriterKept => "writer_kept",
            Self::HeadClaimed => "head_claimed",
            Self::TrustedStateSaved => "trusted_state_saved",
            Self::FindingsSaved => "findings_saved",
            Self::TamperedMarked => "tampered_marked",
            Self::PageCopied => "page_copied",
            Self::CopyEnding => "copy_ending",
            Self::BeforeRelease => "before_release",
            Self::AfterRelease => "after_release",
            Self::SpaceGivenBack => "space_given_back",
            Self::EventFileWritten => "event_file_written",
            Self::EventFileCleared => "event_file_cleared",
            Self::TreeWritten => "tree_written",
            Self::CheckpointKept => "checkpoint_kept",
            Self::AnchorWritten => "anchor_written",
            Self::CheckpointStored => "checkpoint_stored",
            Self::GenerationBegun => "generation_begun",
            Self::AuditSaved => "audit_saved",
        }
    }

    /// Aborts the process if this point was selected.
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
        /// How many more times the point must be reached.
        left: AtomicU64,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    fn from_environment() -> Option<Armed> {
        let text = std::env::var(CrashPoint::VARIABLE).ok()?;
        let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some(Armed { name: name.to_owned(), left: AtomicU64::new(count.parse().ok()?) })
    }

    pub(super) fn reached(point: CrashPoint) {
        let Some(armed) = ARMED.get_or_init(from_environment) else { return };
        if armed.name == point.name() && armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            std::process::abort();
        }
    }
}
