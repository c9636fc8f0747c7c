//! Read models that cannot be opened, written or rebuilt hold up nothing else, are reported, and
//! recover by themselves.

use std::time::Instant;

use aethyr_event_store::grpc::ClientError;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{Game, caught_up, describing, player, room};
use crate::support::service::{PATIENCE, Service, Setup};

const FILE: &str = "models/read_models.sqlite";

fn setup() -> Setup {
    Setup::local().set("world", &format!("read_models_path: {FILE}"))
}

async fn find(game: &Game) -> Result<Value, ClientError> {
    game.try_ask("FindPlayer", json!({"name": "p"})).await
}

/// Asserts that everything works but the queries on the read models.
async fn assert_the_rest_goes_on(service: &Service, game: &Game, text: &str) {
    game.execute(json!([describing("r", text)])).await;
    assert_eq!(game.room("r").await["description"], text);
    assert_eq!(service.health("").await, Some(true));
}

async fn problem(service: &Service) -> String {
    let stats =
        service.wait_for("Stats say what is wrong", |stats| !stats.projections[0].problem.is_empty()).await;
    stats.projections[0].problem.clone()
}

async fn assert_mended(service: &Service, game: &Game) {
    caught_up(service).await;
    service
        .wait_for("Stats say that nothing is wrong", |stats| stats.projections[0].problem.is_empty())
        .await;
    assert_eq!(find(game).await.unwrap()["players"][0]["id"], "p");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_starts_without_a_folder_for_them_and_makes_it_when_it_can() {
    let mut service = Service::new(setup());
    let folder = service.dir().join("models");
    std::fs::write(&folder, "no folder").unwrap();
    service.restart().await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), player("p")])).await;
    assert_the_rest_goes_on(&service, &game, "without").await;
    let refused = find(&game).await.unwrap_err();
    assert_eq!(refused.reason(), "READ_MODELS", "{refused}");
    assert!(problem(&service).await.contains("models"));
    // However often it is retried, the log says so once a minute.
    assert_eq!(service.log().matches("cannot update the read models").count(), 1, "{}", service.log());
    std::fs::remove_file(&folder).unwrap();
    assert_mended(&service, &game).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_starts_while_another_program_has_the_file_for_itself() {
    let mut service = Service::start(setup()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), player("p")])).await;
    caught_up(&service).await;
    service.stop();
    let other = Connection::open(service.dir().join(FILE)).unwrap();
    other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE;").unwrap();
    service.restart().await;
    let game = Game::of(&service).await;
    assert_the_rest_goes_on(&service, &game, "locked").await;
    assert_eq!(find(&game).await.unwrap_err().reason(), "READ_MODELS");
    assert!(problem(&service).await.contains("locked"));
    drop(other);
    assert_mended(&service, &game).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_lock_of_another_program_holds_up_the_projections_and_no_query() {
    let service = Service::start(setup()).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), player("p")])).await;
    caught_up(&service).await;
    let other = Connection::open(service.dir().join(FILE)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_the_rest_goes_on(&service, &game, "locked").await;
    assert!(problem(&service).await.contains("locked"));
    let found = find(&game).await.unwrap();
    assert_eq!(found["read_model_position"], 4, "as they were");
    other.execute_batch("ROLLBACK").unwrap();
    assert_mended(&service, &game).await;
    assert_eq!(find(&game).await.unwrap()["read_model_position"], 5);
    assert_eq!(service.log().matches("cannot update the read models").count(), 1, "{}", service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_read_of_another_program_does_not_fill_the_disk() {
    const MAX: u64 = 1 << 20;
    const TEXT_BYTES: usize = 200_000;
    let service = Service::start(setup().set("world", &format!("read_models_wal_max: {MAX}"))).await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), player("p")])).await;
    caught_up(&service).await;
    let file = service.dir().join(FILE);
    let other = Connection::open(&file).unwrap();
    let rooms = || other.query_row("SELECT count(*) FROM rooms", [], |row| row.get::<_, i64>(0)).unwrap();
    other.execute_batch("BEGIN").unwrap();
    assert_eq!(rooms(), 1);
    let until = Instant::now() + PATIENCE;
    let told = loop {
        let text = fastrand::char('a'..='z').to_string().repeat(TEXT_BYTES);
        let update = json!({"update_game_object_attribute": {"id": "r", "key": "text", "value": text}});
        game.execute(json!([update])).await;
        let told = service.stats().await.projections[0].problem.clone();
        if !told.is_empty() {
            break told;
        }
        assert!(Instant::now() < until, "the write-ahead log has no bound");
    };
    assert!(told.contains("world.read_models_wal_max"), "{told}");
    let wal = service.dir().join(format!("{FILE}-wal"));
    let bytes = || std::fs::metadata(&wal).unwrap().len();
    // The size of one transaction comes on top.
    assert!(bytes() < MAX + (8 << 20), "{}", bytes());
    assert_the_rest_goes_on(&service, &game, "meanwhile").await;
    assert_eq!(find(&game).await.unwrap()["players"][0]["id"], "p");
    assert_eq!(rooms(), 1);
    other.execute_batch("COMMIT").unwrap();
    assert_mended(&service, &game).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_another_service_uses_is_left_to_it() {
    let mut first = Service::start(setup()).await;
    let its_game = Game::of(&first).await;
    its_game.execute(json!([room("first"), player("p")])).await;
    caught_up(&first).await;
    let path = first.dir().join(FILE);
    let second =
        Service::start(Setup::local().set("world", &format!("read_models_path: {}", path.display()))).await;
    let game = Game::of(&second).await;
    game.execute(json!([room("r"), room("s"), player("p")])).await;
    assert_the_rest_goes_on(&second, &game, "without").await;
    let refused = find(&game).await.unwrap_err();
    assert!(refused.to_string().contains("is in use by another service"), "{refused}");
    its_game.execute(json!([describing("first", "as before")])).await;
    caught_up(&first).await;
    assert_eq!(find(&its_game).await.unwrap()["read_model_position"], 5);
    // Nor does the service take over the file when the other one has stopped.
    first.stop();
    second
        .wait_for("Stats say whose it is", |stats| {
            stats.projections[0].problem.contains("was created from another log")
        })
        .await;
    assert!(path.exists());
    std::fs::remove_file(&path).unwrap();
    assert_mended(&second, &game).await;
    let rooms = game.ask("ListGameObjects", json!({"type": "Room"})).await;
    assert_eq!(rooms["game_objects"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_program_is_left_alone() {
    let mut service = Service::new(setup());
    std::fs::create_dir(service.dir().join("models")).unwrap();
    let foreign = Connection::open(service.dir().join(FILE)).unwrap();
    foreign.execute_batch("CREATE TABLE bills (amount INTEGER); INSERT INTO bills VALUES (7)").unwrap();
    service.restart().await;
    let game = Game::of(&service).await;
    game.execute(json!([room("r"), player("p")])).await;
    assert_the_rest_goes_on(&service, &game, "without").await;
    let refused = find(&game).await.unwrap_err();
    assert!(refused.to_string().contains("is a database of another program"), "{refused}");
    service.stop();
    let tables: i64 = foreign.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1);
    let bills: i64 = foreign.query_row("SELECT sum(amount) FROM bills", [], |row| row.get(0)).unwrap();
    assert_eq!(bills, 7);
}
