//! The objects that had events, sorted by id, in a compact encoding: one call may name a hundred
//! thousand objects.
//!
//! Their memory counts against a budget shared by all differences, and is returned block by block
//! as the objects are read.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use crate::{
    event::SequenceNumber,
    shared_limit::{Caller, LimitGuard, SharedLimit},
    world::{error::WorldError, model::aggregate::Kind},
};

/// The maximum number of objects in one difference.
const OBJECTS_MAX: usize = 100_000;

/// The number of recent objects that are collected before they are merged into the packed ones.
const RECENT_MAX: usize = 8192;

/// The memory that a recent object takes in addition to its id.
const RECENT_BYTES: usize = 96;

/// The size of a block of packed objects. Each block is freed as soon as it has been read.
const BLOCK_BYTES: usize = 64 * 1024;

/// An object, with the first and the last of its events that were seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TouchedObject {
    pub id: String,
    pub kind: Kind,
    pub first: SequenceNumber,
    pub last: SequenceNumber,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    kind: Kind,
    first: u64,
    last: u64,
}

#[derive(Debug)]
pub(super) struct Touched {
    recent: BTreeMap<Box<[u8]>, Span>,
    recent_bytes: usize,
    packed: PackedObjects,
    /// The number of packed objects.
    count: usize,
    /// The part of the shared budget that these objects hold.
    held: LimitGuard,
}

/// Objects sorted by id, packed back to back: the length of the id, the id, the kind, and both
/// sequence numbers.
#[derive(Debug, Default)]
struct PackedObjects {
    blocks: VecDeque<Vec<u8>>,
    /// The number of bytes of the first block that have been read.
    read: usize,
    bytes: usize,
}

impl PackedObjects {
    fn push(&mut self, id: &[u8], span: Span) {
        let more = id.len().saturating_add(FIXED_BYTES);
        let has_room = |block: &Vec<u8>| block.capacity().saturating_sub(block.len()) >= more;
        if !self.blocks.back().is_some_and(has_room) {
            let block = Vec::with_capacity(BLOCK_BYTES.max(more));
            self.bytes = self.bytes.saturating_add(block.capacity());
            self.blocks.push_back(block);
        }
        if let Some(block) = self.blocks.back_mut() {
            put(block, id, span);
        }
    }

    fn pop(&mut self) -> Option<(Vec<u8>, Span)> {
        loop {
            let block = self.blocks.front()?;
            if let Some((id, span)) = unpack(block, &mut self.read) {
                return Some((id.to_vec(), span));
            }
            self.bytes = self.bytes.saturating_sub(block.capacity());
            self.blocks.pop_front();
            self.read = 0;
        }
    }

    fn is_empty(&self) -> bool {
        self.blocks.len() <= 1 && self.blocks.front().is_none_or(|block| block.len() <= self.read)
    }
}

impl Touched {
    pub(super) fn new(limit: &Arc<SharedLimit>, caller: &Caller) -> Self {
        Self {
            recent: BTreeMap::new(),
            recent_bytes: 0,
            packed: PackedObjects::default(),
            count: 0,
            held: limit.nothing(caller),
        }
    }

    /// Adds an event of an object. The events of one object must come in the order of their
    /// sequence numbers.
    ///
    /// # Errors
    /// Returns an error if there are too many objects, or if the shared budget is exhausted.
    pub(super) fn add(&mut self, id: &[u8], kind: Kind, sequence: SequenceNumber) -> Result<(), WorldError> {
        if let Some(span) = self.recent.get_mut(id) {
            span.last = sequence.0;
            return Ok(());
        }
        self.recent_bytes = self.recent_bytes.saturating_add(id.len()).saturating_add(RECENT_BYTES);
        self.hold()?;
        self.recent.insert(id.into(), Span { kind, first: sequence.0, last: sequence.0 });
        if self.recent.len() >= RECENT_MAX { self.pack() } else { Ok(()) }
    }

    /// Returns the number of objects.
    ///
    /// # Errors
    /// See [`Touched::add`].
    pub(super) fn count(&mut self) -> Result<usize, WorldError> {
        self.pack()?;
        Ok(self.count)
    }

    /// Returns whether no object is left.
    pub(super) fn is_empty(&self) -> bool {
        self.recent.is_empty() && self.packed.is_empty()
    }

    /// Returns the next packed object in order of id.
    pub(super) fn next(&mut self) -> Option<TouchedObject> {
        let next = self.packed.pop();
        // The size only shrinks here, so the budget cannot be exceeded.
        self.held.force(self.bytes());
        let (id, span) = next?;
        Some(TouchedObject {
            id: String::from_utf8_lossy(&id).into_owned(),
            kind: span.kind,
            first: SequenceNumber(span.first),
            last: SequenceNumber(span.last),
        })
    }

    /// Merges the recent objects into the packed ones. The old blocks are freed one by one during
    /// the merge.
    fn pack(&mut self) -> Result<(), WorldError> {
        if self.recent.is_empty() {
            return Ok(());
        }
        let (mut packed, mut count) = (PackedObjects::default(), 0usize);
        let mut before = std::mem::take(&mut self.packed);
        let mut recent = std::mem::take(&mut self.recent).into_iter().peekable();
        let mut put = |id: &[u8], span: Span| {
            count = count.saturating_add(1);
            packed.push(id, span);
        };
        while let Some((id, span)) = before.pop() {
            while let Some((id, span)) = recent.next_if(|(recent, _)| **recent < *id) {
                put(&id, span);
            }
            let later = recent.next_if(|(recent, _)| **recent == *id);
            put(&id, Span { last: later.map_or(span.last, |(_, later)| later.last), ..span });
        }
        recent.for_each(|(id, span)| put(&id, span));
        (self.packed, self.count, self.recent_bytes) = (packed, count, 0);
        self.hold()?;
        if count > OBJECTS_MAX {
            Err(WorldError::TooMany { what: "changed objects", max: OBJECTS_MAX as u64 })
        } else {
            Ok(())
        }
    }

    fn bytes(&self) -> u64 {
        self.packed.bytes.saturating_add(self.recent_bytes) as u64
    }

    fn hold(&mut self) -> Result<(), WorldError> {
        let held = self.held.resize(self.bytes());
        held.map_err(|full| WorldError::DifferencesFull { max: full.share.unwrap_or(full.max) })
    }
}

/// The size of a packed object in addition to its id.
const FIXED_BYTES: usize = 2 + 1 + 8 + 8;

fn put(packed: &mut Vec<u8>, id: &[u8], span: Span) {
    let length = u16::try_from(id.len()).unwrap_or(u16::MAX);
    packed.extend(length.to_le_bytes());
    packed.extend(id.iter().take(usize::from(length)));
    packed.push(Kind::ALL.iter().position(|kind| *kind == span.kind).unwrap_or_default() as u8);
    packed.extend(span.first.to_le_bytes());
    packed.extend(span.last.to_le_bytes());
}

fn unpack<'p>(packed: &'p [u8], read: &mut usize) -> Option<(&'p [u8], Span)> {
    let (length, rest) = packed.get(*read..)?.split_first_chunk::<2>()?;
    let (id, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let (kind, rest) = rest.split_first()?;
    let (first, rest) = rest.split_first_chunk::<8>()?;
    let (last, _) = rest.split_first_chunk::<8>()?;
    *read = read.saturating_add(id.len()).saturating_add(FIXED_BYTES);
    let kind = *Kind::ALL.get(usize::from(*kind))?;
    Some((id, Span { kind, first: u64::from_le_bytes(*first), last: u64::from_le_bytes(*last) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Limit, shared_limit::Resource, world::history::difference::HELD_BYTES_MAX};

    fn budget(bytes: u64) -> Arc<SharedLimit> {
        Arc::new(SharedLimit::new(Limit::CallBytes, Resource::DifferenceBytes, bytes))
    }

    fn add_some(touched: &mut Touched, count: u64) -> Result<usize, WorldError> {
        (0..count).try_for_each(|number| {
            touched.add(format!("object-{number:05}").as_bytes(), Kind::Player, SequenceNumber(1))
        })?;
        touched.count()
    }

    #[test]
    fn every_object_comes_once_by_id_with_its_first_and_last_event() {
        let mut random = fastrand::Rng::with_seed(9);
        let mut touched = Touched::new(&budget(HELD_BYTES_MAX), &Caller::default());
        let mut expected: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for _ in 0..60_000 {
            let id = format!("o-{}", random.u32(..30_000));
            let sequence = expected.get(&id).map_or(7, |(_, last)| last + 1);
            expected.entry(id.clone()).or_insert((sequence, sequence)).1 = sequence;
            touched.add(id.as_bytes(), Kind::Room, SequenceNumber(sequence)).unwrap();
        }
        assert_eq!(touched.count().unwrap(), expected.len());
        let found = std::iter::from_fn(|| touched.next());
        let found: Vec<_> = found.map(|object| (object.id, (object.first.0, object.last.0))).collect();
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        assert!(touched.is_empty());
    }

    #[test]
    fn no_caller_holds_all_and_what_was_read_is_given_back() {
        let limit = budget(1_000_000);
        let (greedy, other) = (Caller::default(), Caller::default());
        let mut of_greedy = Vec::new();
        let refused = loop {
            let mut touched = Touched::new(&limit, &greedy);
            match add_some(&mut touched, 500) {
                Ok(count) => assert_eq!(count, 500),
                Err(refused) => break refused,
            }
            of_greedy.push(touched);
        };
        assert!(matches!(refused, WorldError::DifferencesFull { max: 500_000 }), "{refused}");
        assert_eq!(add_some(&mut Touched::new(&limit, &other), 500).unwrap(), 500);
        for touched in &mut of_greedy {
            assert_eq!(std::iter::from_fn(|| touched.next()).count(), 500);
        }
        assert_eq!(limit.used(), 0);
    }

    #[test]
    fn what_is_not_packed_yet_counts_too_and_packing_takes_no_more() {
        let limit = budget(HELD_BYTES_MAX);
        let mut touched = Touched::new(&limit, &Caller::default());
        touched.add(&[b'a'; 200], Kind::Room, SequenceNumber(1)).unwrap();
        assert!(limit.used() > 200);
        assert_eq!(add_some(&mut touched, 50_000).unwrap(), 50_001);
        let ids = 50_000 * ("object-00000".len() + FIXED_BYTES);
        assert!(limit.used() < (ids + 3 * BLOCK_BYTES) as u64, "{}", limit.used());
    }
}
