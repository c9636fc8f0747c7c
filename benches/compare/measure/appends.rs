//! Measures the throughput of appends in closed loops. The systems take turns in each round, so
//! that other load on the machine affects all of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    load::{AGGREGATES, Caller, Contention, Share, closed},
    outcome::Outcome,
    process,
    row::Row,
    statistics::Percentiles,
    systems::{System, immudb::Order},
    work::{Spread, Work},
};

/// The result of one turn of a system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Turn {
    pub events: u64,
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub load_cpu_seconds: f64,
    pub latency: Percentiles,
    /// Conflicts. Each was retried.
    #[serde(default)]
    pub conflicts: u64,
}

impl Turn {
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.seconds
    }
}

/// The callers of one system for one workload.
pub struct Appends {
    work: Work,
    driver: Driver,
    contention: Option<Contention>,
}

enum Driver {
    Callers(Vec<Caller>),
    /// ImmuDB's own client, which uses new aggregates in each turn.
    Program {
        turns: usize,
    },
}

impl Appends {
    /// Connects the callers. Only this workload uses their aggregates.
    pub async fn prepare(system: &System, work: Work) -> Outcome<Self> {
        if let System::Immudb(_) = system {
            return Ok(Self { work, driver: Driver::Program { turns: 0 }, contention: None });
        }
        let callers = callers(system, work, &work.to_string()).await?;
        let contention = (work.spread == Spread::Contended).then(Contention::default);
        let callers = callers.into_iter().map(|caller| caller.contending(contention.clone())).collect();
        Ok(Self { work, driver: Driver::Callers(callers), contention })
    }

    pub async fn turn(&mut self, system: &System, length: Duration) -> Outcome<Turn> {
        system.wake()?;
        let before = system.cpu_seconds();
        let mut turn = match &mut self.driver {
            Driver::Callers(callers) => {
                let load_before = process::own_cpu_seconds();
                let (back, tally, elapsed) = closed::append(std::mem::take(callers), length).await?;
                *callers = back;
                Turn {
                    events: tally.events(),
                    seconds: elapsed.as_secs_f64(),
                    cpu_seconds: 0.0,
                    load_cpu_seconds: process::own_cpu_seconds() - load_before,
                    latency: Percentiles::of(&tally.latencies()),
                    conflicts: self.contention.as_ref().map_or(0, Contention::conflicts),
                }
            }
            Driver::Program { turns } => {
                *turns += 1;
                let order = Order { length, ..order(self.work, &format!("{}/{turns}", self.work)) };
                program(system, &order).await?
            }
        };
        turn.cpu_seconds = system.cpu_seconds() - before;
        system.sleep()?;
        Ok(turn)
    }
}

/// Returns the callers for a workload, with aggregates whose names start with `prefix`.
pub async fn callers(system: &System, work: Work, prefix: &str) -> Outcome<Vec<Caller>> {
    let aggregates = if work.spread.is_one_aggregate() { 1 } else { AGGREGATES };
    let shares = Share::many(&prefix.replace('-', "_"), aggregates, work.callers);
    let clients = system.clients(work.callers).await?;
    let seed = u64::from(crc32c::crc32c(prefix.as_bytes()));
    let callers = Caller::many(clients, shares, seed, work.spread.expects(), work.events);
    Ok(callers.into_iter().map(|caller| caller.with_json(work.spread == Spread::Json)).collect())
}

/// Returns the parameters of a workload for ImmuDB's own client.
pub fn order(work: Work, prefix: &str) -> Order {
    Order {
        prefix: prefix.to_owned(),
        callers: work.callers,
        events: work.events,
        aggregates: AGGREGATES,
        warm_up: Duration::ZERO,
        length: Duration::ZERO,
        pace: 0.0,
    }
}

pub async fn program(system: &System, order: &Order) -> Outcome<Turn> {
    let System::Immudb(server) = system else { return Err("not an ImmuDB".to_owned()) };
    let done = server.run("append", order).await?;
    Ok(Turn {
        events: done.events,
        seconds: done.seconds,
        cpu_seconds: 0.0,
        load_cpu_seconds: done.cpu_seconds,
        latency: Percentiles::of(&done.latencies()),
        conflicts: 0,
    })
}

/// Describes a turn for the console.
pub fn describe(row: Row, work: Work, turn: &Turn) -> String {
    let per_event = |seconds: f64| seconds * 1e6 / turn.events as f64;
    format!(
        "{:<24} {:<20} {:>9.0} events/s   p50 {:>8.3} ms  p99 {:>8.3} ms   \
         server {:.2} cores, {:>6.1} µs/event   load {:.2} cores, {:>5.1} µs/call",
        row.key(),
        work.to_string(),
        turn.rate(),
        turn.latency.p50,
        turn.latency.p99,
        turn.cpu_seconds / turn.seconds,
        per_event(turn.cpu_seconds),
        turn.load_cpu_seconds / turn.seconds,
        per_event(turn.load_cpu_seconds) * work.events as f64,
    ) + &match turn.conflicts {
        0 => String::new(),
        conflicts => format!("   {conflicts} conflicts"),
    }
}
