//! Which objects had events, in the order of their ids, in few bytes: a call may name a hundred thousand.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    event::SequenceNumber,
    world::{aggregate::Kind, difference::HELD_BYTES_MAX, error::WorldError},
};

/// The most objects that one difference may have.
const OBJECTS_MAX: usize = 100_000;

/// So many are gathered before they are packed with the others.
const RECENT_MAX: usize = 8192;

/// An object, and the first and the last of its events that were seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TouchedObject {
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
pub struct Touched {
    recent: BTreeMap<Box<[u8]>, Span>,
    /// Those before, one behind the other: the length of the id, the id, the kind, both numbers.
    packed: Vec<u8>,
    /// Of the packed ones.
    count: usize,
    /// How much of `packed` was read.
    read: usize,
    /// Bytes of all that are under way, and those of this one.
    held: Arc<Semaphore>,
    holds: Option<OwnedSemaphorePermit>,
}

impl Touched {
    pub fn new(held: Arc<Semaphore>) -> Self {
        Self { recent: BTreeMap::new(), packed: Vec::new(), count: 0, read: 0, held, holds: None }
    }

    /// An object had an event. Those of one object come in the order of their numbers.
    ///
    /// # Errors
    /// There are too many objects, or all that are under way hold too much.
    pub fn add(&mut self, id: &[u8], kind: Kind, sequence: SequenceNumber) -> Result<(), WorldError> {
        if let Some(span) = self.recent.get_mut(id) {
            span.last = sequence.0;
            return Ok(());
        }
        self.recent.insert(id.into(), Span { kind, first: sequence.0, last: sequence.0 });
        match self.recent.len() >= RECENT_MAX {
            true => self.pack(),
            false => Ok(()),
        }
    }

    /// How many objects there are.
    ///
    /// # Errors
    /// As [`Touched::add`].
    pub fn count(&mut self) -> Result<usize, WorldError> {
        self.pack()?;
        Ok(self.count)
    }

    /// All were handed out.
    pub fn is_empty(&self) -> bool {
        self.recent.is_empty() && self.read >= self.packed.len()
    }

    /// The next by id, of those that are packed.
    pub fn next(&mut self) -> Option<TouchedObject> {
        let (id, span) = unpack(&self.packed, &mut self.read)?;
        Some(TouchedObject {
            id: String::from_utf8_lossy(id).into_owned(),
            kind: span.kind,
            first: SequenceNumber(span.first),
            last: SequenceNumber(span.last),
        })
    }

    /// Takes the recent ones in.
    fn pack(&mut self) -> Result<(), WorldError> {
        if self.recent.is_empty() {
            return Ok(());
        }
        let more: usize = self.recent.keys().map(|id| id.len().saturating_add(FIXED_BYTES)).sum();
        self.hold(self.packed.len().saturating_add(more))?;
        let mut packed = Vec::with_capacity(self.packed.len().saturating_add(more));
        let (mut read, mut count) = (0, 0usize);
        let mut recent = std::mem::take(&mut self.recent).into_iter().peekable();
        let mut put = |id: &[u8], span: Span| {
            count = count.saturating_add(1);
            put(&mut packed, id, span);
        };
        while let Some((id, span)) = unpack(&self.packed, &mut read) {
            while let Some((id, span)) = recent.next_if(|(recent, _)| **recent < *id) {
                put(&id, span);
            }
            let later = recent.next_if(|(recent, _)| **recent == *id);
            put(id, Span { last: later.map_or(span.last, |(_, later)| later.last), ..span });
        }
        recent.for_each(|(id, span)| put(&id, span));
        (self.packed, self.count) = (packed, count);
        match count > OBJECTS_MAX {
            true => Err(WorldError::TooMany { what: "objects that changed", max: OBJECTS_MAX as u64 }),
            false => Ok(()),
        }
    }

    fn hold(&mut self, bytes: usize) -> Result<(), WorldError> {
        let has = self.holds.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(bytes.saturating_sub(has)).unwrap_or(u32::MAX);
        let Ok(more) = self.held.clone().try_acquire_many_owned(more) else {
            return Err(WorldError::DifferencesFull { max: HELD_BYTES_MAX as u64 });
        };
        match &mut self.holds {
            Some(holds) => holds.merge(more),
            None => self.holds = Some(more),
        }
        Ok(())
    }
}

/// What an object has besides its id.
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

    fn budget(bytes: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(bytes))
    }

    #[test]
    fn every_object_comes_once_by_id_with_its_first_and_last_event() {
        let mut random = fastrand::Rng::with_seed(9);
        let mut touched = Touched::new(budget(HELD_BYTES_MAX));
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
    fn all_together_hold_so_much_and_give_it_back() {
        let held = budget(10_000);
        let fill = |touched: &mut Touched| {
            (0..200).try_for_each(|number| {
                touched.add(format!("object-{number:03}").as_bytes(), Kind::Player, SequenceNumber(1))
            })?;
            touched.count()
        };
        let (mut one, mut other) = (Touched::new(held.clone()), Touched::new(held.clone()));
        assert_eq!(fill(&mut one).unwrap(), 200);
        assert!(matches!(fill(&mut other), Err(WorldError::DifferencesFull { .. })));
        drop((one, other));
        assert_eq!(held.available_permits(), 10_000);
        assert_eq!(fill(&mut Touched::new(held)).unwrap(), 200);
    }
}
