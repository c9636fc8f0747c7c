//! Aethyr Event Store itself: the real program with its default configuration, but for what the row says.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use aethyr_event_store::grpc::wire::StatsResponse;
use prost::Message;

use crate::{
    load::{
        Draft, Expectation, Outcome,
        grpc::{Call, Connection, frame},
        wire::{Value, find, put_bytes, put_message, put_number},
    },
    process::Process,
};

/// How a service is configured, beside the defaults.
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
    port: u16,
    setup: Setup,
}

impl Service {
    /// Starts on what is in its folder, and waits until it listens.
    pub async fn launch(setup: Setup) -> Outcome<Self> {
        fs::create_dir_all(setup.folder.join("conf")).map_err(|error| error.to_string())?;
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
        Ok(Self { process, port, setup })
    }

    /// Starts, and waits until it serves.
    pub async fn start(setup: Setup) -> Outcome<Self> {
        let mut service = Self::launch(setup).await?;
        let port = service.port;
        let served = async |_: &Process| {
            Connection::open(port).await.ok()?.ask(&Self::stats_call(), frame(|_| ())).await.ok()
        };
        service.process.ready(served).await?;
        Ok(service)
    }

    pub async fn clients(&self, count: usize) -> Outcome<Vec<Client>> {
        let connections = Connection::for_callers(self.port, count).await?;
        let methods = Methods::new();
        Ok(connections
            .into_iter()
            .map(|connection| Client { connection, methods: methods.clone() })
            .collect())
    }

    pub async fn stats(&self) -> Outcome<StatsResponse> {
        let answer = Connection::open(self.port).await?.ask(&Self::stats_call(), frame(|_| ())).await?;
        StatsResponse::decode(answer).map_err(|error| error.to_string())
    }

    pub fn folder(&self) -> &Path {
        &self.setup.folder
    }

    fn stats_call() -> Call {
        Call::new("/aethyr.eventstore.v1.EventStoreService/Stats")
    }
}

/// The port out of the log line that says where it listens.
fn listening(log: &str) -> Option<u16> {
    let line = log.lines().find(|line| line.contains("listening address="))?;
    line.rsplit(':').next()?.trim_end_matches(')').parse().ok()
}

#[derive(Clone)]
struct Methods {
    append: Call,
}

impl Methods {
    fn new() -> Self {
        Self { append: Call::new("/aethyr.eventstore.v1.EventStoreService/AppendEvents") }
    }
}

/// One caller's.
pub struct Client {
    connection: Connection,
    methods: Methods,
}

impl Client {
    /// The version is the aggregate's last sequence number.
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
}

fn put_event(out: &mut Vec<u8>, draft: &mut Draft<'_>) {
    put_bytes(out, 1, &draft.supply.id());
    put_bytes(out, 2, draft.aggregate.as_bytes());
    put_bytes(out, 3, b"Room");
    put_bytes(out, 4, b"RoomCreated");
    put_bytes(out, 6, &draft.payload());
}
