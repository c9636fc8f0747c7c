//! Honest clients, which do everything right, all the time.
//!
//! The answers that they get are what counts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use aethyr_event_store::grpc::wire::{LoadEventsRequest, StatsRequest};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    Allowed, HANG,
    support::{
        events::{event, expecting, load_pieces},
        service::{Client, Service},
    },
};

const CALLERS: usize = 4;
/// They are players, not a load: the machine is for the attackers.
const PAUSE: Duration = Duration::from_millis(5);

/// All honest clients.
pub struct Honest {
    callers: Vec<JoinHandle<(String, Vec<String>)>>,
    meter: Arc<Mutex<Meter>>,
    appends: Arc<Mutex<Waits>>,
    end: CancellationToken,
}

/// How long each of their appends took, answered or refused.
#[derive(Debug, Clone, Default)]
pub struct Waits(Vec<Duration>);

impl Waits {
    /// Returns the wait that all but one in `appends` appends stayed within.
    pub fn all_but_one_in(&mut self, appends: usize) -> Duration {
        self.0.sort_unstable();
        let slower = self.0.len() / appends;
        self.0.iter().rev().nth(slower).copied().unwrap_or_default()
    }

    pub fn longest(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// What the clients have seen since an attack began.
#[derive(Debug, Clone)]
pub struct Meter {
    allowed: Allowed,
    pub served: u64,
    served_of: [u64; CALLERS],
    pub longest: Duration,
    pub refused: BTreeMap<String, u64>,
    pub wrong: Vec<String>,
}

impl Meter {
    fn new(allowed: Allowed) -> Self {
        Self {
            allowed,
            served: 0,
            served_of: [0; CALLERS],
            longest: Duration::ZERO,
            refused: BTreeMap::new(),
            wrong: Vec::new(),
        }
    }
}

impl Honest {
    pub async fn start(service: &Service) -> Self {
        let meter = Arc::new(Mutex::new(Meter::new(Allowed::Nothing)));
        let appends = Arc::new(Mutex::new(Waits::default()));
        let end = CancellationToken::new();
        let mut callers = Vec::new();
        for number in 0..CALLERS {
            let mut client = service.client();
            client.stats(StatsRequest {}).await.unwrap();
            let caller = Caller {
                number,
                client,
                ids: Vec::new(),
                meter: meter.clone(),
                appends: appends.clone(),
                end: end.clone(),
            };
            callers.push(tokio::spawn(caller.run()));
        }
        Self { callers, meter, appends, end }
    }

    pub fn connections(&self) -> usize {
        self.callers.len()
    }

    pub fn begin(&self, allowed: Allowed) {
        *self.meter.lock().unwrap() = Meter::new(allowed);
    }

    pub fn seen(&self) -> Meter {
        self.meter.lock().unwrap().clone()
    }

    /// Returns the waits since the start.
    pub fn appends(&self) -> Waits {
        self.appends.lock().unwrap().clone()
    }

    /// Waits until nothing is refused any more: once the service has seen the attackers go, all
    /// clients must be served again.
    pub async fn wait_until_all_are_served(&self, allowed: Allowed) {
        let until = Instant::now() + HANG;
        loop {
            self.begin(allowed);
            // The first call may have been made before.
            while self.seen().served_of.iter().any(|served| *served < 4) {
                assert!(Instant::now() < until, "honest callers are locked out: {:?}", self.seen());
                tokio::time::sleep(PAUSE).await;
            }
            let seen = self.seen();
            assert!(seen.wrong.is_empty(), "after an attack: {}", seen.wrong.join("\n"));
            if seen.refused.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "honest clients are always refused: {seen:?}");
        }
    }

    /// Stops the clients. Returns the ids of the acknowledged events in order, by aggregate.
    pub async fn end(&mut self) -> BTreeMap<String, Vec<String>> {
        self.end.cancel();
        let mut acknowledged = BTreeMap::new();
        for caller in self.callers.drain(..) {
            let (aggregate, ids) = caller.await.unwrap();
            acknowledged.insert(aggregate, ids);
        }
        acknowledged
    }
}

struct Caller {
    number: usize,
    client: Client,
    /// The events acknowledged so far.
    ids: Vec<String>,
    meter: Arc<Mutex<Meter>>,
    appends: Arc<Mutex<Waits>>,
    end: CancellationToken,
}

impl Caller {
    async fn run(mut self) -> (String, Vec<String>) {
        let aggregate = format!("honest-{}", self.number);
        let mut next = event(&aggregate);
        // A client that ended with a call in flight would not know its outcome.
        while !self.end.is_cancelled() {
            let request = expecting(vec![next.clone()], &[(&aggregate, self.ids.len() as u64)]);
            let mut client = self.client.clone();
            let stored = self.call("append", async move { client.append_events(request).await.map(drop) });
            let began = Instant::now();
            let stored = stored.await;
            self.appends.lock().unwrap().0.push(began.elapsed());
            if stored {
                self.ids.push(std::mem::replace(&mut next, event(&aggregate)).event_id);
            }
            self.look(&aggregate).await;
            tokio::time::sleep(PAUSE).await;
        }
        (aggregate, self.ids)
    }

    /// Queries the stats, and the newest events.
    async fn look(&self, aggregate: &str) {
        let mut client = self.client.clone();
        self.call("stats", async move { client.stats(StatsRequest {}).await.map(drop) }).await;
        let Some(newest) = self.ids.last().cloned() else { return };
        let mut client = self.client.clone();
        let request = LoadEventsRequest {
            aggregate_id: aggregate.to_owned(),
            backwards: true,
            limit: 10,
            ..LoadEventsRequest::default()
        };
        let loaded = async move {
            let pieces = load_pieces(&mut client, request).await?;
            assert_eq!(pieces[0].events[0].event_id, newest, "what was acknowledged is not what is loaded");
            Ok(())
        };
        self.call("load", loaded).await;
    }

    async fn call(&self, what: &str, call: impl Future<Output = Result<(), Status>>) -> bool {
        let began = Instant::now();
        let done = tokio::time::timeout(HANG, call).await;
        let mut meter = self.meter.lock().unwrap();
        meter.longest = meter.longest.max(began.elapsed());
        match done {
            Ok(Ok(())) => {
                meter.served += 1;
                meter.served_of[self.number] += 1;
                return true;
            }
            Ok(Err(status)) => {
                let details = status.get_error_details();
                let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
                let named = status.code() == Code::ResourceExhausted && !reason.is_empty();
                if meter.allowed == Allowed::Nothing || !named {
                    meter.wrong.push(format!("{what}: {status:?}"));
                }
                *meter.refused.entry(reason).or_default() += 1;
            }
            Err(_) => meter.wrong.push(format!("{what}: no answer for {HANG:?}")),
        }
        false
    }
}
