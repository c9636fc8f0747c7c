//! Calls over valid HTTP/2 that are invalid as gRPC, as protobuf, or by the contract.
//!
//! Some are valid by chance, or on purpose.

use aethyr_event_store::grpc::wire::{
    AppendEventsRequest, ListAggregatesRequest, LoadEventsRequest, LoadManyEventsRequest,
    LoadSnapshotRequest, NewEvent, SaveSnapshotRequest, new_event::Data,
};
use fastrand::Rng;
use prost::Message;

use crate::{
    frames::message,
    support::events::{event, request},
};

/// The prefix of the aggregates of events that must never be stored.
pub const MALFORMED: &str = "malformed-";

const SERVICE: &str = "/aethyr.eventstore.v1.EventStoreService/";
pub const EXECUTE: &str = "/aethyr.world.v1.CommandService/ExecuteCommands";
pub const APPEND: &str = "/aethyr.eventstore.v1.EventStoreService/AppendEvents";

/// One call, as it goes onto the wire.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: &'static str,
    pub path: String,
    pub content_type: Option<&'static str>,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Whether the request ends after the body; otherwise the client resets it.
    pub whole: bool,
    /// Whether the call has to be refused; otherwise it may be valid by chance.
    pub malformed: bool,
}

impl Call {
    fn new(path: &str, body: Vec<u8>) -> Self {
        Self {
            method: "POST",
            path: path.to_owned(),
            content_type: Some("application/grpc"),
            headers: Vec::new(),
            body,
            whole: true,
            malformed: true,
        }
    }

    /// Returns a call that may be accepted.
    pub fn good(path: &str, bytes: &[u8]) -> Self {
        Self { malformed: false, ..Self::new(path, message(bytes)) }
    }

    fn append(bytes: &[u8]) -> Self {
        Self::new(APPEND, message(bytes))
    }

    fn of(method: &str, bytes: &[u8]) -> Self {
        Self::good(&format!("{SERVICE}{method}"), bytes)
    }
}

type Make = fn(&mut Rng) -> Call;

const KINDS: [Make; 17] = [
    unknown_method,
    wrong_content_type,
    wrong_http_method,
    wrong_flag,
    prefix_too_long,
    prefix_too_short,
    truncated,
    random_append,
    random_elsewhere,
    mutated_append,
    mutated_elsewhere,
    nested,
    no_utf8,
    against_the_contract,
    timeouts,
    many_messages,
    half_sent,
];

pub fn any(rng: &mut Rng) -> Call {
    KINDS[rng.usize(..KINDS.len())](rng)
}

/// Returns an append whose message is larger than the limit.
pub fn oversized(bytes: usize) -> Call {
    let data = Some(Data::Binary(vec![1; bytes].into()));
    Call::append(&request(vec![NewEvent { data, ..event(MALFORMED) }]).encode_to_vec())
}

fn sound_append(rng: &mut Rng) -> Vec<u8> {
    request(vec![event(&format!("{MALFORMED}{}", rng.u32(..)))]).encode_to_vec()
}

fn some_bytes(rng: &mut Rng, max: usize) -> Vec<u8> {
    let count = rng.usize(1..max);
    std::iter::repeat_with(|| rng.u8(..)).take(count).collect()
}

fn unknown_method(rng: &mut Rng) -> Call {
    let name: String = std::iter::repeat_with(|| rng.alphanumeric()).take(12).collect();
    let path = match rng.u8(..3) {
        0 => format!("{SERVICE}{name}"),
        1 => format!("/{name}/AppendEvents"),
        _ => format!("{APPEND}/{name}"),
    };
    Call::new(&path, message(&sound_append(rng)))
}

fn wrong_content_type(rng: &mut Rng) -> Call {
    let types = [
        None,
        Some("text/plain"),
        Some("application/json"),
        Some("application/grpcs"),
        Some("application/grpc+json"),
        Some(""),
    ];
    Call { content_type: types[rng.usize(..types.len())], ..Call::append(&sound_append(rng)) }
}

fn wrong_http_method(rng: &mut Rng) -> Call {
    let method = ["GET", "PUT", "DELETE", "OPTIONS", "BREW"][rng.usize(..5)];
    Call { method, ..Call::append(&sound_append(rng)) }
}

fn wrong_flag(rng: &mut Rng) -> Call {
    let mut call = Call::append(&sound_append(rng));
    call.body[0] = rng.u8(1..);
    if rng.bool() {
        call.headers.push(("grpc-encoding", ["gzip", "zstd", "rot13"][rng.usize(..3)].to_owned()));
    }
    call
}

fn prefix_too_long(rng: &mut Rng) -> Call {
    let mut call = Call::append(&sound_append(rng));
    let more = [1, 100, 8_000_000, u32::MAX - 10_000][rng.usize(..4)];
    let length = (call.body.len() as u32 - 5) + more;
    call.body[1..5].copy_from_slice(&length.to_be_bytes());
    call
}

fn prefix_too_short(rng: &mut Rng) -> Call {
    let mut call = Call::append(&sound_append(rng));
    let length = rng.u32(..call.body.len() as u32 - 5);
    call.body[1..5].copy_from_slice(&length.to_be_bytes());
    call
}

fn truncated(rng: &mut Rng) -> Call {
    let mut bytes = sound_append(rng);
    bytes.truncate(rng.usize(..bytes.len()));
    Call::append(&bytes)
}

fn random_append(rng: &mut Rng) -> Call {
    Call::append(&some_bytes(rng, 200))
}

fn random_elsewhere(rng: &mut Rng) -> Call {
    let method = [
        "LoadEvents",
        "LoadManyEvents",
        "SaveSnapshot",
        "LoadSnapshot",
        "ListAggregates",
        "Stats",
        "Subscribe",
    ];
    Call::of(method[rng.usize(..method.len())], &some_bytes(rng, 100))
}

pub fn mutate(rng: &mut Rng, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..bytes.len());
        match rng.u8(..4) {
            0 => bytes[at] = rng.u8(..),
            1 => bytes[at] ^= 1 << rng.u8(..8),
            2 => bytes.insert(at, rng.u8(..)),
            _ if bytes.len() > 1 => _ = bytes.remove(at),
            _ => {}
        }
    }
    bytes
}

fn mutated_append(rng: &mut Rng) -> Call {
    let events = vec![event(&format!("mutant-{}", rng.u32(..500))), event("mutant")];
    let expected_sequences = [("mutant".to_owned(), rng.u64(..50))].into();
    let bytes = AppendEventsRequest { events, expected_sequences }.encode_to_vec();
    Call::of("AppendEvents", &mutate(rng, bytes))
}

fn mutated_elsewhere(rng: &mut Rng) -> Call {
    let aggregate_id = format!("mutant-{}", rng.u32(..500));
    let (method, bytes) = match rng.u8(..5) {
        0 => {
            ("LoadEvents", LoadEventsRequest { aggregate_id, limit: 5, ..Default::default() }.encode_to_vec())
        }
        1 => ("LoadSnapshot", LoadSnapshotRequest { aggregate_id }.encode_to_vec()),
        2 => {
            let list =
                ListAggregatesRequest { page_size: 10, page_token: aggregate_id, ..Default::default() };
            ("ListAggregates", list.encode_to_vec())
        }
        3 => {
            let aggregate_ids = vec![aggregate_id, "mutant".to_owned()];
            let many = LoadManyEventsRequest { aggregate_ids, ..Default::default() };
            ("LoadManyEvents", many.encode_to_vec())
        }
        _ => {
            let saved = SaveSnapshotRequest { aggregate_id, sequence_number: 1, ..Default::default() };
            ("SaveSnapshot", saved.encode_to_vec())
        }
    };
    Call::of(method, &mutate(rng, bytes))
}

/// Nests groups, which is the only way to nest deeply: none of our messages contains itself.
fn nested(rng: &mut Rng) -> Call {
    const GROUP_BEGINS: u8 = 15 << 3 | 3;
    const GROUP_ENDS: u8 = 15 << 3 | 4;
    let depth = rng.usize(200..20_000);
    let groups = [vec![GROUP_BEGINS; depth], vec![GROUP_ENDS; depth]].concat();
    Call::append(&[sound_append(rng), groups].concat())
}

fn no_utf8(rng: &mut Rng) -> Call {
    const MARK: &str = "replace";
    let mut one = event(&format!("{MALFORMED}{}", rng.u32(..)));
    let mark = MARK.to_owned();
    match rng.u8(..9) {
        0 => one.event_id = mark,
        1 => one.aggregate_id.push_str(&mark),
        2 => one.aggregate_type = mark,
        3 => one.event_type = mark,
        4 => one.correlation_id = mark,
        5 => one.causation_id = mark,
        6 => one.data = Some(Data::Json(format!("\"{mark}\""))),
        7 => _ = one.metadata.insert(mark, String::new()),
        _ => _ = one.metadata.insert("key".to_owned(), mark),
    }
    let mut bytes = request(vec![one]).encode_to_vec();
    let at = bytes.windows(MARK.len()).position(|window| window == MARK.as_bytes()).unwrap();
    bytes[at + rng.usize(..MARK.len())] = [0x80, 0xc0, 0xff, 0xed][rng.usize(..4)];
    Call::append(&bytes)
}

fn against_the_contract(rng: &mut Rng) -> Call {
    let mut one = event(&format!("{MALFORMED}{}", rng.u32(..)));
    match rng.u8(..8) {
        0 => one.event_id = "no uuid".to_owned(),
        1 => one.aggregate_id = "x".repeat(256),
        2 => one.aggregate_id.push('\u{7}'),
        3 => one.event_type.clear(),
        4 => one.data = Some(Data::Json("{\"open\":".to_owned())),
        5 => one.data = Some(Data::Json("[".repeat(10_000))),
        6 => one.metadata = (0..65).map(|key| (key.to_string(), String::new())).collect(),
        _ => one.correlation_id = "x".repeat(300),
    }
    Call::append(&request(vec![one]).encode_to_vec())
}

fn timeouts(rng: &mut Rng) -> Call {
    let odd = ["-5S", "+5S", "0S", "99999999999999999999H", "abc", "0n", "1n", "S", "5", "5.0S", "99999999H"];
    let mut call = Call::of("Stats", &[]);
    call.headers.push(("grpc-timeout", odd[rng.usize(..odd.len())].to_owned()));
    call.headers.push(("x-filler", "f".repeat(rng.usize(..30_000))));
    call
}

/// The contract allows one message; the first one counts.
fn many_messages(rng: &mut Rng) -> Call {
    let first = message(&request(vec![event("mutant-first")]).encode_to_vec());
    let others = message(&sound_append(rng)).repeat(rng.usize(1..50));
    Call { malformed: false, ..Call::new(APPEND, [first, others].concat()) }
}

fn half_sent(rng: &mut Rng) -> Call {
    let mut call = Call::append(&sound_append(rng));
    call.body.truncate(rng.usize(..call.body.len()));
    call.whole = false;
    call
}
