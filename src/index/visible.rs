//! What anybody may see of the index. It moves in one step with the published tip, so that no two answers show two
//! moments: of an append to two aggregates nobody sees the one without the other.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::{Complete, Totals};

#[derive(Debug, Default)]
pub(super) struct Visible(RwLock<Figures>);

/// How far everything is known, and the totals up to there.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub complete: Complete,
    pub totals: Totals,
}

impl Visible {
    pub fn new(complete: Complete, totals: Totals) -> Self {
        Self(RwLock::new(Figures { complete, totals }))
    }

    /// Nothing moves while this is held: for what is in memory, never for a look at the disk.
    pub fn read(&self) -> RwLockReadGuard<'_, Figures> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn is_locked(&self) -> bool {
        matches!(self.0.try_read(), Err(std::sync::TryLockError::WouldBlock))
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, Figures> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Types beyond the limit are counted under this name.
pub(super) const OTHER_TYPES: &str = "other";

/// Events by type that a group adds. Which names are counted for themselves is decided in the order of the log.
#[derive(Debug, Default)]
pub(super) struct AddedTypes {
    pub counts: HashMap<Arc<str>, u64>,
    /// Of them, those that the totals do not have yet.
    new: u64,
}

impl AddedTypes {
    /// Counts one of a type. Beyond `types_max` names it goes to the others: a caller that makes types up must not
    /// fill the memory.
    pub fn add(&mut self, totals: &HashMap<Arc<str>, u64>, types_max: u64, name: &Arc<str>) {
        if let Some(count) = self.counts.get_mut(name) {
            *count = count.saturating_add(1);
            return;
        }
        let known = totals.contains_key(name);
        let room = (totals.len() as u64).saturating_add(self.new) < types_max;
        if !known && room {
            self.new = self.new.saturating_add(1);
        }
        let name = if known || room { name.clone() } else { OTHER_TYPES.into() };
        *self.counts.entry(name).or_default() += 1;
    }

    /// Takes in what was added on top of these.
    pub fn join(&mut self, added: Self) {
        self.new = self.new.saturating_add(added.new);
        for (name, count) in added.counts {
            *self.counts.entry(name).or_default() += count;
        }
    }

    /// Adds them to the totals.
    pub fn count(&self, totals: &mut HashMap<Arc<str>, u64>) {
        for (name, count) in &self.counts {
            let total = totals.entry(name.clone()).or_default();
            *total = total.saturating_add(*count);
        }
    }
}
