//! Tests of ids, names, digests and records.
//!
//! Damaged records are covered as well: they must never cause a panic.

use std::collections::HashSet;

use proptest::prelude::*;

use super::{record::*, *};

fn event(aggregate: &str) -> NewEvent {
    NewEvent {
        id: EventId::random(),
        aggregate_id: AggregateId::new(aggregate).unwrap(),
        aggregate_type: "Room".into(),
        event_type: "RoomCreated".into(),
        content: Content::Json("{}".into()),
        correlation_id: "c".into(),
        causation_id: String::new(),
        metadata: BTreeMap::from([("actor".into(), "admin".into())]),
        occurred_at: None,
    }
}

fn numbers(sequence: u64, position: u64) -> EventNumbers {
    EventNumbers {
        sequence: SequenceNumber(sequence),
        position: Position(position),
        recorded_at: Timestamp::new(1_700_000_000, 5).unwrap(),
        append: AppendBounds { first: Position(position), last: Position(position) },
    }
}

#[test]
fn odd_ids_stay_apart_in_file_names_and_keys() {
    let ids = ["../x", "a/b", "a%2Fb", "snapshots", ".", "..", "a.sequence", "Ä:ö", "a:b", "a_b", "A-b"];
    let long_1 = "ä".repeat(127);
    let long_2 = format!("{}b", "ä".repeat(126));
    let all: Vec<&str> = ids.into_iter().chain([long_1.as_str(), long_2.as_str()]).collect();
    let encoded: HashSet<String> = all.iter().map(|id| AggregateId::new(id).unwrap().encoded()).collect();
    assert_eq!(encoded.len(), all.len());
    for name in &encoded {
        assert!(name.len() <= 200, "{name}");
        assert!(!name.contains('/') && !name.contains(':') && !name.starts_with('.'), "{name}");
    }
    assert_eq!(AggregateId::new("room-1").unwrap().encoded(), "room-1");
}

#[test]
fn names_have_bounds() {
    assert_eq!(check_name(""), Err(NameError::Empty));
    assert_eq!(check_name("a\u{0}b"), Err(NameError::ControlCharacter));
    assert_eq!(check_name(&"x".repeat(255)), Ok(()));
    assert_eq!(check_name(&"x".repeat(256)), Err(NameError::TooLong { bytes: 256, max: 255 }));
}

#[test]
fn the_digest_covers_every_field_but_the_id() {
    let first = event("room-1");
    let of_first = ContentDigest::of(&first);
    assert_eq!(of_first, ContentDigest::of(&NewEvent { id: EventId::random(), ..first.clone() }));
    let others = [
        NewEvent { aggregate_id: AggregateId::new("room-2").unwrap(), ..first.clone() },
        NewEvent { aggregate_type: "".into(), ..first.clone() },
        NewEvent { event_type: "RoomDeleted".into(), ..first.clone() },
        NewEvent { content: Content::Binary(Bytes::from_static(b"{}")), ..first.clone() },
        NewEvent { content: Content::Absent, ..first.clone() },
        NewEvent { correlation_id: String::new(), causation_id: "c".into(), ..first.clone() },
        NewEvent { metadata: BTreeMap::new(), ..first.clone() },
        NewEvent { occurred_at: Timestamp::new(1, 0), ..first.clone() },
    ];
    for other in others {
        assert_ne!(of_first, ContentDigest::of(&other), "{other:?}");
    }
}

#[test]
fn a_damaged_record_is_an_error_or_another_event_but_never_a_panic() {
    let one = event("room-1");
    let digest = ContentDigest::of(&one);
    let bytes = encode(&one, numbers(1, 1), digest);
    for index in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[index] ^= 0xff;
        let hash = ChainHash::START.chain(&damaged);
        assert_ne!(hash, ChainHash::START.chain(&bytes));
        let _ = decode(damaged.into(), hash);
    }
    assert!(decode(Bytes::from_static(b"nothing of ours"), ChainHash::START).is_err());
}

#[test]
fn a_record_whose_fields_are_out_of_order_is_not_accepted() {
    let one = event("room-1");
    let bytes = encode(&one, numbers(1, 1), ContentDigest::of(&one));
    let head = RecordHead::of(&bytes).unwrap();
    assert_eq!(head.aggregate_id, b"room-1");
    assert_eq!((head.aggregate_type, head.event_type), (&b"Room"[..], &b"RoomCreated"[..]));
    assert_eq!(StoredEvent::new(bytes.clone(), ChainHash::START).unwrap().head(), head);
    // Another aggregate type, which a reader of the first fields would not see.
    let other = [&bytes[..], &[3 << 3 | 2, 5], b"Other"].concat();
    assert_eq!(RecordHead::of(&other), Some(head));
    assert!(StoredEvent::new(other.into(), ChainHash::START).is_err());
}

proptest! {
    #[test]
    fn a_record_comes_back_as_it_was_and_encodes_to_the_same_bytes(
        id in "[a-zA-Z0-9:/._ÄÖ-]{1,60}", text in ".{0,200}", binary in proptest::collection::vec(any::<u8>(), 0..200),
        metadata in proptest::collection::btree_map("[a-z]{1,8}", ".{0,20}", 0..5),
        seconds in -62_135_596_800i64..253_402_300_799, sequence in 1u64..u64::MAX, position in 1u64..u64::MAX,
    ) {
        for content in [Content::Absent, Content::Json(text.clone()), Content::Binary(binary.clone().into())] {
            let one = NewEvent { content, metadata: metadata.clone(), occurred_at: Timestamp::new(seconds, 7), ..event(&id) };
            let digest = ContentDigest::of(&one);
            let bytes = encode(&one, numbers(sequence, position), digest);
            let hash = ChainHash::START.chain(&bytes);
            let back = decode(bytes.clone(), hash).unwrap();
            prop_assert_eq!(&back.event, &one);
            let stored = StoredEvent::new(bytes.clone(), hash).unwrap();
            prop_assert_eq!(RecordHead::of(&bytes), Some(stored.head()));
            prop_assert_eq!(stored.aggregate_id(), one.aggregate_id.as_str().as_bytes());
            prop_assert_eq!((back.sequence.0, back.position.0, back.digest, back.hash), (sequence, position, digest, hash));
            prop_assert_eq!(encode_recorded(&back), bytes);
        }
    }
}
