//! A game's own aggregate, command, event and projection, as the example has them.

use std::time::{Duration, Instant};

use aethyr_event_store::{
    config::Config,
    grpc::wire::{StatsRequest, event_store_service_client::EventStoreServiceClient},
    server::{self, Options},
};
use futures_util::future::join_all;
use rusqlite::Connection;
use tokio::{net::TcpListener, sync::oneshot};
use tonic::{Code, transport::Endpoint};

use crate::support::service::PATIENCE;

#[allow(dead_code, reason = "a program of its own")]
#[path = "../../../examples/quests.rs"]
mod quests;

use quests::{QuestCommand, QuestEvent};

#[tokio::test(flavor = "multi_thread")]
async fn quests_are_begun_done_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.event_sourcing.enabled = true;
    config.event_sourcing.log_path = folder.path().join("log");
    config.event_sourcing.index_path = folder.path().join("index");
    config.event_sourcing.storage_path = folder.path().join("events");
    config.world.read_models_path = folder.path().join("read_models.sqlite");
    config.limits.disk_free_min = 0;
    let tables = config.world.read_models_path.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let options = Options { projections: quests::all_projections, ..Options::default() };
    let serving = tokio::spawn(server::run(config, options, listener, async { _ = stopped.await }));
    let mut store = EventStoreServiceClient::new(Endpoint::from_shared(address).unwrap().connect_lazy());

    let begin = QuestCommand::Begin { player_id: "alice".into(), steps: 3 };
    quests::execute(&mut store, "quest-1", &begin).await.unwrap();
    quests::execute(&mut store, "quest-2", &begin).await.unwrap();
    let again = quests::execute(&mut store, "quest-1", &begin).await.unwrap_err();
    assert_eq!((again.code(), again.message()), (Code::FailedPrecondition, "it has begun already"));
    // Everybody does the same steps at once; each is done once.
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
