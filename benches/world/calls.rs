//! The calls that several measurements make.

use std::time::Duration;

use aethyr_event_store::grpc::JsonClient;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::service::Service;

pub const EXECUTE: &str = "aethyr.world.v1.CommandService/ExecuteCommands";

pub async fn client(service: &Service) -> JsonClient {
    JsonClient::connect(&format!("127.0.0.1:{}", service.port())).await.unwrap()
}

/// Sends each value as the commands of one call, all concurrently.
pub async fn together(service: &Service, calls: Vec<Value>) {
    let client = client(service).await;
    let calls = calls.into_iter().map(|commands| {
        let client = client.clone();
        async move { client.call(EXECUTE, &json!({ "commands": commands })).await.unwrap() }
    });
    join_all(calls).await;
}

/// Waits until the read models contain all events.
pub async fn caught_up(service: &Service) {
    while service.stats().await.projections.iter().any(|projection| projection.lag > 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
