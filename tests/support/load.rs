//! Many concurrent clients that append, and a record of every call.
//!
//! A test compares the record with the log to prove that no acknowledged event is lost.

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

/// One call: the events sent, the answer, and the time it took.
#[derive(Debug)]
pub struct Call {
    pub events: Vec<NewEvent>,
    pub answer: Result<AppendEventsResponse, Status>,
    /// For measurements; no test of a promise depends on it.
    pub took: Duration,
}

/// Clients that append until they are stopped. Each has its own aggregate.
pub struct Load {
    end: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Vec<Call>>>,
}

impl Load {
    /// Starts the clients, which share the channel of `client`. Failed calls are not retried.
    pub fn start(client: &Client, callers: usize, events_a_call: usize) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let callers = (0..callers)
            .map(|caller| {
                tokio::spawn(run(client.clone(), format!("caller-{caller}"), events_a_call, end.clone()))
            })
            .collect();
        Self { end, callers }
    }

    /// Stops the clients after their calls in flight, and returns all calls.
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
            // A test that killed the service does not want thousands of refused calls.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    calls
}

/// Asserts that every acknowledged event is stored at the position that its answer named.
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
