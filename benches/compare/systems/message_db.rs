//! message-db: an event store that consists of PostgreSQL functions.
//!
//! It runs in a private PostgreSQL cluster with default settings, including `fsync` and
//! `synchronous_commit`. Each caller has its own connection.

mod postgres;

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use postgres::Connection;
use rustix::process::Signal;

use crate::{
    draft::{Draft, Expectation},
    outcome::Outcome,
    peers::{MessageDbPrograms, run},
    process::{Process, free_port},
    supply::PAYLOAD_BYTES,
};

const DATABASE: &str = "message_store";
const USER: &str = "postgres";
const CONNECTIONS_MAX: usize = 300;
const WRITE: &str =
    "SELECT write_message($1::varchar, $2::varchar, $3::varchar, $4::jsonb, NULL, $5::bigint)";
const WRITE_ANY: &str = "SELECT write_message($1::varchar, $2::varchar, $3::varchar, $4::jsonb)";
const LOAD: &str = "SELECT * FROM get_stream_messages($1::varchar, $2::bigint, $3::bigint)";
const READ: &str = "SELECT global_position, id, stream_name, type, position, data, metadata, time FROM \
                    get_category_messages($1::varchar, $2::bigint, $3::bigint)";
/// The default batch size of both read functions.
const PAGE: u64 = 1000;
/// The part of a stream name before the hyphen. Writes to streams of one category are serialized.
const CATEGORY: &str = "room";

pub struct Server {
    pub process: Process,
    port: u16,
    folder: PathBuf,
}

impl Server {
    pub async fn start(programs: &MessageDbPrograms, folder: &Path) -> Outcome<Self> {
        fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        // PostgreSQL refuses to run as root.
        let user = ordinary_user()?;
        if let Some((uid, gid)) = user {
            chown(folder, Some(uid), Some(gid)).map_err(|error| error.to_string())?;
        }
        let command = |program: &str| {
            let mut command = Command::new(programs.postgres.join(program));
            command.current_dir(folder);
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };
        run(command("initdb").args([
            "-D",
            "data",
            "-U",
            USER,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-instructions",
        ]))?;
        let port = free_port()?;
        let mut server = command("postgres");
        server.args(["-D", "data", "-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        server.args(["-c", "unix_socket_directories=", "-c", &format!("max_connections={CONNECTIONS_MAX}")]);
        let log = folder.join("postgres.log");
        let mut process = Process::start("postgres", &mut server, &log)?.ended_by(Signal::INT);
        process.ready(async |_| Connection::open(port, USER, "postgres").await.ok()).await?;
        let mut install = Command::new(programs.scripts.join("install.sh"));
        install.current_dir(&programs.scripts).env("PGHOST", "127.0.0.1").env("PGPORT", port.to_string());
        install.env("PGUSER", USER).env("DATABASE_NAME", DATABASE);
        run(&mut install)?;
        Ok(Self { process, port, folder: folder.to_owned() })
    }

    pub async fn clients(&self, count: usize) -> Outcome<Vec<Client>> {
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut connection = Connection::open(self.port, USER, DATABASE).await?;
            for (name, statement) in [("write", WRITE), ("any", WRITE_ANY), ("load", LOAD), ("read", READ)] {
                connection.prepare(name, statement).await?;
            }
            clients.push(Client { connection });
        }
        Ok(clients)
    }

    /// Updates the planner's statistics. PostgreSQL does this automatically, but only some minutes
    /// after many writes.
    pub async fn analyze(&self) -> Outcome<()> {
        let mut connection = Connection::open(self.port, USER, DATABASE).await?;
        connection.prepare("analyze", "ANALYZE message_store.messages").await?;
        connection.execute("analyze", &[]);
        connection.sync().await.map(drop)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Returns the user to run PostgreSQL as, if this process runs as root.
fn ordinary_user() -> Outcome<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").map_err(|error| error.to_string())?;
    let find = |name: &str| {
        let fields: Vec<&str> = users
            .lines()
            .map(|line| line.split(':').collect())
            .find(|fields: &Vec<&str>| fields[0] == name)?;
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody")).map(Some).ok_or("no user to run PostgreSQL as".to_owned())
}

/// The client of one caller.
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Appends events. The version is the number of events in the stream.
    pub async fn append(&mut self, mut draft: Draft<'_>) -> Outcome<u64> {
        let stream = format!("{CATEGORY}-{}", draft.aggregate);
        for number in 0..draft.events {
            let (id, data) = (draft.supply.id(), json(&draft.payload(), draft.json));
            let parameters: [&[u8]; 4] = [&id, stream.as_bytes(), b"RoomCreated", data.as_bytes()];
            match draft.expectation {
                Expectation::Version(version) => {
                    // message-db counts from 0. It expects -1 for a stream that does not exist.
                    let expected = (version as i64 + number as i64 - 1).to_string();
                    let [id, stream, kind, data] = parameters;
                    self.connection.execute("write", &[id, stream, kind, data, expected.as_bytes()]);
                }
                Expectation::None => self.connection.execute("any", &parameters),
            }
        }
        let answer = self.connection.sync().await?;
        let position: u64 =
            std::str::from_utf8(&answer.last).ok().and_then(|text| text.parse().ok()).ok_or("no position")?;
        Ok(position + 1)
    }

    pub async fn load(&mut self, aggregate: &str) -> Outcome<u64> {
        let stream = format!("{CATEGORY}-{aggregate}");
        let mut events = 0;
        loop {
            let (from, page) = (events.to_string(), PAGE.to_string());
            self.connection.execute("load", &[stream.as_bytes(), from.as_bytes(), page.as_bytes()]);
            let rows = self.connection.sync().await?.rows;
            events += rows;
            if rows < PAGE {
                return Ok(events);
            }
        }
    }

    /// Reads the category, which contains all events here.
    pub async fn read_all(&mut self) -> Outcome<u64> {
        let (mut events, mut from) = (0, 1u64);
        loop {
            let (start, page) = (from.to_string(), PAGE.to_string());
            self.connection.execute("read", &[CATEGORY.as_bytes(), start.as_bytes(), page.as_bytes()]);
            let answer = self.connection.sync().await?;
            events += answer.rows;
            if answer.rows < PAGE {
                return Ok(events);
            }
            let last = std::str::from_utf8(&answer.last).ok().and_then(|text| text.parse::<u64>().ok());
            from = last.ok_or("no position")? + 1;
        }
    }
}

/// message-db accepts only JSON, so the payload is a string of the same length: random base64.
fn json(payload: &[u8; PAYLOAD_BYTES], is_json: bool) -> String {
    if is_json {
        return String::from_utf8_lossy(payload).into_owned();
    }
    format!("{{\"payload\":\"{}\"}}", STANDARD.encode(&payload[..PAYLOAD_BYTES / 4 * 3]))
}
