//! Unique names of players: a name is taken once, whichever way it is taken, and is free again when
//! its player no longer has it.

use aethyr_event_store::grpc::wire::{AppendEventsResponse, NewEvent, new_event::Data};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{Game, caught_up, event_types, player};
use crate::support::{
    events::{event, load, reason, request},
    service::{Client, Service, Setup},
};

pub(super) fn unique(rule: &str) -> Setup {
    Setup::local().set("world", &format!("player_names: {{ unique: {rule} }}"))
}

pub(super) fn named(id: &str, name: &str) -> Value {
    json!({"create_player": {"id": id, "name": name}})
}

pub(super) fn renaming(id: &str, name: &str) -> Value {
    json!({"update_game_object_attribute": {"id": id, "key": "name", "value": name}})
}

pub(super) fn deleting(id: &str) -> Value {
    json!({"delete_game_object": {"id": id}})
}

pub(super) fn raw(id: &str, event_type: &str, data: Value) -> NewEvent {
    NewEvent {
        aggregate_type: "Player".into(),
        event_type: event_type.into(),
        data: Some(Data::Json(data.to_string())),
        ..event(id)
    }
}

/// The events with which a game that decides for itself creates a player.
pub(super) fn created(id: &str, name: &str) -> Vec<NewEvent> {
    let object = raw(id, "GameObjectCreated", json!({"type": "Player", "name": name}));
    vec![object, raw(id, "PlayerCreated", json!({}))]
}

pub(super) async fn append(client: &mut Client, events: &[NewEvent]) -> Result<AppendEventsResponse, Status> {
    client.append_events(request(events.to_vec())).await.map(tonic::Response::into_inner)
}

fn assert_taken(refused: &Status, name: &str) {
    assert_eq!(
        (refused.code(), reason(refused).as_str()),
        (Code::AlreadyExists, "NAME_TAKEN"),
        "{refused:?}"
    );
    assert_eq!(refused.get_details_error_info().unwrap().metadata["name"], name);
}

#[tokio::test(flavor = "multi_thread")]
async fn players_may_share_a_name_unless_the_configuration_says_otherwise() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([named("a", "Alice"), named("b", "Alice")])).await;
    assert_eq!(service.stats().await.event_count, 4, "nothing is reserved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_taken_once_and_is_free_when_its_player_has_another_or_is_deleted() {
    let mut service = Service::start(unique("folded")).await;
    let game = Game::of(&service).await;
    let first = game.execute(json!([named("a", "Alice")])).await;
    // The answer has the events of the player alone, and so has that of a retry.
    assert_eq!(event_types(&first), ["GameObjectCreated", "PlayerCreated"]);
    assert_eq!(service.stats().await.event_count, 3);
    for name in ["Alice", "ALICE"] {
        let refused = game.try_execute(json!([named("b", name)])).await.unwrap_err();
        assert_eq!(refused.reason(), "NAME_TAKEN", "{refused}");
        assert_eq!(refused.to_string(), format!("b: another player has the name {name:?}"));
    }
    let object = json!({"id": "b", "type": "X::Player", "attributes": {"name": "alice"}});
    assert_eq!(game.refused(json!([{ "create_game_object": object }])).await, "NAME_TAKEN");
    game.execute(json!([named("b", "Bob")])).await;
    assert_eq!(game.refused(json!([renaming("b", "aLICE")])).await, "NAME_TAKEN");
    let several = json!({"id": "b", "attributes": {"name": "Alice"}});
    assert_eq!(game.refused(json!([{ "update_game_object_attributes": several }])).await, "NAME_TAKEN");
    // A player may write its own name in another way.
    game.execute(json!([renaming("a", "ALICE")])).await;
    game.execute(json!([renaming("a", "Carol"), renaming("b", "Alice")])).await;
    assert_eq!(game.refused(json!([named("c", "Carol")])).await, "NAME_TAKEN");
    game.execute(json!([deleting("a"), named("c", "carol"), named("d", "Bob")])).await;
    // The names of other objects are free.
    game.execute(json!([super::room("Alice"), super::room("Bob")])).await;
    let command = json!({"command_id": "c-1", "create_player": {"id": "e", "name": "Eve"}});
    let first = game.execute(json!([command])).await;
    let again = game.execute(json!([command])).await;
    assert_eq!(again["results"][0]["events"], first["results"][0]["events"]);
    service.kill();
    service.restart().await;
    let game = Game::of(&service).await;
    for name in ["alice", "CAROL", "bob", "eve"] {
        assert_eq!(game.refused(json!([named("f", name)])).await, "NAME_TAKEN", "{name}");
    }
    let report = game.rebuild().await;
    assert_eq!(report.get("damaged"), None, "{report}");
    caught_up(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_differ_in_case_are_different_if_they_are_compared_exactly() {
    let service = Service::start(unique("exact")).await;
    let game = Game::of(&service).await;
    game.execute(json!([named("a", "Alice"), named("b", "alice")])).await;
    assert_eq!(game.refused(json!([named("c", "alice")])).await, "NAME_TAKEN");
}

/// The last sequence number of the reservation is a condition of each of these appends.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_take_one_name_at_the_same_time_one_gets_it() {
    let service = Service::start(unique("folded")).await;
    let game = Game::of(&service).await;
    for race in 0..15 {
        let name = format!("Alice {race}");
        let commands = (0..5).map(|number| {
            let (game, command) = (&game, named(&format!("c-{race}-{number}"), &name));
            async move { game.try_execute(json!([command])).await.map(|_| ()) }
        });
        let appends = (0..5).map(|number| {
            let (mut client, events) = (service.client(), created(&format!("r-{race}-{number}"), &name));
            async move { append(&mut client, &events).await }
        });
        let (executed, appended) = tokio::join!(join_all(commands), join_all(appends));
        for refused in executed.iter().filter_map(|one| one.as_ref().err()) {
            assert_eq!(refused.reason(), "NAME_TAKEN", "{refused}");
        }
        appended.iter().filter_map(|one| one.as_ref().err()).for_each(|refused| assert_taken(refused, &name));
        let done = executed.iter().filter(|one| one.is_ok()).count()
            + appended.iter().filter(|one| one.is_ok()).count();
        assert_eq!(done, 1, "{name}");
        caught_up(&service).await;
        let found = game.ask("FindPlayer", json!({ "name": name })).await;
        assert_eq!(found["players"].as_array().unwrap().len(), 1, "{found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_append_reserves_names_too_and_its_answer_and_its_retry_do_not_show_it() {
    let service = Service::start(unique("folded")).await;
    let game = Game::of(&service).await;
    let mut client = service.client();
    let events = created("a", "Alice");
    let first = append(&mut client, &events).await.unwrap();
    assert_eq!((first.first_position, first.last_position), (1, 2));
    assert_eq!(first.aggregates.len(), 1, "{first:?}");
    assert_eq!(service.stats().await.event_count, 3);
    let again = append(&mut client, &events).await.unwrap();
    assert!(again.already_stored);
    assert_eq!(AppendEventsResponse { already_stored: false, ..again }, first);
    assert_eq!(service.stats().await.event_count, 3);
    // Another append with the id of a stored event.
    let other = NewEvent { event_id: events[0].event_id.clone(), ..created("x", "Xenia")[0].clone() };
    assert_eq!(reason(&append(&mut client, &[other]).await.unwrap_err()), "EVENT_ID_REUSED");
    assert_taken(&append(&mut client, &created("b", "ALICE")).await.unwrap_err(), "ALICE");
    assert_eq!(game.refused(json!([named("b", "alice")])).await, "NAME_TAKEN");
    append(&mut client, &created("b", "Bob")).await.unwrap();
    let rename =
        |id: &str, name: &str| raw(id, "GameObjectAttributeUpdated", json!({"key": "name", "value": name}));
    assert_taken(&append(&mut client, &[rename("b", "alice")]).await.unwrap_err(), "alice");
    // Both at once: the names are unique afterwards.
    append(&mut client, &[rename("b", "Alice"), rename("a", "Bob")]).await.unwrap();
    append(&mut client, &[raw("b", "GameObjectDeleted", json!({}))]).await.unwrap();
    game.execute(json!([named("c", "Alice")])).await;
    assert_taken(&append(&mut client, &created("d", "bob")).await.unwrap_err(), "bob");
    let two = [created("d", "Dan"), created("e", "dan")].concat();
    assert_taken(&append(&mut client, &two).await.unwrap_err(), "dan");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_writes_to_a_reservation() {
    let service = Service::start(unique("exact")).await;
    let game = Game::of(&service).await;
    game.execute(json!([named("a", "Alice")])).await;
    let listed = game.store("ListAggregates", json!({"aggregate_type": "AethyrPlayerName"})).await;
    let id = listed["aggregates"][0]["aggregate_id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("aethyr:player-name:exact:"), "{id}");
    let mut client = service.client();
    let stored = load(&mut client, &id).await;
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].event_type, "PlayerNameReserved");
    let released = NewEvent {
        aggregate_type: "AethyrPlayerName".into(),
        event_type: "PlayerNameReleased".into(),
        data: Some(Data::Json(json!({"name": "Alice", "player_id": "a"}).to_string())),
        ..event(&id)
    };
    let refused = append(&mut client, &[released]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let refused = game.try_execute(json!([player(&id)])).await.unwrap_err();
    assert!(refused.to_string().contains("must not begin with aethyr:"), "{refused}");
    assert_eq!(game.refused(json!([named("b", "Alice")])).await, "NAME_TAKEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_names_stop_the_start_and_are_listed_and_all_others_are_reserved_then() {
    let mut service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([
        named("a", "Alice"),
        named("b", "ALICE"),
        named("c", "Carol"),
        named("gone", "carol")
    ]))
    .await;
    game.execute(json!([deleting("gone")])).await;
    assert!(service.stop().success());
    service.reconfigure(unique("folded"));
    assert!(!service.launch_and_crash().success());
    let log = service.log();
    let told = "players share names: \"a\", \"b\"; rename or delete some of them";
    assert!(log.contains(told) && !log.contains("ALICE"), "{log}");
    // With another rule they are different names.
    service.reconfigure(unique("exact"));
    service.restart().await;
    let game = Game::of(&service).await;
    assert_eq!(game.refused(json!([named("d", "Carol")])).await, "NAME_TAKEN");
    game.execute(json!([named("d", "carol"), renaming("b", "Bob"), renaming("d", "Dan")])).await;
    assert!(service.stop().success());
    service.reconfigure(unique("folded"));
    service.restart().await;
    let game = Game::of(&service).await;
    for name in ["alice", "BOB", "carol", "dan"] {
        assert_eq!(game.refused(json!([named("e", name)])).await, "NAME_TAKEN", "{name}");
    }
    // While names need not be unique, they change without their reservations.
    assert!(service.stop().success());
    service.reconfigure(Setup::local());
    service.restart().await;
    let game = Game::of(&service).await;
    game.execute(json!([renaming("a", "Xenia"), named("e", "alice"), deleting("c")])).await;
    assert!(service.stop().success());
    service.reconfigure(unique("folded"));
    service.restart().await;
    let game = Game::of(&service).await;
    for name in ["XENIA", "Alice", "Bob", "Dan"] {
        assert_eq!(game.refused(json!([named("f", name)])).await, "NAME_TAKEN", "{name}");
    }
    game.execute(json!([named("f", "Carol")])).await;
}
