//! Totals by type.
//!
//! The number of names is limited, so that clients cannot fill the memory with made-up types.
//! Beyond the limit, items are counted together under one name.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};

/// Exact totals, by type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// The number of events of each type.
    pub event_types: HashMap<Arc<str>, u64>,
    /// The number of aggregates of each type.
    pub aggregate_types: HashMap<Arc<str>, u64>,
}

/// Types beyond the limit are counted under this name.
const OTHER_TYPES: &str = "other";

/// The counts by type that a group adds. Which types get their own name depends on their order in
/// the log.
#[derive(Debug, Default)]
pub(super) struct AddedTypes {
    counts: HashMap<Arc<str>, u64>,
    /// The number of these types that are not in the totals yet.
    new: u64,
}

impl AddedTypes {
    /// Counts `count` items of a type. Beyond `types_max` names, they count as other types: a
    /// client that makes up types must not fill the memory.
    pub(super) fn add(
        &mut self,
        totals: &HashMap<Arc<str>, u64>,
        types_max: u64,
        name: &Arc<str>,
        count: u64,
    ) {
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

    /// Adds the counts to the totals.
    pub(super) fn count(&self, totals: &mut HashMap<Arc<str>, u64>) {
        for (name, count) in &self.counts {
            let total = totals.entry(name.clone()).or_default();
            *total = total.saturating_add(*count);
        }
    }
}
