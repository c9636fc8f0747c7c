//! How all look-ups go through the layers, and what they do about a file that can't be used.

use std::ops::ControlFlow;

use super::{Index, IndexError, source::Source, table::TableError};

/// One look-up has so many files made again.
const MENDED_MAX: usize = 100;

/// Whether a look-up that finds a damaged file has it made again itself, or leaves that to others and comes to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    Waits,
    AtOnce,
}

impl Index {
    /// Looks into one layer after the other, from the newest on, as they are at one moment. A file that can't be used is made
    /// again, if this may wait or nobody else does that, and the look begins anew.
    pub(super) fn visit<S>(
        &self,
        patience: Patience,
        begin: impl Fn() -> S,
        mut look: impl FnMut(&mut S, &dyn Source) -> Result<ControlFlow<()>, TableError>,
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
            let leaves_it = patience == Patience::AtOnce && self.upkeep.mend(table, &error);
            if leaves_it || tries == MENDED_MAX {
                return Err(IndexError::NotMadeYet { table: error, why: "it is being done" });
            }
            tries += 1;
            self.mend(table, &error)?;
        }
    }
}

pub(super) fn goes_on(on: bool) -> ControlFlow<()> {
    if on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}
