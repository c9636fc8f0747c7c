//! The compared systems: their servers, clients and subscriptions.

pub mod aethyr;
pub mod immudb;
pub mod message_db;
pub mod nats;
pub mod umadb;

use std::path::Path;

use rustix::process::Signal;

use crate::{draft::Draft, outcome::Outcome, peers::Peers, process, row::Row, support::immudb::ImmuDb};

/// The running servers of a row.
pub enum System {
    Aethyr(aethyr::Service),
    Immudb(immudb::Server),
    Umadb(umadb::Server),
    Nats(nats::Server),
    MessageDb(message_db::Server),
}

impl System {
    /// Starts the system in an empty directory.
    pub async fn start(row: Row, peers: &Peers, folder: &Path) -> Outcome<Self> {
        use immudb::Database::{Default, ServiceSettings};
        process::clear_folder(folder)?;
        let plain = async |database, conditional| {
            peers.immudb().await?;
            Ok(Self::Immudb(immudb::Server::start(folder, database, conditional).await?))
        };
        match row {
            Row::AethyrLocal | Row::AethyrEventFiles | Row::AethyrImmudb => {
                Ok(Self::Aethyr(aethyr::Service::start_row(row, peers, folder).await?))
            }
            Row::ImmudbConditional => plain(Default, true).await,
            Row::ImmudbConditionalOurs => plain(ServiceSettings, true).await,
            Row::ImmudbSet => plain(Default, false).await,
            Row::ImmudbSetOurs => plain(ServiceSettings, false).await,
            Row::Umadb => Ok(Self::Umadb(umadb::Server::start(&peers.umadb()?, folder).await?)),
            Row::Nats => Ok(Self::Nats(nats::Server::start(&peers.nats()?, folder).await?)),
            Row::MessageDb => {
                Ok(Self::MessageDb(message_db::Server::start(&peers.message_db()?, folder).await?))
            }
        }
    }

    pub async fn clients(&self, count: usize) -> Outcome<Vec<Client>> {
        fn all<T>(clients: Vec<T>, wrap: fn(T) -> Client) -> Vec<Client> {
            clients.into_iter().map(wrap).collect()
        }
        match self {
            Self::Aethyr(service) => Ok(all(service.clients(count).await?, Client::Aethyr)),
            Self::Umadb(server) => Ok(all(server.clients(count).await?, Client::Umadb)),
            Self::Nats(server) => Ok(all(server.clients(count).await?, Client::Nats)),
            Self::MessageDb(server) => Ok(all(server.clients(count).await?, Client::MessageDb)),
            Self::Immudb(_) => Err("ImmuDB has its own load program".to_owned()),
        }
    }

    fn process_ids(&self) -> Vec<u32> {
        match self {
            Self::Aethyr(service) => {
                let immudb = service.immudb.as_ref().and_then(ImmuDb::process_id);
                [service.process.id()].into_iter().chain(immudb).collect()
            }
            Self::Immudb(server) => server.process_id().into_iter().collect(),
            Self::Umadb(server) => vec![server.process.id()],
            Self::Nats(server) => vec![server.process.id()],
            Self::MessageDb(server) => vec![server.process.id()],
        }
    }

    /// Returns the CPU seconds of all servers since their start.
    pub fn cpu_seconds(&self) -> f64 {
        self.process_ids().into_iter().map(process::cpu_seconds).sum()
    }

    pub fn disk_bytes(&self) -> u64 {
        process::disk_bytes(match self {
            Self::Aethyr(service) => service.folder(),
            Self::Immudb(server) => server.folder(),
            Self::Umadb(server) => server.folder(),
            Self::Nats(server) => server.folder(),
            Self::MessageDb(server) => server.folder(),
        })
    }

    /// Returns whether the system works in the background when it gets no calls. It is then paused
    /// while other systems are measured.
    fn lingers(&self) -> bool {
        matches!(self, Self::Aethyr(service) if service.writes_event_files())
    }

    pub fn sleep(&self) -> Outcome<()> {
        match self {
            Self::Aethyr(service) if self.lingers() => service.process.signal(Signal::STOP),
            _ => Ok(()),
        }
    }

    pub fn wake(&self) -> Outcome<()> {
        match self {
            Self::Aethyr(service) if self.lingers() => service.process.signal(Signal::CONT),
            _ => Ok(()),
        }
    }
}

/// The client of one caller.
pub enum Client {
    Aethyr(aethyr::Client),
    Umadb(umadb::Client),
    Nats(nats::Client),
    MessageDb(message_db::Client),
}

impl Client {
    /// Sends one append. Returns the aggregate's new version, as the system counts versions.
    pub async fn append(&mut self, draft: Draft<'_>) -> Outcome<u64> {
        match self {
            Self::Aethyr(client) => client.append(draft).await,
            Self::Umadb(client) => client.append(draft).await,
            Self::Nats(client) => client.append(draft).await,
            Self::MessageDb(client) => client.append(draft).await,
        }
    }

    /// Returns whether an append failed because of a conflict.
    pub fn is_conflict(&self, problem: &str) -> bool {
        match self {
            // ABORTED.
            Self::Aethyr(_) => problem.starts_with("status 10:"),
            // FAILED_PRECONDITION.
            Self::Umadb(_) => problem.starts_with("status 9:"),
            Self::Nats(_) => problem.contains("wrong last sequence"),
            Self::MessageDb(_) => problem.contains("Wrong expected version"),
        }
    }

    /// Returns the version of the aggregate, if the system's answer to a conflict contains it.
    pub fn version_in(&self, conflict: &str) -> Option<u64> {
        let (marker, added) = match self {
            Self::Aethyr(_) => ("actual ", 0),
            Self::Umadb(_) => return None,
            Self::Nats(_) => ("wrong last sequence: ", 0),
            // It counts from 0.
            Self::MessageDb(_) => ("Stream Version: ", 1),
        };
        let (_, version) = conflict.rsplit_once(marker)?;
        let end = version.find(|one: char| !one.is_ascii_digit()).unwrap_or(version.len());
        version[..end].parse::<u64>().ok().map(|version| version + added)
    }

    /// Loads all events of an aggregate. Returns their number.
    pub async fn load(&mut self, aggregate: &str) -> Outcome<u64> {
        match self {
            Self::Aethyr(client) => client.load(aggregate).await,
            Self::Umadb(client) => client.load(aggregate).await,
            Self::Nats(client) => client.load(aggregate).await,
            Self::MessageDb(client) => client.load(aggregate).await,
        }
    }

    /// Reads all events, of which there are `count`. Returns the number of events that were read.
    pub async fn read_all(&mut self, count: u64) -> Outcome<u64> {
        match self {
            Self::Aethyr(client) => client.read_all().await,
            Self::Umadb(client) => client.read_all().await,
            Self::Nats(client) => client.read_all(count).await,
            Self::MessageDb(client) => client.read_all().await,
        }
    }

    /// Subscribes to events as they are stored.
    pub async fn follow(self) -> Outcome<Following> {
        match self {
            Self::Aethyr(mut client) => Ok(Following::Aethyr(client.follow().await?)),
            Self::Umadb(mut client) => Ok(Following::Umadb(client.follow().await?)),
            Self::Nats(mut client) => Ok(Following::Nats(client.follow().await?)),
            Self::MessageDb(_) => Err("message-db has no subscriptions".to_owned()),
        }
    }
}

/// A subscription.
pub enum Following {
    Aethyr(aethyr::Following),
    Umadb(umadb::Following),
    Nats(nats::Following),
}

impl Following {
    /// Waits for the next events, and calls `each` with the payload of each.
    pub async fn next(&mut self, each: impl FnMut(&[u8])) -> Outcome<()> {
        match self {
            Self::Aethyr(following) => following.next(each).await,
            Self::Umadb(following) => following.next(each).await,
            Self::Nats(following) => following.next(each).await,
        }
    }
}
