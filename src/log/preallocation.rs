//! Allocates disk space in the last segment before anything is written there.
//!
//! A sync after a write past the end of a file must make the file's new length durable as well,
//! which costs the file system an additional write. Therefore, the length grows ahead of the
//! frames. The space reads as zeros, which no frame begins with, and is truncated at a stop and at
//! the next start.

use std::io;

use tracing::debug;

use super::segment::Segment;
use crate::crash_point::CrashPoint;

/// The space ahead is as large as what is written so far, within these limits.
const AHEAD_BYTES_MIN: u64 = 64 * 1024;
const AHEAD_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The allocated length of the last segment's file.
#[derive(Debug)]
pub(super) struct Preallocation {
    file_end: u64,
    /// If the file system cannot allocate or had no room, the allocation is tried again once the
    /// frames reach this offset.
    retry_at: u64,
}

impl Preallocation {
    /// Creates the state of a file that ends at `file_end`.
    pub(super) fn none(file_end: u64) -> Self {
        Self { file_end, retry_at: 0 }
    }

    /// Allocates space ahead of a write that ends at `end`. If that fails, the write is only
    /// slower.
    pub(super) fn prepare(&mut self, file: &Segment, end: u64, segment_bytes_max: u64) {
        if end <= self.file_end {
            return;
        }
        let ahead = end.clamp(AHEAD_BYTES_MIN, AHEAD_BYTES_MAX);
        // The last group of a segment may end after the segment's full length.
        let wanted = end.saturating_add(ahead).min(segment_bytes_max);
        if end < self.retry_at || wanted <= end {
            self.file_end = end;
            return;
        }
        match file.allocate(self.file_end..wanted) {
            Ok(()) => {
                self.file_end = wanted;
                CrashPoint::SpaceAllocated.reached();
            }
            Err(error) => {
                debug!(%error, "cannot preallocate space in the local log");
                // Part of the space may have been allocated. It is of more use elsewhere.
                _ = file.set_len(self.file_end);
                self.retry_at = end.saturating_add(AHEAD_BYTES_MAX);
                self.file_end = end;
            }
        }
    }

    /// Releases the space after `end`. This is durable with the next sync.
    ///
    /// # Errors
    /// Returns an error if the file cannot be truncated.
    pub(super) fn give_back(&mut self, file: &Segment, end: u64) -> io::Result<()> {
        file.set_len(end)?;
        self.file_end = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
