//! A game's own aggregate, command, event and projection, taken from `examples/quests.rs`.
//!
//! The test runs them as a game would, on top of the library.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use aethyr_event_store::{
    config::Config,
    grpc::wire::{LoadSnapshotRequest, StatsRequest, event_store_service_client::EventStoreServiceClient},
    server::{self, ServerOptions},
    world::read_models::projections::{ProjectedEvent, Projection},
};
use futures_util::future::join_all;
use rusqlite::Connection;
use tokio::{net::TcpListener, sync::oneshot};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::support::service::PATIENCE;

#[allow(dead_code, reason = "a program of its own")]
#[path = "../../../examples/quests.rs"]
mod quests;

use quests::{QuestCommand, QuestEvent};

fn config(folder: &Path) -> Config {
    let mut config = Config::default();
    config.event_sourcing.enabled = true;
    config.event_sourcing.log_path = folder.join("log");
    config.event_sourcing.index_path = folder.join("index");
    config.event_sourcing.storage_path = folder.join("events");
    config.world.read_models_path = folder.join("read_models.sqlite");
    config.world.states_path = folder.join("states");
    config.limits.disk_free_min = 0;
    config.proof.key_file = folder.join("keys/checkpoint.key");
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn quests_are_begun_done_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let tables = config.world.read_models_path.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let options = ServerOptions { projections: quests::all_projections, ..ServerOptions::default() };
    let serving = tokio::spawn(server::run(config, options, listener, async { _ = stopped.await }));
    let mut store = EventStoreServiceClient::new(Endpoint::from_shared(address).unwrap().connect_lazy());
    until_it_serves(&mut store).await;

    let begin = QuestCommand::Begin { player_id: "alice".into(), steps: 3 };
    quests::execute(&mut store, "quest-1", &begin).await.unwrap();
    quests::execute(&mut store, "quest-2", &begin).await.unwrap();
    let again = quests::execute(&mut store, "quest-1", &begin).await.unwrap_err();
    assert_eq!((again.code(), again.message()), (Code::FailedPrecondition, "it has begun already"));
    // Twelve clients do the same steps at once; each step is done once.
    let doing = (0..12).map(|number| {
        let (mut store, command) = (store.clone(), QuestCommand::DoStep { step: number % 3 + 1 });
        async move { quests::execute(&mut store, "quest-1", &command).await.unwrap() }
    });
    let done: Vec<QuestEvent> = join_all(doing).await.concat();
    assert_eq!(done.len(), 4);
    assert_eq!(done.iter().filter(|event| **event == QuestEvent::Finished {}).count(), 1);
    quests::execute(&mut store, "quest-2", &QuestCommand::DoStep { step: 2 }).await.unwrap();

    let until = Instant::now() + PATIENCE;
    loop {
        let stats = store.stats(StatsRequest {}).await.unwrap().into_inner();
        let quests = stats.projections.iter().find(|projection| projection.name == "quests").unwrap();
        if quests.lag == 0 {
            break;
        }
        assert!(Instant::now() < until, "the projection does not follow");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    let tables = Connection::open(tables).unwrap();
    let open: Vec<(String, u32)> = tables
        .prepare("SELECT id, steps_done FROM quests")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(open, [("quest-2".to_owned(), 1)]);
}

/// Waits until the service accepts calls: it listens before the log is open.
async fn until_it_serves(store: &mut EventStoreServiceClient<Channel>) {
    let until = Instant::now() + PATIENCE;
    while let Err(refused) = store.load_snapshot(LoadSnapshotRequest { aggregate_id: "none".into() }).await {
        if refused.code() == Code::NotFound {
            return;
        }
        assert!(Instant::now() < until, "it does not serve: {refused}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A game's own projection that contains a mistake.
struct Mistaken;

impl Projection for Mistaken {
    fn name(&self) -> &'static str {
        "mistaken"
    }

    fn version(&self) -> u32 {
        1
    }

    fn aggregate_types(&self) -> &'static [&'static str] {
        &["Quest"]
    }

    fn tables(&self) -> &'static [&'static str] {
        &["mistaken"]
    }

    fn schema(&self) -> &'static str {
        "CREATE TABLE mistaken (position INTEGER NOT NULL PRIMARY KEY)"
    }

    fn apply(&self, rows: &Connection, event: &ProjectedEvent<'_>) -> rusqlite::Result<()> {
        rows.execute("INSERT INTO mistaken VALUES (?1)", [event.recorded.position.0 as i64])?;
        assert_ne!(event.recorded.position.0, 1, "the first quest has no giver");
        Ok(())
    }
}

fn with_a_mistaken_one() -> Vec<Box<dyn Projection>> {
    let mut all = quests::all_projections();
    all.push(Box::new(Mistaken));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projection_that_panics_holds_up_no_other_and_stats_report_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let tables = config.world.read_models_path.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let options = ServerOptions { projections: with_a_mistaken_one, ..ServerOptions::default() };
    let serving = tokio::spawn(server::run(config, options, listener, async { _ = stopped.await }));
    let mut store = EventStoreServiceClient::new(Endpoint::from_shared(address).unwrap().connect_lazy());
    until_it_serves(&mut store).await;
    let begin = QuestCommand::Begin { player_id: "alice".into(), steps: 3 };
    quests::execute(&mut store, "quest-1", &begin).await.unwrap();
    quests::execute(&mut store, "quest-2", &begin).await.unwrap();
    let until = Instant::now() + PATIENCE;
    let projections = loop {
        let projections = store.stats(StatsRequest {}).await.unwrap().into_inner().projections;
        if projections.iter().all(|projection| projection.lag == 0) {
            break projections;
        }
        assert!(Instant::now() < until, "the projections do not follow: {projections:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    for projection in projections {
        let told = projection.problem.contains("at position 1: panicked: ");
        assert_eq!(told, projection.name == "mistaken", "{projection:?}");
    }
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    let tables = Connection::open(tables).unwrap();
    let count = |sql: &str| tables.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM quests"), 2);
    assert_eq!(count("SELECT count(*) FROM mistaken"), 1);
}
