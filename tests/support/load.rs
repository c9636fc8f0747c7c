//! Many callers at once, and a record of every call.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aethyr_event_store::grpc::wire::{AppendEventsResponse, NewEvent, RecordedEvent};
use tokio::task::JoinHandle;
use tonic::Status;

use super::{
    events::{event, request},
    service::Client,
};

/// One call: what was sent, what came of it, how long it took.
#[derive(Debug)]
pub struct Call {
    pub events: Vec<NewEvent>,
    pub answer: Result<AppendEventsResponse, Status>,
    /// No test of a promise depends on it.
    #[allow(dead_code, reason = "for those who measure")]
    pub took: Duration,
}

/// Callers that append until they are told to end. Each has an aggregate of its own.
pub struct Load {
    end: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Vec<Call>>>,
}

impl Load {
    /// `client` is the way to the service; calls that fail are not sent again.
    pub fn start(client: &Client, callers: usize, events_a_call: usize) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let callers = (0..callers)
            .map(|caller| {
                tokio::spawn(run(client.clone(), format!("caller-{caller}"), events_a_call, end.clone()))
            })
            .collect();
        Self { end, callers }
    }

    /// Ends the callers after the calls that run.
    pub async fn end(self) -> Vec<Call> {
        self.end.store(true, Ordering::Relaxed);
        let mut calls = Vec::new();
        for caller in self.callers {
            calls.extend(caller.await.unwrap());
        }
        calls
    }
}

async fn run(mut client: Client, aggregate: String, events_a_call: usize, end: Arc<AtomicBool>) -> Vec<Call> {
    let mut calls = Vec::new();
    while !end.load(Ordering::Relaxed) {
        let events: Vec<NewEvent> = (0..events_a_call).map(|_| event(&aggregate)).collect();
        let began = Instant::now();
        let answer = client.append_events(request(events.clone())).await.map(tonic::Response::into_inner);
        let gone = answer.is_err();
        calls.push(Call { events, answer, took: began.elapsed() });
        if gone {
            // Whoever killed the service does not want thousands of refused calls.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    calls
}

/// Every acknowledged event is in the order where its answer said.
pub fn assert_all_there(calls: &[Call], order: &[RecordedEvent]) {
    for call in calls {
        let Ok(answer) = &call.answer else { continue };
        for (sent, position) in call.events.iter().zip(answer.first_position..) {
            let stored = order.get(position as usize - 1);
            let stored = stored.unwrap_or_else(|| panic!("position {position} was acknowledged and is lost"));
            assert_eq!(stored.event_id, sent.event_id, "at position {position}");
        }
    }
}

pub fn acknowledged(calls: &[Call]) -> usize {
    calls.iter().filter(|call| call.answer.is_ok()).map(|call| call.events.len()).sum()
}
