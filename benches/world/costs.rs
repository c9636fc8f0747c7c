//! Measures responses that are a small part of something large. Their cost should depend on the
//! size of the response.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    calls::{EXECUTE, caught_up, client, together},
    support::service::Service,
};

const ATTRIBUTES: usize = 1_000;
const CHANGES: usize = 3_000;
const THINGS: usize = 28_000;
const BOXES: usize = 280;
/// The number of concurrent history queries.
const AT_ONCE: usize = 40;

const HISTORY: &str = "aethyr.world.v1.WorldService/GetHistory";
const OBJECT: &str = "aethyr.world.v1.WorldService/GetGameObject";
const CONTENTS: &str = "aethyr.world.v1.WorldService/ListContents";
const OBJECTS: &str = "aethyr.world.v1.WorldService/ListGameObjects";

pub async fn measure(service: &Service) {
    fill(service).await;
    histories(service).await;
    let all = json!({"container_id": "store"});
    for (name, call, request) in [
        ("ListContents, recursive", CONTENTS, json!({"container_id": "store", "recursive": true})),
        ("ListContents of one box", CONTENTS, json!({"container_id": "box-7"})),
        ("ListGameObjects by type", OBJECTS, json!({"type": "Thing"})),
        ("ListGameObjects by generic", OBJECTS, json!({"generic": "thing"})),
        ("ListGameObjects by a rare attribute", OBJECTS, json!({"attribute_key": "rare"})),
        ("ListContents, not recursive", CONTENTS, all),
    ] {
        for size in [100, 1000] {
            pages(service, name, call, &request, size).await;
        }
    }
}

async fn fill(service: &Service) {
    let game = client(service).await;
    let attributes: Value = (0..ATTRIBUTES)
        .map(|number| (format!("attribute-{number}"), json!(number)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let create = json!({"create_game_object": {"id": "large", "type": "Large", "attributes": attributes}});
    game.call(EXECUTE, &json!({"commands": [create]})).await.unwrap();
    for first in (0..CHANGES).step_by(100) {
        let change = |number| {
            let key = format!("attribute-{}", number % ATTRIBUTES);
            json!({"update_game_object_attribute": {"id": "large", "key": key, "value": -1 - number as i64}})
        };
        let commands: Vec<Value> = (first..first + 100).map(change).collect();
        game.call(EXECUTE, &json!({ "commands": commands })).await.unwrap();
    }
    let thing = |id: String, container: &str, attributes: Value| {
        json!({"create_game_object": {"id": id, "type": "Thing", "generic": "thing", "container_id": container,
            "attributes": attributes}})
    };
    game.call(EXECUTE, &json!({"commands": [{"create_room": {"id": "store"}}]})).await.unwrap();
    let boxes: Vec<Value> =
        (0..BOXES).map(|number| thing(format!("box-{number}"), "store", json!({"lid": true}))).collect();
    together(service, boxes.chunks(100).map(|commands| json!(commands)).collect()).await;
    let things = (0..THINGS - BOXES).map(|number| {
        let attributes =
            if number % 5000 == 0 { json!({"rare": 1, "weight": 2}) } else { json!({"weight": 2}) };
        thing(format!("thing-{number:05}"), &format!("box-{}", number % BOXES), attributes)
    });
    let things: Vec<Value> = things.collect();
    for some in things.chunks(1600) {
        together(service, some.chunks(100).map(|commands| json!(commands)).collect()).await;
    }
    caught_up(service).await;
}

async fn histories(service: &Service) {
    let history = async || {
        let game = client(service).await;
        let began = Instant::now();
        let mut answers = game.stream(HISTORY, &json!({"id": "large"})).await.unwrap();
        let mut entries = 0;
        while let Some(answer) = answers.next().await.unwrap() {
            entries += answer["entries"].as_array().map_or(0, Vec::len);
        }
        assert_eq!(entries, CHANGES + 1);
        began.elapsed()
    };
    println!("GetHistory of {CHANGES} changes of {ATTRIBUTES} attributes: {}", shown(history().await));
    let game = client(service).await;
    let mut slowest = Duration::ZERO;
    let asking = async {
        loop {
            let began = Instant::now();
            game.call(OBJECT, &json!({"id": "box-7"})).await.unwrap();
            slowest = slowest.max(began.elapsed());
        }
    };
    let all = join_all((0..AT_ONCE).map(|_| history()));
    let took = tokio::select! {
        took = all => took,
        () = asking => unreachable!("an endless loop"),
    };
    let longest = took.into_iter().max().unwrap_or_default();
    println!(
        "{AT_ONCE} of them concurrently: {}; slowest concurrent GetGameObject: {}",
        shown(longest),
        shown(slowest)
    );
}

async fn pages(service: &Service, name: &str, call: &str, request: &Value, size: usize) {
    let game = client(service).await;
    let (mut token, mut objects, mut took) = (String::new(), 0, Vec::new());
    loop {
        let mut request = request.clone();
        request["page_size"] = size.into();
        request["page_token"] = token.into();
        let began = Instant::now();
        let page = game.call(call, &request).await.unwrap();
        took.push(began.elapsed());
        objects += page["game_objects"].as_array().map_or(0, Vec::len);
        token = page["next_page_token"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            break;
        }
    }
    took.sort_unstable();
    println!(
        "{name}, {objects} objects in {} pages of {size}: p50 {}, max {}",
        took.len(),
        shown(took[took.len() / 2]),
        shown(took[took.len() - 1])
    );
}

fn shown(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}
