//! The states that the world keeps only make loads faster.
//!
//! A missing or foreign state changes no answer. Snapshots that clients save belong to the clients.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Game, describing, player, room};
use crate::support::service::{Service, Setup};

/// Returns the path at which the state of an object is kept.
fn place(service: &Service, id: &str) -> PathBuf {
    let digest = hex::encode(Sha256::digest(id));
    service.storage().join("states").join(&digest[..2]).join(&digest[2..])
}

/// Waits until the state of an object is kept, and returns its path.
pub async fn kept(service: &Service, id: &str) -> PathBuf {
    let place = place(service, id);
    service.wait_until("a kept state", async || place.exists()).await;
    place
}

/// Creates a room with many events, and returns it.
async fn lived_in(game: &Game, id: &str, last: &str) -> Value {
    game.execute(json!([room(id)])).await;
    for number in 0..105 {
        game.execute(json!([describing(id, &number.to_string())])).await;
    }
    game.execute(json!([describing(id, last)])).await;
    game.room(id).await
}

/// Changes text in a state file and makes the checksum match.
fn forge(path: &PathBuf, from: &str, to: &str) {
    let bytes = fs::read(path).unwrap();
    let (magic, json) = (&bytes[..16], String::from_utf8(bytes[48..].to_vec()).unwrap());
    assert!(json.contains(from), "{json}");
    let json = json.replace(from, to);
    fs::write(path, [magic, &Sha256::digest(&json), json.as_bytes()].concat()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_kept_by_itself_and_only_one_of_this_history_counts() {
    let mut service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    let state = lived_in(&game, "r", "Sunlight.").await;
    let path = kept(&service, "r").await;
    assert_eq!(game.room("r").await, state);
    // The state of a room with the same id and as many events, but from another history.
    let other = Service::start(Setup::local()).await;
    lived_in(&Game::of(&other).await, "r", "Moonlight.").await;
    let foreign = fs::read(kept(&other, "r").await).unwrap();
    let own = fs::read(&path).unwrap();
    for bytes in [foreign, b"rubbish".to_vec(), Vec::new(), own[..own.len() - 1].to_vec()] {
        fs::write(&path, bytes).unwrap();
        assert_eq!(Game::of(&service).await.room("r").await, state);
        service.kill();
        service.restart().await;
        assert_eq!(Game::of(&service).await.room("r").await, state);
    }
    // No restart is needed: states are written all the time.
    fs::rename(service.storage().join("states"), service.storage().join("gone")).unwrap();
    let game = Game::of(&service).await;
    assert_eq!(game.room("r").await, state);
    kept(&service, "r").await;
    // A directory that cannot be written to hinders nothing else.
    service.kill();
    fs::remove_dir_all(service.storage().join("states")).unwrap();
    fs::write(service.storage().join("states"), "").unwrap();
    service.restart().await;
    let game = Game::of(&service).await;
    game.execute(json!([describing("r", "Sunlight falls on moss.")])).await;
    assert_eq!(game.room("r").await["description"], "Sunlight falls on moss.");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_wrong_is_found_out_and_removed() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    let state = lived_in(&game, "r", "Sunlight.").await;
    let path = kept(&service, "r").await;
    forge(&path, "\"name\":\"r\"", "\"name\":\"forged\"");
    assert_eq!(game.room("r").await["object"]["name"], "forged", "the state is used");
    let report = game.rebuild().await;
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("differed from the result of the replay and was removed"), "{report}");
    assert_eq!(game.room("r").await, state);
    assert_eq!(game.rebuild().await.get("warnings"), None);
}

/// Any client may save a snapshot; it belongs to the game alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_saves_is_not_believed_and_not_replaced() {
    let service = Service::start(Setup::local()).await;
    let game = Game::of(&service).await;
    game.execute(json!([player("p")])).await;
    let object = json!({"id": "p", "type": "Player", "generic": "", "container_id": null, "attributes": {"name": "p"},
        "inventory": {}, "equipment": {}, "deleted": false});
    let moment = json!({"seconds": 0, "nanos": 0});
    let invented = json!({"aggregate": {"Player": {"object": object, "created": true, "password_hash": null, "admin": true}},
        "sequence": 2, "created_at": moment, "updated_at": moment});
    let snapshot =
        json!({"aggregate_id": "p", "sequence_number": 2, "schema_version": 1, "json": invented.to_string()});
    game.store("SaveSnapshot", snapshot).await;
    let is_admin =
        async || game.ask("GetPlayer", json!({"id": "p"})).await["player"].get("admin") == Some(&json!(true));
    assert!(!is_admin().await);
    for number in 0..210 {
        let update = json!({"id": "p", "key": "n", "value": number});
        game.execute(json!([{ "update_game_object_attribute": update }])).await;
    }
    kept(&service, "p").await;
    assert!(!is_admin().await);
    let loaded = game.store("LoadSnapshot", json!({"aggregate_id": "p"})).await;
    assert_eq!(loaded["snapshot"]["json"], json!(invented.to_string()));
    assert_eq!(service.stats().await.snapshot_count, 1);
}
