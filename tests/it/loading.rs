//! Reads: whole histories and parts of them, snapshots and lists.
//!
//! Limits and pages are respected, and snapshots only shorten a read.

use aethyr_event_store::grpc::wire::{
    ListAggregatesRequest, LoadEventsRequest, LoadManyEventsRequest, LoadManyEventsResponse,
    LoadSnapshotRequest, NewEvent, ReadAllRequest, RecordedEvent, SaveSnapshotRequest, StoredIn, new_event,
    recorded_event, save_snapshot_request, snapshot,
};
use prost::Message;
use tonic::{Code, Status};

use crate::support::{
    events::{append, append_to, event, load, load_pieces, read_all, reason},
    service::{Client, Service, Setup},
};

const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

fn part(change: impl FnOnce(&mut LoadEventsRequest)) -> LoadEventsRequest {
    let mut request = LoadEventsRequest { aggregate_id: "room-1".to_owned(), ..Default::default() };
    change(&mut request);
    request
}

async fn numbers(client: &mut Client, request: LoadEventsRequest) -> Vec<u64> {
    let pieces = load_pieces(client, request).await.unwrap();
    pieces.iter().flat_map(|piece| &piece.events).map(|event| event.sequence_number).collect()
}

async fn save(client: &mut Client, sequence: u64, version: u32, json: &str) -> Result<StoredIn, Status> {
    let request = SaveSnapshotRequest {
        aggregate_id: "room-1".to_owned(),
        sequence_number: sequence,
        data: Some(save_snapshot_request::Data::Json(json.to_owned())),
        schema_version: version,
        metadata: [("by".to_owned(), "test".to_owned())].into(),
    };
    client.save_snapshot(request).await.map(|saved| saved.into_inner().stored_in())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_comes_in_messages_that_every_client_takes() {
    const EVENTS: usize = 20_000;
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    let data = |number: usize| format!("{number:06}").repeat(420).into_bytes();
    for first in (0..EVENTS).step_by(500) {
        let events = (first..first + 500).map(|number| NewEvent {
            data: Some(new_event::Data::Binary(data(number).into())),
            ..event("room-1")
        });
        append(&mut client, events.collect()).await;
    }
    let check = |events: Vec<RecordedEvent>| {
        assert_eq!(events.len(), EVENTS);
        for (number, event) in events.into_iter().enumerate() {
            assert_eq!(event.sequence_number, number as u64 + 1);
            assert_eq!(event.data, Some(recorded_event::Data::Binary(data(number).into())));
        }
    };
    let pieces = load_pieces(&mut client, part(|_| {})).await.unwrap();
    assert!(pieces.iter().map(Message::encoded_len).sum::<usize>() > 50_000_000);
    assert!(pieces.iter().all(|piece| piece.encoded_len() < MESSAGE_BYTES_MAX));
    assert!(pieces.iter().all(|piece| piece.last_sequence == EVENTS as u64));
    check(pieces.into_iter().flat_map(|piece| piece.events).collect());

    let mut stream = client.read_all(ReadAllRequest::default()).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(piece) = stream.message().await.unwrap() {
        assert!(piece.encoded_len() < MESSAGE_BYTES_MAX);
        events.extend(piece.events);
    }
    check(events);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_comes_back_as_it_was_sent() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    let sent = NewEvent {
        data: Some(new_event::Data::Json("{ \"b\":1e2,  \"a\":[\"\\u00e4\", 10000000000000000001] }".into())),
        correlation_id: "quest-7".into(),
        causation_id: "command-3".into(),
        metadata: [("player".to_owned(), "Ä:ö".to_owned()), ("empty".to_owned(), String::new())].into(),
        occurred_at: Some(prost_types::Timestamp { seconds: -5, nanos: 999_999_999 }),
        ..event("room-1")
    };
    append(&mut client, vec![sent.clone(), NewEvent { data: None, ..event("room-1") }]).await;
    let loaded = load(&mut client, "room-1").await;
    let [first, second] = &loaded[..] else { panic!("{loaded:?}") };
    let Some(recorded_event::Data::Json(json)) = first.data.clone() else { panic!("{first:?}") };
    let back = NewEvent {
        event_id: first.event_id.clone(),
        aggregate_id: first.aggregate_id.clone(),
        aggregate_type: first.aggregate_type.clone(),
        event_type: first.event_type.clone(),
        data: Some(new_event::Data::Json(json)),
        correlation_id: first.correlation_id.clone(),
        causation_id: first.causation_id.clone(),
        metadata: first.metadata.clone(),
        occurred_at: first.occurred_at,
    };
    assert_eq!(back, sent);
    assert!(second.data.is_none() && second.occurred_at.is_none() && second.recorded_at.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn any_part_of_a_history_can_be_loaded() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 10).await;
    append_to(&mut client, "room-2", 3).await;
    append_to(&mut client, "room-1", 10).await;
    let all: Vec<u64> = (1..=20).collect();
    let mut ask = async |change: &dyn Fn(&mut LoadEventsRequest)| numbers(&mut client, part(change)).await;
    assert_eq!(ask(&|_| {}).await, all);
    assert_eq!(ask(&|r| (r.from_sequence, r.to_sequence) = (5, 7)).await, [5, 6, 7]);
    assert_eq!(ask(&|r| (r.from_sequence, r.limit) = (19, 5)).await, [19, 20]);
    assert_eq!(ask(&|r| (r.backwards, r.limit) = (true, 3)).await, [20, 19, 18]);
    let backwards = |r: &mut LoadEventsRequest| (r.backwards, r.from_sequence, r.to_sequence) = (true, 5, 7);
    assert_eq!(ask(&backwards).await, [7, 6, 5]);
    assert_eq!(ask(&|r| (r.from_sequence, r.to_sequence) = (7, 5)).await, [0; 0]);
    assert_eq!(ask(&|r| r.from_sequence = 21).await, [0; 0]);
    assert_eq!(ask(&|r| r.to_sequence = u64::MAX).await, all);

    let events = load(&mut service.client(), "room-1").await;
    let until = events[11].recorded_at;
    let key = |event: &RecordedEvent| event.recorded_at.map(|at| (at.seconds, at.nanos));
    let expected: Vec<u64> =
        events.iter().filter(|event| key(event) <= key(&events[11])).map(|e| e.sequence_number).collect();
    assert_eq!(ask(&|r| r.recorded_until = until).await, expected);
    let newest = |r: &mut LoadEventsRequest| (r.recorded_until, r.backwards, r.limit) = (until, true, 1);
    assert_eq!(ask(&newest).await, [*expected.last().unwrap()]);
    let before = Some(prost_types::Timestamp { seconds: 0, nanos: 0 });
    assert_eq!(ask(&|r| r.recorded_until = before).await, [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_that_does_not_exist_is_one_message_without_events() {
    let service = Service::start(Setup::local()).await;
    let pieces = load_pieces(&mut service.client(), part(|r| r.from_snapshot = true)).await.unwrap();
    let [piece] = &pieces[..] else { panic!("{pieces:?}") };
    assert!(piece.snapshot.is_none() && piece.events.is_empty() && piece.last_sequence == 0);
    assert_eq!(piece.aggregate_type, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn loading_starts_at_a_snapshot_that_the_caller_can_read() {
    let mut service = Service::start(Setup::local()).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 10).await;
    save(&mut client, 6, 2, "{\"exits\":[]}").await.unwrap();
    for round in 0..2 {
        let with = |r: &mut LoadEventsRequest| (r.from_snapshot, r.snapshot_schema_version) = (true, 2);
        let pieces = load_pieces(&mut service.client(), part(with)).await.unwrap();
        let found = pieces[0].snapshot.as_ref().unwrap_or_else(|| panic!("round {round}: has no snapshot"));
        assert_eq!((found.sequence_number, found.schema_version), (6, 2));
        assert_eq!(found.data, Some(snapshot::Data::Json("{\"exits\":[]}".into())));
        assert_eq!(found.metadata["by"], "test");
        assert!(found.recorded_at.is_some() && pieces[1..].iter().all(|piece| piece.snapshot.is_none()));
        assert_eq!(numbers(&mut service.client(), part(with)).await, [7, 8, 9, 10]);
        service.kill();
        service.restart().await;
    }
    let mut client = service.client();
    let all: Vec<u64> = (1..=10).collect();
    // With another schema version, or beyond the requested range, the events themselves are
    // returned.
    assert_eq!(numbers(&mut client, part(|r| r.from_snapshot = true)).await, all);
    let versioned = |r: &mut LoadEventsRequest| (r.from_snapshot, r.snapshot_schema_version) = (true, 2);
    let until = |r: &mut LoadEventsRequest| {
        versioned(r);
        r.to_sequence = 5;
    };
    assert_eq!(numbers(&mut client, part(until)).await, [1, 2, 3, 4, 5]);
    let to_the_snapshot = |r: &mut LoadEventsRequest| {
        versioned(r);
        r.to_sequence = 6;
    };
    let pieces = load_pieces(&mut client, part(to_the_snapshot)).await.unwrap();
    assert!(pieces[0].snapshot.is_some() && pieces.iter().all(|piece| piece.events.is_empty()));
    assert!(pieces.iter().all(|piece| piece.aggregate_type == "Place"));
    let loaded = client.load_snapshot(LoadSnapshotRequest { aggregate_id: "room-1".into() }).await.unwrap();
    assert_eq!(loaded.into_inner().aggregate_type, "Place");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_snapshot_is_kept_and_none_lies_ahead_of_its_aggregate() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    let ask = LoadSnapshotRequest { aggregate_id: "room-1".into() };
    let status = client.load_snapshot(ask.clone()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "NO_SNAPSHOT"));
    let ahead = save(&mut client, 1, 1, "{}").await.unwrap_err();
    assert_eq!((ahead.code(), reason(&ahead).as_str()), (Code::FailedPrecondition, "SNAPSHOT_AHEAD"));
    append_to(&mut client, "room-1", 5).await;
    let ahead = save(&mut client, 6, 1, "{}").await.unwrap_err();
    assert_eq!((ahead.code(), reason(&ahead).as_str()), (Code::FailedPrecondition, "SNAPSHOT_AHEAD"));
    save(&mut client, 4, 1, "\"four\"").await.unwrap();
    save(&mut client, 2, 1, "\"two\"").await.unwrap();
    let kept = async |client: &mut Client| {
        let found = client.load_snapshot(ask.clone()).await.unwrap().into_inner().snapshot.unwrap();
        (found.sequence_number, found.data)
    };
    let json = |text: &str| Some(snapshot::Data::Json(text.to_owned()));
    assert_eq!(kept(&mut client).await, (4, json("\"four\"")));
    save(&mut client, 4, 1, "\"four again\"").await.unwrap();
    assert_eq!(kept(&mut client).await, (4, json("\"four again\"")));
    save(&mut client, 5, 1, "\"five\"").await.unwrap();
    assert_eq!(kept(&mut client).await, (5, json("\"five\"")));
    assert_eq!(service.stats().await.snapshot_count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_aggregates_comes_in_pages() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    let mut expected = Vec::new();
    for number in 0..25 {
        let id = format!("room-{number:02}");
        append_to(&mut client, &id, 1 + number % 3).await;
        expected.push((id, 1 + number as u64 % 3));
    }
    let player = NewEvent { aggregate_type: "Hero".into(), ..event("player-1") };
    append(&mut client, vec![player]).await;
    let list = async |client: &mut Client, kind: &str, prefix: &str, page_size| {
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListAggregatesRequest {
                aggregate_type: kind.to_owned(),
                aggregate_id_prefix: prefix.to_owned(),
                page_size,
                page_token,
                snapshot_due: false,
            };
            let page = client.list_aggregates(request).await.unwrap().into_inner();
            assert!(page.aggregates.len() <= page_size as usize);
            found.extend(page.aggregates.into_iter().map(|one| (one.aggregate_id, one.last_sequence)));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return found;
            }
        }
    };
    for page_size in [1, 7, 25, 1000] {
        assert_eq!(list(&mut client, "Place", "", page_size).await, expected);
        assert_eq!(list(&mut client, "", "room-1", page_size).await, expected[10..20]);
        assert_eq!(list(&mut client, "", "", page_size).await.len(), 26);
    }
    assert_eq!(list(&mut client, "Hero", "", 10).await, [("player-1".to_owned(), 1)]);
    assert!(list(&mut client, "Sword", "", 10).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_can_have_only_what_is_due_for_a_snapshot() {
    let setup = Setup::local()
        .set("event_sourcing", "snapshot_threshold: 5")
        .set("event_sourcing", "snapshot_thresholds: { Hero: 2 }");
    let service = Service::start(setup).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 4).await;
    append_to(&mut client, "room-2", 5).await;
    append_to(&mut client, "room-3", 9).await;
    let player = || NewEvent { aggregate_type: "Hero".into(), ..event("player-1") };
    append(&mut client, vec![player(), player()]).await;
    let due = async |client: &mut Client, aggregate_type: &str| -> Vec<String> {
        let aggregate_type = aggregate_type.to_owned();
        let request = ListAggregatesRequest { snapshot_due: true, aggregate_type, ..Default::default() };
        let page = client.list_aggregates(request).await.unwrap().into_inner();
        page.aggregates.into_iter().map(|one| one.aggregate_id).collect()
    };
    assert_eq!(due(&mut client, "").await, ["player-1", "room-2", "room-3"]);
    assert_eq!(due(&mut client, "Place").await, ["room-2", "room-3"]);
    let snapshot = |aggregate_id: &str, sequence_number| SaveSnapshotRequest {
        aggregate_id: aggregate_id.to_owned(),
        sequence_number,
        ..Default::default()
    };
    client.save_snapshot(snapshot("room-2", 5)).await.unwrap();
    // Four events follow the snapshot.
    client.save_snapshot(snapshot("room-3", 5)).await.unwrap();
    assert_eq!(due(&mut client, "").await, ["player-1"]);
    append_to(&mut client, "room-3", 1).await;
    assert_eq!(due(&mut client, "").await, ["player-1", "room-3"]);
}

async fn many(client: &mut Client, request: LoadManyEventsRequest) -> Vec<LoadManyEventsResponse> {
    let mut stream = client.load_many_events(request).await.unwrap().into_inner();
    let mut pieces = Vec::new();
    while let Some(piece) = stream.message().await.unwrap() {
        pieces.push(piece);
    }
    pieces
}

fn many_of(ids: &[&str]) -> LoadManyEventsRequest {
    let aggregate_ids = ids.iter().map(|&id| id.to_owned()).collect();
    LoadManyEventsRequest { aggregate_ids, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_aggregates_come_in_one_stream_in_the_order_of_the_request() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 3).await;
    let hero = NewEvent { aggregate_type: "Hero".into(), ..event("player-1") };
    append(&mut client, vec![hero]).await;
    // More than fits into one message.
    for _ in 0..3 {
        let data = Some(new_event::Data::Binary(vec![7; 100_000].into()));
        let large = || NewEvent { data: data.clone(), ..event("room-2") };
        append(&mut client, vec![large(), large()]).await;
    }
    let pieces = many(&mut client, many_of(&["room-2", "room-9", "player-1", "room-1"])).await;
    let mut found: Vec<(String, String, u64, Vec<u64>)> = Vec::new();
    let mut begins = true;
    for piece in &pieces {
        if begins {
            let (id, kind) = (piece.aggregate_id.clone(), piece.aggregate_type.clone());
            found.push((id, kind, piece.last_sequence, Vec::new()));
        }
        let (id, .., numbers) = found.last_mut().unwrap();
        assert_eq!(*id, piece.aggregate_id);
        numbers.extend(piece.events.iter().map(|event| event.sequence_number));
        assert!(piece.events.iter().all(|event| event.aggregate_id == *id));
        begins = piece.last;
    }
    assert!(begins, "the last message says so");
    let entry =
        |id: &str, kind: &str, last: u64| (id.to_owned(), kind.to_owned(), last, (1..=last).collect());
    let expected = [
        entry("room-2", "Place", 6),
        entry("room-9", "", 0),
        entry("player-1", "Hero", 1),
        entry("room-1", "Place", 3),
    ];
    assert_eq!(found, expected);
    assert!(
        pieces.len() > expected.len() && pieces.iter().all(|piece| piece.encoded_len() < MESSAGE_BYTES_MAX)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_aggregates_start_at_their_snapshots_and_end_at_a_time() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 4).await;
    append_to(&mut client, "room-2", 2).await;
    save(&mut client, 3, 2, "{\"exits\":[]}").await.unwrap();
    let request = LoadManyEventsRequest {
        from_snapshot: true,
        snapshot_schema_version: 2,
        ..many_of(&["room-1", "room-2"])
    };
    let shape = |pieces: &[LoadManyEventsResponse]| -> Vec<(Option<u64>, Vec<u64>, bool)> {
        let numbers =
            |piece: &LoadManyEventsResponse| piece.events.iter().map(|event| event.sequence_number).collect();
        let snapshot =
            |piece: &LoadManyEventsResponse| piece.snapshot.as_ref().map(|snapshot| snapshot.sequence_number);
        pieces.iter().map(|piece| (snapshot(piece), numbers(piece), piece.last)).collect()
    };
    let pieces = many(&mut client, request.clone()).await;
    let expected = [(Some(3), vec![], false), (None, vec![4], true), (None, vec![1, 2], true)];
    assert_eq!(shape(&pieces), expected);
    // A snapshot of the last event is the last message of its aggregate.
    save(&mut client, 4, 2, "{}").await.unwrap();
    let pieces = many(&mut client, request).await;
    assert_eq!(shape(&pieces), [(Some(4), vec![], true), (None, vec![1, 2], true)]);
    let events = load(&mut client, "room-2").await;
    let until = LoadManyEventsRequest { recorded_until: events[0].recorded_at, ..many_of(&["room-2"]) };
    let loaded = many(&mut client, until).await;
    let times = |event: &RecordedEvent| event.recorded_at.map(|at| (at.seconds, at.nanos));
    let expected = events.iter().filter(|event| times(event) <= times(&events[0])).count();
    assert_eq!(loaded.iter().map(|piece| piece.events.len()).sum::<usize>(), expected);
    assert_eq!(service.stats().await.snapshots_loaded, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_read_are_counted() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    append_to(&mut client, "room-1", 4).await;
    load(&mut client, "room-1").await;
    read_all(&mut client, ReadAllRequest { limit: 3, ..Default::default() }).await;
    assert_eq!(service.stats().await.events_loaded, 7);
    many(&mut client, many_of(&["room-1", "room-2"])).await;
    assert_eq!(service.stats().await.events_loaded, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_snapshot_comes_in_a_message_of_its_own() {
    let service = Service::start(Setup::local()).await;
    let mut client = service.client();
    for number in 1..=9 {
        let data = Some(new_event::Data::Binary(vec![number; 300_000].into()));
        append(&mut client, vec![NewEvent { data, ..event("room-1") }]).await;
    }
    let large = SaveSnapshotRequest {
        aggregate_id: "room-1".into(),
        sequence_number: 1,
        data: Some(save_snapshot_request::Data::Binary(vec![9; 1_000_000].into())),
        ..Default::default()
    };
    client.save_snapshot(large).await.unwrap();
    let ask = LoadEventsRequest { aggregate_id: "room-1".into(), from_snapshot: true, ..Default::default() };
    let pieces = load_pieces(&mut client, ask).await.unwrap();
    assert!(pieces[0].snapshot.is_some() && pieces[0].events.is_empty());
    assert!(pieces[1..].iter().all(|piece| piece.snapshot.is_none()));
    assert_eq!(pieces.iter().map(|piece| piece.events.len()).sum::<usize>(), 8);
    assert!(pieces.iter().all(|piece| piece.encoded_len() < 1_100_000));
}
