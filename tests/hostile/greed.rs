//! Clients that make the service do or hold much for the little that they send: by what they
//! request, and by not reading the answer.

use std::time::Duration;

use aethyr_event_store::grpc::wire::{LoadEventsRequest, NewEvent, new_event::Data};
use bytes::Bytes;
use h2::client::SendRequest;
use prost::Message;
use tokio::task::JoinSet;
use tonic::Code;

use crate::{
    HANG, Target,
    calls::{self, connect_with},
    messages::{APPEND, Call},
    report::{LARGE, Tally},
    support::events::{event, request},
};

const STORE: &str = "/aethyr.eventstore.v1.EventStoreService";

/// Appends 8 MB in one call, then opens 600 readers of it on one connection that read nothing.
pub async fn large_frames(target: &Target) -> Tally {
    let mut tally = Tally::default();
    let data = Some(Data::Binary(vec![7; 16_000].into()));
    let events = (0..500).map(|_| NewEvent { data: data.clone(), ..event("frames") }).collect();
    let append = Call::good(APPEND, &request(events).encode_to_vec());
    calls::send(calls::connect(target).await, &append, &mut tally).await;
    for window in [0, 1000] {
        tally.add(hold(target, &format!("{STORE}/ReadAll"), 600, window).await);
    }
    tally
}

/// Opens 200 subscriptions from the start on one connection, and reads nothing of them.
pub async fn subscriptions(target: &Target) -> Tally {
    hold(target, &format!("{STORE}/Subscribe"), 200, 1000).await
}

/// Does the same with the differences of the whole world.
pub async fn differences(target: &Target) -> Tally {
    hold(target, "/aethyr.world.v1.WorldService/DiffWorld", 60, 0).await
}

/// Opens streams on one connection and reads no more than the window has room for, until they are
/// ended.
async fn hold(target: &Target, path: &str, count: u64, window: u32) -> Tally {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window);
    let sender = connect_with(target, &builder).await;
    let mut streams = JoinSet::new();
    for _ in 0..count {
        let (sender, call) = (sender.clone(), Call::good(path, &[]));
        streams.spawn(tokio::time::timeout(HANG, async move {
            match unread(sender, &call, Take::Nothing).await {
                Ok(outcome) => outcome,
                Err(error) => calls::reset(&error),
            }
        }));
    }
    drop(sender);
    let mut tally = Tally::default();
    while let Some(ended) = streams.join_next().await {
        match ended.unwrap() {
            Ok(outcome) => tally.note(outcome),
            Err(_) => tally.wrong(format!("{path}: a stream that nobody reads is open after {HANG:?}")),
        }
    }
    tally
}

#[derive(Debug, Clone, Copy)]
enum Take {
    Nothing,
    /// 16 KiB, each time after this interval.
    SliceEvery(Duration),
}

async fn unread(sender: SendRequest<Bytes>, call: &Call, take: Take) -> Result<String, h2::Error> {
    const SLICE: usize = 16 * 1024;
    let mut sender = sender.ready().await?;
    let (answer, mut body) = sender.send_request(calls::http_request(call), false)?;
    body.send_data(call.body.clone().into(), true)?;
    let answer = answer.await?;
    let status = |headers: &http::HeaderMap| {
        headers.get("grpc-status").map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
    };
    if answer.headers().contains_key("grpc-status") {
        return Ok(format!("{:?}", status(answer.headers())));
    }
    let mut body = answer.into_body();
    let mut untaken = 0;
    while let Some(piece) = body.data().await {
        untaken += piece?.len();
        if let Take::SliceEvery(pause) = take
            && untaken >= SLICE
        {
            tokio::time::sleep(pause).await;
            body.flow_control().release_capacity(SLICE)?;
            untaken -= SLICE;
        }
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok(format!("open, then {:?}", status(&trailers)))
}

/// Requests reads and abandons them at once, again and again: an eighth of the requests.
pub async fn resets(target: &Target) -> Tally {
    let mut tally = Tally::default();
    let call = Call::good(&format!("{STORE}/ReadAll"), &[]);
    let mut sender = calls::connect(target).await;
    for _ in 0..target.requests / 8 {
        // A connection with too many resets is closed.
        sender = match sender.ready().await {
            Ok(sender) => sender,
            Err(_) => {
                tally.note("connection closed");
                calls::connect(target).await
            }
        };
        let Ok((answer, mut body)) = sender.send_request(calls::http_request(&call), false) else { continue };
        _ = body.send_data(call.body.clone().into(), true);
        tokio::task::yield_now().await;
        body.send_reset(h2::Reason::CANCEL);
        drop(answer);
        tally.note("reset by its caller");
    }
    tally
}

/// Reads 16 KiB of a large message now and then: each time soon enough, and never all of it.
pub async fn slow_readers(target: &Target) -> Tally {
    let request = LoadEventsRequest { aggregate_id: LARGE.to_owned(), ..LoadEventsRequest::default() };
    let call = Call::good(&format!("{STORE}/LoadEvents"), &request.encode_to_vec());
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(16 * 1024);
    let take = Take::SliceEvery(target.unread_max() / 4);
    let mut readers = JoinSet::new();
    for _ in 0..target.streams_max() / 10 {
        let (sender, call) = (connect_with(target, &builder).await, call.clone());
        readers.spawn(tokio::time::timeout(HANG, async move { unread(sender, &call, take).await }));
    }
    let mut tally = Tally::default();
    while let Some(ended) = readers.join_next().await {
        match ended.unwrap() {
            Ok(Ok(outcome)) => tally.note(outcome),
            Ok(Err(error)) => tally.note(calls::reset(&error)),
            Err(_) => tally.wrong(format!("a message is still being read after {HANG:?}")),
        }
    }
    tally
}

/// Sends an append of 500 events again and again, from clients that wait for 50 ms.
pub async fn known_ids(target: &Target) -> Tally {
    const CALLERS: usize = 10;
    const CALLS: usize = 100;
    const EVERY: Duration = Duration::from_millis(50);
    let mut tally = Tally::default();
    let events = (0..500).map(|_| NewEvent { data: None, ..event("known") }).collect();
    let mut append = Call::good(APPEND, &request(events).encode_to_vec());
    calls::send(calls::connect(target).await, &append, &mut tally).await;
    append.headers.push(("grpc-timeout", "50m".to_owned()));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (target, append) = (target.clone(), append.clone());
        callers.spawn(async move {
            let (mut tally, mut connection) = (Tally::default(), None);
            let mut clock = tokio::time::interval(EVERY);
            for _ in 0..CALLS {
                clock.tick().await;
                let sender = match connection.take() {
                    Some(sender) => sender,
                    None => calls::connect(&target).await,
                };
                connection = calls::send(sender, &append, &mut tally).await;
            }
            tally
        });
    }
    while let Some(caller) = callers.join_next().await {
        tally.add(caller.unwrap());
    }
    tally
}
