//! A service whose game world is disabled is a plain event store, for its clients and for the
//! command line.

use std::fs;

use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::room;
use crate::support::{
    events::append_to,
    service::{Service, Setup},
};

const EVENT_STORE: &str = "aethyr.eventstore.v1.EventStoreService";
const WORLD: [&str; 2] = ["aethyr.world.v1.CommandService", "aethyr.world.v1.WorldService"];

async fn without_world() -> Service {
    Service::start(Setup::local().set("world", "enabled: false")).await
}

async fn reflected(service: &Service, ask: MessageRequest) -> MessageResponse {
    let ask = ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let mut client = ServerReflectionClient::new(service.channel());
    let mut answers = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap().message_response.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_do_not_know_a_disabled_world() {
    let service = without_world().await;
    service.wait_for_health("", true).await;
    assert_eq!(service.health(EVENT_STORE).await, Some(true));
    let address = format!("127.0.0.1:{}", service.port());
    for name in WORLD {
        assert_eq!(service.health(name).await, None, "{name}");
        let (succeeded, said) = service.run(&["health", "--service", name, "--address", &address]);
        assert!(!succeeded && said.contains("unknown"), "{name}: {said}");
    }
    let listed = reflected(&service, MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
    let names: Vec<&str> = listed.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&EVENT_STORE), "{names:?}");
    assert!(!names.iter().any(|name| WORLD.contains(name)), "{names:?}");
    let symbol = MessageRequest::FileContainingSymbol(EVENT_STORE.to_owned());
    let found = reflected(&service, symbol).await;
    assert!(matches!(found, MessageResponse::FileDescriptorResponse(_)), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_prints_events_without_a_world_and_says_why_there_are_no_objects() {
    let service = without_world().await;
    append_to(&mut service.client(), "room-1", 3).await;
    let address = format!("127.0.0.1:{}", service.port());
    let shown = |arguments: &[&str]| {
        let arguments = [arguments, &["--address", &address]].concat();
        let output = service.command(&arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(shown(&["events", "room-1"]).matches("RoomCreated").count(), 3);
    assert_eq!(shown(&["events", "room-1", "--from", "3"]).lines().count(), 1);
    assert_eq!(shown(&["events", "room-1", "--json"]).lines().count(), 3);
    let (succeeded, said) = service.run(&["events", "room-2", "--address", &address]);
    assert!(!succeeded && said.contains("room-2"), "{said}");
    let file = service.dir().join("world.jsonl");
    fs::write(&file, room("r").to_string()).unwrap();
    for command in [&["object", "room-1"][..], &["execute", file.to_str().unwrap()], &["rebuild"]] {
        let arguments = [command, &["--address", &address]].concat();
        let (succeeded, said) = service.run(&arguments);
        assert!(!succeeded && said.contains("the game world is disabled"), "{command:?}: {said}");
    }
}
