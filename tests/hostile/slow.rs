//! Clients that take forever to send their request: one byte at a time, and never the last one.
//!
//! The service has to close every one of them in time.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tonic::Code;

use crate::{
    HANG, Target, calls,
    frames::{self, *},
    messages,
    report::Tally,
};

/// Slow enough never to finish, and fast enough never to be silent.
const BYTE_EVERY: Duration = Duration::from_millis(100);

pub async fn run(target: &Target) -> Tally {
    let mut all = JoinSet::new();
    for number in 0..target.connections / 2 {
        // One after the other: how the kernel handles a storm of connections is not the service's
        // business.
        match number % 3 {
            0 => {
                let stream = frames::connect(target).await;
                all.spawn(async { ("in the preface", trickle(stream, Vec::new(), PREFACE.to_vec()).await) });
            }
            1 => {
                let stream = frames::connect(target).await;
                let head = frame_of(16_000, HEADERS, END_HEADERS, 1, &header("x", "y").repeat(500));
                all.spawn(async { ("in the headers", trickle(stream, hello(&[]), head).await) });
            }
            _ => {
                let sender = calls::connect(target).await;
                all.spawn(async { ("in the message", trickle_a_message(sender).await) });
            }
        }
    }
    let mut tally = Tally::default();
    while let Some(ended) = all.join_next().await {
        match ended.unwrap() {
            (place, Ok(how)) => tally.note(format!("{how} {place}")),
            (place, Err(why)) => tally.wrong(format!("{place}: {why}")),
        }
    }
    tally
}

/// Sends the start at once and the rest byte by byte, until the service has had enough.
async fn trickle(mut stream: TcpStream, start: Vec<u8>, rest: Vec<u8>) -> Result<String, String> {
    stream.write_all(&start).await.map_err(|error| format!("closed before it began: {error}"))?;
    let until_told = async {
        // The last byte is never sent.
        let mut bytes = rest[..rest.len() - 1].iter();
        let mut piece = [0; 4096];
        loop {
            tokio::select! {
                read = stream.read(&mut piece) => if matches!(read, Ok(0) | Err(_)) { return },
                () = tokio::time::sleep(BYTE_EVERY) => {
                    let Some(byte) = bytes.next() else { continue };
                    if stream.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let told = tokio::time::timeout(HANG, until_told).await;
    told.map(|()| "closed".to_owned()).map_err(|_| "it never ends".to_owned())
}

/// Sends a message byte by byte, each byte in its own frame: HTTP/2 makes progress, and only the
/// message does not end.
async fn trickle_a_message(sender: SendRequest<Bytes>) -> Result<String, String> {
    let mut sender = sender.ready().await.map_err(|error| error.to_string())?;
    let call = messages::oversized(100_000);
    let (answer, mut body) = sender.send_request(calls::http_request(&call), false).unwrap();
    let bytes = Bytes::from(call.body);
    let until_told = async {
        tokio::pin!(answer);
        for at in 0..bytes.len() - 1 {
            tokio::select! {
                answer = &mut answer => return calls::read(answer?).await,
                () = tokio::time::sleep(BYTE_EVERY) => drop(body.send_data(bytes.slice(at..=at), false)),
            }
        }
        calls::read(answer.await?).await
    };
    match tokio::time::timeout(HANG, until_told).await {
        Ok(Ok(answer)) if answer.status == Some(Code::DeadlineExceeded) => Ok(answer.name()),
        Ok(answer) => Err(format!("{answer:?}")),
        Err(_) => Err("it never ends".to_owned()),
    }
}
