//! HTTP/2 by hand: builds frames as they should be, so that attackers can write them as they should
//! not be.

use std::{collections::BTreeSet, io::ErrorKind, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{HANG, Target};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

const REASONS: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// Returns a frame whose header is correct.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame_of(payload.len() as u32, kind, flags, stream, payload)
}

/// Returns a frame that claims to have `length` bytes.
pub fn frame_of(length: u32, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Returns the preface and these settings, each with its identifier and value.
pub fn hello(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (identifier, value) in settings {
        payload.extend(identifier.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    [PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()
}

/// Returns a header without compression; `name` and `value` have at most 126 bytes.
pub fn header(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

/// Returns the header block of a call.
pub fn call(method: &str) -> Vec<u8> {
    let path = format!("/aethyr.eventstore.v1.EventStoreService/{method}");
    [
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":path", &path),
        header(":authority", "hostile"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
    ]
    .concat()
}

/// Returns a message with its prefix.
pub fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0], &(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

pub async fn connect(target: &Target) -> TcpStream {
    let stream = TcpStream::connect(target.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends everything, closes the sending side, and returns how the connection ended.
pub async fn send_and_end(mut stream: TcpStream, bytes: &[u8]) -> Result<String, String> {
    let (mut reading, mut writing) = stream.split();
    let writes = async {
        // A service that has seen enough closes the connection; then the rest cannot be sent.
        if writing.write_all(bytes).await.is_ok() {
            let _ = writing.shutdown().await;
        }
    };
    let reads = read_to_end(&mut reading);
    let both = async { tokio::join!(writes, reads).1 };
    let (answer, reset) = tokio::time::timeout(HANG, both).await.map_err(|_| "does not end".to_owned())?;
    Ok(outcome(&answer, reset))
}

/// Waits until the service closes the connection. Returns whether it did so in time.
pub async fn is_closed_within(stream: &mut TcpStream, time: Duration) -> bool {
    let (mut reading, _writing) = stream.split();
    tokio::time::timeout(time, read_to_end(&mut reading)).await.is_ok()
}

/// Returns the bytes that arrived, and whether the connection ended with a reset.
async fn read_to_end(reading: &mut (impl AsyncReadExt + Unpin)) -> (Vec<u8>, bool) {
    const KEPT_MAX: usize = 1 << 20;
    let (mut answer, mut piece) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        match reading.read(&mut piece).await {
            Ok(0) => return (answer, false),
            Ok(count) if answer.len() < KEPT_MAX => answer.extend(&piece[..count]),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return (answer, true),
        }
    }
}

/// Returns the clearest reason that the service gave.
fn outcome(mut answer: &[u8], reset: bool) -> String {
    let mut said = BTreeSet::new();
    while answer.len() >= 9 {
        let length = u32::from_be_bytes([0, answer[0], answer[1], answer[2]]) as usize;
        let (kind, rest) = (answer[3], &answer[9..]);
        let Some(payload) = rest.get(..length) else { break };
        let reason = |bytes: &[u8]| {
            let code = bytes.try_into().map(u32::from_be_bytes).unwrap_or(u32::MAX);
            REASONS.get(code as usize).copied().unwrap_or("?")
        };
        match kind {
            GOAWAY if length >= 8 => _ = said.insert((0, format!("GOAWAY {}", reason(&payload[4..8])))),
            RST_STREAM if length == 4 => _ = said.insert((1, format!("RST_STREAM {}", reason(payload)))),
            HEADERS => _ = said.insert((2, "answered".to_owned())),
            _ => {}
        }
        answer = &rest[length..];
    }
    let end = if reset { "connection reset" } else { "closed" };
    said.into_iter().next().map_or(end.to_owned(), |(_, word)| word)
}
