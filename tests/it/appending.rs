//! What an append promises: expected sequences that hold, all or nothing, and deduplication by
//! event id.

use std::collections::BTreeSet;

use aethyr_event_store::grpc::wire::{NewEvent, SaveSnapshotRequest, State, StoredIn, new_event::Data};
use tempfile::tempdir;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{
    events::{append, append_to, event, expecting, load, reason, request, whole_order},
    immudb::ImmuDb,
    service::{Client, Service, Setup},
};

async fn refused(client: &mut Client, events: Vec<NewEvent>) -> (Code, String) {
    let status = client.append_events(request(events)).await.unwrap_err();
    (status.code(), reason(&status))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expectation_that_fails_says_what_it_missed_and_stores_nothing() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    let created = expecting(vec![event("room-1")], &[("room-1", 0)]);
    client.append_events(created.clone()).await.unwrap();
    let mut again = created;
    again.events[0].event_id.clear();
    let status = client.append_events(again).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Aborted, "room-1: expected sequence number 0, actual 1")
    );
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.reason, "WRONG_EXPECTED_SEQUENCE");
    assert_eq!((info.metadata["expected"].as_str(), info.metadata["actual"].as_str()), ("0", "1"));
    // An aggregate without an event in the call is checked, too.
    let status = client.append_events(expecting(vec![event("room-2")], &[("room-1", 7)])).await.unwrap_err();
    assert_eq!(status.message(), "room-1: expected sequence number 7, actual 1");
    client.append_events(expecting(vec![event("room-2")], &[("room-1", 1), ("room-3", 0)])).await.unwrap();
    assert_eq!(whole_order(&mut client).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_appends_that_race_for_a_number_one_wins() {
    let service = Service::start(Setup::local()).await;
    for round in 0..30 {
        let racers = (0..16).map(|_| {
            let mut client = service.client();
            tokio::spawn(async move {
                client.append_events(expecting(vec![event("room-1")], &[("room-1", round)])).await
            })
        });
        let mut won = 0;
        for racer in racers.collect::<Vec<_>>() {
            match racer.await.unwrap() {
                Ok(answer) => {
                    won += 1;
                    assert_eq!(answer.into_inner().aggregates[0].last_sequence, round + 1);
                }
                Err(status) => {
                    assert_eq!(
                        status.message(),
                        format!("room-1: expected sequence number {round}, actual {}", round + 1)
                    );
                }
            }
        }
        assert_eq!(won, 1, "round {round}");
    }
    assert_eq!(load(&mut service.client(), "room-1").await.len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_over_three_aggregates_is_stored_whole_or_not_at_all() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    append_to(&mut client, "c", 1).await;
    let three = || vec![event("a"), event("b"), event("c"), event("a")];
    let status = client.append_events(expecting(three(), &[("a", 0), ("b", 0), ("c", 0)])).await.unwrap_err();
    assert_eq!(reason(&status), "WRONG_EXPECTED_SEQUENCE");
    let mut wrong_type = three();
    wrong_type[3].aggregate_type = "Hero".into();
    assert_eq!(refused(&mut client, wrong_type).await.0, Code::InvalidArgument);
    assert_eq!(service.stats().await.event_count, 1);
    let answer =
        client.append_events(expecting(three(), &[("a", 0), ("b", 0), ("c", 1)])).await.unwrap().into_inner();
    let numbers: Vec<_> = answer
        .aggregates
        .iter()
        .map(|one| (one.aggregate_id.as_str(), one.first_sequence, one.last_sequence))
        .collect();
    assert_eq!(numbers, [("a", 1, 2), ("b", 1, 1), ("c", 2, 2)]);
    assert_eq!((answer.first_position, answer.last_position), (2, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_keeps_its_first_type() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    let untyped = |id: &str| NewEvent { aggregate_type: String::new(), ..event(id) };
    let status = client.append_events(request(vec![untyped("a")])).await.unwrap_err();
    assert_eq!(
        status.get_error_details().bad_request().unwrap().field_violations[0].field,
        "events[0].aggregate_type"
    );
    append(&mut client, vec![event("a"), untyped("a")]).await;
    append(&mut client, vec![untyped("a")]).await;
    let other = NewEvent { aggregate_type: "Hero".into(), ..event("a") };
    assert_eq!(refused(&mut client, vec![other]).await.0, Code::InvalidArgument);
    assert!(load(&mut client, "a").await.iter().all(|event| event.aggregate_type == "Place"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_gives_the_first_answer_again_and_stores_nothing() {
    let mut service = Service::start(Setup::local()).await;
    let mut client = service.client();
    let sent = expecting(vec![event("a"), event("b"), event("a")], &[("a", 0)]);
    let first = client.append_events(sent.clone()).await.unwrap().into_inner();
    append_to(&mut client, "a", 3).await;
    for round in 0..2 {
        // The expectation would fail by now, so the event ids must be checked first.
        let again = service.client().append_events(sent.clone()).await.unwrap().into_inner();
        assert!(again.already_stored, "round {round}");
        assert_eq!(again.event_ids, first.event_ids);
        assert_eq!((again.first_position, again.last_position), (first.first_position, first.last_position));
        let numbers = |answer: &aethyr_event_store::grpc::wire::AppendEventsResponse| {
            let of = |one: &aethyr_event_store::grpc::wire::AppendedAggregate| {
                (one.aggregate_id.clone(), one.first_sequence, one.last_sequence)
            };
            answer.aggregates.iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&again), numbers(&first));
        service.kill();
        service.restart().await;
    }
    assert_eq!(service.stats().await.event_count, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_come_back_with_other_events_are_refused() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    let (one, two) = (event("a"), event("a"));
    append(&mut client, vec![one.clone(), two.clone()]).await;
    let changed = NewEvent { data: Some(Data::Json("{}".into())), ..two.clone() };
    for company in [
        vec![one.clone()],
        vec![two.clone()],
        vec![two.clone(), one.clone()],
        vec![one.clone(), two.clone(), event("a")],
        vec![event("b"), one.clone()],
        vec![one.clone(), changed],
        vec![one.clone(), NewEvent { aggregate_id: "b".into(), ..two.clone() }],
    ] {
        assert_eq!(refused(&mut client, company).await, (Code::AlreadyExists, "EVENT_ID_REUSED".into()));
    }
    let twice = refused(&mut client, vec![event("b"), one.clone(), one]).await;
    assert_eq!(twice.0, Code::InvalidArgument);
    assert_eq!(service.stats().await.event_count, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_ids_by_many_callers_at_once_are_stored_once() {
    let service = Service::start(Setup::local()).await;
    for _ in 0..20 {
        let events = vec![event("a"), event("b")];
        let callers = (0..8).map(|_| {
            let (mut client, events) = (service.client(), events.clone());
            tokio::spawn(async move { append(&mut client, events).await })
        });
        let mut positions = BTreeSet::new();
        let mut stored = 0;
        for caller in callers.collect::<Vec<_>>() {
            let answer = caller.await.unwrap();
            positions.insert(answer.first_position);
            stored += usize::from(!answer.already_stored);
        }
        assert_eq!((positions.len(), stored), (1, 1));
    }
    assert_eq!(service.stats().await.event_count, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_says_where_the_events_lie_now() {
    let dir = tempdir().unwrap();
    let mut immudb = ImmuDb::start(dir.path()).await;
    let mut service = Service::start(Setup::with_immudb(immudb.port())).await;
    let (early, late) = (vec![event("a")], vec![event("a")]);
    let first = append(&mut service.client(), early.clone()).await;
    assert_eq!(first.stored_in(), StoredIn::Immudb);
    immudb.kill();
    assert_eq!(append(&mut service.client(), late.clone()).await.stored_in(), StoredIn::LocalLog);
    assert_eq!(append(&mut service.client(), late.clone()).await.stored_in(), StoredIn::LocalLog);
    let again = append(&mut service.client(), early.clone()).await;
    assert_eq!((again.stored_in(), again.immudb_tx), (StoredIn::Immudb, first.immudb_tx));
    immudb.restart().await;
    service.wait_until_forwarded().await;
    let moved = append(&mut service.client(), late.clone()).await;
    assert!(
        moved.already_stored && moved.stored_in() == StoredIn::Immudb && moved.immudb_tx > first.immudb_tx
    );
    // After a crash and without the index, the answer comes from the log and ImmuDB.
    service.kill();
    std::fs::remove_dir_all(service.storage().join("index")).unwrap();
    service.restart().await;
    service.wait_until_forwarded().await;
    for (events, before) in [(early, first), (late, moved)] {
        let again = append(&mut service.client(), events).await;
        assert!(again.already_stored);
        assert_eq!((again.immudb_tx, again.first_position), (before.immudb_tx, before.first_position));
    }
    assert_eq!(service.stats().await.event_count, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_when_a_snapshot_is_due() {
    let setup = Setup::local()
        .set("event_sourcing", "snapshot_threshold: 3")
        .set("event_sourcing", "snapshot_thresholds: { Hero: 5 }")
        .set("event_sourcing", "snapshot_thresholds_by_id: { special: 1 }");
    let service = Service::start(setup).await;
    let mut client = service.client();
    let due = |answers: Vec<aethyr_event_store::grpc::wire::AppendEventsResponse>| {
        answers.iter().map(|answer| answer.aggregates[0].snapshot_due).collect::<Vec<_>>()
    };
    assert_eq!(due(append_to(&mut client, "room", 4).await), [false, false, true, true]);
    let snapshot =
        SaveSnapshotRequest { aggregate_id: "room".into(), sequence_number: 4, ..Default::default() };
    client.save_snapshot(snapshot).await.unwrap();
    assert_eq!(due(append_to(&mut client, "room", 3).await), [false, false, true]);
    assert_eq!(due(append_to(&mut client, "special", 1).await), [true]);
    let mut players = Vec::new();
    for _ in 0..5 {
        players
            .push(append(&mut client, vec![NewEvent { aggregate_type: "Hero".into(), ..event("p") }]).await);
    }
    assert_eq!(due(players), [false, false, false, false, true]);
    assert_eq!(service.stats().await.state(), State::LocalOnly);
}
