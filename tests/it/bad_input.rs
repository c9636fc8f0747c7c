//! Bad input gets a status that names the field and the reason, and changes nothing.
//!
//! Odd but valid input works.

use aethyr_event_store::grpc::wire::{
    AppendEventsRequest, Checkpoint, Filter, ListAggregatesRequest, LoadEventsRequest, LoadManyEventsRequest,
    LoadSnapshotRequest, NewEvent, ReadAllRequest, SaveSnapshotRequest, SubscribeRequest, new_event::Data,
    save_snapshot_request,
};
use prost_types::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{
    events::{append, event, expecting, load, request, whole_order},
    service::{Service, Setup},
};

fn assert_names(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
    let details = status.get_error_details();
    let named = details.bad_request().unwrap_or_else(|| panic!("{field}: no BadRequest"));
    assert_eq!(named.field_violations[0].field, field);
    assert!(status.message().contains(field), "{}", status.message());
}

fn bad_appends() -> Vec<(AppendEventsRequest, &'static str)> {
    let with = |change: &dyn Fn(&mut NewEvent)| {
        let mut one = event("room-1");
        change(&mut one);
        request(vec![event("room-1"), one])
    };
    let json = |text: &str| Some(Data::Json(text.to_owned()));
    let time = |seconds, nanos| Some(Timestamp { seconds, nanos });
    let twice = event("room-1");
    let many = |count: usize| (0..count).map(|number| (format!("k{number}"), String::new())).collect();
    let expected: Vec<String> = (0..1001).map(|number| format!("room-{number}")).collect();
    let expected: Vec<(&str, u64)> = expected.iter().map(|id| (id.as_str(), 0)).collect();
    vec![
        (request(vec![]), "events"),
        (request((0..501).map(|_| event("room-1")).collect()), "events"),
        (with(&|e| e.event_id = "no-uuid".into()), "events[1].event_id"),
        (request(vec![twice.clone(), twice]), "events[1].event_id"),
        (with(&|e| e.aggregate_id = String::new()), "events[1].aggregate_id"),
        (with(&|e| e.aggregate_id = "x".repeat(256)), "events[1].aggregate_id"),
        (with(&|e| e.aggregate_id = "a\nb".into()), "events[1].aggregate_id"),
        (with(&|e| e.aggregate_id = "aethyr:audit".into()), "events[1].aggregate_id"),
        (with(&|e| e.aggregate_type = "x".repeat(256)), "events[1].aggregate_type"),
        (with(&|e| e.aggregate_type = "a\u{0}".into()), "events[1].aggregate_type"),
        (with(&|e| e.event_type = String::new()), "events[1].event_type"),
        (with(&|e| e.event_type = "x".repeat(256)), "events[1].event_type"),
        (with(&|e| e.data = json("{")), "events[1].json"),
        (with(&|e| e.data = json("")), "events[1].json"),
        (with(&|e| e.data = json("{} {}")), "events[1].json"),
        (with(&|e| e.data = json(&format!("\"{}\"", "x".repeat(1_000_000)))), "events[1].json"),
        (with(&|e| e.data = Some(Data::Binary(vec![0; 1_000_001].into()))), "events[1].binary"),
        (with(&|e| e.correlation_id = "x".repeat(256)), "events[1].correlation_id"),
        (with(&|e| e.causation_id = "x".repeat(256)), "events[1].causation_id"),
        (with(&|e| e.metadata = many(65)), "events[1].metadata"),
        (with(&|e| _ = e.metadata.insert(String::new(), "x".into())), "events[1].metadata"),
        (with(&|e| _ = e.metadata.insert("k".into(), "x".repeat(4097))), "events[1].metadata"),
        (with(&|e| e.occurred_at = time(0, -1)), "events[1].occurred_at"),
        (with(&|e| e.occurred_at = time(0, 1_000_000_000)), "events[1].occurred_at"),
        (with(&|e| e.occurred_at = time(i64::MAX, 0)), "events[1].occurred_at"),
        (expecting(vec![event("room-1")], &[("", 0)]), "expected_sequences[0]"),
        (expecting(vec![event("room-1")], &expected), "expected_sequences"),
    ]
}

fn bad_lists() -> Vec<(ListAggregatesRequest, &'static str)> {
    vec![
        (ListAggregatesRequest { page_size: 1001, ..Default::default() }, "page_size"),
        (ListAggregatesRequest { page_token: "zz".into(), ..Default::default() }, "page_token"),
        // A valid token, but from a list with another prefix.
        (
            ListAggregatesRequest {
                aggregate_id_prefix: "room".into(),
                page_token: "7a".into(),
                ..Default::default()
            },
            "page_token",
        ),
        (ListAggregatesRequest { page_token: "0a".into(), ..Default::default() }, "page_token"),
        (ListAggregatesRequest { aggregate_type: "a\n".into(), ..Default::default() }, "aggregate_type"),
        (
            ListAggregatesRequest { aggregate_id_prefix: "x".repeat(256), ..Default::default() },
            "aggregate_id_prefix",
        ),
    ]
}

fn bad_filters() -> Vec<(Filter, &'static str)> {
    let time = |seconds, nanos| Some(Timestamp { seconds, nanos });
    vec![
        (Filter { event_types: vec![String::new()], ..Default::default() }, "filter.event_types"),
        (Filter { aggregate_id_prefix: "\u{7}".into(), ..Default::default() }, "filter.aggregate_id_prefix"),
        (Filter { correlation_id: "x".repeat(256), ..Default::default() }, "filter.correlation_id"),
        (Filter { recorded_from: time(0, -1), ..Default::default() }, "filter.recorded_from"),
        (Filter { recorded_until: time(i64::MIN, 0), ..Default::default() }, "filter.recorded_until"),
        (
            Filter { recorded_from: time(2, 0), recorded_until: time(1, 0), ..Default::default() },
            "filter.recorded_from",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_field_of_an_append_is_named_and_nothing_is_stored() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    append(&mut client, vec![event("room-1")]).await;
    for (request, field) in bad_appends() {
        assert_names(&client.append_events(request).await.unwrap_err(), field);
    }
    let large = Some(Data::Binary(vec![0; 999_000].into()));
    let nine = (0..9).map(|_| NewEvent { data: large.clone(), ..event("room-1") }).collect();
    assert_names(&client.append_events(request(nine)).await.unwrap_err(), "events");
    // A message that is too large to be decoded is rejected by the transport, which has no field to
    // name.
    let huge = NewEvent { data: Some(Data::Binary(vec![0; 20_000_000].into())), ..event("room-1") };
    assert_eq!(client.append_events(request(vec![huge])).await.unwrap_err().code(), Code::OutOfRange);
    let stats = service.stats().await;
    assert_eq!((stats.event_count, stats.last_position, stats.store_failures), (1, 1, 0));
    assert!(!service.log().contains("xxxxxxxx"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_field_of_the_other_calls_is_named() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    append(&mut client, vec![event("room-1")]).await;
    let snapshot = |change: &dyn Fn(&mut SaveSnapshotRequest)| {
        let mut one =
            SaveSnapshotRequest { aggregate_id: "room-1".into(), sequence_number: 1, ..Default::default() };
        change(&mut one);
        one
    };
    let bad_json = Some(save_snapshot_request::Data::Json("nope".into()));
    for (request, field) in [
        (snapshot(&|s| s.aggregate_id = String::new()), "aggregate_id"),
        (snapshot(&|s| s.aggregate_id = "aethyr:audit".into()), "aggregate_id"),
        (snapshot(&|s| s.sequence_number = 0), "sequence_number"),
        (snapshot(&|s| s.data.clone_from(&bad_json)), "json"),
        (
            snapshot(&|s| s.data = Some(save_snapshot_request::Data::Binary(vec![0; 1_000_001].into()))),
            "binary",
        ),
        (snapshot(&|s| _ = s.metadata.insert(String::new(), String::new())), "metadata"),
    ] {
        assert_names(&client.save_snapshot(request).await.unwrap_err(), field);
    }
    let load = |change: &dyn Fn(&mut LoadEventsRequest)| {
        let mut one = LoadEventsRequest { aggregate_id: "room-1".into(), ..Default::default() };
        change(&mut one);
        one
    };
    for (request, field) in [
        (load(&|l| l.aggregate_id = "a\tb".into()), "aggregate_id"),
        (load(&|l| (l.from_snapshot, l.backwards) = (true, true)), "from_snapshot"),
        (load(&|l| l.recorded_until = Some(Timestamp { seconds: 0, nanos: -1 })), "recorded_until"),
    ] {
        assert_names(&client.load_events(request).await.unwrap_err(), field);
    }
    let status = client.load_snapshot(LoadSnapshotRequest::default()).await.unwrap_err();
    assert_names(&status, "aggregate_id");
    for (request, field) in bad_lists() {
        assert_names(&client.list_aggregates(request).await.unwrap_err(), field);
    }
    for (filter, field) in bad_filters() {
        let read = ReadAllRequest { filter: Some(filter), ..Default::default() };
        assert_names(&client.read_all(read).await.unwrap_err(), field);
    }
    for (ids, field) in [
        (vec![], "aggregate_ids"),
        (vec!["x".to_owned(); 1], ""),
        (vec!["x".to_owned(); 2], "aggregate_ids[1]"),
        (vec!["x".to_owned(), String::new()], "aggregate_ids[1]"),
        ((0..=1000).map(|number| number.to_string()).collect(), "aggregate_ids"),
        ((0..1000).map(|number| number.to_string()).collect(), ""),
    ] {
        let request = LoadManyEventsRequest { aggregate_ids: ids, ..Default::default() };
        match client.load_many_events(request).await {
            Ok(_) => assert_eq!(field, ""),
            Err(status) => assert_names(&status, field),
        }
    }
    let filter = Filter { aggregate_types: vec!["Place".into(); 101], ..Default::default() };
    let subscribe = SubscribeRequest { filter: Some(filter), ..Default::default() };
    assert_names(&client.subscribe(subscribe).await.unwrap_err(), "filter.aggregate_types");
    let after = Some(Checkpoint { position: 1, chain_hash: vec![1, 2, 3].into() });
    let subscribe = SubscribeRequest { after, ..Default::default() };
    assert_names(&client.subscribe(subscribe).await.unwrap_err(), "after.chain_hash");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_aggregate_ids_are_ids_like_any_other() {
    let setup = Setup::local().set("event_sourcing", "event_files: true");
    let mut service = Service::start(setup).await;
    let mut client = service.client();
    let long = format!("{}b", "ä".repeat(127));
    let other_long = format!("{}c", "ä".repeat(127));
    let ids =
        ["../x", "a/b", "a%2Fb", "snapshots", ".", "..", "a.sequence", "a", "Ä:ö", " ", &long, &other_long];
    for id in ids {
        append(&mut client, vec![event(id), event(id)]).await;
    }
    service.wait_for("the event files", |stats| stats.event_files_pending == 0).await;
    service.kill();
    service.restart().await;
    let mut client = service.client();
    for id in ids {
        let events = load(&mut client, id).await;
        assert_eq!(events.iter().map(|event| event.sequence_number).collect::<Vec<_>>(), [1, 2], "{id}");
        assert!(events.iter().all(|event| event.aggregate_id == id));
    }
    assert_eq!(whole_order(&mut client).await.len(), 2 * ids.len());
    let files = service.storage().join("events");
    assert!(files.join("a%2Fb/1.event").exists() && files.join("a%252Fb/2.event").exists());
    assert!(files.join("a%2Esequence/1.event").exists() && files.join("a.sequence").is_file());
    assert!(files.join("snapshots/1.event").exists() && !service.storage().join("x").exists());
    let page = client
        .list_aggregates(ListAggregatesRequest { page_size: 1000, ..Default::default() })
        .await
        .unwrap();
    let listed: Vec<String> = page.into_inner().aggregates.into_iter().map(|one| one.aggregate_id).collect();
    let mut sorted: Vec<&str> = ids.to_vec();
    sorted.sort_unstable();
    assert_eq!(listed, sorted);
}
