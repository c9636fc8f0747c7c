//! Commands are atomic and free of races, and a retry executes them only once.
//!
//! Each command leads to the events that the contract names.

use aethyr_event_store::{
    event::AggregateId,
    grpc::wire::{NewEvent, new_event::Data},
    world::rules::command::{Command, Operation},
};
use futures_util::future::join_all;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Game, HASH, describing, event_types, moving, player, room, thing};
use crate::support::{
    events::{append, event},
    service::{Service, Setup},
};

#[tokio::test(flavor = "multi_thread")]
async fn each_command_leads_to_the_events_of_the_contract() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    let table = [
        (json!({"create_room": {"id": "r", "name": "R"}}), vec!["GameObjectCreated", "RoomCreated"]),
        (json!({"create_room": {"id": "s"}}), vec!["GameObjectCreated", "RoomCreated"]),
        (
            json!({"create_player": {"id": "p", "name": "P", "password_hash": HASH}}),
            vec!["GameObjectCreated", "PlayerCreated"],
        ),
        (thing("t", "r"), vec!["GameObjectCreated"]),
        (
            json!({"update_game_object_attribute": {"id": "t", "key": "w", "value": {"kg": [1, 2.5, null]}}}),
            vec!["GameObjectAttributeUpdated"],
        ),
        (
            json!({"update_game_object_attributes": {"id": "t", "attributes": {"a": true, "b": "x"}}}),
            vec!["GameObjectAttributesUpdated"],
        ),
        (
            json!({"remove_game_object_attribute": {"id": "t", "key": "a"}}),
            vec!["GameObjectAttributeRemoved"],
        ),
        (moving("t", "s"), vec!["GameObjectContainerUpdated"]),
        (
            json!({"update_player_password": {"id": "p", "password_hash": "a".repeat(64)}}),
            vec!["PlayerPasswordUpdated"],
        ),
        (json!({"update_player_admin_status": {"id": "p", "admin": true}}), vec!["PlayerAdminStatusUpdated"]),
        (describing("r", "Trees."), vec!["RoomDescriptionUpdated"]),
        (
            json!({"add_room_exit": {"id": "r", "direction": "north", "target_room_id": "s"}}),
            vec!["RoomExitAdded"],
        ),
        (json!({"remove_room_exit": {"id": "r", "direction": "north"}}), vec!["RoomExitRemoved"]),
        (
            json!({"add_item_to_inventory": {"id": "p", "item_id": "t", "position": [1, 2]}}),
            vec!["ItemAddedToInventory", "GameObjectContainerUpdated"],
        ),
        (json!({"equip_item": {"id": "p", "item_id": "t", "slot": "hand"}}), vec!["ItemEquipped"]),
        (json!({"unequip_item": {"id": "p", "item_id": "t", "slot": "hand"}}), vec!["ItemUnequipped"]),
        (
            json!({"remove_item_from_inventory": {"id": "p", "item_id": "t"}}),
            vec!["ItemRemovedFromInventory", "GameObjectContainerUpdated"],
        ),
        (json!({"delete_game_object": {"id": "t"}}), vec!["GameObjectDeleted"]),
        // A command that changes nothing produces no event.
        (describing("r", "Trees."), vec![]),
    ];
    for (command, expected) in table {
        let answer = game.execute(json!([command])).await;
        assert_eq!(event_types(&answer), expected, "{command}");
    }
    let events = service.stats().await.event_count;
    assert_eq!(events, 23);
    let seen = game.ask("GetPlayer", json!({"id": "p"})).await;
    assert_eq!(seen["player"]["password_hash"], "a".repeat(64));
    assert_eq!(seen["player"]["admin"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_one_call_see_each_other_and_happen_together_or_not_at_all() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    let half = json!([room("r"), thing("t", "r"), moving("t", "nowhere")]);
    assert_eq!(game.refused(half).await, "NO_SUCH_OBJECT");
    assert_eq!(service.stats().await.event_count, 0);
    let whole =
        game.execute(json!([room("r"), thing("t", "r"), describing("r", "x"), moving("t", "")])).await;
    assert_eq!(event_types(&whole).len(), 5);
    let positions: Vec<u64> = (whole["results"].as_array().unwrap().iter())
        .flat_map(|result| result["events"].as_array().unwrap())
        .map(|event| event["position"].as_u64().unwrap())
        .collect();
    assert_eq!(positions, [1, 2, 3, 4, 5]);
    assert_eq!(whole["results"][2]["events"][0]["sequence_number"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_command_again_gets_its_first_answer_again_also_after_a_crash() {
    let mut service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    let create = |id: &str| json!({"command_id": "c-1", "actor": "wizard", "create_room": {"id": id}});
    let first = game.execute(json!([create("r")])).await;
    game.execute(json!([describing("r", "later")])).await;
    service.kill();
    service.restart().await;
    let game = Game::of(&service).await;
    let again = game.execute(json!([create("r"), describing("r", "last")])).await;
    assert_eq!(again["results"][0]["events"], first["results"][0]["events"]);
    assert_eq!(again["results"][0]["already_executed"], true);
    assert_eq!(event_types(&again).len(), 3);
    assert_eq!(game.refused(json!([create("other")])).await, "COMMAND_ID_REUSED");
    // A command without effect is not recorded, so a retry is decided again.
    let same = json!({"command_id": "c-2", "update_room_description": {"id": "r", "description": "last"}});
    assert!(event_types(&game.execute(json!([same])).await).is_empty());
    game.execute(json!([describing("r", "other")])).await;
    assert_eq!(event_types(&game.execute(json!([same])).await), ["RoomDescriptionUpdated"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_executed_changes_nothing_when_it_is_sent_again() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), describing("r", "x"), room("s")])).await;
    let describe = |id: &str, text: &str| json!({"command_id": id, "update_room_description": {"id": "r", "description": text}});
    // The first command has no effect when it is decided, but would have one after the second.
    let call = json!([describe("c-1", "x"), describe("c-2", "y")]);
    let first = game.execute(call.clone()).await;
    assert_eq!(event_types(&first).len(), 1);
    let again = game.execute(call).await;
    assert_eq!(again["results"][1]["events"], first["results"][1]["events"]);
    assert_eq!(again["stored_in"], first["stored_in"]);
    assert_eq!(event_types(&again).len(), 1);
    assert_eq!(game.room("r").await["description"], "y");
    let delete = json!({"command_id": "c-4", "delete_game_object": {"id": "r"}});
    let call = json!([describe("c-3", "y"), delete]);
    let first = game.execute(call.clone()).await;
    assert_eq!(event_types(&game.execute(call).await), event_types(&first));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_command_with_the_id_of_one_that_had_no_effect_is_not_dropped() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    let describe = |id: &str, text: &str| json!({"command_id": id, "update_room_description": {"id": "r", "description": text}});
    game.execute(json!([room("r"), describing("r", "x")])).await;
    let call = json!([describe("c-1", "x"), describe("c-2", "y")]);
    let first = game.execute(call.clone()).await;
    assert_eq!(event_types(&first).len(), 1);
    let refused = game.try_execute(json!([describe("c-1", "z"), describe("c-2", "y")])).await.unwrap_err();
    assert_eq!(refused.reason(), "COMMAND_ID_REUSED");
    assert_eq!(
        refused.to_string(),
        "command id \"c-1\" belongs to a different command that has been executed"
    );
    assert_eq!(game.room("r").await["description"], "y");
    // The refusal names the command with an effect if that is the one that differs.
    let refused = game.try_execute(json!([describe("c-1", "x"), describe("c-2", "z")])).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "command id \"c-2\" belongs to a different command that has been executed"
    );
    let again = game.execute(call).await;
    assert_eq!(again["results"][1]["events"], first["results"][1]["events"]);
    // Nothing is recorded of the command without effect: on its own it is decided again, as the
    // contract says.
    assert_eq!(event_types(&game.execute(json!([describe("c-1", "z")])).await), ["RoomDescriptionUpdated"]);
}

/// In older services, the digest of a call covered only the ids of its commands.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_an_older_service_executed_gets_its_first_answer() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), describing("r", "x")])).await;
    let command = Command {
        id: "c-2".into(),
        actor: String::new(),
        correlation_id: "c-2".into(),
        expected: Default::default(),
        target: AggregateId::new("r").unwrap(),
        operation: Operation::UpdateRoomDescription { description: "y".into() },
    };
    let call = [3u64.to_le_bytes().as_slice(), b"c-1", &3u64.to_le_bytes(), b"c-2"].concat();
    let call: String = hex::encode(Sha256::digest(call)).chars().take(32).collect();
    let mut client = service.client();
    let stored = append(
        &mut client,
        vec![NewEvent {
            event_id: command.event_id(0).to_string(),
            aggregate_id: "r".into(),
            aggregate_type: "Room".into(),
            event_type: "RoomDescriptionUpdated".into(),
            data: Some(Data::Json("{\"description\":\"y\"}".into())),
            correlation_id: "c-2".into(),
            causation_id: "c-2".into(),
            metadata: [
                ("command".into(), "UpdateRoomDescription".into()),
                ("command_digest".into(), command.digest()),
                ("call".into(), call),
            ]
            .into(),
            ..NewEvent::default()
        }],
    )
    .await;
    let describe = |id: &str, text: &str| json!({"command_id": id, "update_room_description": {"id": "r", "description": text}});
    let again = game.execute(json!([describe("c-1", "x"), describe("c-2", "y")])).await;
    assert_eq!(again["results"][0].get("events"), None, "what had no effect has none now");
    assert_eq!(again["results"][0]["already_executed"], true);
    assert_eq!(again["results"][1]["events"][0]["position"], stored.last_position);
    assert_eq!(game.room("r").await["description"], "y");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_makes_no_more_than_an_append_may_have() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r")])).await;
    // One byte on the wire, and six as JSON.
    let texts = (0..40).map(|number| describing("r", &format!("{number}{}", "\u{1}".repeat(140_000))));
    let refused = game.try_execute(texts.collect()).await.unwrap_err().to_string();
    assert!(
        refused.contains("bytes of events; at most 8388608 are allowed; send fewer commands in one call"),
        "{refused}"
    );
    assert_eq!(service.stats().await.event_count, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_command_by_many_at_once_happens_once() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    let command = json!({"command_id": "c", "create_room": {"id": "r", "name": "R"}});
    let answers = join_all((0..20).map(|_| game.execute(json!([command])))).await;
    let new = answers.iter().filter(|answer| answer["results"][0]["already_executed"] != true).count();
    assert_eq!(new, 1);
    assert!(
        answers.iter().all(|answer| answer["results"][0]["events"] == answers[0]["results"][0]["events"])
    );
    assert_eq!(service.stats().await.event_count, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_race_is_decided_again_inside() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), player("p"), player("q"), thing("t", "r")])).await;
    // Two clients move the same item at once, again and again, while another appends to the same
    // aggregate from outside.
    let take = |who: &str| json!([{"add_item_to_inventory": {"id": who, "item_id": "t"}}]);
    for _ in 0..20 {
        let mut client = service.client();
        let outside = async {
            let update = aethyr_event_store::grpc::wire::NewEvent {
                aggregate_type: "GameObject".into(),
                event_type: "GameObjectAttributeUpdated".into(),
                data: Some(aethyr_event_store::grpc::wire::new_event::Data::Json(
                    "{\"key\":\"k\",\"value\":1}".into(),
                )),
                ..event("t")
            };
            append(&mut client, vec![update]).await
        };
        tokio::join!(game.execute(take("p")), game.execute(take("q")), outside);
        let holders: Vec<_> = join_all(["p", "q"].map(|who| game.object(who))).await;
        let holding: Vec<_> =
            holders.iter().filter(|holder| holder["inventory"][0]["item_id"] == "t").collect();
        assert_eq!(holding.len(), 1, "{holders:?}");
        assert_eq!(game.object("t").await["container_id"], holding[0]["id"]);
        game.execute(json!([moving("t", "r")])).await;
    }
    // Many clients change one aggregate at once, and no change is lost.
    let exits = (0..50).map(|number| {
        let exit = json!({"id": "r", "direction": format!("way-{number}"), "target_room_id": "r"});
        game.execute(json!([{ "add_room_exit": exit }]))
    });
    join_all(exits).await;
    assert_eq!(game.room("r").await["exits"].as_object().unwrap().len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_decision_only_looked_at_holds_until_it_is_stored() {
    const ROUNDS: usize = 60;
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), thing("a", "r"), thing("b", "r")])).await;
    for round in 0..ROUNDS {
        // Each command changes an object that the other one reads, and neither changes an object
        // that the other one changes.
        let moves =
            [("a", "b"), ("b", "a")].map(|(id, container)| game.try_execute(json!([moving(id, container)])));
        let moved = join_all(moves).await;
        let refused: Vec<_> = moved.iter().filter_map(|moved| moved.as_ref().err()).collect();
        assert_eq!(refused.len(), 1, "round {round}: one lies in the other, and not both");
        assert_eq!(refused[0].reason(), "CONTAINER_CYCLE");
        let back = json!([moving("a", "r"), moving("b", "r")]);
        game.execute(back).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_depends_on_so_much_and_no_more() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    let ids: Vec<String> = (0..12).map(|number| format!("large-{number}")).collect();
    for id in &ids {
        let attributes = json!({"text": "x".repeat(850_000)});
        let create = json!({"id": id, "type": "Thing", "attributes": attributes});
        game.execute(json!([{ "create_game_object": create }])).await;
    }
    let touching = |ids: &[String]| {
        let touch = |id: &String| json!({"update_game_object_attribute": {"id": id, "key": "k", "value": 1}});
        json!(ids.iter().map(touch).collect::<Vec<_>>())
    };
    let refused = game.try_execute(touching(&ids)).await.unwrap_err().to_string();
    assert!(refused.starts_with("commands: depend on 8"), "{refused}");
    game.execute(touching(&ids[..5])).await;
    let one_more =
        json!([{"update_game_object_attribute": {"id": ids[0], "key": "more", "value": "y".repeat(60_000)}}]);
    assert_eq!(game.refused(one_more).await, "OBJECT_FULL");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expected_sequence_is_held_and_told() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    let expecting = |sequence: u64, text: &str| json!([{"expected_sequence": sequence, "update_room_description": {"id": "r", "description": text}}]);
    game.execute(json!([room("r")])).await;
    let refused = game.try_execute(expecting(1, "x")).await.unwrap_err();
    assert_eq!(refused.reason(), "WRONG_EXPECTED_SEQUENCE");
    assert_eq!(refused.to_string(), "r: expected sequence number 1, actual 2");
    game.execute(expecting(2, "x")).await;
    // Of many commands that expect the same sequence number, one wins.
    let all = join_all((0..10).map(|number| game.try_execute(expecting(3, &number.to_string())))).await;
    assert_eq!(all.iter().filter(|answer| answer.is_ok()).count(), 1);
    let new = json!([{"expected_sequence": 0, "create_room": {"id": "s"}}]);
    game.execute(new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_commands_are_refused_with_the_field_and_change_nothing() {
    let service = Service::start(Setup::local().set("limits", "event_bytes_max: 100000")).await;
    let game = Game::of(&service).await;
    let big = 9_007_199_254_740_993_u64;
    let table = [
        (json!([]), "commands: must not be empty"),
        (json!([{"actor": "x"}]), "commands[0]: has no operation"),
        (json!([{"create_room": {}}]), "commands[0].id: must not be empty"),
        (
            json!([room("r"), {"create_room": {"id": "a\nb"}}]),
            "commands[1].id: must not contain control characters",
        ),
        (
            json!([room("r"), thing("t", "r"), moving("t", "aethyr:audit")]),
            "commands[2].container_id: must not begin with aethyr:, which the service reserves",
        ),
        (
            json!([{"create_game_object": {"id": "t", "type": "a\nb"}}]),
            "commands[0].type: must not contain control characters",
        ),
        (
            json!([{"update_game_object_attribute": {"id": "t", "key": "k"}}]),
            "commands[0].value: has no value",
        ),
        (
            json!([{"update_game_object_attribute": {"id": "t", "key": "k", "value": big}}]),
            "commands[0].value: has a whole number of magnitude 2^53 or more, which is not exact; send it as a string",
        ),
        (
            json!([{"update_game_object_attributes": {"id": "t"}}]),
            "commands[0].attributes: must not be empty",
        ),
        (
            json!([{"create_game_object": {"id": "t", "type": "T", "name": "a", "attributes": {"name": "b"}}}]),
            "commands[0].attributes: the attribute `name` differs from the field `name`",
        ),
        (
            json!([{"command_id": "c", "create_room": {"id": "r"}}, {"command_id": "c", "create_room": {"id": "s"}}]),
            "commands[1].command_id: occurs more than once in this call",
        ),
    ];
    for (commands, expected) in table {
        let refused = game.try_execute(commands.clone()).await.unwrap_err();
        assert_eq!(refused.to_string(), expected, "{commands}");
    }
    let many: Vec<_> = (0..101).map(|number| room(&number.to_string())).collect();
    let refused = game.try_execute(json!(many)).await.unwrap_err();
    assert_eq!(refused.to_string(), "commands: has 101 entries; at most 100 are allowed");
    let huge = describing("r", &"x".repeat(100_001));
    let refused = game.try_execute(json!([room("r"), huge])).await.unwrap_err();
    assert!(refused.to_string().contains("leads to an event of"), "{refused}");
    assert_eq!(service.stats().await.event_count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_neither_taken_in_clear_nor_shown() {
    let service = Service::start(Setup::local().set("logging", "level: trace")).await;
    let game = Game::of(&service).await;
    let clear = "correct horse battery staple";
    for command in [
        json!({"create_player": {"id": "p", "name": "P", "password_hash": clear}}),
        json!({"update_player_password": {"id": "p", "password_hash": clear}}),
    ] {
        let refused = game.try_execute(json!([command])).await.unwrap_err();
        assert!(refused.to_string().contains("never send a password"), "{refused}");
        assert!(!refused.to_string().contains(clear));
    }
    game.execute(json!([{"create_player": {"id": "p", "name": "P", "password_hash": HASH}}])).await;
    let changed = "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b27cWPtkPpN/xnIDdpALw3sCx8";
    game.execute(json!([{"update_player_password": {"id": "p", "password_hash": changed}}])).await;
    let history = game.ask_all("GetHistory", json!({"id": "p"})).await;
    let text = format!("{history:?}");
    assert!(text.contains("password_hash") && !text.contains(HASH) && !text.contains("argon2id"), "{text}");
    for hidden in [clear, HASH, "argon2id"] {
        assert!(!service.log().contains(hidden), "{hidden} is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_of_the_world_is_left_alone() {
    let service = Service::start(Setup::local().set("world", "raw_appends: unchecked")).await;
    let game = Game::of(&service).await;
    let quest = aethyr_event_store::grpc::wire::NewEvent { aggregate_type: "Quest".into(), ..event("quest") };
    // A room whose history does not begin like that of a room of the world.
    let broken = NewEvent { aggregate_type: "Room".into(), ..event("broken") };
    append(&mut service.client(), vec![quest, broken]).await;
    game.execute(json!([room("r"), thing("t", "r")])).await;
    assert_eq!(game.refused(json!([moving("t", "quest")])).await, "NOT_OF_THE_WORLD");
    assert_eq!(game.refused(json!([room("quest")])).await, "NOT_OF_THE_WORLD");
    assert_eq!(game.refused(json!([moving("t", "broken")])).await, "OBJECT_DAMAGED");
    let asked = game.try_ask("GetRoom", json!({"id": "broken"})).await.unwrap_err();
    assert_eq!(asked.to_string(), "broken: event 1: its first event does not create it");
    game.execute(json!([moving("t", "")])).await;
}
