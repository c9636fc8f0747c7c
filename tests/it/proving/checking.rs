//! Reads that are verified, and the verification of an aggregate and of everything.

use std::time::Instant;

use aethyr_event_store::{
    grpc::wire::{
        LoadEventsRequest, RecordedEvent, State, StoredIn, VerificationResult, VerifyAggregateRequest,
        VerifyAllRequest, verify_aggregate_response, verify_all_response,
    },
    proof::root,
};
use tempfile::{TempDir, tempdir};
use tonic::{Code, Status};

use super::{POLL, leaves, with_checkpoints};
use crate::support::{
    events::{append, append_to, event, load, load_pieces, reason, whole_order},
    immudb::{ImmuDb, other_client::OtherClient},
    service::{Client, PATIENCE, Service, Setup},
    stored::key_of,
};

const DATABASE: &str = "aethyr";
const FORGED: &[u8] = b"forged";

/// Starts a service whose events are all in ImmuDB, with a checkpoint: some of each of two
/// aggregates.
async fn begin() -> (TempDir, ImmuDb, Service) {
    let dir = tempdir().unwrap();
    let immudb = ImmuDb::start(dir.path()).await;
    let setup = with_checkpoints(Setup::with_immudb(immudb.port())).set("immudb", "keep_alive: 90.0");
    let service = Service::start(setup).await;
    let mut client = service.client();
    for _ in 0..3 {
        append(&mut client, vec![event("room-1"), event("room-2"), event("room-1")]).await;
    }
    let last = service.wait_until_forwarded().await.last_position;
    let (other, key) = (OtherClient::log_in(&immudb, DATABASE).await, format!("checkpoint:{last:020}"));
    let has_checkpoint = async || {
        let transactions = other.transactions().await;
        transactions.iter().flat_map(|found| &found.entries).any(|(found, _)| found == key.as_bytes())
    };
    service.wait_until("the checkpoint is in ImmuDB", has_checkpoint).await;
    (dir, immudb, service)
}

async fn load_verified(client: &mut Client, aggregate: &str) -> Result<Vec<RecordedEvent>, Status> {
    let request = LoadEventsRequest {
        aggregate_id: aggregate.to_owned(),
        verified: true,
        ..LoadEventsRequest::default()
    };
    let pieces = load_pieces(client, request).await?;
    Ok(pieces.into_iter().flat_map(|piece| piece.events).collect())
}

/// Asserts that a verified read returns all events, at the latest when the tree has them.
async fn assert_loads_verified(service: &Service, aggregate: &str) {
    let is_verified = async || match load_verified(&mut service.client(), aggregate).await {
        Ok(_) => true,
        Err(status) if ["NOT_VERIFIED", "TREE"].contains(&&*reason(&status)) => false,
        Err(status) => panic!("{status:?}"),
    };
    service.wait_until("the events are verified", is_verified).await;
    let unverified = load(&mut service.client(), aggregate).await;
    assert_eq!(load_verified(&mut service.client(), aggregate).await.unwrap(), unverified);
}

async fn assert_not_verified(service: &Service, aggregate: &str) {
    let status = load_verified(&mut service.client(), aggregate).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::FailedPrecondition, "NOT_VERIFIED"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_read_returns_what_immudb_has_confirmed() {
    let (_dir, mut immudb, mut service) = begin().await;
    for aggregate in ["room-1", "room-2"] {
        assert_loads_verified(&service, aggregate).await;
    }
    immudb.kill();
    let answers = append_to(&mut service.client(), "room-1", 2).await;
    assert!(answers.iter().all(|answer| answer.stored_in() == StoredIn::LocalLog));
    assert_not_verified(&service, "room-1").await;
    assert_loads_verified(&service, "room-2").await;
    // What ImmuDB has confirmed is known after a restart, too.
    assert!(service.stop().success());
    service.restart().await;
    service.wait_for_state(State::Fallback).await;
    assert_loads_verified(&service, "room-2").await;
    assert_not_verified(&service, "room-1").await;
    immudb.restart().await;
    service.wait_until_forwarded().await;
    assert_loads_verified(&service, "room-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_verified_without_immudb() {
    let service = Service::start(Setup::local()).await;
    append_to(&mut service.client(), "room-1", 2).await;
    assert_not_verified(&service, "room-1").await;
    let result = verify_all(&service).await;
    assert_eq!((result.events, result.immudb_events, result.contradiction_count), (2, 0, 0), "{result:#?}");
}

/// Returns the answer to a call that can be made once at a time, as soon as the one before it has
/// ended.
async fn alone<T>(service: &Service, call: impl AsyncFn(Client) -> Result<T, Status>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match call(service.client()).await {
            Ok(answer) => return answer,
            Err(status) if reason(&status) == "VERIFYING" && Instant::now() < until => {
                tokio::time::sleep(POLL).await;
            }
            Err(status) => panic!("{status:?}"),
        }
    }
}

/// Returns the result, which has to be the last message of the stream.
async fn verify_all(service: &Service) -> VerificationResult {
    let call = async |mut client: Client| client.verify_all(VerifyAllRequest {}).await;
    let mut stream = alone(service, call).await.into_inner();
    let mut result = None;
    while let Some(message) = stream.message().await.unwrap() {
        assert_eq!(result, None, "there is a message behind the result");
        if let Some(verify_all_response::Content::Result(found)) = message.content {
            result = Some(found);
        }
    }
    result.unwrap()
}

async fn verify_aggregate(service: &Service, aggregate: &str) -> VerificationResult {
    let call = async |mut client: Client| {
        client.verify_aggregate(VerifyAggregateRequest { aggregate_id: aggregate.to_owned() }).await
    };
    let mut stream = alone(service, call).await.into_inner();
    let mut result = None;
    while let Some(message) = stream.message().await.unwrap() {
        assert_eq!(result, None, "there is a message behind the result");
        if let Some(verify_aggregate_response::Content::Result(found)) = message.content {
            result = Some(found);
        }
    }
    result.unwrap()
}

fn assert_names(result: &VerificationResult, event: &RecordedEvent) {
    let is_named = result.contradictions.iter().any(|found| {
        (&*found.aggregate_id, found.sequence_number) == (&*event.aggregate_id, event.sequence_number)
    });
    assert!(is_named && result.contradiction_count > 0, "{result:#?}");
}

/// Asserts that `verify` ends with this code.
fn assert_command(service: &Service, arguments: &[&str], code: i32) {
    let address = service.address();
    let command = [&["verify"][..], arguments, &["--address", &address]].concat();
    let until = Instant::now() + PATIENCE;
    loop {
        let output = service.command(&command).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        if said.contains("VERIFYING") && Instant::now() < until {
            continue;
        }
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        return;
    }
}

/// Waits until the verified state of ImmuDB includes its last transaction, such as that of a
/// checkpoint.
async fn assert_trusted(service: &Service, immudb: &ImmuDb) {
    let other = OtherClient::log_in(immudb, DATABASE).await;
    let is_trusted = async || service.stats().await.trusted_transaction == other.last().await;
    service.wait_until("the last transaction is trusted", is_trusted).await;
}

async fn assert_clean(service: &Service, immudb: &ImmuDb) {
    assert_trusted(service, immudb).await;
    let order = whole_order(&mut service.client()).await;
    let all = verify_all(service).await;
    let count = order.len() as u64;
    assert_eq!((all.events, all.immudb_events, all.contradiction_count), (count, count, 0), "{all:#?}");
    let expected = root(&leaves(&order)[..all.tree_size as usize]);
    assert_eq!(all.tree_root.as_ref(), expected, "{all:#?}");
    assert!(all.contradictions.is_empty() && all.immudb_transaction > 0, "{all:#?}");
    for aggregate in ["room-1", "room-2"] {
        let count = order.iter().filter(|event| event.aggregate_id == aggregate).count() as u64;
        let one = verify_aggregate(service, aggregate).await;
        assert_eq!((one.events, one.immudb_events, one.last_sequence), (count, count, count), "{one:#?}");
        assert_eq!((one.contradiction_count, one.contradictions.len()), (0, 0), "{one:#?}");
        assert_command(service, &[aggregate], 0);
    }
    assert_command(service, &[], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_names_the_event_that_was_overwritten_in_immudb() {
    let (_dir, immudb, service) = begin().await;
    assert_clean(&service, &immudb).await;
    let order = whole_order(&mut service.client()).await;
    let overwritten = order.iter().find(|event| event.sequence_number == 2).unwrap();
    OtherClient::log_in(&immudb, DATABASE).await.write(&key_of(overwritten), FORGED).await;

    assert_names(&verify_aggregate(&service, &overwritten.aggregate_id).await, overwritten);
    assert_names(&verify_all(&service).await, overwritten);
    assert_eq!(verify_aggregate(&service, "room-2").await.contradiction_count, 0);
    assert_command(&service, &[&overwritten.aggregate_id], 1);
    assert_command(&service, &["room-2"], 0);
    assert_command(&service, &[], 1);
    // What is served comes from the local log.
    assert_eq!(whole_order(&mut service.client()).await, order);
}
