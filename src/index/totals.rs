//! Totals by type.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};

/// True totals, by type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub event_types: HashMap<Arc<str>, u64>,
    pub aggregate_types: HashMap<Arc<str>, u64>,
}

/// Types beyond the limit are counted under this name.
const OTHER_TYPES: &str = "other";

/// Events by type that a group adds. Which names are counted for themselves is decided in the order of the log.
#[derive(Debug, Default)]
pub struct AddedTypes {
    counts: HashMap<Arc<str>, u64>,
    /// Of them, those that the totals do not have yet.
    new: u64,
}

impl AddedTypes {
    /// Counts so many of a type. Beyond `types_max` names it goes to the others: a caller that makes types up must not
    /// fill the memory.
    pub fn add(&mut self, totals: &HashMap<Arc<str>, u64>, types_max: u64, name: &Arc<str>, count: u64) {
        if let Some(known) = self.counts.get_mut(name) {
            *known = known.saturating_add(count);
            return;
        }
        let known = totals.contains_key(name);
        let room = (totals.len() as u64).saturating_add(self.new) < types_max;
        if !known && room {
            self.new = self.new.saturating_add(1);
        }
        let name = if known || room { name.clone() } else { OTHER_TYPES.into() };
        *self.counts.entry(name).or_default() += count;
    }

    /// Adds them to the totals.
    pub fn count(&self, totals: &mut HashMap<Arc<str>, u64>) {
        for (name, count) in &self.counts {
            let total = totals.entry(name.clone()).or_default();
            *total = total.saturating_add(*count);
        }
    }
}
