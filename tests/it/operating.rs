//! What an operator sees and does: stats, health, reflection, commands, limits and shutdown.
//!
//! Reached limits are named in the error, together with the time after which to retry.

use std::{collections::BTreeMap, time::Duration};

use aethyr_event_store::grpc::wire::{
    LoadEventsRequest, NewEvent, ReadAllRequest, SaveSnapshotRequest, State, SubscribeRequest,
    SubscribeResponse,
};
use prost::Message;
use prost_types::{FileDescriptorProto, Timestamp};
use rustix::process::Signal;
use tempfile::tempdir;
use tonic::{Code, Request, Status, Streaming};
use tonic_reflection::pb::{v1, v1alpha};
use tonic_types::StatusExt;

use crate::support::{
    events::{append, append_to, event, expecting, load, reason, request, whole_order},
    immudb::ImmuDb,
    service::{Service, Setup},
};

/// Returns the exit code, standard output and standard error of a command that ends by itself.
fn run(service: &Service, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = service.command(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_agree_with_a_count_by_hand() {
    let began = std::time::SystemTime::now();
    let mut service = Service::start(Setup::local()).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 3).await;
    let player = NewEvent { aggregate_type: "Hero".into(), event_type: "PlayerMoved".into(), ..event("p") };
    let sent = vec![event("room-2"), player, event("room-1")];
    append(&mut client, sent.clone()).await;
    append(&mut client, sent).await;
    client.append_events(expecting(vec![event("room-1")], &[("room-1", 1)])).await.unwrap_err();
    client.append_events(request(vec![])).await.unwrap_err();
    let snapshot = |id: &str, sequence_number| SaveSnapshotRequest {
        aggregate_id: id.to_owned(),
        sequence_number,
        ..Default::default()
    };
    for (id, sequence) in [("room-1", 2), ("room-1", 4), ("room-1", 3), ("p", 1)] {
        client.save_snapshot(snapshot(id, sequence)).await.unwrap();
    }
    client.save_snapshot(snapshot("p", 2)).await.unwrap_err();
    load(&mut client, "room-1").await;
    let count = |pairs: &[(&str, u64)]| -> BTreeMap<String, u64> {
        pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    };
    let stats = service.stats().await;
    assert_eq!((stats.events_stored, stats.events_loaded, stats.snapshots_stored), (6, 4, 3));
    assert_eq!((stats.store_failures, stats.load_failures), (0, 0));
    let started = stats.started_at.map(|at| std::time::SystemTime::try_from(at).unwrap()).unwrap();
    assert!(started >= began && started <= std::time::SystemTime::now());
    assert_eq!(stats.version, env!("CARGO_PKG_VERSION"));
    for round in 0..3 {
        let stats = service.stats().await;
        assert_eq!(stats.state(), State::LocalOnly);
        assert_eq!((stats.event_count, stats.aggregate_count, stats.snapshot_count), (6, 3, 2), "{round}");
        assert_eq!((stats.last_position, stats.forwarded_position), (6, 0));
        assert_eq!(stats.event_types, count(&[("RoomCreated", 5), ("PlayerMoved", 1)]));
        // These are counts of aggregates, not of events.
        assert_eq!(stats.aggregate_types, count(&[("Place", 2), ("Hero", 1)]));
        assert!(!stats.immudb.unwrap().configured);
        service.kill();
        if round == 1 {
            std::fs::remove_dir_all(service.storage().join("index")).unwrap();
        }
        service.restart().await;
    }
    assert_eq!(service.stats().await.events_stored, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn types_beyond_the_thousand_most_frequent_are_counted_as_other() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    for first in (0..1200).step_by(400) {
        let of = |number: usize| NewEvent { event_type: format!("Type{number}"), ..event("room-1") };
        append(&mut client, (first..first + 400).map(of).collect()).await;
    }
    append_to(&mut client, "room-1", 7).await;
    let types = service.stats().await.event_types;
    assert_eq!(types.len(), 1001);
    assert_eq!((types["RoomCreated"], types["other"]), (7, 201));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_the_service_from_immudb() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    service.wait_for_health("immudb", true).await;
    assert_eq!(service.health("aethyr.eventstore.v1.EventStoreService").await, Some(true));
    assert_eq!(service.health("nobody").await, None);
    immudb.kill();
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_for_health("immudb", false).await;
    assert_eq!(service.health("").await, Some(true));
    let listen = format!("listen: 127.0.0.1:{}", service.port());
    service.reconfigure(Setup::with_immudb(immudb.port()).set("server", &listen));
    assert_eq!(run(&service, &["health"]).0, Some(0));
    let (code, _, said) = run(&service, &["health", "--service", "immudb"]);
    assert!(code == Some(1) && said.contains("not serving"), "{code:?} {said}");
    service.kill();
    let (code, _, said) = run(&service, &["health"]);
    assert!(code == Some(1) && said.contains(&service.port().to_string()), "{code:?} {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_explains_the_calls_and_the_details_of_errors() {
    let service = Service::start(Setup::local()).await;
    let symbols = [
        "aethyr.eventstore.v1.EventStoreService",
        "google.rpc.ErrorInfo",
        "google.rpc.BadRequest",
        "google.rpc.RetryInfo",
    ];
    let mut files = Vec::new();
    for symbol in symbols {
        use v1::{server_reflection_request::MessageRequest, server_reflection_response::MessageResponse};
        let ask = MessageRequest::FileContainingSymbol(symbol.to_owned());
        let ask = v1::ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(service.channel());
        let mut stream = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
        let answer = stream.message().await.unwrap().unwrap().message_response.unwrap();
        let MessageResponse::FileDescriptorResponse(found) = answer else { panic!("{symbol}: {answer:?}") };
        files.push(FileDescriptorProto::decode(&found.file_descriptor_proto[0][..]).unwrap());
    }
    let comments = files[0].source_code_info.as_ref().unwrap();
    let said = |text: &str| comments.location.iter().any(|place| place.leading_comments().contains(text));
    assert!(said("Appends events to one or more aggregates, all or nothing."), "no comments");
    for symbol in symbols {
        use v1alpha::{
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let ask = MessageRequest::FileContainingSymbol(symbol.to_owned());
        let ask = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
        let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(service.channel());
        let mut stream = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
        let answer = stream.message().await.unwrap().unwrap().message_response.unwrap();
        assert!(matches!(answer, MessageResponse::FileDescriptorResponse(_)), "{symbol}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_goes_on_after_its_callers_deadline() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let service = Service::start(Setup::with_immudb(immudb.port())).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 1).await;
    service.wait_until_forwarded().await;
    immudb.pause();
    // Long enough that the append is stored before the deadline, and that the client does not time
    // out before the service.
    for (attempt, timeout) in deadlines().enumerate() {
        let aggregate = format!("late-{attempt}");
        let mut late = Request::new(request(vec![event(&aggregate)]));
        late.set_timeout(timeout);
        let status = client.append_events(late).await.unwrap_err();
        if status.code() == Code::DeadlineExceeded && load(&mut client, &aggregate).await.len() == 1 {
            break;
        }
    }
    for timeout in deadlines() {
        let mut follow = Request::new(SubscribeRequest::default());
        follow.set_timeout(timeout);
        let ended = match client.subscribe(follow).await {
            Ok(stream) => end_of(stream.into_inner()).await,
            Err(status) => status,
        };
        if ended.code() == Code::DeadlineExceeded {
            break;
        }
    }
    immudb.resume();
    let stored = service.wait_until_forwarded().await.event_count;
    assert_eq!(whole_order(&mut client).await.len() as u64, stored);
}

/// Deadlines for calls that the service has to end before its client does. A busy machine may
/// prevent that, so each is twice as long as the previous one.
fn deadlines() -> impl Iterator<Item = Duration> {
    let all = (0..7).map(|doubled| Duration::from_millis(500 << doubled));
    all.chain(std::iter::from_fn(|| panic!("the service does not end a call at its deadline")))
}

async fn end_of(mut stream: Streaming<SubscribeResponse>) -> Status {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a subscription ended without an error"),
            Err(status) => return status,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_storage_is_refused() {
    let service = Service::start(Setup::local()).await;
    append_to(&mut service.client(), "room-1", 1).await;
    for command in [&["serve"][..], &["repair"], &["import", "events"]] {
        let (code, _, said) = run(&service, command);
        assert!(code == Some(1) && said.contains("in use by another process"), "{command:?}: {said}");
    }
    append_to(&mut service.client(), "room-1", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_event_sourcing_writes_are_refused_and_reads_go_on() {
    let mut service = Service::start(Setup::local()).await;
    append_to(&mut service.client(), "room-1", 2).await;
    service.kill();
    service.reconfigure(Setup::local().set("event_sourcing", "enabled: false"));
    service.restart().await;
    let mut client = service.client();
    let status = client.append_events(request(vec![event("room-1")])).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "EVENT_SOURCING_DISABLED")
    );
    assert!(
        status.message().contains("event_sourcing.enabled") && status.message().contains("conf/server.yml")
    );
    assert_eq!(load(&mut client, "room-1").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_command_line_or_configuration_is_exit_code_64() {
    let mut service = Service::new(Setup::with_immudb(1).set("immudb", "password: hunter2"));
    let (code, printed, _) = run(&service, &["check-config"]);
    assert!(code == Some(0) && printed.contains("snapshot_threshold: 100"), "{printed}");
    assert!(!printed.contains("hunter2") && printed.contains("***"), "{printed}");
    assert_eq!(run(&service, &["--version"]).0, Some(0));
    assert_eq!(run(&service, &["dance"]).0, Some(64));
    let (code, _, said) = run(&service, &["--config", "nowhere.yml", "check-config"]);
    assert!(code == Some(64) && said.contains("nowhere.yml"), "{said}");
    for (section, line, named) in [
        ("event_sourcing", "snapshot_treshold: 5", "event_sourcing.snapshot_treshold"),
        ("server", "listen: everywhere", "server.listen"),
        ("immudb", "database: defaultdb", "immudb.database"),
    ] {
        service.reconfigure(Setup::local().set(section, line));
        for command in ["check-config", "serve"] {
            let (code, _, said) = run(&service, &[command]);
            assert!(code == Some(64) && said.contains(named), "{command} {line}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_end_waits_for_calls_and_a_second_signal_does_not() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    // No call is answered from the local log in the meantime.
    let setup = Setup::with_immudb(immudb.port()).set("immudb", "fallback_after: 60.0");
    let mut service = Service::start(setup).await;
    append_to(&mut service.client(), "room-1", 1).await;
    let waiting = |service: &Service| {
        let mut client = service.client();
        tokio::spawn(async move { client.append_events(request(vec![event("room-1")])).await })
    };
    immudb.pause();
    let call = waiting(&service);
    service.wait_for("the event", |stats| stats.event_count == 2).await;
    service.signal(Signal::TERM);
    service.wait_for_log("shutting down").await;
    immudb.resume();
    assert!(call.await.unwrap().is_ok(), "a call that ran was broken off");
    assert_eq!(service.wait().code(), Some(0));

    service.restart().await;
    immudb.pause();
    let call = waiting(&service);
    service.wait_for("the event", |stats| stats.event_count == 3).await;
    service.signal(Signal::INT);
    service.wait_for_log("shutting down").await;
    service.signal(Signal::TERM);
    assert_eq!(service.wait().code(), Some(1));
    assert!(call.await.unwrap().is_err());
    immudb.resume();
    service.restart().await;
    assert_eq!(service.wait_until_forwarded().await.event_count, 3);
}

fn assert_full(status: &Status, limit: &str) {
    assert_eq!((status.code(), reason(status).as_str()), (Code::ResourceExhausted, limit), "{status:?}");
    let details = status.get_error_details();
    assert!(details.retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);
    assert!(details.error_info().unwrap().metadata["limit"].starts_with("limits."));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_limit_the_error_names_it_and_says_when_to_come_back() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port())
        .set("limits", "concurrent_calls_max: 6")
        .set("limits", "streams_open_max: 2");
    let mut service = Service::start(setup.clone()).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 1).await;
    // One connection gets its share of the streams, and no more.
    let first = client.clone().subscribe(SubscribeRequest::default()).await.unwrap();
    let _second = service.client().subscribe(SubscribeRequest::default()).await.unwrap();
    assert_full(&client.read_all(ReadAllRequest::default()).await.unwrap_err(), "STREAMS_OPEN");
    let load = LoadEventsRequest { aggregate_id: "room-1".into(), ..Default::default() };
    assert_full(&client.load_events(load.clone()).await.unwrap_err(), "STREAMS_OPEN");
    drop(first);
    while let Err(status) = client.load_events(load.clone()).await {
        assert_full(&status, "STREAMS_OPEN");
    }
    immudb.pause();
    // A dropped stream may still be closing and occupy a permit.
    let mut calls = Vec::new();
    let status = loop {
        let mut caller = service.client();
        calls.push(tokio::spawn(async move { caller.append_events(request(vec![event("room-1")])).await }));
        if let Err(status) = client.stats(aethyr_event_store::grpc::wire::StatsRequest {}).await {
            break status;
        }
    };
    assert_full(&status, "CONCURRENT_CALLS");
    assert_eq!(service.health("").await, Some(true), "a busy service is not a dead one");
    immudb.resume();
    let taken = {
        let mut taken = 0;
        for call in calls {
            match call.await.unwrap() {
                Ok(_) => taken += 1,
                Err(status) => assert_full(&status, "CONCURRENT_CALLS"),
            }
        }
        taken
    };
    assert!(taken >= 3, "{taken}");
    service.wait_until_forwarded().await;

    service.kill();
    service.reconfigure(setup.set("limits", "disk_free_min: 1125899906842624"));
    service.restart().await;
    assert_full(&service.client().append_events(request(vec![event("a")])).await.unwrap_err(), "DISK_FULL");
    assert_eq!(whole_order(&mut service.client()).await.len(), 1 + taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_immudb_is_bounded() {
    for (limit, line) in
        [("PENDING_EVENTS", "pending_events_max: 10"), ("PENDING_BYTES", "pending_bytes_max: 1048576")]
    {
        let dir = tempdir().unwrap();
        let mut immudb = ImmuDb::start(dir.path()).await;
        let service = Service::start(Setup::with_immudb(immudb.port()).set("limits", line)).await;
        append_to(&mut service.client(), "room-1", 1).await;
        immudb.kill();
        let mut client = service.client();
        let mut taken = 1;
        let status = loop {
            let data = aethyr_event_store::grpc::wire::new_event::Data::Binary(vec![1; 120_000].into());
            let one = NewEvent { data: Some(data), ..event("room-1") };
            match client.append_events(request(vec![one])).await {
                Ok(_) => taken += 1,
                Err(status) => break status,
            }
        };
        assert_full(&status, limit);
        assert!((9..=11).contains(&taken), "{limit} after {taken}");
        assert_eq!(load(&mut client, "room-1").await.len(), taken);
        immudb.restart().await;
        service.wait_until_forwarded().await;
        append_to(&mut client, "room-1", 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_times_never_run_backwards_and_are_now() {
    let service = Service::start(Setup::local()).await;
    let now = || Timestamp::from(std::time::SystemTime::now());
    let key = |at: Timestamp| (at.seconds, at.nanos);
    let before = now();
    append_to(&mut service.client(), "room-1", 50).await;
    for event in whole_order(&mut service.client()).await {
        let at = key(event.recorded_at.unwrap());
        assert!(at >= key(before) && at <= key(now()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn types_and_connections_and_what_waits_are_bounded() {
    let setup = Setup::local()
        .set("limits", "types_max: 2")
        .set("limits", "connections_max: 2")
        .set("limits", "calls_waiting_max: 1")
        .set("limits", "calls_waiting_bytes_max: 300000");
    let service = Service::start(setup).await;
    let mut client = service.client();
    let of_type = |event_type: &str| NewEvent { event_type: event_type.to_owned(), ..event("room-1") };
    append(&mut client, vec![of_type("A"), of_type("B"), of_type("A")]).await;
    // Types beyond the limit are stored unchanged and counted together, so that the names of one
    // client do not get in the way of others.
    append(&mut client, vec![of_type("C"), of_type("A"), of_type("D")]).await;
    for (number, aggregate_type) in (1..).zip(["Hero", "Item", "Shop"]) {
        let aggregate_id = format!("other-{number}");
        append(
            &mut client,
            vec![NewEvent { aggregate_id, aggregate_type: aggregate_type.into(), ..of_type("B") }],
        )
        .await;
    }
    let stats = service.stats().await;
    let counts =
        |types: &[(&str, u64)]| types.iter().map(|(name, count)| (name.to_string(), *count)).collect();
    assert_eq!(stats.event_types, counts(&[("A", 3), ("B", 4), ("other", 2)]));
    assert_eq!(stats.aggregate_types, counts(&[("Place", 1), ("Hero", 1), ("other", 2)]));
    let stored: Vec<_> =
        load(&mut client, "room-1").await.into_iter().map(|event| event.event_type).collect();
    assert_eq!(stored, ["A", "B", "A", "C", "A", "D"]);

    // One connection belongs to this client; the health checks at startup have closed theirs.
    let mut connections = vec![client.clone()];
    let refused = loop {
        let mut another = service.client();
        match another.stats(aethyr_event_store::grpc::wire::StatsRequest {}).await {
            Ok(_) => connections.push(another),
            Err(status) => break status,
        }
    };
    // The code depends on how far the client got.
    assert!(matches!(refused.code(), Code::Unavailable | Code::Unknown | Code::Cancelled), "{refused:?}");
    assert!(connections.len() <= 2);
    drop(connections);

    // Metadata counts, too.
    let many = |byte: char| (0..64).map(|key| (format!("k{key}"), byte.to_string().repeat(4000))).collect();
    let heavy = move |byte| NewEvent { metadata: many(byte), ..event("room-1") };
    let mut refused = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let calls = (0..20).map(|_| {
            let mut client = client.clone();
            let sent = request(vec![heavy('x')]);
            tokio::spawn(async move { client.append_events(sent).await })
        });
        for call in calls.collect::<Vec<_>>() {
            if let Err(status) = call.await.unwrap() {
                assert_full(&status, &reason(&status));
                refused.insert(reason(&status));
            }
        }
        if refused.len() == 2 {
            break;
        }
    }
    assert!(refused.contains("CALLS_WAITING_BYTES"), "{refused:?}");
}
