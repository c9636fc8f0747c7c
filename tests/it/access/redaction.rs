//! Without the right `see_secrets`, no call returns the hash of a password.

use aethyr_event_store::grpc::wire::{
    self, GetProofRequest, LoadEventsRequest, LoadManyEventsRequest, LoadSnapshotRequest, NewEvent,
    ReadAllRequest, SaveSnapshotRequest, SubscribeRequest,
    new_event::Data,
    save_snapshot_request,
    world::{
        Command, CreatePlayer, DiffWorldRequest, ExecuteCommandsRequest, GetGameObjectRequest,
        GetHistoryRequest, GetPlayerRequest, UpdatePlayerPassword, command::Command as Kind,
    },
};
use bytes::Bytes;
use h2::client::SendRequest;
use prost::Message;

use super::service_of;
use crate::support::{
    access::{Bearer, Identities},
    events::{event, request},
    h2::{begin, connect, framed},
    service::{Service, Setup},
};

const FIRST: &str = "5f4dcc3b5aa765d61d8327deb882cf99";
const SECOND: &str = "$2b$12$abcdefghijklmnopqrstuv0123456789ABCDEFGHIJKLMNOPQRSTU";

fn execute(kind: Kind) -> ExecuteCommandsRequest {
    let command = Command { command: Some(kind), ..Command::default() };
    ExecuteCommandsRequest { commands: vec![command], ..ExecuteCommandsRequest::default() }
}

/// Returns everything that is received within a call: headers, messages and trailers. A stream that
/// does not end is read until nothing more arrives.
async fn received(sender: &SendRequest<Bytes>, token: &str, path: &str, message: Vec<u8>) -> Vec<u8> {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let mut answer = begin(sender, path, &headers, framed(0, &message)).await.unwrap();
    let mut all = format!("{:?}", answer.headers()).into_bytes();
    let quiet = std::time::Duration::from_secs(2);
    while let Ok(Some(Ok(piece))) = tokio::time::timeout(quiet, answer.body_mut().data()).await {
        answer.body_mut().flow_control().release_capacity(piece.len()).unwrap();
        all.extend(&piece);
    }
    let trailers = tokio::time::timeout(quiet, answer.body_mut().trailers()).await;
    all.extend(format!("{trailers:?}").into_bytes());
    all
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

async fn world_with_secrets(service: &Service, token: &str) {
    let bearer = Bearer::new(token);
    let mut commands = bearer.commands(service.channel());
    let created = Kind::CreatePlayer(CreatePlayer {
        id: "player-1".to_owned(),
        name: "Pat".to_owned(),
        password_hash: FIRST.to_owned(),
    });
    commands.execute_commands(execute(created)).await.unwrap();
    let changed = Kind::UpdatePlayerPassword(UpdatePlayerPassword {
        id: "player-1".to_owned(),
        password_hash: SECOND.to_owned(),
    });
    commands.execute_commands(execute(changed)).await.unwrap();
    let mut client = bearer.events(service.channel());
    let snapshot = SaveSnapshotRequest {
        aggregate_id: "player-1".to_owned(),
        sequence_number: 2,
        data: Some(save_snapshot_request::Data::Json(format!(
            "{{\"name\":\"Pat\",\"password_hash\":\"{SECOND}\"}}"
        ))),
        ..SaveSnapshotRequest::default()
    };
    client.save_snapshot(snapshot).await.unwrap();
    // The same key in a game's own event is not a password of a player.
    let own = NewEvent {
        aggregate_type: "Ledger".to_owned(),
        data: Some(Data::Json("{\"password_hash\":\"of a ledger\"}".to_owned())),
        ..event("ledger-1")
    };
    client.append_events(request(vec![own])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_returns_a_hash_to_who_may_not_see_it() {
    let mut identities = Identities::default();
    let (game, reader) = (identities.add("game", "game"), identities.add("reader", "reader"));
    let mut service = service_of(Setup::local(), &identities);
    service.restart().await;
    world_with_secrets(&service, &game).await;
    let events = "aethyr.eventstore.v1.EventStoreService";
    let world = "aethyr.world.v1.WorldService";
    let id = || "player-1".to_owned();
    let load = LoadEventsRequest { aggregate_id: id(), ..LoadEventsRequest::default() };
    let history = GetHistoryRequest { id: id(), ..GetHistoryRequest::default() };
    let calls: Vec<(String, Vec<u8>, bool)> = vec![
        (format!("/{events}/LoadEvents"), load.encode_to_vec(), true),
        (
            format!("/{events}/LoadEvents"),
            LoadEventsRequest { backwards: true, ..load.clone() }.encode_to_vec(),
            true,
        ),
        (
            format!("/{events}/LoadEvents"),
            LoadEventsRequest { from_snapshot: true, ..load.clone() }.encode_to_vec(),
            true,
        ),
        (
            format!("/{events}/LoadManyEvents"),
            LoadManyEventsRequest { aggregate_ids: vec![id()], ..LoadManyEventsRequest::default() }
                .encode_to_vec(),
            true,
        ),
        (
            format!("/{events}/LoadManyEvents"),
            LoadManyEventsRequest {
                aggregate_ids: vec![id()],
                from_snapshot: true,
                ..LoadManyEventsRequest::default()
            }
            .encode_to_vec(),
            true,
        ),
        (format!("/{events}/LoadSnapshot"), LoadSnapshotRequest { aggregate_id: id() }.encode_to_vec(), true),
        (format!("/{events}/ReadAll"), ReadAllRequest::default().encode_to_vec(), true),
        (format!("/{events}/Subscribe"), SubscribeRequest::default().encode_to_vec(), true),
        (
            format!("/{events}/GetProof"),
            GetProofRequest { aggregate_id: id(), sequence_number: 1, ..GetProofRequest::default() }
                .encode_to_vec(),
            // Base64 in a text: not found by a search for the hash.
            false,
        ),
        (
            format!("/{world}/GetPlayer"),
            GetPlayerRequest { id: id(), ..GetPlayerRequest::default() }.encode_to_vec(),
            true,
        ),
        (
            format!("/{world}/GetGameObject"),
            GetGameObjectRequest { id: id(), ..GetGameObjectRequest::default() }.encode_to_vec(),
            false,
        ),
        // Histories and differences mask hashes for all callers.
        (format!("/{world}/GetHistory"), history.encode_to_vec(), false),
        (format!("/{world}/DiffWorld"), DiffWorldRequest::default().encode_to_vec(), false),
    ];
    let sender = connect(service.port(), 1 << 20).await;
    for (path, message, has_secrets) in calls {
        let seen = received(&sender, &game, &path, message.clone()).await;
        let hashes = contains(&seen, FIRST) || contains(&seen, SECOND);
        // Otherwise the test would show nothing.
        assert!(hashes || !has_secrets, "{path}: {}", String::from_utf8_lossy(&seen));
        let seen = received(&sender, &reader, &path, message).await;
        let hashes = contains(&seen, FIRST) || contains(&seen, SECOND);
        assert!(!hashes, "{path}: {}", String::from_utf8_lossy(&seen));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_is_said_and_everything_else_stays() {
    let mut identities = Identities::default();
    let (game, reader) = (identities.add("game", "game"), identities.add("reader", "reader"));
    let mut service = service_of(Setup::local(), &identities);
    service.restart().await;
    world_with_secrets(&service, &game).await;
    let read = async |token: &str| {
        let bearer = Bearer::new(token);
        let mut client = bearer.events(service.channel());
        let mut stream = client.read_all(ReadAllRequest::default()).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(piece) = stream.message().await.unwrap() {
            events.extend(piece.events);
        }
        events
    };
    let (whole, seen) = (read(&game).await, read(&reader).await);
    assert_eq!(whole.len(), seen.len());
    for (whole, seen) in whole.iter().zip(&seen) {
        assert_eq!((&whole.event_id, &whole.chain_hash), (&seen.event_id, &seen.chain_hash));
        let is_secret = ["PlayerCreated", "PlayerPasswordUpdated"].contains(&whole.event_type.as_str())
            && whole.aggregate_type == "Player";
        assert_eq!((whole.redacted, seen.redacted), (false, is_secret), "{}", whole.event_type);
        let Some(wire::recorded_event::Data::Json(text)) = &seen.data else { panic!("{seen:?}") };
        if is_secret {
            assert!(text.contains("***") && text.contains("password_hash"), "{text}");
        } else {
            assert_eq!(whole.data, seen.data);
        }
    }
    assert!(seen.iter().filter(|event| event.redacted).count() >= 2);
}
