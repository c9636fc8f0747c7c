//! Raw appends: appends to objects of the world that do not come from commands.
//!
//! Checked appends cannot damage an object. The configuration may refuse all of them, or turn the
//! check off.

use aethyr_event_store::grpc::wire::{AppendEventsRequest, NewEvent, new_event::Data};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{Game, player, room, thing};
use crate::support::{
    events::{append, event, expecting, load, reason, request},
    service::{Client, Service, Setup},
};

fn raw(id: &str, kind: &str, event_type: &str, data: Value) -> NewEvent {
    NewEvent {
        aggregate_type: kind.into(),
        event_type: event_type.into(),
        data: Some(Data::Json(data.to_string())),
        ..event(id)
    }
}

fn created(id: &str, kind: &str) -> NewEvent {
    raw(id, kind, "GameObjectCreated", json!({"type": kind, "name": id}))
}

fn update(id: &str, kind: &str) -> NewEvent {
    raw(id, kind, "GameObjectAttributeUpdated", json!({"key": "k", "value": 1}))
}

async fn try_append(client: &mut Client, append: AppendEventsRequest) -> Result<(), Status> {
    client.append_events(append).await.map(|_| ())
}

/// Returns the rule that a refused append breaks.
fn rule(refused: &Status) -> String {
    assert_eq!(
        (refused.code(), reason(refused).as_str()),
        (Code::FailedPrecondition, "WORLD_RULE"),
        "{refused:?}"
    );
    for way in ["ExecuteCommands", "another aggregate type", "world.enabled to false"] {
        assert!(refused.message().contains(way), "{refused:?}");
    }
    refused.get_details_error_info().unwrap().metadata["rule"].clone()
}

/// Returns appends to the objects of the test below, each with the rule that it breaks.
fn impossible_appends() -> Vec<(Vec<NewEvent>, &'static str)> {
    let binary = NewEvent { data: Some(Data::Binary(b"{}".to_vec().into())), ..created("new", "Room") };
    vec![
        (vec![raw("p", "Player", "PlayerCreated", json!({"admin": true}))], "it is created twice"),
        (vec![raw("p", "", "PlayerCreated", json!({}))], "it is created twice"),
        (
            vec![raw("new", "Room", "RoomCreated", json!({"name": "Forest Clearing"}))],
            "its first event does not create it",
        ),
        (vec![raw("r", "Room", "SomethingElse", json!({}))], "unknown event type \"SomethingElse\""),
        (
            vec![raw("r", "Room", "RoomExitAdded", json!({"direction": 7}))],
            "its data does not match its type (line 1, column 14)",
        ),
        (
            vec![raw("r", "Room", "RoomExitRemoved", json!({"direction": "up"}))],
            "the exit to be removed does not exist",
        ),
        (
            vec![raw("t", "GameObject", "RoomDescriptionUpdated", json!({"description": "x"}))],
            "the event belongs to another kind of aggregate",
        ),
        (vec![update("gone", "GameObject")], "it has events after its deletion"),
        (vec![binary], "its data is not valid JSON"),
        // One of several events breaks a rule, so none of them is stored.
        (
            vec![created("a", "Room"), update("a", "Room"), created("b", "Room"), created("a", "Room")],
            "it is created twice",
        ),
        (vec![event("quest-1"), update("nothing", "GameObject")], "its first event does not create it"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_an_object_cannot_have_is_refused_and_the_others_are_taken() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    let mut client = service.client();
    game.execute(json!([room("r"), player("p"), thing("t", "r"), thing("gone", "r")])).await;
    game.execute(json!([{"delete_game_object": {"id": "gone"}}])).await;
    let before = service.stats().await.event_count;
    for (events, broken) in impossible_appends() {
        let sent = format!("{events:?}");
        let refused = try_append(&mut client, request(events)).await.unwrap_err();
        assert_eq!(rule(&refused), broken, "{sent}");
    }
    let stats = service.stats().await;
    assert_eq!(stats.event_count, before);
    let told = stats.refusals.iter().find(|refusal| refusal.reason == "WORLD_RULE").unwrap();
    assert_eq!(told.calls, 11);
    service.wait_for_log("WORLD_RULE").await;
    // Appends by an Aethyr that makes its own decisions.
    append(
        &mut client,
        vec![created("q", "Player"), raw("q", "Player", "PlayerCreated", json!({"admin": true}))],
    )
    .await;
    append(&mut client, vec![update("q", ""), update("r", "Room"), update("t", "GameObject")]).await;
    assert_eq!(game.object("q").await["attributes"]["k"], json!(1));
    // A retry of the same events stores them only once.
    let both = vec![created("s", "Room"), raw("s", "Room", "RoomCreated", json!({"description": "x"}))];
    append(&mut client, both.clone()).await;
    append(&mut client, both.clone()).await;
    assert_eq!(load(&mut client, "s").await.len(), 2);
    // Event ids are checked first, then the expected sequences, then the rule.
    let other = NewEvent { event_id: both[0].event_id.clone(), ..created("s", "Room") };
    let other = NewEvent { data: Some(Data::Json("{\"type\":\"Other\"}".into())), ..other };
    let refused = try_append(&mut client, request(vec![other])).await.unwrap_err();
    assert_eq!(reason(&refused), "EVENT_ID_REUSED");
    for (id, expected) in [("s", 1), ("r", 0), ("nothing", 2)] {
        let refused = try_append(&mut client, expecting(vec![created("s", "Room")], &[(id, expected)]))
            .await
            .unwrap_err();
        assert_eq!(reason(&refused), "WRONG_EXPECTED_SEQUENCE", "{id}");
    }
    let refused =
        try_append(&mut client, expecting(vec![created("s", "Room")], &[("s", 2)])).await.unwrap_err();
    assert_eq!(rule(&refused), "it is created twice");
    let report = game.rebuild().await;
    assert_eq!(report.get("damaged"), None, "{report}");
}

/// A decision still holds when its events are stored.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_do_what_can_be_done_once_one_does_it() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    for race in 0..20 {
        let id = format!("room-{race}");
        let appends = (0..5).map(|_| {
            let (mut client, event) = (service.client(), created(&id, "Room"));
            async move { try_append(&mut client, request(vec![event])).await }
        });
        let commands = (0..5).map(|_| async { game.try_execute(json!([room(&id)])).await.map(|_| ()) });
        let (appended, executed) = tokio::join!(join_all(appends), join_all(commands));
        for refused in appended.iter().filter_map(|appended| appended.as_ref().err()) {
            assert_eq!(rule(refused), "it is created twice");
        }
        let done = appended.iter().filter(|one| one.is_ok()).count()
            + executed.iter().filter(|one| one.is_ok()).count();
        assert_eq!(done, 1, "{id}");
        // Changes that are always possible are all made.
        let updates = (0..10).map(|number| {
            let mut client = service.client();
            let update = raw(
                &id,
                "Room",
                "GameObjectAttributeUpdated",
                json!({"key": format!("k{number}"), "value": 1}),
            );
            async move { try_append(&mut client, request(vec![update])).await.unwrap() }
        });
        let describe =
            (0..5).map(|number| game.execute(json!([super::describing(&id, &format!("{number}"))])));
        tokio::join!(join_all(updates), join_all(describe));
    }
    let report = game.rebuild().await;
    assert_eq!(report.get("damaged"), None, "{report}");
}

/// A command also changes objects that it does not name: a holder that loses an item loses it once.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_checked_has_not_changed_when_it_is_stored() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    let mut commands = vec![player("holder"), player("thief")];
    for race in 0..60 {
        commands.push(json!({"create_game_object": {"id": format!("gem-{race}"), "type": "Gem"}}));
    }
    game.execute(json!(commands)).await;
    for race in 0..60 {
        let gem = format!("gem-{race}");
        game.execute(json!([{"add_item_to_inventory": {"id": "holder", "item_id": gem}}])).await;
        let lost = raw("holder", "Player", "ItemRemovedFromInventory", json!({"item_id": gem}));
        let mut client = service.client();
        let (appended, executed) = tokio::join!(
            try_append(&mut client, request(vec![lost])),
            game.try_execute(json!([{"add_item_to_inventory": {"id": "thief", "item_id": gem}}]))
        );
        executed.unwrap();
        if let Err(refused) = appended {
            assert_eq!(rule(&refused), "the item to be removed does not exist");
        }
    }
    let report = game.rebuild().await;
    assert_eq!(report.get("damaged"), None, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_refused_or_unchecked_if_the_configuration_says_so_and_damage_goes_on() {
    let unchecked = Setup::local().set("world", "raw_appends: unchecked");
    let mut service = Service::start(unchecked).await;
    append(&mut service.client(), vec![created("r", "Room"), created("r", "Room")]).await;
    append(&mut service.client(), vec![created("s", "Room")]).await;
    service.stop();
    service.reconfigure(Setup::local());
    service.restart().await;
    // The room is damaged already, and the log says so once.
    for _ in 0..3 {
        append(&mut service.client(), vec![created("r", "Room")]).await;
    }
    service.stop();
    assert_eq!(service.log().matches("to a damaged object are not checked").count(), 1, "{}", service.log());
    service.reconfigure(Setup::local().set("world", "raw_appends: refused"));
    service.restart().await;
    let mut client = service.client();
    // This includes the damaged object.
    for event in [update("s", "Room"), update("s", ""), created("new", "Player"), created("r", "Room")] {
        let refused = try_append(&mut client, request(vec![event])).await.unwrap_err();
        assert_eq!(rule(&refused), "the configuration refuses such appends (world.raw_appends)");
    }
    append(&mut client, vec![event("quest-1")]).await;
    append(&mut client, vec![NewEvent { aggregate_type: String::new(), ..event("quest-1") }]).await;
    let unnamed = NewEvent { aggregate_type: String::new(), ..event("nothing") };
    let refused = try_append(&mut client, request(vec![unnamed])).await.unwrap_err();
    assert!(refused.message().contains("is required for the first event"), "{refused:?}");
    Game::of(&service).await.execute(json!([room("by-command")])).await;
    // Disabled event sourcing is checked before the rules of the world.
    service.stop();
    service.reconfigure(Setup::local().set("event_sourcing", "enabled: false"));
    service.restart().await;
    let refused =
        try_append(&mut service.client(), request(vec![created("by-command", "Room")])).await.unwrap_err();
    assert_eq!(reason(&refused), "EVENT_SOURCING_DISABLED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_a_world_has_no_rules_and_leaves_the_read_models_alone() {
    let mut service = Service::start(Setup::local()).await;
    Game::of(&service).await.execute(json!([room("r")])).await;
    super::caught_up(&service).await;
    service.stop();
    let path = service.storage().join("read_models.sqlite");
    let before = std::fs::read(&path).unwrap();
    service.reconfigure(
        Setup::local().set("world", "enabled: false").set("event_sourcing", "snapshot_threshold: 1"),
    );
    service.restart().await;
    append(&mut service.client(), vec![raw("r", "Room", "Anything", json!({}))]).await;
    let game = Game::of(&service).await;
    let refused = game.try_execute(json!([room("s")])).await.unwrap_err().to_string();
    assert!(refused.contains("world.enabled"), "{refused}");
    let refused = game.try_ask("GetRoom", json!({"id": "r"})).await.unwrap_err().to_string();
    assert!(refused.contains("world.enabled"), "{refused}");
    assert!(service.stats().await.projections.is_empty());
    service.stop();
    assert_eq!(std::fs::read(&path).unwrap(), before);
}
