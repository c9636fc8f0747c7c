//! Another client writes to the database, and leaves `log:head` alone or restores it.

use aethyr_event_store::grpc::wire::{SaveSnapshotRequest, State, StoredIn, save_snapshot_request};
use bytes::Bytes;

use super::{
    DATABASE, EVENTS, Expected, Story,
    findings::{self, FOREIGN_TRANSACTION, KEY_DELETED, KEY_OVERWRITTEN},
    key,
};
use crate::support::events::{append, append_to, event, whole_order};

const FORGED: &[u8] = b"forged";
const WARNING: &str = "another client writes to the database";

#[tokio::test(flavor = "multi_thread")]
async fn an_overwritten_event_is_reported_with_the_next_append() {
    let mut story = Story::begin().await;
    let forged = story.other().await.write(&key(1), FORGED).await;
    // The transaction of the first one shows it, before that one is answered.
    for answer in append_to(&mut story.service.client(), "room-1", 2).await {
        assert_eq!(answer.stored_in(), StoredIn::LocalLog);
    }
    assert_eq!(story.service.stats().await.state(), State::Tampered);
    let key = key(1);
    let expected = Expected { kinds: &[KEY_OVERWRITTEN], key: Some(&key), transactions: forged..=forged };
    story.assert_tampered(&expected).await;
    story.accept(Some(&key)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overwritten_event_is_reported_without_an_append() {
    let mut story = Story::begin_with(&["keep_alive: 1.0"]).await;
    let forged = story.other().await.write(&key(2), FORGED).await;
    story.service.wait_for_state(State::Tampered).await;
    assert_eq!(story.other().await.last().await, forged, "it was written to");
    let key = key(2);
    let expected = Expected { kinds: &[KEY_OVERWRITTEN], key: Some(&key), transactions: forged..=forged };
    story.assert_tampered(&expected).await;
    story.accept(Some(&key)).await;
}

/// The conditions of the next transaction see the head change, and then find it as it was.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_overwritten_together_with_the_same_head_is_reported() {
    let mut story = Story::begin().await;
    let other = story.other().await;
    let head = other.value("log:head").await;
    let forged = other.set(&[(key(1).into(), FORGED.into()), ("log:head".into(), head)]).await;
    let answer = append(&mut story.service.client(), vec![event("room-1")]).await;
    assert_eq!(answer.stored_in(), StoredIn::LocalLog);
    story.assert_changed().await;
    assert_eq!(other.last().await, forged, "it was written to");
    let key = key(1);
    let expected = Expected { kinds: &[KEY_OVERWRITTEN], key: Some(&key), transactions: forged..=forged };
    story.assert_tampered(&expected).await;
    story.accept(Some(&key)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_event_is_reported() {
    assert_deletion_is_reported(2).await;
}

/// Without it, the conditions of the next transaction do not hold.
#[tokio::test(flavor = "multi_thread")]
async fn the_deleted_last_event_is_reported() {
    assert_deletion_is_reported(EVENTS).await;
}

async fn assert_deletion_is_reported(sequence: u64) {
    let mut story = Story::begin().await;
    let key = key(sequence);
    let deleted = story.immudb.reader(&["--database", DATABASE, "delete", &key]);
    let deleted = deleted[0]["tx"].as_u64().unwrap();
    let answer = append(&mut story.service.client(), vec![event("room-1")]).await;
    assert_eq!(answer.stored_in(), StoredIn::LocalLog);
    let expected = Expected { kinds: &[KEY_DELETED], key: Some(&key), transactions: deleted..=deleted };
    story.assert_tampered(&expected).await;
    story.accept(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_head_is_noticed_without_an_append() {
    let story = Story::begin_with(&["keep_alive: 1.0"]).await;
    let deleted = story.immudb.reader(&["--database", DATABASE, "delete", "log:head"]);
    story.service.wait_for_state(State::Suspect).await;
    assert_eq!(Some(story.other().await.last().await), deleted[0]["tx"].as_u64(), "it was written to");
}

/// The service does not look until the head is there again.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_was_deleted_and_written_again_is_reported() {
    let mut story = Story::begin().await;
    assert!(story.service.stop().success());
    let other = story.other().await;
    let head = other.value("log:head").await;
    let deleted = story.immudb.reader(&["--database", DATABASE, "delete", "log:head"]);
    let deleted = deleted[0]["tx"].as_u64().unwrap();
    other.set(&[("log:head".into(), head)]).await;
    story.service.restart().await;
    let key = Some("log:head");
    story.assert_tampered(&Expected { kinds: &[KEY_DELETED], key, transactions: deleted..=deleted }).await;
    story.accept(None).await;
}

/// The other way out: the whole history goes into a database that nobody has changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_database_gets_the_whole_history() {
    let mut story = Story::begin().await;
    story.other().await.write(&key(1), FORGED).await;
    append_to(&mut story.service.client(), "room-1", 1).await;
    story.assert_changed().await;
    let order = whole_order(&mut story.service.client()).await;
    assert!(story.service.stop().success());
    let (done, said) = story.service.run(&["resolve", "--give-up-pending", "--export", "given-up"]);
    assert!(!done && said.contains("STATE_TAMPERED"), "{said}");
    let elsewhere = story.setup.clone().set("immudb", "database: second");
    story.service.reconfigure(elsewhere);
    let (done, said) = story.service.run(&["resolve", "--resend"]);
    assert!(done, "{said}");
    for _ in 0..2 {
        story.service.restart().await;
        story.service.wait_until_forwarded().await;
        assert_eq!(whole_order(&mut story.service.client()).await, order);
        assert_eq!(story.immudb.reader(&["--database", "second", "scan", "event:"]).len(), order.len());
        assert!(story.service.stop().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_not_of_this_service_are_reported_once_and_change_nothing() {
    let mut story = Story::begin().await;
    let other = story.other().await;
    for count in 1..=3 {
        other.write(&format!("other:{count}"), b"x").await;
    }
    let mut client = story.service.client();
    assert_eq!(append(&mut client, vec![event("room-1")]).await.stored_in(), StoredIn::Immudb);
    story.service.wait_for_log(WARNING).await;
    other.write("other:1", b"y").await;
    assert_eq!(append(&mut client, vec![event("room-1")]).await.stored_in(), StoredIn::Immudb);
    story.assert_in_immudb_once(None).await;
    story.assert_trusts_everything().await;
    let log = story.service.log();
    assert_eq!(log.matches(WARNING).count(), 1, "{log}");
    for _ in 0..2 {
        let stats = story.service.wait_until_forwarded().await;
        let open = findings::open(&story.service);
        let [found] = &open[..] else { panic!("{open:#?}") };
        assert_eq!((&*found.kind, stats.open_findings), (FOREIGN_TRANSACTION, 1));
        assert!(found.key.as_ref().is_some_and(|key| key.starts_with("other:")), "{found:?}");
        assert!(story.service.stop().success());
        story.service.restart().await;
    }
}

/// A request that arrives late writes the same records again, and so does `resolve --resend`.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_written_again_unchanged_are_no_tampering() {
    let mut story = Story::begin().await;
    let snapshot = SaveSnapshotRequest {
        aggregate_id: "room-1".to_owned(),
        sequence_number: EVENTS,
        data: Some(save_snapshot_request::Data::Json("{}".to_owned())),
        ..SaveSnapshotRequest::default()
    };
    story.service.client().save_snapshot(snapshot).await.unwrap();
    story.service.wait_until_forwarded().await;
    let other = story.other().await;
    let mut again = Vec::new();
    for key in (1..=EVENTS).map(key).chain(["snapshot:room-1".to_owned()]) {
        let record = other.value(&key).await;
        again.push((Bytes::from(key), record));
    }
    for records in [&again[..], &again[..1]] {
        other.set(records).await;
        story.assert_sound().await;
    }
    assert!(story.service.stop().success());
    story.service.restart().await;
    story.assert_sound().await;
}
