//! Measures the game world: the commands that create a large world, queries of an object with a
//! long history, and a rebuild.
//!
//!     cargo bench --bench world
//!     cargo bench --bench world -- --commands FILE
//!     cargo bench --bench world -- --costs
//!
//! The world is generated, with 12 000 rooms and 29 000 exits. `--commands` reads another one from
//! a file, in the format of `execute`: one command per line. Commands that create rooms are
//! executed first. `--costs` measures only parts of large responses: histories, and pages of long
//! lists. Times are wall-clock times of one run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark panics on errors and prints its progress"
)]
#![allow(missing_docs, unreachable_pub, reason = "a program has no API")]

mod calls;
mod costs;

use std::sync::Arc;

use aethyr_test_support as support;
use calls::{EXECUTE, caught_up, client, together};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use support::{
    immudb::ImmuDb,
    service::{Service, Setup},
};
use tokio::{sync::Mutex, time::Instant};

const ROOMS: usize = 12_000;
const EXITS: usize = 29_000;
const CALLERS: usize = 16;
const HISTORY: u64 = 10_000;
const EVENTS: u64 = 1_000_000;

const ROOM: &str = "aethyr.world.v1.WorldService/GetRoom";
const REBUILD: &str = "aethyr.world.v1.WorldService/RebuildWorldState";

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().collect();
    if words.iter().any(|word| word == "--costs") {
        let service = Service::start(Setup::local()).await;
        return costs::measure(&service).await;
    }
    let file = words.iter().position(|word| word == "--commands").map(|at| words[at + 1].clone());
    let (rooms, rest) = match file {
        Some(file) => read(&std::fs::read_to_string(file).unwrap()),
        None => make(),
    };
    for (name, with_immudb) in [("local only", false), ("with ImmuDB", true)] {
        let folder = tempfile::tempdir().unwrap();
        let immudb = if with_immudb { Some(ImmuDb::start(folder.path()).await) } else { None };
        let setup =
            immudb.as_ref().map_or_else(Setup::local, |immudb| Setup::with_default_deadlines(immudb.port()));
        let service = Service::start(setup).await;
        commands(name, &service, rooms.clone(), rest.clone()).await;
        if !with_immudb {
            long_history(&service).await;
            rebuilding(&service, &rooms).await;
        }
    }
}

/// Generates rooms, each with exits to some other rooms.
fn make() -> (Vec<Value>, Vec<Value>) {
    let mut random = fastrand::Rng::with_seed(1);
    let words = ["moss", "stone", "light", "water", "echo", "ash", "root", "wind", "door", "glass"];
    let mut text =
        |count: usize| (0..count).map(|_| words[random.usize(..words.len())]).collect::<Vec<_>>().join(" ");
    let rooms = (0..ROOMS).map(|number| {
        json!({"actor": "builder", "create_room":
            {"id": format!("room-{number}"), "name": text(3), "description": text(60)}})
    });
    let rooms: Vec<Value> = rooms.collect();
    let ways = ["north", "east", "south", "west", "up", "down"];
    let exits = (0..EXITS).map(|number| {
        let (room, way) = (number % ROOMS, number / ROOMS);
        let target = (room + way * 97 + 1) % ROOMS;
        json!({"actor": "builder", "add_room_exit":
            {"id": format!("room-{room}"), "direction": ways[way], "target_room_id": format!("room-{target}")}})
    });
    (rooms, exits.collect())
}

fn read(text: &str) -> (Vec<Value>, Vec<Value>) {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let commands = lines.map(|line| serde_json::from_str(line).unwrap());
    commands.partition(|command: &Value| command.get("create_room").is_some())
}

/// Executes one command per call, with all callers. Commands that create rooms come first.
async fn commands(name: &str, service: &Service, rooms: Vec<Value>, rest: Vec<Value>) {
    let count = rooms.len() + rest.len();
    let began = Instant::now();
    let mut latencies = Histogram::<u64>::new(3).unwrap();
    for part in [rooms, rest] {
        latencies.add(in_turn(service, part).await).unwrap();
    }
    let seconds = began.elapsed().as_secs_f64();
    let answered = Instant::now();
    caught_up(service).await;
    println!(
        "{name}: {count} commands, {CALLERS} callers, one per call: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms, \
         max {:.0} ms; read models complete {:.2} s after the last response",
        count as f64 / seconds,
        milliseconds(latencies.value_at_quantile(0.5)),
        milliseconds(latencies.value_at_quantile(0.99)),
        milliseconds(latencies.max()),
        answered.elapsed().as_secs_f64(),
    );
}

async fn in_turn(service: &Service, commands: Vec<Value>) -> Histogram<u64> {
    let left = Arc::new(Mutex::new(commands.into_iter()));
    let latencies = Arc::new(Mutex::new(Histogram::<u64>::new(3).unwrap()));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (left, latencies, client) = (left.clone(), latencies.clone(), client(service).await);
        callers.spawn(async move {
            loop {
                let next = left.lock().await.next();
                let Some(command) = next else { return };
                let began = Instant::now();
                client.call(EXECUTE, &json!({"commands": [command]})).await.unwrap();
                latencies.lock().await.record(began.elapsed().as_micros() as u64).unwrap();
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    Arc::into_inner(latencies).unwrap().into_inner()
}

/// Queries a room with many events, in its current state and in earlier states.
async fn long_history(service: &Service) {
    let client = client(service).await;
    client.call(EXECUTE, &json!({"commands": [{"create_room": {"id": "old"}}]})).await.unwrap();
    let mut number = 0;
    while number < HISTORY {
        let describe = |number: u64| json!({"update_room_description": {"id": "old", "description": format!("Description {number} of an old room.")}});
        let commands: Vec<Value> = (number..number + 100).map(describe).collect();
        client.call(EXECUTE, &json!({ "commands": commands })).await.unwrap();
        number += 100;
    }
    let position = service.stats().await.last_position;
    let last = HISTORY + 2;
    for (name, moments) in [
        ("now", vec![json!({})]),
        (
            "as of a sequence number",
            vec![json!({"sequence_number": last / 2}), json!({"sequence_number": last - 1})],
        ),
        (
            "as of a position",
            vec![json!({"position": position - HISTORY / 2}), json!({"position": position - 1})],
        ),
    ] {
        let mut latencies = Histogram::<u64>::new(3).unwrap();
        for number in 0..200 {
            let moment = &moments[number % moments.len()];
            let began = Instant::now();
            client.call(ROOM, &json!({"id": "old", "as_of": moment})).await.unwrap();
            latencies.record(began.elapsed().as_micros() as u64).unwrap();
        }
        println!(
            "GetRoom of {last} events, {name}: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            milliseconds(latencies.value_at_quantile(0.5)),
            milliseconds(latencies.value_at_quantile(0.99)),
            milliseconds(latencies.max()),
        );
    }
}

/// Creates objects in these rooms, each with some changes, until there are enough events. Then
/// measures a rebuild.
async fn rebuilding(service: &Service, rooms: &[Value]) {
    let mut number = 0;
    while service.stats().await.event_count < EVENTS {
        let mut calls = Vec::new();
        for _ in 0..64 {
            let mut commands = Vec::new();
            for _ in 0..20 {
                let id = format!("thing-{number}");
                let room = &rooms[number % rooms.len()]["create_room"]["id"];
                commands.push(json!({"create_game_object": {"id": id, "type": "Thing", "name": "thing", "container_id": room}}));
                for weight in 0..4 {
                    commands.push(
                        json!({"update_game_object_attribute": {"id": id, "key": "weight", "value": weight}}),
                    );
                }
                number += 1;
            }
            calls.push(Value::Array(commands));
        }
        together(service, calls).await;
    }
    caught_up(service).await;
    let client = client(service).await;
    let began = Instant::now();
    let mut answers = client.stream(REBUILD, &json!({})).await.unwrap();
    let mut last = Value::Null;
    while let Some(answer) = answers.next().await.unwrap() {
        last = answer;
    }
    println!("RebuildWorldState: {:.1} s; {}", began.elapsed().as_secs_f64(), last["report"]);
}

fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}
