//! Clients that read: one aggregate, the global order, stats and lists.
//!
//! They report answers that must not be given, and record the rest for the checker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aethyr_event_store::grpc::wire::{
    Checkpoint, ListAggregatesRequest, LoadEventsRequest, ReadAllRequest, StatsRequest, SubscribeRequest,
    subscribe_response::Content,
};
use tonic::{Code, Status};
use uuid::Uuid;

use super::{Caller, PATIENCE};
use crate::{
    history::{At, History, Kind, Load, Look, Seen, aggregate_id, aggregate_of},
    support::service::Client,
    world::Clock,
};

/// How far before the end a read to the end may begin.
const EVENTS_BEHIND_MAX: u64 = 20_000;

/// This many calls in a row without an answer are no accident.
const LOST_MAX: u32 = 3;

impl Caller {
    pub(super) async fn load(&mut self) {
        let aggregate = self.aggregate();
        let began = self.clock.now();
        let request =
            LoadEventsRequest { aggregate_id: aggregate_id(aggregate), ..LoadEventsRequest::default() };
        let mut client = self.client.clone();
        let loading = async {
            let mut stream = client.load_events(request).await?.into_inner();
            let (mut ids, mut last_sequence) = (Vec::new(), 0);
            while let Some(piece) = stream.message().await? {
                ids.extend(piece.events.iter().map(|event| event.event_id.parse::<Uuid>().unwrap()));
                last_sequence = piece.last_sequence;
            }
            Ok((ids, last_sequence))
        };
        match self.call(Kind::Read, loading).await {
            Some(Ok((ids, last_sequence))) => {
                self.learn(aggregate, last_sequence);
                let ended = self.clock.now();
                self.history.loads.push(Load { began, ended, aggregate, ids, last_sequence });
            }
            Some(Err(status)) => self.read_failed(&status),
            None => {}
        }
    }

    /// Reads a part of the global order, or all of it from some position on.
    pub(super) async fn read_order(&mut self) {
        let to_the_end = self.random.bool();
        let (behind, limit) = match to_the_end {
            true => (self.random.u64(..EVENTS_BEHIND_MAX), 0),
            false => (self.random.u64(..=self.last_position), 500),
        };
        let from = self.last_position.saturating_sub(behind) + 1;
        let request = ReadAllRequest { from_position: from, limit, ..ReadAllRequest::default() };
        let began = self.clock.now();
        let mut client = self.client.clone();
        let reading = async {
            let mut stream = client.read_all(request).await?.into_inner();
            let mut positions = Vec::new();
            while let Some(piece) = stream.message().await? {
                positions.extend(piece.events.iter().map(|event| event.position));
            }
            Ok(positions)
        };
        match self.call(Kind::Read, reading).await {
            Some(Ok(positions)) => {
                let in_order = (from..).zip(&positions).all(|(expected, found)| expected == *found);
                if !in_order {
                    self.history.violation("order", format!("{positions:?} from {from} on"));
                } else if to_the_end {
                    let last = from - 1 + positions.len() as u64;
                    self.saw(began, Seen::Order { from, last });
                }
            }
            Some(Err(status)) => self.read_failed(&status),
            None => {}
        }
    }

    pub(super) async fn look_at_stats(&mut self) {
        let began = self.clock.now();
        let mut client = self.client.clone();
        let asking = async { client.stats(StatsRequest {}).await.map(tonic::Response::into_inner) };
        match self.call(Kind::Glance, asking).await {
            Some(Ok(stats)) => {
                let events: u64 = stats.event_types.values().sum();
                let aggregates: u64 = stats.aggregate_types.values().sum();
                if events != stats.event_count
                    || aggregates != stats.aggregate_count
                    || stats.event_count != stats.last_position
                    || stats.forwarded_position > stats.last_position
                {
                    self.history.violation("figures of two moments", format!("{stats:?}"));
                }
                let (event_count, last_position) = (stats.event_count, stats.last_position);
                // The stats describe the log as it is, even one that is not served yet.
                if stats.reads_refused.is_empty() {
                    self.saw(began, Seen::Stats { event_count, last_position });
                }
            }
            Some(Err(status)) => self.read_failed(&status),
            None => {}
        }
    }

    pub(super) async fn list(&mut self) {
        let began = self.clock.now();
        let mut client = self.client.clone();
        let request = ListAggregatesRequest { page_size: 1000, ..ListAggregatesRequest::default() };
        let listing = async { client.list_aggregates(request).await.map(tonic::Response::into_inner) };
        match self.call(Kind::Read, listing).await {
            // Several pages would show several moments.
            Some(Ok(page)) if page.next_page_token.is_empty() => {
                let numbers = page.aggregates.iter().map(|one| {
                    let aggregate = aggregate_of(&one.aggregate_id).unwrap();
                    (aggregate, one.last_sequence)
                });
                let numbers = numbers.collect();
                self.saw(began, Seen::List(numbers));
            }
            Some(Err(status)) => self.read_failed(&status),
            Some(Ok(_)) | None => {}
        }
    }

    fn saw(&mut self, began: At, seen: Seen) {
        self.history.looks.push(Look { began, ended: self.clock.now(), seen });
    }

    fn read_failed(&mut self, status: &Status) {
        if status.code() == Code::DataLoss {
            self.history.violation("damage", format!("{status:?}"));
        }
    }
}

/// Follows the global order, and continues from the checkpoint whenever the stream breaks.
pub async fn follow(mut client: Client, clock: Clock, ending: Arc<AtomicBool>) -> History {
    let mut history = History::default();
    let mut after = Checkpoint::default();
    let mut lost = 0;
    while !ending.load(Ordering::SeqCst) {
        let ask = SubscribeRequest { after: Some(after.clone()), ..SubscribeRequest::default() };
        let mut stream = match tokio::time::timeout(PATIENCE, client.subscribe(ask)).await {
            // The client may have lost the call with its connection, but not every time.
            Err(_) => {
                lost += 1;
                if lost == LOST_MAX {
                    history.violation("subscription", format!("{lost} calls in a row were not answered"));
                }
                continue;
            }
            Ok(Ok(stream)) => stream.into_inner(),
            Ok(Err(status)) => {
                if matches!(status.code(), Code::FailedPrecondition | Code::DataLoss) {
                    history.violation("subscription", format!("at {after:?}: {status:?}"));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        lost = 0;
        while !ending.load(Ordering::SeqCst) {
            let next = tokio::time::timeout(Duration::from_millis(500), stream.message()).await;
            let content = match next {
                Err(_) => continue,
                Ok(Ok(Some(message))) => message.content.unwrap(),
                Ok(Ok(None)) => {
                    history.violation("subscription", "ended without an error".to_owned());
                    break;
                }
                Ok(Err(status)) => {
                    if status.code() == Code::DataLoss {
                        history.violation("subscription", format!("at {after:?}: {status:?}"));
                    }
                    break;
                }
            };
            match content {
                Content::Events(batch) => {
                    for event in batch.events {
                        let id = event.event_id.parse().unwrap();
                        history.followed.push((clock.now(), event.position, id));
                        after = Checkpoint { position: event.position, chain_hash: event.chain_hash };
                    }
                }
                Content::CaughtUp(caught_up) => after = caught_up.checkpoint.unwrap(),
                Content::Checkpoint(checkpoint) => after = checkpoint,
            }
        }
    }
    history
}
