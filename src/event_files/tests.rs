use std::collections::BTreeMap;

use proptest::prelude::*;

use super::format;
use crate::event::{
    AggregateId, AppendBounds, Content, ContentDigest, EventId, Hash, NewEvent, Position, RecordedEvent,
    SequenceNumber, Snapshot, Timestamp, record,
};

fn recorded(content: Content) -> RecordedEvent {
    let event = NewEvent {
        id: EventId::random(),
        aggregate_id: AggregateId::new("../x:Ä").unwrap(),
        aggregate_type: "Room".into(),
        event_type: "RoomCreated".into(),
        content,
        correlation_id: String::new(),
        causation_id: "c".into(),
        metadata: BTreeMap::from([("actor".into(), "admin".into())]),
        occurred_at: Timestamp::new(-5, 1),
    };
    RecordedEvent {
        digest: ContentDigest::of(&event),
        event,
        sequence: SequenceNumber(3),
        position: Position(7),
        recorded_at: Timestamp::new(1_700_000_000, 123_456_789).unwrap(),
        append: AppendBounds { first: Position(6), last: Position(8) },
        hash: Hash::START.chain(b"x"),
    }
}

/// The file has to give the same bytes again, or its hash would fit no more.
fn assert_kept_to_the_byte(content: Content) {
    let event = recorded(content);
    let back = format::read_event(&format::write_event(event.clone())).unwrap();
    assert_eq!(back, event);
    assert_eq!(record::encode_recorded(back), record::encode_recorded(event));
}

#[test]
fn a_file_gives_the_same_record_again() {
    let texts = ["{}", " { \"a\" : 1.0e400 }\n", "{\"a\":1,\"a\":2}", "\"\\u0000\"", "[1,\n 2]", "1"];
    for text in texts {
        assert_kept_to_the_byte(Content::Json(text.to_owned()));
    }
    assert_kept_to_the_byte(Content::Absent);
    assert_kept_to_the_byte(Content::Binary(vec![0, 255, 7].into()));
}

#[test]
fn a_snapshot_file_gives_the_same_snapshot_again() {
    let snapshot = Snapshot {
        aggregate_id: AggregateId::new("room-1").unwrap(),
        sequence: SequenceNumber(9),
        content: Content::Json("{\"name\": \"Forest\"}".into()),
        schema_version: 4,
        metadata: BTreeMap::new(),
        recorded_at: Timestamp::new(1_700_000_000, 5).unwrap(),
        event_hash: Hash::START.chain(b"x"),
    };
    assert_eq!(format::read_snapshot(&format::write_snapshot(snapshot.clone())), Some(snapshot));
}

#[test]
fn a_file_of_somebody_else_is_no_event() {
    assert_eq!(format::read_event(b""), None);
    assert_eq!(format::read_event(b"{}"), None);
    let whole = format::write_event(recorded(Content::Json("{}".into())));
    for length in 0..whole.len() - 2 {
        assert_eq!(format::read_event(&whole[..length]), None, "cut at {length}");
    }
}

proptest! {
    #[test]
    fn any_content_is_kept_to_the_byte(text in any::<String>(), bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        assert_kept_to_the_byte(Content::Json(serde_json::to_string(&text).unwrap()));
        assert_kept_to_the_byte(Content::Binary(bytes.into()));
    }
}
