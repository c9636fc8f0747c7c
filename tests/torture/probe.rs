//! Queries the service's health and calls it at the same time: health has to report what a client
//! experiences.
//!
//! Only lasting differences count: between the two calls, anything may happen.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aethyr_event_store::grpc::wire::{
    AppendEventsRequest, LoadEventsRequest, NewEvent, StatsRequest, StoredIn,
};
use fastrand::Rng;
use tokio::{task::JoinHandle, time::timeout};
use tonic::{Code, transport::Channel};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};
use uuid::Uuid;

use crate::{
    callers::{any_aggregate, outcome_of},
    history::{Append, At, History, Outcome, aggregate_id, aggregate_type, event_type},
    support::{events::request, service::Client},
    world::{Clock, World},
};

const EVERY: Duration = Duration::from_millis(300);
/// A call that takes longer is not answered.
const PATIENCE: Duration = Duration::from_secs(3);
/// Health changes after ten seconds of refusals.
const REFUSED_MAX: Duration = Duration::from_secs(15);
/// Health recovers as soon as the service does.
const TAKEN_MAX: Duration = Duration::from_secs(5);

pub struct Probe {
    ending: Arc<AtomicBool>,
    probing: JoinHandle<History>,
}

impl Probe {
    pub fn start(world: &World) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let prober = Prober {
            client: world.client(),
            health: HealthClient::new(world.endpoint().connect_lazy()),
            clock: world.clock(),
            random: Rng::with_seed(1),
            history: History::default(),
            lasting: Vec::new(),
            told: BTreeSet::new(),
        };
        Self { probing: tokio::spawn(prober.run(ending.clone())), ending }
    }

    pub async fn end(self) -> History {
        self.ending.store(true, Ordering::SeqCst);
        self.probing.await.unwrap()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Serving,
    NotServing,
    NoAnswer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Write {
    Taken(StoredIn),
    /// Refused by configuration, which is not a fault.
    Disabled,
    Refused(String),
    NoAnswer,
}

struct Prober {
    client: Client,
    health: HealthClient<Channel>,
    clock: Clock,
    random: Rng,
    history: History,
    /// The current differences, and since when each has lasted.
    lasting: Vec<(&'static str, At)>,
    told: BTreeSet<&'static str>,
}

impl Prober {
    async fn run(mut self, ending: Arc<AtomicBool>) -> History {
        let mut forwarded_before = None;
        while !ending.load(Ordering::SeqCst) {
            tokio::time::sleep(EVERY).await;
            let [service, reads, immudb] =
                [self.health("").await, self.health("reads").await, self.health("immudb").await];
            let write = self.write().await;
            let is_read = self.read().await;
            let forwarded = self.forwarded().await;
            let stands_still =
                forwarded.is_some_and(|(position, pending)| pending && forwarded_before == Some(position));
            forwarded_before = forwarded.map(|(position, _)| position);
            let refused = matches!(write, Write::Refused(_));
            let fine = matches!(write, Write::Taken(_) | Write::Disabled);
            let in_immudb = write == Write::Taken(StoredIn::Immudb);
            let (serving, not_serving) = (Health::Serving, Health::NotServing);
            for (what, wrong, longest) in [
                ("SERVING while writes are refused", service == serving && refused, REFUSED_MAX),
                ("NOT_SERVING while writes are taken", service == not_serving && fine, TAKEN_MAX),
                ("reads: SERVING while reads fail", reads == serving && is_read == Some(false), REFUSED_MAX),
                (
                    "reads: NOT_SERVING while reads work",
                    reads == not_serving && is_read == Some(true),
                    TAKEN_MAX,
                ),
                ("immudb: SERVING while nothing reaches it", immudb == serving && stands_still, REFUSED_MAX),
                ("immudb: NOT_SERVING while events reach it", immudb == not_serving && in_immudb, TAKEN_MAX),
            ] {
                self.note(what, wrong, longest, &write);
            }
        }
        self.history
    }

    fn note(&mut self, what: &'static str, wrong: bool, longest: Duration, write: &Write) {
        let now = self.clock.now();
        if !wrong {
            self.lasting.retain(|(known, _)| *known != what);
            return;
        }
        let since = self.lasting.iter().find(|(known, _)| *known == what).map(|(_, since)| *since);
        match since {
            None => self.lasting.push((what, now)),
            Some(since) if now - since > longest && self.told.insert(what) => {
                let violation = format!("{what}, from {since:?} to {now:?}: {write:?}");
                self.history.violation("health", violation);
            }
            Some(_) => {}
        }
    }

    async fn health(&mut self, service: &'static str) -> Health {
        let request = HealthCheckRequest { service: service.to_owned() };
        match timeout(PATIENCE, self.health.check(request)).await {
            Ok(Ok(answer)) if answer.get_ref().status == ServingStatus::Serving as i32 => Health::Serving,
            Ok(Ok(_)) => Health::NotServing,
            Ok(Err(status)) if status.code() == Code::NotFound => {
                if self.told.insert(service) {
                    self.history.violation("health", format!("{service:?} is not known"));
                }
                Health::NoAnswer
            }
            Ok(Err(_)) | Err(_) => Health::NoAnswer,
        }
    }

    async fn write(&mut self) -> Write {
        let aggregate = any_aggregate(&mut self.random, self.clock.now());
        let id = Uuid::new_v4();
        let event = NewEvent {
            event_id: id.to_string(),
            aggregate_id: aggregate_id(aggregate),
            aggregate_type: aggregate_type(aggregate),
            event_type: event_type(0),
            ..NewEvent::default()
        };
        let began = self.clock.now();
        let sent: AppendEventsRequest = request(vec![event]);
        let answer = timeout(PATIENCE, self.client.append_events(sent)).await;
        let ended = self.clock.now();
        let (outcome, reason, stored_in) = match answer {
            Ok(answer) => {
                let answer = answer.map(tonic::Response::into_inner);
                let stored_in = answer.as_ref().ok().map(|answer| answer.stored_in());
                let (outcome, reason) = outcome_of(answer);
                (outcome, reason, stored_in)
            }
            Err(_) => (Outcome::Unknown, None, None),
        };
        let events = vec![(id, aggregate)];
        self.history.appends.push(Append { began, ended, events, expected: None, attempts: 1, outcome });
        match (stored_in, reason.as_deref()) {
            (Some(stored_in), _) => Write::Taken(stored_in),
            (None, Some("EVENT_SOURCING_DISABLED")) => Write::Disabled,
            (None, None | Some("STARTING" | "SHUTTING_DOWN")) => Write::NoAnswer,
            (None, Some(reason)) => Write::Refused(reason.to_owned()),
        }
    }

    async fn read(&mut self) -> Option<bool> {
        let request = LoadEventsRequest { aggregate_id: aggregate_id(0), limit: 1, ..Default::default() };
        let reading = async { self.client.load_events(request).await?.into_inner().message().await };
        match timeout(PATIENCE, reading).await {
            Ok(Ok(_)) => Some(true),
            Ok(Err(status)) if status.code() == Code::ResourceExhausted => Some(false),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Returns the forwarded position, and whether anything is pending after it.
    async fn forwarded(&mut self) -> Option<(u64, bool)> {
        let stats = timeout(PATIENCE, self.client.stats(StatsRequest {})).await.ok()?.ok()?.into_inner();
        Some((stats.forwarded_position, stats.pending_events > 0))
    }
}
