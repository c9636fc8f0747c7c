//! A rebuild finds damaged aggregates, continues past them, and repairs the read models.
//!
//! It runs under load, while clients read and write.

use aethyr_event_store::grpc::wire::{NewEvent, new_event::Data};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{Game, caught_up, describing, read_models, room, thing};
use crate::support::{
    events::{append, event},
    service::{Service, Setup},
};

fn raw(aggregate: &str, event_type: &str, data: &str) -> NewEvent {
    NewEvent {
        aggregate_type: "Room".into(),
        event_type: event_type.into(),
        data: Some(Data::Json(data.into())),
        ..event(aggregate)
    }
}

fn problems(report: &Value, what: &str) -> Vec<String> {
    let findings = report[what].as_array().into_iter().flatten();
    let show = |finding: &Value| {
        format!("{} {}: {}", finding["aggregate_id"], finding["sequence_number"], finding["problem"])
            .replace(['"', '\\'], "")
    };
    findings.map(show).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_aggregates_are_named_and_do_not_stop_the_rest() {
    let service = Service::start(Setup::local().set("world", "raw_appends: unchecked")).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("good"), room("strange"), room("twisted"), room("garbled")])).await;
    let mut client = service.client();
    append(&mut client, vec![raw("strange", "SomethingElse", "{}")]).await;
    append(&mut client, vec![raw("twisted", "RoomExitRemoved", "{\"direction\":\"up\"}")]).await;
    append(&mut client, vec![raw("garbled", "RoomExitAdded", "{\"direction\":7}")]).await;
    append(&mut client, vec![raw("headless", "RoomDescriptionUpdated", "{\"description\":\"x\"}")]).await;
    let own = NewEvent { aggregate_type: "Quest".into(), ..raw("quest", "QuestBegun", "{}") };
    append(&mut client, vec![own]).await;
    game.execute(json!([describing("good", "still here")])).await;
    let report = game.rebuild().await;
    assert_eq!(report["aggregates"], 5, "the game's own are not counted");
    assert_eq!(report["damaged_total"], 4);
    assert_eq!(
        problems(&report, "damaged"),
        [
            "garbled 3: its data does not match its type (line 1, column 14)",
            "headless 1: its first event does not create it",
            "strange 3: unknown event type SomethingElse",
            "twisted 3: the exit to be removed does not exist",
        ]
    );
    let asked = game.try_ask("GetRoom", json!({"id": "twisted"})).await.unwrap_err();
    assert_eq!(asked.reason(), "OBJECT_DAMAGED");
    // The state before the damage can still be queried.
    game.ask("GetRoom", json!({"id": "twisted", "as_of": {"sequence_number": 2}})).await;
    assert_eq!(game.room("good").await["description"], "still here");
    // Damaged aggregates do not hold up a query for changes, either.
    let pieces = game.ask_all("DiffWorld", json!({})).await;
    let objects: Vec<&Value> = pieces.iter().flat_map(|piece| piece["objects"].as_array().unwrap()).collect();
    let has_problem = |object: &&&Value| object.get("problem").is_some();
    assert_eq!((objects.len(), objects.iter().filter(has_problem).count()), (5, 4));
    let (succeeded, said) = service.run(&["rebuild", "--address", &format!("127.0.0.1:{}", service.port())]);
    assert!(!succeeded && said.contains("damaged aggregates: 4"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exits_and_containers_that_point_nowhere_are_warnings() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    let exit =
        |target: &str| json!({"add_room_exit": {"id": "r", "direction": target, "target_room_id": target}});
    game.execute(json!([room("r"), room("s"), thing("box", "r"), thing("coin", "box")])).await;
    game.execute(json!([exit("s"), exit("never"), exit("box"), {"delete_game_object": {"id": "box", "contents": "LEAVE"}}])).await;
    let report = game.rebuild().await;
    assert_eq!(
        problems(&report, "warnings"),
        [
            "r null: its exit box leads to box, which is not a room",
            "r null: its exit never leads to never, which is not a room",
            "coin null: it lies in box, which does not exist",
        ]
    );
    assert_eq!(report.get("damaged_total"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn read_models_that_are_wrong_are_found_out_and_put_right_under_load() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), room("s"), thing("t", "r")])).await;
    caught_up(&service).await;
    let tables = Connection::open(service.storage().join("read_models.sqlite")).unwrap();
    tables.execute("UPDATE rooms SET description = 'forged' WHERE id = 'r'", []).unwrap();
    tables.execute("DELETE FROM game_objects WHERE id = 't'", []).unwrap();
    drop(tables);
    // All the while, one program reads and a client writes.
    let reader = read_models(&service);
    let writing = async {
        for number in 0..50 {
            game.execute(json!([describing("s", &number.to_string())])).await;
        }
    };
    let (report, ()) = tokio::join!(game.rebuild(), writing);
    assert_eq!(report["differences"]["rooms"], 1, "{report}");
    assert_eq!(report["differences"]["game_objects"], 1, "{report}");
    assert_eq!(report["differences"]["activity"], 0, "{report}");
    caught_up(&service).await;
    let text = |sql: &str| reader.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(text("SELECT description FROM rooms WHERE id = 'r'"), "");
    assert_eq!(text("SELECT description FROM rooms WHERE id = 's'"), "49");
    assert_eq!(text("SELECT container_id FROM game_objects WHERE id = 't'"), "r");
    // Damage that stops the live projections is repaired, too.
    let tables = Connection::open(service.storage().join("read_models.sqlite")).unwrap();
    tables.execute("DROP TABLE room_exits", []).unwrap();
    drop(tables);
    game.execute(json!([{"add_room_exit": {"id": "r", "direction": "up", "target_room_id": "s"}}])).await;
    game.rebuild().await;
    caught_up(&service).await;
    let tables = read_models(&service);
    let count = tables.query_row("SELECT count(*) FROM room_exits", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count, 1);
    let again = game.rebuild().await;
    assert!(again["differences"].as_object().unwrap().values().all(|count| count == 0), "{again}");
}
