//! The read models show the aggregates in tables, whatever happens in between: crashes, lost or
//! damaged files, and other projections.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{Game, caught_up, describing, moving, player, read_models, room, thing};
use crate::support::service::{PATIENCE, Service, Setup};

/// Returns the rows of a query, with all values as text.
fn rows(tables: &Connection, sql: &str) -> Vec<Vec<String>> {
    let mut query = tables.prepare(sql).unwrap();
    let columns = query.column_count();
    let found = query.query_map([], |row| {
        let text = |column| match row.get_ref(column)? {
            rusqlite::types::ValueRef::Null => Ok(String::new()),
            rusqlite::types::ValueRef::Integer(number) => Ok(number.to_string()),
            other => Ok(other.as_str().unwrap_or_default().to_owned()),
        };
        (0..columns).map(text).collect()
    });
    found.unwrap().collect::<Result<_, _>>().unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Asserts that the tables match the aggregates themselves.
async fn assert_like_the_aggregates(service: &Service, game: &Game, ids: &[String]) {
    caught_up(service).await;
    let mut expected: BTreeMap<&str, Vec<Vec<String>>> = BTreeMap::new();
    for id in ids {
        let Ok(answer) = game.try_ask("GetGameObject", json!({ "id": id })).await else { continue };
        let object = &answer["game_object"];
        if object["deleted"] == true {
            continue;
        }
        let attributes = match &object["attributes"] {
            Value::Null => "{}".to_owned(),
            attributes => attributes.to_string(),
        };
        let mut add = |table, row| expected.entry(table).or_default().push(row);
        add(
            "game_objects",
            vec![
                id.clone(),
                text(&object["aggregate_type"]),
                text(&object["name"]),
                text(&object["container_id"]),
                attributes,
                object["sequence_number"].to_string(),
            ],
        );
        for item in object["inventory"].as_array().into_iter().flatten() {
            let position = item.get("position").map(ToString::to_string).unwrap_or_default();
            add("inventories", vec![id.clone(), text(&item["item_id"]), position]);
        }
        for (slot, item) in object["equipment"].as_object().into_iter().flatten() {
            add("equipment", vec![id.clone(), slot.clone(), text(item)]);
        }
        match object["aggregate_type"].as_str().unwrap() {
            "Room" => {
                let room = game.room(id).await;
                add("rooms", vec![id.clone(), text(&object["name"]), text(&room["description"])]);
                for (direction, target) in room["exits"].as_object().into_iter().flatten() {
                    add("room_exits", vec![id.clone(), direction.clone(), text(target)]);
                }
            }
            "Player" => {
                let player = game.ask("GetPlayer", json!({ "id": id })).await["player"].clone();
                let admin = u8::from(player["admin"] == true).to_string();
                add("players", vec![id.clone(), text(&object["name"]), admin, text(&object["container_id"])]);
            }
            _ => {}
        }
    }
    let tables = read_models(service);
    for (table, columns) in [
        ("game_objects", "id, aggregate_type, name, container_id, attributes, sequence_number"),
        ("inventories", "holder_id, item_id, position"),
        ("equipment", "holder_id, slot, item_id"),
        ("rooms", "id, name, description"),
        ("room_exits", "room_id, direction, target_room_id"),
        ("players", "id, name, admin, container_id"),
    ] {
        let mut expected = expected.remove(table).unwrap_or_default();
        expected.sort();
        let found = rows(&tables, &format!("SELECT {columns} FROM {table} ORDER BY 1, 2"));
        assert_eq!(found, expected, "{table}");
    }
    let activity: i64 = tables.query_row("SELECT count(*) FROM activity", [], |row| row.get(0)).unwrap();
    assert_eq!(activity, service.stats().await.event_count as i64);
}

/// Returns a random command on one of a few objects; many of them are refused.
fn any_command(random: &mut fastrand::Rng, ids: &[String]) -> Value {
    let mut id = || ids[random.usize(..ids.len())].clone();
    let (one, other) = (id(), id());
    let number = random.u8(..4);
    match random.u8(..14) {
        0 => json!({"create_room": {"id": one, "name": one}}),
        1 => player(&one),
        2 => thing(&one, ""),
        3 => thing(&one, &other),
        4 => describing(&one, &number.to_string()),
        5 => json!({"add_room_exit": {"id": one, "direction": number.to_string(), "target_room_id": other}}),
        6 => json!({"remove_room_exit": {"id": one, "direction": number.to_string()}}),
        7 => moving(&one, &other),
        8 => json!({"add_item_to_inventory": {"id": one, "item_id": other, "position": number}}),
        9 => json!({"equip_item": {"id": one, "item_id": other, "slot": number.to_string()}}),
        10 => json!({"unequip_item": {"id": one, "item_id": other}}),
        11 => {
            json!({"update_game_object_attributes": {"id": one, "attributes": {"name": number.to_string(), "n": number}}})
        }
        12 => json!({"update_player_admin_status": {"id": one, "admin": number > 1}}),
        _ if number == 0 => json!({"delete_game_object": {"id": one}}),
        _ => json!({"update_game_object_attribute": {"id": one, "key": "k", "value": [number]}}),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_what_the_aggregates_are_whenever_the_service_is_killed() {
    const ROUNDS: usize = 6;
    let mut random = fastrand::Rng::with_seed(6);
    let ids: Vec<String> = (0..7).map(|number| format!("o-{number}")).collect();
    let setup = Setup::local().set("event_sourcing", "snapshot_threshold: 5");
    let mut service = Service::start(setup).await;
    for round in 0..ROUNDS {
        let game = &Game::of(&service).await;
        // Several clients at once, so that calls are in flight and projections lag when the service
        // is killed.
        let done = &AtomicUsize::new(0);
        let mut callers: Vec<_> = (0..6)
            .map(|_| {
                let commands: Vec<_> = (0..40).map(|_| any_command(&mut random, &ids)).collect();
                Box::pin(async move {
                    for command in commands {
                        let executed = game.try_execute(json!([command])).await.is_ok();
                        done.fetch_add(usize::from(executed), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        if round < ROUNDS - 1 {
            let killed_after = 5 + 12 * round;
            let enough = async {
                while done.load(Ordering::Relaxed) < killed_after {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                _ = join_all(&mut callers) => {}
                () = enough => {}
            }
            service.kill();
            service.restart().await;
        } else {
            join_all(callers).await;
        }
        let game = Game::of(&service).await;
        assert_like_the_aggregates(&service, &game, &ids).await;
    }
    let report = Game::of(&service).await.rebuild().await;
    let differences = report["differences"].as_object().unwrap();
    assert!(differences.values().all(|count| count == 0), "{report}");
    assert_eq!(report.get("damaged_total"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_rebuilt_when_the_file_is_missing_damaged_or_of_other_projections() {
    let mut service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    let ids = ["r", "p", "t"].map(str::to_owned);
    game.execute(json!([room("r"), player("p"), thing("t", "p")])).await;
    assert_like_the_aggregates(&service, &game, &ids).await;
    let file = service.storage().join("read_models.sqlite");
    std::fs::remove_file(&file).unwrap();
    game.execute(json!([describing("r", "while it runs")])).await;
    assert_like_the_aggregates(&service, &game, &ids).await;
    // Also when there are only queries.
    let found = async || {
        // A rebuild may just be running.
        let until = Instant::now() + PATIENCE;
        loop {
            match game.try_ask("FindPlayer", json!({"name": "p"})).await {
                Ok(found) => return found,
                Err(refused) => {
                    assert!(refused.reason() == "READ_MODELS" && Instant::now() < until, "{refused}")
                }
            }
        }
    };
    found().await;
    std::fs::remove_file(&file).unwrap();
    found().await;
    caught_up(&service).await;
    assert_eq!(found().await["players"][0]["id"], "p");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(game.rebuild().await["aggregates"], 3);
    assert_like_the_aggregates(&service, &game, &ids).await;
    let spoil: [&dyn Fn(); 3] = [
        &|| std::fs::remove_file(&file).unwrap(),
        &|| std::fs::write(&file, "this is no database, and long enough to be looked at").unwrap(),
        &|| {
            let tables = Connection::open(&file).unwrap();
            tables.execute("UPDATE projections SET version = 99 WHERE name = 'rooms'", []).unwrap();
        },
    ];
    for spoil in spoil {
        service.stop();
        spoil();
        service.restart().await;
        assert_like_the_aggregates(&service, &Game::of(&service).await, &ids).await;
    }
    // Another log does not touch the file of the previous one.
    service.stop();
    for folder in ["log", "index"] {
        std::fs::remove_dir_all(service.storage().join(folder)).unwrap();
    }
    service.restart().await;
    let game = Game::of(&service).await;
    game.execute(json!([room("other")])).await;
    let refused = game.try_ask("FindPlayer", json!({"name": "p"})).await.unwrap_err().to_string();
    assert!(refused.contains("was created from another log"), "{refused}");
    let left: i64 = Connection::open(&file)
        .unwrap()
        .query_row("SELECT count(*) FROM players WHERE id = 'p'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 1);
    std::fs::remove_file(&file).unwrap();
    assert_like_the_aggregates(&service, &game, &["other".to_owned()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_world_of_a_hundred_thousand_objects_is_listed_and_rebuilt() {
    const ROOMS: usize = 1000;
    const THINGS: usize = 99_000;
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    let rooms: Vec<Value> = (0..ROOMS).map(|number| room(&format!("room-{number}"))).collect();
    for commands in rooms.chunks(100) {
        game.execute(json!(commands)).await;
    }
    let things: Vec<Value> = (0..THINGS)
        .map(|number| thing(&format!("t-{number:05}"), &format!("room-{}", number % ROOMS)))
        .collect();
    let calls: Vec<Value> = things.chunks(100).map(|commands| json!(commands)).collect();
    for calls in calls.chunks(16) {
        join_all(calls.iter().map(|commands| game.execute(commands.clone()))).await;
    }
    caught_up(&service).await;
    let mut listed = Vec::new();
    let mut token = String::new();
    loop {
        let request = json!({"container_id": "room-7", "page_size": 40, "page_token": token});
        let page = game.ask("ListContents", request).await;
        listed.extend(page["game_objects"].as_array().unwrap().clone());
        token = text(&page["next_page_token"]);
        if token.is_empty() {
            break;
        }
    }
    let ids: Vec<String> = listed.iter().map(|object| text(&object["id"])).collect();
    let expected: Vec<String> =
        (0..THINGS / ROOMS).map(|step| format!("t-{:05}", 7 + step * ROOMS)).collect();
    assert_eq!(ids, expected);
    let report = game.rebuild().await;
    assert_eq!(report["aggregates"], ROOMS + THINGS);
    assert_eq!(report["events"], 2 * ROOMS + THINGS);
    assert!(report["differences"].as_object().unwrap().values().all(|count| count == 0), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_go_on_where_a_page_ended() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    let sword = |id: &str, weight: Value| {
        json!({"create_game_object": {"id": id, "type": "Sword", "name": "blade", "generic": "weapon",
            "container_id": "r", "attributes": {"weight": weight}}})
    };
    game.execute(json!([
        room("r"), sword("s-1", json!(4)), sword("s-2", json!(5)), sword("s-3", json!([4])),
        thing("bag", "r"), thing("coin", "bag"), player("Alice"), player("alice"), thing("gone", "r"),
        {"delete_game_object": {"id": "gone"}}
    ]))
    .await;
    caught_up(&service).await;
    let list = async |request: Value| -> Vec<String> {
        let page = game.ask("ListGameObjects", request).await;
        page["game_objects"].as_array().into_iter().flatten().map(|object| text(&object["id"])).collect()
    };
    assert_eq!(list(json!({})).await, ["Alice", "alice", "bag", "coin", "r", "s-1", "s-2", "s-3"]);
    assert_eq!(list(json!({"type": "Sword"})).await, ["s-1", "s-2", "s-3"]);
    assert_eq!(list(json!({"generic": "weapon", "container_id": "r", "name": "blade"})).await.len(), 3);
    assert_eq!(list(json!({"container_id": "bag"})).await, ["coin"]);
    assert_eq!(list(json!({"attribute_key": "weight"})).await, ["s-1", "s-2", "s-3"]);
    assert_eq!(list(json!({"attribute_key": "weight", "attribute_value": 4})).await, ["s-1"]);
    assert_eq!(list(json!({"attribute_key": "weight", "attribute_value": [4]})).await, ["s-3"]);
    assert!(list(json!({"name": "nothing"})).await.is_empty());
    assert!(list(json!({"generic": "nothing"})).await.is_empty());
    let first = game.ask("ListGameObjects", json!({"type": "Sword", "page_size": 2})).await;
    let token = text(&first["next_page_token"]);
    assert_eq!(list(json!({"type": "Sword", "page_size": 2, "page_token": token})).await, ["s-3"]);
    let contents = async |recursive: bool| -> Vec<(String, u64)> {
        let request = json!({"container_id": "r", "recursive": recursive});
        let page = game.ask("ListContents", request).await;
        let listed = page["game_objects"].as_array().unwrap().iter();
        listed.map(|object| (text(&object["id"]), object["depth"].as_u64().unwrap())).collect()
    };
    assert_eq!(contents(false).await.len(), 4);
    assert!(contents(true).await.contains(&("coin".to_owned(), 2)));
    let found = game.ask("FindPlayer", json!({"name": "ALICE"})).await;
    assert_eq!(found["players"].as_array().unwrap().len(), 2);
    for (request, expected) in [
        (json!({"page_size": 1001}), "page_size: is 1001; at most 1000 is allowed"),
        (json!({"page_token": "x"}), "page_token: is not a token of this list"),
        (json!({"attribute_value": 1}), "attribute_value: requires attribute_key"),
    ] {
        assert_eq!(game.try_ask("ListGameObjects", request).await.unwrap_err().to_string(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_no_larger_than_callers_take() {
    // Data that is short as JSON and long on the wire.
    const NUMBERS: usize = 40_000;
    const MAPS: usize = 10;
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    for number in 0..MAPS {
        let map = json!({"create_game_object": {"id": format!("map-{number}"), "type": "Map", "name": "map",
            "attributes": {"tiles": vec![1; NUMBERS]}}});
        game.execute(json!([map])).await;
    }
    caught_up(&service).await;
    let (mut seen, mut token) = (0, String::new());
    loop {
        let page = game.ask("ListGameObjects", json!({"type": "Map", "page_token": token})).await;
        let objects = page["game_objects"].as_array().unwrap();
        let numbers: usize =
            objects.iter().map(|object| object["attributes"]["tiles"].as_array().unwrap().len()).sum();
        // A number in a list takes at most 13 bytes of a message.
        assert!(numbers * 13 < 4 << 20, "{numbers} numbers in one page");
        seen += objects.len();
        token = text(&page["next_page_token"]);
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, MAPS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_rebuilt_is_reported_and_holds_up_nothing_else() {
    let setup = Setup::local().set("world", "read_models_path: models/read_models.sqlite");
    let service = Service::start(setup).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), player("p")])).await;
    caught_up(&service).await;
    let folder = service.dir().join("models");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "no folder").unwrap();
    let found = game.try_ask("FindPlayer", json!({"name": "p"})).await.unwrap_err();
    assert_eq!(found.reason(), "READ_MODELS", "{found}");
    game.execute(json!([describing("r", "still")])).await;
    assert_eq!(game.room("r").await["description"], "still");
    // The file is created as soon as that is possible.
    std::fs::remove_file(&folder).unwrap();
    std::fs::create_dir(&folder).unwrap();
    assert!(game.try_ask("FindPlayer", json!({"name": "p"})).await.is_ok());
    caught_up(&service).await;
    assert_eq!(game.ask("FindPlayer", json!({"name": "p"})).await["players"][0]["id"], "p");
}
