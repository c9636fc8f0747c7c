//! A field has a single check, whichever way its value arrives.
//!
//! Names are the example here: every command that sets one accepts the same values.

use aethyr_event_store::grpc::ClientError;
use serde_json::{Value, json};
use tonic::Code;

use super::{Game, player, room, thing};
use crate::support::service::{Service, Setup};

/// Returns all ways to name an object: the field that is checked, and the command. `id` is new or
/// exists already.
fn ways(kind: &str, id: &str, name: &Value) -> Vec<(&'static str, Value)> {
    let created = match kind {
        "player" => json!({"create_player": {"id": format!("new-{id}"), "name": name}}),
        "room" => json!({"create_room": {"id": format!("new-{id}"), "name": name}}),
        _ => json!({"create_game_object": {"id": format!("new-{id}"), "type": "Thing", "name": name}}),
    };
    let mut ways = vec![
        ("value", json!({"update_game_object_attribute": {"id": id, "key": "name", "value": name}})),
        ("attributes", json!({"update_game_object_attributes": {"id": id, "attributes": {"name": name}}})),
    ];
    // This field accepts only text.
    if name.is_string() {
        ways.push(("name", created));
    }
    if kind == "thing" {
        let attributes = json!({"name": name});
        let created = json!({"id": format!("new-{id}"), "type": "Thing", "attributes": attributes});
        ways.push(("attributes", json!({ "create_game_object": created })));
    }
    ways
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_one_way_refuses_no_other_takes() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("room"), player("player"), thing("thing", "room")])).await;
    let before = [game.object("room").await, game.object("player").await, game.object("thing").await];
    let for_all = [
        (json!("a\nb"), "must not contain control characters"),
        (json!("\u{1b}[31m"), "must not contain control characters"),
        (json!("x".repeat(256)), "has 256 bytes; at most 255 are allowed"),
        (json!(7), "must be a string"),
        (json!(["x"]), "must be a string"),
    ];
    let for_players = [(json!(""), ""), (Value::Null, "")];
    for kind in ["player", "room", "thing"] {
        let refused = if kind == "player" { &for_players[..] } else { &[] };
        for (name, problem) in for_all.iter().chain(refused) {
            for (field, command) in ways(kind, kind, name) {
                let error = game.try_execute(json!([command])).await.expect_err(&format!("{command}"));
                assert!(
                    matches!(&error, ClientError::Refused { code: Code::InvalidArgument, .. }),
                    "{command}: {error}"
                );
                let said = error.to_string();
                let names_field =
                    said.contains(&format!("commands[0].{field}")) || error.reason() == "NAME_MISSING";
                assert!(said.contains(problem) && names_field, "{command}: {said}");
            }
        }
    }
    assert_eq!(before, [game.object("room").await, game.object("player").await, game.object("thing").await]);
    // A name that one way accepts is accepted by all others, and players are found by it.
    for (number, name) in ["Ä", &"x".repeat(255)].into_iter().enumerate() {
        for kind in ["player", "room", "thing"] {
            let id = format!("{kind}-{number}");
            game.execute(json!([match kind {
                "player" => player(&id),
                "room" => room(&id),
                _ => thing(&id, "room"),
            }]))
            .await;
            for (way, (_, command)) in ways(kind, &id, &json!(name)).into_iter().enumerate() {
                let mut command = command;
                // Of two commands that create the same object, the second gets another id.
                if let Some(created) = command.as_object_mut().unwrap().values_mut().next()
                    && created["id"].as_str().unwrap().starts_with("new-")
                {
                    created["id"] = json!(format!("new-{way}-{id}"));
                }
                game.execute(json!([command])).await;
            }
        }
        super::caught_up(&service).await;
        let found = game.ask("FindPlayer", json!({ "name": name })).await;
        assert_eq!(found["players"].as_array().unwrap().len(), 2, "{found}");
    }
}
