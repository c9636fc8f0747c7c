//! Tests of the reader with inputs that Ruby has written, and with handmade ones at and beyond each
//! bound.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{
    convert::{ConvertRules, LeftOutField, aggregate_type, convert},
    json,
    legacy_event::{LegacyEvent, ReadError},
    marshal::{INPUT_BYTES_MAX, MarshalError, MarshalFault, read},
    value::Value,
};
use crate::event::{Content, NewEvent, time};

const CREATED: &[u8] =
    include_bytes!("../../tests/it/import_aethyr/samples/0c3d5e7f-1122-3344-5566-778899aabbcc/1.event");
const ATTRIBUTES: &[u8] =
    include_bytes!("../../tests/it/import_aethyr/samples/0c3d5e7f-1122-3344-5566-778899aabbcc/3.event");
const PLAYER: &[u8] =
    include_bytes!("../../tests/it/import_aethyr/samples/a51f6e9c-2b04-4c7d-9e31-0d5c8b7a6f12/2.event");

/// Puts the header in front of a value.
fn marshal(value: &[u8]) -> Vec<u8> {
    [&[4, 8], value].concat()
}

fn read_json(value: &[u8]) -> Json {
    json::json(&read(&marshal(value)).unwrap()).unwrap()
}

fn fault(value: &[u8]) -> (usize, MarshalFault) {
    let MarshalError { offset, fault } = read(&marshal(value)).unwrap_err();
    (offset, fault)
}

/// A number in the form of Ruby's `w_long`.
fn long(number: i32) -> Vec<u8> {
    match number {
        0 => vec![0],
        1..=122 => vec![u8::try_from(number + 5).unwrap()],
        -123..=-1 => vec![u8::try_from(number + 251).unwrap()],
        _ => [&[4], number.to_le_bytes().as_slice()].concat(),
    }
}

/// A string in UTF-8.
fn text(text: &str) -> Vec<u8> {
    [b"I\"", long(i32::try_from(text.len()).unwrap()).as_slice(), text.as_bytes(), b"\x06:\x06ET"].concat()
}

fn hash(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = [b"{", long(i32::try_from(pairs.len()).unwrap()).as_slice()].concat();
    for (key, value) in pairs {
        bytes.extend(text(key));
        bytes.extend(value);
    }
    bytes
}

/// An event with the fields of the store.
fn event(class: &str, fields: &[(&str, Vec<u8>)]) -> LegacyEvent {
    let mut all = vec![
        ("aggregate_id", text("room-1")),
        ("sequence_number", [b"i", long(7).as_slice()].concat()),
        ("created_at", text("2025-06-25T19:24:56Z")),
        ("class", text(&format!("Aethyr::Core::EventSourcing::{class}"))),
    ];
    all.extend_from_slice(fields);
    LegacyEvent::read(&marshal(&hash(&all))).unwrap()
}

fn rules(kind: &str) -> ConvertRules {
    ConvertRules { aggregate_type: Arc::from(kind), is_password_hash: |text| text == "5ebe2294" }
}

fn data(event: &NewEvent) -> Json {
    let Content::Json(text) = &event.content else { panic!("{event:?}") };
    serde_json::from_str(text).unwrap()
}

/// The data of an event after its conversion, and what was left out.
fn converted(class: &str, fields: &[(&str, Vec<u8>)]) -> (Json, Vec<LeftOutField>) {
    let converted = convert(event(class, fields), &rules("Room")).unwrap();
    assert_eq!(converted.events.len(), 1);
    (data(&converted.events[0]), converted.left_out)
}

#[test]
fn a_sample_is_read_with_all_markers_and_numbers() {
    let event = LegacyEvent::read(ATTRIBUTES).unwrap();
    assert_eq!(event.aggregate_id.as_str(), "0c3d5e7f-1122-3344-5566-778899aabbcc");
    assert_eq!((event.sequence.0, event.event_type.as_str()), (3, "GameObjectAttributesUpdated"));
    assert_eq!(time::format(event.created_at), "2025-06-25T19:24:58.123456789Z");
    let attributes = json!({
        "weight": 4,
        "damage": 2.5,
        "tags": {"__set__": [{"__symbol__": "sharp"}, "old"]},
        "owner": {"__gameobject__": "a51f6e9c-2b04-4c7d-9e31-0d5c8b7a6f12"},
        "big": 1_099_511_627_776u64,
        "neg": -300,
        "on_use": {"__proc__": "unpersistable"},
        ":sym_key": null,
        "list": [true, false, {"a": "b"}],
    });
    assert_eq!(Json::Object(event.fields), json!({ "attributes": attributes }));
}

#[test]
fn a_sample_becomes_an_event_of_the_world_with_an_id_of_its_own() {
    let event = LegacyEvent::read(PLAYER).unwrap();
    let rules = ConvertRules { is_password_hash: |text| text.len() == 32, ..rules("Player") };
    let converted = convert(event.clone(), &rules).unwrap();
    assert!(converted.left_out.is_empty());
    let [player] = converted.events.as_slice() else { panic!("{converted:?}") };
    assert_eq!(data(player), json!({"password_hash": "5ebe2294ecd0e0f08eab7690d2a6ee69", "admin": false}));
    assert_eq!(player.occurred_at, Some(event.created_at));
    assert_eq!((&*player.aggregate_type, &*player.event_type), ("Player", "PlayerCreated"));
    assert_eq!(player.metadata["aethyr_sequence"], "2");
    // Version 5 in the namespace of object identifiers.
    assert_eq!(player.id.to_string(), "fa896ef2-da4f-59f3-b456-0b95acfc4ef0");
    let created = convert(LegacyEvent::read(CREATED).unwrap(), &rules).unwrap();
    assert_ne!(created.events[0].id, player.id);
    assert_eq!(data(&created.events[0])["container_id"], "476dfe3e-96bc-1952-fadd-26c22043a5a3");
}

#[test]
fn every_prefix_and_every_changed_byte_of_a_sample_is_read_or_refused() {
    for sample in [CREATED, ATTRIBUTES, PLAYER] {
        for length in 0..sample.len() {
            assert!(LegacyEvent::read(&sample[..length]).is_err(), "{length}");
        }
        for at in 0..sample.len() {
            for byte in 0..=u8::MAX {
                let mut changed = sample.to_vec();
                changed[at] = byte;
                _ = LegacyEvent::read(&changed).and_then(|event| convert(event, &rules("Player")));
            }
        }
    }
}

#[test]
fn integers_of_all_lengths_are_read() {
    for (bytes, number) in [
        (&b"i\x00"[..], 0),
        (b"i\x06", 1),
        (b"i\x7f", 122),
        (b"i\x01\x7b", 123),
        (b"i\xfa", -1),
        (b"i\x80", -123),
        (b"i\xff\x84", -124),
        (b"i\xff\x00", -256),
        (b"i\x02\xe8\x03", 1000),
        (b"i\xfe\x18\xfc", -1000),
        (b"i\x03\xff\xff\xff", 0xff_ffff),
        (b"i\x04\xff\xff\xff\x3f", 0x3fff_ffff),
        (b"i\xfc\x00\x00\x00\xc0", -0x4000_0000),
        (b"l+\x07\x00\x00\x00\x40", 0x4000_0000),
        (b"l-\x09\x00\x00\x00\x00\x00\x00\x00\x80", i64::MIN),
    ] {
        assert_eq!(read(&marshal(bytes)), Ok(Value::Integer(number)), "{bytes:?}");
    }
    let beyond = b"l+\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00";
    assert_eq!(read_json(beyond), json!({"__integer__": "18446744073709551616"}));
    let below = b"l-\x09\xff\xff\xff\xff\xff\xff\xff\xff";
    assert_eq!(read_json(below), json!({"__integer__": "-18446744073709551615"}));
    assert_eq!(fault(b"l+\x46\x00").1, MarshalFault::Length(65));
    let long = [b"l+\x46".as_slice(), &[0; 130]].concat();
    assert_eq!(fault(&long).1, MarshalFault::Large);
    assert_eq!(fault(b"l*\x06\x00\x00").1, MarshalFault::Large);
}

#[test]
fn what_json_lacks_has_a_marker() {
    for (bytes, expected) in [
        (b"f\x08inf".to_vec(), json!({"__float__": "inf"})),
        (b"f\x09-inf".to_vec(), json!({"__float__": "-inf"})),
        (b"f\x08nan".to_vec(), json!({"__float__": "NaN"})),
        (b"f\x0b-1e-20".to_vec(), json!(-1e-20)),
        (b"\"\x07\xff\x00".to_vec(), json!({"__binary__": "/wA="})),
        (b"I\"\x06\xe4\x06:\x0dencoding\"\x0fISO-8859-1".to_vec(), json!("ä")),
        (b"I\"\x06\xe4\x06:\x06ET".to_vec(), json!({"__binary__": "5A=="})),
        (b"I\"\x07ab\x06:\x06EF".to_vec(), json!("ab")),
        (text("ä"), json!("ä")),
        (b":\x06a".to_vec(), json!({"__symbol__": "a"})),
        (b"I:\x07\xc3\xa4\x06:\x06ET".to_vec(), json!({"__symbol__": "ä"})),
        (b"}\x06:\x06ai\x06i\x07".to_vec(), json!({":a": 1})),
        (b"{\x08i\x06T0F\"\x06xi\x07".to_vec(), json!({"1": true, "null": false, "x": 2})),
    ] {
        assert_eq!(read_json(&bytes), expected, "{bytes:?}");
    }
    let unusable = |bytes: &[u8]| json::json(&read(&marshal(bytes)).unwrap()).unwrap_err();
    assert_eq!(unusable(b"{\x06[\x00T"), json::JsonError::Key);
    assert_eq!(unusable(b"{\x07i\x06T\"\x061F"), json::JsonError::SameKeys);
}

#[test]
fn links_are_those_that_ruby_writes() {
    // Symbols count on their own. The array is the object 0, the strings are 1 and 2.
    assert_eq!(
        read_json(b"[\x0a:\x06a;\x00\"\x06b\"\x06c@\x07"),
        json!([
            {"__symbol__": "a"}, {"__symbol__": "a"}, "b", "c", "c"
        ])
    );
    // A time gets its number after the strings among its variables.
    let time = b"Iu:\x09Time\x0d3W\x1f\xc0@\xe2\x91c\x06:\x09zone\"\x08UTC";
    let linked = read_json(&[b"[\x08".as_slice(), time, b"@\x06@\x07"].concat());
    assert_eq!(
        linked,
        json!([
            {"__time__": "2025-06-25T19:24:57.123456Z"}, "UTC", {"__time__": "2025-06-25T19:24:57.123456Z"}
        ])
    );
    for (bytes, expected) in [
        (&b"[\x06@\x00"[..], (6, MarshalFault::Cycle)),
        (b"[\x06@\x06", (6, MarshalFault::NoObject(1))),
        (b"@\xfa", (4, MarshalFault::NoObject(-1))),
        (b";\x00", (4, MarshalFault::NoSymbol(0))),
    ] {
        assert_eq!(fault(bytes), expected, "{bytes:?}");
    }
}

#[test]
fn links_never_make_a_small_input_large() {
    // Each array has the one before it ten times: 10^40 values with the links expanded.
    let mut bytes = [b"[".as_slice(), &long(40), b"[\x00"].concat();
    for number in 1..40 {
        bytes.extend([b"[".as_slice(), &long(10)].concat());
        (0..10).for_each(|_| bytes.extend([b"@".as_slice(), &long(number)].concat()));
    }
    assert_eq!(fault(&bytes).1, MarshalFault::TooLarge);
    // Each array has the one before it once, so only the depth grows.
    let mut bytes = [b"[".as_slice(), &long(100), b"[\x00"].concat();
    for number in 1..100 {
        bytes.extend([b"[\x06@".as_slice(), &long(number)].concat());
    }
    assert_eq!(fault(&bytes).1, MarshalFault::TooDeep);
    // One long string, many times.
    let mut bytes = [b"[".as_slice(), &long(100), &text(&"x".repeat(100_000))].concat();
    (1..100).for_each(|_| bytes.extend(b"@\x06"));
    assert_eq!(fault(&bytes).1, MarshalFault::TooLarge);
}

/// Each value that JSON lacks becomes a mapping, which needs far more memory than its text.
#[test]
fn a_symbol_counts_as_the_mapping_that_it_becomes() {
    let symbols = |count: i32| {
        let links = b";\x00".repeat(count as usize - 1);
        [b"[".as_slice(), &long(count), b":\x06a", &links].concat()
    };
    assert!(read(&marshal(&symbols(5_000))).is_ok());
    assert_eq!(fault(&symbols(20_000)).1, MarshalFault::TooLarge);
    // A list of links to a list of links: 1400 values are read, and 490,000 are expanded.
    let links = b"@\x06".repeat(699);
    let bytes = [b"[".as_slice(), &long(700), &symbols(700), &links].concat();
    assert_eq!(fault(&bytes).1, MarshalFault::TooLarge);
    // As keys, symbols are only text.
    let pair = |number| [b":\x0a".as_slice(), format!("{number:05}").as_bytes(), b"0"].concat();
    let pairs: Vec<u8> = (0..10_000).flat_map(pair).collect();
    assert!(read(&marshal(&[b"{".as_slice(), &long(10_000), &pairs].concat())).is_ok());
}

#[test]
fn depth_number_and_length_are_bounded() {
    let nested = |depth: usize| [b"[\x06".repeat(depth).as_slice(), b"0"].concat();
    assert!(read(&marshal(&nested(63))).is_ok());
    assert_eq!(fault(&nested(64)).1, MarshalFault::TooDeep);
    assert_eq!(fault(&nested(1_000_000)).1, MarshalFault::TooDeep);
    let many = |count: i32| [b"[".as_slice(), &long(count), &vec![b'0'; count as usize]].concat();
    assert!(read(&marshal(&many((1 << 18) - 1))).is_ok());
    assert_eq!(fault(&many(1 << 18)).1, MarshalFault::TooMany);
    for bytes in
        [&b"[\x04\xff\xff\xff\x7f"[..], b"\"\x04\xff\xff\xff\x7f", b"{\x07TT", b"[\xfa", b"\"\x09abc"]
    {
        assert!(matches!(fault(bytes), (3, MarshalFault::Length(_))), "{bytes:?}: {:?}", fault(bytes));
    }
    let long = vec![b'0'; INPUT_BYTES_MAX + 1];
    assert_eq!(read(&long).unwrap_err().fault, MarshalFault::TooLong(INPUT_BYTES_MAX + 1));
}

#[test]
fn what_is_not_supported_is_named_with_its_place() {
    for kind in *b"ocmMSCUe/du" {
        let (offset, fault) = fault(&[[b'[', 6, kind].as_slice(), b":\x06Ai\x06"].concat());
        assert_eq!(fault, MarshalFault::Type(kind.into()));
        assert!((4..=5).contains(&offset), "{offset}");
    }
    assert_eq!(fault(b"I[\x00\x00"), (3, MarshalFault::Variables('[')));
    assert_eq!(fault(b"00"), (3, MarshalFault::Trailing));
    assert_eq!(fault(b"f\x07ab").1, MarshalFault::Float);
    assert_eq!(fault(b":\x06\xff").1, MarshalFault::SymbolText);
    assert_eq!(fault(b"I\"\x06a\x06i\x06T").1, MarshalFault::NotSymbol);
    assert_eq!(fault(b"").1, MarshalFault::EndsEarly);
    let error = read(b"\x04\x09i\x06").unwrap_err();
    assert_eq!(error.to_string(), "byte 0: does not begin as Ruby's Marshal format, version 4.8");
}

#[test]
fn a_time_is_checked_field_by_field() {
    let time = |low: u32, high: u32| {
        let words = [low.to_le_bytes(), high.to_le_bytes()].concat();
        read(&marshal(&[b"u:\x09Time\x0d".as_slice(), &words].concat()))
    };
    let date = |year: u32, month: u32, day: u32| 1 << 31 | (year - 1900) << 14 | (month - 1) << 10 | day << 5;
    let seconds = |value: Result<Value, MarshalError>| match value {
        Ok(Value::Time(at)) => at.seconds(),
        other => panic!("{other:?}"),
    };
    assert_eq!(seconds(time(date(1970, 1, 1), 0)), 0);
    assert_eq!(seconds(time(date(2000, 2, 29) | 23, 59 << 26 | 59 << 20)), 951_868_799);
    assert_eq!(seconds(time(date(1900, 3, 1), 0)), -2_203_891_200);
    for (low, high) in [
        (date(2001, 2, 29), 0),
        (date(2001, 13, 1), 0),
        (date(2001, 1, 0), 0),
        (date(2001, 1, 1) | 24, 0),
        (date(2001, 1, 1), 60 << 26),
        (date(2001, 1, 1), 61 << 20),
        (date(2001, 1, 1), 1_000_000),
        (date(10_000, 1, 1), 0),
        (0, 0),
    ] {
        let fault = time(low, high).unwrap_err().fault;
        assert!(matches!(fault, MarshalFault::Time(_)), "{low:x} {high:x}: {fault:?}");
    }
}

#[test]
fn an_event_without_a_field_of_the_store_is_refused() {
    let all = [
        ("aggregate_id", text("a")),
        ("sequence_number", b"i\x06".to_vec()),
        ("created_at", text("2025-06-25T19:24:56Z")),
        ("class", text("X")),
    ];
    assert!(LegacyEvent::read(&marshal(&hash(&all))).is_ok());
    for (at, (name, _)) in all.iter().enumerate() {
        for other in [b"0".to_vec(), text(""), b"i\x00".to_vec()] {
            let mut changed = all.clone();
            changed[at].1 = other;
            let error = LegacyEvent::read(&marshal(&hash(&changed))).unwrap_err();
            assert!(error.to_string().contains(name), "{name}: {error}");
        }
    }
    assert_eq!(LegacyEvent::read(&marshal(b"0")), Err(ReadError::NotMapping));
}

#[test]
fn nil_and_symbols_become_what_the_world_reads() {
    let nil = || b"0".to_vec();
    let symbol =
        |name: &str| [b":", long(i32::try_from(name.len()).unwrap()).as_slice(), name.as_bytes()].concat();
    let nothing = Vec::new();
    let fields = [("name", nil()), ("generic", symbol("room")), ("container_id", text(""))];
    let created =
        json!({"name": "", "generic": "room", "container_id": null, "attributes": {}, "type": "Room"});
    assert_eq!(converted("GameObjectCreated", &fields), (created, nothing.clone()));
    let moved = [("container_id", hash(&[("__gameobject__", text("chest"))]))];
    assert_eq!(
        converted("GameObjectContainerUpdated", &moved),
        (json!({"container_id": "chest"}), nothing.clone())
    );
    let set = [("key", symbol("pose"))];
    assert_eq!(
        converted("GameObjectAttributeUpdated", &set),
        (json!({"key": "pose", "value": null}), nothing.clone())
    );
    let described = json!({"description": ""});
    assert_eq!(converted("RoomDescriptionUpdated", &[("description", nil())]), (described, nothing.clone()));
    assert_eq!(converted("PlayerAdminStatusUpdated", &[]), (json!({"admin": false}), nothing.clone()));
    let other = [("anything", symbol("x"))];
    assert_eq!(converted("Other", &other), (json!({"anything": {"__symbol__": "x"}}), nothing));
}

#[test]
fn what_is_not_a_password_hash_is_never_stored() {
    let left_out = vec![LeftOutField::PasswordHash];
    let migrated = [("password_hash", text("migrated"))];
    let created = json!({"password_hash": null, "admin": false});
    assert_eq!(converted("PlayerCreated", &migrated), (created.clone(), left_out.clone()));
    assert_eq!(converted("PlayerPasswordUpdated", &migrated), (json!({"password_hash": ""}), left_out));
    assert_eq!(converted("PlayerCreated", &[("password_hash", b"0".to_vec())]), (created, Vec::new()));
    let hash = [("password_hash", text("5ebe2294"))];
    assert_eq!(converted("PlayerPasswordUpdated", &hash).0, json!({"password_hash": "5ebe2294"}));
}

#[test]
fn the_exits_of_a_new_room_become_events() {
    let exits = hash(&[("north", text("hall")), ("up", b"0".to_vec()), ("down", text("cave"))]);
    let converted = convert(event("RoomCreated", &[("exits", exits)]), &rules("Room")).unwrap();
    assert_eq!(converted.left_out, [LeftOutField::Exit]);
    let types: Vec<&str> = converted.events.iter().map(|event| &*event.event_type).collect();
    assert_eq!(types, ["RoomCreated", "RoomExitAdded", "RoomExitAdded"]);
    assert_eq!(data(&converted.events[1]), json!({"direction": "down", "target_room_id": "cave"}));
    let [created, down, north] = converted.events.as_slice() else { panic!("{converted:?}") };
    assert!(created.id != down.id && down.id != north.id);
    assert_eq!(down.causation_id, created.id.to_string());
    assert_eq!(down.occurred_at, created.occurred_at);

    let many: Vec<(String, Vec<u8>)> = (0..500).map(|number| (format!("e{number}"), text("hall"))).collect();
    let many: Vec<(&str, Vec<u8>)> = many.iter().map(|(name, exit)| (&**name, exit.clone())).collect();
    let refused = convert(event("RoomCreated", &[("exits", hash(&many))]), &rules("Room"));
    assert_eq!(refused.unwrap_err(), ReadError::Exits { count: 500, max: 499 });
}

#[test]
fn the_type_of_an_aggregate_follows_from_its_events() {
    for (types, kind) in [
        (&["GameObjectCreated"][..], "GameObject"),
        (&["GameObjectCreated", "PlayerCreated"], "Player"),
        (&["GameObjectCreated", "RoomCreated"], "Room"),
        (&["GameObjectCreated", "RoomExitAdded"], "Room"),
        (&["Other"], "GameObject"),
    ] {
        assert_eq!(aggregate_type(types.iter().copied()), kind);
    }
}
