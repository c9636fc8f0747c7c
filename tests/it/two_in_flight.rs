//! Two transactions are in flight to ImmuDB, and their answers never arrive.
//!
//! The service settles the outcome of both by reading ImmuDB. A transaction that it abandoned
//! cannot be committed after its retry.

use std::collections::BTreeMap;

use aethyr_event_store::grpc::wire::{AppendEventsResponse, NewEvent, State, StoredIn, new_event::Data};
use tempfile::{TempDir, tempdir};
use tokio::task::JoinHandle;

use crate::{
    lost_answer::{events_in, until},
    outage::assert_in_immudb,
    support::{
        events::{append, append_to, event, whole_order},
        immudb::ImmuDb,
        proxy::{Late, Mode, Proxy},
        service::{Service, Setup},
        stored::assert_written_once,
    },
};

/// A transaction larger than this holds a single event. The first two of these sizes fit into one
/// transaction, and the last two do not.
const BATCH_BYTES: usize = 1000;
const SIZES: [usize; 3] = [100, 400, 800];
/// Only a request with two events is larger.
const TWO_EVENTS: usize = 800;

struct Story {
    immudb: ImmuDb,
    proxy: Proxy,
    service: Service,
    appending: Vec<JoinHandle<AppendEventsResponse>>,
    /// Removed after ImmuDB has ended, which writes to it.
    _dir: TempDir,
}

impl Story {
    /// Starts with two events in ImmuDB and an open session.
    async fn begin() -> Self {
        let dir = tempdir().unwrap();
        let immudb = ImmuDb::start(dir.path()).await;
        let proxy = Proxy::start(immudb.port()).await;
        let setup = Setup::with_immudb(proxy.port())
            .set("immudb", &format!("batch_bytes_max: {BATCH_BYTES}"))
            .set("immudb", "retry_count: 1000")
            .set("immudb", "retry_delay: 0.05")
            .set("immudb", "retry_delay_max: 0.1");
        let service = Service::start(setup).await;
        append_to(&mut service.client(), "room-1", 2).await;
        service.wait_until_forwarded().await;
        Self { _dir: dir, immudb, proxy, service, appending: Vec::new() }
    }

    /// Appends one event of each size, one after the other. Their clients then wait for ImmuDB.
    async fn append(&mut self, sizes: &[usize]) {
        for bytes in sizes {
            let new = NewEvent { data: Some(Data::Binary(vec![7; *bytes].into())), ..event("room-1") };
            let mut client = self.service.client();
            self.appending.push(tokio::spawn(async move { append(&mut client, vec![new]).await }));
            let count = 2 + self.appending.len() as u64;
            self.service.wait_for("the local log has it", |stats| stats.event_count == count).await;
        }
    }

    /// Sends the first event alone, to be committed or held back. Sends the second one after it,
    /// while the third has to wait.
    async fn send_two(&mut self, first: Mode, second: Mode) {
        for (mode, sizes, committed) in [(first, &SIZES[..1], 3), (second, &SIZES[1..], 4)] {
            let kept = self.proxy.kept();
            self.proxy.set(mode);
            self.append(sizes).await;
            match mode {
                Mode::DropAnswers => until("it is committed", || events_in(&self.immudb) == committed).await,
                _ => until("it is kept", || self.proxy.kept() > kept).await,
            }
        }
        assert!(self.appending.iter().all(|appending| !appending.is_finished()));
    }

    /// Lets the requests that were held back reach ImmuDB, which answers them.
    async fn deliver(late: &Late, deliver: impl FnOnce(&Late)) {
        let before = late.answered();
        deliver(late);
        until("the late request is through", || late.is_through()).await;
        assert!(late.answered() > before, "it did not come to ImmuDB");
    }

    /// Asserts that all clients get an answer, and that ImmuDB has each event once, where the
    /// answers say.
    async fn check(&mut self) {
        let mut answers = Vec::new();
        for appending in self.appending.drain(..) {
            answers.push(appending.await.unwrap());
        }
        let stats = self.service.wait_until_forwarded().await;
        assert_eq!(stats.fallbacks, 0, "{}", self.service.log());
        let order = whole_order(&mut self.service.client()).await;
        assert_in_immudb(&self.immudb, &order);
        assert_written_once(&self.immudb, &order);
        assert!(
            !self.service.log().contains("another client writes to the database"),
            "{}",
            self.service.log()
        );
        let entries = self.immudb.reader(&["--database", "aethyr", "scan", "event:"]);
        let transactions: BTreeMap<u64, u64> =
            (1..).zip(entries.iter().map(|entry| entry["tx"].as_u64().unwrap())).collect();
        for (position, answer) in (3..).zip(&answers) {
            assert_eq!((answer.stored_in(), answer.first_position), (StoredIn::Immudb, position));
            assert_eq!(answer.immudb_tx, transactions[&position], "position {position}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_are_found_though_no_answer_came() {
    let mut story = Story::begin().await;
    story.send_two(Mode::DropAnswers, Mode::DropAnswers).await;
    story.proxy.set(Mode::Pass);
    story.proxy.cut();
    story.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_is_found_and_the_second_comes_too_late() {
    let mut story = Story::begin().await;
    story.send_two(Mode::DropAnswers, Mode::KeepRequestsAndDropAnswers).await;
    let late = story.proxy.cut_and_keep();
    story.check().await;
    Story::deliver(&late, Late::deliver).await;
    append_to(&mut story.service.client(), "room-1", 2).await;
    story.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_is_not_committed_without_the_first() {
    let mut story = Story::begin().await;
    story.send_two(Mode::KeepRequests, Mode::KeepRequests).await;
    let late = story.proxy.cut_and_keep_then(Mode::PassAndRefuse);
    Story::deliver(&late, Late::deliver_without_first).await;
    assert_eq!(events_in(&story.immudb), 2);
    story.proxy.set(Mode::Pass);
    story.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_is_not_committed_behind_its_repetition() {
    let mut story = Story::begin().await;
    story.send_two(Mode::KeepRequests, Mode::KeepRequests).await;
    // The first two events are sent again in one transaction. The third is not sent as long as no
    // answer to that transaction arrives.
    let late = story.proxy.cut_and_keep_then(Mode::DropAnswersAbove(TWO_EVENTS));
    until("they are sent again", || events_in(&story.immudb) == 4).await;
    Story::deliver(&late, Late::deliver_without_first).await;
    assert_eq!(events_in(&story.immudb), 4);
    story.proxy.set(Mode::Pass);
    story.proxy.cut();
    story.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_of_a_deposed_writer_is_not_committed() {
    let mut story = Story::begin().await;
    story.send_two(Mode::DropAnswers, Mode::KeepRequestsAndDropAnswers).await;
    let late = story.proxy.cut_and_keep_then(Mode::PassAndRefuse);
    let setup = Setup::with_immudb(story.immudb.port()).arguments(&["serve", "--take-over"]);
    let other = Service::start(setup).await;
    other.wait_for_state(State::Connected).await;
    Story::deliver(&late, Late::deliver).await;
    assert_eq!(events_in(&story.immudb), 3);
    append_to(&mut other.client(), "room-1", 1).await;
    let order = whole_order(&mut other.client()).await;
    assert_in_immudb(&story.immudb, &order);
    story.proxy.set(Mode::Pass);
    story.service.wait_for_state(State::Fenced).await;
    assert_in_immudb(&story.immudb, &order);
}
