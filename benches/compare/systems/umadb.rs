//! UmaDB: events with tags, and conditional appends. An aggregate is a tag. The condition of an
//! append is that no event with this tag follows the last one that the caller knows.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;

use crate::{
    draft::{Draft, Expectation},
    grpc::{
        Call, Connection, Messages, frame,
        wire::{Fields, Value, count, find, put_bytes, put_message, put_number},
    },
    outcome::Outcome,
    process::{Process, free_port},
};

pub struct Server {
    pub process: Process,
    port: u16,
    folder: PathBuf,
}

impl Server {
    /// Starts the server with its defaults. It syncs twice before each response.
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
        let methods = Methods {
            append: Call::new("/umadb.v1.DCB/Append"),
            read: Call::new("/umadb.v1.DCB/Read"),
            subscribe: Call::new("/umadb.v1.DCB/Subscribe"),
        };
        Ok(connections
            .into_iter()
            .map(|connection| Client { connection, methods: methods.clone() })
            .collect())
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

#[derive(Clone)]
struct Methods {
    append: Call,
    read: Call,
    subscribe: Call,
}

/// The client of one caller.
pub struct Client {
    connection: Connection,
    methods: Methods,
}

impl Client {
    /// Appends events. The version is the position of the aggregate's last event.
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
        let answer = self.connection.ask(&self.methods.append, request).await?;
        Ok(find(&answer, 1).map(Value::number).unwrap_or_default())
    }

    /// Reads the events with the aggregate's tag.
    pub async fn load(&mut self, aggregate: &str) -> Outcome<u64> {
        let request = frame(|out| put_message(out, 1, |query| put_tag_query(query, aggregate)));
        self.read(request).await
    }

    pub async fn read_all(&mut self) -> Outcome<u64> {
        self.read(frame(|_| ())).await
    }

    /// Reads in batches of the server's default size.
    async fn read(&mut self, request: Bytes) -> Outcome<u64> {
        let mut messages = self.connection.stream(&self.methods.read, request).await?;
        let mut events = 0;
        while let Some(message) = messages.next().await? {
            events += count(&message, 1);
        }
        Ok(events)
    }

    pub async fn follow(&mut self) -> Outcome<Following> {
        let messages = self.connection.stream(&self.methods.subscribe, frame(|_| ())).await?;
        Ok(Following { messages, connection: self.connection.clone() })
    }
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
        for (_, sequenced) in Fields(&message).filter(|(field, _)| *field == 1) {
            let event = find(sequenced.bytes(), 2).map(Value::bytes).unwrap_or_default();
            each(find(event, 3).map(Value::bytes).unwrap_or_default());
        }
        Ok(())
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
