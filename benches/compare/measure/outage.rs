//! Measures an outage of ImmuDB under load, the migration after it, and the restore of the history
//! by a service with an empty log.

use std::{
    cell::{Cell, RefCell},
    fs,
    path::Path,
    rc::Rc,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use aethyr_event_store::grpc::wire::State;
use serde::{Deserialize, Serialize};
use tokio::task::{JoinSet, spawn_local};

use crate::{
    load::{
        Caller, Share,
        closed::gather,
        paced::{self, Pacer},
    },
    outcome::Outcome,
    peers::Peers,
    process,
    row::Row,
    statistics::{Percentiles, median},
    support::immudb::ImmuDb,
    systems::{
        System,
        aethyr::{Service, Watcher},
        immudb::{Order, drive},
    },
};

const CALLERS: usize = 64;
const SLICE: Duration = Duration::from_millis(250);
pub const PACE: f64 = 2000.0;
/// The service's database in ImmuDB.
const DATABASE: &str = "aethyr";

/// How the events of the outage are distributed over aggregates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backlog {
    FewAggregates,
    AggregateEach,
}

impl Backlog {
    pub const ALL: [Self; 2] = [Self::FewAggregates, Self::AggregateEach];

    /// Returns the number of aggregates. If each event is to have its own, this is more than the
    /// number of events.
    fn aggregates(self) -> usize {
        match self {
            Self::FewAggregates => 16,
            Self::AggregateEach => 600_000,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outage {
    pub backlog: Backlog,
    /// The median rates of slices of 250 ms.
    pub rate_before: f64,
    pub rate_in_outage: f64,
    pub slices_before: Vec<f64>,
    pub slices_in_outage: Vec<f64>,
    pub longest_wait_ms: f64,
    pub migrated_events: u64,
    pub migration_seconds: f64,
    /// Paced appends before and during the outage, and during the migration.
    pub paced_with_immudb: Percentiles,
    pub paced_in_outage: Percentiles,
    pub paced_in_migration: Percentiles,
    pub copied_events: u64,
    pub copied_keys: u64,
    pub copy_seconds: f64,
}

impl Outage {
    pub fn migration_rate(&self) -> f64 {
        self.migrated_events as f64 / self.migration_seconds
    }

    /// Returns ImmuDB keys per second.
    pub fn copy_rate(&self) -> f64 {
        self.copied_keys as f64 / self.copy_seconds
    }
}

/// The length of each part.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    pub before: Duration,
    pub outage: Duration,
    pub paced: Duration,
}

pub async fn measure(peers: &Peers, folder: &Path, backlog: Backlog, lengths: Lengths) -> Outcome<Outage> {
    process::clear_folder(folder)?;
    let service = Service::start_row(Row::AethyrImmudb, peers, folder).await?;
    let mut system = System::Aethyr(service);
    let shares = Share::many("outage", backlog.aggregates(), CALLERS);
    let callers = Caller::many(system.clients(CALLERS).await?, shares, 11, false, 1);

    let from = Instant::now();
    let (callers, samples) = paced::append(callers, Pacer::start(PACE, lengths.paced), |_, _| ()).await?;
    let settled = paced::between(&samples, from + lengths.paced / 4, from + lengths.paced);

    let progress = Rc::new(Progress::default());
    let mut running = start(callers, progress.clone());
    tokio::time::sleep(lengths.before).await;
    let slices_before = slices(&progress, lengths.before).await;
    immudb(&mut system)?.kill();
    progress.longest.set(Duration::ZERO);
    let slices_in_outage = slices(&progress, lengths.outage).await;
    progress.ending.set(true);
    let callers = ended(&mut running).await?;
    let longest_wait_ms = progress.longest.get().as_secs_f64() * 1e3;

    let (migration, migrated_events) = migrate(&mut system, callers, lengths).await?;
    let copy = copy(system, folder).await?;
    Ok(Outage {
        backlog,
        rate_before: median(&mut slices_before.clone()),
        rate_in_outage: median(&mut slices_in_outage.clone()),
        slices_before,
        slices_in_outage,
        longest_wait_ms,
        migrated_events,
        migration_seconds: migration.seconds,
        paced_with_immudb: Percentiles::of(&settled),
        paced_in_outage: migration.in_outage,
        paced_in_migration: migration.in_migration,
        copied_events: copy.events,
        copied_keys: copy.keys,
        copy_seconds: copy.seconds,
    })
}

/// The progress of the callers, which append until they are stopped.
#[derive(Debug, Default)]
struct Progress {
    count: Cell<u64>,
    longest: Cell<Duration>,
    ending: Cell<bool>,
}

fn start(callers: Vec<Caller>, progress: Rc<Progress>) -> JoinSet<Outcome<Caller>> {
    let mut running = JoinSet::new();
    for mut caller in callers {
        let progress = progress.clone();
        running.spawn_local(async move {
            while !progress.ending.get() {
                let began = Instant::now();
                caller.append(None).await?;
                progress.count.set(progress.count.get() + 1);
                progress.longest.set(progress.longest.get().max(began.elapsed()));
            }
            Ok(caller)
        });
    }
    running
}

async fn ended(running: &mut JoinSet<Outcome<Caller>>) -> Outcome<Vec<Caller>> {
    gather(std::mem::take(running)).await
}

/// Returns the append rates of successive slices.
async fn slices(progress: &Progress, length: Duration) -> Vec<f64> {
    let (mut slices, begin) = (Vec::new(), Instant::now());
    let (mut at, mut count) = (begin, progress.count.get());
    while begin.elapsed() < length {
        tokio::time::sleep(SLICE).await;
        let (now, then) = (Instant::now(), progress.count.get());
        slices.push((then - count) as f64 / (now - at).as_secs_f64());
        (at, count) = (now, then);
    }
    slices
}

struct Migration {
    seconds: f64,
    in_outage: Percentiles,
    in_migration: Percentiles,
}

/// Sends paced appends during the outage, the restart of ImmuDB, and the migration.
async fn migrate(system: &mut System, callers: Vec<Caller>, lengths: Lengths) -> Outcome<(Migration, u64)> {
    const LONGEST: Duration = Duration::from_secs(600);
    let mut watcher = watcher(system).await?;
    let pacer = Pacer::start(PACE, LONGEST);
    let stopper = pacer.stopper();
    let outcome = Rc::new(RefCell::new(None));
    let (put, from) = (outcome.clone(), Instant::now());
    let appending = spawn_local(async move {
        let samples = paced::append(callers, pacer, |_, _| ()).await;
        put.replace(Some(samples));
    });
    tokio::time::sleep(lengths.paced).await;
    let back = Instant::now();
    let start = watcher.stats().await?.forwarded_position;
    immudb(system)?.restart().await;
    watcher.wait_for(|stats| stats.forwarded_position > start).await?;
    let begin = (Instant::now(), watcher.stats().await?.forwarded_position);
    let connected = watcher.wait_for(|stats| stats.state() == State::Connected).await?;
    let end = (Instant::now(), connected.forwarded_position);
    stopper.store(true, Ordering::Relaxed);
    appending.await.map_err(|error| error.to_string())?;
    let (_, samples) = outcome.take().ok_or("no samples")??;
    let migration = Migration {
        seconds: (end.0 - begin.0).as_secs_f64(),
        in_outage: Percentiles::of(&paced::between(&samples, from + lengths.paced / 4, back)),
        in_migration: Percentiles::of(&paced::between(&samples, begin.0, end.0)),
    };
    Ok((migration, end.1 - begin.1))
}

struct Copy {
    events: u64,
    keys: u64,
    seconds: f64,
}

/// Deletes the local log, so that the service restores the history from ImmuDB at its start.
async fn copy(system: System, folder: &Path) -> Outcome<Copy> {
    watcher(&system).await?.wait_for(|stats| stats.pending_events == 0).await?;
    let System::Aethyr(service) = system else { return Err("not Aethyr".to_owned()) };
    let (immudb, setup) = service.stop()?;
    let immudb = immudb.ok_or("no ImmuDB")?;
    let order = Order {
        prefix: String::new(),
        callers: 1,
        events: 1,
        aggregates: 1,
        warm_up: Duration::ZERO,
        length: Duration::ZERO,
        pace: 0.0,
    };
    let keys = drive(&immudb, DATABASE, false, "count-keys", &order).await?.events;
    fs::remove_dir_all(folder.join("storage")).map_err(|error| format!("storage: {error}"))?;
    let began = Instant::now();
    let service = Service::launch(setup).await?;
    let copied = serving(&service).await?;
    Ok(Copy { events: copied, keys, seconds: began.elapsed().as_secs_f64() })
}

/// Waits until the service has left `STATE_COPYING`. Returns its number of events.
async fn serving(service: &Service) -> Outcome<u64> {
    const PATIENCE: Duration = Duration::from_secs(600);
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        // It does not answer immediately after its start.
        if let Ok(stats) = async { service.watcher().await?.stats().await }.await
            && stats.state() != State::Copying
        {
            return Ok(stats.event_count);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err("the service does not finish the restore".to_owned())
}

async fn watcher(system: &System) -> Outcome<Watcher> {
    let System::Aethyr(service) = system else { return Err("not Aethyr".to_owned()) };
    service.watcher().await
}

fn immudb(system: &mut System) -> Outcome<&mut ImmuDb> {
    let System::Aethyr(service) = system else { return Err("not Aethyr".to_owned()) };
    service.immudb.as_mut().ok_or("no ImmuDB".to_owned())
}
