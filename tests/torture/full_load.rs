//! Full load for a long time, without faults: the service must not use more and more of the
//! machine, and nothing may be missing at the end.
//!
//! Real disks, no shim, no proxy. Besides the appends, there is everything that could leave
//! something behind: connections that come and go, loads, snapshots, lists, and subscriptions that
//! are dropped midway. With a pace, there are only appends and followers: then memory must stay
//! constant, except for the share that each stored event may take.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aethyr_event_store::grpc::wire::{
    ListAggregatesRequest, LoadEventsRequest, NewEvent, ReadAllRequest, SaveSnapshotRequest, StatsRequest,
    SubscribeRequest, new_event::Data, subscribe_response::Content,
};
use fastrand::Rng;
use tonic::Status;

use crate::{
    support::{
        events::{event, expecting},
        immudb::ImmuDb,
        service::{Client, Service, Setup},
    },
    watch::{Sample, Watch},
};

/// Memory in bytes that a stored event may take: its share of the filters.
const EVENT_MEMORY: u64 = 3;
const EVENT_BYTES: usize = 256;
/// The limit for one aggregate; then its client continues with another.
const EVENTS_MAX: u64 = 500;

/// What all clients together have seen.
#[derive(Debug, Default)]
struct Seen {
    acknowledged: AtomicU64,
    calls: AtomicU64,
    followed: AtomicU64,
    /// In microseconds.
    longest_wait: AtomicU64,
    ending: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub seed: u64,
    pub length: Duration,
    pub callers: u64,
    pub followers: u64,
    /// Appends per second; 0 for as many as possible, together with all other calls.
    pub pace: u64,
}

/// Runs the load.
///
/// # Errors
/// Returns an error that lists everything that does not hold.
pub async fn run(load: Load) -> Result<(), String> {
    let Load { seed, length, callers, followers, pace } = load;
    let folder = tempfile::tempdir().unwrap();
    let immudb = ImmuDb::start(folder.path()).await;
    let setup = Setup::with_default_deadlines(immudb.port())
        .set("event_sourcing", "event_files: true")
        .set("logging", "level: \"info,aethyr_event_store::telemetry=debug\"");
    let service = Service::start(setup).await;
    service.wait_until_forwarded().await;
    let seen = Arc::new(Seen::default());
    let interval = (pace > 0).then(|| Duration::from_secs(1).mul_f64(callers as f64 / pace as f64));
    let callers: Vec<_> = (0..callers)
        .map(|number| {
            let caller = Caller {
                interval,
                client: service.client(),
                number,
                generation: 0,
                sequence: 0,
                random: Rng::with_seed(seed.wrapping_mul(1009).wrapping_add(number)),
                seen: seen.clone(),
            };
            tokio::spawn(caller.run(service.port()))
        })
        .collect();
    let followers: Vec<_> =
        (0..followers).map(|_| tokio::spawn(follow(service.client(), seen.clone()))).collect();
    let watch = watch(&service, &seen, length).await;
    seen.ending.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap().map_err(|status| format!("a call failed: {status:?}"))?;
    }
    for follower in followers {
        follower.await.unwrap().map_err(|status| format!("a subscription failed: {status:?}"))?;
    }
    service.wait_until_forwarded().await;
    check_order(&service, &seen).await?;
    println!(
        "full load: {} calls, {} events acknowledged and in ImmuDB, {} followed, longest wait {:.2} s",
        seen.calls.load(Ordering::Relaxed),
        seen.acknowledged.load(Ordering::Relaxed),
        seen.followed.load(Ordering::Relaxed),
        Duration::from_micros(seen.longest_wait.load(Ordering::Relaxed)).as_secs_f64()
    );
    println!("{watch}");
    let growth = if pace > 0 { grown_at_a_pace(&watch) } else { watch.growth() };
    if growth.is_empty() { Ok(()) } else { Err(growth.join("\n")) }
}

/// Returns a message if memory grew by more than a tenth from the second third of the time to the
/// last.
fn grown_at_a_pace(watch: &Watch) -> Vec<String> {
    let beside_events = |sample: &Sample| {
        let events = sample.events.unwrap_or(0) * EVENT_MEMORY / 1024;
        (sample.mebibytes * 1024).saturating_sub(events)
    };
    let [early, late] = [1, 2].map(|third| watch.median(third, 3, beside_events));
    println!("full load: memory less {EVENT_MEMORY} bytes an event: {early} KiB, then {late} KiB");
    let is_grown = late > early + early / 10;
    is_grown.then(|| format!("memory grew from {early} to {late} KiB")).into_iter().collect()
}

async fn watch(service: &Service, seen: &Seen, length: Duration) -> Watch {
    let mut watch = Watch::new();
    let end = Instant::now() + length;
    while Instant::now() < end {
        tokio::time::sleep(Watch::EVERY).await;
        let log = service.log();
        let tasks =
            log.rsplit_once("tasks=").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        watch.look(service.process_id(), tasks, Some(seen.acknowledged.load(Ordering::Relaxed)));
    }
    watch
}

/// Checks that everything acknowledged is stored without a gap, and is in ImmuDB.
async fn check_order(service: &Service, seen: &Seen) -> Result<(), String> {
    let stats = service.stats().await;
    let acknowledged = seen.acknowledged.load(Ordering::Relaxed);
    let mut stream = service.client().read_all(ReadAllRequest::default()).await.unwrap().into_inner();
    let mut position = 0;
    while let Some(piece) = stream.message().await.map_err(|status| format!("{status:?}"))? {
        for event in piece.events {
            position += 1;
            if event.position != position {
                return Err(format!("{} stands at {position}", event.position));
            }
        }
    }
    let counts = [position, stats.event_count, stats.last_position, stats.forwarded_position];
    match counts.iter().all(|count| *count == acknowledged) {
        true => Ok(()),
        false => Err(format!("{acknowledged} events were acknowledged, and there are {counts:?}")),
    }
}

struct Caller {
    client: Client,
    /// The time between two appends.
    interval: Option<Duration>,
    number: u64,
    /// The generation of its aggregate.
    generation: u64,
    sequence: u64,
    random: Rng,
    seen: Arc<Seen>,
}

impl Caller {
    async fn run(mut self, port: u16) -> Result<(), Status> {
        if let Some(interval) = self.interval {
            return self.append_at_a_pace(interval).await;
        }
        while !self.seen.ending.load(Ordering::Relaxed) {
            let began = Instant::now();
            match self.random.u8(..100) {
                0..90 => self.append().await?,
                90..94 => self.load().await?,
                94..96 => self.save_snapshot().await?,
                96 => self.list().await?,
                97 => self.give_up_a_subscription().await?,
                _ => self.come_and_go(port).await?,
            }
            self.seen.calls.fetch_add(1, Ordering::Relaxed);
            self.seen.longest_wait.fetch_max(began.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn append_at_a_pace(mut self, interval: Duration) -> Result<(), Status> {
        let mut due = tokio::time::interval(interval);
        while !self.seen.ending.load(Ordering::Relaxed) {
            due.tick().await;
            let began = Instant::now();
            self.append_events(1).await?;
            self.seen.calls.fetch_add(1, Ordering::Relaxed);
            self.seen.longest_wait.fetch_max(began.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn aggregate(&self) -> String {
        format!("room-{}-{}", self.number, self.generation)
    }

    async fn append(&mut self) -> Result<(), Status> {
        let count = if self.random.u8(..10) == 0 { self.random.u64(2..20) } else { 1 };
        self.append_events(count).await
    }

    async fn append_events(&mut self, count: u64) -> Result<(), Status> {
        if self.sequence >= EVENTS_MAX {
            (self.generation, self.sequence) = (self.generation + 1, 0);
        }
        let aggregate = self.aggregate();
        let one = |_| {
            let data = (0..EVENT_BYTES).map(|_| self.random.u8(..)).collect::<Vec<u8>>();
            NewEvent { data: Some(Data::Binary(data.into())), ..event(&aggregate) }
        };
        let events = (0..count).map(one).collect();
        self.client.append_events(expecting(events, &[(&aggregate, self.sequence)])).await?;
        self.sequence += count;
        self.seen.acknowledged.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    async fn load(&mut self) -> Result<(), Status> {
        if self.sequence == 0 {
            return Ok(());
        }
        let request = LoadEventsRequest {
            aggregate_id: self.aggregate(),
            from_snapshot: true,
            ..LoadEventsRequest::default()
        };
        let mut stream = self.client.load_events(request).await?.into_inner();
        while stream.message().await?.is_some() {}
        Ok(())
    }

    async fn save_snapshot(&mut self) -> Result<(), Status> {
        if self.sequence == 0 {
            return Ok(());
        }
        let (aggregate_id, sequence_number) = (self.aggregate(), self.sequence);
        let snapshot =
            SaveSnapshotRequest { aggregate_id, sequence_number, ..SaveSnapshotRequest::default() };
        self.client.save_snapshot(snapshot).await?;
        Ok(())
    }

    async fn list(&mut self) -> Result<(), Status> {
        self.client.list_aggregates(ListAggregatesRequest::default()).await?;
        Ok(())
    }

    /// Reads a little of a subscription, and drops it.
    async fn give_up_a_subscription(&mut self) -> Result<(), Status> {
        let mut stream = self.client.subscribe(SubscribeRequest::default()).await?.into_inner();
        for _ in 0..self.random.u8(..3) {
            stream.message().await?;
        }
        Ok(())
    }

    /// Opens a connection for a single call.
    async fn come_and_go(&mut self, port: u16) -> Result<(), Status> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://127.0.0.1:{port}"));
        Client::new(endpoint.unwrap().connect_lazy()).stats(StatsRequest {}).await?;
        Ok(())
    }
}

/// Follows from the beginning, and checks that nothing is left out.
async fn follow(mut client: Client, seen: Arc<Seen>) -> Result<(), Status> {
    let mut stream = client.subscribe(SubscribeRequest::default()).await?.into_inner();
    let mut position = 0;
    while !seen.ending.load(Ordering::Relaxed) {
        let next = tokio::time::timeout(Duration::from_millis(500), stream.message()).await;
        let Ok(message) = next else { continue };
        if let Some(Content::Events(batch)) = message?.and_then(|message| message.content) {
            for event in batch.events {
                position += 1;
                assert_eq!(event.position, position, "a follower was left out");
            }
        }
    }
    seen.followed.fetch_add(position, Ordering::Relaxed);
    Ok(())
}
