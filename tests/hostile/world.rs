//! The calls of the game world: large objects that many clients request, lists and differences that
//! no client waits for, and invalid commands.

use std::sync::Arc;

use aethyr_event_store::grpc::wire::world::{
    Command, CreateGameObject, CreateRoom, DiffWorldRequest, ExecuteCommandsRequest, GetGameObjectRequest,
    ListContentsRequest, ListGameObjectsRequest, UpdateGameObjectAttribute, command::Command as Operation,
};
use fastrand::Rng;
use prost::Message;
use prost_types::{ListValue, Value, value::Kind};

use crate::{
    Target, calls,
    messages::{Call, EXECUTE, mutate},
    report::Tally,
};

/// Calls at a time.
const CALLERS: u64 = 256;

const LARGE: &str = "world-large";
const ROOMS: usize = 50;

/// Makes a tenth of the requests.
pub async fn run(target: &Target) -> Tally {
    let mut tally = Tally::default();
    for commands in world().chunks(100) {
        let sender = calls::connect(target).await;
        calls::send(sender, &execute(commands.to_vec()), &mut tally).await;
    }
    if tally.stored < 2 * ROOMS as u64 {
        tally.wrong(format!("there is no world to ask for: {:?}", tally.outcomes));
    }
    let count = (target.requests / 10).max(1000);
    let make = |rng: &mut Rng| {
        Arc::new(match rng.u8(..6) {
            0 => large(),
            1 => given_up(rng),
            _ => wrong(rng),
        })
    };
    tally.add(calls::attack(target, count, CALLERS, Arc::new(make)).await);
    tally
}

fn call(method: &str, request: &impl Message) -> Call {
    Call::good(&format!("/aethyr.world.v1.{method}"), &request.encode_to_vec())
}

fn execute(commands: Vec<Command>) -> Call {
    call("CommandService/ExecuteCommands", &ExecuteCommandsRequest { commands, ..Default::default() })
}

fn command(operation: Operation) -> Command {
    Command { command: Some(operation), ..Command::default() }
}

/// Returns a list of this many numbers: short as JSON, and large in memory.
fn numbers(count: usize) -> Value {
    let number = Value { kind: Some(Kind::NumberValue(1.0)) };
    Value { kind: Some(Kind::ListValue(ListValue { values: vec![number; count] })) }
}

fn room_id(number: usize) -> String {
    format!("world-room-{number}")
}

/// Returns commands that create rooms, and an object as large as the limit allows.
fn world() -> Vec<Command> {
    let large = CreateGameObject {
        id: LARGE.to_owned(),
        r#type: "Map".to_owned(),
        attributes: [("tiles".to_owned(), numbers(49_000))].into(),
        ..CreateGameObject::default()
    };
    let room = |number| {
        let room = CreateRoom { id: room_id(number), ..CreateRoom::default() };
        command(Operation::CreateRoom(room))
    };
    (0..ROOMS).map(room).chain([command(Operation::CreateGameObject(large))]).collect()
}

fn large() -> Call {
    call("WorldService/GetGameObject", &GetGameObjectRequest { id: LARGE.to_owned(), as_of: None })
}

/// Returns a call whose client waits only a few milliseconds.
fn given_up(rng: &mut Rng) -> Call {
    let mut call = match rng.u8(..3) {
        0 => call("WorldService/DiffWorld", &DiffWorldRequest::default()),
        1 => {
            let list = ListGameObjectsRequest {
                attribute_key: "nothing".to_owned(),
                ..ListGameObjectsRequest::default()
            };
            call("WorldService/ListGameObjects", &list)
        }
        _ => {
            let contents = ListContentsRequest {
                container_id: room_id(0),
                recursive: true,
                ..ListContentsRequest::default()
            };
            call("WorldService/ListContents", &contents)
        }
    };
    call.headers.push(("grpc-timeout", format!("{}m", rng.u8(1..20))));
    call
}

/// Returns valid commands and queries with mutations, commands on missing objects, or too many of
/// them.
fn wrong(rng: &mut Rng) -> Call {
    let target = format!("world-{}", rng.u8(..10));
    let update = |value: Value| {
        command(Operation::UpdateGameObjectAttribute(UpdateGameObjectAttribute {
            id: room_id(0),
            key: target.clone(),
            value: Some(value),
        }))
    };
    match rng.u8(..5) {
        0 => {
            let request = ExecuteCommandsRequest { commands: vec![update(numbers(3))], ..Default::default() };
            Call::good(EXECUTE, &mutate(rng, request.encode_to_vec()))
        }
        1 => {
            let request = GetGameObjectRequest { id: room_id(0), as_of: None };
            Call::good("/aethyr.world.v1.WorldService/GetHistory", &mutate(rng, request.encode_to_vec()))
        }
        2 => {
            let missing = UpdateGameObjectAttribute { id: target.clone(), key: "k".to_owned(), value: None };
            execute(vec![command(Operation::UpdateGameObjectAttribute(missing))])
        }
        3 => execute(vec![Command::default(); rng.usize(..200)]),
        _ => {
            let deep = (0..rng.usize(20..200)).fold(numbers(0), |inner, _| Value {
                kind: Some(Kind::ListValue(ListValue { values: vec![inner] })),
            });
            execute(vec![update(deep)])
        }
    }
}
