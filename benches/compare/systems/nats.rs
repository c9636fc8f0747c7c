//! NATS JetStream with `sync_interval: always`. By default, it syncs every two minutes.
//!
//! One stream contains all events. An aggregate is a subject, and its version is the stream
//! sequence number of the subject's last message. Several events in one call are an atomic batch.

mod protocol;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use protocol::{Connection, Message, put_parts};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::{
    draft::{Draft, Expectation},
    outcome::Outcome,
    process::{Process, free_port},
};

const CONFIGURATION: &str = "jetstream {
  store_dir: data
  sync_interval: always
  max_memory_store: 64MB
  max_file_store: 100GB
  limits { batch { max_inflight_per_stream: 1000 } }
}
";
const STREAM: &str = r#"{"name":"EVENTS","subjects":["event.>"],"storage":"file","num_replicas":1,
    "retention":"limits","discard":"new","allow_direct":true,"allow_atomic":true}"#;
/// Messages per page when a subject is read.
const PAGE: u64 = 1000;

pub struct Server {
    pub process: Process,
    port: u16,
    folder: PathBuf,
}

impl Server {
    pub async fn start(program: &Path, folder: &Path) -> Outcome<Self> {
        fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        let port = free_port()?;
        let configuration = format!("listen: 127.0.0.1:{port}\n{CONFIGURATION}");
        fs::write(folder.join("server.conf"), configuration).map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.current_dir(folder).args(["-c", "server.conf"]);
        let mut process = Process::start("nats-server", &mut command, &folder.join("nats.log"))?;
        let ready = async |process: &Process| process.log().contains("Server is ready").then_some(());
        process.ready(ready).await?;
        let server = Self { process, port, folder: folder.to_owned() };
        let mut client = server.clients(1).await?.remove(0);
        client.api("$JS.API.STREAM.CREATE.EVENTS", STREAM).await?;
        Ok(server)
    }

    /// Opens one connection per 16 callers, as for systems with a gRPC API.
    pub async fn clients(&self, count: usize) -> Outcome<Vec<Client>> {
        const SHARING: usize = 16;
        let mut clients = Vec::new();
        let mut connection = Connection::open(self.port).await?;
        for caller in 0..count {
            if caller > 0 && caller % SHARING == 0 {
                connection = Connection::open(self.port).await?;
            }
            clients.push(Client::new(connection.clone(), caller as u64 + 1));
        }
        Ok(clients)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The client of one caller.
pub struct Client {
    connection: Connection,
    id: u64,
    inbox: String,
    answers: UnboundedReceiver<Message>,
    batches: u64,
}

impl Client {
    fn new(connection: Connection, id: u64) -> Self {
        let inbox = format!("_INBOX.{:016x}", fastrand::u64(..));
        let answers = connection.subscribe(&inbox, id);
        Self { connection, id, inbox, answers, batches: 0 }
    }

    async fn answer(&mut self) -> Outcome<Message> {
        self.answers.recv().await.ok_or("connection closed".to_owned())
    }

    async fn api(&mut self, subject: &str, body: &str) -> Outcome<Message> {
        self.connection.publish(subject, &self.inbox, body.as_bytes());
        let answer = self.answer().await?;
        if answer.payload.windows(8).any(|part| part == b"\"error\":") || answer.status().is_some() {
            return Err(format!("{subject}: {}", String::from_utf8_lossy(&answer.payload)));
        }
        Ok(answer)
    }

    /// Appends events. The version is the stream sequence number of the aggregate's last event.
    pub async fn append(&mut self, mut draft: Draft<'_>) -> Outcome<u64> {
        self.batches += 1;
        let batch = format!("{}.{}", self.id, self.batches);
        let inbox = &self.inbox;
        self.connection.send(|out| {
            for number in 1..=draft.events {
                put_publication(out, &mut draft, inbox, &batch, number);
            }
        });
        let answer = self.answer().await?;
        let text = std::str::from_utf8(&answer.payload).unwrap_or_default();
        let sequence = text.split("\"seq\":").nth(1).filter(|_| !text.contains("\"error\""));
        let digits = sequence.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
        digits.ok_or_else(|| format!("not stored: {text} {}", String::from_utf8_lossy(&answer.headers)))
    }

    /// Loads events with batched direct gets, the documented way to read a subject without a
    /// consumer.
    pub async fn load(&mut self, aggregate: &str) -> Outcome<u64> {
        let (mut events, mut next) = (0, 1);
        loop {
            let body = format!(r#"{{"seq":{next},"next_by_subj":"event.{aggregate}","batch":{PAGE}}}"#);
            self.connection.publish("$JS.API.DIRECT.GET.EVENTS", &self.inbox, body.as_bytes());
            let end = loop {
                let message = self.answer().await?;
                match message.status() {
                    None => events += 1,
                    Some(204) => break message,
                    Some(status) => return Err(format!("event.{aggregate}: status {status}")),
                }
            };
            let number = |name| end.header(name).and_then(|value| value.parse().ok()).unwrap_or(0u64);
            if number("Nats-Num-Pending") == 0 {
                return Ok(events);
            }
            next = number("Nats-Last-Sequence") + 1;
        }
    }

    /// Reads with an ordered push consumer with flow control.
    pub async fn read_all(&mut self, count: u64) -> Outcome<u64> {
        let mut following = self.consume("all").await?;
        let mut events = 0;
        while events < count {
            following.next(|_| events += 1).await?;
        }
        Ok(events)
    }

    /// Subscribes to new events.
    pub async fn follow(&mut self) -> Outcome<Following> {
        self.consume("new").await
    }

    async fn consume(&mut self, from: &str) -> Outcome<Following> {
        let subject = format!("_INBOX.{:016x}", fastrand::u64(..));
        let messages = self.connection.subscribe(&subject, self.id + 1_000_000);
        let name = format!("c{:016x}", fastrand::u64(..));
        let body = format!(
            r#"{{"stream_name":"EVENTS","config":{{"name":"{name}","deliver_policy":"{from}","ack_policy":"none",
            "deliver_subject":"{subject}","flow_control":true,"idle_heartbeat":5000000000,"mem_storage":true,
            "num_replicas":1,"inactive_threshold":300000000000,"max_deliver":1}}}}"#
        );
        self.api(&format!("$JS.API.CONSUMER.CREATE.EVENTS.{name}"), &body).await?;
        Ok(Following { connection: self.connection.clone(), messages })
    }
}

/// A subscription.
pub struct Following {
    connection: Connection,
    messages: UnboundedReceiver<Message>,
}

impl Following {
    pub async fn next(&mut self, mut each: impl FnMut(&[u8])) -> Outcome<()> {
        loop {
            let message = self.messages.recv().await.ok_or("connection closed")?;
            if message.status().is_none() {
                each(&message.payload);
                return Ok(());
            }
            // The server sends a flow control request. A heartbeat may repeat an unanswered one.
            let reply = std::str::from_utf8(&message.reply).unwrap_or_default();
            let question =
                if reply.is_empty() { message.header("Nats-Consumer-Stalled").unwrap_or("") } else { reply };
            if !question.is_empty() {
                self.connection.publish(question, "", b"");
            }
        }
    }
}

/// Writes the publication of one event. The last event of a batch commits it, and only this one is
/// answered.
fn put_publication(out: &mut Vec<u8>, draft: &mut Draft<'_>, inbox: &str, batch: &str, number: usize) {
    let mut headers = Vec::with_capacity(256);
    put_parts(&mut headers, &[b"NATS/1.0\r\nNats-Msg-Id: ", &draft.supply.id(), b"\r\n"]);
    if let (Expectation::Version(version), 1) = (draft.expectation, number) {
        let version = version.to_string();
        put_parts(&mut headers, &[b"Nats-Expected-Last-Subject-Sequence: ", version.as_bytes(), b"\r\n"]);
    }
    let last = number == draft.events;
    if draft.events > 1 {
        let number = number.to_string();
        put_parts(&mut headers, &[b"Nats-Batch-Id: ", batch.as_bytes(), b"\r\n"]);
        put_parts(&mut headers, &[b"Nats-Batch-Sequence: ", number.as_bytes(), b"\r\n"]);
        put_parts(&mut headers, &[if last { b"Nats-Batch-Commit: 1\r\n" } else { b"" }]);
    }
    headers.extend_from_slice(b"\r\n");
    let payload = draft.payload();
    let sizes = format!("{} {}", headers.len(), headers.len() + payload.len());
    let reply = if last { inbox } else { "" };
    put_parts(out, &[b"HPUB event.", draft.aggregate.as_bytes(), b" ", reply.as_bytes(), b" "]);
    put_parts(out, &[sizes.as_bytes(), b"\r\n", &headers, &payload, b"\r\n"]);
}
