//! What ImmuDB has was changed, or its answers are wrong, and the service finds out.
//!
//! In `STATE_TAMPERED` nothing is sent to ImmuDB, and appends go on in the local log. Neither a
//! restart nor a deleted file of findings ends it. What an operator accepts is recorded as an
//! event.

use std::{fs, ops::RangeInclusive, path::PathBuf};

use aethyr_event_store::{
    event::{ChainHash, record},
    grpc::wire::{
        AppendEventsRequest, NewEvent, RecordedEvent, State, StatsResponse, StoredIn, new_event,
        recorded_event::Data,
    },
};
use tempfile::{TempDir, tempdir};

use crate::{
    copy::copy_folder,
    support::{
        events::{append, append_to, event, load, request, whole_order},
        immudb::{ImmuDb, other_client::OtherClient},
        service::{Service, Setup},
        stored::key_of,
    },
};

mod damaging;
mod exchanging;
mod findings;
mod liar;
mod lying;
mod old_marks;
mod overwriting;
mod signing;
mod trusting;

const DATABASE: &str = "aethyr";

/// The number of events at the beginning of a story, each in a transaction of its own.
const EVENTS: u64 = 3;

/// Why the operator accepts what was found.
const BECAUSE: &str = "a test did it";

/// A service whose events are all in ImmuDB.
struct Story {
    immudb: ImmuDb,
    service: Service,
    setup: Setup,
    /// The first append.
    sent: AppendEventsRequest,
    /// Removed after ImmuDB has ended, which writes to it.
    dir: TempDir,
}

/// What one of the findings has to say.
struct Expected<'k> {
    /// One of these, if the tampering can be seen in several ways.
    kinds: &'k [&'k str],
    key: Option<&'k str>,
    transactions: RangeInclusive<u64>,
}

impl Story {
    async fn begin() -> Self {
        Self::begin_with(&[]).await
    }

    /// Starts with additional lines in the section `immudb` of the configuration.
    async fn begin_with(lines: &[&str]) -> Self {
        let dir = tempdir().unwrap();
        let immudb = ImmuDb::start(dir.path()).await;
        // No keep-alive, unless the story is about it.
        let setup = Setup::with_immudb(immudb.port()).set("immudb", "keep_alive: 90.0");
        let setup = lines.iter().fold(setup, |setup, line| setup.set("immudb", line));
        let service = Service::start(setup.clone()).await;
        let sent = request(vec![event("room-1")]);
        service.client().append_events(sent.clone()).await.unwrap();
        append_to(&mut service.client(), "room-1", EVENTS as usize - 1).await;
        service.wait_until_forwarded().await;
        Self { immudb, service, setup, sent, dir }
    }

    async fn other(&self) -> OtherClient {
        OtherClient::log_in(&self.immudb, DATABASE).await
    }

    fn trusted_file(&self) -> PathBuf {
        self.service.storage().join("log.trusted")
    }

    fn findings_file(&self) -> PathBuf {
        self.service.storage().join("log.findings")
    }

    fn kept_data(&self) -> PathBuf {
        self.dir.path().join("kept")
    }

    /// Keeps a copy of everything that ImmuDB has.
    async fn keep_data(&mut self) {
        self.immudb.stop().await;
        copy_folder(&self.immudb.data(), &self.kept_data());
        self.immudb.restart().await;
    }

    /// Puts the copy back.
    async fn put_data_back(&mut self) {
        self.immudb.stop().await;
        fs::remove_dir_all(self.immudb.data()).unwrap();
        fs::rename(self.kept_data(), self.immudb.data()).unwrap();
        self.immudb.restart().await;
    }

    /// Waits until the service knows what to think of ImmuDB, and asserts that it was changed.
    async fn assert_changed(&self) {
        let is_decided = |stats: &StatsResponse| match stats.state() {
            State::Connected | State::Suspect | State::Fenced | State::Tampered => true,
            State::Unspecified | State::Fallback | State::Migrating | State::LocalOnly | State::Copying => {
                false
            }
        };
        let stats = self.service.wait_for("a decision", is_decided).await;
        assert_eq!(stats.state(), State::Tampered, "{}", self.service.log());
    }

    /// Asserts that nothing goes to ImmuDB, that nothing counts as stored there, and that the local
    /// log goes on.
    async fn assert_parked(&self) {
        self.assert_changed().await;
        assert!(!self.service.stats().await.immudb.unwrap().last_error.is_empty());
        self.service.wait_for_health("immudb", false).await;
        self.service.wait_for_health("", true).await;
        let (mut client, other) = (self.service.client(), self.other().await);
        let (last, before) = (other.last().await, whole_order(&mut client).await);
        let again = client.append_events(self.sent.clone()).await.unwrap().into_inner();
        assert!(again.already_stored);
        assert_eq!(again.stored_in(), StoredIn::LocalLog);
        for answer in append_to(&mut client, "room-1", 2).await {
            assert_eq!(answer.stored_in(), StoredIn::LocalLog);
        }
        let after = whole_order(&mut client).await;
        assert_eq!(after.len(), before.len() + 2);
        assert_eq!(after[..before.len()], before);
        assert_eq!(self.service.stats().await.state(), State::Tampered);
        assert_eq!(other.last().await, last, "something was written to ImmuDB");
    }

    /// Asserts that the service is in `STATE_TAMPERED` because of this finding, and still is after
    /// restarts, also without the findings. Leaves the service stopped.
    async fn assert_tampered(&mut self, expected: &Expected<'_>) {
        self.assert_parked().await;
        let service = &self.service;
        let is_saved = async || {
            let open = service.stats().await.open_findings;
            open > 0 && open == findings::open(service).len() as u64
        };
        service.wait_until("the findings are saved", is_saved).await;
        let open = findings::open(service);
        assert!(open.iter().any(|found| found.is_as(expected)), "{open:#?}");

        self.service.kill();
        let (file, aside) = (self.findings_file(), self.dir.path().join("findings"));
        fs::rename(&file, &aside).unwrap();
        self.service.restart().await;
        self.assert_parked().await;
        assert!(self.service.stop().success());
        fs::rename(&aside, &file).unwrap();
    }

    /// Accepts all findings of the stopped service, and asserts that it goes on from there. An
    /// event whose key was tampered with stays as it is in ImmuDB.
    async fn accept(&mut self, tampered: Option<&str>) {
        let (done, said) = findings::accept(&self.service, &[u64::MAX], BECAUSE);
        assert!(!done, "not all open findings were named: {said}");
        let (done, said) = findings::accept_all(&self.service, BECAUSE);
        assert!(done, "{said}");
        assert_eq!(findings::open(&self.service).len(), 0);
        self.service.restart().await;
        assert_eq!(self.service.wait_until_forwarded().await.open_findings, 0);
        let mut client = self.service.client();
        assert_eq!(append(&mut client, vec![event("room-1")]).await.stored_in(), StoredIn::Immudb);
        let audit = load(&mut client, "aethyr:audit").await;
        let [accepted] = &audit[..] else { panic!("{audit:#?}") };
        assert_eq!(accepted.event_type, "AuditFindingsAccepted");
        let Some(Data::Json(json)) = &accepted.data else { panic!("{accepted:?}") };
        assert!(json.contains(BECAUSE), "{json}");
        self.assert_in_immudb_once(tampered).await;
        self.assert_trusts_everything().await;
    }

    /// Asserts that ImmuDB has every event of the log, written by one transaction, apart from one.
    async fn assert_in_immudb_once(&self, tampered: Option<&str>) {
        let order = whole_order(&mut self.service.client()).await;
        let transactions = self.other().await.transactions().await;
        for event in &order {
            let key = key_of(event);
            if tampered == Some(&*key) {
                continue;
            }
            let entries = transactions.iter().flat_map(|transaction| &transaction.entries);
            let written: Vec<_> = entries.filter(|(found, _)| found == key.as_bytes()).collect();
            let [(_, value)] = &written[..] else { panic!("{key} was written {} times", written.len()) };
            let stored = record::decode(value.clone(), ChainHash::START).unwrap();
            assert_eq!(stored.event.id.to_string(), event.event_id, "{key}");
        }
    }

    /// Asserts that the service has verified ImmuDB's history up to its end.
    async fn assert_trusts_everything(&self) {
        let last = self.other().await.last().await;
        let is_trusted = |stats: &StatsResponse| stats.trusted_transaction == last;
        let stats = self.service.wait_for("the last transaction is trusted", is_trusted).await;
        assert_eq!(stats.trusted_hash.len(), 32);
    }

    /// Asserts that the service is connected and has found nothing.
    async fn assert_sound(&self) {
        let stats = self.service.wait_until_forwarded().await;
        assert_eq!(stats.open_findings, 0, "{:#?}", findings::open(&self.service));
        let answer = append(&mut self.service.client(), vec![event("room-1")]).await;
        assert_eq!(answer.stored_in(), StoredIn::Immudb);
        self.assert_trusts_everything().await;
    }
}

/// Returns the key of an event of `room-1`.
fn key(sequence: u64) -> String {
    key_of(&RecordedEvent {
        aggregate_id: "room-1".to_owned(),
        sequence_number: sequence,
        ..RecordedEvent::default()
    })
}

/// Returns an event with this many bytes of data.
fn sized_event(aggregate: &str, bytes: usize) -> NewEvent {
    NewEvent { data: Some(new_event::Data::Binary(vec![7; bytes].into())), ..event(aggregate) }
}
