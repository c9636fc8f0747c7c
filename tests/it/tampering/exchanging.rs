//! ImmuDB gets another history: an older copy, none at all, or one that another client made.

use std::{fs, path::PathBuf};

use aethyr_event_store::grpc::wire::{State, StoredIn};
use bytes::Bytes;
use rustix::process::Signal;

use super::{
    DATABASE, Expected, Story,
    findings::{HEADER_MISMATCH, OTHER_HASH},
    key,
};
use crate::{
    copy::copy_folder,
    outage::assert_in_immudb,
    support::{
        events::{append, append_to, event, whole_order},
        immudb::other_client::OtherClient,
        stored::assert_written_once,
    },
};

/// Has the uuid of the server.
const NAME_FILE: &str = "immudb.identifier";

impl Story {
    fn run_on_database(&self, command: &str) {
        self.immudb.reader(&["--database", DATABASE, command]);
    }

    /// Appends an event, and puts a history with another event in its place, below a session that
    /// does not notice it. Every condition of the next transaction holds there, too. Returns the
    /// number of its last transaction.
    async fn exchange_below_session(&self) -> u64 {
        let data: PathBuf = self.immudb.data().join(DATABASE);
        self.run_on_database("unload-database");
        copy_folder(&data, &self.kept_data());
        self.run_on_database("load-database");
        append_to(&mut self.service.client(), "room-1", 1).await;
        self.service.wait_until_forwarded().await;
        let transaction = self.other().await.transactions().await.pop().unwrap();
        let forged: Vec<(Bytes, Bytes)> = transaction.entries.into_iter().map(forged).collect();

        self.service.signal(Signal::STOP);
        self.run_on_database("unload-database");
        fs::remove_dir_all(&data).unwrap();
        fs::rename(self.kept_data(), &data).unwrap();
        self.run_on_database("load-database");
        let last = self.other().await.set(&forged).await;
        assert_eq!(last, transaction.header.id.0);
        self.service.signal(Signal::CONT);
        last
    }

    /// Asserts that ImmuDB's state is in doubt and not tampering, and that it gets what it lacks.
    pub(super) async fn assert_resent(&mut self) {
        let answer = append(&mut self.service.client(), vec![event("room-1")]).await;
        assert_eq!(answer.stored_in(), StoredIn::LocalLog);
        self.service.wait_for_state(State::Suspect).await;
        let last = self.other().await.last().await;
        self.service.kill();
        self.service.restart().await;
        self.service.wait_for_state(State::Suspect).await;
        assert_eq!(self.other().await.last().await, last, "it was written to");
        let order = whole_order(&mut self.service.client()).await;
        assert!(self.service.stop().success());
        let (done, said) = self.service.run(&["resolve", "--resend"]);
        assert!(done, "{said}");
        self.service.restart().await;
        self.service.wait_until_forwarded().await;
        assert_eq!(whole_order(&mut self.service.client()).await, order);
        assert_in_immudb(&self.immudb, &order);
        assert_written_once(&self.immudb, &order);
        self.assert_sound().await;
        assert!(self.service.stop().success());
        self.service.restart().await;
        self.assert_sound().await;
    }

    /// Puts an older copy back, and lets another client write this number of transactions to it.
    /// Returns the number of its last transaction.
    pub(super) async fn put_back_and_write(&mut self, count: u64) -> u64 {
        self.put_data_back().await;
        let other = self.other().await;
        for number in 1..=count {
            other.write(&format!("other:{number}"), b"x").await;
        }
        other.last().await
    }
}

/// Changes the record of an event.
fn forged((key, value): (Bytes, Bytes)) -> (Bytes, Bytes) {
    if !key.starts_with(b"event:") {
        return (key, value);
    }
    let mut changed = value.to_vec();
    *changed.last_mut().unwrap() ^= 1;
    (key, changed.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_history_below_a_living_session_is_not_written_to() {
    let mut story = Story::begin_with(&["keep_alive: 1.0"]).await;
    let last = story.exchange_below_session().await;
    story.service.wait_for_state(State::Tampered).await;
    assert_eq!(story.other().await.last().await, last, "it was written to");
    let expected = Expected { kinds: &[OTHER_HASH, HEADER_MISMATCH], key: None, transactions: last..=last };
    story.assert_tampered(&expected).await;
    story.accept(Some(&key(4))).await;
}

/// Before the next keep-alive, only the answer to a transaction can show it.
#[tokio::test(flavor = "multi_thread")]
async fn another_history_below_a_living_session_is_seen_by_the_next_answer() {
    let mut story = Story::begin().await;
    let last = story.exchange_below_session().await;
    let answer = append(&mut story.service.client(), vec![event("room-1")]).await;
    assert_eq!(answer.stored_in(), StoredIn::LocalLog);
    assert_eq!(story.service.stats().await.state(), State::Tampered);
    assert!(story.other().await.last().await <= last + 1, "it was written to again");
    let expected =
        Expected { kinds: &[OTHER_HASH, HEADER_MISMATCH], key: None, transactions: last..=last + 1 };
    story.assert_tampered(&expected).await;
    story.accept(Some(&key(4))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_is_in_doubt_and_gets_what_it_lacks() {
    let mut story = Story::begin().await;
    story.keep_data().await;
    append_to(&mut story.service.client(), "room-1", 3).await;
    story.service.wait_until_forwarded().await;
    story.put_data_back().await;
    story.assert_resent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_that_another_client_wrote_to_is_tampering() {
    let mut story = Story::begin().await;
    story.keep_data().await;
    append_to(&mut story.service.client(), "room-1", 3).await;
    story.service.wait_until_forwarded().await;
    // It ends before the trusted transaction, at one that the log has a hash for.
    let last = story.put_back_and_write(1).await;
    let answer = append(&mut story.service.client(), vec![event("room-1")]).await;
    assert_eq!(answer.stored_in(), StoredIn::LocalLog);
    story.assert_changed().await;
    assert_eq!(story.other().await.last().await, last, "it was written to");
    let kinds = &[OTHER_HASH, HEADER_MISMATCH];
    story.assert_tampered(&Expected { kinds, key: None, transactions: last..=last }).await;
    // The events that the copy lacks are replicated again.
    story.accept(None).await;
}

/// The state is in the log: it does not end because nothing contradicts it any more.
#[tokio::test(flavor = "multi_thread")]
async fn an_honest_copy_that_is_put_back_does_not_end_it() {
    let mut story = Story::begin().await;
    story.keep_data().await;
    story.other().await.write(&key(1), b"forged").await;
    append_to(&mut story.service.client(), "room-1", 1).await;
    story.assert_changed().await;
    story.put_data_back().await;
    story.service.kill();
    story.service.restart().await;
    story.assert_changed().await;
    story.assert_parked().await;
    assert!(story.service.stop().success());
    story.accept(None).await;
}

/// The name of the server's data is in a file, which can be copied.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_server_with_the_same_name_is_in_doubt_and_gets_everything() {
    let mut story = Story::begin().await;
    let before = server_uuid(&story).await;
    story.immudb.stop().await;
    let data = story.immudb.data();
    let name = fs::read(data.join(NAME_FILE)).unwrap();
    fs::remove_dir_all(&data).unwrap();
    fs::create_dir(&data).unwrap();
    fs::write(data.join(NAME_FILE), name).unwrap();
    story.immudb.restart().await;
    assert_eq!(server_uuid(&story).await, before);
    story.assert_resent().await;
}

async fn server_uuid(story: &Story) -> String {
    OtherClient::log_in(&story.immudb, "defaultdb").await.server_uuid().to_owned()
}
