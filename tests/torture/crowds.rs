//! Crowds of clients: some send stored events again and again, some vanish, and some request much
//! and read nothing of it.

use std::{collections::HashSet, time::Duration};

use aethyr_event_store::grpc::wire::{AppendEventsRequest, NewEvent, ReadAllRequest, new_event::Data};
use fastrand::Rng;
use tokio::task::JoinSet;
use tonic::Request;
use uuid::Uuid;

use crate::{
    callers::{Known, any_aggregate, outcome_of},
    history::{Append, History, Outcome, aggregate_id, aggregate_type, event_type},
    support::{events::request, service::Client},
    world::World,
};

const IDS: usize = 500;
const SENDERS: u64 = 30;
const CONNECTIONS: u64 = 5;
const UNREAD_STREAMS: u64 = 150;
/// None of these clients waits longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// An append that has not been sent yet.
pub struct Draft {
    request: AppendEventsRequest,
    events: Vec<(Uuid, u16)>,
}

impl Draft {
    pub fn of(world: &World, random: &mut Rng, count: usize, bytes: usize) -> Self {
        let aggregate = any_aggregate(random, world.now());
        let (mut events, mut noted) = (Vec::new(), Vec::new());
        for number in 0..count {
            let id = Uuid::from_u128(random.u128(..));
            noted.push((id, aggregate));
            events.push(NewEvent {
                event_id: id.to_string(),
                aggregate_id: aggregate_id(aggregate),
                aggregate_type: aggregate_type(aggregate),
                event_type: event_type(number),
                data: Some(Data::Binary(vec![7; bytes].into())),
                ..NewEvent::default()
            });
        }
        Self { request: request(events), events: noted }
    }

    /// Sends the append once. Returns its outcome, and the reason if it was refused.
    pub async fn send(self, world: &World, mut client: Client) -> (Append, Option<String>) {
        let began = world.now();
        let answer = tokio::time::timeout(PATIENCE, client.append_events(self.request)).await;
        let (outcome, reason) = match answer {
            Ok(answer) => outcome_of(answer.map(tonic::Response::into_inner)),
            Err(_) => (Outcome::Unknown, None),
        };
        let ended = world.now();
        (Append { began, ended, events: self.events, expected: None, attempts: 1, outcome }, reason)
    }
}

/// Sends small requests that are expensive to judge, from clients that soon stop waiting. None of
/// them may be accepted: each combines the events of many appends.
pub async fn storm_of_known_ids(world: &World, random: &mut Rng, known: &Known, length: Duration) -> History {
    let mut seen = HashSet::new();
    let mut events = known.events();
    random.shuffle(&mut events);
    events.retain(|event| seen.insert(event.event_id.clone()));
    events.truncate(IDS);
    let mut history = History::default();
    if events.len() < IDS {
        return history;
    }
    for event in &mut events {
        event.data = None;
    }
    let end = tokio::time::Instant::now() + length;
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        let (mut client, events) = (world.client(), events.clone());
        senders.spawn(async move {
            let mut taken = Vec::new();
            while tokio::time::Instant::now() < end {
                let mut sent = Request::new(request(events.clone()));
                sent.set_timeout(Duration::from_millis(50));
                taken.extend(client.append_events(sent).await.ok());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            taken
        });
    }
    while let Some(taken) = senders.join_next().await {
        for answer in taken.unwrap() {
            history.violation("ids taken again", format!("{answer:?}"));
        }
    }
    history
}

/// Closes connections while their calls are somewhere between the network and the log.
pub async fn vanish(world: &World, random: &mut Rng) -> History {
    let mut history = History::default();
    for _ in 0..CONNECTIONS {
        let client = world.client();
        let mut calls = JoinSet::new();
        for _ in 0..random.usize(10..60) {
            let count = random.usize(1..4);
            let Draft { request, events } = Draft::of(world, random, count, 100);
            let began = world.now();
            let mut client = client.clone();
            calls.spawn(async move { client.append_events(request).await.is_ok() });
            let (ended, expected) = (Duration::MAX, None);
            history.appends.push(Append {
                began,
                ended,
                events,
                expected,
                attempts: 1,
                outcome: Outcome::Unknown,
            });
        }
        drop(client);
        tokio::time::sleep(Duration::from_millis(random.u64(0..40))).await;
        calls.abort_all();
    }
    history
}

/// Sends an append as large as the limits allow, which is one frame of the log.
pub async fn append_a_large_frame(world: &World, random: &mut Rng) -> Append {
    const BYTES: usize = 15_500;
    Draft::of(world, random, IDS, BYTES).send(world, world.client()).await.0
}

/// Opens streams that have a large frame to send, and reads not a single byte of them.
pub async fn leave_streams_unread(world: &World, position: u64, length: Duration) {
    let endpoint = world.endpoint().initial_stream_window_size(0);
    let client = Client::new(endpoint.connect_lazy());
    let mut streams = JoinSet::new();
    for _ in 0..UNREAD_STREAMS {
        let mut client = client.clone();
        let request = ReadAllRequest { from_position: position, ..ReadAllRequest::default() };
        streams.spawn(async move {
            let stream = client.read_all(request).await;
            tokio::time::sleep(length).await;
            drop(stream);
        });
    }
    while tokio::time::timeout(PATIENCE, streams.join_next()).await.is_ok_and(|ended| ended.is_some()) {}
}
