//! No identity takes from the others what all of them share.

use aethyr_event_store::grpc::wire::{NewEvent, StatsRequest, SubscribeRequest};
use prost::Message;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;

use super::service_of;
use crate::support::{
    access::{Bearer, Identities},
    events::{event, reason, request},
    h2::{begin, connect, framed, status},
    service::{Service, Setup},
};

const WATCH: &str = "/grpc.health.v1.Health/Watch";
const SUBSCRIBE: &str = "/aethyr.eventstore.v1.EventStoreService/Subscribe";

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_with_many_connections_leaves_streams_to_the_others() {
    let mut identities = Identities::default();
    let (greedy, other) = (identities.add("greedy", "game"), identities.add("other", "game"));
    let mut service = service_of(Setup::local().set("limits", "streams_open_max: 40"), &identities);
    service.restart().await;
    let bearer = format!("Bearer {greedy}");
    let headers = [("authorization", bearer.as_str())];
    let message = framed(0, &SubscribeRequest::default().encode_to_vec());
    let mut open = Vec::new();
    let mut refused = 0;
    // A connection for each stream: a share of connections would not be enough.
    for _ in 0..60 {
        let sender = connect(service.port(), 1).await;
        let answer = begin(&sender, SUBSCRIBE, &headers, message.clone()).await.unwrap();
        match answer.headers().contains_key("grpc-status") {
            true => {
                assert_eq!(status(answer).await, Some(Code::ResourceExhausted));
                refused += 1;
            }
            false => open.push((sender, answer)),
        }
    }
    assert!(refused >= 28 && open.len() <= 32, "{refused} refused, {} open", open.len());
    let bearer = format!("Bearer {other}");
    for _ in 0..5 {
        let sender = connect(service.port(), 1).await;
        let answer = begin(&sender, SUBSCRIBE, &[("authorization", &bearer)], message.clone()).await.unwrap();
        assert!(!answer.headers().contains_key("grpc-status"));
        open.push((sender, answer));
    }
    let other = Bearer::new(&other);
    other.events(service.channel()).append_events(request(vec![event("place-1")])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept_and_says_when_to_try_again() {
    let mut identities = Identities::default()
        .role("slow: { may: [append, load], shares: { appends_per_second: 1, events_per_second: 100 } }");
    let (slow, fast) = (identities.add("slow", "slow"), identities.add("fast", "game"));
    let mut service = service_of(Setup::local(), &identities);
    service.restart().await;
    let (slow, fast) = (Bearer::new(&slow), Bearer::new(&fast));
    let mut client = slow.events(service.channel());
    let first = request(vec![event("place-1")]);
    client.append_events(first.clone()).await.unwrap();
    // Two of a row cannot both be within one a second.
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(client.append_events(request(vec![event("place-1")])).await);
    }
    let refused: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert!(!refused.is_empty());
    for status in &refused {
        assert_eq!((status.code(), reason(status).as_str()), (Code::ResourceExhausted, "SHARE"));
        let details = tonic_types::StatusExt::get_error_details(status);
        assert!(details.retry_info().is_some(), "{status:?}");
    }
    // A resend is not refused: its events are stored.
    assert!(client.append_events(first).await.unwrap().into_inner().already_stored);
    for _ in 0..20 {
        fast.events(service.channel()).append_events(request(vec![event("place-2")])).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_new_event_types_of_one_identity_leave_room_for_those_of_others() {
    const TYPES: u32 = 10_000;
    const AT_ONCE: u32 = 500;
    let mut identities = Identities::default();
    let (greedy, other) = (identities.add("greedy", "game"), identities.add("other", "game"));
    let mut service = service_of(Setup::local(), &identities);
    service.restart().await;
    let mut client = Bearer::new(&greedy).events(service.channel());
    let mut stored = 0;
    for first in (0..TYPES).step_by(AT_ONCE as usize) {
        let event = |index: u32| NewEvent { event_type: format!("type-{index}"), ..event("place-1") };
        let events = (first..first + AT_ONCE).map(event).collect();
        stored += u32::from(client.append_events(request(events)).await.is_ok()) * AT_ONCE;
    }
    assert!(stored >= TYPES / 2, "half of all types are the share of one: {stored}");
    let other = Bearer::new(&other);
    let mut client = other.events(service.channel());
    let new = || NewEvent { event_type: "of-another".to_owned(), ..event("place-2") };
    // More than one of it, because `Stats` names the most frequent types.
    client.append_events(request(vec![new(), new()])).await.unwrap();
    let stats = client.stats(StatsRequest {}).await.unwrap().into_inner();
    assert_eq!(stats.event_types.get("of-another"), Some(&2), "{:?}", stats.event_types.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_without_credentials_take_no_calls_from_the_identities() {
    const PER_ADDRESS_MAX: usize = 1000;
    let mut identities = Identities::default();
    let (game, other) = (identities.add("game", "game"), identities.add("other", "game"));
    let mut service = service_of(Setup::local().set("limits", "concurrent_calls_max: 100"), &identities);
    service.restart().await;
    let message = framed(0, &HealthCheckRequest::default().encode_to_vec());
    let mut open = Vec::new();
    for _ in 0..PER_ADDRESS_MAX / 100 {
        let sender = connect(service.port(), 1 << 16).await;
        for _ in 0..100 {
            let answer = begin(&sender, WATCH, &[], message.clone()).await.unwrap();
            assert!(!answer.headers().contains_key("grpc-status"), "{} are open", open.len());
            open.push((sender.clone(), answer));
        }
    }
    let sender = connect(service.port(), 1 << 16).await;
    let refused = begin(&sender, WATCH, &[], message.clone()).await.unwrap();
    assert_eq!(status(refused).await, Some(Code::ResourceExhausted));
    // A program that restarts the service if it is not healthy gets its answer all the same.
    let mut checked = begin(&sender, "/grpc.health.v1.Health/Check", &[], message.clone()).await.unwrap();
    // The trailers come after the message.
    while checked.body_mut().data().await.is_some() {}
    assert_eq!(status(checked).await, Some(Code::Ok));
    for token in [game, other] {
        let mut client = Bearer::new(&token).events(service.channel());
        client.append_events(request(vec![event("place-1")])).await.unwrap();
    }
    open.truncate(PER_ADDRESS_MAX / 2);
    service
        .wait_until("room for another health check", async || {
            let answer = begin(&sender, WATCH, &[], message.clone()).await.unwrap();
            !answer.headers().contains_key("grpc-status")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_names_each_connection_is_a_client_as_without_access_control() {
    let setup = Setup::local().set("access", "anonymous: admin").set("limits", "streams_open_max: 40");
    let service = Service::start(setup).await;
    let message = framed(0, &SubscribeRequest::default().encode_to_vec());
    let greedy = connect(service.port(), 1 << 16).await;
    let mut open = Vec::new();
    for _ in 0..40 {
        let answer = begin(&greedy, SUBSCRIBE, &[], message.clone()).await.unwrap();
        if !answer.headers().contains_key("grpc-status") {
            open.push(answer);
        }
    }
    assert!((20..=32).contains(&open.len()), "{} are open", open.len());
    let another = connect(service.port(), 1 << 16).await;
    for _ in 0..5 {
        let answer = begin(&another, SUBSCRIBE, &[], message.clone()).await.unwrap();
        assert!(!answer.headers().contains_key("grpc-status"));
        open.push(answer);
    }
}
