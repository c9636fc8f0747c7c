//! Who appended: each event has the name of the identity, which no caller can choose.

use aethyr_event_store::grpc::wire::{
    AppendEventsRequest, LoadEventsRequest, ReadAllRequest, RecordedEvent, StatsRequest,
    world::{Command, CreateRoom, ExecuteCommandsRequest, GetHistoryRequest, command::Command as Kind},
};
use prost::Message;
use tonic::{Code, transport::Channel};

use super::{refusal, service_of};
use crate::support::{
    access::{Bearer, Identities},
    events::{event, reason, request},
    immudb::ImmuDb,
    service::{Service, Setup},
};

const APPEND: &str = "/aethyr.eventstore.v1.EventStoreService/AppendEvents";

async fn all(bearer: &Bearer, channel: Channel) -> Vec<RecordedEvent> {
    let mut stream = bearer.events(channel).read_all(ReadAllRequest::default()).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(piece) = stream.message().await.unwrap() {
        events.extend(piece.events);
    }
    events
}

fn room(id: &str) -> ExecuteCommandsRequest {
    let kind =
        Kind::CreateRoom(CreateRoom { id: id.to_owned(), name: id.to_owned(), ..CreateRoom::default() });
    let command = Command { actor: "wizard".to_owned(), command: Some(kind), ..Command::default() };
    ExecuteCommandsRequest { commands: vec![command], ..ExecuteCommandsRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_names_the_identity_that_appended_it_also_after_a_restore() {
    let folder = tempfile::tempdir().unwrap();
    let immudb = ImmuDb::start(folder.path()).await;
    let mut identities = Identities::default();
    let (one, other) = (identities.add("arena-1", "game"), identities.add("arena-2", "game"));
    let mut service = service_of(Setup::with_immudb(immudb.port()), &identities);
    service.restart().await;
    let (one, other) = (Bearer::new(&one), Bearer::new(&other));
    one.events(service.channel()).append_events(request(vec![event("place-1")])).await.unwrap();
    other.events(service.channel()).append_events(request(vec![event("place-1")])).await.unwrap();
    other.commands(service.channel()).execute_commands(room("room-1")).await.unwrap();
    let before = all(&one, service.channel()).await;
    let names: Vec<&str> = before.iter().map(|event| event.recorded_by.as_str()).collect();
    assert_eq!(names[..2], ["arena-1", "arena-2"]);
    assert!(names.len() > 2 && names[2..].iter().all(|name| *name == "arena-2"), "{names:?}");
    // Whom the game acted for is another matter.
    assert_eq!(before[2].metadata["actor"], "wizard");
    let request = GetHistoryRequest { id: "room-1".to_owned(), ..GetHistoryRequest::default() };
    let mut history = one.world(service.channel()).get_history(request).await.unwrap().into_inner();
    let entries = history.message().await.unwrap().unwrap().entries;
    assert!(!entries.is_empty() && entries.iter().all(|entry| entry.recorded_by == "arena-2"));
    let mut forwarded = false;
    while !forwarded {
        let stats = one.events(service.channel()).stats(StatsRequest {}).await.unwrap().into_inner();
        forwarded = stats.pending_events == 0;
    }
    service.stop();
    std::fs::remove_dir_all(service.storage()).unwrap();
    service.restart().await;
    assert_eq!(all(&one, service.channel()).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_chooses_the_name_that_is_recorded() {
    let mut identities = Identities::default();
    let token = identities.add("arena-1", "game");
    let mut service = service_of(Setup::local(), &identities);
    service.restart().await;
    let bearer = Bearer::new(&token);
    let mut forged = event("place-1");
    forged.metadata.insert("recorded_by".to_owned(), "admin".to_owned());
    let mut body =
        AppendEventsRequest { events: vec![forged], ..AppendEventsRequest::default() }.encode_to_vec();
    // An event with field 15, which a client's message does not have.
    let mut smuggled = event("place-1").encode_to_vec();
    smuggled.extend([15 << 3 | 2, 5]);
    smuggled.extend(b"admin");
    body.extend([1 << 3 | 2]);
    prost::encoding::encode_varint(smuggled.len() as u64, &mut body);
    body.extend(smuggled);
    let header = format!("Bearer {token}");
    let headers = [("authorization", header.as_str()), ("recorded_by", "admin"), ("x-recorded-by", "admin")];
    assert_eq!(refusal(&service, APPEND, &headers, &body).await, None);
    let events = all(&bearer, service.channel()).await;
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| event.recorded_by == "arena-1"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_gets_its_first_answer_from_any_identity() {
    let mut service = Service::new(Setup::local());
    service.restart().await;
    let first = request(vec![event("place-1")]);
    let answer = service.client().append_events(first.clone()).await.unwrap().into_inner();
    service.stop();
    // Access control is switched on over an existing log.
    let mut identities = Identities::default().role("elsewhere: { may: [append], prefixes: [other-] }");
    let (one, other) = (identities.add("arena-1", "game"), identities.add("arena-2", "game"));
    let elsewhere = identities.add("far", "elsewhere");
    service.reconfigure(Setup::local().set("access", "file: access.yml"));
    identities.write(&super::file_of(&service));
    service.restart().await;
    for token in [&one, &other] {
        let again = Bearer::new(token).events(service.channel()).append_events(first.clone()).await;
        let again = again.unwrap().into_inner();
        assert!(again.already_stored);
        assert_eq!(again.first_position, answer.first_position);
    }
    let second = request(vec![event("place-1")]);
    Bearer::new(&one).events(service.channel()).append_events(second.clone()).await.unwrap();
    // The identity is renamed: its first answer stays, and so does the name in the event.
    identities.remove("arena-1");
    let renamed = identities.add("arena-one", "game");
    identities.write(&super::file_of(&service));
    service.stop();
    service.restart().await;
    let bearer = Bearer::new(&renamed);
    let again = bearer.events(service.channel()).append_events(second.clone()).await.unwrap().into_inner();
    assert!(again.already_stored);
    let events = all(&bearer, service.channel()).await;
    let names: Vec<&str> = events.iter().map(|event| event.recorded_by.as_str()).collect();
    assert_eq!(names, ["", "arena-1"]);
    // Who may not append to the aggregate learns nothing of it.
    let refused = Bearer::new(&elsewhere).events(service.channel()).append_events(second.clone()).await;
    let refused = refused.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "NOT_ALLOWED"));
    let mut reused = second;
    reused.events[0].aggregate_id = "other-1".to_owned();
    let refused = Bearer::new(&elsewhere).events(service.channel()).append_events(reused).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::AlreadyExists, "EVENT_ID_REUSED"));
    assert!(!format!("{refused:?}").contains("place-1"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_may_name_only_the_actors_of_its_role() {
    let mut identities = Identities::default()
        .role("narrator: { may: [append, execute, load], actors: [wizard] }")
        .role("silent: { may: [append, execute, load], actors: [] }");
    let (narrator, silent) = (identities.add("narrator", "narrator"), identities.add("silent", "silent"));
    let mut service = service_of(Setup::local(), &identities);
    service.restart().await;
    let append = async |token: &str, actor: Option<&str>| {
        let mut event = event("place-1");
        event.metadata.extend(actor.map(|actor| ("actor".to_owned(), actor.to_owned())));
        let done = Bearer::new(token).events(service.channel()).append_events(request(vec![event])).await;
        done.map_err(|status| reason(&status)).err()
    };
    assert_eq!(append(&narrator, Some("wizard")).await, None);
    assert_eq!(append(&narrator, None).await, None);
    assert_eq!(append(&narrator, Some("god")).await, Some("NOT_ALLOWED".to_owned()));
    assert_eq!(append(&silent, Some("wizard")).await, Some("NOT_ALLOWED".to_owned()));
    assert_eq!(append(&silent, None).await, None);
    let execute = async |token: &str, actor: &str| {
        let mut request = room("room-9");
        request.commands[0].actor = actor.to_owned();
        let done = Bearer::new(token).commands(service.channel()).execute_commands(request).await;
        done.map_err(|status| reason(&status)).err()
    };
    assert_eq!(execute(&narrator, "god").await, Some("NOT_ALLOWED".to_owned()));
    assert_eq!(execute(&narrator, "wizard").await, None);
    let load = LoadEventsRequest { aggregate_id: "room-9".to_owned(), ..LoadEventsRequest::default() };
    Bearer::new(&narrator).events(service.channel()).load_events(load).await.unwrap();
}
