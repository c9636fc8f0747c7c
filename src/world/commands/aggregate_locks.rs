//! Serializes calls that change the same objects.
//!
//! The store's expected sequence numbers protect the state of objects, also against writes that
//! bypass the commands. There, locks only avoid races that all calls but one would lose. No
//! expected sequence number protects the contents of an object: only a lock keeps it from being
//! deleted, or moved to where it would be nested too deeply, while something is put into it.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::{event::AggregateId, world::rules::command::Command};

/// The number of locks. Objects share locks by the hash of their id.
const TURNS: usize = 8192;

#[derive(Debug)]
pub(super) struct AggregateLocks(Vec<Arc<RwLock<()>>>);

/// The locks that a call needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LockRequest {
    /// The objects that the call changes, deletes or moves.
    alone: BTreeSet<AggregateId>,
    /// The objects that the call puts something into, and all containers above them. Other calls
    /// may put things into them at the same time.
    shared: BTreeSet<AggregateId>,
}

/// Acquired locks, released on drop.
#[derive(Debug, Default)]
pub(super) struct LockGuard {
    _alone: Vec<OwnedRwLockWriteGuard<()>>,
    _shared: Vec<OwnedRwLockReadGuard<()>>,
}

impl LockRequest {
    /// Returns the locks for the objects that the commands name.
    pub(super) fn by(commands: &[Command]) -> Self {
        let mut wanted = Self::default();
        for command in commands {
            wanted.alone.insert(command.target.clone());
            if let Some((what, container)) = command.puts() {
                wanted.alone.insert(what.clone());
                wanted.shared.extend(container.cloned());
            }
        }
        wanted
    }

    /// Returns the locks for objects that are changed.
    pub(super) fn alone<'i>(ids: impl Iterator<Item = &'i AggregateId>) -> Self {
        Self { alone: ids.cloned().collect(), shared: BTreeSet::new() }
    }

    /// Adds containers that things are put into. Returns whether any of them was not included
    /// before.
    pub(super) fn share(&mut self, containers: &BTreeSet<AggregateId>) -> bool {
        let mut grows = false;
        for container in containers.iter().filter(|id| !self.alone.contains(*id)) {
            grows |= self.shared.insert(container.clone());
        }
        grows
    }
}

impl Default for AggregateLocks {
    fn default() -> Self {
        Self(std::iter::repeat_with(Arc::default).take(TURNS).collect())
    }
}

impl AggregateLocks {
    /// Waits until all the locks are acquired. All calls acquire them in the same order, so there
    /// is no deadlock.
    pub(super) async fn take(&self, wanted: &LockRequest) -> LockGuard {
        let shared = wanted.shared.iter().map(|id| (self.number(id), false));
        let alone = wanted.alone.iter().map(|id| (self.number(id), true));
        // A lock that is needed in both modes is acquired exclusively.
        let numbers: BTreeMap<usize, bool> = shared.chain(alone).collect();
        let mut turn = LockGuard::default();
        for (number, alone) in numbers {
            let Some(lock) = self.0.get(number).cloned() else { continue };
            if alone {
                turn._alone.push(lock.write_owned().await)
            } else {
                turn._shared.push(lock.read_owned().await)
            }
        }
        turn
    }

    fn number(&self, id: &AggregateId) -> usize {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        usize::try_from(hasher.finish() % self.0.len() as u64).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    fn ids(names: &[&str]) -> BTreeSet<AggregateId> {
        names.iter().map(|name| AggregateId::new(name).unwrap()).collect()
    }

    #[tokio::test]
    async fn many_put_things_into_one_object_and_who_changes_it_is_alone() {
        let turns = AggregateLocks::default();
        let puts = LockRequest { alone: ids(&["gem"]), shared: ids(&["chest"]) };
        let also_puts = LockRequest { alone: ids(&["coin"]), shared: ids(&["chest"]) };
        let deletes = LockRequest { alone: ids(&["chest"]), shared: ids(&["chest"]) };
        let first = turns.take(&puts).await;
        let second = turns.take(&also_puts).await;
        let mut alone = std::pin::pin!(turns.take(&deletes));
        assert!(poll!(&mut alone).is_pending());
        drop(first);
        assert!(poll!(&mut alone).is_pending());
        drop(second);
        let alone = alone.await;
        let mut late = std::pin::pin!(turns.take(&puts));
        assert!(poll!(&mut late).is_pending());
        drop(alone);
        late.await;
    }

    #[test]
    fn what_is_wanted_alone_is_not_wanted_once_more() {
        let mut wanted = LockRequest { alone: ids(&["bag"]), shared: ids(&["room"]) };
        assert!(!wanted.share(&ids(&["bag", "room"])));
        assert!(wanted.share(&ids(&["bag", "player", "room"])));
        assert_eq!(wanted, LockRequest { alone: ids(&["bag"]), shared: ids(&["player", "room"]) });
    }
}
