//! Floods: too much of what would be fine in moderation.
//!
//! Each attack exceeds one limit, and has to be refused by it.

use aethyr_event_store::grpc::wire::{AppendEventsRequest, NewEvent, new_event::Data};
use bytes::Bytes;
use prost::Message;
use tokio::task::JoinSet;
use tonic::Code;

use crate::{
    HANG, Target, calls,
    frames::{self, *},
    messages::{Call, MALFORMED},
    report::Tally,
    support::events::{event, request},
};

fn post(method: &str, body: Vec<u8>) -> Call {
    Call {
        method: "POST",
        path: format!("/aethyr.eventstore.v1.EventStoreService/{method}"),
        content_type: Some("application/grpc"),
        headers: Vec::new(),
        body,
        whole: true,
        malformed: true,
    }
}

/// Starts a tenth more calls than may run at a time, none of which ends its request.
pub async fn calls(target: &Target) -> Tally {
    let count = target.calls_max() + target.calls_max() / 10;
    let mut tally = start_all(target, count, 2000, &post("Stats", vec![0])).await;
    if !tally.outcomes.contains_key("ResourceExhausted") {
        tally.wrong(format!("none of {count} calls was refused"));
    }
    tally
}

/// Sends most of a large message in each call, together four times as much as the service accepts.
pub async fn half_sent(target: &Target) -> Tally {
    const BYTES: usize = 8 << 20;
    let count = 4 * target.call_bytes_max() / BYTES;
    let mut body = message(&vec![0; BYTES + 1000]);
    body.truncate(BYTES);
    let mut tally = start_all(target, count as u64, 1, &post("AppendEvents", body)).await;
    // How many depends on how much of each had arrived when the time of the first was over.
    if !tally.outcomes.contains_key("ResourceExhausted") {
        tally.wrong(format!("none of {count} was refused"));
    }
    tally
}

/// Starts calls that never end; the service ends every one of them.
async fn start_all(target: &Target, count: u64, per_connection: u64, call: &Call) -> Tally {
    let mut started = JoinSet::new();
    let mut connection = calls::connect(target).await;
    let bytes = Bytes::from(call.body.clone());
    for number in 0..count {
        if number % per_connection == 0 {
            connection = calls::connect(target).await;
        }
        let (sender, request, bytes) = (connection.clone(), calls::http_request(call), bytes.clone());
        started.spawn(async move {
            let answered = async {
                let mut sender = sender.ready().await?;
                let (answer, mut body) = sender.send_request(request, false)?;
                // Held to the end, or the call would be reset.
                let _ = body.send_data(bytes, false);
                calls::read(answer.await?).await
            };
            tokio::time::timeout(HANG, answered).await
        });
    }
    let mut tally = Tally::default();
    while let Some(ended) = started.join_next().await {
        match ended.unwrap() {
            Ok(Ok(answer)) => match answer.status {
                Some(Code::ResourceExhausted | Code::DeadlineExceeded) => tally.note(answer.name()),
                _ => tally.wrong(format!("{answer:?}")),
            },
            Ok(Err(error)) => tally.wrong(format!("no status: {error}")),
            Err(_) => tally.wrong(format!("a call that never ends is open after {HANG:?}")),
        }
    }
    tally
}

/// Opens more streams on one connection than the service has allowed.
pub async fn streams(target: &Target) -> Tally {
    const STREAMS: u32 = 5000;
    let mut bytes = hello(&[]);
    for number in 0..STREAMS {
        bytes.extend(frame(HEADERS, END_HEADERS, 2 * number + 1, &call("Stats")));
    }
    let mut tally = Tally::default();
    for _ in 0..5 {
        match frames::send_and_end(frames::connect(target).await, &bytes).await {
            Ok(outcome) if outcome == "closed" => tally.wrong("all streams were taken".to_owned()),
            Ok(outcome) => tally.note(outcome),
            Err(why) => tally.wrong(why),
        }
    }
    tally
}

/// Sends valid appends that are larger than the configuration allows.
pub async fn appends(target: &Target) -> Tally {
    let of = |bytes: usize| NewEvent {
        data: Some(Data::Binary(vec![1; bytes].into())),
        ..event(&format!("{MALFORMED}large"))
    };
    let expected_sequences = (0..1001).map(|number| (number.to_string(), 0)).collect();
    let large = [
        request((0..501).map(|_| of(1)).collect()),
        request((0..9).map(|_| of(950_000)).collect()),
        request(vec![of(1_000_001)]),
        AppendEventsRequest { events: vec![of(1)], expected_sequences },
    ];
    let mut tally = Tally::default();
    for _ in 0..(target.requests / 1000).max(10) {
        for append in &large {
            let call = post("AppendEvents", message(&append.encode_to_vec()));
            let sender = calls::connect(target).await;
            calls::send(sender, &call, &mut tally).await;
        }
    }
    tally
}
