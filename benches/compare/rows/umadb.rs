//! UmaDB: events with tags, and appends under a condition. An aggregate is a tag, and the condition of an append
//! is that no event with that tag came after the last one that the caller knows.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    load::{
        Draft, Expectation, Outcome,
        grpc::{Call, Connection, frame},
        wire::{Value, find, put_bytes, put_message, put_number},
    },
    process::{Process, free_port},
};

pub struct Server {
    pub process: Process,
    port: u16,
    folder: PathBuf,
}

impl Server {
    /// At its defaults: it syncs twice before each answer.
    pub async fn start(program: &Path, folder: &Path) -> Outcome<Self> {
        fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        let port = free_port()?;
        let mut command = Command::new(program);
        command.current_dir(folder).args(["--listen", &format!("127.0.0.1:{port}"), "--db-path", "data"]);
        let mut process = Process::start("umadb", &mut command, &folder.join("umadb.log"))?;
        let head = Call::new("/umadb.v1.DCB/Head");
        let served =
            async |_: &Process| Connection::open(port).await.ok()?.ask(&head, frame(|_| ())).await.ok();
        process.ready(served).await?;
        Ok(Self { process, port, folder: folder.to_owned() })
    }

    pub async fn clients(&self, count: usize) -> Outcome<Vec<Client>> {
        let connections = Connection::for_callers(self.port, count).await?;
        let append = Call::new("/umadb.v1.DCB/Append");
        Ok(connections.into_iter().map(|connection| Client { connection, append: append.clone() }).collect())
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// One caller's.
pub struct Client {
    connection: Connection,
    append: Call,
}

impl Client {
    /// The version is the position of the aggregate's last event.
    pub async fn append(&mut self, mut draft: Draft<'_>) -> Outcome<u64> {
        let request = frame(|out| {
            for _ in 0..draft.events {
                put_message(out, 1, |event| put_event(event, &mut draft));
            }
            if let Expectation::Version(version) = draft.expectation {
                put_message(out, 2, |condition| {
                    put_message(condition, 1, |query| put_tag_query(query, draft.aggregate));
                    put_number(condition, 2, version);
                });
            }
        });
        let answer = self.connection.ask(&self.append, request).await?;
        Ok(find(&answer, 1).map(Value::number).unwrap_or_default())
    }
}

fn put_event(out: &mut Vec<u8>, draft: &mut Draft<'_>) {
    put_bytes(out, 1, b"RoomCreated");
    put_bytes(out, 2, draft.aggregate.as_bytes());
    put_bytes(out, 3, &draft.payload());
    put_bytes(out, 4, &draft.supply.id());
}

fn put_tag_query(out: &mut Vec<u8>, aggregate: &str) {
    put_message(out, 1, |item| put_bytes(item, 2, aggregate.as_bytes()));
}
