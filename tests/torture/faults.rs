//! Which faults happen, and when: one series of faults for each component, drawn from the seed. The
//! series run side by side.

mod immudb;
mod service;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aethyr_event_store::grpc::wire::{AppendEventsResponse, State, StatsRequest, StoredIn};
use fastrand::Rng;
use rustix::process::Signal;

use crate::{
    callers::Known,
    crowds,
    history::{At, History, Outcome},
    power::{self, Survives},
    support::{
        events::{event, request},
        proxy::Mode,
        service::Service,
    },
    world::{Control, World, state_within},
};

/// The faults that happened, and everything that affects how long a call may take.
#[derive(Debug, Default)]
pub struct Faults {
    pub counts: BTreeMap<&'static str, u64>,
    /// The times in which the service was stopped or not running.
    pub service_down: Vec<(At, At)>,
    /// The times in which the machine did not run what was due.
    pub stalls: Vec<(At, At)>,
    /// The times in which ImmuDB was not available, or not fast enough.
    pub immudb_gone: Vec<(At, At)>,
    /// The appends that test what a fault leaves, or that are a fault themselves.
    pub history: History,
}

/// A request to ImmuDB with more bytes than this contains events.
const WITH_EVENTS: usize = 1000;
/// The size of a log segment's header.
const HEADER_BYTES: usize = 64;

/// The faults that can be selected, and the number by which each is drawn in its series.
const BY_SERVICE: [(&str, u8); 8] = [
    ("power cut", 2),
    ("sync fails, and nobody helps", 10),
    ("no more files", 12),
    ("sync fails", 24),
    ("index fails", 16),
    ("index shared", 18),
    ("older copy of the log put back", 19),
    ("disk full, and nobody helps", 9),
];
const FIRST_CANCELLED: &str = "first request cancelled, the next late";
const BY_NETWORK: [(&str, u8); 2] = [("late answers", 5), (FIRST_CANCELLED, 10)];
const BY_CROWDS: [(&str, u8); 1] = [("storm of known ids", 0)];
const BY_SECOND_WRITERS: [(&str, u8); 2] = [("deposed writer", 0), ("locks removed", 1)];

pub fn may_be_frequent(fault: &str) -> bool {
    let known = BY_SERVICE.iter().chain(&BY_NETWORK).chain(&BY_CROWDS).chain(&BY_SECOND_WRITERS);
    known.into_iter().any(|(name, _)| *name == fault)
}

/// The series of faults of one component.
struct Series<'a> {
    world: &'a World,
    known: &'a Known,
    mostly: Option<&'a str>,
    random: Rng,
    end: Instant,
    faults: Faults,
}

impl Faults {
    pub async fn run(
        world: &World,
        known: &Known,
        seed: u64,
        length: Duration,
        mostly: Option<&str>,
    ) -> Self {
        let series = |part: u64| Series {
            world,
            known,
            mostly,
            random: Rng::with_seed(seed.wrapping_mul(31).wrapping_add(part)),
            end: Instant::now() + length,
            faults: Self::default(),
        };
        let [mut service, mut immudb, mut network, mut clock, mut others, mut crowds, mut supervisor] =
            [1, 2, 3, 4, 5, 6, 7].map(series);
        let all_of_them = async {
            tokio::join!(
                service.service(),
                immudb.immudb(),
                network.network(),
                clock.clock(),
                others.second_writers(),
                crowds.crowds()
            )
        };
        tokio::select! {
            _ = all_of_them => {}
            () = supervisor.supervise() => unreachable!("it supervises forever"),
        }
        let mut all = Self::default();
        for series in [service, immudb, network, clock, others, crowds, supervisor] {
            for (fault, count) in series.faults.counts {
                *all.counts.entry(fault).or_default() += count;
            }
            all.immudb_gone.extend(series.faults.immudb_gone);
            all.history.add(series.faults.history);
        }
        all
    }
}

impl Series<'_> {
    /// Waits without a fault. Returns `false` at the end of the run.
    async fn pause(&mut self, least: u64, most: u64) -> bool {
        let length = self.random.u64(least..most);
        tokio::time::sleep(Duration::from_millis(length)).await;
        Instant::now() < self.end
    }

    async fn for_a_while(&mut self, least: u64, most: u64) {
        let length = self.random.u64(least..most);
        tokio::time::sleep(Duration::from_millis(length)).await;
    }

    /// Returns the number of the next fault, drawn from `numbers`.
    fn draw(&mut self, numbers: u8, by_name: &[(&str, u8)]) -> u8 {
        let frequent = self.mostly.and_then(|fault| by_name.iter().find(|(name, _)| *name == fault));
        match frequent {
            Some((_, number)) if self.random.u8(..4) > 0 => *number,
            _ => self.random.u8(..numbers),
        }
    }

    fn count(&mut self, fault: &'static str) {
        *self.faults.counts.entry(fault).or_default() += 1;
    }

    async fn service(&mut self) {
        while self.pause(200, 2000).await {
            match self.draw(25, &BY_SERVICE) {
                0 | 1 => self.kill_service("service killed", |_, _| {}).await,
                2..=4 => {
                    let world = self.world;
                    self.kill_service("power cut", |random, _| {
                        let survives = if random.bool() { Survives::Nothing } else { Survives::SomePages };
                        power::cut(&world.undo(), survives, random);
                    })
                    .await;
                }
                5 => {
                    self.kill_service("garbage behind the log", |random, segments| {
                        let garbage: Vec<u8> = (0..random.usize(1..9000)).map(|_| random.u8(..)).collect();
                        let mut bytes = std::fs::read(segments).unwrap();
                        // A segment without its header is created again, and never appended to.
                        if bytes.len() >= HEADER_BYTES {
                            // Free space may follow the last frame, which may end in zeros.
                            let last = bytes.iter().rposition(|byte| *byte != 0).unwrap_or_default();
                            let behind = (last + 16).max(HEADER_BYTES).min(bytes.len());
                            let at = *random.choice([behind, bytes.len()].iter()).unwrap();
                            let end = at + garbage.len();
                            bytes.resize(end.max(bytes.len()), 0);
                            bytes[at..end].copy_from_slice(&garbage);
                            std::fs::write(segments, bytes).unwrap();
                        }
                    })
                    .await;
                }
                6 | 7 => {
                    self.count("service stopped for a while");
                    let from = self.world.now();
                    self.world.service.lock().await.signal(Signal::STOP);
                    self.for_a_while(50, 1500).await;
                    self.world.service.lock().await.signal(Signal::CONT);
                    self.world.was_down(from);
                }
                8 => {
                    self.count("disk full");
                    self.world.control(Control::DiskFull, 1);
                    self.for_a_while(50, 1000).await;
                    self.world.control(Control::DiskFull, 0);
                    self.kill_service("service killed", |_, _| {}).await;
                }
                9 => {
                    self.goes_wrong_for_a_while("disk full, and nobody helps", Control::DiskFull, 2000).await;
                }
                10 | 11 => {
                    self.goes_wrong_for_a_while("sync fails, and nobody helps", Control::SyncFails, 500)
                        .await;
                }
                12 | 13 => self.few_files().await,
                14 => self.refuses("writes disabled", "event_sourcing", "enabled: false", 3000).await,
                15 => {
                    // Now and then for so long that health has to report it.
                    let most = if self.random.u8(..3) == 0 { 22_000 } else { 3000 };
                    self.refuses("no room allowed", "limits", "disk_free_min: 1125899906842624", most).await;
                }
                16 | 17 => self.index_fails().await,
                18 => self.shares_its_index().await,
                19..=22 => self.older_copy().await,
                _ => {
                    self.count("sync fails");
                    self.world.control(Control::SyncFails, 1);
                    self.for_a_while(50, 500).await;
                    self.world.control(Control::SyncFails, 0);
                    self.kill_service("service killed", |_, _| {}).await;
                }
            }
        }
    }

    /// Kills the service and starts it again. `meanwhile` gets the path of the last segment.
    async fn kill_service(
        &mut self,
        fault: &'static str,
        meanwhile: impl FnOnce(&mut Rng, &std::path::Path),
    ) {
        self.count(fault);
        let mut service = self.world.service.lock().await;
        let from = self.world.now();
        service.kill();
        let last = service.segments().pop();
        if let Some(last) = last {
            meanwhile(&mut self.random, &last);
        }
        power::forget(&self.world.undo());
        service::copy_log(&service);
        let down = self.random.u64(0..300);
        tokio::time::sleep(Duration::from_millis(down)).await;
        service.restart().await;
        self.world.was_down(from);
    }

    async fn network(&mut self) {
        let proxy = &self.world.proxy;
        while self.pause(100, 1500).await {
            let from = self.world.now();
            let (fault, mode) = match self.draw(11, &BY_NETWORK) {
                0 => ("connections cut", None),
                1 => ("connections refused", Some(Mode::PassAndRefuse)),
                2 => ("answers lost", Some(Mode::DropAnswers)),
                3 => ("half-open connection", Some(Mode::KeepRequests)),
                4 => ("slow network", Some(Mode::Slow)),
                5 | 6 => {
                    // Half of the delays are slow, but still in time.
                    let most = if self.random.bool() { 950 } else { 2500 };
                    let late = Duration::from_millis(self.random.u64(300..most));
                    ("late answers", Some(Mode::LateAnswers(late)))
                }
                10 => {
                    // Only a connected service has two requests in flight.
                    self.until_connected().await;
                    let from = self.world.now();
                    self.count(FIRST_CANCELLED);
                    proxy.set(Mode::KeepRequests);
                    self.for_a_while(50, 500).await;
                    // The next request arrives before any retry, or after the first retry.
                    let late = proxy.cut_and_keep_then(match self.random.u8(..4) {
                        0 => Mode::PassAndRefuse,
                        _ => Mode::DropAnswersAbove(WITH_EVENTS),
                    });
                    self.for_a_while(50, 1000).await;
                    late.deliver_without_first();
                    self.for_a_while(50, 500).await;
                    proxy.set(Mode::Pass);
                    proxy.cut();
                    self.faults.immudb_gone.push((from, self.world.now()));
                    continue;
                }
                _ => {
                    // Requests in flight arrive late, when another session has continued.
                    self.count("requests delivered late");
                    proxy.set(Mode::KeepRequests);
                    self.for_a_while(20, 300).await;
                    let late = proxy.cut_and_keep();
                    self.for_a_while(0, 2000).await;
                    late.deliver();
                    self.faults.immudb_gone.push((from, self.world.now()));
                    continue;
                }
            };
            self.count(fault);
            if let Some(mode) = mode {
                proxy.set(mode);
                let (least, most) = match mode {
                    Mode::LateAnswers(_) => (2000, 12_000),
                    _ => (50, 2500),
                };
                self.for_a_while(least, most).await;
            }
            proxy.set(Mode::Pass);
            if self.random.bool() {
                proxy.cut();
            }
            self.faults.immudb_gone.push((from, self.world.now()));
        }
    }

    /// Waits until the service is connected, and a bit longer: some transactions then go alone.
    async fn until_connected(&mut self) {
        const WITHIN: Duration = Duration::from_secs(3);
        let mut client = self.world.client();
        let connected = async {
            while client
                .stats(StatsRequest {})
                .await
                .is_ok_and(|stats| stats.get_ref().state() != State::Connected)
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        _ = tokio::time::timeout(WITHIN, connected).await;
        self.for_a_while(100, 500).await;
    }

    async fn clock(&mut self) {
        while self.pause(500, 4000).await {
            const YEAR: i64 = 31_556_952;
            let seconds = match self.random.u8(..4) {
                0 => {
                    self.count("clock set by years");
                    // Linux allows no clock before 1970.
                    self.random.i64(-50..200) * YEAR
                }
                _ => {
                    self.count("clock set");
                    self.random.i64(-100_000..100_000)
                }
            };
            self.world.control(Control::ClockSeconds, seconds);
        }
    }

    async fn crowds(&mut self) {
        let mut large = 1;
        while self.pause(500, 4000).await {
            let length = Duration::from_millis(self.random.u64(500..4000));
            match self.draw(6, &BY_CROWDS) {
                0 | 1 => {
                    self.count("storm of known ids");
                    let storm = crowds::storm_of_known_ids(self.world, &mut self.random, self.known, length);
                    let storm = storm.await;
                    self.faults.history.add(storm);
                }
                2 | 3 => {
                    self.count("callers vanish");
                    let vanished = crowds::vanish(self.world, &mut self.random).await;
                    self.faults.history.add(vanished);
                }
                4 => {
                    self.count("large frame");
                    let append = crowds::append_a_large_frame(self.world, &mut self.random).await;
                    if let Outcome::Stored(stored) = &append.outcome {
                        large = stored.first_position;
                    }
                    self.faults.history.appends.push(append);
                }
                _ => {
                    self.count("streams that are not read");
                    crowds::leave_streams_unread(self.world, large, length).await;
                }
            }
        }
    }

    async fn second_writers(&mut self) {
        let mut claimed = false;
        while self.pause(4000, 12_000).await {
            claimed = claimed || self.has_forwarded().await;
            if !claimed {
                continue;
            }
            match self.draw(4, &BY_SECOND_WRITERS) {
                0 => self.usurper().await,
                1 => self.second_process().await,
                _ => self.intruder().await,
            }
        }
    }

    /// Returns whether the database is claimed: an empty one belongs to the first writer.
    async fn has_forwarded(&self) -> bool {
        let mut client = self.world.client();
        let answer = tokio::time::timeout(Duration::from_secs(1), client.stats(StatsRequest {})).await;
        answer.is_ok_and(|answer| answer.is_ok_and(|stats| stats.into_inner().forwarded_position > 0))
    }

    /// Starts a second service that respects the claim of the database, and gets nothing.
    async fn intruder(&mut self) {
        self.count("second writer");
        let port = self.world.immudb.lock().await.port();
        let mut intruder = self.world.intruder(port);
        intruder.launch();
        let claimed = |state| matches!(state, State::Connected | State::Migrating | State::Suspect);
        let state =
            state_within(&intruder, Duration::from_secs(2), |state| claimed(state) || state == State::Fenced);
        if let Some(state) = state.await.filter(|state| claimed(*state)) {
            let log = intruder.log();
            self.faults
                .history
                .violation("second writer", format!("{state:?} at {:?}:\n{log}", self.world.now()));
        }
        intruder.kill();
    }

    /// Starts a second service that takes over the database, sleeps while the first takes it back,
    /// and then believes that it still has it. No event that it accepts may reach ImmuDB.
    async fn usurper(&mut self) {
        let _contested = self.world.contested.lock().await;
        let port = self.world.immudb.lock().await.port();
        let mut usurper = self.world.usurper(port);
        let from = self.world.now();
        usurper.launch();
        let has_it = |state| state == State::Connected;
        let took = state_within(&usurper, Duration::from_secs(10), has_it).await.is_some_and(has_it);
        match took {
            true => usurper.signal(Signal::STOP),
            // It would keep trying.
            false => usurper.kill(),
        }
        let taken_back = self.world.take_back().await;
        self.faults.immudb_gone.push((from, self.world.now()));
        if took {
            usurper.signal(Signal::CONT);
        }
        if took && taken_back {
            self.count("deposed writer");
            let answer = append_as_usurper(&usurper).await;
            if answer.is_some_and(|answer| answer.stored_in() == StoredIn::Immudb) {
                self.faults.history.violation("second writer", "deposed, and wrote into ImmuDB".to_owned());
            }
        }
        usurper.kill();
    }
}

async fn append_as_usurper(usurper: &Service) -> Option<AppendEventsResponse> {
    let mut client = usurper.client();
    let append = client.append_events(request(vec![event("room-0"), event("room-1")]));
    let answer = tokio::time::timeout(Duration::from_secs(3), append).await.ok()?;
    answer.ok().map(tonic::Response::into_inner)
}
