//! Bytes that are not HTTP/2, or not quite.
//!
//! Each attempt has its own connection, and every connection has to end.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use fastrand::Rng;
use tokio::task::JoinSet;

use crate::{
    Target,
    frames::{self, *},
    report::Tally,
};

/// Connections at a time, out of all that are allowed.
const WORKERS: u64 = 48;

type Attempt = fn(&mut Rng) -> Vec<u8>;

const ATTEMPTS: [Attempt; 20] = [
    noise,
    broken_preface,
    http1,
    random_frames,
    wrong_lengths,
    continuation_flood,
    huge_header_list,
    hpack_rubbish,
    rapid_reset,
    settings_flood,
    ping_flood,
    window_overflow,
    window_zero,
    data_on_closed,
    odd_streams,
    half_finished,
    bad_padding,
    headers_of_http1,
    push_and_goaway,
    flipped_call,
];

/// Makes a third of the requests.
pub async fn run(target: &Target) -> Tally {
    let (next, count) = (Arc::new(AtomicU64::new(0)), target.requests / 3);
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let (target, next) = (target.clone(), next.clone());
        workers.spawn(async move {
            let mut rng = Rng::with_seed(target.seed << 32 | worker);
            let mut tally = Tally::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return tally;
                }
                if number % 50_000 == 0 {
                    println!("hostile: {number} of {count} connections with rubbish");
                }
                attempt(&target, number, &mut rng, &mut tally).await;
            }
        });
    }
    let mut tally = Tally::default();
    while let Some(worker) = workers.join_next().await {
        tally.add(worker.unwrap());
    }
    tally
}

async fn attempt(target: &Target, number: u64, rng: &mut Rng, tally: &mut Tally) {
    let kind = number as usize % ATTEMPTS.len();
    let bytes = ATTEMPTS[kind](rng);
    let stream = frames::connect(target).await;
    // Some clients just disconnect.
    if rng.u8(..) < 10 {
        use tokio::io::AsyncWriteExt;
        let mut stream = stream;
        let _ = stream.write_all(&bytes).await;
        return tally.note("hung up");
    }
    match frames::send_and_end(stream, &bytes).await {
        Ok(outcome) => tally.note(outcome),
        Err(why) => tally.wrong(format!("attempt {kind} of seed {}: {why}", target.seed)),
    }
}

fn some_bytes(rng: &mut Rng, max: usize) -> Vec<u8> {
    let count = rng.usize(1..max);
    std::iter::repeat_with(|| rng.u8(..)).take(count).collect()
}

fn noise(rng: &mut Rng) -> Vec<u8> {
    some_bytes(rng, 4096)
}

fn broken_preface(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = hello(&[]);
    let at = rng.usize(..PREFACE.len());
    match rng.bool() {
        true => bytes[at] ^= 1 << rng.u8(..8),
        false => bytes.truncate(at),
    }
    bytes
}

fn http1(_: &mut Rng) -> Vec<u8> {
    b"GET /aethyr.eventstore.v1.EventStoreService/Stats HTTP/1.1\r\nHost: hostile\r\n\r\n".to_vec()
}

fn random_frames(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = hello(&[]);
    for _ in 0..rng.usize(1..20) {
        let payload = some_bytes(rng, 300);
        bytes.extend(frame(rng.u8(..12), rng.u8(..), rng.u32(..8), &payload));
    }
    bytes
}

fn wrong_lengths(rng: &mut Rng) -> Vec<u8> {
    let (kind, length) = (rng.u8(..10), rng.u32(..1 << 24));
    let payload = some_bytes(rng, 64);
    let stream = rng.u32(..4);
    let frame = match rng.bool() {
        true => frame(kind, 0, stream, &payload[..rng.usize(..payload.len().min(9))]),
        false => frame_of(length, kind, 0, stream, &payload),
    };
    [hello(&[]), frame].concat()
}

fn continuation_flood(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = [hello(&[]), frame(HEADERS, 0, 1, &call("Stats"))].concat();
    let piece = match rng.bool() {
        true => Vec::new(),
        false => header("x", "y"),
    };
    for _ in 0..1000 {
        bytes.extend(frame(CONTINUATION, 0, 1, &piece));
    }
    bytes
}

fn huge_header_list(rng: &mut Rng) -> Vec<u8> {
    let value = "v".repeat(100);
    let mut rest =
        (0..rng.u32(100..2000)).flat_map(|n| header(&format!("x-{n}"), &value)).collect::<Vec<u8>>();
    let mut bytes = [hello(&[]), frame(HEADERS, END_STREAM, 1, &call("Stats"))].concat();
    while rest.len() > 16_000 {
        let after = rest.split_off(16_000);
        bytes.extend(frame(CONTINUATION, 0, 1, &rest));
        rest = after;
    }
    bytes.extend(frame(CONTINUATION, END_HEADERS, 1, &rest));
    bytes
}

fn hpack_rubbish(rng: &mut Rng) -> Vec<u8> {
    let block = some_bytes(rng, 500);
    [hello(&[]), frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)].concat()
}

fn rapid_reset(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = hello(&[]);
    for stream in (1..2 * rng.u32(10..300)).step_by(2) {
        bytes.extend(frame(HEADERS, END_HEADERS, stream, &call("Stats")));
        bytes.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    bytes
}

fn settings_flood(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = hello(&[]);
    for _ in 0..1000 {
        let payload = [&rng.u16(..8).to_be_bytes()[..], &rng.u32(..100_000).to_be_bytes()].concat();
        bytes.extend(frame(SETTINGS, 0, 0, &payload));
    }
    bytes
}

fn ping_flood(rng: &mut Rng) -> Vec<u8> {
    let ping = frame(PING, rng.u8(..2), 0, &[1; 8]);
    [hello(&[]), ping.repeat(1000)].concat()
}

fn window_overflow(rng: &mut Rng) -> Vec<u8> {
    let stream = rng.u32(..2);
    let more = frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffffu32.to_be_bytes());
    let call = frame(HEADERS, END_HEADERS, 1, &call("Stats"));
    [hello(&[]), call, more.repeat(2)].concat()
}

fn window_zero(rng: &mut Rng) -> Vec<u8> {
    let call = frame(HEADERS, END_HEADERS, 1, &call("Stats"));
    [hello(&[]), call, frame(WINDOW_UPDATE, 0, rng.u32(..2), &[0; 4])].concat()
}

fn data_on_closed(rng: &mut Rng) -> Vec<u8> {
    let call = frame(HEADERS, END_HEADERS | END_STREAM, 1, &call("Stats"));
    let data = frame(DATA, 0, rng.u32(..6), &message(&[]));
    [hello(&[]), call, data.repeat(3)].concat()
}

fn odd_streams(rng: &mut Rng) -> Vec<u8> {
    let stream = [0, 2, 0x7fff_ffff, 0xffff_ffff][rng.usize(..4)];
    let call = frame(HEADERS, END_HEADERS, stream, &call("Stats"));
    [hello(&[]), call.clone(), frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 7]), call].concat()
}

fn half_finished(rng: &mut Rng) -> Vec<u8> {
    let call = frame(HEADERS, END_HEADERS, 1, &call("AppendEvents"));
    let data = frame(DATA, 0, 1, &message(&some_bytes(rng, 1000)));
    let mut bytes = [hello(&[]), call, data].concat();
    bytes.truncate(rng.usize(PREFACE.len()..bytes.len()));
    bytes
}

fn bad_padding(rng: &mut Rng) -> Vec<u8> {
    let kind = [DATA, HEADERS][rng.usize(..2)];
    let call = frame(HEADERS, END_HEADERS, 1, &call("Stats"));
    [hello(&[]), call, frame(kind, PADDED | END_HEADERS, [1, 3][kind as usize], &[255, 0, 0])].concat()
}

fn headers_of_http1(rng: &mut Rng) -> Vec<u8> {
    let odd = [
        header("Connection", "close"),
        header("connection", "keep-alive"),
        header("transfer-encoding", "chunked"),
        header(":path", "/again"),
        header(":status", "200"),
        header("content-length", "-1"),
        header("a\nb", "c"),
        header("x", "\0\n"),
    ];
    let block = [call("Stats"), odd[rng.usize(..odd.len())].clone()].concat();
    let block = if rng.u8(..8) == 0 { header("te", "trailers") } else { block };
    [hello(&[]), frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)].concat()
}

fn push_and_goaway(rng: &mut Rng) -> Vec<u8> {
    let call = frame(HEADERS, END_HEADERS, 1, &call("Stats"));
    let odd = match rng.bool() {
        true => frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
        false => frame(GOAWAY, 0, 0, &[0; 8]),
    };
    [hello(&[]), odd, call].concat()
}

/// Returns a complete and correct call in which one bit is wrong.
fn flipped_call(rng: &mut Rng) -> Vec<u8> {
    let call = frame(HEADERS, END_HEADERS, 1, &call("Stats"));
    let data = frame(DATA, END_STREAM, 1, &message(&[]));
    let mut bytes = [hello(&[(3, 100), (4, 65_535)]), call, data].concat();
    let at = rng.usize(PREFACE.len()..bytes.len());
    bytes[at] ^= 1 << rng.u8(..8);
    bytes
}
