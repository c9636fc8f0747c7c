//! Measures a mixed load: each caller repeatedly loads four small aggregates and appends one event.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::loads;
use crate::{
    draft::{Draft, Expectation},
    load::{AGGREGATES, closed::gather, name},
    outcome::Outcome,
    row::Row,
    statistics::{Percentiles, latencies},
    supply::Supply,
    systems::System,
};

pub const CALLERS: usize = 64;
pub const LOADS_FOR_AN_APPEND: usize = 4;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mixed {
    pub row: Row,
    pub loads_per_second: f64,
    pub appends_per_second: f64,
    pub load: Percentiles,
    pub append: Percentiles,
}

/// Returns `None` for a system with its own load program, which supports no mixed load.
pub async fn measure(row: Row, system: &System, length: Duration) -> Outcome<Option<Mixed>> {
    if let System::Immudb(_) = system {
        return Ok(None);
    }
    let (loaded, appended) = (Rc::new(RefCell::new(latencies())), Rc::new(RefCell::new(latencies())));
    let mut running = JoinSet::new();
    let clients = system.clients(CALLERS).await?.into_iter().zip(Supply::many(17, CALLERS));
    let began = Instant::now();
    for (caller, (mut client, mut supply)) in clients.enumerate() {
        let (loaded, appended) = (loaded.clone(), appended.clone());
        running.spawn_local(async move {
            for turn in 0.. {
                for step in 0..LOADS_FOR_AN_APPEND {
                    let called = Instant::now();
                    if called - began >= length {
                        return Ok(());
                    }
                    let number = caller + (turn * LOADS_FOR_AN_APPEND + step) * CALLERS;
                    loads::load_small(&mut client, number).await?;
                    loaded.borrow_mut().saturating_record(called.elapsed().as_nanos() as u64);
                }
                let aggregate = name("mixed", (caller + turn * CALLERS) % AGGREGATES);
                let draft = Draft {
                    aggregate: &aggregate,
                    expectation: Expectation::None,
                    events: 1,
                    stamp: None,
                    json: false,
                    supply: &mut supply,
                };
                let called = Instant::now();
                client.append(draft).await?;
                appended.borrow_mut().saturating_record(called.elapsed().as_nanos() as u64);
            }
            Ok(())
        });
    }
    gather(running).await?;
    let seconds = began.elapsed().as_secs_f64();
    let (load, append) = (Percentiles::of(&loaded.borrow()), Percentiles::of(&appended.borrow()));
    Ok(Some(Mixed {
        row,
        loads_per_second: load.count as f64 / seconds,
        appends_per_second: append.count as f64 / seconds,
        load,
        append,
    }))
}
