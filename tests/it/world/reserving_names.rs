//! Reservations of names beside the path on which a command takes one: long names, retries after
//! the rules have changed, starts with ImmuDB, services that take no writes, and repairs.

use aethyr_event_store::grpc::wire::{AppendEventsResponse, NewEvent, State};
use serde_json::json;
use tempfile::tempdir;
use tonic::Code;
use tonic_types::StatusExt;

use super::{
    Game, caught_up,
    player_names::{append, created, deleting, named, raw, renaming, unique},
};
use crate::support::{
    events::{event, reason, whole_order},
    immudb::ImmuDb,
    service::{Client, Service, Setup},
};

/// Sends an append again, and asserts that it gets its first answer.
async fn assert_same_answer(client: &mut Client, events: &[NewEvent], first: &AppendEventsResponse) {
    let again = append(client, events).await.unwrap();
    assert!(again.already_stored, "{again:?}");
    assert_eq!(AppendEventsResponse { already_stored: false, ..again }, *first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_append_gives_no_player_a_name_that_is_too_long_to_be_reserved() {
    let service = Service::start(unique("exact")).await;
    let mut client = service.client();
    let refused = append(&mut client, &created("a", &"x".repeat(256))).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "WORLD_RULE"));
    let rule = refused.get_details_error_info().unwrap().metadata["rule"].clone();
    assert_eq!(rule, "the name of the player has 256 bytes; at most 255 can be reserved");
    append(&mut client, &created("a", &"x".repeat(255))).await.unwrap();
    // The error of a name that is taken fits into the headers of an answer.
    let refused = append(&mut client, &created("b", &"x".repeat(255))).await.unwrap_err();
    assert_eq!(reason(&refused), "NAME_TAKEN");
}

/// What is stored can be read back, however long the names are that players have got while names
/// were not unique.
#[tokio::test(flavor = "multi_thread")]
async fn long_names_are_reserved_and_released_in_appends_that_can_be_read_back() {
    const PLAYERS: usize = 18;
    let mut service = Service::start(Setup::local()).await;
    let mut client = service.client();
    for number in 0..PLAYERS {
        let name = format!("{number} {}", "x".repeat(950_000));
        append(&mut client, &created(&format!("p-{number}"), &name)).await.unwrap();
    }
    assert!(service.stop().success());
    service.reconfigure(unique("exact"));
    service.restart().await;
    let mut client = service.client();
    let before = whole_order(&mut client).await.len();
    assert_eq!(before, 3 * PLAYERS, "each name is reserved");
    let deleted = |number: usize| raw(&format!("p-{number}"), "GameObjectDeleted", json!({}));
    let all: Vec<NewEvent> = (0..PLAYERS).map(deleted).collect();
    let refused = append(&mut client, &all).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("bytes of events"), "{refused:?}");
    for few in all.chunks(6) {
        append(&mut client, few).await.unwrap();
    }
    assert_eq!(whole_order(&mut client).await.len(), before + 2 * PLAYERS);
    service.kill();
    service.restart().await;
    assert_eq!(whole_order(&mut service.client()).await.len(), before + 2 * PLAYERS);
    Game::of(&service).await.execute(json!([named("a", "Alice")])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gets_its_first_answer_whatever_has_become_of_the_name_and_of_the_rules() {
    let mut service = Service::start(unique("folded")).await;
    let game = Game::of(&service).await;
    let mut client = service.client();
    let reserving = created("a", "Alice");
    let reserved = append(&mut client, &reserving).await.unwrap();
    // It changes no name, so it needs no reservation.
    let attributes = json!({"attributes": {"name": "Alice", "hp": 5}});
    let plain = [raw("a", "GameObjectAttributesUpdated", attributes)];
    let first = append(&mut client, &plain).await.unwrap();
    game.execute(json!([renaming("a", "Bob")])).await;
    assert_same_answer(&mut client, &plain, &first).await;
    game.execute(json!([named("b", "Alice")])).await;
    assert_same_answer(&mut client, &plain, &first).await;
    assert_same_answer(&mut client, &reserving, &reserved).await;
    for (section, line) in [("world", "raw_appends: unchecked"), ("world", "enabled: false")] {
        assert!(service.stop().success());
        service.reconfigure(Setup::local().set(section, line));
        service.restart().await;
        let mut client = service.client();
        assert_same_answer(&mut client, &reserving, &reserved).await;
        assert_same_answer(&mut client, &plain, &first).await;
    }
    // Stored while names had no rule.
    assert!(service.stop().success());
    service.reconfigure(Setup::local());
    service.restart().await;
    let rename = [raw("a", "GameObjectAttributeUpdated", json!({"key": "name", "value": "Carol"}))];
    let first = append(&mut service.client(), &rename).await.unwrap();
    assert!(service.stop().success());
    service.reconfigure(unique("folded"));
    service.restart().await;
    let mut client = service.client();
    assert_same_answer(&mut client, &rename, &first).await;
    Game::of(&service).await.execute(json!([renaming("a", "Dan")])).await;
    assert_same_answer(&mut client, &rename, &first).await;
    // The id of a stored event in another append is still refused.
    let other = NewEvent { event_id: rename[0].event_id.clone(), ..created("x", "Xenia")[0].clone() };
    assert_eq!(reason(&append(&mut client, &[other]).await.unwrap_err()), "EVENT_ID_REUSED");
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_names_stop_the_start_with_an_immudb_too_and_otherwise_names_can_change_at_once() {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let with_immudb = || Setup::with_immudb(immudb.port());
    let folded = || with_immudb().set("world", "player_names: { unique: folded }");
    let mut service = Service::start(with_immudb()).await;
    Game::of(&service).await.execute(json!([named("a", "Alice"), named("b", "ALICE")])).await;
    service.wait_until_forwarded().await;
    assert!(service.stop().success());
    service.reconfigure(folded());
    assert!(!service.launch_and_crash().success());
    assert!(service.log().contains("players share names: \"a\", \"b\""), "{}", service.log());
    service.reconfigure(with_immudb());
    service.restart().await;
    Game::of(&service).await.execute(json!([renaming("b", "Bob")])).await;
    assert!(service.stop().success());
    service.reconfigure(folded());
    for name in ["Carol", "Dan"] {
        service.restart().await;
        let game = Game::of(&service).await;
        game.execute(json!([named(name, name)])).await;
        assert_eq!(game.refused(json!([named("c", "BOB")])).await, "NAME_TAKEN");
        service.wait_for_state(State::Connected).await;
        assert!(service.stop().success());
        assert!(!service.log().contains("names of players are not reserved"), "{}", service.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_takes_no_writes_says_so_instead_of_that_it_is_starting() {
    let mut service = Service::start(unique("exact")).await;
    Game::of(&service).await.execute(json!([named("a", "Alice")])).await;
    assert!(service.stop().success());
    service.reconfigure(unique("exact").set("event_sourcing", "enabled: false"));
    service.restart().await;
    let game = Game::of(&service).await;
    for command in [named("b", "Bob"), renaming("a", "Bob"), deleting("a")] {
        assert_eq!(game.refused(json!([command])).await, "EVENT_SOURCING_DISABLED", "{command}");
    }
    let refused = append(&mut service.client(), &created("b", "Bob")).await.unwrap_err();
    assert_eq!(reason(&refused), "EVENT_SOURCING_DISABLED");
    service.wait_for_log("names of players are not reserved, and cannot change").await;
    assert!(!service.log().contains("names of players are not reserved yet"), "{}", service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_makes_no_two_players_of_one_name() {
    let mut service = Service::start(Setup::local().set("world", "raw_appends: unchecked")).await;
    let game = Game::of(&service).await;
    game.execute(json!([named("a", "Alice"), named("b", "Bob")])).await;
    let mut client = service.client();
    for id in ["a", "b"] {
        append(&mut client, &[raw(id, "PlayerCreated", json!({}))]).await.unwrap();
    }
    assert!(service.stop().success());
    service.reconfigure(unique("exact"));
    service.restart().await;
    service.wait_for_log("the name of a damaged player is not known").await;
    let game = Game::of(&service).await;
    game.execute(json!([named("c", "Alice")])).await;
    let address = format!("127.0.0.1:{}", service.port());
    let repair = |id| service.run(&["rebuild", "--address", &address, "--repair", id]);
    let (repaired, said) = repair("a");
    assert!(!repaired && said.contains("a: another player has the name \"Alice\""), "{said}");
    let (_, said) = repair("b");
    assert!(!said.contains("another player"), "{said}");
    assert_eq!(game.refused(json!([named("d", "Bob")])).await, "NAME_TAKEN");
    game.execute(json!([renaming("c", "Carol")])).await;
    let (repaired, said) = repair("a");
    assert!(repaired, "{said}");
    assert_eq!(game.refused(json!([named("d", "Alice")])).await, "NAME_TAKEN");
    // Repaired players change their names as all others do.
    game.execute(json!([renaming("a", "Anna"), named("d", "Alice"), deleting("b")])).await;
    caught_up(&service).await;
    assert!(service.stop().success());
    service.restart().await;
    let game = Game::of(&service).await;
    for name in ["Anna", "Alice", "Carol"] {
        assert_eq!(game.refused(json!([named("e", name)])).await, "NAME_TAKEN", "{name}");
    }
    game.execute(json!([named("e", "Bob")])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reservations_are_never_due_for_a_snapshot() {
    let service = Service::start(unique("exact").set("event_sourcing", "snapshot_threshold: 1")).await;
    let game = Game::of(&service).await;
    game.execute(json!([named("a", "Alice")])).await;
    append(&mut service.client(), &[event("quest-1")]).await.unwrap();
    let due = game.store("ListAggregates", json!({"snapshot_due": true})).await;
    let ids: Vec<&str> = due["aggregates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["aggregate_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["a", "quest-1"]);
}
