//! The world as it was at every sequence number, position and time; what each event changed, and
//! what changed between two moments.

use serde_json::{Value, json};

use super::{Game, describing, moving, player, room, states::kept, thing};
use crate::support::{
    events::load,
    service::{Service, Setup},
};

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_is_the_fold_of_the_events_up_to_it() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    // States are queried right after each event, and again at the end.
    game.execute(json!([room("r")])).await;
    let mut seen = Vec::new();
    for number in 0..130 {
        game.execute(json!([describing("r", &number.to_string())])).await;
        seen.push(game.room("r").await);
    }
    kept(&service, "r").await;
    let events = load(&mut service.client(), "r").await;
    for (state, event) in seen.iter().zip(events.iter().skip(2)) {
        let at = |moment: Value| game.ask("GetRoom", json!({"id": "r", "as_of": moment}));
        assert_eq!(at(json!({"sequence_number": event.sequence_number})).await["room"], *state);
        assert_eq!(at(json!({"position": event.position})).await["room"], *state);
        let recorded_at = event.recorded_at.unwrap().to_string();
        assert_eq!(at(json!({"time": recorded_at})).await["room"], *state);
    }
    let second = game.ask("GetRoom", json!({"id": "r", "as_of": {"sequence_number": 2}})).await;
    assert_eq!(second["room"].get("description"), None);
    let before = game.try_ask("GetRoom", json!({"id": "r", "as_of": {"time": "2020-01-01T00:00:00Z"}})).await;
    assert_eq!(before.unwrap_err().reason(), "NO_SUCH_OBJECT");
    let beyond = game.try_ask("GetRoom", json!({"id": "r", "as_of": {"sequence_number": 133}})).await;
    assert_eq!(beyond.unwrap_err().to_string(), "r: its last event has sequence number 132");
    let zero = game.try_ask("GetRoom", json!({"id": "r", "as_of": {"sequence_number": 0}})).await;
    assert_eq!(zero.unwrap_err().to_string(), "as_of.sequence_number: must be at least 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_says_what_each_event_changed_by_whom_and_why() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([{"command_id": "c-1", "actor": "wizard", "correlation_id": "story", "create_room": {"id": "r", "name": "Hall"}}]))
        .await;
    game.execute(json!([{"command_id": "c-2", "actor": "bob", "update_room_description": {"id": "r", "description": "A"}}]))
        .await;
    game.execute(json!([describing("r", "B")])).await;
    let pieces = game.ask_all("GetHistory", json!({"id": "r"})).await;
    let entries: Vec<&Value> = pieces.iter().flat_map(|piece| piece["entries"].as_array().unwrap()).collect();
    assert_eq!(entries.len(), 4);
    assert_eq!(entries[0]["actor"], "wizard");
    assert_eq!(entries[0]["causation_id"], "c-1");
    assert_eq!(entries[1]["correlation_id"], "story");
    assert_eq!(entries[2]["changes"], json!([{"field": "description", "after": "A"}]));
    assert_eq!(entries[3]["changes"], json!([{"field": "description", "before": "A", "after": "B"}]));
    assert_eq!(entries[2]["correlation_id"], "c-2", "without one it is the command itself");
    let part = game.ask_all("GetHistory", json!({"id": "r", "from_sequence": 4, "to_sequence": 4})).await;
    assert_eq!(part[0]["entries"][0], *entries[3]);
    let missing = game.try_ask("GetHistory", json!({"id": "nobody"})).await.unwrap_err();
    assert_eq!(missing.reason(), "NO_SUCH_OBJECT");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_difference_names_what_is_not_as_it_was() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), room("s"), player("p"), thing("t", "r"), thing("gone", "r")])).await;
    let from = service.stats().await.last_position;
    game.execute(json!([moving("t", "p"), thing("new", "p")])).await;
    game.execute(json!([{"delete_game_object": {"id": "gone"}}, thing("brief", "r")])).await;
    game.execute(json!([{"delete_game_object": {"id": "brief"}}])).await;
    // Changed, and changed back.
    game.execute(json!([describing("s", "x")])).await;
    game.execute(json!([describing("s", "")])).await;
    let between =
        |since: Value, until: Value| game.ask_all("DiffWorld", json!({"since": since, "until": until}));
    let pieces = between(json!({"position": from}), json!({})).await;
    let objects: Vec<&Value> = pieces.iter().flat_map(|piece| piece["objects"].as_array().unwrap()).collect();
    let named: Vec<(&str, bool, bool)> = objects
        .iter()
        .map(|object| (object["id"].as_str().unwrap(), object["created"] == true, object["deleted"] == true))
        .collect();
    assert_eq!(named, [("gone", false, true), ("new", true, false), ("t", false, false)]);
    let moved = json!([{"field": "container_id", "before": "r", "after": "p"}]);
    assert_eq!(objects[2]["changes"], moved);
    let time = service.stats().await.started_at.unwrap().to_string();
    let all = between(json!({"time": time}), json!({"position": from})).await;
    assert_eq!(all[0]["objects"].as_array().unwrap().len(), 5);
    assert!(between(json!({"position": from}), json!({"position": from})).await.is_empty());
    let wrong = game.try_ask("DiffWorld", json!({"since": {"sequence_number": 1}})).await.unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "since.sequence_number: applies to a single aggregate, not to the world; use position or time"
    );
    let wrong = game.try_ask("DiffWorld", json!({"since": {"position": 5}, "until": {"position": 4}})).await;
    assert_eq!(wrong.unwrap_err().to_string(), "since: must not be later than `until`");
}
