//! The walk through the game world that `docs/world` prints.
//!
//! The test makes the printed calls, and checks what they leave in the world and in the tables.

use std::path::Path;

use serde_json::{Value, json};

use super::{Game, caught_up, read_models};
use crate::{
    documents::{markdown::Page, transcript::steps},
    support::service::{Service, Setup},
};

/// Returns the calls of a page in their order: the method and the request.
fn printed(page: &str) -> Vec<(String, Value)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = Page::read(root, &root.join(page));
    let sessions = page.blocks.iter().filter(|block| block.is_session());
    let commands = sessions.flat_map(|session| steps(&session.lines)).map(|step| step.command);
    let calls = commands.filter(|command| command.starts_with("grpcurl "));
    calls.map(|call| (method(&call), request(&call))).collect()
}

fn method(call: &str) -> String {
    call.split_whitespace().find(|word| word.starts_with("aethyr.")).unwrap().to_owned()
}

fn request(call: &str) -> Value {
    let request = match call.split_once("<<'JSON'\n") {
        Some((_, here)) => here.trim_end().strip_suffix("JSON").unwrap(),
        None => call.split_once("-d '").map_or("{}", |(_, data)| data.split_once('\'').unwrap().0),
    };
    serde_json::from_str(request).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_leads_where_the_pages_say() {
    let calls = ["docs/world/commands.md", "docs/world/queries.md"].map(printed).concat();
    assert!(calls.len() >= 8, "{calls:?}");
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    for (method, request) in calls {
        caught_up(&service).await;
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
            "ListContents" | "ListGameObjects" => {
                assert_eq!(last["game_objects"].as_array().unwrap().len(), 1);
                assert_eq!(last["game_objects"][0]["id"], "sword-1");
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
