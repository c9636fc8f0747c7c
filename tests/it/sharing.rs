//! No client takes from others what all of them share: memory, streams, reads, calls, and the time
//! for a stop.

use std::{fs, time::Instant};

use aethyr_event_store::grpc::wire::{
    AppendEventsRequest, Filter, LoadEventsRequest, NewEvent, ReadAllRequest, SubscribeRequest,
    new_event::Data,
};
use prost::Message;
use tokio::task::JoinSet;
use tonic::{Code, Request, Status};

use crate::support::{
    events::{append, append_to, event, load_pieces, reason, whole_order},
    h2::{begin, connect, framed, status},
    service::{PATIENCE, Service, Setup},
};

const READ_ALL: &str = "/aethyr.eventstore.v1.EventStoreService/ReadAll";
const SUBSCRIBE: &str = "/aethyr.eventstore.v1.EventStoreService/Subscribe";

/// Appends 8 MB in one call.
async fn append_a_large_frame(service: &Service) {
    let data = Some(Data::Binary(vec![7; 16_000].into()));
    let events = (0..500).map(|_| NewEvent { data: data.clone(), ..event("room-1") }).collect();
    append(&mut service.client(), events).await;
}

/// Returns the memory in use, in MiB.
fn resident(service: &Service) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", service.process_id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim_end_matches("kB").trim().parse::<u64>().unwrap() >> 10
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_have_a_message_in_memory_and_no_more() {
    const STREAMS: usize = 200;
    let service = Service::start(Setup::local()).await;
    append_a_large_frame(&service).await;
    let before = resident(&service);
    for path in [READ_ALL, SUBSCRIBE] {
        // One byte of each stream arrives, so its first message has been built; the rest is not
        // read.
        let sender = connect(service.port(), 1).await;
        let mut opened = JoinSet::new();
        for _ in 0..STREAMS {
            let sender = sender.clone();
            opened.spawn(async move {
                let mut body = begin(&sender, path, &[], framed(0, &[])).await.unwrap().into_body();
                body.data().await.unwrap().unwrap();
                body
            });
        }
        let open = opened.join_all().await;
        let grown = resident(&service).saturating_sub(before);
        // 128 KiB each, in two copies, and some reads in progress. With a frame each it would be
        // 1.6 GB.
        assert!(grown < 400, "{path}: {grown} MiB for {STREAMS} streams");
        append(&mut service.client(), vec![event("honest")]).await;
        drop(open);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_starve_the_budget_are_refused_and_appends_go_on() {
    let service = Service::start(
        Setup::local().set("limits", "call_bytes_max: 67108864").set("limits", "append_bytes_max: 4194304"),
    )
    .await;
    // A single event makes a message of 1 MB.
    let data = Some(Data::Binary(vec![7; 999_000].into()));
    append(&mut service.client(), vec![NewEvent { data: data.clone(), ..event("room-1") }]).await;
    let mut opened = JoinSet::new();
    // Each connection has its share, and together they have everything.
    for _ in 0..4 {
        let sender = connect(service.port(), 100).await;
        for _ in 0..25 {
            let sender = sender.clone();
            opened.spawn(async move {
                let mut answer = begin(&sender, READ_ALL, &[], framed(0, &[])).await.unwrap();
                match answer.body_mut().data().await {
                    Some(Ok(_)) => Ok(answer),
                    _ => Err(status(answer).await),
                }
            });
        }
    }
    let (unread, refused): (Vec<_>, Vec<_>) = opened.join_all().await.into_iter().partition(Result::is_ok);
    assert!(refused.iter().all(|refused| matches!(refused, Err(Some(Code::ResourceExhausted)))));
    let refused = refused.len();
    assert!((20..60).contains(&unread.len()) && refused > 30, "{} unread, {refused} refused", unread.len());
    let status = load_pieces(&mut service.client(), load("room-1")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "CALL_BYTES"));
    for _ in 0..5 {
        let large = NewEvent { data: data.clone(), ..event("room-2") };
        append(&mut service.client(), vec![large, event("room-2")]).await;
    }
    drop(unread);
    // The budget of abandoned reads is free again.
    let until = Instant::now() + PATIENCE;
    while let Err(status) = load_pieces(&mut service.client(), load("room-2")).await {
        assert!(Instant::now() < until && reason(&status) == "CALL_BYTES", "{status:?}");
        tokio::task::yield_now().await;
    }
    let stored = service.stats().await.event_count;
    assert_eq!(stored, 11);
}

fn load(aggregate: &str) -> LoadEventsRequest {
    LoadEventsRequest { aggregate_id: aggregate.to_owned(), ..LoadEventsRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_subscriptions_of_one_connection_leave_streams_for_others() {
    let service = Service::start(Setup::local().set("limits", "streams_open_max: 20")).await;
    append_to(&mut service.client(), "room-1", 1).await;
    let greedy = service.client();
    let mut open = Vec::new();
    let status = loop {
        match greedy.clone().subscribe(SubscribeRequest::default()).await {
            Ok(stream) => open.push(stream),
            Err(status) => break status,
        }
    };
    assert_eq!((open.len(), reason(&status).as_str()), (16, "STREAMS_OPEN"));
    assert!(status.message().contains("share"), "{status:?}");
    // All other clients are still served, one after the other.
    for _ in 0..10 {
        assert_eq!(load_pieces(&mut service.client(), load("room-1")).await.unwrap()[0].events.len(), 1);
    }
    assert_eq!(whole_order(&mut service.client()).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_one_connection_leave_places_for_others() {
    let setup =
        Setup::local().set("limits", "concurrent_calls_max: 20").set("limits", "streams_open_max: 1000");
    let service = Service::start(setup).await;
    let greedy = service.client();
    let mut open = Vec::new();
    let status: Status = loop {
        match greedy.clone().subscribe(SubscribeRequest::default()).await {
            Ok(stream) => open.push(stream),
            Err(status) => break status,
        }
    };
    assert_eq!((open.len(), reason(&status).as_str()), (16, "CONCURRENT_CALLS"));
    append_to(&mut service.client(), "room-1", 3).await;
    assert_eq!(service.stats().await.event_count, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_do_not_hold_up_a_stop() {
    // Longer than any client waits here.
    let setup = Setup::local().set("server", "shutdown_grace: 3600.0").set("server", "unread_max: 10.0");
    let mut service = Service::start(setup).await;
    append_a_large_frame(&service).await;
    let mut read = service.client().subscribe(SubscribeRequest::default()).await.unwrap().into_inner();
    let idle = service.client().subscribe(SubscribeRequest::default()).await.unwrap();
    let mut client = service.client();
    let mut deadline = Request::new(ReadAllRequest::default());
    deadline.set_timeout(PATIENCE * 60);
    let reading = client.read_all(deadline).await.unwrap();
    let unread = connect(service.port(), 1).await;
    let unread = begin(&unread, READ_ALL, &[], framed(0, &[])).await.unwrap();
    let status =
        tokio::join!(async { tokio::task::spawn_blocking(move || service.stop()).await.unwrap() }, async {
            loop {
                match read.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("it ended as if there were no more"),
                    Err(status) => break status,
                }
            }
        });
    assert!(status.0.success());
    assert_eq!((status.1.code(), reason(&status.1).as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    drop((idle, reading, unread));
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_do_not_get_more_work_done_than_waiting() {
    const CALLERS: usize = 64;
    const RESETS: usize = 40;
    let service = Service::start(Setup::local().set("limits", "streams_open_max: 100")).await;
    append_a_large_frame(&service).await;
    // Nothing matches, so each read scans the whole log.
    let filter = Some(Filter { event_types: vec!["none".to_owned()], ..Filter::default() });
    let body = framed(0, &ReadAllRequest { filter, ..ReadAllRequest::default() }.encode_to_vec());
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (sender, body) = (connect(service.port(), 1 << 20).await, body.clone());
        callers.spawn(async move {
            for _ in 0..RESETS {
                // The response has begun, so the read is requested. Dropping the stream resets it.
                drop(begin(&sender, READ_ALL, &[], body.clone()).await.unwrap());
            }
        });
    }
    callers.join_all().await;
    let threads = fs::read_dir(format!("/proc/{}/task", service.process_id())).unwrap().count();
    // Threads that have finished their work linger for a while. Without a limit there would be 500
    // or more.
    assert!(threads < 200, "{threads} threads");
    append(&mut service.client(), vec![event("honest")]).await;
}

/// Returns one event for each of `aggregates` aggregates, whose ids have about `id_bytes` bytes.
fn one_each(aggregates: usize, id_bytes: usize) -> Vec<NewEvent> {
    let long = "a".repeat(id_bytes);
    let event =
        |number| NewEvent { event_id: uuid::Uuid::new_v4().to_string(), ..event(&format!("{long}{number}")) };
    (0..aggregates).map(event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_writes_that_nobody_reads_keep_out_nobody_else() {
    const APPEND: &str = "/aethyr.eventstore.v1.EventStoreService/AppendEvents";
    const CONNECTIONS: usize = 2;
    const RESENDS: usize = 60;
    let limits = ["call_bytes_max: 67108864", "append_bytes_max: 4194304"];
    let setup = limits.into_iter().fold(Setup::local(), |setup, line| setup.set("limits", line));
    let service = Service::start(setup).await;
    // The answer names each aggregate: 350 kB with its copy, out of 4 MiB for all such answers.
    let events = one_each(500, 200);
    append(&mut service.client(), events.clone()).await;
    let body = framed(0, &AppendEventsRequest { events, ..Default::default() }.encode_to_vec());
    let (mut kept, mut refused) = (Vec::new(), 0);
    for _ in 0..CONNECTIONS {
        let sender = connect(service.port(), 0).await;
        let mut begun = JoinSet::new();
        for _ in 0..RESENDS {
            let (sender, body) = (sender.clone(), body.clone());
            begun.spawn(async move { begin(&sender, APPEND, &[], body).await });
        }
        for answer in begun.join_all().await {
            match answer {
                Ok(answer) if answer.headers().get("grpc-status").is_none() => kept.push(answer),
                Ok(answer) => {
                    let status = Code::from_bytes(answer.headers()["grpc-status"].as_bytes());
                    assert_eq!(status, Code::ResourceExhausted);
                    refused += 1;
                }
                // The connection was closed because it reads nothing.
                Err(_) => refused += 1,
            }
        }
    }
    assert!(kept.len() > 5 && refused > 20, "{} kept, {refused} refused", kept.len());
    // Answers of the same size as those, so that a small gap is not enough for them.
    for _ in 0..5 {
        append(&mut service.client(), one_each(500, 200)).await;
        append_to(&mut service.client(), "honest", 1).await;
    }
    drop(kept);
}
