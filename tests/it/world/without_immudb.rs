//! The world continues during an outage of ImmuDB.
//!
//! Afterwards, everything that happened in the world is in ImmuDB.

use aethyr_event_store::grpc::wire::State;
use serde_json::json;
use tempfile::tempdir;

use super::{Game, HASH, describing, moving, player, room, thing};
use crate::support::{
    events::whole_order,
    immudb::ImmuDb,
    service::{Service, Setup},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_in_an_outage_is_in_immudb_afterwards() {
    let folder = tempdir().unwrap();
    let mut immudb = ImmuDb::start(folder.path()).await;
    let service = Service::start(Setup::with_immudb(immudb.port())).await;
    service.wait_for_state(State::Connected).await;
    let game = Game::of(&service).await;
    let connected = game.execute(json!([room("r"), player("p")])).await;
    assert_eq!(connected["stored_in"], "STORED_IN_IMMUDB");
    immudb.kill();
    let alone = game.execute(json!([thing("t", "r"), describing("r", "Dark.")])).await;
    assert_eq!(alone["stored_in"], "STORED_IN_LOCAL_LOG");
    game.execute(json!([moving("t", "p"), {"update_player_password": {"id": "p", "password_hash": HASH}}]))
        .await;
    assert_eq!(game.room("r").await["description"], "Dark.");
    let as_of = json!({"id": "r", "as_of": {"sequence_number": 2}});
    assert_eq!(game.ask("GetRoom", as_of).await["room"].get("description"), None);
    assert_eq!(game.rebuild().await["aggregates"], 3);
    immudb.restart().await;
    service.wait_until_forwarded().await;
    let events = whole_order(&mut service.client()).await;
    let stored = immudb.reader(&["--database", "aethyr", "scan", "event:"]);
    assert_eq!(stored.len(), events.len());
    assert_eq!(stored.len(), 8);
    let snapshot = game.execute(json!([describing("r", "Light.")])).await;
    assert_eq!(snapshot["stored_in"], "STORED_IN_IMMUDB");
    // While the service started, the read models only waited.
    assert_eq!(service.stats().await.load_failures, 0);
}
