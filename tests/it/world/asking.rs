//! The command line as a user types it: commands and queries of the world, and the output that they
//! print.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

use serde_json::{Value, json};

use super::{Game, HASH, describing, room};
use crate::support::service::{Service, Setup};

/// Returns the output of a command that must succeed.
fn output(service: &Service, arguments: &[&str]) -> String {
    let address = format!("127.0.0.1:{}", service.port());
    let mut all = arguments.to_vec();
    all.extend(["--address", &address]);
    let done = service.command(&all).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_world_is_made_out_of_a_file_and_looked_at() {
    let service = Service::start(Setup::local()).await;
    let file = service.dir().join("world.jsonl");
    let lines = [
        "# a small world".to_owned(),
        json!([{"actor": "wizard", "create_room": {"id": "r", "name": "Hall"}}, {"create_room": {"id": "s"}}]).to_string(),
        json!({"createPlayer": {"id": "p", "name": "Pat", "passwordHash": HASH}}).to_string(),
        String::new(),
        json!({"addRoomExit": {"id": "r", "direction": "up", "targetRoomId": "s"}}).to_string(),
    ];
    fs::write(&file, lines.join("\n")).unwrap();
    let path = file.to_str().unwrap();
    let said = output(&service, &["execute", path]);
    assert!(said.starts_with("executed 4 commands in ") && said.contains(" s, 7 events"), "{said}");
    let object: Value = serde_json::from_str(&output(&service, &["object", "r"])).unwrap();
    assert_eq!((&object["name"], &object["exits"]), (&json!("Hall"), &json!({"up": "s"})));
    let object: Value = serde_json::from_str(&output(&service, &["object", "r", "--at", "2"])).unwrap();
    assert_eq!(object.get("exits"), None);
    let hostile = "wi\u{202e}zard";
    let line =
        json!({"actor": hostile, "create_game_object": {"id": "h", "type": "thing", "name": "Ham\u{202e}"}})
            .to_string();
    fs::write(&file, line).unwrap();
    output(&service, &["execute", path]);
    for command in [&["events", "h"][..], &["events", "h", "--json"], &["object", "h"]] {
        let shown = output(&service, command);
        assert!(shown.contains("\\u202e") && !shown.contains('\u{202e}'), "{command:?}: {shown}");
    }
    let player = output(&service, &["object", "p"]);
    assert!(player.contains("\"Pat\"") && player.contains("***") && !player.contains(HASH), "{player}");
    let events = output(&service, &["events", "r"]);
    assert!(
        events.contains("GameObjectCreated  by wizard") && events.contains("exits.up: \"s\""),
        "{events}"
    );
    let stored = output(&service, &["events", "r", "--json", "--from", "3"]);
    let stored: Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored["event_type"], "RoomExitAdded");
    assert!(output(&service, &["stats"]).contains("event_count: 8"));
    let stats: Value = serde_json::from_str(&output(&service, &["stats", "--json"])).unwrap();
    assert_eq!(stats["aggregate_count"], 4);
    let watched = output(&service, &["watch", "--interval", "0.1", "--count", "3"]);
    assert_eq!(watched.lines().count(), 4, "{watched}");
    assert!(output(&service, &["rebuild"]).contains("replayed 4 aggregates with 8 events"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_refused_is_named_and_those_before_it_stay() {
    let service = Service::start(Setup::local()).await;
    let address = format!("127.0.0.1:{}", service.port());
    let file = service.dir().join("world.jsonl");
    let lines = [room("r"), describing("nowhere", "x"), room("s")].map(|line| line.to_string());
    fs::write(&file, lines.join("\n")).unwrap();
    let path = file.to_str().unwrap();
    let (succeeded, said) = service.run(&["execute", path, "--address", &address]);
    assert!(!succeeded);
    assert!(
        said.contains("line 2: nowhere: does not exist (the previous lines have been executed)"),
        "{said}"
    );
    assert_eq!(service.stats().await.aggregate_count, 1);
    let (succeeded, said) = service.run(&["execute", path, "--keep-going", "--address", &address]);
    assert!(!succeeded && said.contains("failed lines: 2"), "{said}");
    assert_eq!(service.stats().await.aggregate_count, 2);
    let folder = service.dir().to_str().unwrap();
    let (succeeded, said) = service.run(&["execute", folder, "--keep-going", "--address", &address]);
    assert!(!succeeded && said.contains("failed lines: 1"), "{said}");
    let (succeeded, said) = service.run(&["events", "r", "--from", "50", "--address", &address]);
    assert!(succeeded && said.is_empty(), "{said}");
    let (succeeded, said) = service.run(&["object", "nobody", "--address", &address]);
    assert!(!succeeded && said.contains("nobody: does not exist"), "{said}");
    let (succeeded, said) = service.run(&["object", "r", "--at", "yesterday"]);
    assert!(!succeeded && said.contains("neither a sequence number nor an RFC 3339 time"), "{said}");
    let (succeeded, said) = service.run(&["stats", "--address", "127.0.0.1:1"]);
    assert!(!succeeded && said.contains("127.0.0.1:1: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_followed_as_they_arrive() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), room("r-2")])).await;
    let address = format!("127.0.0.1:{}", service.port());
    let mut following = service
        .command(&["events", "r", "--follow", "--from", "2", "--address", &address])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().contains("RoomCreated"));
    for number in 0..3 {
        game.execute(json!([describing("r-2", &number.to_string())])).await;
        game.execute(json!([describing("r", &number.to_string())])).await;
        assert!(next().contains("RoomDescriptionUpdated"));
        assert!(next().contains(&format!("\"{number}\"")));
    }
    following.kill().unwrap();
    following.wait().unwrap();
}
