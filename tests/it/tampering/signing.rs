//! ImmuDB signs its states, and the service demands a signature with a certain key.

use std::{fs, path::Path};

use aethyr_event_store::grpc::wire::{State, StatsResponse, StoredIn};
use tempfile::tempdir;

use super::{
    DATABASE,
    findings::{self, BAD_SIGNATURE},
};
use crate::{
    outage::assert_in_immudb,
    support::{
        events::{append, append_to, event, whole_order},
        immudb::{
            ImmuDb,
            other_client::OtherClient,
            signing::{ANOTHER_PUBLIC_KEY, ITS_PUBLIC_KEY, SIGNING_KEY},
        },
        service::{Service, Setup},
    },
};

/// Returns a setup that demands signatures with this key.
fn pinned(immudb: &ImmuDb, folder: &Path, name: &str, key: &str) -> Setup {
    let path = folder.join(name);
    fs::write(&path, key).unwrap();
    Setup::with_immudb(immudb.port())
        .set("immudb", "keep_alive: 90.0")
        .set("immudb", "retry_delay: 0.05")
        .set("immudb", "retry_delay_max: 0.2")
        .set("immudb", &format!("public_key_file: {}", path.display()))
}

/// Asserts that nothing is sent to ImmuDB because of its signature, and that the local log goes on.
async fn assert_refused(service: &Service, immudb: &ImmuDb) {
    let last = OtherClient::log_in(immudb, DATABASE).await.last().await;
    let answer = append(&mut service.client(), vec![event("room-1")]).await;
    assert_eq!(answer.stored_in(), StoredIn::LocalLog);
    let is_refused = |stats: &StatsResponse| {
        let names_it = stats.immudb.as_ref().is_some_and(|immudb| immudb.last_error.contains("sign"));
        stats.state() == State::Fallback && names_it
    };
    service.wait_for("the signature is refused", is_refused).await;
    let open = findings::open(service);
    assert!(open.iter().any(|found| found.kind == BAD_SIGNATURE), "{open:#?}");
    assert_eq!(OtherClient::log_in(immudb, DATABASE).await.last().await, last, "it was written to");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immudb_that_does_not_sign_with_the_configured_key_gets_nothing() {
    let dir = tempdir().unwrap();
    let signing_key = dir.path().join("signing.key");
    fs::write(&signing_key, SIGNING_KEY).unwrap();
    let flag = format!("--signingKey={}", signing_key.display());
    let mut immudb = ImmuDb::start_with(dir.path(), &[&flag]).await;
    let right = pinned(&immudb, dir.path(), "right.pem", ITS_PUBLIC_KEY);
    let wrong = pinned(&immudb, dir.path(), "wrong.pem", ANOTHER_PUBLIC_KEY);

    let mut service = Service::start(right.clone()).await;
    let answers = append_to(&mut service.client(), "room-1", 2).await;
    assert!(answers.iter().all(|answer| answer.stored_in() == StoredIn::Immudb));
    assert_eq!(service.wait_until_forwarded().await.open_findings, 0);

    assert!(service.stop().success());
    service.reconfigure(wrong);
    service.restart().await;
    assert_refused(&service, &immudb).await;

    assert!(service.stop().success());
    service.reconfigure(right);
    service.restart().await;
    service.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);

    // A server without a key signs nothing.
    immudb.restart_with(&[]).await;
    assert_refused(&service, &immudb).await;
    immudb.restart_with(&[&flag]).await;
    service.wait_until_forwarded().await;
    assert_in_immudb(&immudb, &whole_order(&mut service.client()).await);
}
