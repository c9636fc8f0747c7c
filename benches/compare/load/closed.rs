//! A closed loop: each caller makes its next call after the response to the previous one. It
//! measures throughput; [`super::paced`] measures latency.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{Caller, Tally};
use crate::outcome::Outcome;

/// Lets all callers append for `length`. Returns the callers, their results, and the time until the
/// last response.
pub async fn append(callers: Vec<Caller>, length: Duration) -> Outcome<(Vec<Caller>, Tally, Duration)> {
    let tally = Tally::new();
    let began = Instant::now();
    let mut running = JoinSet::new();
    for mut caller in callers {
        let tally = tally.clone();
        running.spawn_local(async move {
            loop {
                let called = Instant::now();
                if called - began >= length {
                    return Ok(caller);
                }
                caller.append(None).await?;
                tally.add(caller.events, called.elapsed());
            }
        });
    }
    let callers = gather(running).await?;
    Ok((callers, tally, began.elapsed()))
}

/// Waits for all tasks. Returns their results, or the first error.
pub async fn gather<T: 'static>(mut running: JoinSet<Outcome<T>>) -> Outcome<Vec<T>> {
    let mut ended = Vec::new();
    while let Some(outcome) = running.join_next().await {
        ended.push(outcome.map_err(|error| error.to_string())??);
    }
    Ok(ended)
}
