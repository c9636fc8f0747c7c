//! Fills a store before a measurement: many callers send large appends, and the aggregates are
//! interleaved as in a game.

use std::{cell::RefCell, rc::Rc};

use tokio::task::JoinSet;

use super::closed::gather;
use crate::{
    draft::{Draft, Expectation},
    outcome::Outcome,
    supply::Supply,
    systems::{Client, System},
};

pub const CALLERS: usize = 64;
/// Events per append.
pub const CHUNK: usize = 100;

/// Appends the given number of events to each of these aggregates, in this order except for
/// concurrent calls. Returns the total number of events.
pub async fn fill(
    system: &System,
    seed: u64,
    chunks: impl Iterator<Item = (String, usize)> + 'static,
) -> Outcome<u64> {
    let clients = system.clients(CALLERS).await?;
    let chunks = Rc::new(RefCell::new(chunks));
    let mut running = JoinSet::new();
    for (client, supply) in clients.into_iter().zip(Supply::many(seed, CALLERS)) {
        let chunks = chunks.clone();
        running.spawn_local(work(client, supply, move || chunks.borrow_mut().next()));
    }
    Ok(gather(running).await?.into_iter().sum())
}

async fn work(
    mut client: Client,
    mut supply: Supply,
    mut next: impl FnMut() -> Option<(String, usize)>,
) -> Outcome<u64> {
    let mut filled = 0;
    while let Some((aggregate, events)) = next() {
        let draft = Draft {
            aggregate: &aggregate,
            expectation: Expectation::None,
            events,
            stamp: None,
            json: false,
            supply: &mut supply,
        };
        client.append(draft).await?;
        filled += events as u64;
    }
    Ok(filled)
}
