//! What the service trusts is kept in the marks of the log and in a file beside it, and survives
//! the loss of the file.

use std::{fs, os::unix::process::ExitStatusExt};

use aethyr_event_store::{
    crash_point::CrashPoint,
    grpc::wire::{State, StoredIn},
};
use rustix::process::Signal;

use super::{
    Expected, Story,
    findings::{HEADER_MISMATCH, OTHER_HASH},
    old_marks,
};
use crate::{
    outage::assert_in_immudb,
    support::{
        events::{append_to, event, request, whole_order},
        stored::assert_written_once,
    },
};

/// The log line that says that ImmuDB's history is taken as it is.
const FIRST_CONTACT: &str = "first contact";

impl Story {
    fn first_contacts(&self) -> usize {
        self.service.log().matches(FIRST_CONTACT).count()
    }

    /// Starts the stopped service, and asserts that what it trusts goes on.
    async fn assert_goes_on(&mut self) {
        self.service.restart().await;
        self.assert_sound().await;
        assert_eq!(self.first_contacts(), 0, "{}", self.service.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_before_its_mark_is_verified_after_a_crash() {
    let mut story = Story::begin().await;
    assert!(story.service.stop().success());
    // The start commits the head, and an append commits the next transaction.
    let point = format!("{}:2", CrashPoint::AfterSet.name());
    story.service.reconfigure(story.setup.clone().environment(CrashPoint::VARIABLE, &point));
    story.service.restart().await;
    story.service.wait_for_state(State::Connected).await;
    let mut client = story.service.client();
    let mut lost = Vec::new();
    while lost.len() < 5 {
        let sent = request(vec![event("room-1")]);
        lost.push(sent.clone());
        if client.append_events(sent).await.is_err() {
            break;
        }
    }
    assert_eq!(story.service.wait().signal(), Some(Signal::ABORT.as_raw()));
    story.service.reconfigure(story.setup.clone());
    story.assert_goes_on().await;
    let mut client = story.service.client();
    for sent in lost {
        assert!(client.append_events(sent).await.unwrap().into_inner().already_stored);
    }
    let order = whole_order(&mut client).await;
    assert_in_immudb(&story.immudb, &order);
    assert_written_once(&story.immudb, &order);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_service_goes_on_where_it_was() {
    let mut story = Story::begin().await;
    for _ in 0..2 {
        append_to(&mut story.service.client(), "room-1", 5).await;
        story.service.kill();
        story.assert_goes_on().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_knows_what_a_lost_or_damaged_file_knew() {
    let mut story = Story::begin().await;
    let file = story.trusted_file();
    assert!(story.service.stop().success());
    let whole = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    story.assert_goes_on().await;
    for damaged in [&whole[..whole.len() / 2], &[]] {
        assert!(story.service.stop().success());
        fs::write(&file, damaged).unwrap();
        story.assert_goes_on().await;
    }
    // A clean stop writes it again.
    assert!(story.service.stop().success());
    assert!(fs::read(&file).unwrap().len() > whole.len() / 2);
    story.assert_goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_file_another_history_is_tampering_all_the_same() {
    let mut story = Story::begin().await;
    story.keep_data().await;
    append_to(&mut story.service.client(), "room-1", 2).await;
    story.service.wait_until_forwarded().await;
    // A killed service may not know yet what ImmuDB has of its last events.
    assert!(story.service.stop().success());
    let last = story.put_back_and_write(6).await;
    fs::remove_file(story.trusted_file()).unwrap();
    story.service.restart().await;
    story.assert_changed().await;
    assert_eq!(story.first_contacts(), 0, "{}", story.service.log());
    assert_eq!(story.other().await.last().await, last, "it was written to");
    let kinds = &[OTHER_HASH, HEADER_MISMATCH];
    story.assert_tampered(&Expected { kinds, key: None, transactions: 1..=last }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_met_for_the_first_time_is_trusted_and_logged_once() {
    let mut story = Story::begin().await;
    assert_eq!(story.first_contacts(), 1, "{}", story.service.log());
    assert!(story.service.stop().success());
    story.assert_goes_on().await;
    // An empty disk knows nothing of the past.
    let order = whole_order(&mut story.service.client()).await;
    assert!(story.service.stop().success());
    fs::remove_dir_all(story.service.storage()).unwrap();
    story.service.restart().await;
    story.assert_sound().await;
    assert_eq!(story.first_contacts(), 1, "{}", story.service.log());
    assert_eq!(whole_order(&mut story.service.client()).await[..order.len()], order);
    assert!(story.service.stop().success());
    story.assert_goes_on().await;
}

/// Removes the log with what is derived from it, and keeps the file beside it.
fn lose_the_log(story: &Story) {
    for folder in ["log", "index"] {
        fs::remove_dir_all(story.service.storage().join(folder)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_log_is_copied_again_without_a_first_contact() {
    let mut story = Story::begin().await;
    let order = whole_order(&mut story.service.client()).await;
    assert!(story.service.stop().success());
    lose_the_log(&story);
    story.assert_goes_on().await;
    assert_eq!(whole_order(&mut story.service.client()).await[..order.len()], order);
    // From then on, the file belongs to the new log.
    assert!(story.service.stop().success());
    story.assert_goes_on().await;
    assert!(!story.service.log().contains("ignored the saved trusted state"), "{}", story.service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_log_does_not_make_another_history_trusted() {
    let mut story = Story::begin().await;
    story.keep_data().await;
    append_to(&mut story.service.client(), "room-1", 2).await;
    story.service.wait_until_forwarded().await;
    assert!(story.service.stop().success());
    let last = story.put_back_and_write(6).await;
    lose_the_log(&story);
    // The copy names the writer of the lost log.
    story.service.reconfigure(story.setup.clone().arguments(&["serve", "--take-over"]));
    story.service.launch();
    story.service.wait_for_log("operator action is required").await;
    assert_eq!(story.first_contacts(), 0, "{}", story.service.log());
    assert_eq!(story.other().await.last().await, last, "it was written to");
    let found = fs::read_to_string(story.findings_file()).unwrap();
    assert!([OTHER_HASH, HEADER_MISMATCH].iter().any(|kind| found.contains(kind)), "{found}");
}

/// A version of the service that did not verify anything was in use for a while. What it has
/// replicated is not in the trusted state.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_is_no_tampering_after_an_older_version_was_in_use() {
    let mut story = Story::begin().await;
    let (file, aside) = (story.trusted_file(), story.dir.path().join("trusted"));
    assert!(story.service.stop().success());
    fs::copy(&file, &aside).unwrap();
    story.service.restart().await;
    append_to(&mut story.service.client(), "room-1", 2).await;
    story.service.wait_until_forwarded().await;
    story.keep_data().await;
    append_to(&mut story.service.client(), "room-1", 2).await;
    story.service.wait_until_forwarded().await;
    assert!(story.service.stop().success());
    assert!(old_marks::rewrite(&story.service.storage().join("log")) > 0, "the log had no marks");
    fs::remove_dir_all(story.service.storage().join("index")).unwrap();
    fs::rename(&aside, &file).unwrap();
    story.put_data_back().await;
    story.service.restart().await;
    story.service.wait_for_state(State::Suspect).await;
    story.assert_resent().await;
}

/// A version of the service that did not verify anything leaves such a log.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_marks_have_no_hashes_trusts_the_history_once() {
    let mut story = Story::begin().await;
    let order = whole_order(&mut story.service.client()).await;
    assert!(story.service.stop().success());
    let marks = old_marks::rewrite(&story.service.storage().join("log"));
    assert!(marks > 0, "the log had no marks");
    fs::remove_dir_all(story.service.storage().join("index")).unwrap();
    fs::remove_file(story.trusted_file()).unwrap();
    story.service.restart().await;
    story.assert_sound().await;
    assert_eq!(story.first_contacts(), 1, "{}", story.service.log());
    let mut client = story.service.client();
    assert_eq!(whole_order(&mut client).await[..order.len()], order);
    let answer = client.append_events(story.sent.clone()).await.unwrap().into_inner();
    assert_eq!((answer.already_stored, answer.stored_in()), (true, StoredIn::Immudb));
    assert!(story.service.stop().success());
    story.assert_goes_on().await;
}
