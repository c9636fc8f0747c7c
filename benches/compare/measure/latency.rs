//! Measures the latency of appends at a rate below the capacity of each system.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::appends;
use crate::{
    load::{closed, paced},
    outcome::Outcome,
    row::Row,
    statistics::Percentiles,
    systems::{System, immudb::Order},
    work::{Spread, Work},
};

const CALLERS: usize = 64;
const PACE: f64 = 1000.0;
/// If the throughput of a system is below this multiple of the pace, its appends are paced at half
/// of its throughput.
const ROOM: f64 = 1.5;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latency {
    pub row: Row,
    pub calls_per_second: f64,
    pub latency: Percentiles,
}

/// Warms up in a closed loop, which also measures the throughput, and then sends paced appends.
pub async fn measure(row: Row, system: &System, warm_up: Duration, length: Duration) -> Outcome<Latency> {
    let conditional = Work { spread: Spread::Conditional, callers: CALLERS, events: 1 };
    let work = if row.offers(conditional) {
        conditional
    } else {
        Work { spread: Spread::Unconditional, ..conditional }
    };
    system.wake()?;
    let outcome = match system {
        System::Immudb(_) => program(row, system, work, warm_up, length).await,
        _ => callers(row, system, work, warm_up, length).await,
    };
    system.sleep()?;
    outcome
}

fn pace_for(rate: f64) -> f64 {
    if rate >= PACE * ROOM { PACE } else { rate / 2.0 }
}

async fn callers(
    row: Row,
    system: &System,
    work: Work,
    warm_up: Duration,
    length: Duration,
) -> Outcome<Latency> {
    let callers = appends::callers(system, work, "latency").await?;
    let (callers, _, _) = closed::append(callers, warm_up).await?;
    let (callers, tally, elapsed) = closed::append(callers, warm_up).await?;
    let calls_per_second = pace_for(tally.events() as f64 / elapsed.as_secs_f64());
    let from = Instant::now() + warm_up;
    let pacer = paced::Pacer::start(calls_per_second, warm_up + length);
    let (_, samples) = paced::append(callers, pacer, |_, _| ()).await?;
    let latency = Percentiles::of(&paced::between(&samples, from, from + length * 2));
    Ok(Latency { row, calls_per_second, latency })
}

async fn program(
    row: Row,
    system: &System,
    work: Work,
    warm_up: Duration,
    length: Duration,
) -> Outcome<Latency> {
    let order = |name| appends::order(work, name);
    let turn = appends::program(system, &Order { length: warm_up, ..order("warm") }).await?;
    let calls_per_second = pace_for(turn.rate());
    let turn = appends::program(system, &Order { length, warm_up, pace: calls_per_second, ..order("paced") })
        .await?;
    Ok(Latency { row, calls_per_second, latency: turn.latency })
}
