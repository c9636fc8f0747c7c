//! Clients that request much and read nothing of it. They answer pings, so nothing but the unread
//! answer shows that they do not read.

use std::{sync::Arc, time::Duration};

use aethyr_event_store::grpc::wire::{
    Checkpoint, LoadEventsRequest, StatsRequest, SubscribeRequest,
    event_store_service_client::EventStoreServiceClient,
};
use bytes::Bytes;
use h2::client::SendRequest;
use prost::Message;
use tokio::{io::AsyncWriteExt, sync::Semaphore, task::JoinSet};
use tonic::Code;

use crate::{
    HANG, Target,
    calls::{self, connect_with},
    frames::{self, *},
    messages::Call,
    report::{LARGE, Tally},
};

const STREAMS_PER_CONNECTION: u64 = 50;

/// Not one byte may be sent.
pub async fn shut(target: &Target) -> Tally {
    read_nothing(target, 0).await
}

/// Some bytes may be sent, and no more after that.
pub async fn narrow(target: &Target) -> Tally {
    read_nothing(target, 1000).await
}

/// Opens a tenth more streams than may be open. All of them end, although no client reads.
async fn read_nothing(target: &Target, window: u32) -> Tally {
    let count = target.streams_max() + target.streams_max() / 10;
    // Each message is one large event.
    let request = LoadEventsRequest { aggregate_id: LARGE.to_owned(), ..LoadEventsRequest::default() };
    let call = Call {
        method: "POST",
        path: "/aethyr.eventstore.v1.EventStoreService/LoadEvents".to_owned(),
        content_type: Some("application/grpc"),
        headers: Vec::new(),
        body: message(&request.encode_to_vec()),
        whole: true,
        malformed: false,
    };
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window);
    let tally = open_many(target, &builder, count, &call, |answer, _| async move {
        let mut body = answer.into_body();
        // Received data is not released, so the window stays as it is.
        while let Some(piece) = body.data().await {
            piece?;
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        Ok(format!("open, then {}", refusal(&trailers).unwrap_or("Ok".to_owned())))
    });
    let mut tally = tally.await;
    // More was waiting to be read than all readers together may leave unread.
    if !tally.outcomes.keys().any(|outcome| outcome.ends_with(" limits.call_bytes_max")) {
        tally.wrong(format!("limits.call_bytes_max was not reached: {:?}", tally.outcomes));
    }
    tally
}

/// Opens subscriptions that are read, and are too many.
pub async fn subscriptions(target: &Target) -> Tally {
    let count = target.streams_max() * 2;
    let mut client =
        EventStoreServiceClient::connect(format!("http://127.0.0.1:{}", target.port)).await.unwrap();
    let position = client.stats(StatsRequest {}).await.unwrap().into_inner().last_position;
    let after = Some(Checkpoint { position, chain_hash: Bytes::new() });
    let call = Call {
        method: "POST",
        path: "/aethyr.eventstore.v1.EventStoreService/Subscribe".to_owned(),
        content_type: Some("application/grpc"),
        headers: Vec::new(),
        body: message(&SubscribeRequest { after, filter: None }.encode_to_vec()),
        whole: true,
        malformed: false,
    };
    let until = tokio::time::Instant::now() + target.patience;
    let read = move |answer: http::Response<h2::RecvStream>, answered: Arc<Semaphore>| async move {
        let mut body = answer.into_body();
        let reading = async {
            while let Some(piece) = body.data().await {
                let piece = piece?;
                body.flow_control().release_capacity(piece.len())?;
            }
            Ok::<_, h2::Error>(())
        };
        // However slow the machine is, no subscription ends before the last one is refused.
        let waiting = async {
            tokio::time::sleep_until(until).await;
            _ = answered.acquire_many(count as u32).await;
        };
        tokio::select! {
            read = reading => read?,
            () = waiting => {}
        }
        Ok("served".to_owned())
    };
    let mut tally = open_many(target, &h2::client::Builder::new(), count, &call, read).await;
    let refused =
        tally.outcomes.get("ResourceExhausted limits.streams_open_max").copied().unwrap_or_default();
    if refused < count - target.streams_max() {
        tally.wrong(format!("{refused} of {count} subscriptions were refused"));
    }
    tally
}

/// Makes the same call many times, over some connections, and handles each answer with `take`. The
/// semaphore gets a permit for each call that was answered.
async fn open_many<R>(
    target: &Target,
    builder: &h2::client::Builder,
    count: u64,
    call: &Call,
    take: impl Fn(http::Response<h2::RecvStream>, Arc<Semaphore>) -> R + Clone + Send + 'static,
) -> Tally
where
    R: Future<Output = Result<String, h2::Error>> + Send + 'static,
{
    let mut streams = JoinSet::new();
    let answered = Arc::new(Semaphore::new(0));
    let mut connection = connect_with(target, builder).await;
    for number in 0..count {
        if number % STREAMS_PER_CONNECTION == 0 {
            connection = connect_with(target, builder).await;
        }
        let (sender, call, take) = (connection.clone(), call.clone(), take.clone());
        streams.spawn(tokio::time::timeout(HANG, open(sender, call, take, answered.clone())));
    }
    drop(connection);
    let mut tally = Tally::default();
    while let Some(ended) = streams.join_next().await {
        match ended.unwrap() {
            Ok(outcome) => tally.note(outcome),
            Err(_) => tally.wrong(format!("a stream that nobody reads is open after {HANG:?}")),
        }
    }
    tally
}

async fn open<R>(
    sender: SendRequest<Bytes>,
    call: Call,
    take: impl Fn(http::Response<h2::RecvStream>, Arc<Semaphore>) -> R,
    answered: Arc<Semaphore>,
) -> String
where
    R: Future<Output = Result<String, h2::Error>>,
{
    let opened = async {
        let mut sender = sender.ready().await?;
        let (answer, mut body) = sender.send_request(calls::http_request(&call), false)?;
        body.send_data(call.body.into(), true)?;
        answer.await
    };
    let opened = opened.await;
    answered.add_permits(1);
    let answer = match opened {
        Ok(answer) => answer,
        Err(error) => return calls::reset(&error),
    };
    if let Some(refusal) = refusal(answer.headers()) {
        return refusal;
    }
    match take(answer, answered).await {
        Ok(outcome) => outcome,
        Err(error) => format!("open, then {}", calls::reset(&error)),
    }
}

/// Returns the status in headers or trailers, and the limit that it names.
fn refusal(headers: &http::HeaderMap) -> Option<String> {
    let status = Code::from_bytes(headers.get("grpc-status")?.as_bytes());
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
    // The rest may be percent-encoded.
    let limit = message.split([':', '%']).next().filter(|limit| limit.starts_with("limits."));
    Some(limit.map_or(format!("{status:?}"), |limit| format!("{status:?} {limit}")))
}

/// The windows are as wide as possible, and the socket is not read at all.
pub async fn sockets(target: &Target) -> Tally {
    const WINDOW: u32 = 0x7fff_ffff;
    let count = target.streams_max() / 2;
    let mut sockets = JoinSet::new();
    for _ in 0..count {
        let mut stream = frames::connect(target).await;
        sockets.spawn(async move {
            let bytes = [
                hello(&[(4, WINDOW)]),
                frame(WINDOW_UPDATE, 0, 0, &(WINDOW - 65_535).to_be_bytes()),
                frame(HEADERS, END_HEADERS, 1, &call("ReadAll")),
                frame(DATA, END_STREAM, 1, &message(&[])),
            ];
            stream.write_all(&bytes.concat()).await.unwrap();
            wait_for_the_end(&mut stream).await
        });
    }
    let mut tally = Tally::default();
    while let Some(ended) = sockets.join_next().await {
        match ended.unwrap() {
            Ok(()) => tally.note("closed"),
            Err(why) => tally.wrong(why),
        }
    }
    tally
}

/// Waits without reading: once the other end of a socket is closed, writes to it soon fail.
async fn wait_for_the_end(stream: &mut tokio::net::TcpStream) -> Result<(), String> {
    const EVERY: Duration = Duration::from_millis(100);
    let writes = async {
        while stream.write_all(&frame(PING, 1, 0, &[0; 8])).await.is_ok() {
            tokio::time::sleep(EVERY).await;
        }
    };
    tokio::time::timeout(HANG, writes).await.map_err(|_| format!("an unread socket is open after {HANG:?}"))
}
