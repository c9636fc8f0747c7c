//! Measures the wait of one identity while another opens many streams and reads none of them.

use std::time::Duration;

use aethyr_event_store::grpc::wire::{ReadAllRequest, SubscribeRequest};
use hdrhistogram::Histogram;
use prost::Message;
use tokio::time::Instant;

use super::{
    Target,
    support::{
        access::{Bearer, Identities},
        events::{event, request},
        h2::{begin, connect, framed},
        service::{Service, Setup},
    },
};

const STREAMS: usize = 1000;
const STREAMS_PER_CONNECTION: usize = 50;
const EVENTS: usize = 20_000;
const APPENDS: usize = 1000;
const PACE: Duration = Duration::from_millis(5);

pub async fn measure() {
    let mut identities = Identities::default();
    let (greedy, other) = (identities.add("greedy", "game"), identities.add("other", "game"));
    let mut service = Service::new(Setup::local().set("access", "file: access.yml"));
    identities.write(&service.dir().join("access.yml"));
    service.restart().await;
    let target = Target { service, bearer: Bearer::new(&other), tls: None };
    let mut client = target.client(target.channel().await);
    for batch in 0..EVENTS / 100 {
        let events = (0..100).map(|_| event(&format!("place-{batch}"))).collect();
        client.append_events(request(events)).await.unwrap();
    }
    let before = waits(&target).await;
    let bearer = format!("Bearer {greedy}");
    let headers = [("authorization", bearer.as_str())];
    let (mut open, mut refused) = (Vec::new(), 0);
    for connection in 0..STREAMS / STREAMS_PER_CONNECTION {
        // A window that fills at once, and nothing reads.
        let sender = connect(target.service.port(), 64 * 1024).await;
        for stream in 0..STREAMS_PER_CONNECTION {
            let reads = (connection + stream) % 2 == 0;
            let (path, message) = if reads {
                ("ReadAll", ReadAllRequest::default().encode_to_vec())
            } else {
                ("Subscribe", SubscribeRequest::default().encode_to_vec())
            };
            let path = format!("/aethyr.eventstore.v1.EventStoreService/{path}");
            match begin(&sender, &path, &headers, framed(0, &message)).await {
                Ok(answer) if !answer.headers().contains_key("grpc-status") => {
                    open.push((sender.clone(), answer))
                }
                _ => refused += 1,
            }
        }
    }
    println!("streams of one identity that are not read: {} open, {refused} refused", open.len());
    let during = waits(&target).await;
    for (when, waits) in [("before", before), ("with the streams", during)] {
        let at = |quantile| waits.value_at_quantile(quantile) as f64 / 1000.0;
        println!(
            "an append of another identity {when}: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            at(0.5),
            at(0.99),
            waits.max() as f64 / 1000.0
        );
    }
}

/// Appends at a steady pace and returns how long the calls took, in microseconds.
async fn waits(target: &Target) -> Histogram<u64> {
    let mut client = target.client(target.channel().await);
    let mut waits = Histogram::new(3).unwrap();
    let mut ticks = tokio::time::interval(PACE);
    for _ in 0..APPENDS {
        ticks.tick().await;
        let began = Instant::now();
        client.append_events(request(vec![event("place-1")])).await.unwrap();
        waits.record(began.elapsed().as_micros() as u64).unwrap();
    }
    waits
}
