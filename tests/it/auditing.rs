//! The auditor finds what no commit shows: values that were damaged or changed after they had been
//! written, and what was there before the first contact.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aethyr_event_store::{
    grpc::wire::{
        AuditStats, RecordedEvent, SaveSnapshotRequest, State, StatsResponse, StoredIn, save_snapshot_request,
    },
    immudb::{KeyValue, Session},
};
use bytes::Bytes;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::{
    copy::copy_folder,
    support::{
        events::{append, append_to, event, whole_order},
        immudb::{ImmuDb, other_client::OtherClient},
        service::{Service, Setup},
        stored::key_of,
    },
};

const DATABASE: &str = "aethyr";

/// A round of any test takes less than a second.
const FAST: &str = "events_per_second: 1000000";
/// Minutes for a round of [`MANY`] events.
const SLOW: &str = "events_per_second: 4";
const MANY: usize = 1000;

/// A service whose events are all in ImmuDB.
struct Story {
    immudb: ImmuDb,
    service: Service,
    setup: Setup,
    /// Removed after ImmuDB has ended, which writes to it.
    _dir: TempDir,
}

impl Story {
    async fn begin(pace: &str, events: usize) -> Self {
        let dir = tempdir().unwrap();
        let immudb = ImmuDb::start(dir.path()).await;
        let setup = Setup::with_immudb(immudb.port()).set("immudb", "keep_alive: 90.0").set("audit", pace);
        let service = Service::start(setup.clone()).await;
        append_to(&mut service.client(), "room-1", events).await;
        service.wait_until_forwarded().await;
        Self { immudb, service, setup, _dir: dir }
    }

    async fn other(&self) -> OtherClient {
        OtherClient::log_in(&self.immudb, DATABASE).await
    }

    /// Returns the number of the transaction that wrote the key.
    async fn transaction_of(&self, key: &str) -> u64 {
        let transactions = self.other().await.transactions().await;
        let has_key = |entries: &[(Bytes, Bytes)]| entries.iter().any(|(found, _)| found == key.as_bytes());
        transactions.iter().rfind(|transaction| has_key(&transaction.entries)).unwrap().header.id.0
    }

    /// Changes a byte of these values in ImmuDB's files, while both programs are stopped. Returns
    /// the numbers of their transactions. Starts ImmuDB again.
    async fn damage(&mut self, keys: &[String]) -> Vec<u64> {
        let (mut transactions, mut values) = (Vec::new(), Vec::new());
        for key in keys {
            transactions.push(self.transaction_of(key).await);
            values.push(self.other().await.value(key).await);
        }
        assert!(self.service.stop().success());
        self.immudb.stop().await;
        for value in values {
            change_a_byte(&self.immudb.data().join(DATABASE).join("val_0"), &value);
        }
        self.immudb.restart().await;
        transactions
    }

    /// Waits for a whole round over everything that ImmuDB has now.
    async fn wait_for_round(&self) -> AuditStats {
        let last = self.other().await.last().await;
        let is_whole = |audit: &AuditStats| {
            audit.finished_at.is_some()
                && audit.transaction == audit.last_transaction
                && audit.last_transaction >= last
        };
        wait_for_audit(&self.service, "a whole round", is_whole).await
    }

    /// Asserts that the service is connected and goes on.
    async fn assert_connected(&self) {
        assert_eq!(self.service.wait_until_forwarded().await.state(), State::Connected);
        let answer = append(&mut self.service.client(), vec![event("room-1")]).await;
        assert_eq!(answer.stored_in(), StoredIn::Immudb);
    }
}

/// A finding, as `findings --json` prints it.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    kind: String,
    transaction: Option<u64>,
    key: Option<String>,
}

impl Found {
    fn new(kind: &str, transaction: u64, key: &str) -> Self {
        Self { kind: kind.to_owned(), transaction: Some(transaction), key: Some(key.to_owned()) }
    }
}

fn findings(service: &Service) -> Vec<Found> {
    let output = service.command(&["findings", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = |line: &str| {
        let found: Value = serde_json::from_str(line).unwrap();
        Found {
            kind: found["kind"].as_str().unwrap().to_owned(),
            transaction: found["transaction"].as_u64(),
            key: found["key"].as_str().map(str::to_owned),
        }
    };
    String::from_utf8(output.stdout).unwrap().lines().map(found).collect()
}

async fn wait_for_audit(service: &Service, what: &str, wanted: impl Fn(&AuditStats) -> bool) -> AuditStats {
    let is_wanted = |stats: &StatsResponse| stats.audit.as_ref().is_some_and(&wanted);
    service.wait_for(what, is_wanted).await.audit.unwrap()
}

/// Returns whether a round has begun, and most of it is still to come. The first rounds may have
/// few events.
fn is_midway(audit: &AuditStats) -> bool {
    audit.transaction >= 20 && audit.transaction + 50 < audit.last_transaction
}

async fn wait_for_finding(service: &Service, expected: &Found) {
    service.wait_until(&format!("{expected:?}"), async || findings(service).contains(expected)).await;
}

/// Returns the key of an event.
fn key(aggregate: &str, sequence_number: u64) -> String {
    let aggregate_id = aggregate.to_owned();
    key_of(&RecordedEvent { aggregate_id, sequence_number, ..RecordedEvent::default() })
}

/// Changes the last byte of a value, which has to be there once.
fn change_a_byte(folder: &Path, value: &[u8]) {
    let mut changed = 0;
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<PathBuf>>() {
        let mut bytes = fs::read(&path).unwrap();
        let places: Vec<usize> = bytes
            .windows(value.len())
            .enumerate()
            .filter(|(_, part)| *part == value)
            .map(|(at, _)| at)
            .collect();
        for at in &places {
            bytes[at + value.len() - 1] ^= 1;
        }
        changed += places.len();
        fs::write(path, bytes).unwrap();
    }
    assert_eq!(changed, 1, "places of the value");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_history_gives_a_whole_round_and_no_finding() {
    let story = Story::begin(FAST, 30).await;
    let mut client = story.service.client();
    append(&mut client, (0..100).map(|_| event("room-2")).collect()).await;
    let snapshot = SaveSnapshotRequest {
        aggregate_id: "room-1".to_owned(),
        sequence_number: 30,
        data: Some(save_snapshot_request::Data::Json("{}".to_owned())),
        ..SaveSnapshotRequest::default()
    };
    client.save_snapshot(snapshot).await.unwrap();
    story.service.wait_until_forwarded().await;
    let audit = story.wait_for_round().await;
    assert_eq!(audit.events_checked, 130, "{audit:?}");
    assert_eq!(audit.last_error, "");
    assert_eq!(findings(&story.service).len(), 0);
    story.assert_connected().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_goes_on_behind_a_restart() {
    let mut story = Story::begin(SLOW, MANY).await;
    let before = wait_for_audit(&story.service, "a part of a round", is_midway).await;
    assert!(story.service.stop().success());
    story.service.restart().await;
    let after = story.service.stats().await.audit.unwrap();
    assert_eq!(after.round, before.round, "{after:?}");
    assert!(after.transaction >= before.transaction, "{before:?} {after:?}");
    assert!(after.started_at == before.started_at && after.started_at.is_some(), "{before:?} {after:?}");

    // With another pace, the same round ends.
    assert!(story.service.stop().success());
    story.service.reconfigure(story.setup.clone().set("audit", FAST));
    story.service.restart().await;
    story.wait_for_round().await;
    assert_eq!(findings(&story.service).len(), 0);
    // The place is that of one database.
    assert!(story.service.stop().success());
    let place = fs::read_to_string(story.service.storage().join("log.audit")).unwrap();
    assert!(place.contains(DATABASE), "{place}");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_pace_0_there_is_no_audit() {
    let story = Story::begin("events_per_second: 0", 5).await;
    let audit = story.service.stats().await.audit.unwrap_or_default();
    assert_eq!((audit.round, audit.transaction), (0, 0));
    assert!(!story.service.storage().join("log.audit").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_damaged_value_is_reported_with_its_key_and_the_round_goes_on_behind_it() {
    let mut story = Story::begin(FAST, 10).await;
    // Several values in one transaction, of which one is damaged.
    append(&mut story.service.client(), (0..5).map(|_| event("room-2")).collect()).await;
    append_to(&mut story.service.client(), "room-1", 5).await;
    story.service.wait_until_forwarded().await;
    let keys = [key("room-1", 3), key("room-1", 7), key("room-2", 4)];
    let transactions = story.damage(&keys).await;
    story.service.restart().await;
    for (key, transaction) in keys.iter().zip(&transactions) {
        wait_for_finding(&story.service, &Found::new("damaged", *transaction, key)).await;
    }
    let audit = story.wait_for_round().await;
    assert!(audit.events_checked >= 18, "{audit:?}");
    // It is reported, and stops nothing.
    story.assert_connected().await;
    let found = findings(&story.service);
    assert_eq!(found.len(), keys.len(), "{found:?}");
    assert_eq!(whole_order(&mut story.service.client()).await.len(), 21);
}

/// The database in which a copy of the log of [`stopped_twin`] is.
const TWINS: &str = "twins";

/// Returns a stopped service whose log is in a database that it has never seen. At the first
/// contact, everything there is trusted.
async fn stopped_twin(story: &Story) -> Service {
    let mut twin = Service::start(Setup::local()).await;
    append_to(&mut twin.client(), "room-1", 5).await;
    assert!(twin.stop().success());
    // Another service replicates the same log, and releases the database.
    let mut other = Service::new(story.setup.clone().set("immudb", &format!("database: {TWINS}")));
    copy_folder(&twin.storage(), other.dir());
    other.restart().await;
    other.wait_until_forwarded().await;
    assert!(other.stop().success());
    twin
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_overwritten_together_with_the_head_before_the_first_contact_is_found() {
    let story = Story::begin("events_per_second: 0", 1).await;
    let mut twin = stopped_twin(&story).await;
    let other = OtherClient::log_in(&story.immudb, TWINS).await;
    let head = other.value("log:head").await;
    let forged = other.set(&[(key("room-1", 2).into(), "forged".into()), ("log:head".into(), head)]).await;
    let setup = story.setup.clone().set("immudb", &format!("database: {TWINS}")).set("audit", FAST);
    twin.reconfigure(setup);
    twin.restart().await;
    twin.wait_for_state(State::Tampered).await;
    wait_for_finding(&twin, &Found::new("record_differs", forged, &key("room-1", 2))).await;
    let answer = append(&mut twin.client(), vec![event("room-1")]).await;
    assert_eq!(answer.stored_in(), StoredIn::LocalLog);

    // What an operator has accepted is found no more.
    assert!(twin.stop().success());
    let (done, said) = twin.run(&["resolve", "--accept-findings", "1", "--because", "a test did it"]);
    assert!(done, "{said}");
    twin.restart().await;
    twin.wait_until_forwarded().await;
    let last = other.last().await;
    let is_whole =
        |audit: &AuditStats| audit.transaction == audit.last_transaction && audit.last_transaction >= last;
    wait_for_audit(&twin, "a whole round", is_whole).await;
    assert_eq!(twin.wait_until_forwarded().await.open_findings, 0);
    assert_eq!(findings(&twin).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_rebuilt_with_another_record_is_found() {
    let story = Story::begin("events_per_second: 0", 1).await;
    let mut twin = stopped_twin(&story).await;
    let transactions = OtherClient::log_in(&story.immudb, TWINS).await.transactions().await;
    let rebuilt = Session::open(&story.immudb.settings("rebuilt")).await.unwrap();
    let mut changed = 0;
    for transaction in &transactions {
        let mut entries = Vec::new();
        for (name, value) in &transaction.entries {
            let mut value = value.to_vec();
            if *name == key("room-1", 3) {
                *value.last_mut().unwrap() ^= 1;
                changed = transaction.header.id.0;
            }
            entries.push(KeyValue { key: name.clone(), value: value.into() });
        }
        rebuilt.set(entries, Vec::new()).await.unwrap();
    }
    rebuilt.close().await;
    twin.reconfigure(story.setup.clone().set("immudb", "database: rebuilt").set("audit", FAST));
    twin.restart().await;
    wait_for_finding(&twin, &Found::new("record_differs", changed, &key("room-1", 3))).await;
    twin.wait_for_state(State::Tampered).await;
    assert_eq!(findings(&twin).len(), 1, "{:?}", findings(&twin));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_pauses_in_a_fallback_and_goes_on_after_it() {
    let mut story = Story::begin(SLOW, MANY).await;
    wait_for_audit(&story.service, "a part of a round", is_midway).await;
    story.immudb.kill();
    append_to(&mut story.service.client(), "room-1", 1).await;
    story.service.wait_for_state(State::Fallback).await;
    let paused = story.service.stats().await.audit.unwrap();
    assert!(paused.transaction < paused.last_transaction, "{paused:?}");
    story.immudb.restart().await;
    story.service.wait_until_forwarded().await;
    let goes_on = |audit: &AuditStats| audit.round == paused.round && audit.transaction > paused.transaction;
    let audit = wait_for_audit(&story.service, "the same round goes on", goes_on).await;
    assert_eq!(audit.started_at, paused.started_at);
    assert_eq!(findings(&story.service).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_ends_in_front_of_a_damaged_value_and_says_what_is_damaged() {
    let mut story = Story::begin("events_per_second: 0", 10).await;
    let order = whole_order(&mut story.service.client()).await;
    let damaged = key("room-1", 6);
    let transaction = story.damage(std::slice::from_ref(&damaged)).await[0];
    fs::remove_dir_all(story.service.storage()).unwrap();

    story.service.launch();
    let says_what = |stats: &StatsResponse| {
        let error = &stats.immudb.as_ref().unwrap().last_error;
        error.contains(&format!("transaction {transaction}"))
            && error.contains(&damaged)
            && error.contains("position 5 of 10")
            && error.contains("--copy-until-damage")
    };
    let stats = story.service.wait_for("the damage is named", says_what).await;
    assert_eq!(stats.state(), State::Copying);
    assert_eq!(story.service.health("").await, Some(false));

    // The operator gives the rest up.
    story.service.kill();
    story.service.reconfigure(story.setup.clone().arguments(&["serve", "--copy-until-damage"]));
    story.service.restart().await;
    let mut client = story.service.client();
    assert_eq!(whole_order(&mut client).await, order[..5]);
    story.service.wait_for_state(State::Suspect).await;
    wait_for_finding(&story.service, &Found::new("damaged", transaction, &damaged)).await;
    assert_eq!(append(&mut client, vec![event("room-1")]).await.stored_in(), StoredIn::LocalLog);

    // The way out: a new database gets everything.
    assert!(story.service.stop().success());
    story.service.reconfigure(story.setup.clone().set("immudb", "database: second"));
    let (done, said) = story.service.run(&["resolve", "--resend"]);
    assert!(done, "{said}");
    story.service.restart().await;
    story.service.wait_until_forwarded().await;
    assert_eq!(story.immudb.reader(&["--database", "second", "scan", "event:"]).len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_below_a_service_without_calls_is_no_tampering() {
    let mut story = Story::begin(FAST, 10).await;
    story.wait_for_round().await;
    let kept = tempdir().unwrap();
    let kept = kept.path().join("data");
    story.immudb.stop().await;
    copy_folder(&story.immudb.data(), &kept);
    story.immudb.restart().await;
    append_to(&mut story.service.client(), "room-1", 10).await;
    story.service.wait_until_forwarded().await;
    story.wait_for_round().await;

    // The auditor connects again before the forwarder, which only has to keep its session alive.
    story.immudb.stop().await;
    fs::remove_dir_all(story.immudb.data()).unwrap();
    copy_folder(&kept, &story.immudb.data());
    story.immudb.restart().await;
    story.service.wait_for_state(State::Suspect).await;
    assert_eq!(findings(&story.service).len(), 0);
    append_to(&mut story.service.client(), "room-1", 1).await;
    assert!(story.service.stop().success());
    let (done, said) = story.service.run(&["resolve", "--resend"]);
    assert!(done, "{said}");
    story.service.restart().await;
    story.service.wait_until_forwarded().await;
    story.wait_for_round().await;
    assert_eq!(findings(&story.service).len(), 0);
}
