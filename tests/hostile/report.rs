//! The report of a run: what was sent, what was answered, and what it cost the service.
//!
//! It fails if an attack leaves anything behind.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use aethyr_event_store::grpc::wire::{ListAggregatesRequest, NewEvent, new_event::Data};

use crate::{
    Allowed, HANG,
    honest::Honest,
    messages::MALFORMED,
    support::{
        events::{append, event, load, whole_order},
        service::Service,
    },
};

/// The service's own files that come and go: segments, the index, the connections of the read
/// models.
const FILES_MORE_MAX: usize = 36;

/// An attack must not fill the log: it may add this many lines, and one per second.
const LINES_MAX: u64 = 20;

/// The aggregate of the large events.
pub const LARGE: &str = "large";

/// What an attack sent, and how it was answered.
#[derive(Debug, Default)]
pub struct Tally {
    pub sent: u64,
    pub outcomes: BTreeMap<String, u64>,
    /// Events of attackers that the service acknowledged.
    pub stored: u64,
    /// What must not happen.
    pub wrong: Vec<String>,
}

impl Tally {
    pub fn note(&mut self, outcome: impl Into<String>) {
        self.sent += 1;
        *self.outcomes.entry(outcome.into()).or_default() += 1;
    }

    pub fn wrong(&mut self, what: String) {
        if self.wrong.len() < 20 {
            self.wrong.push(what);
        }
    }

    pub fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.stored += other.stored;
        for (outcome, count) in other.outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
        other.wrong.into_iter().for_each(|what| self.wrong(what));
    }
}

/// The resources that the process holds.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    pub resident: u64,
    pub resident_peak: u64,
    pub threads: u64,
    pub files: usize,
}

impl Figures {
    pub fn of(service: &Service) -> Self {
        let process = format!("/proc/{}", service.process_id());
        let status = fs::read_to_string(format!("{process}/status")).expect("the service runs");
        let of = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        Self {
            resident: of("VmRSS:") << 10,
            resident_peak: of("VmHWM:") << 10,
            threads: of("Threads:"),
            files: fs::read_dir(format!("{process}/fd")).unwrap().count(),
        }
    }

    /// Resets the peak to the current value.
    fn forget_peak(service: &Service) {
        fs::write(format!("/proc/{}/clear_refs", service.process_id()), "5").unwrap();
    }
}

/// All attacks of one run, on one service.
pub struct Report {
    service: Service,
    honest: Honest,
    /// The resources before the first call.
    before: Figures,
    attacks: u64,
    sent: u64,
    /// Attackers' events that were acknowledged.
    stored: u64,
    peak: u64,
    resident_max: u64,
    /// Lines in the log.
    lines: u64,
}

impl Report {
    pub async fn begin(service: Service, resident_max: u64) -> Self {
        let before = Figures::of(&service);
        let honest = Honest::start(&service).await;
        Self { service, honest, before, attacks: 0, sent: 0, stored: 0, peak: 0, resident_max, lines: 0 }
    }

    /// Runs one attack while honest clients are served, and checks what it left behind.
    pub async fn attack(&mut self, name: &str, allowed: Allowed, attack: impl Future<Output = Tally>) {
        Figures::forget_peak(&self.service);
        self.honest.begin(allowed);
        let began = Instant::now();
        let tally = attack.await;
        let took = began.elapsed();
        let figures = Figures::of(&self.service);
        // An attack may be over before the next call of an honest client.
        while self.honest.seen().served == 0 && began.elapsed() < took + HANG {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let seen = self.honest.seen();
        self.peak = self.peak.max(figures.resident_peak);
        println!(
            "hostile: {name}: {} sent, {:?}; honest: {} served, {:?} refused, longest wait {:.2} s; \
             peak {} MiB, {:.0} s",
            tally.sent,
            tally.outcomes,
            seen.served,
            seen.refused,
            seen.longest.as_secs_f64(),
            figures.resident_peak >> 20,
            took.as_secs_f64()
        );
        assert!(tally.wrong.is_empty(), "{name}: {}", tally.wrong.join("\n"));
        assert!(tally.sent > 0, "{name}: nothing was sent");
        assert!(seen.wrong.is_empty(), "{name}: honest callers: {}", seen.wrong.join("\n"));
        assert!(seen.served > 0, "{name}: no honest caller was served");
        assert!(figures.resident_peak < self.resident_max, "{name}: {} MiB", figures.resident_peak >> 20);
        let log = self.service.log();
        assert!(!log.contains("panicked"), "{name}: the service panicked");
        let lines = log.lines().count() as u64;
        assert!(lines < LINES_MAX + took.as_secs() + self.lines, "{name}: {lines} lines in the log");
        self.lines = lines;
        self.sent += tally.sent;
        self.stored += tally.stored;
        self.attacks += 1;
        self.settle(name).await;
        self.honest.wait_until_all_are_served(allowed).await;
    }

    /// Waits until the resources of the attackers, which have left, are free again.
    async fn settle(&self, name: &str) {
        let until = Instant::now() + HANG;
        while Figures::of(&self.service).files
            > self.before.files + self.honest.connections() + FILES_MORE_MAX
        {
            assert!(Instant::now() < until, "{name}: connections are left: {:?}", Figures::of(&self.service));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Appends large events, as an honest client, for attackers that do not read them.
    pub async fn fill_for_readers(&mut self) {
        const EVENTS: usize = 40;
        const BYTES: usize = 900_000;
        let mut client = self.service.client();
        for _ in 0..EVENTS {
            let data = Some(Data::Binary(vec![7; BYTES].into()));
            append(&mut client, vec![NewEvent { data, ..event(LARGE) }]).await;
        }
        self.stored += EVENTS as u64;
    }

    /// Stops the honest clients, and proves that exactly the acknowledged events are stored.
    pub async fn end(mut self) -> u64 {
        let mut waits = self.honest.appends();
        let acknowledged = self.honest.end().await;
        let mut client = self.service.client();
        for (aggregate, ids) in &acknowledged {
            let there: Vec<String> =
                load(&mut client, aggregate).await.into_iter().map(|event| event.event_id).collect();
            assert!(there == *ids, "{aggregate}: {} acknowledged, {} there", ids.len(), there.len());
        }
        let honest: usize = acknowledged.values().map(Vec::len).sum();
        let stats = self.service.stats().await;
        assert_eq!(stats.event_count, honest as u64 + self.stored, "more or less is stored than was told");
        let malformed = ListAggregatesRequest {
            aggregate_id_prefix: MALFORMED.to_owned(),
            ..ListAggregatesRequest::default()
        };
        let found = client.list_aggregates(malformed).await.unwrap().into_inner().aggregates;
        assert!(found.is_empty(), "stored although it was malformed: {found:?}");
        assert_eq!(whole_order(&mut client).await.len() as u64, stats.event_count);
        drop(client);
        self.wait_for_threads().await;
        self.wait_for_rest().await;
        println!(
            "hostile: {} attacks, {} requests, {honest} events of honest callers and {} of attackers stored, \
             peak {} MiB, at the end {:?}",
            self.attacks,
            self.sent,
            self.stored,
            self.peak >> 20,
            Figures::of(&self.service)
        );
        println!(
            "hostile: {} honest appends, p99.9 {:.3} s, longest {:.3} s",
            waits.len(),
            waits.all_but_one_in(1000).as_secs_f64(),
            waits.longest().as_secs_f64()
        );
        assert!(self.service.stop().success());
        self.attacks
    }

    /// Waits until the memory that the attacks used is returned to the system.
    async fn wait_for_rest(&self) {
        const AT_REST_MAX: u64 = 200 << 20;
        let until = Instant::now() + HANG;
        while Figures::of(&self.service).resident > AT_REST_MAX {
            assert!(Instant::now() < until, "still held at rest: {:?}", Figures::of(&self.service));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn wait_for_threads(&self) {
        let until = Instant::now() + HANG;
        while Figures::of(&self.service).threads > self.before.threads {
            let now = Figures::of(&self.service);
            assert!(Instant::now() < until, "threads are left: {:?}, then {now:?}", self.before);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
