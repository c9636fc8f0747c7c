//! Aethyr Event Store: the real program with its default configuration, except for the settings of
//! the row.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use aethyr_event_store::grpc::wire::{State, StatsResponse};
use bytes::Bytes;
use prost::Message;

use crate::{
    draft::{Draft, Expectation},
    grpc::{
        Call, Connection, Messages, frame,
        wire::{Fields, Value, find, put_bytes, put_message, put_number},
    },
    outcome::Outcome,
    peers::{Peers, make_folder},
    process::Process,
    row::Row,
    support::immudb::ImmuDb,
};

const SCHEMA_VERSION: u64 = 1;
const SNAPSHOT_BYTES: usize = 1024;

/// The configuration of a service, apart from defaults.
#[derive(Clone, Debug)]
pub struct Setup {
    pub program: PathBuf,
    pub folder: PathBuf,
    pub event_files: bool,
    pub immudb_port: Option<u16>,
}

impl Setup {
    fn yaml(&self) -> String {
        let mut yaml = format!(
            "server:\n  listen: 127.0.0.1:0\nevent_sourcing:\n  enabled: true\n  event_files: {}\n",
            self.event_files
        );
        if let Some(port) = self.immudb_port {
            yaml.push_str(&format!("immudb:\n  port: {port}\n"));
        }
        yaml
    }
}

pub struct Service {
    pub process: Process,
    /// The ImmuDB server of the row, if it has one.
    pub immudb: Option<ImmuDb>,
    port: u16,
    setup: Setup,
}

impl Service {
    /// Starts the service. If the row has an ImmuDB server, starts that too, and waits until they
    /// are connected.
    pub async fn start_row(row: Row, peers: &Peers, folder: &Path) -> Outcome<Self> {
        let mut immudb = None;
        if row == Row::AethyrImmudb {
            peers.immudb().await?;
            immudb = Some(ImmuDb::start(&folder.join("immudb")).await);
        }
        let setup = Setup {
            program: peers.server.clone(),
            folder: folder.to_owned(),
            event_files: row == Row::AethyrEventFiles,
            immudb_port: immudb.as_ref().map(ImmuDb::port),
        };
        let mut service = Self::start(setup).await?;
        service.immudb = immudb;
        if service.immudb.is_some() {
            service.watcher().await?.wait_for(|stats| stats.state() == State::Connected).await?;
        }
        Ok(service)
    }

    /// Starts the service on the data in its directory, and waits until it listens.
    pub async fn launch(setup: Setup) -> Outcome<Self> {
        make_folder(&setup.folder.join("conf"))?;
        fs::write(setup.folder.join("conf/server.yml"), setup.yaml()).map_err(|error| error.to_string())?;
        let mut command = Command::new(&setup.program);
        for (name, _) in std::env::vars() {
            if name.starts_with("AETHYR_") || name.starts_with("IMMUDB_") {
                command.env_remove(name);
            }
        }
        command.current_dir(&setup.folder).arg("serve");
        let mut process =
            Process::start("aethyr-event-store", &mut command, &setup.folder.join("service.log"))?;
        let port = process.ready(async |process| listening(&process.log())).await?;
        Ok(Self { process, immudb: None, port, setup })
    }

    /// Starts the service, and waits until it answers calls.
    pub async fn start(setup: Setup) -> Outcome<Self> {
        let mut service = Self::launch(setup).await?;
        let port = service.port;
        let answered = async |_: &Process| Watcher::open(port).await.ok()?.stats().await.ok();
        service.process.ready(answered).await?;
        Ok(service)
    }

    /// Stops the service cleanly. Returns its ImmuDB server, and the setup to start it again.
    pub fn stop(self) -> Outcome<(Option<ImmuDb>, Setup)> {
        self.process.stop()?;
        Ok((self.immudb, self.setup))
    }

    /// Kills the service. Returns the setup to start it again.
    pub fn kill(self) -> Setup {
        let setup = self.setup.clone();
        drop(self);
        setup
    }

    pub async fn clients(&self, count: usize) -> Outcome<Vec<Client>> {
        let connections = Connection::for_callers(self.port, count).await?;
        let methods = Methods::new();
        let client = |connection| Client { connection, methods: methods.clone() };
        Ok(connections.into_iter().map(client).collect())
    }

    pub async fn watcher(&self) -> Outcome<Watcher> {
        Watcher::open(self.port).await
    }

    pub fn folder(&self) -> &Path {
        &self.setup.folder
    }

    pub fn writes_event_files(&self) -> bool {
        self.setup.event_files
    }
}

/// A client for `Stats`.
pub struct Watcher {
    connection: Connection,
    stats: Call,
}

impl Watcher {
    async fn open(port: u16) -> Outcome<Self> {
        let stats = Call::new("/aethyr.eventstore.v1.EventStoreService/Stats");
        Ok(Self { connection: Connection::open(port).await?, stats })
    }

    pub async fn stats(&mut self) -> Outcome<StatsResponse> {
        let answer = self.connection.ask(&self.stats, frame(|_| ())).await?;
        StatsResponse::decode(answer).map_err(|error| error.to_string())
    }

    /// Polls until `wanted` returns true.
    pub async fn wait_for(&mut self, wanted: impl Fn(&StatsResponse) -> bool) -> Outcome<StatsResponse> {
        const PATIENCE: Duration = Duration::from_secs(300);
        const POLL: Duration = Duration::from_millis(10);
        let until = Instant::now() + PATIENCE;
        loop {
            let stats = self.stats().await?;
            if wanted(&stats) {
                return Ok(stats);
            }
            if Instant::now() > until {
                return Err(format!("timed out with {stats:?}"));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Parses the port from the log line with the address of the listener.
fn listening(log: &str) -> Option<u16> {
    let line = log.lines().find(|line| line.contains("listening address="))?;
    line.rsplit(':').next()?.trim_end_matches(')').parse().ok()
}

#[derive(Clone)]
struct Methods {
    append: Call,
    load: Call,
    read_all: Call,
    subscribe: Call,
    save_snapshot: Call,
}

impl Methods {
    fn new() -> Self {
        Self {
            append: Call::new("/aethyr.eventstore.v1.EventStoreService/AppendEvents"),
            load: Call::new("/aethyr.eventstore.v1.EventStoreService/LoadEvents"),
            read_all: Call::new("/aethyr.eventstore.v1.EventStoreService/ReadAll"),
            subscribe: Call::new("/aethyr.eventstore.v1.EventStoreService/Subscribe"),
            save_snapshot: Call::new("/aethyr.eventstore.v1.EventStoreService/SaveSnapshot"),
        }
    }
}

/// The client of one caller.
pub struct Client {
    connection: Connection,
    methods: Methods,
}

impl Client {
    /// Appends events. The version is the aggregate's last sequence number.
    pub async fn append(&mut self, mut draft: Draft<'_>) -> Outcome<u64> {
        let request = frame(|out| {
            for _ in 0..draft.events {
                put_message(out, 1, |event| put_event(event, &mut draft));
            }
            if let Expectation::Version(version) = draft.expectation {
                put_message(out, 2, |entry| {
                    put_bytes(entry, 1, draft.aggregate.as_bytes());
                    put_number(entry, 2, version);
                });
            }
        });
        let answer = self.connection.ask(&self.methods.append, request).await?;
        let aggregate = find(&answer, 1).map(Value::bytes).unwrap_or_default();
        let last = find(aggregate, 3).map(Value::number).unwrap_or_default();
        match draft.expectation {
            Expectation::Version(version) if last != version + draft.events as u64 => {
                Err(format!("{}: {last} after {version} and {} events", draft.aggregate, draft.events))
            }
            _ => Ok(last),
        }
    }

    pub async fn load(&mut self, aggregate: &str) -> Outcome<u64> {
        let request = frame(|out| put_bytes(out, 1, aggregate.as_bytes()));
        Ok(self.read(false, request).await?.events)
    }

    /// Loads an aggregate from its newest snapshot, which must exist.
    pub async fn load_from_snapshot(&mut self, aggregate: &str) -> Outcome<u64> {
        let request = frame(|out| {
            put_bytes(out, 1, aggregate.as_bytes());
            put_number(out, 5, 1);
            put_number(out, 6, SCHEMA_VERSION);
        });
        let found = self.read(false, request).await?;
        if found.snapshot { Ok(found.events) } else { Err(format!("{aggregate}: no snapshot")) }
    }

    pub async fn read_all(&mut self) -> Outcome<u64> {
        Ok(self.read(true, frame(|_| ())).await?.events)
    }

    /// Returns the mean size of an aggregate's events in a response.
    pub async fn encoded_event_bytes(&mut self, aggregate: &str) -> Outcome<f64> {
        let found = self.read(false, frame(|out| put_bytes(out, 1, aggregate.as_bytes()))).await?;
        Ok(found.event_bytes as f64 / found.events as f64)
    }

    async fn read(&mut self, everything: bool, request: Bytes) -> Outcome<Found> {
        let (call, events) = if everything { (&self.methods.read_all, 1) } else { (&self.methods.load, 2) };
        let mut messages = self.connection.stream(call, request).await?;
        let mut found = Found::default();
        while let Some(message) = messages.next().await? {
            for (field, value) in Fields(&message) {
                if field == events
                    && let Value::Bytes(event) = value
                {
                    found.events += 1;
                    found.event_bytes += event.len() as u64;
                } else if field == 1 && !everything {
                    found.snapshot = true;
                }
            }
        }
        Ok(found)
    }

    pub async fn save_snapshot(&mut self, aggregate: &str, sequence: u64) -> Outcome<()> {
        let request = frame(|out| {
            put_bytes(out, 1, aggregate.as_bytes());
            put_number(out, 2, sequence);
            put_bytes(out, 4, &[0x5a; SNAPSHOT_BYTES]);
            put_number(out, 5, SCHEMA_VERSION);
        });
        self.connection.ask(&self.methods.save_snapshot, request).await.map(drop)
    }

    pub async fn follow(&mut self) -> Outcome<Following> {
        let messages = self.connection.stream(&self.methods.subscribe, frame(|_| ())).await?;
        Ok(Following { messages, connection: self.connection.clone() })
    }
}

#[derive(Debug, Default)]
struct Found {
    events: u64,
    event_bytes: u64,
    snapshot: bool,
}

/// A subscription, from the first event on.
pub struct Following {
    messages: Messages,
    #[expect(dead_code, reason = "the stream ends with its connection")]
    connection: Connection,
}

impl Following {
    pub async fn next(&mut self, mut each: impl FnMut(&[u8])) -> Outcome<()> {
        let message = self.messages.next().await?.ok_or("the subscription ended")?;
        let batch = find(&message, 1).map(Value::bytes).unwrap_or_default();
        for (_, event) in Fields(batch).filter(|(field, _)| *field == 1) {
            each(find(event.bytes(), 6).map(Value::bytes).unwrap_or_default());
        }
        Ok(())
    }
}

fn put_event(out: &mut Vec<u8>, draft: &mut Draft<'_>) {
    put_bytes(out, 1, &draft.supply.id());
    put_bytes(out, 2, draft.aggregate.as_bytes());
    put_bytes(out, 3, b"Place");
    put_bytes(out, 4, b"RoomCreated");
    put_bytes(out, if draft.json { 5 } else { 6 }, &draft.payload());
}
