//! The situations in which the documentation's sessions begin.

use std::fs;

use aethyr_event_store::grpc::wire::{NewEvent, State};
use tempfile::{TempDir, tempdir};

use crate::support::{
    events::{append, append_to, event},
    immudb::ImmuDb,
    service::{Service, Setup},
};

/// A system port on which no ImmuDB listens.
const NOBODY: u16 = 1;

/// A service and its environment.
pub struct Situation {
    pub service: Service,
    #[allow(dead_code, reason = "they last as long as the situation")]
    around: (Vec<Service>, Option<(ImmuDb, TempDir)>),
}

impl Situation {
    pub async fn named(name: &str) -> Self {
        match name {
            "local" => local().await,
            "diverged" => diverged().await,
            "nothing diverged" => nothing_diverged().await,
            "emptied" => emptied().await,
            name => panic!("no situation is called {name:?}"),
        }
    }
}

/// A new service whose ImmuDB is not reachable.
async fn local() -> Situation {
    let setup = Setup::with_default_deadlines(NOBODY).set("event_sourcing", "event_files: true");
    let service = Service::start(setup).await;
    service.wait_for_state(State::Fallback).await;
    Situation { service, around: (Vec::new(), None) }
}

/// A stopped service that was fenced by another writer. They share three events; each has two more.
async fn diverged() -> Situation {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let setup = Setup::with_immudb(immudb.port()).set("event_sourcing", "event_files: true");
    let mut service = Service::start(setup.clone()).await;
    append_to(&mut service.client(), "room-1", 3).await;
    service.wait_until_forwarded().await;
    immudb.kill();
    let opened = NewEvent { event_type: "DoorOpened".to_owned(), ..event("room-1") };
    append(&mut service.client(), vec![opened]).await;
    append_to(&mut service.client(), "room-2", 1).await;
    service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    service.kill();
    immudb.restart().await;
    let other = Service::start(setup.arguments(&["serve", "--take-over"])).await;
    append_to(&mut other.client(), "room-3", 1).await;
    other.wait_until_forwarded().await;
    service.launch();
    service.wait_for_state(State::Fenced).await;
    service.stop();
    Situation { service, around: (vec![other], Some((immudb, dir))) }
}

/// A stopped service with pending events. No other writer has used its database.
async fn nothing_diverged() -> Situation {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 3).await;
    service.wait_until_forwarded().await;
    immudb.kill();
    append_to(&mut service.client(), "room-1", 2).await;
    service.kill();
    immudb.restart().await;
    Situation { service, around: (Vec::new(), Some((immudb, dir))) }
}

/// A stopped service whose ImmuDB has lost all data.
async fn emptied() -> Situation {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    append_to(&mut service.client(), "room-1", 5).await;
    service.wait_until_forwarded().await;
    immudb.kill();
    fs::remove_dir_all(dir.path().join("data")).unwrap();
    immudb.restart().await;
    append_to(&mut service.client(), "room-1", 1).await;
    service.wait_for_state(State::Suspect).await;
    service.stop();
    Situation { service, around: (Vec::new(), Some((immudb, dir))) }
}
