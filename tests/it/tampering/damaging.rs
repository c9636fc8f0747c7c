//! A byte of one of ImmuDB's files is changed while ImmuDB is stopped.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aethyr_event_store::grpc::wire::{RecordedEvent, State, StatsResponse, StoredIn};
use tempfile::tempdir;

use super::findings::{self, HEADER_MISMATCH, WRONG_ANSWER};
use crate::support::{
    events::{append, append_to, event, whole_order},
    immudb::{ImmuDb, other_client::OtherClient},
    service::{Service, Setup},
};

/// What the damage has to lead to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// ImmuDB cannot read it.
    Error,
    /// ImmuDB serves it, and it contradicts what is known.
    Tampered,
    /// ImmuDB may repair it, or never read it.
    Any,
}

/// The files of a database, with the outcome if their last byte changes: the end of the last value,
/// which is the head; of the last transaction; of the hash of that transaction; of the length and
/// the hash of the last leaf in the tree over all transactions; of the tree's last node; and of the
/// index.
const FILES: [(&str, Outcome); 7] = [
    ("val_0", Outcome::Error),
    ("tx", Outcome::Error),
    ("commit", Outcome::Error),
    ("aht/commit", Outcome::Error),
    ("aht/data", Outcome::Any),
    ("aht/tree", Outcome::Tampered),
    ("index", Outcome::Any),
];

/// A service with a database of its own, so that ImmuDB is stopped only once for all files.
struct Damaged {
    file: &'static str,
    outcome: Outcome,
    database: String,
    service: Service,
    order: Vec<RecordedEvent>,
}

impl Damaged {
    async fn begin(immudb: &ImmuDb, file: &'static str, outcome: Outcome) -> Self {
        let database = format!("damaged_{}", file.replace('/', "_"));
        let setup = Setup::with_immudb(immudb.port())
            .set("immudb", "keep_alive: 90.0")
            .set("immudb", "retry_delay: 0.1")
            .set("immudb", "retry_delay_max: 0.5")
            .set("immudb", &format!("database: {database}"));
        let service = Service::start(setup).await;
        append_to(&mut service.client(), "room-1", 2).await;
        // The last node of a tree with a power of two of leaves is its root.
        let other = OtherClient::log_in(immudb, &database).await;
        while !other.last().await.is_power_of_two() {
            append_to(&mut service.client(), "room-1", 1).await;
        }
        service.wait_until_forwarded().await;
        let order = whole_order(&mut service.client()).await;
        Self { file, outcome, database, service, order }
    }

    fn damage(&self, immudb: &ImmuDb) {
        let database = immudb.data().join(&self.database);
        let folders: Vec<PathBuf> = match self.file {
            "index" => {
                let is_index = |path: &PathBuf| {
                    path.file_name().unwrap().to_str().is_some_and(|name| name.starts_with("index"))
                };
                entries(&database).into_iter().filter(is_index).collect()
            }
            file => vec![database.join(file)],
        };
        let files: Vec<PathBuf> = folders.iter().flat_map(|folder| files(folder)).collect();
        assert!(!files.is_empty(), "{} has no files", self.file);
        for path in files {
            let mut bytes = fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(path, bytes).unwrap();
        }
    }

    /// Appends an event. Asserts that it is served from the local log, and that the damage has its
    /// outcome. Ends the service: each attempt to open a damaged database costs ImmuDB 100 MiB.
    async fn check(self, immudb: &ImmuDb) {
        let (file, service) = (self.file, &self.service);
        let answer = append(&mut service.client(), vec![event("room-1")]).await;
        let order = whole_order(&mut service.client()).await;
        assert_eq!(order[..self.order.len()], self.order, "{file}");
        assert_eq!(order.len(), self.order.len() + 1, "{file}");
        if self.outcome == Outcome::Any && answer.stored_in() == StoredIn::Immudb {
            let other = OtherClient::log_in(immudb, &self.database).await;
            assert_eq!(other.transaction_of(order.last().unwrap()).await, Some(answer.immudb_tx), "{file}");
            return;
        }
        assert_eq!(answer.stored_in(), StoredIn::LocalLog, "{file}");
        let names_damage = |stats: &StatsResponse| {
            stats.immudb.as_ref().is_some_and(|immudb| immudb.last_error.contains("corrupt"))
        };
        let stats = match self.outcome {
            Outcome::Error => service.wait_for("an error that names the damage", names_damage).await,
            Outcome::Tampered => service.wait_for_state(State::Tampered).await,
            Outcome::Any => {
                let is_noticed = |stats: &StatsResponse| {
                    names_damage(stats) || matches!(stats.state(), State::Tampered | State::Suspect)
                };
                service.wait_for("a sign of the damage", is_noticed).await
            }
        };
        assert_ne!(stats.pending_events, 0, "{file}");
        if self.outcome == Outcome::Tampered {
            let open = findings::open(service);
            let is_its = |kind: &str| [HEADER_MISMATCH, WRONG_ANSWER].contains(&kind);
            assert!(open.iter().any(|found| is_its(&found.kind)), "{open:#?}");
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Returns the files that are not empty, at any depth.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in entries(folder) {
        if path.is_dir() {
            found.extend(files(&path));
        } else if fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_byte_in_any_file_of_immudb_is_served_to_nobody() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let mut all = Vec::new();
    for (file, outcome) in FILES {
        all.push(Damaged::begin(&immudb, file, outcome).await);
    }
    immudb.stop().await;
    for damaged in &all {
        damaged.damage(&immudb);
    }
    immudb.restart().await;
    for damaged in all {
        damaged.check(&immudb).await;
    }
}
