//! Calls that want to change the same objects go one after the other. The store's expectations decide, also over
//! those who come by another way; turns only spare races that all but one would lose.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::event::AggregateId;

/// Objects share turns by their hash.
const TURNS: usize = 8192;

#[derive(Debug)]
pub struct Turns(Vec<Arc<Mutex<()>>>);

impl Default for Turns {
    fn default() -> Self {
        Self(std::iter::repeat_with(Arc::default).take(TURNS).collect())
    }
}

impl Turns {
    /// Waits until nobody else has the turn of one of these. Taken in one order by all, so nobody waits for ever.
    pub async fn take(&self, ids: impl Iterator<Item = &AggregateId>) -> Vec<OwnedMutexGuard<()>> {
        let numbers: BTreeSet<usize> = ids.map(|id| self.number(id)).collect();
        let mut taken = Vec::with_capacity(numbers.len());
        for turn in numbers.into_iter().filter_map(|number| self.0.get(number)) {
            taken.push(turn.clone().lock_owned().await);
        }
        taken
    }

    fn number(&self, id: &AggregateId) -> usize {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        usize::try_from(hasher.finish() % self.0.len() as u64).unwrap_or_default()
    }
}
