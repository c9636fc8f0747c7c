//! Passes the bytes of the fuzz targets to the decoders of requests. See [`crate::fuzzing`].
//!
//! Panics if a promise of a decoder is broken. Rejected requests are fine.
#![expect(clippy::expect_used, reason = "a broken promise has to end the run")]

use std::collections::HashSet;

use prost::Message;

use super::{
    event_store::decode::{self, Decoder},
    settings::RequestLimits,
    violations::Violations,
    wire,
    world::commands as world,
};
use crate::{
    config::LimitsConfig,
    event::{
        AggregateId, AppendBounds, ChainHash, Content, ContentDigest, NewEvent, Position, RecordedEvent,
        SequenceNumber, Snapshot, Timestamp, record,
    },
    server::settings,
    store::OrderStart,
    world::{
        model::event::WorldEvent,
        rules::{
            command::{COMMANDS_MAX, Command},
            decide::decide,
            world_view::{Decided, Undecided, WorldView},
        },
    },
};

/// Decodes the bytes as every kind of request, with the default limits and with limits so low that
/// short inputs reach them.
pub fn requests(bytes: &[u8]) {
    for limits in [settings::request_limits(&LimitsConfig::default()), tight()] {
        let decoder = Decoder { limits };
        if let Ok(request) = wire::AppendEventsRequest::decode(bytes) {
            append(&decoder, request);
        }
        if let Ok(request) = wire::SaveSnapshotRequest::decode(bytes)
            && let Some(snapshot) = accepted(decoder.snapshot(request))
        {
            save_snapshot(&decoder.limits, snapshot);
        }
        if let Ok(request) = wire::LoadEventsRequest::decode(bytes)
            && let Some(load) = accepted(decoder.load(&request))
        {
            assert_eq!(load.aggregate_id.as_str(), request.aggregate_id);
        }
        if let Ok(request) = wire::LoadManyEventsRequest::decode(bytes)
            && let Some(loads) = accepted(decoder.load_many(request.clone()))
        {
            assert!((1..=1000).contains(&loads.len()));
            let ids: Vec<_> = loads.iter().map(|load| load.aggregate_id.as_str()).collect();
            assert_eq!(ids, request.aggregate_ids);
        }
        if let Ok(request) = wire::ListAggregatesRequest::decode(bytes) {
            list(&decoder, &request);
        }
        if let Ok(request) = wire::ReadAllRequest::decode(bytes) {
            filter(&decoder, request.filter);
        }
        if let Ok(request) = wire::SubscribeRequest::decode(bytes) {
            filter(&decoder, request.filter);
            checkpoint(&decoder, request.after);
        }
        if let Ok(request) = wire::GetProofRequest::decode(bytes) {
            accepted(decoder.proof(&request));
        }
        if let Ok(request) = wire::GetConsistencyRequest::decode(bytes)
            && let Some(sizes) = accepted(decoder.consistency(request))
        {
            assert!(sizes.from >= 1 && sizes.to.is_none_or(|to| to >= sizes.from));
        }
        if let Ok(request) = wire::world::ExecuteCommandsRequest::decode(bytes) {
            commands(&decoder.limits, request);
        }
    }
}

fn tight() -> RequestLimits {
    RequestLimits {
        append_events_max: 3,
        append_bytes_max: 200,
        event_bytes_max: 20,
        snapshot_bytes_max: 20,
        id_bytes_max: 8,
        type_bytes_max: 6,
        metadata_entries_max: 2,
        metadata_value_bytes_max: 8,
        expected_sequences_max: 3,
    }
}

/// Returns the decoded value, or `None` if it was rejected. A rejection must name at least one
/// field, be short, and never contain the text that was sent.
fn accepted<T>(decoded: Result<T, Violations>) -> Option<T> {
    match decoded {
        Ok(value) => Some(value),
        Err(Violations(wrong)) => {
            assert!((1..=20).contains(&wrong.len()), "{} violations", wrong.len());
            for (field, problem) in wrong {
                assert!(field.len() <= 60 && problem.len() <= 100, "{field}: {problem}");
            }
            None
        }
    }
}

fn append(decoder: &Decoder, request: wire::AppendEventsRequest) {
    let limits = &decoder.limits;
    let Some(append) = accepted(decoder.append(request)) else { return };
    assert!((1..=limits.append_events_max).contains(&append.events.len()));
    assert!(append.expected.len() <= limits.expected_sequences_max);
    assert!(append.expected.iter().all(|(id, _)| id.as_str().len() <= limits.id_bytes_max));
    let ids: HashSet<_> = append.events.iter().map(|(event, _)| event.id).collect();
    assert_eq!(ids.len(), append.events.len(), "an id twice");
    let records = append.events.into_iter().map(|(event, digest)| stored(limits, event, digest));
    // With the overhead of its fields, the append must fit into a frame of the log.
    let bytes: usize = records.sum();
    assert!(bytes <= limits.append_bytes_max.saturating_mul(2).max(100_000), "{bytes} bytes of records");
}

/// Checks that an accepted event is within the limits, and that its record decodes to the same
/// event. Returns the size of the record.
fn stored(limits: &RequestLimits, event: NewEvent, digest: ContentDigest) -> usize {
    assert_eq!(ContentDigest::of(&event), digest);
    assert!(event.aggregate_id.as_str().len() <= limits.id_bytes_max);
    assert!(!event.aggregate_id.as_str().starts_with(AggregateId::RESERVED_PREFIX));
    assert!(event.aggregate_type.len() <= limits.type_bytes_max);
    assert!((1..=limits.type_bytes_max).contains(&event.event_type.len()));
    assert!(event.correlation_id.len() <= limits.id_bytes_max);
    assert!(event.causation_id.len() <= limits.id_bytes_max);
    assert!(event.metadata.len() <= limits.metadata_entries_max);
    assert!(event.metadata.values().all(|value| value.len() <= limits.metadata_value_bytes_max));
    content(&event.content, limits.event_bytes_max);
    // An event without a type is recorded with the type of its aggregate.
    let aggregate_type = if event.aggregate_type.is_empty() { "T".into() } else { event.aggregate_type };
    let recorded = RecordedEvent {
        event: NewEvent { aggregate_type, ..event },
        sequence: SequenceNumber(1),
        position: Position(1),
        recorded_at: Timestamp::default(),
        recorded_by: "".into(),
        append: AppendBounds { first: Position(1), last: Position(1) },
        digest,
        hash: ChainHash::START,
    };
    let bytes = record::encode_recorded(&recorded);
    let length = bytes.len();
    assert_eq!(record::decode(bytes, ChainHash::START), Ok(recorded));
    length
}

fn content(content: &Content, bytes_max: usize) {
    assert!(content.byte_count() <= bytes_max);
    if let Content::Json(text) = content {
        serde_json::from_str::<Box<serde_json::value::RawValue>>(text).expect("JSON");
    }
}

/// Checks that accepted commands can be decided, and that the resulting events decode to the same
/// events.
fn commands(limits: &RequestLimits, request: wire::world::ExecuteCommandsRequest) {
    let Some(commands) = accepted(world::decode(request, limits)) else { return };
    assert!((1..=COMMANDS_MAX).contains(&commands.commands.len()));
    let mut known = WorldView::default();
    for command in commands.commands {
        assert!(command.target.as_str().len() <= limits.id_bytes_max);
        assert!(!command.target.as_str().starts_with(AggregateId::RESERVED_PREFIX));
        let decided = loop {
            match decide(&known, &command) {
                Ok(decided) => break decided,
                Err(Undecided::Unknown(id)) => known.learn(id, None),
                Err(Undecided::Unanswered(question)) => known.answer_alone(question),
                Err(Undecided::Refused(_)) => break Vec::new(),
            }
        };
        assert!(decided.len() <= Command::EVENTS_MAX);
        for Decided { id, kind, event } in decided {
            let (event_type, data) = event.encode().expect("an event is JSON");
            assert_eq!(WorldEvent::decode(&event_type, &data), Ok(event.clone()));
            known.apply(&id, kind, &event).expect("what is decided can happen");
        }
    }
}

fn save_snapshot(limits: &RequestLimits, snapshot: Snapshot) {
    assert!(snapshot.aggregate_id.as_str().len() <= limits.id_bytes_max);
    assert!(!snapshot.aggregate_id.as_str().starts_with(AggregateId::RESERVED_PREFIX));
    assert!(snapshot.sequence.0 > 0);
    assert!(snapshot.metadata.len() <= limits.metadata_entries_max);
    content(&snapshot.content, limits.snapshot_bytes_max);
    assert_eq!(record::decode_snapshot(record::encode_snapshot(snapshot.clone())), Ok(snapshot));
}

fn list(decoder: &Decoder, request: &wire::ListAggregatesRequest) {
    let Some(page) = accepted(decoder.list(request.clone())) else { return };
    assert!((1..=1000).contains(&page.count));
    let Some(after) = page.after else { return };
    assert!(after.as_str().starts_with(&request.aggregate_id_prefix));
    let again = wire::ListAggregatesRequest { page_token: decode::page_token(&after), ..request.clone() };
    let again = accepted(decoder.list(again)).expect("a token of ours");
    assert_eq!(again.after, Some(after));
}

fn filter(decoder: &Decoder, filter: Option<wire::Filter>) {
    let Some(filter) = accepted(decoder.filter(filter)) else { return };
    assert!(filter.aggregate_types.len() <= 100 && filter.event_types.len() <= 100);
    if let (Some(from), Some(until)) = (filter.recorded_from, filter.recorded_until) {
        assert!(from <= until);
    }
}

fn checkpoint(decoder: &Decoder, checkpoint: Option<wire::Checkpoint>) {
    let position = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.position);
    match accepted(decoder.checkpoint(checkpoint)) {
        None => {}
        Some(OrderStart::After(after, _)) => assert_eq!(after, Position(position)),
        Some(OrderStart::At(_)) => unreachable!("a checkpoint is what was seen"),
    }
}

/// Returns the token in headers, as the service finds it.
pub(crate) fn offered_token(headers: &http::HeaderMap) -> Result<Option<&str>, crate::access::Denied> {
    super::transport::authentication::offered_token(headers)
}
