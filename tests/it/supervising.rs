//! What a supervisor learns about the service, from startup to shutdown: health, readiness, exit
//! codes and a stop that nothing holds up.

use std::{fs::File, net::TcpStream, process::Command, time::Duration};

use aethyr_event_store::grpc::wire::{
    LoadEventsRequest, LoadSnapshotRequest, ReadAllRequest, SaveSnapshotRequest, State, StatsRequest,
    SubscribeRequest, save_snapshot_request::Data,
};
use prost::Message;
use rustix::process::Signal;
use tempfile::tempdir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};
use tonic_types::StatusExt;

use crate::support::{
    events::{append_to, event, reason, request},
    h2::{begin, connect, framed},
    immudb::ImmuDb,
    service::{PATIENCE, Service, Setup},
};

/// A FIFO that holds up the opening of the storage until it is opened for writing.
struct Held(std::path::PathBuf);

impl Held {
    fn hold(service: &Service) -> Self {
        std::fs::create_dir_all(service.storage().join("index")).unwrap();
        let path = service.storage().join("index/held.index");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        Self(path)
    }

    fn let_go(self) {
        std::thread::spawn(move || File::options().write(true).open(self.0).unwrap());
    }
}

async fn watch(service: &Service, name: &str) -> tonic::Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest { service: name.to_owned() };
    HealthClient::new(service.channel()).watch(request).await.unwrap().into_inner()
}

async fn status(watch: &mut tonic::Streaming<HealthCheckResponse>) -> ServingStatus {
    watch.message().await.unwrap().unwrap().status()
}

fn exit_code(service: &Service, arguments: &[&str]) -> Option<i32> {
    service.command(arguments).output().unwrap().status.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_storage_is_opened_every_call_fails_because_the_service_is_starting() {
    let mut service = Service::new(Setup::local());
    let held = Held::hold(&service);
    service.launch();
    for name in ["", "reads", "immudb", "aethyr.world.v1.WorldService"] {
        assert_eq!(service.health(name).await, Some(false), "{name:?}");
    }
    let mut watch = watch(&service, "").await;
    assert_eq!(status(&mut watch).await, ServingStatus::NotServing);
    let mut client = service.client();
    let refused = [
        client.stats(StatsRequest {}).await.unwrap_err(),
        client.append_events(request(vec![event("room-1")])).await.unwrap_err(),
        client.read_all(ReadAllRequest::default()).await.unwrap_err(),
    ];
    for status in refused {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STARTING"));
        assert!(status.get_error_details().retry_info().is_some());
    }
    let ask = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut reflection = ServerReflectionClient::new(service.channel());
    let mut answers = reflection.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    held.let_go();
    // The same stream, on the same connection.
    assert_eq!(status(&mut watch).await, ServingStatus::Serving);
    append_to(&mut client, "room-1", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_the_storage_is_opened_is_in_order() {
    let mut service = Service::new(Setup::local().set("server", "shutdown_grace: 0.1"));
    let _held = Held::hold(&service);
    service.launch();
    let mut watch = watch(&service, "").await;
    assert_eq!(status(&mut watch).await, ServingStatus::NotServing);
    assert_eq!(service.stop().code(), Some(0), "{}", service.log());
    assert!(service.log().contains("stopped"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_open_stream_holds_a_stop_up() {
    // Longer than any test waits.
    let setup =
        Setup::local().set("server", "shutdown_grace: 3600.0").set("server", "first_call_max: 3600.0");
    let mut service = Service::start(setup).await;
    append_to(&mut service.client(), "room-1", 1).await;
    let (mut known, mut unknown) = (watch(&service, "").await, watch(&service, "nobody").await);
    assert_eq!(status(&mut known).await, ServingStatus::Serving);
    assert_eq!(status(&mut unknown).await, ServingStatus::ServiceUnknown);
    let (questions, asked) = mpsc::channel(1);
    let ask = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    questions.send(ask).await.unwrap();
    let mut reflection = ServerReflectionClient::new(service.channel());
    let mut answers =
        reflection.server_reflection_info(ReceiverStream::new(asked)).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    let mut subscription =
        service.client().subscribe(SubscribeRequest::default()).await.unwrap().into_inner();
    assert!(subscription.message().await.unwrap().is_some());
    let _silent = TcpStream::connect(("127.0.0.1", service.port())).unwrap();
    service.signal(Signal::TERM);
    let ends = async {
        assert_eq!(status(&mut known).await, ServingStatus::NotServing);
        let is_final =
            |status: &Status| status.code() == Code::Unavailable && reason(status) == "SHUTTING_DOWN";
        for mut watch in [known, unknown] {
            assert!(is_final(&watch.message().await.unwrap_err()));
        }
        assert!(is_final(&answers.message().await.unwrap_err()));
        let ended = loop {
            match subscription.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a subscription ended without an error"),
                Err(status) => break status,
            }
        };
        assert!(is_final(&ended), "{ended:?}");
    };
    tokio::time::timeout(PATIENCE, ends).await.expect("a stream goes on after the stop");
    assert_eq!(service.wait().code(), Some(0));
    drop(questions);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_peer_that_vanished_or_does_not_read_holds_a_stop_up() {
    const READ_ALL: &str = "/aethyr.eventstore.v1.EventStoreService/ReadAll";
    const LOAD: &str = "/aethyr.eventstore.v1.EventStoreService/LoadEvents";
    const LIST: &str = "/aethyr.eventstore.v1.EventStoreService/ListAggregates";
    const STATS: &str = "/aethyr.eventstore.v1.EventStoreService/Stats";
    // Longer than any test waits.
    let setup = Setup::local().set("server", "shutdown_grace: 3600.0").set("server", "unread_max: 1.0");
    let mut service = Service::start(setup).await;
    append_to(&mut service.client(), "room-1", 50).await;
    // This client has made a call and has its answer, and is never heard from again.
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", service.port())).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let mut vanished = Box::pin(connection);
    let answered = tokio::select! {
        answer = begin(&sender, STATS, &[], framed(0, &[])) => answer.unwrap().status(),
        _ = &mut vanished => panic!("the connection ended"),
    };
    assert_eq!(answered, 200);
    // Three clients read nothing of their responses.
    let load = LoadEventsRequest { aggregate_id: "room-1".to_owned(), ..Default::default() }.encode_to_vec();
    let mut unread = Vec::new();
    for (path, request) in [(READ_ALL, Vec::new()), (LOAD, load), (LIST, Vec::new())] {
        let sender = connect(service.port(), 0).await;
        let answer = begin(&sender, path, &[], framed(0, &request)).await.unwrap();
        assert!(answer.headers().get("grpc-status").is_none(), "{path}: {answer:?}");
        unread.push((sender, answer));
    }
    service.signal(Signal::TERM);
    assert_eq!(service.wait().code(), Some(0));
    drop((sender, vanished, unread));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_all_of_its_answer_at_a_stop() {
    const LOAD: &str = "/aethyr.eventstore.v1.EventStoreService/LoadSnapshot";
    const BYTES: usize = 2_000_000;
    const WINDOW: u32 = 65_535;
    // The part that is left when the client becomes slow. By then, HTTP/2 has taken over all of it.
    const LEFT: usize = 300_000;
    let setup = Setup::local().set("limits", "snapshot_bytes_max: 2000000");
    let mut service = Service::start(setup.set("server", "shutdown_grace: 3600.0")).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 1).await;
    let data = Some(Data::Binary(vec![7; BYTES].into()));
    let (aggregate_id, sequence_number) = ("room-1".to_owned(), 1);
    let snapshot = SaveSnapshotRequest { aggregate_id, sequence_number, data, ..Default::default() };
    client.save_snapshot(snapshot).await.unwrap();
    let load = LoadSnapshotRequest { aggregate_id: "room-1".to_owned() }.encode_to_vec();
    let sender = connect(service.port(), WINDOW).await;
    let mut body = begin(&sender, LOAD, &[], framed(0, &load)).await.unwrap().into_body();
    let (mut received, mut stopped) = (0, false);
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        received += piece.len();
        if received > BYTES - LEFT {
            if !stopped {
                service.signal(Signal::TERM);
                stopped = true;
            }
            // The client is slow: that is the point of this test.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        body.flow_control().release_capacity(piece.len()).unwrap();
    }
    assert!(stopped && received > BYTES);
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    drop(sender);
    assert_eq!(service.wait().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_takes_the_writes_away_and_not_the_reads_and_comes_back_by_itself() {
    for (limit, disk_free_min) in [("limits.disk_free_min", 67_108_864), ("no space", 0)] {
        // Only the log is to run out of space.
        let setup = Setup::local().set("event_sourcing", "index_path: index");
        let setup = setup.set("limits", &format!("disk_free_min: {disk_free_min}"));
        let mut service = Service::new(setup);
        if !service.use_disk(256) {
            return;
        }
        service.restart().await;
        let mut client = service.client();
        append_to(&mut client, "room-1", 1).await;
        service.disk().fill();
        if limit == "no space" {
            while client.append_events(request(vec![event("room-1")])).await.is_ok() {}
        }
        // No client writes in the meantime, and the health checks do not need one to.
        service.wait_for_health("", false).await;
        assert_eq!(service.health("aethyr.eventstore.v1.EventStoreService").await, Some(false), "{limit}");
        assert_eq!(service.health("reads").await, Some(true), "{limit}");
        assert_eq!(client.read_all(ReadAllRequest::default()).await.map(drop).map_err(|e| e.code()), Ok(()));
        service.wait_for_log("health is NOT_SERVING").await;
        let stats = service.stats().await;
        assert_eq!(stats.reads_refused, "");
        match limit {
            "no space" => assert!(stats.refusals.iter().any(|refusal| refusal.reason == "DISK_FULL")),
            _ => assert_eq!(stats.writes_refused, "DISK_FULL"),
        }
        service.disk().free();
        service.wait_for_health("", true).await;
        append_to(&mut client, "room-1", 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn immudb_is_healthy_only_where_events_reach_it() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port()).set("immudb", "password: wrong");
    let mut service = Service::start(setup).await;
    service.wait_for_state(State::Fallback).await;
    service
        .wait_for("an answer of ImmuDB", |stats| {
            let immudb = stats.immudb.as_ref().unwrap();
            immudb.reachable && !immudb.last_error.is_empty()
        })
        .await;
    assert_eq!(service.health("immudb").await, Some(false));
    assert_eq!(service.health("").await, Some(true));
    let listen = format!("listen: 127.0.0.1:{}", service.port());
    let wrong = Setup::with_immudb(immudb.port()).set("immudb", "password: wrong").set("server", &listen);
    service.reconfigure(wrong);
    assert_eq!(exit_code(&service, &["health", "--service", "immudb"]), Some(1));
    assert_eq!(exit_code(&service, &["health", "--service", "reads"]), Some(0));
    service.kill();
    service.reconfigure(Setup::with_immudb(immudb.port()));
    service.restart().await;
    service.wait_for_health("immudb", true).await;
    let local = Service::start(Setup::local()).await;
    assert_eq!(local.health("immudb").await, Some(false), "there is no ImmuDB that events could reach");
}
