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
    let bytes = encode(&one, numbers(1, 1), digest, "arena-1");
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
    let bytes = encode(&one, numbers(1, 1), ContentDigest::of(&one), "arena-1");
    let head = RecordHead::of(&bytes).unwrap();
    assert_eq!(head.aggregate_id, b"room-1");
    assert_eq!((head.aggregate_type, head.event_type), (&b"Room"[..], &b"RoomCreated"[..]));
    assert_eq!(StoredEvent::new(bytes.clone(), ChainHash::START).unwrap().head(), head);
    // Another aggregate type, which a reader of the first fields would not see.
    let other = [&bytes[..], &[3 << 3 | 2, 5], b"Other"].concat();
    assert_eq!(RecordHead::of(&other), Some(head));
    assert!(StoredEvent::new(other.into(), ChainHash::START).is_err());
}

#[test]
fn the_name_of_the_identity_is_under_the_hash_and_not_in_the_digest() {
    let one = event("room-1");
    let digest = ContentDigest::of(&one);
    let record = |recorded_by| encode(&one, numbers(1, 1), digest, recorded_by);
    let (named, other, unnamed) = (record("arena-1"), record("arena-2"), record(""));
    let hash = |record: &Bytes| ChainHash::START.chain(record);
    assert_ne!(hash(&named), hash(&other));
    assert_ne!(hash(&named), hash(&unnamed));
    for (record, name) in [(&named, "arena-1"), (&other, "arena-2"), (&unnamed, "")] {
        assert_eq!(recorded_by(record), name.as_bytes());
        let back = decode(record.clone(), hash(record)).unwrap();
        assert_eq!((&*back.recorded_by, back.digest), (name, digest));
    }
    // Without a name, a record has the bytes that earlier versions wrote.
    let field = [&[15u8 << 3 | 2, 7][..], b"arena-1"].concat();
    let at = named.windows(field.len()).position(|bytes| bytes == field).unwrap();
    assert_eq!([&named[..at], &named[at + field.len()..]].concat(), unnamed);
    // The field is between `recorded_at` and the internal fields.
    let internal = named.windows(2).rposition(|bytes| bytes == [0xa0, 0x06]).unwrap();
    assert_eq!(at + field.len(), internal);
}

#[test]
fn responses_have_the_stored_bytes_around_the_hash() {
    let one = event("room-1");
    for name in ["", "arena-1"] {
        let record = encode(&one, numbers(1, 1), ContentDigest::of(&one), name);
        let stored = StoredEvent::new(record.clone(), ChainHash([7; 32])).unwrap();
        let mut sent = Vec::new();
        stored.put_recorded(&mut sent);
        assert_eq!(sent.len(), stored.recorded_bytes());
        let named = if name.is_empty() { Vec::new() } else { [&[15u8 << 3 | 2, 7][..], b"arena-1"].concat() };
        let hash = [&[14u8 << 3 | 2, 32][..], &[7; 32]].concat();
        assert!(sent.ends_with(&[hash, named.clone()].concat()), "{name}");
        let before = sent.len() - 34 - named.len();
        assert_eq!(sent[..before], record[..before]);
        assert_eq!(recorded_by(&sent), name.as_bytes());
    }
}

/// A record may come from ImmuDB. Its bytes are sent as they are.
#[test]
fn a_record_cannot_speak_for_the_service() {
    let one = event("room-1");
    let bytes = encode(&one, numbers(1, 1), ContentDigest::of(&one), "");
    let internal = bytes.windows(2).rposition(|bytes| bytes == [0xa0, 0x06]).unwrap();
    let with = |field: &[u8]| {
        let record = [&bytes[..internal], field, &bytes[internal..]].concat();
        StoredEvent::new(record.into(), ChainHash::START)
    };
    let hash = [&[14u8 << 3 | 2, 32][..], &[0; 32]].concat();
    for field in [&hash[..], &[14 << 3, 1], &[0x80, 0x01, 1], &[0x82, 0x01, 1, b'x'], &[15 << 3, 1]] {
        with(field).unwrap_err();
    }
    with(&[15 << 3 | 2, 1, b'x']).unwrap();
    // The number of a field that no version knows yet.
    with(&[0x8a, 0x01, 1, b'x']).unwrap();
}

proptest! {
    #[test]
    fn a_record_comes_back_as_it_was_and_encodes_to_the_same_bytes(
        id in "[a-zA-Z0-9:/._ÄÖ-]{1,60}", text in ".{0,200}", binary in proptest::collection::vec(any::<u8>(), 0..200),
        metadata in proptest::collection::btree_map("[a-z]{1,8}", ".{0,20}", 0..5),
        seconds in -62_135_596_800i64..253_402_300_799, recorded_by in ".{0,20}", sequence in 1u64..u64::MAX, position in 1u64..u64::MAX,
    ) {
        for content in [Content::Absent, Content::Json(text.clone()), Content::Binary(binary.clone().into())] {
            let one = NewEvent { content, metadata: metadata.clone(), occurred_at: Timestamp::new(seconds, 7), ..event(&id) };
            let digest = ContentDigest::of(&one);
            let bytes = encode(&one, numbers(sequence, position), digest, &recorded_by);
            let hash = ChainHash::START.chain(&bytes);
            let back = decode(bytes.clone(), hash).unwrap();
            prop_assert_eq!(&back.event, &one);
            prop_assert_eq!(&*back.recorded_by, recorded_by.as_str());
            let stored = StoredEvent::new(bytes.clone(), hash).unwrap();
            prop_assert_eq!(RecordHead::of(&bytes), Some(stored.head()));
            prop_assert_eq!(stored.aggregate_id(), one.aggregate_id.as_str().as_bytes());
            prop_assert_eq!((back.sequence.0, back.position.0, back.digest, back.hash), (sequence, position, digest, hash));
            prop_assert_eq!(encode_recorded(&back), bytes);
        }
    }
}
