//! Calls that want to change the same objects go one after the other. The store's expectations decide over what objects
//! are, also over those who come by another way, and turns only spare races that all but one would lose. Over what lies in
//! what no expectation decides: there a turn is what keeps an object from being deleted, or moved to where it would lie too
//! deep, while something is put into it.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::command::Command;
use crate::event::AggregateId;

/// Objects share turns by their hash.
const TURNS: usize = 8192;

#[derive(Debug)]
pub struct Turns(Vec<Arc<RwLock<()>>>);

/// Which turns a call takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// What the call changes, deletes or moves.
    alone: BTreeSet<AggregateId>,
    /// What it puts things into, and what that lies in. Others may do so, too.
    shared: BTreeSet<AggregateId>,
}

/// Turns that were taken, until it is dropped.
#[derive(Debug, Default)]
pub struct Turn {
    _alone: Vec<OwnedRwLockWriteGuard<()>>,
    _shared: Vec<OwnedRwLockReadGuard<()>>,
}

impl Wanted {
    /// What the commands name.
    pub fn by(commands: &[Command]) -> Self {
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

    /// Objects that are changed.
    pub fn alone<'i>(ids: impl Iterator<Item = &'i AggregateId>) -> Self {
        Self { alone: ids.cloned().collect(), shared: BTreeSet::new() }
    }

    /// Wants these, too, which things are put into. Says whether that is more than before.
    pub fn share(&mut self, containers: &BTreeSet<AggregateId>) -> bool {
        let mut grows = false;
        for container in containers.iter().filter(|id| !self.alone.contains(*id)) {
            grows |= self.shared.insert(container.clone());
        }
        grows
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self(std::iter::repeat_with(Arc::default).take(TURNS).collect())
    }
}

impl Turns {
    /// Waits until nobody else has the turns that are wanted. Taken in one order by all, so nobody waits for ever.
    pub async fn take(&self, wanted: &Wanted) -> Turn {
        let shared = wanted.shared.iter().map(|id| (self.number(id), false));
        let alone = wanted.alone.iter().map(|id| (self.number(id), true));
        // Whoever wants one in both ways gets it alone.
        let numbers: BTreeMap<usize, bool> = shared.chain(alone).collect();
        let mut turn = Turn::default();
        for (number, alone) in numbers {
            let Some(lock) = self.0.get(number).cloned() else { continue };
            match alone {
                true => turn._alone.push(lock.write_owned().await),
                false => turn._shared.push(lock.read_owned().await),
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
        let turns = Turns::default();
        let puts = Wanted { alone: ids(&["gem"]), shared: ids(&["chest"]) };
        let also_puts = Wanted { alone: ids(&["coin"]), shared: ids(&["chest"]) };
        let deletes = Wanted { alone: ids(&["chest"]), shared: ids(&["chest"]) };
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
        let mut wanted = Wanted { alone: ids(&["bag"]), shared: ids(&["room"]) };
        assert!(!wanted.share(&ids(&["bag", "room"])));
        assert!(wanted.share(&ids(&["bag", "player", "room"])));
        assert_eq!(wanted, Wanted { alone: ids(&["bag"]), shared: ids(&["player", "room"]) });
    }
}
