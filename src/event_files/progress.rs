//! How far the thread has written and removed files, and how many files are pending because of
//! that.

use std::sync::{Mutex, PoisonError};

use crate::{
    event::Position,
    log::Tip,
    replication::{state::State, status::View},
};

/// The progress as of the end of a pass over the files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Files exist for the events after this position …
    pub cleared_to: Position,
    /// … up to and including this one.
    pub written_to: Position,
    /// The first file after a gap left by a crash, outside the range above.
    pub behind_from: Option<Position>,
    /// Snapshots up to this number have been examined.
    pub snapshots_seen: u64,
    /// The number of files of snapshots that ImmuDB has.
    pub snapshots_over: u64,
    /// The number of existing files, of events and snapshots.
    pub file_count: u64,
}

impl Progress {
    /// Returns the number of files still to be written or removed, if at most `files_max` files may
    /// exist.
    pub(super) fn pending(&self, view: &View, tip: Tip, files_max: u64) -> u64 {
        let missing = if wants_files(view.state) { self.missing(view, tip, files_max) } else { 0 };
        self.removable(view).saturating_add(missing)
    }

    /// Returns the number of files whose contents ImmuDB has.
    fn removable(&self, view: &View) -> u64 {
        let forwarded = view.forwarded.position;
        let events = self.written_to.min(forwarded).0.saturating_sub(self.cleared_to.0);
        let behind = u64::from(self.behind_from.is_some_and(|behind| behind <= forwarded));
        events.saturating_add(behind).saturating_add(self.snapshots_over)
    }

    /// Returns the number of files that are missing, as far as there is room for them.
    fn missing(&self, view: &View, tip: Tip, files_max: u64) -> u64 {
        let events = tip.position.0.saturating_sub(self.written_to.max(view.forwarded.position).0);
        let snapshots = tip.snapshots.saturating_sub(self.snapshots_seen.max(view.forwarded.snapshots));
        let room = files_max.saturating_sub(self.file_count);
        events.saturating_add(snapshots).min(room)
    }
}

/// The progress as published by the thread. The lock is held only to copy it.
#[derive(Debug, Default)]
pub(super) struct PublishedProgress(Mutex<Option<Progress>>);

impl PublishedProgress {
    pub(super) fn publish(&self, progress: Progress) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }

    /// Returns the progress, or `None` before the end of the first pass.
    pub(super) fn get(&self) -> Option<Progress> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In these states, events wait for ImmuDB for longer than a moment, or forever.
pub(super) fn wants_files(state: State) -> bool {
    match state {
        State::Connected | State::Starting | State::Copying => false,
        State::Fallback
        | State::Migrating
        | State::LocalOnly
        | State::Suspect
        | State::Fenced
        | State::Tampered => true,
    }
}
