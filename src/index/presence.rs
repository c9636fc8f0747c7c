//! Tells new events from stored ones in memory.
//!
//! Nearly every append has only new events, so this is asked far more often than where an event is.

use super::{
    Index,
    layers::Layer,
    memtable::Memtable,
    source::{EntrySource, Hashed},
};
use crate::event::{EventId, Position};

/// A position up to which certain events are known to be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbsentUpTo(pub(super) Position);

/// What is known about events without reading files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// None of them is stored.
    Absent(AbsentUpTo),
    /// None of them is stored, except perhaps these: a filter contains them. Files must be read to
    /// know.
    Suspected(Vec<EventId>, AbsentUpTo),
    /// At least one of them is stored.
    Present,
}

impl Index {
    /// Returns what is known about events that may be stored. Reads only memory.
    pub fn presence(&self, ids: impl Iterator<Item = EventId> + Clone) -> Presence {
        let (older, position) = {
            let layers = self.layers();
            if ids.clone().any(|id| layers.recent.has_event(id)) {
                return Presence::Present;
            }
            (layers.older.clone(), layers.complete.tip.position)
        };
        let mut rest: Vec<_> = ids.map(|id| Hashed { id, hash: self.seed.hash(id.as_bytes()) }).collect();
        let mut suspects = Vec::new();
        // Layer by layer, since the parts of one filter are in the processor's cache.
        for layer in older.iter() {
            match layer {
                Layer::Memory(memtable) if rest.iter().any(|event| memtable.has_event(event.id)) => {
                    return Presence::Present;
                }
                Layer::Memory(_) => {}
                Layer::File(table) => {
                    suspects.extend(rest.extract_if(.., |event| table.may_have(event.hash)));
                }
            }
        }
        let up_to = AbsentUpTo(position);
        if suspects.is_empty() {
            Presence::Absent(up_to)
        } else {
            Presence::Suspected(suspects.into_iter().map(|event| event.id).collect(), up_to)
        }
    }

    /// Whether events absent up to `up_to` certainly still are. Reads only memory.
    pub fn is_still_absent(&self, up_to: AbsentUpTo, ids: impl Iterator<Item = EventId> + Clone) -> bool {
        let layers = self.layers();
        let has_none = |memtable: &Memtable| !ids.clone().any(|id| memtable.has_event(id));
        let mut memtable = &layers.recent;
        let mut older = layers.older.iter().rev();
        loop {
            if !has_none(memtable) {
                return false;
            }
            if memtable.after.position <= up_to.0 {
                return true;
            }
            match older.next() {
                Some(Layer::Memory(next)) => memtable = next,
                Some(Layer::File(_)) | None => return false,
            }
        }
    }
}
