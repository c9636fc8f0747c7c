//! What each identity has used up for good: the bytes of its events, and the event types that it
//! has introduced.
//!
//! Both are derived from the log, whose records name the identity that stored them. The thread
//! `usage` follows the log, and keeps the figures in the file `log.usage` next to it. The file is
//! created again if it is missing, damaged, or of another history. Whatever happens to the thread
//! or to the file, appends go on: without them, these limits are applied late or not at all.
//!
//! Writes that are not derived from the log yet are counted as reserved, so that many writes at
//! once cannot exceed a limit together.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::{
    error::{OverShare, ShareLimit},
    event::Position,
    log::Tip,
    shared_limit::{Reserved, WriteSize, exceeded_share},
};

mod derived;
pub(crate) mod follower;
mod kept;

pub(crate) use derived::StoredUse;
use derived::{Batch, Derived, type_hash};

/// What an identity may use up for good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct UseLimits {
    /// Its share of the event types that are counted by name, between 0 and 1.
    pub share: f64,
    /// The bytes of its events. `None` is unlimited.
    pub stored_bytes_max: Option<u64>,
    /// The number of event types that it may introduce. `None` is unlimited.
    pub types_max: Option<u64>,
}

/// The usage of all identities. Cheap to clone. The default has no figures, and limits nothing
/// until a follower provides them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usage(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The figures up to a position that may be behind the tip.
    derived: Derived,
    /// The maximum number of types that are attributed: the types that are counted by name.
    types_max: u64,
    /// The tip, while the figures follow it closely. `None` while they are behind.
    tip: Option<watch::Receiver<Tip>>,
    reserved: HashMap<Arc<str>, ReservedAmounts>,
    /// The types that reserved writes would introduce.
    reserved_types: HashMap<u64, ReservedType>,
    /// Reservations of writes that were decided and may not be derived yet.
    decided: VecDeque<(Position, Reservation)>,
}

#[derive(Debug, Default)]
struct ReservedAmounts {
    bytes: u64,
    types: u64,
}

#[derive(Debug)]
struct ReservedType {
    /// The identity that introduces the type.
    by: Arc<str>,
    /// The number of writes that have the type.
    writes: u64,
}

/// What one write reserves.
#[derive(Debug)]
struct Reservation {
    name: Arc<str>,
    bytes: u64,
    types: Vec<u64>,
}

/// A reservation until its write is decided. On drop, it is kept until the write can be derived.
struct HeldReservation {
    usage: Usage,
    reservation: Option<Reservation>,
}

/// The maximum number of reservations of decided writes. If the follower is that far behind, the
/// oldest are released.
const DECIDED_MAX: usize = 50_000;

impl Usage {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks whether an identity may store a write, and reserves it until it can be derived from
    /// the log.
    ///
    /// # Errors
    /// Returns the limit that the write would exceed.
    pub(crate) fn reserve(
        &self,
        name: &Arc<str>,
        limits: &UseLimits,
        write: &WriteSize<'_>,
    ) -> Result<Reserved, OverShare> {
        let mut state = self.lock();
        let bytes = state.check_bytes(name, limits, write.bytes)?;
        let types = state.check_types(name, limits, &write.event_types)?;
        if state.tip.is_none() || (bytes == 0 && types.is_empty()) {
            return Ok(None);
        }
        let reservation = Reservation { name: name.clone(), bytes, types };
        state.add(&reservation);
        drop(state);
        Ok(Some(Box::new(HeldReservation { usage: self.clone(), reservation: Some(reservation) })))
    }

    /// Returns what each identity has stored, as far as it has been derived.
    pub(crate) fn stored(&self) -> Vec<(Arc<str>, StoredUse)> {
        self.lock().derived.identities.iter().map(|(name, stored)| (name.clone(), *stored)).collect()
    }

    /// Starts with these figures, which are behind the tip.
    fn begin(&self, derived: Derived, types_max: u64) {
        let mut state = self.lock();
        state.fall_behind();
        (state.derived, state.types_max) = (derived, types_max);
    }

    /// Adds what was read from the log.
    fn add(&self, batch: &Batch) {
        let mut state = self.lock();
        let types_max = state.types_max;
        for hash in state.derived.add(batch, types_max) {
            state.release_type(hash, u64::MAX);
        }
        state.release_decided();
    }

    /// Applies the limits on types from now on: the figures have reached the tip, and follow it.
    fn follow(&self, tip: &watch::Receiver<Tip>) {
        let mut state = self.lock();
        if state.tip.is_none() {
            state.tip = Some(tip.clone());
        }
    }

    /// Starts with a log without events.
    #[cfg(test)]
    pub(crate) fn follow_empty_log(&self, tip: &watch::Receiver<Tip>) {
        self.begin(Derived::default(), 100);
        self.follow(tip);
    }

    /// The figures no longer follow the tip closely.
    fn fall_behind(&self) {
        self.lock().fall_behind();
    }
}

impl State {
    /// Returns the number of bytes to reserve.
    fn check_bytes(&self, name: &Arc<str>, limits: &UseLimits, bytes: u64) -> Result<u64, OverShare> {
        let Some(max) = limits.stored_bytes_max else { return Ok(0) };
        let reserved = self.reserved.get(name).map_or(0, |reserved| reserved.bytes);
        let stored = self.derived.stored(name).bytes;
        // Figures that are behind are too low, so they refuse nothing that must be accepted.
        if stored.saturating_add(reserved).saturating_add(bytes) > max {
            return Err(used_up(ShareLimit::StoredBytes, max));
        }
        Ok(bytes)
    }

    /// Returns the types that are not stored yet, as far as they are limited.
    fn check_types(
        &self,
        name: &Arc<str>,
        limits: &UseLimits,
        event_types: &[&str],
    ) -> Result<Vec<u64>, OverShare> {
        let counted = self.derived.types.len() as u64;
        // A type seems new while the figures are behind, or if it is not among those that are
        // attributed. Once these are used up, there are none left to share.
        if self.tip.is_none() || counted >= self.types_max {
            return Ok(Vec::new());
        }
        let hashes = event_types.iter().map(|name| type_hash(name.as_bytes()));
        let mut unstored: Vec<u64> = hashes.filter(|hash| !self.derived.types.contains(hash)).collect();
        unstored.sort_unstable();
        unstored.dedup();
        let new = unstored.iter().filter(|hash| !self.reserved_types.contains_key(*hash)).count() as u64;
        if new == 0 {
            return Ok(unstored);
        }
        let reserved = self.reserved.get(name).map_or(0, |reserved| reserved.types);
        let more = reserved.saturating_add(new);
        let mine = self.derived.stored(name).types.saturating_add(more);
        if let Some(max) = limits.types_max
            && mine > max
        {
            return Err(used_up(ShareLimit::Types, max));
        }
        let used = counted.saturating_add(more);
        match exceeded_share(limits.share, self.types_max, mine, used) {
            Some(share) => Err(used_up(ShareLimit::CountedTypes, share)),
            None => Ok(unstored),
        }
    }

    fn add(&mut self, reservation: &Reservation) {
        let Reservation { name, bytes, types } = reservation;
        let mut introduced = 0u64;
        for hash in types {
            let reserved = self.reserved_types.entry(*hash).or_insert_with(|| {
                introduced = introduced.saturating_add(1);
                ReservedType { by: name.clone(), writes: 0 }
            });
            reserved.writes = reserved.writes.saturating_add(1);
        }
        let reserved = self.reserved.entry(name.clone()).or_default();
        reserved.bytes = reserved.bytes.saturating_add(*bytes);
        reserved.types = reserved.types.saturating_add(introduced);
    }

    /// Keeps the reservation of a decided write until the figures have reached its end.
    fn decided(&mut self, reservation: Reservation) {
        // The write is before the tip, if it was stored.
        match self.tip.as_ref().map(|tip| tip.borrow().position) {
            Some(end) if end > self.derived.position => self.decided.push_back((end, reservation)),
            Some(_) | None => self.release(&reservation),
        }
        if self.decided.len() > DECIDED_MAX
            && let Some((_, oldest)) = self.decided.pop_front()
        {
            self.release(&oldest);
        }
    }

    /// Releases the reservations of decided writes that the figures have reached.
    fn release_decided(&mut self) {
        while self.decided.front().is_some_and(|(end, _)| *end <= self.derived.position)
            && let Some((_, reservation)) = self.decided.pop_front()
        {
            self.release(&reservation);
        }
    }

    fn release(&mut self, reservation: &Reservation) {
        let Reservation { name, bytes, types } = reservation;
        if let Some(reserved) = self.reserved.get_mut(name) {
            reserved.bytes = reserved.bytes.saturating_sub(*bytes);
        }
        for hash in types {
            self.release_type(*hash, 1);
        }
        if self.reserved.get(name).is_some_and(|reserved| reserved.bytes == 0 && reserved.types == 0) {
            self.reserved.remove(name);
        }
    }

    /// Releases a type for this number of writes. Does nothing if it was released before.
    fn release_type(&mut self, hash: u64, writes: u64) {
        let Some(reserved) = self.reserved_types.get_mut(&hash) else { return };
        reserved.writes = reserved.writes.saturating_sub(writes);
        if reserved.writes > 0 {
            return;
        }
        if let Some(ReservedType { by, .. }) = self.reserved_types.remove(&hash)
            && let Some(amounts) = self.reserved.get_mut(&by)
        {
            amounts.types = amounts.types.saturating_sub(1);
        }
    }

    fn fall_behind(&mut self) {
        self.tip = None;
        for (_, reservation) in std::mem::take(&mut self.decided) {
            self.release(&reservation);
        }
    }
}

fn used_up(limit: ShareLimit, max: u64) -> OverShare {
    OverShare { limit, max, retry_after: OverShare::RETRY_USED_UP }
}

impl Drop for HeldReservation {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.usage.lock().decided(reservation);
        }
    }
}

#[cfg(test)]
mod tests;
