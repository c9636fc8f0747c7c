//! What the client of ImmuDB promises, tested against a real server.
//!
//! The forwarder relies on these promises.

use std::time::{Duration, Instant};

use aethyr_event_store::{
    immudb::{
        ErrorKind, KeyValue, Precondition, Session, SessionSettings, SetError, TransactionPages, TxId,
        VersionedValue,
    },
    secret::Secret,
};
use bytes::Bytes;
use serde_json::json;

use crate::support::{immudb::ImmuDb, service::PATIENCE};

#[tokio::test]
async fn what_is_set_is_read_back_here_and_by_immudbs_own_client() {
    let (_dir, immudb) = immudb().await;
    let session = Session::open(&immudb.settings("aethyr")).await.unwrap();
    assert_eq!(session.current_tx().await, Ok(TxId(0)));
    assert_eq!(session.scan_transactions(TxId(1), 10).await, Ok(vec![]));
    assert_eq!(session.get(b"event:a").await, Ok(None));

    let header = session.set(vec![kv("event:b", "2"), kv("event:a", "1")], vec![]).await.unwrap();
    assert_eq!((header.id, header.entry_count), (TxId(1), 2));
    assert_eq!(session.current_tx().await, Ok(TxId(1)));
    let expected = VersionedValue { value: Bytes::from("1"), tx: TxId(1) };
    assert_eq!(session.get(b"event:a").await, Ok(Some(expected)));
    let keys = session.scan_keys(b"event:", 10).await.unwrap();
    assert_eq!(keys, ["event:a", "event:b"], "in the order of keys");
    assert_eq!(session.scan_keys(b"event:", 1).await.unwrap(), ["event:a"]);
    assert!(session.scan_keys(b"log:", 1).await.unwrap().is_empty());

    let page = session.scan_transactions(TxId(1), 10).await.unwrap();
    assert_eq!(page.len(), 1);
    assert_eq!(page[0].header, header);
    assert_eq!(page[0].entries, [pair("event:b", "2"), pair("event:a", "1")], "as written");
    let seen = immudb.reader(&["--database", "aethyr", "txscan"]);
    assert_eq!(
        seen,
        [
            json!({"key": "event:b", "value_base64": "Mg==", "tx": 1}),
            json!({"key": "event:a", "value_base64": "MQ==", "tx": 1}),
        ]
    );
    session.keep_alive().await.unwrap();
    session.close().await;
}

#[tokio::test]
async fn a_precondition_that_does_not_hold_is_a_conflict_and_writes_nothing() {
    let (_dir, immudb) = immudb().await;
    let session = Session::open(&immudb.settings("aethyr")).await.unwrap();
    let head = Bytes::from("log:head");
    let set = async |condition| session.set(vec![kv("log:head", "x")], vec![condition]).await;

    let missing = set(Precondition::KeyMustExist(head.clone())).await;
    assert_eq!(missing, Err(SetError::Conflict));
    let claimed = set(Precondition::KeyMustNotExist(head.clone())).await.unwrap();
    let again = set(Precondition::KeyMustNotExist(head.clone())).await;
    assert_eq!(again, Err(SetError::Conflict));

    let unmodified = |tx| Precondition::KeyNotModifiedAfterTx { key: head.clone(), tx };
    let moved = set(unmodified(claimed.id)).await.unwrap();
    assert_eq!(set(unmodified(claimed.id)).await, Err(SetError::Conflict));
    assert_eq!(session.current_tx().await, Ok(moved.id));

    immudb.reader(&["--database", "aethyr", "set", "log:head", "of another writer"]);
    assert_eq!(set(unmodified(moved.id)).await, Err(SetError::Conflict));
    let found = session.get(&head).await.unwrap().unwrap();
    assert_eq!(found.value, "of another writer");
    let last = set(unmodified(found.tx)).await.unwrap();
    // A rejected transaction takes no number: from the numbers, the forwarder detects other
    // writers.
    assert_eq!((found.tx, last.id), (moved.id.next(), found.tx.next()));
}

#[tokio::test]
async fn a_request_that_immudb_refuses_is_certainly_not_written() {
    let (_dir, immudb) = immudb().await;
    let session = Session::open(&immudb.settings("aethyr")).await.unwrap();
    let many = (0..1025).map(|number| kv(&format!("key:{number}"), "x")).collect();
    let invalid = Precondition::KeyNotModifiedAfterTx { key: Bytes::from("a"), tx: TxId(0) };
    let requests: [(&str, ErrorKind, Vec<KeyValue>, Vec<Precondition>); 7] = [
        ("a key twice", ErrorKind::Rejected, vec![kv("a", "1"), kv("a", "2")], vec![]),
        ("no entries", ErrorKind::Rejected, vec![], vec![]),
        ("an empty key", ErrorKind::Rejected, vec![kv("", "1")], vec![]),
        ("a long key", ErrorKind::TooLarge, vec![kv(&"k".repeat(1024), "1")], vec![]),
        ("many entries", ErrorKind::TooLarge, many, vec![]),
        ("a large request", ErrorKind::TooLarge, vec![kv("a", &"v".repeat(32 * 1024 * 1024))], vec![]),
        ("an invalid precondition", ErrorKind::Rejected, vec![kv("a", "1")], vec![invalid]),
    ];
    for (what, kind, entries, preconditions) in requests {
        match session.set(entries, preconditions).await {
            Err(SetError::NotWritten(error)) => {
                assert_eq!(error.kind, kind, "{what}: {error}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    assert_eq!(session.current_tx().await, Ok(TxId(0)));
    let longest = vec![kv(&"k".repeat(1023), "1")];
    assert!(session.set(longest, vec![]).await.is_ok());
}

#[tokio::test]
async fn a_missing_database_is_made_with_settings_fit_for_events() {
    let (_dir, immudb) = immudb().await;
    let session = Session::open(&immudb.settings("aethyr")).await.unwrap();
    let settings = &immudb.reader(&["--database", "aethyr", "settings"])[0];
    // Zero is not printed; the default of 20 would be.
    assert_eq!(settings["syncFrequency"], serde_json::json!({}), "{settings:#}");
    assert_eq!(settings["maxTxEntries"]["value"], 1024);
    assert_eq!(settings["maxKeyLen"]["value"], 1024);
    assert_eq!(settings["maxConcurrency"]["value"], 100);
    assert_eq!(settings["autoload"]["value"], true);
    assert_eq!(settings["indexSettings"]["cleanupPercentage"]["value"], 5);

    session.set(vec![kv("a", "1")], vec![]).await.unwrap();
    let second = Session::open(&immudb.settings("aethyr")).await.unwrap();
    assert_eq!(second.current_tx().await, Ok(TxId(1)), "and is found when it is there");
    assert_eq!(second.server_uuid(), session.server_uuid());

    let error = Session::open(&immudb.settings("no-such-name")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration, "{error}");
}

#[tokio::test]
async fn a_restarted_server_has_forgotten_the_session() {
    let (_dir, mut immudb) = immudb().await;
    let session = Session::open(&immudb.settings("aethyr")).await.unwrap();
    let written = session.set(vec![kv("a", "1")], vec![]).await.unwrap();
    immudb.restart().await;

    // The first call may still discover that the connection broke.
    let error = eventually(async || match session.get(b"a").await {
        Err(error) if error.kind == ErrorKind::Unreachable => None,
        outcome => Some(outcome.unwrap_err()),
    })
    .await;
    assert_eq!(error.kind, ErrorKind::SessionExpired, "{error}");
    match session.set(vec![kv("a", "2")], vec![]).await {
        Err(SetError::NotWritten(error)) => assert_eq!(error.kind, ErrorKind::SessionExpired),
        other => panic!("{other:?}"),
    }

    let renewed = Session::open(&immudb.settings("aethyr")).await.unwrap();
    let expected = VersionedValue { value: Bytes::from("1"), tx: written.id };
    assert_eq!(renewed.get(b"a").await, Ok(Some(expected)));
}

#[tokio::test]
async fn a_wrong_password_or_user_is_a_matter_of_configuration() {
    let (_dir, immudb) = immudb().await;
    let right = immudb.settings("aethyr");
    let wrong_password = SessionSettings { password: Secret::new("Xyzzy-1-plugh"), ..right.clone() };
    let wrong_user = SessionSettings { username: "nobody".into(), ..right };
    for settings in [wrong_password, wrong_user] {
        let error = Session::open(&settings).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Configuration, "{error}");
        assert!(!format!("{error} {error:?}").contains("plugh"), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_without_logins_is_a_matter_of_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let immudb = ImmuDb::start_with(dir.path(), &["--auth=false"]).await;
    let error = Session::open(&immudb.settings("aethyr")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration, "{error}");
}

#[tokio::test]
async fn a_replica_is_a_matter_of_configuration_and_not_written() {
    let (_dir, immudb) = immudb().await;
    let session = Session::open(&immudb.settings("aethyr")).await.unwrap();
    immudb.reader(&["--database", "aethyr", "make-replica"]);
    match session.set(vec![kv("a", "1")], vec![]).await {
        Err(SetError::NotWritten(error)) => {
            assert_eq!(error.kind, ErrorKind::Configuration, "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nobody_there_is_told_as_refused() {
    let (_dir, mut immudb) = immudb().await;
    let settings = SessionSettings { address: "localhost".into(), ..immudb.settings("aethyr") };
    let session = Session::open(&settings).await.unwrap();
    immudb.kill();

    let error = Session::open(&settings).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    let error = eventually(async || match session.set(vec![kv("a", "1")], vec![]).await {
        Err(SetError::NotWritten(error)) => Some(error),
        Err(SetError::Unknown(error)) if error.kind == ErrorKind::Unreachable => None,
        other => panic!("{other:?}"),
    })
    .await;
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
}

#[tokio::test]
async fn a_hanging_server_costs_no_more_than_the_deadline() {
    let (_dir, immudb) = immudb().await;
    let patient = Session::open(&immudb.settings("aethyr")).await.unwrap();
    let mut deadline = Duration::from_millis(300);
    // On a busy machine, a server that is up needs longer: checking a password takes processor
    // time.
    let (settings, session) = loop {
        let settings = immudb.settings("aethyr");
        let short = SessionSettings { connect_timeout: deadline, request_timeout: deadline, ..settings };
        match Session::open(&short).await {
            Ok(session) => break (short, session),
            Err(_) => deadline *= 2,
        }
        assert!(deadline < PATIENCE / 10, "not within {deadline:?}");
    };
    immudb.pause();

    // The server hangs forever: without the deadline, none of these calls would end.
    let error = tokio::time::timeout(PATIENCE, session.get(b"a")).await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    match tokio::time::timeout(PATIENCE, session.set(vec![kv("a", "1")], vec![])).await.unwrap() {
        Err(SetError::Unknown(error)) => assert_eq!(error.kind, ErrorKind::Unreachable, "{error}"),
        other => panic!("{other:?}"),
    }
    let error = tokio::time::timeout(PATIENCE, Session::open(&settings)).await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");

    immudb.resume();
    assert!(patient.get(b"b").await.is_ok());
    // The session is still valid.
    eventually(async || session.get(b"b").await.ok()).await;
}

#[tokio::test]
async fn pages_shrink_until_large_transactions_fit() {
    let (_dir, immudb) = immudb().await;
    let settings = SessionSettings { response_bytes_max: 1024 * 1024, ..immudb.settings("aethyr") };
    let session = Session::open(&settings).await.unwrap();
    let large = "x".repeat(400 * 1024);
    for number in 1..=40_u32 {
        let value = if (11..=20).contains(&number) { large.as_str() } else { "small" };
        session.set(vec![kv(&format!("key:{number}"), value)], vec![]).await.unwrap();
    }
    let error = session.scan_transactions(TxId(1), 40).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooLarge, "{error}");

    let mut pages = TransactionPages::from(TxId(1));
    let (mut keys, mut lengths) = (Vec::new(), Vec::new());
    loop {
        let page = pages.next(&session).await.unwrap();
        if page.is_empty() {
            break;
        }
        lengths.push(page.len());
        keys.extend(page.into_iter().flat_map(|tx| tx.entries).map(|(key, _)| key));
    }
    let expected: Vec<_> = (1..=40).map(|number| Bytes::from(format!("key:{number}"))).collect();
    assert_eq!(keys, expected);
    assert_eq!(lengths.iter().min(), Some(&2), "two large ones fit, three do not: {lengths:?}");
    let mut after = lengths.iter().skip_while(|length| **length > 2);
    assert!(after.any(|length| *length > 2), "grown again: {lengths:?}");
    assert_eq!(pages.position(), TxId(41));
}

#[tokio::test]
async fn a_transaction_that_never_fits_is_an_error() {
    let (_dir, immudb) = immudb().await;
    let settings = SessionSettings { response_bytes_max: 64 * 1024, ..immudb.settings("aethyr") };
    let session = Session::open(&settings).await.unwrap();
    session.set(vec![kv("a", &"x".repeat(64 * 1024))], vec![]).await.unwrap();
    let error = TransactionPages::from(TxId(1)).next(&session).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooLarge, "{error}");
}

#[tokio::test]
async fn what_others_did_to_the_database_shows() {
    let (_dir, immudb) = immudb().await;
    let session = Session::open(&immudb.settings("aethyr")).await.unwrap();
    session.set(vec![kv("a", "1")], vec![]).await.unwrap();
    immudb.reader(&["--database", "aethyr", "delete", "a"]);

    assert_eq!(session.get(b"a").await, Ok(None));
    let page = session.scan_transactions(TxId(1), 10).await.unwrap();
    let foreign: Vec<_> = page.iter().map(|tx| (tx.entries.len(), tx.foreign_entries())).collect();
    assert_eq!(foreign, [(1, 0), (0, 1)]);

    // Dropped data is gone for an open session, too.
    immudb.reader(&["--database", "aethyr", "drop-database"]);
    assert!(session.get(b"a").await.is_err());
}

/// Returns the directory first, so that it is dropped last.
async fn immudb() -> (tempfile::TempDir, ImmuDb) {
    let dir = tempfile::tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    (dir, immudb)
}

fn kv(key: &str, value: &str) -> KeyValue {
    KeyValue { key: Bytes::from(key.to_owned()), value: Bytes::from(value.to_owned()) }
}

fn pair(key: &str, value: &str) -> (Bytes, Bytes) {
    (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()))
}

/// Repeats the question until there is an answer.
async fn eventually<T>(question: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(answer) = question().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within {PATIENCE:?}");
}
