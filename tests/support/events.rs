//! Helpers that create events, append them and read them back.
//!
//! They call the service over gRPC, like any other client.

use aethyr_event_store::grpc::wire::{
    AppendEventsRequest, AppendEventsResponse, LoadEventsRequest, LoadEventsResponse, NewEvent,
    ReadAllRequest, RecordedEvent, new_event::Data,
};
use tonic::Status;
use tonic_types::StatusExt;
use uuid::Uuid;

use super::service::Client;

/// Returns an event of this aggregate, with a new event id.
pub fn event(aggregate: &str) -> NewEvent {
    NewEvent {
        event_id: Uuid::new_v4().to_string(),
        aggregate_id: aggregate.to_owned(),
        aggregate_type: "Place".to_owned(),
        event_type: "RoomCreated".to_owned(),
        data: Some(Data::Json("{\"name\":\"Forest Clearing\"}".to_owned())),
        ..NewEvent::default()
    }
}

pub fn request(events: Vec<NewEvent>) -> AppendEventsRequest {
    AppendEventsRequest { events, ..AppendEventsRequest::default() }
}

pub fn expecting(events: Vec<NewEvent>, expected: &[(&str, u64)]) -> AppendEventsRequest {
    let expected_sequences = expected.iter().map(|(id, sequence)| (id.to_string(), *sequence)).collect();
    AppendEventsRequest { events, expected_sequences }
}

/// Appends events that must be accepted.
pub async fn append(client: &mut Client, events: Vec<NewEvent>) -> AppendEventsResponse {
    client.append_events(request(events)).await.unwrap().into_inner()
}

/// Appends `count` events to an aggregate, one per request.
pub async fn append_to(client: &mut Client, aggregate: &str, count: usize) -> Vec<AppendEventsResponse> {
    let mut answers = Vec::new();
    for _ in 0..count {
        answers.push(append(client, vec![event(aggregate)]).await);
    }
    answers
}

pub async fn load_pieces(
    client: &mut Client,
    request: LoadEventsRequest,
) -> Result<Vec<LoadEventsResponse>, Status> {
    let mut stream = client.load_events(request).await?.into_inner();
    let mut pieces = Vec::new();
    while let Some(piece) = stream.message().await? {
        pieces.push(piece);
    }
    Ok(pieces)
}

pub async fn load(client: &mut Client, aggregate: &str) -> Vec<RecordedEvent> {
    let request = LoadEventsRequest { aggregate_id: aggregate.to_owned(), ..LoadEventsRequest::default() };
    let pieces = load_pieces(client, request).await.unwrap();
    pieces.into_iter().flat_map(|piece| piece.events).collect()
}

pub async fn read_all(client: &mut Client, request: ReadAllRequest) -> Vec<RecordedEvent> {
    let mut stream = client.read_all(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(piece) = stream.message().await.unwrap() {
        events.extend(piece.events);
    }
    events
}

/// Reads the whole log and checks it: positions and the sequence numbers of every aggregate have no
/// gap, recorded times never run backwards, and no event id occurs twice.
pub async fn whole_order(client: &mut Client) -> Vec<RecordedEvent> {
    let events = read_all(client, ReadAllRequest::default()).await;
    let mut last_of = std::collections::HashMap::new();
    let mut ids = std::collections::HashSet::new();
    let mut before = None;
    for (position, event) in (1..).zip(&events) {
        assert_eq!(event.position, position);
        let last = last_of.entry(event.aggregate_id.clone()).or_insert(0);
        assert_eq!(event.sequence_number, *last + 1, "{}", event.aggregate_id);
        *last = event.sequence_number;
        assert!(ids.insert(event.event_id.clone()), "{} twice", event.event_id);
        let at = event.recorded_at.map(|at| (at.seconds, at.nanos));
        assert!(at >= before, "recorded times run backwards");
        before = at;
    }
    events
}

/// Returns the reason from the status details.
pub fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}
