//! Runs all lookups through the layers, and handles files that cannot be used.
//!
//! A lookup either sees every layer at one moment or fails. It never returns an answer from older
//! layers while a newer one is unusable.

use std::ops::ControlFlow;

use super::{Index, IndexError, error::TableError, source::EntrySource};

/// The maximum number of files that one lookup rebuilds.
const MENDED_MAX: usize = 100;

/// Whether a lookup that finds a damaged file rebuilds it itself, or leaves that to others and
/// fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitMode {
    /// The lookup rebuilds the file.
    Waits,
    /// The lookup leaves the file to the thread that rebuilds files, if there is one.
    AtOnce,
}

impl Index {
    /// Searches one layer after the other, from the newest on, as they are at one moment. If a file
    /// cannot be used, it is rebuilt, and the search starts again. If the lookup must not wait and
    /// there is a thread that rebuilds files, the file is left to that thread, and the lookup
    /// fails.
    pub(super) fn visit<S>(
        &self,
        wait_mode: WaitMode,
        begin: impl Fn() -> S,
        mut look: impl FnMut(&mut S, &dyn EntrySource) -> Result<ControlFlow<()>, TableError>,
    ) -> Result<S, IndexError> {
        let mut tries = 0;
        loop {
            let mut state = begin();
            let older = {
                let layers = self.layers();
                if look(&mut state, &layers.recent).map_err(IndexError::of_memory)?.is_break() {
                    return Ok(state);
                }
                layers.older.clone()
            };
            let mut fault = None;
            for layer in older.iter().rev() {
                match look(&mut state, layer.source()) {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => return Ok(state),
                    Err(error) => {
                        let table = layer.table().ok_or_else(|| IndexError::of_memory(error.clone()))?;
                        fault = Some((table, error));
                        break;
                    }
                }
            }
            let Some((table, error)) = fault else { return Ok(state) };
            if let Some(error) = self.why_not_made(table) {
                return Err(error);
            }
            let leaves_it = wait_mode == WaitMode::AtOnce && self.upkeep.request_rebuild(table, &error);
            if leaves_it || tries == MENDED_MAX {
                return Err(IndexError::NotMadeYet { table: error, why: "the rebuild is in progress" });
            }
            tries += 1;
            self.rebuild_table(table, &error)?;
        }
    }
}

pub(super) fn continue_if(on: bool) -> ControlFlow<()> {
    if on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}
