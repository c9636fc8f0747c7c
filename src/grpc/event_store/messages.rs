//! Streamed responses that hold events as encoded bytes, so that stored events are sent without
//! being decoded.
//!
//! On the wire they are the messages of the same names in [`wire`].

use bytes::{Bytes, BytesMut};

use crate::{event::record::StoredEvent, grpc::wire};

#[derive(Clone, PartialEq, prost::Message)]
pub struct LoadEventsResponse {
    #[prost(message, optional, tag = "1")]
    pub snapshot: Option<wire::Snapshot>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub events: Vec<Bytes>,
    #[prost(uint64, tag = "3")]
    pub last_sequence: u64,
    #[prost(string, tag = "4")]
    pub aggregate_type: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct LoadManyEventsResponse {
    #[prost(string, tag = "1")]
    pub aggregate_id: String,
    #[prost(string, tag = "2")]
    pub aggregate_type: String,
    #[prost(message, optional, tag = "3")]
    pub snapshot: Option<wire::Snapshot>,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub events: Vec<Bytes>,
    #[prost(uint64, tag = "5")]
    pub last_sequence: u64,
    #[prost(bool, tag = "6")]
    pub last: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadAllResponse {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub events: Vec<Bytes>,
    #[prost(uint64, tag = "2")]
    pub last_position: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SubscribeResponse {
    #[prost(oneof = "SubscribeContent", tags = "1, 2, 3")]
    pub content: Option<SubscribeContent>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum SubscribeContent {
    #[prost(message, tag = "1")]
    Events(EventBatch),
    #[prost(message, tag = "2")]
    CaughtUp(wire::CaughtUp),
    #[prost(message, tag = "3")]
    Checkpoint(wire::Checkpoint),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct EventBatch {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub events: Vec<Bytes>,
}

/// Returns the encoded `RecordedEvent` of each event. All of them share one allocation.
pub(crate) fn events(stored: &[StoredEvent]) -> Vec<Bytes> {
    let mut buffer = BytesMut::with_capacity(stored.iter().map(StoredEvent::recorded_bytes).sum());
    let split = |event: &StoredEvent| {
        event.put_recorded(&mut buffer);
        buffer.split().freeze()
    };
    stored.iter().map(split).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message;

    use super::*;
    use crate::event::{
        AggregateId, AppendBounds, ChainHash, Content, ContentDigest, EventId, NewEvent, Position,
        RecordedEvent, SequenceNumber, Timestamp, record,
    };

    fn recorded(position: u64, content: Content) -> RecordedEvent {
        let event = NewEvent {
            id: EventId::random(),
            aggregate_id: AggregateId::new("room-ä").unwrap(),
            aggregate_type: "Room".into(),
            event_type: "RoomCreated".into(),
            content,
            correlation_id: "c".into(),
            causation_id: "d".into(),
            metadata: BTreeMap::from([("actor".into(), "admin".into()), ("".into(), "x".into())]),
            occurred_at: Timestamp::new(-1, 999_999_999),
        };
        RecordedEvent {
            digest: ContentDigest::of(&event),
            event,
            sequence: SequenceNumber(position + 300),
            position: Position(position),
            recorded_at: Timestamp::new(1_700_000_000, 5).unwrap(),
            recorded_by: "arena-1".into(),
            append: AppendBounds { first: Position(1), last: Position(9) },
            hash: ChainHash([position as u8; 32]),
        }
    }

    fn stored(recorded: &RecordedEvent) -> StoredEvent {
        StoredEvent::new(record::encode_recorded(recorded), recorded.hash).unwrap()
    }

    #[test]
    fn callers_read_the_stored_bytes_as_the_events_that_they_are() {
        let contents =
            [Content::Absent, Content::Json("{}".into()), Content::Binary(Bytes::from_static(&[0, 255]))];
        let all: Vec<_> =
            (1..).zip(contents).map(|(position, content)| recorded(position, content)).collect();
        let events = events(&all.iter().map(stored).collect::<Vec<_>>());
        let sent = ReadAllResponse { events, last_position: 9 }.encode_to_vec();
        let read = wire::ReadAllResponse::decode(&*sent).unwrap();
        assert_eq!(read.encode_to_vec(), sent, "nothing is sent that the contract does not know");
        assert_eq!(read.last_position, 9);
        for (read, recorded) in read.events.iter().zip(&all) {
            assert_eq!(read.event_id, recorded.event.id.to_string());
            assert_eq!(read.aggregate_id, "room-ä");
            assert_eq!(read.metadata, recorded.event.metadata);
            assert_eq!(read.sequence_number, recorded.sequence.0);
            assert_eq!(read.position, recorded.position.0);
            assert_eq!(read.recorded_by, "arena-1");
            assert_eq!(read.chain_hash, recorded.hash.0.to_vec());
            assert_eq!(read.recorded_at, Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5 }));
            assert_eq!(read.occurred_at, Some(prost_types::Timestamp { seconds: -1, nanos: 999_999_999 }));
        }
        let content = |index: usize| read.events[index].data.clone();
        assert_eq!(content(0), None);
        assert_eq!(content(1), Some(wire::recorded_event::Data::Json("{}".into())));
        assert_eq!(content(2), Some(wire::recorded_event::Data::Binary(Bytes::from_static(&[0, 255]))));
        assert_eq!(read.events.len(), 3);
    }
}
