//! The walk-through of the README, as it is printed there.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{Game, caught_up, read_models};
use crate::support::service::{Service, Setup};

/// The calls of a section: the method and the request, in their order.
fn printed(readme: &str, from: &str, until: &str) -> Vec<(String, Value)> {
    let (_, section) = readme.split_once(from).unwrap();
    let (section, _) = section.split_once(until).unwrap();
    let mut calls = Vec::new();
    let mut lines = section.lines();
    while let Some(line) = lines.next() {
        let Some(call) = line.strip_prefix("    $ grpcurl -plaintext ") else { continue };
        let method = call.split_whitespace().find(|word| word.contains('/')).unwrap().to_owned();
        let request = if call.ends_with("<<'JSON'") {
            lines.by_ref().take_while(|line| line.trim() != "JSON").collect()
        } else if let Some((_, data)) = call.split_once("-d '") {
            data.split_once('\'').unwrap().0.to_owned()
        } else {
            "{}".to_owned()
        };
        calls.push((method, serde_json::from_str(&request).unwrap()));
    }
    calls
}

#[tokio::test(flavor = "multi_thread")]
async fn it_leads_where_the_readme_says() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let calls = printed(&readme, "\n## The game world\n", "\n### Read models\n");
    assert!(calls.len() >= 8, "{calls:?}");
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    for (method, request) in calls {
        let (name, call) = method.rsplit_once('/').unwrap();
        let last = match name.rsplit_once('.').unwrap().1 {
            "CommandService" => game.execute(request["commands"].clone()).await,
            _ => game.ask_all(call, request).await.pop().unwrap(),
        };
        match call {
            "GetHistory" => {
                let entry = last["entries"].as_array().unwrap().last().unwrap();
                assert_eq!(entry["sequence_number"], 5);
                let change = json!({
                    "field": "description",
                    "before": "Trees, and a patch of sky.",
                    "after": "Sunlight falls on moss."
                });
                assert_eq!(entry["changes"], json!([change]));
            }
            "GetRoom" => {
                assert_eq!(last["room"]["object"]["sequence_number"], 2);
                assert_eq!(last["room"].get("description"), None);
            }
            "RebuildWorldState" => assert_eq!(last["report"]["events"], 10),
            _ => assert_eq!(call, "ExecuteCommands"),
        }
    }
    assert_eq!(game.object("sword-1").await["container_id"], "alice");
    assert_eq!(game.room("clearing").await["object"]["name"], "Forest Clearing");
    caught_up(&service).await;
    let tables = read_models(&service);
    let count: i64 = tables.query_row("select count(*) from rooms", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
    let of_alice = "select count(*) from activity where actor = 'alice'";
    assert_eq!(tables.query_row(of_alice, [], |row| row.get::<_, i64>(0)).unwrap(), 2);
}
