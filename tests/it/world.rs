//! The game world as a game in any language sees it: over gRPC, with JSON as `grpcurl` prints it.
//!
//! The modules below test commands, queries, read models, rebuilds and repairs.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use aethyr_event_store::grpc::{ClientError, JsonClient};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use crate::support::service::{PATIENCE, Service};

mod asking;
mod commands;
mod deleting;
mod disabled;
mod expectations;
mod extending;
mod kinds;
mod moments;
mod names;
mod one_moment;
mod player_names;
mod raw_appends;
mod read_models;
mod rebuilding;
mod repairs;
mod reserving_names;
mod states;
mod walk_through;
mod without_immudb;
mod without_read_models;

const HASH: &str = "5f4dcc3b5aa765d61d8327deb882cf99";

/// A client of both services of the world.
pub struct Game {
    client: JsonClient,
}

impl Game {
    pub async fn of(service: &Service) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], service.port()));
        Self { client: JsonClient::connect(&address.to_string()).await.unwrap() }
    }

    pub async fn try_call(&self, request: Value) -> Result<Value, ClientError> {
        self.client.call("aethyr.world.v1.CommandService/ExecuteCommands", &request).await
    }

    pub async fn try_execute(&self, commands: Value) -> Result<Value, ClientError> {
        self.try_call(json!({ "commands": commands })).await
    }

    /// Executes commands, and retries as long as the read models are not ready to decide them.
    async fn decided(&self, commands: Value) -> Result<Value, ClientError> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.try_execute(commands.clone()).await {
                Err(error) if error.reason() == "READ_MODELS" && Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                decided => return decided,
            }
        }
    }

    /// Executes a list of commands that must be accepted.
    pub async fn execute(&self, commands: Value) -> Value {
        self.decided(commands).await.unwrap()
    }

    /// Returns the reason why commands are refused.
    pub async fn refused(&self, commands: Value) -> String {
        self.decided(commands).await.expect_err("they are refused").reason().to_owned()
    }

    pub async fn try_ask(&self, call: &str, request: Value) -> Result<Value, ClientError> {
        self.client.call(&format!("aethyr.world.v1.WorldService/{call}"), &request).await
    }

    pub async fn ask(&self, call: &str, request: Value) -> Value {
        self.try_ask(call, request).await.unwrap()
    }

    /// Returns all responses of a stream.
    pub async fn ask_all(&self, call: &str, request: Value) -> Vec<Value> {
        let method = format!("aethyr.world.v1.WorldService/{call}");
        let mut answers = self.client.stream(&method, &request).await.unwrap();
        let mut all = Vec::new();
        while let Some(answer) = answers.next().await.unwrap() {
            all.push(answer);
        }
        all
    }

    pub async fn store(&self, call: &str, request: Value) -> Value {
        let method = format!("aethyr.eventstore.v1.EventStoreService/{call}");
        self.client.call(&method, &request).await.unwrap()
    }

    pub async fn room(&self, id: &str) -> Value {
        self.ask("GetRoom", json!({ "id": id })).await["room"].clone()
    }

    pub async fn object(&self, id: &str) -> Value {
        self.ask("GetGameObject", json!({ "id": id })).await["game_object"].clone()
    }

    /// Runs a rebuild and returns its report.
    pub async fn rebuild(&self) -> Value {
        let answers = self.ask_all("RebuildWorldState", json!({})).await;
        answers.last().unwrap()["report"].clone()
    }
}

pub fn room(id: &str) -> Value {
    json!({"create_room": {"id": id, "name": id}})
}

pub fn thing(id: &str, container: &str) -> Value {
    json!({"create_game_object": {"id": id, "type": "Thing", "name": id, "container_id": container}})
}

pub fn player(id: &str) -> Value {
    json!({"create_player": {"id": id, "name": id}})
}

pub fn moving(id: &str, container: &str) -> Value {
    json!({"update_game_object_container": {"id": id, "container_id": container}})
}

pub fn describing(id: &str, text: &str) -> Value {
    json!({"update_room_description": {"id": id, "description": text}})
}

/// Returns the types of the events that a call produced.
pub fn event_types(answer: &Value) -> Vec<String> {
    let results = answer["results"].as_array().unwrap();
    let events = results.iter().filter_map(|result| result["events"].as_array()).flatten();
    events.map(|event| event["event_type"].as_str().unwrap().to_owned()).collect()
}

/// Opens the read models as any other program does.
pub fn read_models(service: &Service) -> Connection {
    let path = service.storage().join("read_models.sqlite");
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

/// Waits until the read models include all events, for as long as they make progress: they follow
/// on a thread of the lowest priority.
pub async fn caught_up(service: &Service) {
    let (mut until, mut reached) = (Instant::now() + PATIENCE, Vec::new());
    loop {
        let stats = service.stats().await;
        if stats.projections.iter().all(|projection| projection.lag == 0) {
            return;
        }
        let positions: Vec<u64> = stats.projections.iter().map(|projection| projection.position).collect();
        if positions != reached {
            (until, reached) = (Instant::now() + PATIENCE, positions);
        }
        assert!(Instant::now() < until, "the read models do not follow: {stats:#?}\n{}", service.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
