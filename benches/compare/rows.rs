//! What is compared: each row is a system with the settings that it is run with.

pub mod aethyr;
pub mod umadb;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    load::{Draft, Outcome},
    peers::Peers,
    process::{self, Process},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Row {
    AethyrLocal,
    AethyrEventFiles,
    Umadb,
}

impl Row {
    pub const ALL: [Self; 3] = [Self::AethyrLocal, Self::AethyrEventFiles, Self::Umadb];

    /// As it is chosen by `--only`.
    pub fn key(self) -> &'static str {
        match self {
            Self::AethyrLocal => "aethyr-local",
            Self::AethyrEventFiles => "aethyr-event-files",
            Self::Umadb => "umadb",
        }
    }

    /// As a reader of the report sees it.
    pub fn title(self) -> &'static str {
        match self {
            Self::AethyrLocal => "Aethyr, local only",
            Self::AethyrEventFiles => "Aethyr, local only, event files",
            Self::Umadb => "UmaDB",
        }
    }
}

/// A row's servers, running.
pub enum System {
    Aethyr(aethyr::Service),
    Umadb(umadb::Server),
}

impl System {
    /// Starts it on an empty folder.
    pub async fn start(row: Row, peers: &Peers, folder: &Path) -> Outcome<Self> {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.to_string()),
            _ => {}
        }
        let setup = aethyr::Setup {
            program: peers.server.clone(),
            folder: folder.to_owned(),
            event_files: row == Row::AethyrEventFiles,
            immudb_port: None,
        };
        match row {
            Row::AethyrLocal | Row::AethyrEventFiles => {
                Ok(Self::Aethyr(aethyr::Service::start(setup).await?))
            }
            Row::Umadb => Ok(Self::Umadb(umadb::Server::start(&peers.umadb()?, folder).await?)),
        }
    }

    pub async fn clients(&self, count: usize) -> Outcome<Vec<Client>> {
        match self {
            Self::Aethyr(service) => {
                Ok(service.clients(count).await?.into_iter().map(Client::Aethyr).collect())
            }
            Self::Umadb(server) => Ok(server.clients(count).await?.into_iter().map(Client::Umadb).collect()),
        }
    }

    fn processes(&self) -> Vec<&Process> {
        match self {
            Self::Aethyr(service) => vec![&service.process],
            Self::Umadb(server) => vec![&server.process],
        }
    }

    pub fn cpu_seconds(&self) -> f64 {
        self.processes().iter().map(|process| process::cpu_seconds(process.id())).sum()
    }

    pub fn disk_bytes(&self) -> u64 {
        match self {
            Self::Aethyr(service) => process::disk_bytes(service.folder()),
            Self::Umadb(server) => process::disk_bytes(server.folder()),
        }
    }
}

/// One caller's way to a system.
pub enum Client {
    Aethyr(aethyr::Client),
    Umadb(umadb::Client),
}

impl Client {
    /// Makes one append, and gives the aggregate's new version as the system counts it.
    pub async fn append(&mut self, draft: Draft<'_>) -> Outcome<u64> {
        match self {
            Self::Aethyr(client) => client.append(draft).await,
            Self::Umadb(client) => client.append(draft).await,
        }
    }
}
