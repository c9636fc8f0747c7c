//! ImmuDB alone: each event is a key, and is written by a `Set` of ImmuDB's own Go client, which
//! runs as a separate program.
//!
//! The database is the default one, or one with the settings that the service uses.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use aethyr_event_store::immudb::Session;
use serde::Deserialize;

use crate::{
    outcome::Outcome,
    peers::run,
    statistics::{Latencies, latencies},
    support::immudb::ImmuDb,
};

/// ImmuDB's limit on concurrent calls of `Set`. The load program waits instead of exceeding it.
pub const IN_FLIGHT_MAX: usize = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    Default,
    /// A database as `src/immudb` creates it.
    ServiceSettings,
}

impl Database {
    fn name(self) -> &'static str {
        match self {
            Self::Default => "defaultdb",
            Self::ServiceSettings => "events",
        }
    }
}

pub struct Server {
    immudb: ImmuDb,
    folder: PathBuf,
    database: Database,
    conditional: bool,
}

/// The parameters of the load program.
#[derive(Clone, Debug)]
pub struct Order {
    pub prefix: String,
    pub callers: usize,
    /// Events per append, or per aggregate.
    pub events: usize,
    pub aggregates: usize,
    pub warm_up: Duration,
    pub length: Duration,
    /// Appends per second. 0 means as fast as possible.
    pub pace: f64,
}

/// The results of the load program.
#[derive(Clone, Debug, Deserialize)]
pub struct Done {
    pub events: u64,
    pub seconds: f64,
    pub cpu_seconds: f64,
    latencies: Option<Vec<u64>>,
}

impl Done {
    pub fn latencies(&self) -> Latencies {
        let mut all = latencies();
        for latency in self.latencies.iter().flatten() {
            all.saturating_record(*latency);
        }
        all
    }
}

impl Server {
    pub async fn start(folder: &Path, database: Database, conditional: bool) -> Outcome<Self> {
        let immudb = ImmuDb::start(folder).await;
        if database == Database::ServiceSettings {
            let settings = immudb.settings(database.name());
            let session = Session::open(&settings).await.map_err(|error| error.to_string())?;
            session.close().await;
        }
        Ok(Self { immudb, folder: folder.to_owned(), database, conditional })
    }

    pub fn process_id(&self) -> Option<u32> {
        self.immudb.process_id()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub async fn run(&self, what: &'static str, order: &Order) -> Outcome<Done> {
        drive(&self.immudb, self.database.name(), self.conditional, what, order).await
    }
}

/// Runs the load program on a database.
pub async fn drive(
    immudb: &ImmuDb,
    database: &str,
    conditional: bool,
    what: &'static str,
    order: &Order,
) -> Outcome<Done> {
    let mut command = Command::new(ImmuDb::load_program());
    let mut set = |name: &str, value: String| _ = command.arg(format!("--{name}={value}"));
    set("port", immudb.port().to_string());
    set("database", database.to_owned());
    set("prefix", order.prefix.clone());
    set("callers", order.callers.to_string());
    set("events", order.events.to_string());
    set("in-flight", IN_FLIGHT_MAX.to_string());
    set("aggregates", order.aggregates.to_string());
    set("conditional", conditional.to_string());
    set("warm-up", order.warm_up.as_secs_f64().to_string());
    set("seconds", order.length.as_secs_f64().to_string());
    set("pace", order.pace.to_string());
    // ImmuDB's client always stores its state in a file.
    command.arg(what).env("TMPDIR", env!("CARGO_TARGET_TMPDIR"));
    let ended = tokio::task::spawn_blocking(move || run(&mut command)).await;
    let line = ended.map_err(|error| error.to_string())??;
    serde_json::from_str(&line).map_err(|error| format!("{what}: {error}"))
}
