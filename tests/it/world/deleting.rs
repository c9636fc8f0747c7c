//! What happens to the contents of an object that is deleted, and to objects that are put into it
//! at the same moment.

use std::{fs, time::Duration};

use futures_util::future::{join, join_all};
use serde_json::{Value, json};

use super::{Game, event_types, moving, player, room, thing};
use crate::support::service::{Service, Setup};

fn deleting(id: &str, contents: &str) -> Value {
    json!({"delete_game_object": {"id": id, "contents": contents}})
}

fn adding(id: &str, item: &str) -> Value {
    json!({"add_item_to_inventory": {"id": id, "item_id": item}})
}

fn exit(from: &str, direction: &str, to: &str) -> Value {
    json!({"add_room_exit": {"id": from, "direction": direction, "target_room_id": to}})
}

/// Returns the ids of the objects in a container, according to the events.
async fn lies_in(game: &Game, container: &str, things: &[&str]) -> Vec<String> {
    let objects = join_all(things.iter().map(|thing| game.object(thing))).await;
    let inside = objects.into_iter().filter(|object| object["container_id"] == container);
    inside.map(|object| object["id"].as_str().unwrap().to_owned()).collect()
}

/// Whichever comes first, nothing is lost in a deleted container.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_deletion_and_a_put_one_wins() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r")])).await;
    let (mut deleted, mut filled) = (0, 0);
    for race in 0..60 {
        let (chest, gem) = (format!("chest-{race}"), format!("gem-{race}"));
        game.execute(json!([thing(&chest, "r")])).await;
        let put = match race % 3 {
            0 => json!([thing(&gem, &chest)]),
            1 => {
                game.execute(json!([thing(&gem, "r")])).await;
                json!([moving(&gem, &chest)])
            }
            _ => {
                game.execute(json!([thing(&gem, "r")])).await;
                json!([adding(&chest, &gem)])
            }
        };
        let contents = if race % 2 == 0 { "REFUSE_IF_ANY" } else { "MOVE_TO_CONTAINER" };
        let (put, deletion) =
            join(game.try_execute(put), game.try_execute(json!([deleting(&chest, contents)]))).await;
        match (put, deletion) {
            (Ok(_), Err(refused)) => {
                assert_eq!(
                    (refused.reason(), contents),
                    ("NOT_EMPTY", "REFUSE_IF_ANY"),
                    "{chest}: {refused}"
                );
                assert_eq!(lies_in(&game, &chest, &[&gem]).await, [gem]);
                filled += 1;
            }
            (Err(refused), Ok(_)) => {
                assert_eq!(refused.reason(), "OBJECT_DELETED", "{chest}: {refused}");
                deleted += 1;
            }
            (Ok(_), Ok(_)) => {
                assert_eq!(contents, "MOVE_TO_CONTAINER", "{chest}: {gem} is put in, and it is deleted");
                assert_eq!(lies_in(&game, "r", &[&gem]).await, [gem]);
                filled += 1;
            }
            (Err(put), Err(deletion)) => panic!("{chest}: nobody wins: {put}; {deletion}"),
        }
    }
    assert_eq!(deleted + filled, 60);
    assert_eq!(game.rebuild().await.get("damaged_total"), None);
}

/// The objects stay locked while a put is in progress, even when its client no longer waits.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_if_the_client_that_puts_it_in_has_gone() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), thing("gem", "r")])).await;
    for race in 0..100u64 {
        let chest = format!("chest-{race}");
        game.execute(json!([thing(&chest, "r"), moving("gem", "r")])).await;
        let patience = Duration::from_micros(race * 40);
        let put = tokio::time::timeout(patience, game.try_execute(json!([moving("gem", &chest)])));
        let deletion = async {
            tokio::time::sleep(patience).await;
            game.try_execute(json!([deleting(&chest, "REFUSE_IF_ANY")])).await
        };
        let (_, deletion) = join(put, deletion).await;
        // By the time this is stored, a put that was still in progress is stored as well.
        game.execute(json!([thing(&format!("last-{race}"), "r")])).await;
        let gem = game.object("gem").await["container_id"].clone();
        match deletion {
            Ok(_) => assert_eq!(gem, "r", "{chest} is deleted"),
            Err(refused) => assert_eq!((refused.reason(), gem), ("NOT_EMPTY", json!(chest))),
        }
    }
}

/// Two chains of containers that are moved into one another at once never exceed the depth limit
/// together.
#[tokio::test(flavor = "multi_thread")]
async fn chains_that_move_at_once_do_not_become_too_deep() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r")])).await;
    for race in 0..20 {
        let name = |chain: &str, number: usize| format!("{chain}-{race}-{number}");
        for chain in ["a", "b", "c"] {
            let boxes: Vec<Value> = (0..25)
                .map(|number| match number {
                    0 => thing(&name(chain, 0), "r"),
                    _ => thing(&name(chain, number), &name(chain, number - 1)),
                })
                .collect();
            game.execute(json!(boxes)).await;
        }
        let into = |what: &str, container: &str| json!([moving(&name(what, 0), &name(container, 24))]);
        let (one, other) = join(game.try_execute(into("a", "b")), game.try_execute(into("b", "c"))).await;
        let refused = match (one, other) {
            (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => refused,
            both => panic!("one is moved, and not the other: {both:?}"),
        };
        assert_eq!(refused.reason(), "CONTAINERS_TOO_DEEP", "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_a_thing_goes_where_it_is_said() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), player("p"), thing("bag", "r"), thing("gem", "bag"), thing("coin", "r")]))
        .await;
    game.execute(json!([adding("p", "bag"), adding("bag", "coin")])).await;
    assert_eq!(game.refused(json!([{"delete_game_object": {"id": "bag"}}])).await, "NOT_EMPTY");
    let unknown = game.try_execute(json!([{"delete_game_object": {"id": "bag", "contents": 7}}])).await;
    let unknown = unknown.unwrap_err().to_string();
    assert_eq!(unknown, "commands[0].contents: must be REFUSE_IF_ANY, MOVE_TO_CONTAINER or LEAVE");
    // All in one call: changes by the call itself count.
    assert_eq!(
        game.refused(json!([
            thing("pin", "bag"),
            deleting("pin", "LEAVE"),
            deleting("bag", "REFUSE_IF_ANY")
        ]))
        .await,
        "NOT_EMPTY"
    );
    let emptied = game
        .execute(json!([moving("gem", "r"), moving("coin", "r"), deleting("bag", "REFUSE_IF_ANY")]))
        .await;
    assert_eq!(emptied["results"][2]["events"].as_array().unwrap().len(), 2);
    let gone = game.object("bag").await;
    assert_eq!((&gone["deleted"], gone.get("inventory")), (&json!(true), None));

    game.execute(json!([thing("sack", "r"), thing("nut", "r"), adding("p", "sack"), adding("sack", "nut")]))
        .await;
    let command =
        json!({"command_id": "d", "delete_game_object": {"id": "sack", "contents": "MOVE_TO_CONTAINER"}});
    let answer = game.execute(json!([command.clone()])).await;
    let types = ["GameObjectContainerUpdated", "ItemRemovedFromInventory", "GameObjectDeleted"];
    assert_eq!(event_types(&answer), types);
    assert_eq!(lies_in(&game, "p", &["nut"]).await, ["nut"]);
    let again = game.execute(json!([command])).await;
    assert_eq!(
        (event_types(&again), &again["results"][0]["already_executed"]),
        (types.map(str::to_owned).into(), &json!(true))
    );

    // Contents that are left behind stay, and an object that takes one of them is its only
    // container.
    game.execute(json!([thing("box", "r"), thing("key", "r"), adding("box", "key")])).await;
    game.execute(json!([deleting("box", "LEAVE")])).await;
    assert_eq!(lies_in(&game, "box", &["key"]).await, ["key"]);
    game.execute(json!([adding("p", "key")])).await;
    assert_eq!(game.object("box").await.get("inventory"), None);
    assert!(game.object("p").await["inventory"].to_string().contains("\"key\""));
    assert_eq!(game.rebuild().await.get("damaged_total"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_can_be_moved_stays_where_it_is() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), room("s"), thing("last", "r")])).await;
    for hundred in 0..4 {
        let things: Vec<Value> =
            (0..100).map(|number| thing(&format!("t-{hundred}-{number}"), "s")).collect();
        game.execute(json!(things)).await;
    }
    game.execute(json!([moving("last", "s")])).await;
    let refused = game.try_execute(json!([deleting("s", "MOVE_TO_CONTAINER")])).await.unwrap_err();
    assert_eq!(
        (refused.reason(), refused.to_string().as_str()),
        ("TOO_MUCH_INSIDE", "s: contains more than 400 objects; move some of them first")
    );
    game.execute(json!([moving("last", "r")])).await;
    let answer = game
        .execute(
            json!([{"command_id": "d", "delete_game_object": {"id": "s", "contents": "MOVE_TO_CONTAINER"}}]),
        )
        .await;
    assert_eq!(event_types(&answer).len(), 401);
    let again = game
        .execute(
            json!([{"command_id": "d", "delete_game_object": {"id": "s", "contents": "MOVE_TO_CONTAINER"}}]),
        )
        .await;
    assert_eq!(event_types(&again), event_types(&answer));
    assert!(game.object("t-3-99").await.get("container_id").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_room_reports_who_was_in_it_and_what_leads_there() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), room("s"), room("hall"), player("p"), player("q"), thing("gem", "r")]))
        .await;
    game.execute(json!([exit("s", "up", "r"), exit("s", "down", "hall"), exit("r", "back", "r")])).await;
    game.execute(json!([
        exit("hall", "east", "r"),
        exit("hall", "west", "r"),
        moving("p", "r"),
        moving("q", "r")
    ]))
    .await;
    let deletion = |contents: &str| json!({"command_id": contents, "delete_game_object": {"id": "r", "contents": contents}});
    // Changes by the call itself count: an exit leads elsewhere, and a player comes in.
    let call = json!([exit("hall", "west", "s"), player("late"), moving("late", "r"), deletion("LEAVE")]);
    let answer = game.execute(call).await;
    let told = |answer: &Value, index: usize| {
        let result = &answer["results"][index];
        (result["exits_to_room"].clone(), result["players_in_room"].clone())
    };
    let exits = json!([{"room_id": "hall", "direction": "east"}, {"room_id": "s", "direction": "up"}]);
    assert_eq!(told(&answer, 3), (exits.clone(), json!(["late", "p", "q"])));
    assert_eq!(told(&game.execute(json!([deletion("LEAVE")])).await, 0), (exits, json!(["late", "p", "q"])));

    game.execute(json!([room("t"), exit("s", "in", "t"), moving("p", "t"), thing("pin", "t")])).await;
    let out =
        json!([{"command_id": "out", "delete_game_object": {"id": "t", "contents": "MOVE_TO_CONTAINER"}}]);
    let exits = json!([{"room_id": "s", "direction": "in"}]);
    for _ in 0..2 {
        assert_eq!(told(&game.execute(out.clone()).await, 0), (exits.clone(), json!(["p"])));
    }
    assert_eq!(
        event_types(&game.execute(json!([deleting("gem", "REFUSE_IF_ANY")])).await),
        ["GameObjectDeleted"]
    );
}

/// The table of contents is derived data: it is rebuilt, and where that is impossible, only the
/// commands that query it fail.
#[tokio::test(flavor = "multi_thread")]
async fn the_containment_table_is_rebuilt_and_stops_no_move() {
    let mut service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), room("s"), thing("chest", "r"), thing("gem", "chest")])).await;
    let table = service.storage().join("states/contents.sqlite");
    assert_eq!(game.refused(json!([deleting("chest", "REFUSE_IF_ANY")])).await, "NOT_EMPTY");
    assert!(table.is_file());
    for spoil in 0..3 {
        service.stop();
        match spoil {
            0 => fs::remove_file(&table).unwrap(),
            1 => fs::write(&table, "no database").unwrap(),
            // As it was before the gem was put there.
            _ => {
                let old = rusqlite::Connection::open(&table).unwrap();
                old.execute("DELETE FROM places", []).unwrap();
            }
        }
        service.restart().await;
        let game = Game::of(&service).await;
        if spoil == 2 {
            // A rebuild finds rows that were removed.
            assert_eq!(game.rebuild().await["differences"]["places"], 4);
        }
        assert_eq!(game.refused(json!([deleting("chest", "REFUSE_IF_ANY")])).await, "NOT_EMPTY", "{spoil}");
    }
    service.stop();
    fs::remove_dir_all(service.storage().join("states")).unwrap();
    fs::write(service.storage().join("states"), "no folder").unwrap();
    service.restart().await;
    let game = Game::of(&service).await;
    for contents in ["REFUSE_IF_ANY", "MOVE_TO_CONTAINER"] {
        let refused = game.try_execute(json!([deleting("chest", contents)])).await.unwrap_err();
        assert_eq!(refused.reason(), "READ_MODELS");
    }
    game.execute(json!([moving("chest", "s"), thing("pin", "chest")])).await;
    let stats = service.stats().await;
    let table = stats.projections.iter().find(|projection| projection.name == "contents").unwrap();
    assert!(table.problem.contains("states"), "{}", table.problem);
    game.execute(json!([deleting("chest", "LEAVE")])).await;
    // The table recovers by itself.
    fs::remove_file(service.storage().join("states")).unwrap();
    assert_eq!(game.refused(json!([moving("gem", "s"), deleting("s", "REFUSE_IF_ANY")])).await, "NOT_EMPTY");
    game.execute(json!([moving("gem", "r"), moving("pin", "r"), deleting("s", "REFUSE_IF_ANY")])).await;
}

/// An older log was restored and the table of a newer one stayed: the table contains changes that
/// have not happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_ahead_of_the_log_is_not_believed() {
    let mut service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), thing("chest", "r"), thing("gem", "r")])).await;
    service.stop();
    let (log, copy) = (service.storage().join("log"), service.dir().join("copy"));
    fs::create_dir(&copy).unwrap();
    for file in fs::read_dir(&log).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    service.restart().await;
    let game = Game::of(&service).await;
    game.execute(json!([moving("gem", "chest"), moving("gem", "r"), thing("pin", "r")])).await;
    assert_eq!(game.refused(json!([deleting("r", "REFUSE_IF_ANY")])).await, "NOT_EMPTY");
    service.stop();
    fs::remove_dir_all(&log).unwrap();
    fs::rename(&copy, &log).unwrap();
    fs::remove_dir_all(service.storage().join("index")).unwrap();
    service.restart().await;
    let game = Game::of(&service).await;
    game.execute(json!([moving("gem", "chest")])).await;
    assert_eq!(game.refused(json!([deleting("chest", "REFUSE_IF_ANY")])).await, "NOT_EMPTY");
    // Also when the log has as many events again.
    game.execute(json!([moving("gem", "r"), moving("gem", "chest")])).await;
    assert_eq!(game.refused(json!([deleting("chest", "REFUSE_IF_ANY")])).await, "NOT_EMPTY");
}
