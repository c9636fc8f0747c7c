//! Clients that do everything a game server does, record the outcome, and retry calls that were not
//! answered.

mod reading;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aethyr_event_store::grpc::wire::{
    AppendEventsRequest, AppendEventsResponse, NewEvent, SaveSnapshotRequest, new_event::Data,
};
use fastrand::Rng;
use tokio::task::JoinHandle;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::{
    history::{
        Append, At, History, Kind, Outcome, Stored, Took, aggregate_id, aggregate_of, aggregate_type,
        event_type,
    },
    support::{events::reason, service::Client},
    world::{Clock, World},
};

/// The number of aggregates in use at a time. Every so often others replace them, and earlier ones
/// are rarely touched again, so that loads stay short however long the run is.
const AGGREGATES: u16 = 40;
const AGGREGATES_CHANGE: Duration = Duration::from_secs(20);
/// No client waits longer; the outcome is unknown then.
const PATIENCE: Duration = Duration::from_secs(20);

/// Some of the appends acknowledged last, for all clients that send known ids.
#[derive(Debug, Default)]
pub struct Known(Mutex<Vec<AppendEventsRequest>>);

impl Known {
    const APPENDS_MAX: usize = 200;

    fn add(&self, request: &AppendEventsRequest, place: usize) {
        let mut appends = self.0.lock().unwrap();
        if appends.len() < Self::APPENDS_MAX {
            appends.push(request.clone());
        } else {
            appends[place % Self::APPENDS_MAX] = request.clone();
        }
    }

    pub fn events(&self) -> Vec<NewEvent> {
        self.0.lock().unwrap().iter().flat_map(|append| append.events.clone()).collect()
    }
}

pub struct Callers {
    ending: Arc<AtomicBool>,
    callers: Vec<JoinHandle<History>>,
    follower: JoinHandle<History>,
}

impl Callers {
    pub fn start(world: &World, seed: u64, count: u64, known: &Arc<Known>) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let clock = world.clock();
        let callers = (0..count).map(|number| {
            let caller = Caller {
                client: world.client(),
                number,
                random: Rng::with_seed(seed.wrapping_mul(1009).wrapping_add(number)),
                clock,
                known: HashMap::new(),
                last_position: 0,
                earlier: Vec::new(),
                all_known: known.clone(),
                history: History::default(),
            };
            tokio::spawn(caller.run(ending.clone()))
        });
        let callers = callers.collect();
        let follower = tokio::spawn(reading::follow(world.client(), clock, ending.clone()));
        Self { ending, callers, follower }
    }

    /// Stops all clients after their calls in flight, and returns their history.
    pub async fn end(self) -> History {
        self.ending.store(true, Ordering::SeqCst);
        let mut history = History::default();
        for caller in self.callers {
            history.add(caller.await.unwrap());
        }
        history.add(self.follower.await.unwrap());
        history
    }
}

struct Caller {
    client: Client,
    number: u64,
    random: Rng,
    clock: Clock,
    /// The last sequence number of each aggregate that this client has seen.
    known: HashMap<u16, u64>,
    last_position: u64,
    /// Appends that were stored, to be sent once more.
    earlier: Vec<(AppendEventsRequest, Stored)>,
    all_known: Arc<Known>,
    history: History,
}

/// What one attempt revealed.
enum Attempt {
    Decided(Outcome),
    /// Certainly not stored by this attempt.
    NotNow,
    Unknown,
}

impl Caller {
    async fn run(mut self, ending: Arc<AtomicBool>) -> History {
        while !ending.load(Ordering::SeqCst) {
            match self.random.u8(..100) {
                0..73 => self.append(&ending).await,
                73..78 => self.send_again().await,
                78..80 => self.send_changed().await,
                80..83 => self.save_snapshot().await,
                83..91 => self.load().await,
                91..95 => self.read_order().await,
                95..98 => self.look_at_stats().await,
                _ => self.list().await,
            }
        }
        self.history
    }

    fn aggregate(&mut self) -> u16 {
        any_aggregate(&mut self.random, self.clock.now())
    }

    fn known(&self, aggregate: u16) -> u64 {
        self.known.get(&aggregate).copied().unwrap_or(0)
    }

    fn learn(&mut self, aggregate: u16, number: u64) {
        let known = self.known.entry(aggregate).or_default();
        *known = (*known).max(number);
    }

    async fn append(&mut self, ending: &AtomicBool) {
        let aggregates: Vec<u16> = (0..self.random.u8(1..=3)).map(|_| self.aggregate()).collect();
        let count =
            if self.random.u8(..4) == 0 { self.random.usize(20..60) } else { self.random.usize(1..12) };
        let mut events = Vec::with_capacity(count);
        let mut noted = Vec::with_capacity(count);
        for number in 0..count {
            let aggregate = aggregates[self.random.usize(..aggregates.len())];
            let id = Uuid::from_u128(self.random.u128(..));
            noted.push((id, aggregate));
            events.push(NewEvent {
                event_id: id.to_string(),
                aggregate_id: aggregate_id(aggregate),
                aggregate_type: aggregate_type(aggregate),
                event_type: event_type(number),
                data: Some(Data::Json(format!("{{\"number\":{number},\"id\":\"{id}\"}}"))),
                ..NewEvent::default()
            });
        }
        let expected = self.random.bool().then(|| {
            let aggregate = aggregates[0];
            // Now and then, a sequence number that does not exist yet.
            let ahead = u64::from(self.random.u8(..10) == 0);
            (aggregate, self.known(aggregate) + ahead)
        });
        let expected_sequences =
            expected.iter().map(|(aggregate, number)| (aggregate_id(*aggregate), *number)).collect();
        let request = AppendEventsRequest { events, expected_sequences };
        let began = self.clock.now();
        let (mut attempts, mut doubtful) = (0u32, false);
        if self.random.u8(..12) == 0 {
            // Another client sends the same append at the same time, and does not wait for an
            // answer.
            let (mut client, request) = (self.client.clone(), request.clone());
            tokio::spawn(async move { client.append_events(request).await });
            doubtful = true;
        }
        let outcome = loop {
            attempts += 1;
            // Some clients give up, sooner if certainly nothing was stored: then nothing may ever
            // be.
            let patience = match self.attempt(&request, expected, doubtful).await {
                Attempt::Decided(outcome) => break outcome,
                Attempt::NotNow => 6,
                Attempt::Unknown => {
                    doubtful = true;
                    50
                }
            };
            let gives_up =
                self.random.u8(..patience) == 0 || (ending.load(Ordering::SeqCst) && attempts > 40);
            if gives_up {
                break if doubtful { Outcome::Unknown } else { Outcome::Refused };
            }
            tokio::time::sleep(Duration::from_millis(self.random.u64(10..150))).await;
        };
        if let Outcome::Stored(stored) = &outcome {
            for (aggregate, _, last) in &stored.aggregates {
                self.learn(*aggregate, *last);
            }
            self.last_position = self.last_position.max(stored.first_position);
            self.all_known.add(&request, self.random.usize(..1000));
            if self.earlier.len() < 30 {
                self.earlier.push((request, stored.clone()));
            } else {
                let place = self.random.usize(..30);
                self.earlier[place] = (request, stored.clone());
            }
        }
        if let (Outcome::Conflict { actual }, Some((aggregate, _))) = (&outcome, expected) {
            self.learn(aggregate, *actual);
        }
        let ended = self.clock.now();
        self.history.appends.push(Append { began, ended, events: noted, expected, attempts, outcome });
    }

    async fn attempt(
        &mut self,
        request: &AppendEventsRequest,
        expected: Option<(u16, u64)>,
        doubtful: bool,
    ) -> Attempt {
        let mut client = self.client.clone();
        let mut sent = Request::new(request.clone());
        if self.random.u8(..6) == 0 {
            sent.set_timeout(Duration::from_millis(self.random.u64(5..400)));
        }
        let sending = async { client.append_events(sent).await.map(tonic::Response::into_inner) };
        let status = match self.call(Kind::Write, sending).await {
            Some(Ok(answer)) => return Attempt::Decided(Outcome::Stored(stored(&answer))),
            Some(Err(status)) => status,
            None => return Attempt::Unknown,
        };
        match (status.code(), reason(&status).as_str()) {
            (Code::Aborted, "WRONG_EXPECTED_SEQUENCE") => {
                let details = status.get_error_details();
                let actual = details.error_info().unwrap().metadata["actual"].parse().unwrap();
                // An earlier attempt may still be in flight, and its expectation may be met later.
                match expected {
                    Some((_, number)) if doubtful && actual < number => Attempt::Unknown,
                    _ => Attempt::Decided(Outcome::Conflict { actual }),
                }
            }
            (Code::ResourceExhausted | Code::Unavailable, reason) if !reason.is_empty() => Attempt::NotNow,
            // Fenced while a usurper has the database; the checker demands that the service has it
            // back at the end.
            (Code::FailedPrecondition, "LOCAL_LOG_FAILED" | "FENCED" | "EVENT_SOURCING_DISABLED") => {
                Attempt::NotNow
            }
            (
                Code::Unknown | Code::Unavailable | Code::Cancelled | Code::Internal | Code::DeadlineExceeded,
                "" | "OUTCOME_UNKNOWN",
            ) => Attempt::Unknown,
            _ => {
                self.history.violation("append", format!("answered with {status:?}"));
                Attempt::Unknown
            }
        }
    }

    /// Makes a call, and records how long it took with or without an answer. Returns `None` if it
    /// took too long.
    async fn call<T>(
        &mut self,
        kind: Kind,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Option<Result<T, Status>> {
        self.history.calls += 1;
        let began = self.clock.now();
        let answer = tokio::time::timeout(PATIENCE, work).await;
        self.history.took.push(Took { began, ended: self.clock.now(), caller: self.number, kind });
        answer.ok()
    }

    async fn send_again(&mut self) {
        let Some((request, first)) = self.pick_earlier() else { return };
        let mut client = self.client.clone();
        let sending = async { client.append_events(request).await.map(tonic::Response::into_inner) };
        match self.call(Kind::Write, sending).await {
            Some(Ok(answer)) => {
                let again = stored(&answer);
                if !again.already
                    || again.first_position != first.first_position
                    || again.aggregates != first.aggregates
                {
                    self.history.violation("another answer", format!("first {first:?}, and again {again:?}"));
                }
            }
            // The reasons to refuse new events do not apply to events that are stored.
            Some(Err(status)) if !may_answer_a_resend(&status) => {
                self.history.violation("resend refused", format!("{status:?}: {first:?}"));
            }
            Some(Err(_)) | None => {}
        }
    }

    /// Sends the same ids with other contents, or only some of them: they belong to another append.
    async fn send_changed(&mut self) {
        let Some((mut request, first)) = self.pick_earlier() else { return };
        match self.random.u8(..3) {
            0 => request.events[0].data = Some(Data::Json("\"another\"".to_owned())),
            1 if request.events.len() > 1 => _ = request.events.pop(),
            _ => request.events.push(NewEvent {
                aggregate_id: aggregate_id(0),
                aggregate_type: aggregate_type(0),
                event_type: event_type(0),
                ..NewEvent::default()
            }),
        }
        let mut client = self.client.clone();
        let sending = async { client.append_events(request).await.map(tonic::Response::into_inner) };
        match self.call(Kind::Write, sending).await {
            Some(Ok(answer)) => {
                self.history.violation("ids taken again", format!("{first:?}: {answer:?}"));
            }
            Some(Err(status)) if status.code() == Code::InvalidArgument => {
                self.history.violation("append", format!("{status:?}"));
            }
            Some(Err(_)) | None => {}
        }
    }

    fn pick_earlier(&mut self) -> Option<(AppendEventsRequest, Stored)> {
        let place = self.random.usize(..self.earlier.len().max(1));
        self.earlier.get(place).cloned()
    }

    async fn save_snapshot(&mut self) {
        let aggregate = self.aggregate();
        let sequence_number = self.known(aggregate);
        if sequence_number == 0 {
            return;
        }
        let request = SaveSnapshotRequest {
            aggregate_id: aggregate_id(aggregate),
            sequence_number,
            ..SaveSnapshotRequest::default()
        };
        let mut client = self.client.clone();
        if let Some(Err(status)) = self.call(Kind::Write, async { client.save_snapshot(request).await }).await
            && reason(&status) == "SNAPSHOT_AHEAD"
        {
            self.history.violation("snapshot", format!("an acknowledged event is gone: {status:?}"));
        }
    }
}

/// Returns an aggregate that others are appending to as well or, more rarely, an earlier one.
pub fn any_aggregate(random: &mut Rng, now: At) -> u16 {
    let latest = (now.as_secs() / AGGREGATES_CHANGE.as_secs()) as u16;
    let age = if random.u8(..10) == 0 { random.u16(..=latest) } else { 0 };
    (latest - age) * AGGREGATES + random.u16(..AGGREGATES)
}

/// Returns whether the service was starting or stopping, or refused the call before judging it.
fn may_answer_a_resend(status: &Status) -> bool {
    match reason(status).as_str() {
        "" => !matches!(status.code(), Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition),
        "STARTING"
        | "SHUTTING_DOWN"
        // An older log lacks the events.
        | "FIRST_CONTACT"
        | "CALLS_WAITING"
        | "CALLS_WAITING_BYTES"
        | "CONCURRENT_CALLS"
        | "RECEIVING_BYTES" => true,
        _ => false,
    }
}

/// Returns the outcome of an append that was sent once, and the reason if it was refused.
pub fn outcome_of(answer: Result<AppendEventsResponse, Status>) -> (Outcome, Option<String>) {
    let status = match answer {
        Ok(answer) => return (Outcome::Stored(stored(&answer)), None),
        Err(status) => status,
    };
    let reason = Some(reason(&status)).filter(|reason| !reason.is_empty());
    match status.code() {
        Code::ResourceExhausted | Code::Unavailable | Code::FailedPrecondition if reason.is_some() => {
            (Outcome::Refused, reason)
        }
        _ => (Outcome::Unknown, reason),
    }
}

fn stored(answer: &AppendEventsResponse) -> Stored {
    let aggregates = answer
        .aggregates
        .iter()
        .map(|one| (aggregate_of(&one.aggregate_id).unwrap(), one.first_sequence, one.last_sequence));
    Stored {
        first_position: answer.first_position,
        aggregates: aggregates.collect(),
        already: answer.already_stored,
    }
}
