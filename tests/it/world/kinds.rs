//! The class of an object decides whether it is a room, a player or neither, and the description of
//! a room is its attribute `long_desc`, wherever it is looked at.

use aethyr_event_store::grpc::wire::{NewEvent, new_event::Data};
use serde_json::{Value, json};

use super::{Game, caught_up, describing, event_types, player, read_models, room};
use crate::support::{
    events::{append, event},
    service::{Service, Setup},
};

const ROOM: &str = "Aethyr::Core::Objects::Room";

fn create(id: &str, class: &str, attributes: Value) -> Value {
    json!({"create_game_object": {"id": id, "type": class, "attributes": attributes}})
}

fn attribute(id: &str, key: &str, value: Value) -> Value {
    json!({"update_game_object_attribute": {"id": id, "key": key, "value": value}})
}

fn removing(id: &str, key: &str) -> Value {
    json!({"remove_game_object_attribute": {"id": id, "key": key}})
}

fn raw(id: &str, event_type: &str, data: Value) -> NewEvent {
    NewEvent {
        aggregate_type: "Room".into(),
        event_type: event_type.into(),
        data: Some(Data::Json(data.to_string())),
        ..event(id)
    }
}

/// Returns the ids of a list.
async fn listed(game: &Game, filter: Value) -> Vec<String> {
    let answer = game.ask("ListGameObjects", filter).await;
    let objects = answer["game_objects"].as_array().cloned().unwrap_or_default();
    objects.iter().map(|object| object["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_class_makes_rooms_and_players_and_lists_find_them_by_type_and_by_generic_name() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    let made = game.execute(json!([create("a-room", ROOM, json!({"long_desc": "Trees."}))])).await;
    assert_eq!(event_types(&made), ["GameObjectCreated", "RoomCreated"]);
    let class = "Aethyr::Core::Objects::Player";
    let made = game.execute(json!([create("a-player", class, json!({"name": "Ada"}))])).await;
    assert_eq!(event_types(&made), ["GameObjectCreated", "PlayerCreated"]);
    assert_eq!(
        event_types(&game.execute(json!([create("thing", "", json!({}))])).await),
        ["GameObjectCreated"]
    );
    assert_eq!(game.object("thing").await["type"], "GameObject");
    assert_eq!(game.refused(json!([create("b-player", class, json!({}))])).await, "NAME_MISSING");
    game.execute(json!([room("b-room"), player("b-player")])).await;
    let north = json!({"id": "a-room", "direction": "north", "target_room_id": "b-room"});
    game.execute(
        json!([{"add_room_exit": north}, {"update_player_admin_status": {"id": "a-player", "admin": true}}]),
    )
    .await;
    // As Aethyr writes them, and as older services did.
    let mut client = service.client();
    append(&mut client, vec![raw("c-room", "GameObjectCreated", json!({"generic": "room"}))]).await;
    append(&mut client, vec![raw("d-room", "GameObjectCreated", json!({"type": "Room"}))]).await;
    caught_up(&service).await;
    assert_eq!(listed(&game, json!({"type": "Room"})).await, ["a-room", "b-room", "c-room", "d-room"]);
    assert_eq!(listed(&game, json!({"generic": "room"})).await, ["a-room", "b-room", "c-room", "d-room"]);
    assert_eq!(listed(&game, json!({"type": "Player"})).await, ["a-player", "b-player"]);
    assert_eq!(listed(&game, json!({"generic": "player"})).await, ["a-player", "b-player"]);
    assert_eq!(listed(&game, json!({ "type": ROOM })).await, ["a-room"]);
    assert_eq!(listed(&game, json!({"type": "GameObject"})).await, ["thing"]);
    let found = game.room("b-room").await;
    assert_eq!((&found["object"]["type"], &found["object"]["generic"]), (&json!("Room"), &json!("room")));
    // What was stored before stays as it was stored.
    assert_eq!(game.room("d-room").await["object"].get("generic"), None);
    assert_eq!(game.ask("FindPlayer", json!({"name": "ada"})).await["players"][0]["id"], "a-player");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_and_long_desc_of_a_room_are_the_same_wherever_they_are_looked_at() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    let mut client = service.client();
    game.execute(json!([create("r", ROOM, json!({"long_desc": "one", "light": 3}))])).await;
    assert_eq!(event_types(&game.execute(json!([attribute("r", "long_desc", json!("one"))])).await), [""; 0]);
    let set = game.execute(json!([attribute("r", "long_desc", json!("two"))])).await;
    assert_eq!(event_types(&set), ["RoomDescriptionUpdated"]);
    let both = json!({"id": "r", "attributes": {"long_desc": "three", "light": 4}});
    let set = game.execute(json!([{ "update_game_object_attributes": both }])).await;
    assert_eq!(event_types(&set), ["GameObjectAttributesUpdated", "RoomDescriptionUpdated"]);
    assert_eq!(game.refused(json!([attribute("r", "long_desc", json!(7))])).await, "DESCRIPTION_NOT_TEXT");
    // As Aethyr stores it.
    let aethyr = json!({"key": "long_desc", "value": "four"});
    append(&mut client, vec![raw("r", "GameObjectAttributeUpdated", aethyr)]).await;
    assert_looks_like(&service, &game, "four").await;
    game.execute(json!([describing("r", "five")])).await;
    assert_looks_like(&service, &game, "five").await;
    let changes = |entry: &Value| entry["changes"].clone();
    let history = game.ask_all("GetHistory", json!({"id": "r", "from_sequence": 3})).await;
    let entries: Vec<Value> = history
        .iter()
        .flat_map(|message| message["entries"].as_array().unwrap().clone())
        .map(|one| changes(&one))
        .collect();
    let change = |field: &str, before: Value, after: Value| json!([{"field": field, "before": before, "after": after}]);
    assert_eq!(
        entries,
        [
            change("description", json!("one"), json!("two")),
            change("attributes.light", json!(3), json!(4)),
            change("description", json!("two"), json!("three")),
            change("description", json!("three"), json!("four")),
            change("description", json!("four"), json!("five")),
        ]
    );
    let diff = game.ask_all("DiffWorld", json!({"since": {"position": 3}})).await;
    let changed = &diff[0]["objects"][0]["changes"];
    let light = json!({"field": "attributes.light", "before": 3, "after": 4});
    assert_eq!(*changed, json!([light, {"field": "description", "before": "two", "after": "five"}]));
    let removed = game.execute(json!([removing("r", "long_desc")])).await;
    assert_eq!(event_types(&removed), ["RoomDescriptionUpdated"]);
    assert_looks_like(&service, &game, "").await;
    let report = game.rebuild().await;
    assert_eq!((report.get("damaged"), report["differences"]["rooms"].as_u64()), (None, Some(0)), "{report}");
}

/// Asserts the description in every query and table.
async fn assert_looks_like(service: &Service, game: &Game, description: &str) {
    let expected = (!description.is_empty()).then(|| json!(description));
    let room = game.room("r").await;
    assert_eq!(room.get("description"), expected.as_ref());
    assert_eq!(room["object"]["attributes"].get("long_desc"), expected.as_ref());
    assert_eq!(game.object("r").await["attributes"].get("long_desc"), expected.as_ref());
    caught_up(service).await;
    let tables = read_models(service);
    let one = |sql: &str| tables.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(one("SELECT description FROM rooms WHERE id = 'r'"), description);
    let attributes: Value =
        serde_json::from_str(&one("SELECT attributes FROM game_objects WHERE id = 'r'")).unwrap();
    assert_eq!(attributes.get("long_desc"), expected.as_ref());
    let filter = json!({"attribute_key": "long_desc", "attribute_value": description});
    let found = if description.is_empty() { &[][..] } else { &["r"] };
    assert_eq!(listed(game, filter).await, found);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attribute_is_removed_from_the_object_the_history_and_the_tables() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([player("p"), create("t", "Thing", json!({"name": "sword", "weight": null}))])).await;
    let once = json!({"command_id": "c-1", "remove_game_object_attribute": {"id": "t", "key": "weight"}});
    assert_eq!(event_types(&game.execute(json!([once])).await), ["GameObjectAttributeRemoved"]);
    let again = game.execute(json!([once])).await;
    assert_eq!(again["results"][0]["already_executed"], true);
    assert_eq!(event_types(&game.execute(json!([removing("t", "weight")])).await), [""; 0]);
    assert_eq!(game.object("t").await["attributes"], json!({"name": "sword"}));
    let history = game.ask_all("GetHistory", json!({"id": "t", "from_sequence": 2})).await;
    assert_eq!(history[0]["entries"][0]["changes"], json!([{"field": "attributes.weight", "before": null}]));
    game.execute(json!([removing("t", "name")])).await;
    caught_up(&service).await;
    assert_eq!(listed(&game, json!({"attribute_key": "weight"})).await, [""; 0]);
    assert_eq!(listed(&game, json!({"name": "sword"})).await, [""; 0]);
    assert_eq!(game.refused(json!([removing("p", "name")])).await, "NAME_MISSING");
    assert_eq!(game.refused(json!([removing("nothing", "x")])).await, "NO_SUCH_OBJECT");
    let report = game.rebuild().await;
    assert_eq!((report.get("damaged"), report["differences"]["game_objects"].as_u64()), (None, Some(0)));
}
