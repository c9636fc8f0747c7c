//! Expected sequence numbers: they state what a client saw before it sent its commands, and a
//! command is refused if that has changed.

use aethyr_event_store::grpc::wire::NewEvent;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{Game, describing, player, room, thing};
use crate::support::{
    events::{append, event},
    service::{Service, Setup},
};

/// A command changes more than its target: an item is guarded, and not only the player who takes
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_grab_what_they_saw_one_gets_it() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), player("p"), player("q")])).await;
    let wins = async |grabs: Vec<Value>| {
        let answers = join_all(grabs.into_iter().map(|grab| game.try_call(grab))).await;
        for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert_eq!(refused.reason(), "WRONG_EXPECTED_SEQUENCE", "{refused}");
        }
        answers.iter().filter(|answer| answer.is_ok()).count()
    };
    for race in 0..60 {
        let gem = format!("gem-{race}");
        game.execute(json!([thing(&gem, "r")])).await;
        let in_command = |by: &str| json!({"commands": [{"expected_sequences": {&gem: 1}, "add_item_to_inventory": {"id": by, "item_id": &gem}}]});
        let in_call = |by: &str| json!({"expected_sequences": {&gem: 1}, "commands": [{"add_item_to_inventory": {"id": by, "item_id": &gem}}]});
        let grab = |by: &str| if race % 2 == 0 { in_command(by) } else { in_call(by) };
        assert_eq!(wins(vec![grab("p"), grab("q")]).await, 1, "{gem}");
        let holders = ["p", "q"].map(async |holder| {
            game.object(holder).await["inventory"].to_string().contains(&format!("\"{gem}\""))
        });
        let held = join_all(holders).await;
        assert_eq!(held.iter().filter(|held| **held).count(), 1, "{gem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expectations_are_of_any_object_as_it_was_before_the_call() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), room("s")])).await;
    append(&mut service.client(), vec![NewEvent { aggregate_type: "Quest".into(), ..event("quest-1") }])
        .await;
    let call =
        |expected: Value, commands: Value| json!({"expected_sequences": expected, "commands": commands});
    // The object may be part of the world or not, and may exist or not.
    for (id, expected, actual) in [("s", 1, 2), ("quest-1", 0, 1), ("nothing", 3, 0)] {
        let refused =
            game.try_call(call(json!({ id: expected }), json!([describing("r", "x")]))).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("{id}: expected sequence number {expected}, actual {actual}")
        );
    }
    let fits = json!({"s": 2, "quest-1": 1, "nothing": 0, "r": 2});
    let once = call(
        fits,
        json!([describing("r", "x"), {"command_id": "c", "expected_sequences": {"r": 2}, "update_room_description": {"id": "r", "description": "y"}}]),
    );
    game.try_call(once.clone()).await.unwrap();
    let again = game.try_call(call(json!({"r": 2}), json!([{"command_id": "c", "expected_sequences": {"r": 2}, "update_room_description": {"id": "r", "description": "y"}}]))).await.unwrap();
    assert_eq!(again["results"][0]["already_executed"], json!(true));
    let two = json!([{"expected_sequence": 4, "expected_sequences": {"r": 5}, "update_room_description": {"id": "r", "description": "z"}}]);
    let refused = game.try_execute(two).await.unwrap_err();
    assert!(refused.to_string().starts_with("commands[0].expected_sequence: contradicts"), "{refused}");
    // The maximum number of expectations, besides the object itself.
    let most: serde_json::Map<String, Value> =
        (0..1000).map(|number| (format!("x-{number}"), json!(0))).collect();
    game.try_call(call(Value::Object(most), json!([describing("r", "most")]))).await.unwrap();
    let many: serde_json::Map<String, Value> =
        (0..1001).map(|number| (format!("x-{number}"), json!(0))).collect();
    let refused = game.try_call(call(Value::Object(many), json!([describing("r", "z")]))).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "expected_sequences: has 1001 entries in the call and its commands; at most 1000 are allowed"
    );
}
