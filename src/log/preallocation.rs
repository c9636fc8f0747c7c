//! Space that the last segment has on the disk before anything is written there.
//!
//! A sync after a write behind the end of a file has to make the file's new length durable, too, which costs the file system
//! a write of its own. So the length grows ahead of the frames. The space between reads as
//! zeros, which no frame begins with, and is cut off at a stop and at the next start.

use std::io;

use tracing::debug;

use super::segment::File;
use crate::crash_point::CrashPoint;

/// Ahead of what is written lies as much as is written, within these bounds.
const AHEAD_BYTES_MIN: u64 = 64 * 1024;
const AHEAD_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How far the last segment's file reaches.
#[derive(Debug)]
pub(super) struct Preallocation {
    file_end: u64,
    /// The file system can't allocate, or had no room: it is asked again once the frames reach this offset.
    retry_at: u64,
}

impl Preallocation {
    /// Of a file that ends at `file_end`.
    pub fn none(file_end: u64) -> Self {
        Self { file_end, retry_at: 0 }
    }

    /// Called before a write that ends at `end`. Without space ahead, it is just a slower one.
    pub fn prepare(&mut self, file: &File, end: u64, segment_bytes_max: u64) {
        if end <= self.file_end {
            return;
        }
        let ahead = end.clamp(AHEAD_BYTES_MIN, AHEAD_BYTES_MAX);
        // The segment's last group ends behind its full length.
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
                debug!(%error, "no space is allocated ahead in the local log");
                // A part of it may have been had, which others can use better.
                _ = file.set_len(self.file_end);
                self.retry_at = end.saturating_add(AHEAD_BYTES_MAX);
                self.file_end = end;
            }
        }
    }

    /// Gives back what lies behind `end`. Durable with the next sync.
    ///
    /// # Errors
    /// The file can't be cut.
    pub fn give_back(&mut self, file: &File, end: u64) -> io::Result<()> {
        file.set_len(end)?;
        self.file_end = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
