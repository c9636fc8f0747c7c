//! Measures the service as the store grows. Each stage adds events, restarts the service, and
//! measures it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    load::{
        AGGREGATES, Caller, Share, closed,
        fill::{CHUNK, fill},
        name,
    },
    outcome::Outcome,
    peers::Peers,
    process,
    row::Row,
    statistics::{Percentiles, latencies, median},
    systems::{Client, System, aethyr},
};

const CALLERS: usize = 64;
/// The number of aggregates that are loaded, and of events in each.
const LOADED: usize = 10;
const LOADED_EVENTS: usize = 1000;
const LOADS: usize = 50;
const STATS_CALLS: usize = 200;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stage {
    pub events: u64,
    pub fill_events_per_second: f64,
    pub appends_per_second: f64,
    /// The latency of loading 1 000 events.
    pub load: Percentiles,
    pub start_seconds: f64,
    /// The start after a kill.
    #[serde(default)]
    pub start_after_crash_seconds: f64,
    /// The start with an empty page cache. Absent if the page cache cannot be dropped.
    #[serde(default)]
    pub cold_start_seconds: Option<f64>,
    pub stats_mean_ms: f64,
    pub stats_max_ms: f64,
    pub resident_bytes_at_start: u64,
    pub resident_bytes_after_appends: u64,
    pub disk_bytes: u64,
    /// The average size of an event in a response to a load.
    pub encoded_bytes: f64,
}

impl Stage {
    /// Returns the size on disk relative to the encoded events.
    pub fn disk_ratio(&self) -> f64 {
        self.disk_bytes as f64 / (self.encoded_bytes * self.events as f64)
    }
}

pub struct Growth {
    service: aethyr::Service,
    shares: Vec<Share>,
    next_filler: usize,
}

impl Growth {
    pub async fn start(peers: &Peers, folder: &Path) -> Outcome<Self> {
        process::clear_folder(folder)?;
        let service = aethyr::Service::start_row(Row::AethyrLocal, peers, folder).await?;
        Ok(Self { service, shares: Share::many("live", AGGREGATES, CALLERS), next_filler: 0 })
    }

    /// Grows the store to `events` events, and measures it.
    pub async fn stage(self, events: u64, round: Duration, rounds: usize) -> Outcome<(Self, Stage)> {
        let Self { service, mut shares, next_filler } = self;
        let mut system = System::Aethyr(service);
        let stored = stats(&system).await?;
        let began = Instant::now();
        let wanted = events.saturating_sub(stored) as usize;
        let chunks = chunks(stored == 0, next_filler, wanted);
        let filled = fill(&system, next_filler as u64, chunks).await?;
        let fill_events_per_second = filled as f64 / began.elapsed().as_secs_f64();

        let System::Aethyr(service) = system else { return Err("not Aethyr".to_owned()) };
        let (service, start_after_crash_seconds) = timed_start(service.kill()).await?;
        let (_, setup) = service.stop()?;
        let disk_bytes = process::disk_bytes(&setup.folder);
        let mut cold_start_seconds = None;
        if process::drop_page_cache() {
            let (service, seconds) = timed_start(setup.clone()).await?;
            service.stop()?;
            cold_start_seconds = Some(seconds);
        }
        let (service, start_seconds) = timed_start(setup).await?;
        let id = service.process.id();
        let resident_bytes_at_start = process::resident_bytes(id);
        let (stats_mean_ms, stats_max_ms) = time_stats(&service).await?;
        system = System::Aethyr(service);

        quiet(&system).await;
        let (load, encoded_bytes) = loads(&system).await?;
        let mut rates = Vec::new();
        let clients = system.clients(CALLERS).await?;
        let mut callers = Caller::many(clients, shares, events, true, 1);
        (callers, _, _) = closed::append(callers, round / 2).await?;
        for _ in 0..rounds {
            let (back, tally, elapsed) = closed::append(callers, round).await?;
            callers = back;
            rates.push(tally.events() as f64 / elapsed.as_secs_f64());
        }
        shares = callers.into_iter().map(Caller::into_share).collect();
        let stage = Stage {
            events: stored + filled,
            fill_events_per_second,
            appends_per_second: median(&mut rates),
            load,
            start_seconds,
            start_after_crash_seconds,
            cold_start_seconds,
            stats_mean_ms,
            stats_max_ms,
            resident_bytes_at_start,
            resident_bytes_after_appends: process::resident_bytes(id),
            disk_bytes,
            encoded_bytes,
        };
        let System::Aethyr(service) = system else { return Err("not Aethyr".to_owned()) };
        Ok((Self { service, shares, next_filler: next_filler + filled as usize / CHUNK }, stage))
    }
}

/// Starts the service. Also returns the seconds until it answered.
async fn timed_start(setup: aethyr::Setup) -> Outcome<(aethyr::Service, f64)> {
    let began = Instant::now();
    let service = aethyr::Service::start(setup).await?;
    Ok((service, began.elapsed().as_secs_f64()))
}

/// Waits for the background work that the fill has caused. In production, a store of this size is
/// not filled within a minute.
async fn quiet(system: &System) {
    const LOOK: Duration = Duration::from_millis(500);
    const IDLE: f64 = 0.05;
    const LOOKS_MAX: usize = 60;
    for _ in 0..LOOKS_MAX {
        let before = system.cpu_seconds();
        tokio::time::sleep(LOOK).await;
        if system.cpu_seconds() - before < IDLE * LOOK.as_secs_f64() {
            return;
        }
    }
}

/// Returns the appends of a stage, with `events` events in total: first to the aggregates that are
/// loaded, then to the others in turn.
fn chunks(first: bool, next: usize, events: usize) -> impl Iterator<Item = (String, usize)> + 'static {
    let loaded = if first { LOADED * LOADED_EVENTS / CHUNK } else { 0 };
    let measured = (0..loaded).map(|number| (name("loaded", number % LOADED), CHUNK));
    let rest = events.saturating_sub(loaded * CHUNK);
    let size = move |number: usize| CHUNK.min(rest - number * CHUNK);
    let others = (0..rest.div_ceil(CHUNK))
        .map(move |number| (name("other", (next + number) % AGGREGATES), size(number)));
    measured.chain(others)
}

async fn stats(system: &System) -> Outcome<u64> {
    let System::Aethyr(service) = system else { return Err("not Aethyr".to_owned()) };
    Ok(service.watcher().await?.stats().await?.event_count)
}

/// Returns the mean and the maximum, in milliseconds.
async fn time_stats(service: &aethyr::Service) -> Outcome<(f64, f64)> {
    let mut watcher = service.watcher().await?;
    let mut all = Vec::new();
    for _ in 0..STATS_CALLS {
        let began = Instant::now();
        watcher.stats().await?;
        all.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let longest = all.iter().copied().fold(0.0, f64::max);
    Ok((all.iter().sum::<f64>() / all.len() as f64, longest))
}

async fn loads(system: &System) -> Outcome<(Percentiles, f64)> {
    let mut clients = system.clients(1).await?;
    let Some(Client::Aethyr(client)) = clients.first_mut() else { return Err("not Aethyr".to_owned()) };
    let mut all = latencies();
    for number in 0..LOADS {
        let began = Instant::now();
        let found = client.load(&name("loaded", number % LOADED)).await?;
        all.saturating_record(began.elapsed().as_nanos() as u64);
        if found != LOADED_EVENTS as u64 {
            return Err(format!("loaded {found} events instead of {LOADED_EVENTS}"));
        }
    }
    let encoded = client.encoded_event_bytes(&name("loaded", 0)).await?;
    Ok((Percentiles::of(&all), encoded))
}
