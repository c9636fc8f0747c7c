//! Callers that do everything a game server does, note what came of it, and send again what was not answered.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aethyr_event_store::grpc::wire::{
    AppendEventsRequest, AppendEventsResponse, Checkpoint, LoadEventsRequest, NewEvent, ReadAllRequest,
    SaveSnapshotRequest, SubscribeRequest, new_event::Data, subscribe_response::Content,
};
use fastrand::Rng;
use tokio::task::JoinHandle;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::{
    history::{Append, At, History, Load, Outcome, Stored, Took, aggregate_id, aggregate_of},
    support::{events::reason, service::Client},
    world::World,
};

/// At a time. Every so often others come, and the earlier are rarely touched again, so that loads stay short
/// however long the run is.
const AGGREGATES: u16 = 40;
const AGGREGATES_CHANGE: Duration = Duration::from_secs(20);
/// No call of ours waits for longer: what became of it is not known then.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Callers {
    ending: Arc<AtomicBool>,
    callers: Vec<JoinHandle<History>>,
    follower: JoinHandle<History>,
}

impl Callers {
    pub fn start(world: &World, seed: u64, count: u64) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let clock = Clock(std::time::Instant::now() - world.now());
        let callers = (0..count).map(|number| {
            let caller = Caller {
                client: world.client(),
                random: Rng::with_seed(seed.wrapping_mul(1009).wrapping_add(number)),
                clock,
                known: HashMap::new(),
                last_position: 0,
                earlier: Vec::new(),
                history: History::default(),
            };
            tokio::spawn(caller.run(ending.clone()))
        });
        let callers = callers.collect();
        let follower = tokio::spawn(follow(world.client(), ending.clone()));
        Self { ending, callers, follower }
    }

    /// Ends all callers, after the calls that run.
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

#[derive(Clone, Copy)]
struct Clock(std::time::Instant);

impl Clock {
    fn now(self) -> At {
        self.0.elapsed()
    }
}

struct Caller {
    client: Client,
    random: Rng,
    clock: Clock,
    /// The last number of each aggregate that this caller has seen.
    known: HashMap<u16, u64>,
    last_position: u64,
    /// Appends that were stored, to be sent once more.
    earlier: Vec<(AppendEventsRequest, Stored)>,
    history: History,
}

/// What one attempt taught.
enum Attempt {
    Settled(Outcome),
    /// For certain not stored by this attempt.
    NotNow,
    Unknown,
}

impl Caller {
    async fn run(mut self, ending: Arc<AtomicBool>) -> History {
        while !ending.load(Ordering::SeqCst) {
            match self.random.u8(..100) {
                0..78 => self.append(&ending).await,
                78..82 => self.send_again().await,
                82..84 => self.send_changed().await,
                84..88 => self.save_snapshot().await,
                88..97 => self.load().await,
                _ => self.read_order().await,
            }
        }
        self.history
    }

    fn aggregate(&mut self) -> u16 {
        let latest = (self.clock.now().as_secs() / AGGREGATES_CHANGE.as_secs()) as u16;
        let age = if self.random.u8(..10) == 0 { self.random.u16(..=latest) } else { 0 };
        (latest - age) * AGGREGATES + self.random.u16(..AGGREGATES)
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
                aggregate_type: "Room".to_owned(),
                event_type: "RoomChanged".to_owned(),
                data: Some(Data::Json(format!("{{\"number\":{number},\"id\":\"{id}\"}}"))),
                ..NewEvent::default()
            });
        }
        let expected = self.random.bool().then(|| {
            let aggregate = aggregates[0];
            // Now and then a number that does not exist yet.
            let ahead = u64::from(self.random.u8(..10) == 0);
            (aggregate, self.known(aggregate) + ahead)
        });
        let expected_sequences =
            expected.iter().map(|(aggregate, number)| (aggregate_id(*aggregate), *number)).collect();
        let request = AppendEventsRequest { events, expected_sequences };
        let began = self.clock.now();
        let (mut attempts, mut doubtful) = (0u32, false);
        if self.random.u8(..12) == 0 {
            // Somebody sends the same at the same time, and waits for no answer.
            let (mut client, request) = (self.client.clone(), request.clone());
            tokio::spawn(async move { client.append_events(request).await });
            doubtful = true;
        }
        let outcome = loop {
            attempts += 1;
            // Some give up, sooner where nothing is stored for certain: then nothing may ever be.
            let patience = match self.attempt(&request, expected, doubtful).await {
                Attempt::Settled(outcome) => break outcome,
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
        let answer =
            self.call(async { client.append_events(sent).await.map(tonic::Response::into_inner) }).await;
        let status = match answer {
            Some(Ok(answer)) => return Attempt::Settled(Outcome::Stored(stored(&answer))),
            Some(Err(status)) => status,
            None => return Attempt::Unknown,
        };
        match (status.code(), reason(&status).as_str()) {
            (Code::Aborted, "WRONG_EXPECTED_SEQUENCE") => {
                let details = status.get_error_details();
                let actual = details.error_info().unwrap().metadata["actual"].parse().unwrap();
                // An earlier attempt may still be on its way, and find what it expects later.
                match expected {
                    Some((_, number)) if doubtful && actual < number => Attempt::Unknown,
                    _ => Attempt::Settled(Outcome::Conflict { actual }),
                }
            }
            (Code::ResourceExhausted | Code::Unavailable, reason) if !reason.is_empty() => Attempt::NotNow,
            // Fenced while a usurper has the database; the checker demands that it is had back at the end.
            (Code::FailedPrecondition, "LOCAL_LOG_FAILED" | "FENCED") => Attempt::NotNow,
            (
                Code::Unknown | Code::Unavailable | Code::Cancelled | Code::Internal | Code::DeadlineExceeded,
                "" | "OUTCOME_UNKNOWN",
            ) => Attempt::Unknown,
            _ => {
                self.history.violations.push(format!("an append was answered with {status:?}"));
                Attempt::Unknown
            }
        }
    }

    /// `None`: it took too long. Notes how long an answer took.
    async fn call<T>(&mut self, work: impl Future<Output = Result<T, Status>>) -> Option<Result<T, Status>> {
        self.history.calls += 1;
        let began = self.clock.now();
        let answer = tokio::time::timeout(PATIENCE, work).await.ok()?;
        self.history.took.push(Took { began, ended: self.clock.now() });
        Some(answer)
    }

    async fn send_again(&mut self) {
        let Some((request, first)) = self.pick_earlier() else { return };
        let mut client = self.client.clone();
        if let Some(Ok(answer)) =
            self.call(async { client.append_events(request).await.map(tonic::Response::into_inner) }).await
        {
            let again = stored(&answer);
            if !again.already
                || again.first_position != first.first_position
                || again.aggregates != first.aggregates
            {
                self.history.violations.push(format!("first answered {first:?}, and again {again:?}"));
            }
        }
    }

    /// The same ids with other content, or a part of them, belong to another append.
    async fn send_changed(&mut self) {
        let Some((mut request, first)) = self.pick_earlier() else { return };
        match self.random.u8(..3) {
            0 => request.events[0].data = Some(Data::Json("\"another\"".to_owned())),
            1 if request.events.len() > 1 => _ = request.events.pop(),
            _ => request.events.push(NewEvent {
                aggregate_id: aggregate_id(0),
                aggregate_type: "Room".to_owned(),
                event_type: "RoomChanged".to_owned(),
                ..NewEvent::default()
            }),
        }
        let mut client = self.client.clone();
        match self.call(async { client.append_events(request).await.map(tonic::Response::into_inner) }).await
        {
            Some(Ok(answer)) => {
                self.history
                    .violations
                    .push(format!("ids of {first:?} were taken for another append: {answer:?}"));
            }
            Some(Err(status)) if status.code() == Code::InvalidArgument => {
                self.history.violations.push(format!("{status:?}"));
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
        if let Some(Err(status)) = self.call(async { client.save_snapshot(request).await }).await
            && reason(&status) == "SNAPSHOT_AHEAD"
        {
            self.history.violations.push(format!("an acknowledged event is gone: {status:?}"));
        }
    }

    async fn load(&mut self) {
        let aggregate = self.aggregate();
        let began = self.clock.now();
        let request =
            LoadEventsRequest { aggregate_id: aggregate_id(aggregate), ..LoadEventsRequest::default() };
        let mut client = self.client.clone();
        let answer = self
            .call(async {
                let mut stream = client.load_events(request).await?.into_inner();
                let (mut ids, mut last_sequence) = (Vec::new(), 0);
                while let Some(piece) = stream.message().await? {
                    ids.extend(piece.events.iter().map(|event| event.event_id.parse::<Uuid>().unwrap()));
                    last_sequence = piece.last_sequence;
                }
                Ok((ids, last_sequence))
            })
            .await;
        match answer {
            Some(Ok((ids, last_sequence))) => {
                self.learn(aggregate, last_sequence);
                let ended = self.clock.now();
                self.history.loads.push(Load { began, ended, aggregate, ids, last_sequence });
            }
            Some(Err(status)) => self.read_failed(&status),
            None => {}
        }
    }

    async fn read_order(&mut self) {
        let from_position = self.random.u64(..=self.last_position) + 1;
        let request = ReadAllRequest { from_position, limit: 500, ..ReadAllRequest::default() };
        let mut client = self.client.clone();
        let answer = self
            .call(async {
                let mut stream = client.read_all(request).await?.into_inner();
                let mut positions = Vec::new();
                while let Some(piece) = stream.message().await? {
                    positions.extend(piece.events.iter().map(|event| event.position));
                }
                Ok(positions)
            })
            .await;
        match answer {
            Some(Ok(positions)) => {
                let in_order = (from_position..).zip(&positions).all(|(expected, found)| expected == *found);
                if !in_order {
                    self.history.violations.push(format!("read {positions:?} from {from_position} on"));
                }
            }
            Some(Err(status)) => self.read_failed(&status),
            None => {}
        }
    }

    fn read_failed(&mut self, status: &Status) {
        if status.code() == Code::DataLoss {
            self.history.violations.push(format!("{status:?}"));
        }
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

/// Follows the whole order, and goes on from its checkpoint whenever the stream breaks.
async fn follow(mut client: Client, ending: Arc<AtomicBool>) -> History {
    let mut history = History::default();
    let mut after = Checkpoint::default();
    while !ending.load(Ordering::SeqCst) {
        let ask = SubscribeRequest { after: Some(after.clone()), ..SubscribeRequest::default() };
        let mut stream = match client.subscribe(ask).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => {
                if matches!(status.code(), Code::FailedPrecondition | Code::DataLoss) {
                    history.violations.push(format!("the subscription at {after:?}: {status:?}"));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        while !ending.load(Ordering::SeqCst) {
            let next = tokio::time::timeout(Duration::from_millis(500), stream.message()).await;
            let content = match next {
                Err(_) => continue,
                Ok(Ok(Some(message))) => message.content.unwrap(),
                Ok(Ok(None)) => {
                    history.violations.push("the subscription ended without an error".to_owned());
                    break;
                }
                Ok(Err(status)) => {
                    if status.code() == Code::DataLoss {
                        history.violations.push(format!("the subscription at {after:?}: {status:?}"));
                    }
                    break;
                }
            };
            match content {
                Content::Events(batch) => {
                    for event in batch.events {
                        history.followed.push((event.position, event.event_id.parse().unwrap()));
                        after = Checkpoint { position: event.position, hash: event.hash };
                    }
                }
                Content::CaughtUp(caught_up) => after = caught_up.checkpoint.unwrap(),
                Content::Checkpoint(checkpoint) => after = checkpoint,
            }
        }
    }
    history
}
