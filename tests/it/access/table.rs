//! The table of rights: each ready-made role, each call, in and out of its scope.

use std::collections::{BTreeMap, BTreeSet};

use aethyr_event_store::grpc::wire::{
    self, AppendEventsRequest, Filter, GetCheckpointRequest, GetConsistencyRequest, GetProofRequest,
    ListAggregatesRequest, LoadEventsRequest, LoadManyEventsRequest, LoadSnapshotRequest, NewEvent,
    ReadAllRequest, SaveSnapshotRequest, StatsRequest, SubscribeRequest, VerifyAggregateRequest,
    VerifyAllRequest,
    world::{
        AddRoomExit, Command, CreateGameObject, CreatePlayer, CreateRoom, DiffWorldRequest,
        ExecuteCommandsRequest, FindPlayerRequest, GetGameObjectRequest, GetHistoryRequest, GetPlayerRequest,
        GetRoomRequest, ListContentsRequest, ListGameObjectsRequest, RebuildWorldStateRequest,
        UpdatePlayerAdminStatus, UpdatePlayerPassword, command::Command as Kind,
    },
};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code;

use super::{refusal, service_of};
use crate::support::{
    access::Identities,
    events::event,
    service::{Service, Setup},
};

const EVENTS: &str = "aethyr.eventstore.v1.EventStoreService";
const COMMANDS: &str = "aethyr.world.v1.CommandService";
const WORLD: &str = "aethyr.world.v1.WorldService";
const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: [&str; 2] =
    ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// The ready-made roles with their rights.
const ROLES: [(&str, &[&str]); 7] = [
    (
        "game",
        &[
            "append",
            "append_world",
            "snapshot",
            "load",
            "subscribe",
            "execute",
            "execute_players",
            "ask",
            "see_secrets",
            "prove",
            "stats",
            "reflect",
        ],
    ),
    ("builder", &["execute", "ask", "stats", "reflect"]),
    ("projector", &["load", "subscribe", "ask", "stats", "reflect"]),
    ("reader", &["load", "subscribe", "ask", "prove", "stats", "reflect"]),
    ("auditor", &["prove", "stats", "reflect"]),
    ("monitor", &["stats", "reflect"]),
    (
        "admin",
        &[
            "append",
            "append_world",
            "snapshot",
            "load",
            "subscribe",
            "execute",
            "execute_players",
            "ask",
            "see_secrets",
            "prove",
            "stats",
            "operate",
            "reflect",
        ],
    ),
];

/// What a call names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// Nothing that a scope could hold it to.
    Nothing,
    /// All aggregates at once.
    All,
    /// The id that is given to it.
    Id,
}

/// A call with a request.
struct Call {
    service: &'static str,
    method: &'static str,
    /// The right that it needs; `None` if it needs none.
    right: Option<&'static str>,
    names: Names,
    /// Makes the request that names this id.
    request: fn(&str) -> Vec<u8>,
}

const fn call(
    service: &'static str,
    method: &'static str,
    right: &'static str,
    names: Names,
    request: fn(&str) -> Vec<u8>,
) -> Call {
    Call { service, method, right: Some(right), names, request }
}

fn encoded(message: impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

fn append(events: Vec<NewEvent>, expected: Option<&str>) -> Vec<u8> {
    let expected_sequences = expected.map(|id| (id.to_owned(), 99)).into_iter().collect();
    encoded(AppendEventsRequest { events, expected_sequences })
}

fn execute(kind: Kind) -> Vec<u8> {
    encoded(ExecuteCommandsRequest {
        commands: vec![Command { command: Some(kind), ..Command::default() }],
        ..ExecuteCommandsRequest::default()
    })
}

fn thing(id: &str, container: &str) -> Kind {
    Kind::CreateGameObject(CreateGameObject {
        id: id.to_owned(),
        r#type: "Thing".to_owned(),
        name: "thing".to_owned(),
        container_id: container.to_owned(),
        ..CreateGameObject::default()
    })
}

fn filter(prefix: &str) -> Option<Filter> {
    Some(Filter { aggregate_id_prefix: prefix.to_owned(), ..Filter::default() })
}

/// All calls of the service, some of them with several requests.
fn calls() -> Vec<Call> {
    use Names::{All, Id, Nothing};
    let mut calls = vec![
        call(EVENTS, "AppendEvents", "append", Id, |id| append(vec![event(id)], None)),
        call(EVENTS, "AppendEvents", "append", Id, |id| append(vec![event("in-a")], Some(id))),
        call(EVENTS, "AppendEvents", "append_world", Id, |id| {
            append(vec![NewEvent { aggregate_type: "Room".to_owned(), ..event(id) }], None)
        }),
        call(EVENTS, "LoadEvents", "load", Id, |id| {
            encoded(LoadEventsRequest { aggregate_id: id.to_owned(), ..LoadEventsRequest::default() })
        }),
        call(EVENTS, "LoadManyEvents", "load", Id, |id| {
            let aggregate_ids = vec!["in-a".to_owned(), id.to_owned()];
            encoded(LoadManyEventsRequest { aggregate_ids, ..LoadManyEventsRequest::default() })
        }),
        call(EVENTS, "SaveSnapshot", "snapshot", Id, |id| {
            encoded(SaveSnapshotRequest {
                aggregate_id: id.to_owned(),
                sequence_number: 1,
                ..SaveSnapshotRequest::default()
            })
        }),
        call(EVENTS, "LoadSnapshot", "load", Id, |id| {
            encoded(LoadSnapshotRequest { aggregate_id: id.to_owned() })
        }),
        call(EVENTS, "ListAggregates", "load", All, |_| encoded(ListAggregatesRequest::default())),
        call(EVENTS, "ListAggregates", "load", Id, |id| {
            encoded(ListAggregatesRequest {
                aggregate_id_prefix: id.to_owned(),
                ..ListAggregatesRequest::default()
            })
        }),
        call(EVENTS, "ReadAll", "subscribe", All, |_| encoded(ReadAllRequest::default())),
        call(EVENTS, "ReadAll", "subscribe", Id, |id| {
            encoded(ReadAllRequest { filter: filter(id), ..ReadAllRequest::default() })
        }),
        call(EVENTS, "Subscribe", "subscribe", All, |_| encoded(SubscribeRequest::default())),
        call(EVENTS, "Subscribe", "subscribe", Id, |id| {
            encoded(SubscribeRequest { filter: filter(id), ..SubscribeRequest::default() })
        }),
        call(EVENTS, "Stats", "stats", Nothing, |_| encoded(StatsRequest {})),
    ];
    calls.extend(proof_calls());
    calls.extend(world_calls());
    calls.push(Call {
        service: HEALTH,
        method: "Check",
        right: None,
        names: Nothing,
        request: |_| encoded(tonic_health::pb::HealthCheckRequest::default()),
    });
    calls.push(Call {
        service: HEALTH,
        method: "Watch",
        right: None,
        names: Nothing,
        request: |_| encoded(tonic_health::pb::HealthCheckRequest::default()),
    });
    calls.extend(REFLECTION.map(|service| {
        // A list of the services: `list_services`, field 7.
        call(service, "ServerReflectionInfo", "reflect", Nothing, |_| vec![7 << 3 | 2, 1, b'*'])
    }));
    calls
}

fn proof_calls() -> Vec<Call> {
    use Names::{Id, Nothing};
    vec![
        call(EVENTS, "GetProof", "prove", Id, |id| {
            encoded(GetProofRequest {
                aggregate_id: id.to_owned(),
                sequence_number: 1,
                ..GetProofRequest::default()
            })
        }),
        call(EVENTS, "GetCheckpoint", "prove", Nothing, |_| encoded(GetCheckpointRequest::default())),
        call(EVENTS, "GetConsistency", "prove", Nothing, |_| encoded(GetConsistencyRequest::default())),
        call(EVENTS, "VerifyAggregate", "prove", Id, |id| {
            encoded(VerifyAggregateRequest { aggregate_id: id.to_owned() })
        }),
        call(EVENTS, "VerifyAll", "prove", Nothing, |_| encoded(VerifyAllRequest {})),
    ]
}

fn world_calls() -> Vec<Call> {
    use Names::{All, Id};
    vec![
        call(COMMANDS, "ExecuteCommands", "execute", Id, |id| execute(thing(&format!("{id}-new"), ""))),
        // Every id within a command counts.
        call(COMMANDS, "ExecuteCommands", "execute", Id, |id| execute(thing("in-thing", id))),
        call(COMMANDS, "ExecuteCommands", "execute", Id, |id| {
            execute(Kind::AddRoomExit(AddRoomExit {
                id: "in-room".to_owned(),
                direction: "up".to_owned(),
                target_room_id: id.to_owned(),
            }))
        }),
        call(COMMANDS, "ExecuteCommands", "execute_players", Id, |id| {
            execute(Kind::CreatePlayer(CreatePlayer {
                id: id.to_owned(),
                name: "Pat".to_owned(),
                ..CreatePlayer::default()
            }))
        }),
        call(COMMANDS, "ExecuteCommands", "execute_players", Id, |id| {
            execute(Kind::UpdatePlayerPassword(UpdatePlayerPassword {
                id: id.to_owned(),
                password_hash: "5f4dcc3b5aa765d61d8327deb882cf99".to_owned(),
            }))
        }),
        call(COMMANDS, "ExecuteCommands", "execute_players", Id, |id| {
            execute(Kind::UpdatePlayerAdminStatus(UpdatePlayerAdminStatus { id: id.to_owned(), admin: true }))
        }),
        call(WORLD, "GetGameObject", "ask", Id, |id| {
            encoded(GetGameObjectRequest { id: id.to_owned(), ..GetGameObjectRequest::default() })
        }),
        call(WORLD, "GetPlayer", "ask", Id, |id| {
            encoded(GetPlayerRequest { id: id.to_owned(), ..GetPlayerRequest::default() })
        }),
        call(WORLD, "GetRoom", "ask", Id, |id| {
            encoded(GetRoomRequest { id: id.to_owned(), ..GetRoomRequest::default() })
        }),
        call(WORLD, "ListGameObjects", "ask", All, |_| encoded(ListGameObjectsRequest::default())),
        call(WORLD, "ListGameObjects", "ask", Id, |id| {
            let id_prefixes = vec![id.to_owned()];
            encoded(ListGameObjectsRequest { id_prefixes, ..ListGameObjectsRequest::default() })
        }),
        call(WORLD, "ListContents", "ask", Id, |id| {
            encoded(ListContentsRequest { container_id: id.to_owned(), ..ListContentsRequest::default() })
        }),
        call(WORLD, "FindPlayer", "ask", All, |_| {
            encoded(FindPlayerRequest { name: "pat".to_owned(), ..FindPlayerRequest::default() })
        }),
        call(WORLD, "FindPlayer", "ask", Id, |id| {
            let id_prefixes = vec![id.to_owned()];
            encoded(FindPlayerRequest { name: "pat".to_owned(), id_prefixes })
        }),
        call(WORLD, "GetHistory", "ask", Id, |id| {
            encoded(GetHistoryRequest { id: id.to_owned(), ..GetHistoryRequest::default() })
        }),
        call(WORLD, "DiffWorld", "ask", All, |_| encoded(DiffWorldRequest::default())),
        call(WORLD, "DiffWorld", "ask", Id, |id| {
            let id_prefixes = vec![id.to_owned()];
            encoded(DiffWorldRequest { id_prefixes, ..DiffWorldRequest::default() })
        }),
        call(WORLD, "RebuildWorldState", "operate", All, |_| encoded(RebuildWorldStateRequest::default())),
        call(WORLD, "RebuildWorldState", "operate", Id, |id| {
            encoded(RebuildWorldStateRequest { repair: vec![id.to_owned()], actor: "wizard".to_owned() })
        }),
    ]
}

#[test]
fn the_table_has_every_call_of_the_service() {
    let sets = [wire::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let mut described: BTreeSet<String> =
        REFLECTION.iter().map(|service| format!("{service}/ServerReflectionInfo")).collect();
    for file in sets.iter().flat_map(|set| FileDescriptorSet::decode(*set).unwrap().file) {
        for service in &file.service {
            let path = |method: &str| format!("{}.{}/{method}", file.package(), service.name());
            described.extend(service.method.iter().map(|method| path(method.name())));
        }
    }
    let listed: BTreeSet<String> =
        calls().iter().map(|call| format!("{}/{}", call.service, call.method)).collect();
    assert_eq!(listed, described);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_make_exactly_the_calls_of_the_table() {
    let mut identities = Identities::default();
    let mut tokens = BTreeMap::new();
    for (role, rights) in ROLES {
        tokens.insert((role, false), identities.add(role, role));
        let scoped = format!("scoped-{role}");
        identities =
            identities.role(&format!("{scoped}: {{ may: [{}], prefixes: [\"in-\"] }}", rights.join(", ")));
        tokens.insert((role, true), identities.add(&scoped, &scoped));
    }
    let mut service = service_of(Setup::local(), &identities);
    service.restart().await;
    // A command to an object that does not exist is refused as if it were a player.
    let room = Kind::CreateRoom(CreateRoom { id: "in-room".to_owned(), ..CreateRoom::default() });
    let bearer = format!("Bearer {}", tokens[&("game", false)]);
    let path = format!("/{COMMANDS}/ExecuteCommands");
    assert_eq!(refusal(&service, &path, &[("authorization", &bearer)], &execute(room)).await, None);
    let mut cells = 0;
    for (role, rights) in ROLES {
        for scoped in [false, true] {
            let token = &tokens[&(role, scoped)];
            for call in calls() {
                for id in ["in-a", "out-a"] {
                    let within = !scoped
                        || match call.names {
                            Names::Nothing => true,
                            Names::All => false,
                            Names::Id => id == "in-a",
                        };
                    let has_right = call.right.is_none_or(|right| rights.contains(&right));
                    let refused = refused(&service, token, &call, id).await;
                    let wanted = !(has_right && within);
                    assert_eq!(
                        refused.is_some(),
                        wanted,
                        "{role}, scoped: {scoped}, {}/{} of {id}: {refused:?}",
                        call.service,
                        call.method
                    );
                    if let Some((code, reason)) = refused {
                        assert_eq!((code, reason.as_str()), (Code::PermissionDenied, "NOT_ALLOWED"));
                    }
                    cells += 1;
                }
            }
        }
    }
    // The number is in docs/reliability.md.
    assert_eq!(cells, 1176);
}

/// Returns the refusal for lack of a right or of credentials. What the call says otherwise does not
/// matter here.
async fn refused(service: &Service, token: &str, call: &Call, id: &str) -> Option<(Code, String)> {
    let path = format!("/{}/{}", call.service, call.method);
    let bearer = format!("Bearer {token}");
    let refusal = refusal(service, &path, &[("authorization", &bearer)], &(call.request)(id)).await?;
    let is_access = matches!(refusal.0, Code::PermissionDenied | Code::Unauthenticated);
    is_access.then_some(refusal)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_there_is_the_health_of_the_service_and_nothing_else() {
    let mut identities = Identities::default();
    identities.add("game", "game");
    let mut service = service_of(Setup::local(), &identities);
    service.restart().await;
    for call in calls() {
        let path = format!("/{}/{}", call.service, call.method);
        let refusal = refusal(&service, &path, &[], &(call.request)("in-a")).await;
        let wanted = call.right.map(|_| (Code::Unauthenticated, "NO_CREDENTIALS".to_owned()));
        assert_eq!(refusal, wanted, "{path}");
    }
}
