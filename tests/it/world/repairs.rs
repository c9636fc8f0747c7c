//! The repair of objects that unchecked appends have damaged.
//!
//! A repair makes the world pass over the events that cannot have happened. It deletes nothing.

use aethyr_event_store::grpc::wire::{NewEvent, new_event::Data};
use serde_json::{Value, json};

use super::{Game, caught_up, describing, moving, player, read_models, room, thing};
use crate::support::{
    events::{append, event},
    service::{Service, Setup},
};

fn raw(aggregate_type: &str, aggregate: &str, event_type: &str, data: Value) -> NewEvent {
    NewEvent {
        aggregate_type: aggregate_type.into(),
        event_type: event_type.into(),
        data: Some(Data::Json(data.to_string())),
        ..event(aggregate)
    }
}

/// Creates a world in which every object but one is damaged, each in its own way.
async fn damaged(service: &Service) -> Game {
    let game = Game::of(service).await;
    game.execute(json!([room("hall"), room("cellar"), player("eve"), thing("ring", "hall")])).await;
    let mut client = service.client();
    // A second creation makes eve an administrator; she is moved afterwards.
    append(&mut client, vec![raw("Player", "eve", "PlayerCreated", json!({"admin": true}))]).await;
    let into = json!({"container_id": "hall"});
    append(&mut client, vec![raw("Player", "eve", "GameObjectContainerUpdated", into)]).await;
    let nowhere = json!({"direction": "up"});
    append(&mut client, vec![raw("Room", "cellar", "RoomExitRemoved", nowhere)]).await;
    append(&mut client, vec![raw("Room", "cellar", "Flooded", json!({}))]).await;
    // The ring has an event after its deletion.
    append(&mut client, vec![raw("GameObject", "ring", "GameObjectDeleted", json!({}))]).await;
    let into = json!({"container_id": "cellar"});
    append(&mut client, vec![raw("GameObject", "ring", "GameObjectContainerUpdated", into)]).await;
    append(&mut client, vec![raw("Room", "attic", "RoomDescriptionUpdated", json!({"description": "x"}))])
        .await;
    game
}

const DAMAGED: [&str; 4] = ["attic", "cellar", "eve", "ring"];

async fn repair(game: &Game, objects: &[&str], actor: &str) -> Value {
    let answers = game.ask_all("RebuildWorldState", json!({"repair": objects, "actor": actor})).await;
    answers.last().unwrap()["report"].clone()
}

fn rows(service: &Service, sql: &str) -> Vec<String> {
    let rows = read_models(service);
    let mut query = rows.prepare(sql).unwrap();
    query.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Asserts what the world and the read models say of the repaired objects.
async fn assert_whole(service: &Service) {
    let game = Game::of(service).await;
    let eve = game.ask("GetPlayer", json!({"id": "eve"})).await["player"].clone();
    assert_eq!((eve.get("admin"), &eve["object"]["container_id"]), (None, &json!("hall")));
    assert_eq!(eve["object"]["sequence_number"], 5);
    assert_eq!(game.room("cellar").await["object"]["sequence_number"], 5);
    assert_eq!(game.object("ring").await["deleted"], true);
    let attic = game.try_ask("GetRoom", json!({"id": "attic"})).await.unwrap_err();
    assert_eq!(attic.reason(), "NO_SUCH_OBJECT");
    caught_up(service).await;
    assert_eq!(rows(service, "SELECT id FROM players WHERE admin = 0"), ["eve"]);
    assert_eq!(rows(service, "SELECT id FROM game_objects ORDER BY id"), ["cellar", "eve", "hall"]);
    assert_eq!(rows(service, "SELECT id FROM contents WHERE container_id = 'hall'"), ["eve"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_have_happened_is_passed_over_from_then_on() {
    let mut service = Service::start(Setup::local().set("world", "raw_appends: unchecked")).await;
    let game = damaged(&service).await;
    assert_eq!(game.rebuild().await["damaged_total"], 4);
    let refused = game.try_ask("GetPlayer", json!({"id": "eve"})).await.unwrap_err();
    assert_eq!(refused.reason(), "OBJECT_DAMAGED");

    let report = repair(&game, &DAMAGED, "wizard").await;
    let repaired: Vec<String> = report["repaired"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| {
            format!("{} {} {}", finding["aggregate_id"], finding["sequence_number"], finding["problem"])
                .replace(['"', '\\'], "")
        })
        .collect();
    let expected = [
        "attic 1 its first event does not create it",
        "cellar 3 the exit to be removed does not exist",
        "cellar 4 unknown event type Flooded",
        "eve 3 it is created twice",
        "ring 3 it has events after its deletion",
    ];
    assert_eq!((repaired, &report["repaired_total"]), (expected.map(str::to_owned).into(), &json!(5)));
    assert_eq!((report.get("damaged_total"), &report["warnings_total"]), (None, &json!(4)));
    assert_whole(&service).await;

    // The object's own history names the repair, for good.
    let history = game.ask_all("GetHistory", json!({"id": "eve"})).await;
    let entries = history[0]["entries"].as_array().unwrap();
    let passed_over: Vec<&Value> =
        entries.iter().filter(|entry| entry.get("passed_over").is_some()).collect();
    assert_eq!((passed_over.len(), &passed_over[0]["sequence_number"]), (1, &json!(3)));
    assert_eq!(passed_over[0].get("changes"), None);
    assert_eq!(
        (&entries[4]["event_type"], &entries[4]["actor"]),
        (&json!("ObjectRepaired"), &json!("wizard"))
    );
    let stored = game.store("LoadEvents", json!({"aggregate_id": "eve", "from_sequence": 5})).await;
    let data: Value = serde_json::from_str(stored["events"][0]["json"].as_str().unwrap()).unwrap();
    assert_eq!(
        data,
        json!({"passed_over": [3], "because": "event 3: it is created twice", "actor": "wizard"})
    );

    // A repaired object has nothing left to repair. It lives on, across restarts and with new read
    // models.
    let again = repair(&game, &["eve"], "").await;
    assert_eq!(again.get("repaired_total"), None);
    assert!(again["differences"].as_object().unwrap().values().all(|count| count == 0), "{again}");
    game.execute(json!([moving("eve", "cellar"), describing("cellar", "Dry."), moving("eve", "hall")])).await;
    for _ in 0..2 {
        service.kill();
        std::fs::remove_file(service.storage().join("read_models.sqlite")).unwrap();
        service.restart().await;
        let game = Game::of(&service).await;
        caught_up(&service).await;
        assert_eq!(rows(&service, "SELECT id FROM contents WHERE container_id = 'hall'"), ["eve"]);
        assert_eq!(game.room("cellar").await["description"], "Dry.");
        assert_eq!(game.rebuild().await.get("damaged_total"), None);
    }
    // An object that was never created can be created now, but only with the type that its events
    // had.
    let game = Game::of(&service).await;
    assert_eq!(game.refused(json!([player("attic")])).await, "OBJECT_EXISTS");
    game.execute(json!([room("attic"), describing("attic", "Dust.")])).await;
    assert_eq!(game.room("attic").await["description"], "Dust.");
    caught_up(&service).await;
    assert_eq!(rows(&service, "SELECT description FROM rooms WHERE id = 'attic'"), ["Dust."]);
    assert_eq!(game.refused(json!([room("attic")])).await, "OBJECT_EXISTS");
}

/// The service was killed after the repair and before the read models had it, or a client appended
/// the event itself.
#[tokio::test(flavor = "multi_thread")]
async fn read_models_with_events_that_a_repair_excludes_are_rebuilt() {
    let service = Service::start(Setup::local().set("world", "raw_appends: unchecked")).await;
    let game = damaged(&service).await;
    caught_up(&service).await;
    assert_eq!(rows(&service, "SELECT id FROM players WHERE admin = 1"), ["eve"]);
    let mut client = service.client();
    for (kind, id, passed_over) in [
        ("Player", "eve", vec![3]),
        ("Room", "cellar", vec![3, 4]),
        ("GameObject", "ring", vec![3]),
        ("Room", "attic", vec![1]),
    ] {
        let repaired = raw(kind, id, "ObjectRepaired", json!({"passed_over": passed_over}));
        append(&mut client, vec![repaired]).await;
    }
    assert_whole(&service).await;
    assert_eq!(game.rebuild().await.get("damaged_total"), None);
}

/// A newer version knows an event that an older version did not know and passed over.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_passed_over_does_not_count_although_it_fits() {
    let mut service = Service::start(Setup::local().set("world", "raw_appends: unchecked")).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), describing("r", "Dry."), describing("r", "Flooded.")])).await;
    game.execute(json!([room("chest"), thing("gem", "r"), moving("gem", "chest")])).await;
    let mut client = service.client();
    // A type of the game's own, and an object that does not exist.
    append(&mut client, vec![raw("Ship", "ship", "ObjectRepaired", json!({"passed_over": [1]}))]).await;
    for (kind, id, passed_over) in [("Room", "r", 4), ("GameObject", "gem", 2)] {
        append(&mut client, vec![raw(kind, id, "ObjectRepaired", json!({"passed_over": [passed_over]}))])
            .await;
    }
    // The later event is valid only without the one that is passed over.
    game.execute(json!([thing("cup", "r"), {"delete_game_object": {"id": "cup"}}])).await;
    let full = json!({"key": "full", "value": true});
    append(&mut client, vec![raw("GameObject", "cup", "GameObjectAttributeUpdated", full)]).await;
    append(&mut client, vec![raw("GameObject", "cup", "ObjectRepaired", json!({"passed_over": [2]}))]).await;
    for restart in [false, true] {
        if restart {
            service.kill();
            service.restart().await;
        }
        let game = Game::of(&service).await;
        assert_eq!(game.room("r").await["description"], "Dry.");
        assert_eq!(game.object("gem").await["container_id"], "r");
        caught_up(&service).await;
        assert_eq!(rows(&service, "SELECT description FROM rooms WHERE id = 'r'"), ["Dry."]);
        assert_eq!(rows(&service, "SELECT id FROM contents WHERE container_id = 'r'"), ["cup", "gem"]);
        let cup = game.object("cup").await;
        assert_eq!((cup.get("deleted"), &cup["attributes"]["full"]), (None, &json!(true)));
        let history = game.ask_all("GetHistory", json!({"id": "cup"})).await;
        assert_eq!(history[0]["entries"].as_array().unwrap().len(), 4);
        let history = game.ask_all("GetHistory", json!({"id": "r"})).await;
        let change = json!({"field": "description", "before": "Flooded.", "after": "Dry."});
        assert_eq!(history[0]["entries"][4]["changes"], json!([change]));
        let as_it_was = game.ask("GetRoom", json!({"id": "r", "as_of": {"sequence_number": 4}})).await;
        assert_eq!(as_it_was["room"]["description"], "Flooded.");
        let deletion = json!({"delete_game_object": {"id": "chest"}});
        let expected = json!({"chest": 1});
        let refused = game.try_call(json!({"expected_sequences": expected, "commands": [deletion]})).await;
        assert_eq!(refused.unwrap_err().reason(), "WRONG_EXPECTED_SEQUENCE");
    }
    let game = Game::of(&service).await;
    game.execute(json!([describing("r", "Damp."), {"delete_game_object": {"id": "chest"}}])).await;
    assert_eq!(game.room("r").await["description"], "Damp.");
    assert_eq!(game.rebuild().await.get("damaged_total"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_rebuild_repairs_and_only_what_there_is() {
    let mut service = Service::start(Setup::local().set("world", "raw_appends: unchecked")).await;
    damaged(&service).await;
    let address = format!("127.0.0.1:{}", service.port());
    let (succeeded, said) = service.run(&["rebuild", "--address", &address, "--repair", "nobody"]);
    assert!(!succeeded && said.contains("nobody: does not exist"), "{said}");
    let (succeeded, said) = service.run(&[
        "rebuild",
        "--address",
        &address,
        "--repair",
        "eve",
        "--repair",
        "ring",
        "--actor",
        "wizard",
    ]);
    assert!(!succeeded && said.contains("damaged aggregates: 2"), "{said}");
    service.kill();
    service.reconfigure(Setup::local());
    service.restart().await;
    let (game, mut client) = (Game::of(&service).await, service.client());
    assert_eq!(game.ask("GetPlayer", json!({"id": "eve"})).await["player"].get("admin"), None);
    // A damaged object is not checked, and a repaired one is checked again.
    let twice = || raw("Player", "eve", "PlayerCreated", json!({"admin": true}));
    let refused = client.append_events(crate::support::events::request(vec![twice()])).await.unwrap_err();
    assert!(refused.message().contains("it is created twice"), "{}", refused.message());
    append(&mut client, vec![raw("Room", "cellar", "Flooded", json!({}))]).await;
    repair(&game, &["cellar"], "").await;
    for (kind, id, event) in [
        ("Room", "cellar", "Flooded"),
        ("Room", "cellar", "ObjectRepaired"),
        ("Room", "new", "ObjectRepaired"),
    ] {
        let data = json!({"passed_over": [1]});
        let request = crate::support::events::request(vec![raw(kind, id, event, data)]);
        let refused = client.append_events(request).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{event}: {}", refused.message());
    }
    assert_eq!(game.room("cellar").await["object"]["sequence_number"], 6);
}
