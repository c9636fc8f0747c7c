//! How many appends a second, in closed loops: the rows take turns in each round, so that what else the machine
//! does hits all of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    load::{AGGREGATES, Caller, Outcome, Share, closed},
    plan::{Spread, Work},
    process,
    rows::{Row, System},
};

/// What one turn of a row gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Turn {
    pub events: u64,
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub load_cpu_seconds: f64,
    /// Milliseconds.
    pub p50: f64,
    pub p99: f64,
}

impl Turn {
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.seconds
    }
}

/// A row's part in a work.
pub struct Appends {
    callers: Vec<Caller>,
}

impl Appends {
    /// Connects the callers; the aggregates are this work's own.
    pub async fn prepare(system: &System, work: Work) -> Outcome<Self> {
        let aggregates = if work.spread == Spread::OneAggregate { 1 } else { AGGREGATES };
        let shares = Share::many(&format!("{work}").replace('-', "_"), aggregates, work.callers);
        let clients = system.clients(work.callers).await?;
        let seed = u64::from(crc(&work.to_string()));
        let expecting = work.spread == Spread::Conditional;
        Ok(Self { callers: Caller::many(clients, shares, seed, expecting, work.events) })
    }

    pub async fn turn(&mut self, system: &System, length: Duration) -> Outcome<Turn> {
        let before = (system.cpu_seconds(), process::own_cpu_seconds());
        let callers = std::mem::take(&mut self.callers);
        let (callers, tally, elapsed) = closed::append(callers, length).await?;
        self.callers = callers;
        let latencies = tally.latencies();
        let milliseconds = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e6;
        Ok(Turn {
            events: tally.events(),
            seconds: elapsed.as_secs_f64(),
            cpu_seconds: system.cpu_seconds() - before.0,
            load_cpu_seconds: process::own_cpu_seconds() - before.1,
            p50: milliseconds(0.5),
            p99: milliseconds(0.99),
        })
    }
}

fn crc(text: &str) -> u32 {
    crc32c::crc32c(text.as_bytes())
}

/// For those who look at one row.
pub fn describe(row: Row, work: Work, turn: &Turn) -> String {
    let per_event = |seconds: f64| seconds * 1e6 / turn.events as f64;
    format!(
        "{:<20} {:<20} {:>9.0} events/s   p50 {:>8.3} ms  p99 {:>8.3} ms   server {:.2} cores, {:>6.1} µs/event   load {:.2} cores, {:>5.1} µs/call",
        row.key(),
        work.to_string(),
        turn.rate(),
        turn.p50,
        turn.p99,
        turn.cpu_seconds / turn.seconds,
        per_event(turn.cpu_seconds),
        turn.load_cpu_seconds / turn.seconds,
        per_event(turn.load_cpu_seconds) * work.events as f64,
    )
}
