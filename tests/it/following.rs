//! The global order of events: reading it, filtering it, and following it live.
//!
//! Subscriptions continue from checkpoints, and reject those of another history.

use aethyr_event_store::grpc::wire::{
    Checkpoint, Filter, NewEvent, ReadAllRequest, RecordedEvent, SubscribeRequest, SubscribeResponse,
    subscribe_response::Content,
};
use tonic::{Code, Streaming};

use crate::support::{
    events::{append, append_to, event, read_all, reason, whole_order},
    load::{Load, acknowledged},
    service::{Client, Service, Setup},
};

/// Decides whether a filter should let an event through.
type Matches = Box<dyn Fn(&RecordedEvent) -> bool>;

async fn subscribe(client: &mut Client, after: Option<Checkpoint>) -> Streaming<SubscribeResponse> {
    client.subscribe(SubscribeRequest { after, filter: None }).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<SubscribeResponse>) -> Content {
    stream.message().await.unwrap().unwrap().content.unwrap()
}

/// Returns all events up to a position, and the checkpoint after it.
async fn follow(stream: &mut Streaming<SubscribeResponse>, until: u64) -> (Vec<RecordedEvent>, Checkpoint) {
    let mut events: Vec<RecordedEvent> = Vec::new();
    while events.last().is_none_or(|event| event.position < until) {
        if let Content::Events(batch) = next(stream).await {
            events.extend(batch.events);
        }
    }
    let last = events.last().unwrap();
    let checkpoint = Checkpoint { position: last.position, chain_hash: last.chain_hash.clone() };
    (events, checkpoint)
}

fn positions(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.position).collect()
}

/// Returns filters for the events of the test below, each with what it lets through.
fn filters(all: &[RecordedEvent]) -> Vec<(Filter, Matches)> {
    let time = |position: usize| all[position - 1].recorded_at;
    let at = |event: &RecordedEvent| event.recorded_at.map(|at| (at.seconds, at.nanos));
    let (from, until) = (at(&all[4]), at(&all[14]));
    vec![
        (Filter::default(), Box::new(|_| true)),
        (
            Filter { aggregate_types: vec!["Hero".into()], ..Default::default() },
            Box::new(|event| event.aggregate_type == "Hero"),
        ),
        (
            Filter { event_types: vec!["Type1".into(), "Type4".into()], ..Default::default() },
            Box::new(|event| ["Type1", "Type4"].contains(&event.event_type.as_str())),
        ),
        (
            Filter { aggregate_id_prefix: "Room-1".into(), ..Default::default() },
            Box::new(|event| event.aggregate_id == "Room-1"),
        ),
        (
            Filter { correlation_id: "quest".into(), ..Default::default() },
            Box::new(|event| event.correlation_id == "quest"),
        ),
        (
            Filter { recorded_from: time(5), recorded_until: time(15), ..Default::default() },
            Box::new(move |event| at(event) >= from && at(event) <= until),
        ),
        (
            Filter {
                aggregate_types: vec!["Hero".into()],
                event_types: vec!["Type0".into()],
                ..Default::default()
            },
            Box::new(|event| event.aggregate_type == "Hero" && event.event_type == "Type0"),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_can_be_filtered() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    for number in 1..=30 {
        let kind = if number % 3 == 0 { "Hero" } else { "Place" };
        let one = NewEvent {
            aggregate_type: kind.into(),
            event_type: format!("Type{}", number % 5),
            correlation_id: if number % 10 == 0 { "quest".into() } else { String::new() },
            ..event(&format!("{kind}-{}", number % 2))
        };
        append(&mut client, vec![one]).await;
    }
    let all = whole_order(&mut client).await;
    for (filter, matches) in filters(&all) {
        let expected: Vec<RecordedEvent> = all.iter().filter(|event| matches(event)).cloned().collect();
        let whole = ReadAllRequest { filter: Some(filter.clone()), ..Default::default() };
        assert_eq!(read_all(&mut client, whole).await, expected, "{filter:?}");
        let part = ReadAllRequest { from_position: 10, limit: 2, filter: Some(filter.clone()) };
        let expected: Vec<_> = expected.into_iter().filter(|event| event.position >= 10).take(2).collect();
        assert_eq!(read_all(&mut client, part).await, expected, "{filter:?}");
        let mut stream = client
            .subscribe(SubscribeRequest { after: None, filter: Some(filter) })
            .await
            .unwrap()
            .into_inner();
        let mut followed = Vec::new();
        let reached = loop {
            match next(&mut stream).await {
                Content::Events(batch) => followed.extend(batch.events),
                Content::Checkpoint(_) => {}
                Content::CaughtUp(caught_up) => break caught_up.checkpoint.unwrap(),
            }
        };
        assert_eq!(followed, all.iter().filter(|event| matches(event)).cloned().collect::<Vec<_>>());
        assert_eq!((reached.position, reached.chain_hash), (30, all[29].chain_hash.clone()));
    }
    let beyond = ReadAllRequest { from_position: 31, ..Default::default() };
    assert!(read_all(&mut client, beyond).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_catches_up_then_follows_and_goes_on_from_a_checkpoint() {
    let mut service = Service::start(Setup::local()).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 5).await;
    let mut stream = subscribe(&mut client, None).await;
    let (events, checkpoint) = follow(&mut stream, 5).await;
    assert_eq!(positions(&events), [1, 2, 3, 4, 5]);
    let Content::CaughtUp(caught_up) = next(&mut stream).await else { panic!("not caught up") };
    assert_eq!(caught_up.checkpoint, Some(checkpoint.clone()));
    append_to(&mut client, "room-2", 2).await;
    assert_eq!(positions(&follow(&mut stream, 7).await.0), [6, 7]);

    service.kill();
    service.restart().await;
    let mut client = service.client();
    let mut stream = subscribe(&mut client, Some(checkpoint)).await;
    let (events, checkpoint) = follow(&mut stream, 7).await;
    assert_eq!(positions(&events), [6, 7]);
    // At the end of the log, only new events are still to come.
    let mut at_end = subscribe(&mut client, Some(checkpoint)).await;
    assert!(matches!(next(&mut at_end).await, Content::CaughtUp(_)));
    append_to(&mut client, "room-2", 1).await;
    assert_eq!(positions(&follow(&mut at_end, 8).await.0), [8]);
    service.signal(rustix::process::Signal::TERM);
    let ended = at_end.message().await.unwrap_err();
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    assert!(service.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_whose_filter_lets_nothing_through_is_told_how_far_it_is() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 3).await;
    let filter = Some(Filter { aggregate_types: vec!["Hero".into()], ..Default::default() });
    let request = SubscribeRequest { after: None, filter };
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    assert!(matches!(next(&mut stream).await, Content::CaughtUp(_)));
    let last = append_to(&mut client, "room-1", 2).await[1].last_position;
    let reached = loop {
        let Content::Checkpoint(checkpoint) = next(&mut stream).await else { panic!("no checkpoint") };
        if checkpoint.position == last {
            break checkpoint;
        }
    };
    let order = whole_order(&mut client).await;
    assert_eq!(reached.chain_hash, order.last().unwrap().chain_hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_another_history_is_refused() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 3).await;
    let order = whole_order(&mut client).await;
    let hash = |position: usize| order[position - 1].chain_hash.clone();
    for (position, chain_hash) in [(2, hash(3)), (4, hash(3)), (3, vec![0; 32].into())] {
        let request = SubscribeRequest { after: Some(Checkpoint { position, chain_hash }), filter: None };
        let refused = match client.subscribe(request).await {
            Err(status) => status,
            Ok(stream) => stream.into_inner().message().await.unwrap_err(),
        };
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::FailedPrecondition, "HISTORY_CHANGED"),
            "{position}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_follows_the_order_skips_an_event() {
    let service = Service::start(Setup::local()).await;
    let load = Load::start(&service.client(), 32, 2);
    let followers: Vec<_> = (0..4)
        .map(|_| {
            let mut client = service.client();
            tokio::spawn(async move {
                let mut stream = subscribe(&mut client, None).await;
                follow(&mut stream, 10_000).await.0
            })
        })
        .collect();
    service.wait_for("enough events", |stats| stats.event_count >= 10_000).await;
    let calls = load.end().await;
    let order = whole_order(&mut service.client()).await;
    assert_eq!(order.len(), acknowledged(&calls));
    for follower in followers {
        let followed = follower.await.unwrap();
        assert_eq!(followed, order[..followed.len()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_lets_nothing_through_does_not_starve_of_checkpoints() {
    let service = Service::start(Setup::local()).await;
    let filter = Filter { event_types: vec!["Never".into()], ..Filter::default() };
    let ask = SubscribeRequest { filter: Some(filter), ..SubscribeRequest::default() };
    let mut stream = service.client().subscribe(ask).await.unwrap().into_inner();
    let mut client = service.client();
    // Too few events for a checkpoint by count, and never a pause long enough for one by time.
    let trickle = tokio::spawn(async move {
        loop {
            append_to(&mut client, "room-1", 1).await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    let told = loop {
        match stream.message().await.unwrap().unwrap().content.unwrap() {
            Content::Checkpoint(checkpoint) => break checkpoint.position,
            Content::CaughtUp(_) => {}
            Content::Events(_) => panic!("an event passed"),
        }
    };
    trickle.abort();
    assert!((1..500).contains(&told), "{told}");
}
