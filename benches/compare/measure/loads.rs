//! Measures reads: the events of one aggregate, and all events in the total order.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::{
    load::{
        AGGREGATES,
        closed::gather,
        fill::{CHUNK, fill},
        name,
    },
    outcome::Outcome,
    row::Row,
    statistics::{Percentiles, latencies},
    systems::{Client, System, immudb::Order},
};

/// The systems to read from. Each of the others uses the same code as one of these.
pub const ROWS: [Row; 5] = [Row::AethyrLocal, Row::Umadb, Row::Nats, Row::MessageDb, Row::ImmudbSet];
/// Events after a snapshot.
const AFTER_SNAPSHOT: usize = 10;

/// Aggregates of one size.
#[derive(Clone, Copy, Debug)]
struct Size {
    prefix: &'static str,
    events: usize,
    aggregates: usize,
}

const SIZES: [Size; 3] = [
    Size { prefix: "small", events: 10, aggregates: 1000 },
    Size { prefix: "medium", events: 1000, aggregates: 100 },
    Size { prefix: "large", events: 100_000, aggregates: 1 },
];

/// What is loaded in one measurement.
#[derive(Clone, Copy, Debug)]
struct Case {
    size: Size,
    callers: usize,
    from_snapshot: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    pub row: Row,
    pub events: usize,
    pub callers: usize,
    pub from_snapshot: bool,
    pub loads_per_second: f64,
    pub events_per_second: f64,
    pub server_cpu_seconds_per_event: f64,
    pub latency: Percentiles,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WholeOrder {
    pub row: Row,
    pub events: u64,
    pub events_per_second: f64,
}

/// Fills the store and returns its number of events.
pub async fn fill_up(system: &System, filler: usize) -> Outcome<u64> {
    if let System::Immudb(server) = system {
        let mut filled = 0;
        for size in SIZES {
            // One `Set` per event is slow.
            let aggregates = size.aggregates.min(20_000 / size.events).max(1);
            filled +=
                server.run("fill", &Order { aggregates, ..order(size, 1, Duration::ZERO) }).await?.events;
        }
        return Ok(filled);
    }
    let filled = fill(system, 7, chunks(filler)).await?;
    if let System::MessageDb(server) = system {
        server.analyze().await?;
    }
    if let Client::Aethyr(client) = &mut system.clients(1).await?[0] {
        for size in SIZES {
            for number in 0..size.aggregates {
                let sequence = (size.events - AFTER_SNAPSHOT).max(1) as u64;
                client.save_snapshot(&name(size.prefix, number), sequence).await?;
            }
        }
    }
    Ok(filled)
}

/// Interleaves the appends of all sizes, with `filler` appends to other aggregates between them.
fn chunks(filler: usize) -> impl Iterator<Item = (String, usize)> + 'static {
    let rows = SIZES[2].events / CHUNK;
    (0..rows).flat_map(move |row| {
        let of = |size: Size| (name(size.prefix, row % size.aggregates), CHUNK.min(size.events));
        let others =
            (row * filler..(row + 1) * filler).map(|number| (name("other", number % AGGREGATES), CHUNK));
        SIZES.map(of).into_iter().chain(others)
    })
}

fn order(size: Size, callers: usize, length: Duration) -> Order {
    Order {
        prefix: size.prefix.to_owned(),
        callers,
        events: size.events,
        aggregates: size.aggregates.min(20_000 / size.events).max(1),
        warm_up: Duration::ZERO,
        length,
        pace: 0.0,
    }
}

/// Loads aggregates of every size, with one caller and with eight. The service also loads them from
/// a snapshot.
pub async fn measure(
    row: Row,
    system: &System,
    length: Duration,
    told: impl Fn(&Load),
) -> Outcome<Vec<Load>> {
    let mut all = Vec::new();
    for size in SIZES {
        for callers in [1, 8] {
            for from_snapshot in [false, true] {
                if from_snapshot && (row != Row::AethyrLocal || size.events <= AFTER_SNAPSHOT) {
                    continue;
                }
                let case = Case { size, callers, from_snapshot };
                let load = one(row, system, case, length).await?;
                told(&load);
                all.push(load);
            }
        }
    }
    Ok(all)
}

async fn one(row: Row, system: &System, case: Case, length: Duration) -> Outcome<Load> {
    let Case { size, callers, from_snapshot } = case;
    let cpu_before = system.cpu_seconds();
    let (latency, seconds) = match system {
        System::Immudb(server) => {
            let done = server.run("load", &order(size, callers, length)).await?;
            (Percentiles::of(&done.latencies()), done.seconds)
        }
        _ => closed(system, case, length).await?,
    };
    let loads_per_second = latency.count as f64 / seconds;
    let events = if from_snapshot { AFTER_SNAPSHOT } else { size.events };
    let cpu = system.cpu_seconds() - cpu_before;
    Ok(Load {
        row,
        events: size.events,
        callers,
        from_snapshot,
        loads_per_second,
        events_per_second: loads_per_second * events as f64,
        server_cpu_seconds_per_event: cpu / (latency.count as f64 * events as f64),
        latency,
    })
}

async fn closed(system: &System, case: Case, length: Duration) -> Outcome<(Percentiles, f64)> {
    let Case { size, callers, from_snapshot } = case;
    let all = Rc::new(RefCell::new(latencies()));
    let began = Instant::now();
    let mut running = JoinSet::new();
    for (caller, mut client) in system.clients(callers).await?.into_iter().enumerate() {
        let all = all.clone();
        running.spawn_local(async move {
            for call in 0.. {
                let called = Instant::now();
                if called - began >= length {
                    break;
                }
                let aggregate = name(size.prefix, (caller + call * callers) % size.aggregates);
                load(&mut client, &aggregate, size, from_snapshot).await?;
                all.borrow_mut().saturating_record(called.elapsed().as_nanos() as u64);
            }
            Ok(())
        });
    }
    gather(running).await?;
    let seconds = began.elapsed().as_secs_f64();
    Ok((Percentiles::of(&all.borrow()), seconds))
}

/// Loads one of the smallest aggregates.
pub async fn load_small(client: &mut Client, number: usize) -> Outcome<()> {
    let size = SIZES[0];
    load(client, &name(size.prefix, number % size.aggregates), size, false).await
}

async fn load(client: &mut Client, aggregate: &str, size: Size, from_snapshot: bool) -> Outcome<()> {
    let (found, expected) = match client {
        Client::Aethyr(client) if from_snapshot => {
            (client.load_from_snapshot(aggregate).await?, AFTER_SNAPSHOT)
        }
        client => (client.load(aggregate).await?, size.events),
    };
    if found != expected as u64 {
        return Err(format!("{aggregate} has {found} events instead of {expected}"));
    }
    Ok(())
}

/// Reads all events with one caller. Returns the fastest of `times` runs, because other load on the
/// machine slows runs down.
pub async fn whole_order(row: Row, system: &System, events: u64, times: usize) -> Outcome<WholeOrder> {
    let mut best = f64::INFINITY;
    for _ in 0..times {
        let (found, seconds) = match system {
            System::Immudb(server) => {
                let done = server.run("read-all", &order(SIZES[0], 1, Duration::from_millis(1))).await?;
                (done.events, done.seconds)
            }
            _ => {
                let mut client = system.clients(1).await?.remove(0);
                let began = Instant::now();
                let found = client.read_all(events).await?;
                (found, began.elapsed().as_secs_f64())
            }
        };
        if found != events {
            return Err(format!("{}: read {found} of {events} events", row.key()));
        }
        best = best.min(seconds);
    }
    Ok(WholeOrder { row, events, events_per_second: events as f64 / best })
}

/// Returns the `filler` for which [`fill_up`] stores `events` events in total.
pub fn filler_for(events: usize) -> usize {
    let loaded: usize = SIZES.iter().map(|size| size.events * size.aggregates).sum();
    events.saturating_sub(loaded).div_ceil(SIZES[2].events / CHUNK * CHUNK).max(1)
}
