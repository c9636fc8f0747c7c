//! Valid HTTP/2 with invalid calls in it.
//!
//! Each call has to be answered by a status, or by a reset.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use aethyr_event_store::grpc::wire::{AppendEventsResponse, world::ExecuteCommandsResponse};
use bytes::Bytes;
use fastrand::Rng;
use h2::client::SendRequest;
use prost::Message;
use tokio::task::JoinSet;
use tonic::Code;

use crate::{
    HANG, Target, frames,
    messages::{self, APPEND, Call, EXECUTE},
    report::Tally,
};

/// Connections, each with one call at a time.
const WORKERS: u64 = 64;

/// How much of an answer an attacker reads at most.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Makes two thirds of the requests.
pub async fn run(target: &Target) -> Tally {
    let count = target.requests - target.requests / 3;
    attack(target, count, WORKERS, Arc::new(|rng: &mut Rng| Arc::new(messages::any(rng)))).await
}

pub async fn oversized(target: &Target) -> Tally {
    const BYTES: usize = 64 << 20;
    let count = (target.requests / 10_000).max(4);
    // Built once, and sent by a few connections: this process has honest clients, too.
    let call = Arc::new(messages::oversized(BYTES));
    attack(target, count, 8, Arc::new(move |_: &mut Rng| call.clone())).await
}

pub type Make = Arc<dyn Fn(&mut Rng) -> Arc<Call> + Send + Sync>;

pub async fn attack(target: &Target, count: u64, workers_max: u64, make: Make) -> Tally {
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for worker in 0..workers_max.min(count) {
        let (target, next, make) = (target.clone(), next.clone(), make.clone());
        workers.spawn(async move {
            let mut rng = Rng::with_seed(!target.seed << 32 | worker);
            let (mut tally, mut connection) = (Tally::default(), None);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return tally;
                }
                if number % 50_000 == 0 {
                    println!("hostile: {number} of {count} calls");
                }
                let sender = match connection.take() {
                    Some(sender) => sender,
                    None => connect(&target).await,
                };
                connection = send(sender, &make(&mut rng), &mut tally).await;
            }
        });
    }
    let mut tally = Tally::default();
    while let Some(worker) = workers.join_next().await {
        tally.add(worker.unwrap());
    }
    tally
}

/// Opens a connection that is served until the last handle is dropped.
pub async fn connect(target: &Target) -> SendRequest<Bytes> {
    connect_with(target, &h2::client::Builder::new()).await
}

pub async fn connect_with(target: &Target, builder: &h2::client::Builder) -> SendRequest<Bytes> {
    let stream = frames::connect(target).await;
    let (sender, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(async move { _ = connection.await });
    sender
}

/// Makes one call. Returns the connection unless it has ended.
pub async fn send(sender: SendRequest<Bytes>, call: &Call, tally: &mut Tally) -> Option<SendRequest<Bytes>> {
    let Ok(mut sender) = sender.ready().await else {
        return None;
    };
    match tokio::time::timeout(HANG, exchange(&mut sender, call)).await {
        Err(_) => tally.wrong(format!("no answer: {call:?}")),
        Ok(Err(error)) => {
            tally.note(reset(&error));
            if error.is_go_away() || error.is_io() {
                return None;
            }
        }
        Ok(Ok(answer)) => judge(call, &answer, tally),
    }
    Some(sender)
}

/// Returns how a call was rejected below gRPC.
pub fn reset(error: &h2::Error) -> String {
    let kind = if error.is_go_away() { "GOAWAY" } else { "RST_STREAM" };
    match error.reason() {
        Some(reason) => format!("{kind} {reason:?}"),
        None => "connection lost".to_owned(),
    }
}

fn judge(call: &Call, answer: &Answer, tally: &mut Tally) {
    tally.note(answer.name());
    let Some(code) = answer.status else {
        // Rejected by HTTP, reset on purpose, or longer than an attacker reads.
        if call.malformed && call.whole && answer.http == 200 {
            tally.wrong(format!("no status: {call:?}"));
        }
        return;
    };
    if code == Code::Ok && call.malformed {
        tally.wrong(format!("taken, although malformed: {call:?}"));
    }
    if matches!(code, Code::Unknown | Code::Unavailable) {
        tally.wrong(format!("{code:?} for {call:?}"));
    }
    if code == Code::Ok && call.path == APPEND {
        let stored = AppendEventsResponse::decode(&answer.body[5..]).unwrap();
        if !stored.already_stored {
            tally.stored += stored.last_position - stored.first_position + 1;
        }
    }
    if code == Code::Ok && call.path == EXECUTE {
        let executed = ExecuteCommandsResponse::decode(&answer.body[5..]).unwrap();
        let new = executed.results.iter().filter(|result| !result.already_executed);
        tally.stored += new.map(|result| result.events.len() as u64).sum::<u64>();
    }
}

#[derive(Debug, Default)]
pub struct Answer {
    http: u16,
    pub status: Option<Code>,
    body: Vec<u8>,
    reset: bool,
}

impl Answer {
    pub fn name(&self) -> String {
        match (self.status, self.http) {
            (Some(code), _) => format!("{code:?}"),
            (None, 0 | 200) if self.reset => "reset by its caller".to_owned(),
            (None, 200) => "read in part".to_owned(),
            (None, http) => format!("HTTP {http}"),
        }
    }
}

pub fn http_request(call: &Call) -> http::Request<()> {
    let uri = format!("http://hostile{}", call.path);
    let mut request = http::Request::builder().method(call.method).uri(uri).header("te", "trailers");
    if let Some(content_type) = call.content_type {
        request = request.header("content-type", content_type);
    }
    for (name, value) in &call.headers {
        request = request.header(*name, value);
    }
    request.body(()).unwrap()
}

async fn exchange(sender: &mut SendRequest<Bytes>, call: &Call) -> Result<Answer, h2::Error> {
    let (answer, mut body) = sender.send_request(http_request(call), false)?;
    // A service that has seen enough does not read the rest.
    let sent = body.send_data(call.body.clone().into(), call.whole);
    if !call.whole {
        body.send_reset(h2::Reason::CANCEL);
        return Ok(Answer { reset: true, ..Answer::default() });
    }
    let answer = answer.await;
    match (answer, sent) {
        (Ok(answer), _) => read(answer).await,
        (Err(error), _) => Err(error),
    }
}

/// Reads an answer to its end, or until it is too long.
pub async fn read(answer: http::Response<h2::RecvStream>) -> Result<Answer, h2::Error> {
    let status = |headers: &http::HeaderMap| {
        headers.get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()))
    };
    let mut read = Answer { http: answer.status().as_u16(), ..Answer::default() };
    read.status = status(answer.headers());
    let mut body = answer.into_body();
    while let Some(piece) = body.data().await {
        let piece = match piece {
            Ok(piece) => piece,
            // The answer is complete; the service just does not read the rest of the request.
            Err(error) if error.reason() == Some(h2::Reason::NO_ERROR) => break,
            Err(error) => return Err(error),
        };
        body.flow_control().release_capacity(piece.len())?;
        read.body.extend(&piece);
        // A live subscription has no end.
        if read.body.len() > ANSWER_BYTES_MAX || is_live(&read.body) {
            return Ok(read);
        }
    }
    if let Ok(Some(trailers)) = body.trailers().await {
        read.status = status(&trailers).or(read.status);
    }
    Ok(read)
}

/// Returns whether a subscription has caught up: the last message says so, in a few bytes.
fn is_live(body: &[u8]) -> bool {
    const CAUGHT_UP: u8 = 2 << 3 | 2;
    let mut rest = body;
    while let Some((prefix, message)) = rest.split_at_checked(5) {
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        let Some((message, after)) = message.split_at_checked(length) else { return false };
        if message.first() == Some(&CAUGHT_UP) && after.is_empty() && message.len() < 100 {
            return true;
        }
        rest = after;
    }
    false
}
